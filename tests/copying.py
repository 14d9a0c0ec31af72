"""Functions and classes that tests copy, pickle and send to other processes: these can be imported by their names."""

from __future__ import annotations

from typing import Any

import numpy as np

import tapegrad as tg


class Model:
    """A step, its gradient and others, all of its own parameters."""

    def __init__(self, device: str = "cpu") -> None:
        self.w = tg.tensor(np.asarray([1.0, 2.0], np.float32), device=device, requires_grad=True)
        self.step = tg.compile(self._step)
        self.value_and_grad = tg.value_and_grad(self.loss)
        self.grad = tg.compile(tg.grad(self.loss), threads=1)
        self.jacobian = tg.jacobian(self.loss, mode="forward")
        self.hessian = tg.hessian(self.loss)
        self.mapped = tg.vmap(self.loss, in_axes=0)
        self.saving = tg.checkpoint(self.loss)
        self.own = tg.custom_vjp(self.rounded)
        self.own.defvjp(self.forward, self.backward)
        self.pushed = tg.custom_jvp(self.rounded)
        self.pushed.defjvp(self.push)

    def loss(self, x: Any) -> Any:
        return tg.sum(self.w.detach() * x * x)

    def rounded(self, x: Any) -> Any:
        return tg.sum(tg.round(x * self.w.detach()))

    def forward(self, x: Any) -> Any:
        return self.rounded(x), ()

    def backward(self, residuals: Any, t: Any) -> Any:
        return (t * self.w.detach(),)

    def push(self, primals: Any, tangents: Any) -> Any:
        return self.rounded(*primals), tg.sum(self.w.detach() * tangents[0])

    def _step(self, x: Any) -> Any:
        self.w.grad = None
        loss = tg.sum(self.w * x)
        loss.backward()
        with tg.no_grad():
            self.w -= 0.5 * self.w.grad  # type: ignore[operator]
        return loss

    def results(self, x: Any) -> list[Any]:
        """Return the results of all functions."""
        found = [self.grad(x), *self.value_and_grad(x), self.jacobian(x), self.hessian(x), self.mapped(x)]
        found += [self.saving(x), tg.grad(self.saving)(x), tg.grad(self.own)(x), tg.grad(self.pushed)(x)]
        return [np.asarray(y.to_device("cpu")).tolist() for y in found]


class Local(Model):
    """The same with functions that are made inside."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        w = self.w

        @tg.compile
        def step(x: Any, scale: Any = w) -> Any:
            assert scale is w
            return self._step(x).detach() + 0.0 * tg.sum(scale.detach())

        self.step = step
        self.value_and_grad = tg.value_and_grad(lambda x: self.loss(x))
        self.mapped = tg.vmap(lambda x: tg.sum(w.detach() * x * x))
        self.own = tg.custom_vjp(lambda x: self.rounded(x))
        self.own.defvjp(lambda x: self.forward(x), lambda r, t: self.backward(r, t))


@tg.compile
def twice(x: Any) -> Any:
    """A function that is known by its name."""
    return x * 2.0


def square(x: Any) -> Any:
    """A plain function."""
    return tg.sum(x * x)


def with_auxiliary(f: Any, x: Any) -> Any:
    """A function with a result beside."""
    return f(x), "beside"


@tg.checkpoint
def saving(x: Any) -> Any:
    """A function that is known by its name."""
    return tg.sum(x * x)


@tg.custom_vjp
def straight(x: Any) -> Any:
    """A function with a rule of its own."""
    return tg.sum(tg.round(x))


straight.defvjp(lambda x: (straight.function(x), x), lambda x, t: (t * tg.ones_like(x),))
slope = tg.grad(square)
fast = tg.compile(square, threads=1, reassociate=True)
fast_slope = tg.compile(tg.grad(square))


class Methods:
    """Decorated methods, of which the class has one for all objects."""

    def __init__(self, w: float) -> None:
        self.w = tg.asarray(w)

    @tg.compile
    def step(self, x: Any) -> Any:
        return self.w * x

    @tg.checkpoint
    def layer(self, x: Any) -> Any:
        return self.w * x


def work(given: Any) -> list[float]:
    """Call a function that another process has sent, and send the function back."""
    f, x = given
    return [f(x).item() for _ in range(4)]
