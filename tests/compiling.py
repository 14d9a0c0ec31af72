"""Running a step eagerly and compiled, from the same start, and comparing all it leaves to the bit."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from weakref import ref

import numpy as np

import tapegrad as tg
from tapegrad._engine.dispatch import CaptureError
from tapegrad._engine.tree import flatten

CALLS = 8
Step = Callable[..., Any]


class Model:
    """Weights, and whatever a step wants to keep."""

    step: Step

    def __init__(self, device: str = "cpu", dtype: Any = None) -> None:
        rng = np.random.default_rng(1)
        self.device = device
        self.dtype = dtype
        self.w = self.make(rng.normal(size=(4, 3)), True)
        self.b = self.make(np.zeros(3), True)
        self.xs = rng.normal(size=(CALLS, 5, 4))
        self.ys = rng.normal(size=(CALLS, 5, 3))

    def make(self, values: Any, requires_grad: bool = False) -> tg.Tensor:
        return tg.tensor(values, device=self.device, dtype=self.dtype, requires_grad=requires_grad)

    def loss(self, x: Any, y: Any) -> tg.Tensor:
        return tg.mean(tg.square(tg.tanh(x @ self.w + self.b) - y))

    def parameters(self) -> list[tg.Tensor]:
        return [self.w, self.b]

    def zero(self) -> None:
        for p in self.parameters():
            p.grad = None

    def sgd(self, rate: Any) -> None:
        with tg.no_grad():
            for p in self.parameters():
                assert p.grad is not None
                p -= rate * p.grad

    def batch(self, i: int) -> tuple[tg.Tensor, tg.Tensor]:
        return self.make(self.xs[i]), self.make(self.ys[i])


def values(tree: Any) -> list[Any]:
    """Return all that can be seen of the Tensors in a tree: values as bytes, and whether they are recorded."""
    out: list[Any] = []
    for x in flatten(tree)[0]:
        if isinstance(x, tg.Tensor):
            host = np.asarray(x.detach().to_device("cpu"))
            out.append((host.tobytes(), host.dtype, host.shape, x.device, x.requires_grad, x.is_leaf))
        elif isinstance(x, np.ndarray):
            out.append((x.tobytes(), x.dtype, x.shape))
        else:
            out.append((type(x), x))
    return out


def agree(found: Any, expected: Any) -> bool:
    """Say whether results of `values` and `visible` are the same.

    It is to be so to the bit, except on CUDA: generated kernels add up in another order than CuPy's reductions.
    """
    if isinstance(found, list):
        return len(found) == len(expected) and all(map(agree, found, expected))
    if isinstance(found, tuple) and len(found) == 6 and found[3].startswith("cuda") and found[1].kind in "fc":
        a, b = (np.frombuffer(x[0], found[1]) for x in (found, expected))
        rounding = 64 * float(np.finfo(found[1]).eps)
        return found[1:] == expected[1:] and np.allclose(a, b, rtol=rounding, atol=rounding)
    return bool(found == expected)


def visible(model: Any) -> list[Any]:
    """Return all that can be seen of a model: its attributes and their gradients."""
    out = []
    for name, v in sorted(vars(model).items()):
        if name != "step":
            for x in flatten(v)[0]:
                if isinstance(x, tg.Tensor):
                    out += [name, values(x), None if x.grad is None else values(x.grad)]
    return out


def clean(model: Any) -> None:
    """Assert that no Tensor of a model holds a traced array."""
    for x in flatten(list(vars(model).values()))[0]:
        if isinstance(x, tg.Tensor):
            assert "Tracer" not in type(x._array).__name__
            assert x.grad is None or "Tracer" not in type(x.grad._array).__name__


def same(
    make: Callable[[], Any],
    step: Step,
    arguments: Callable[[Any, int], tuple[Any, ...]] = lambda m, i: m.batch(i),
    calls: int = CALLS,
    before: Step | None = None,
    replays: bool = True,
    hidden: bool = False,
) -> Any:
    """Assert that a compiled step leaves the same as the eager one, call by call; return the compiled function.

    step: of (model, *arguments); before: done outside to the model and the number of a call; hidden: whether
    the compiled step gets the model in a way that is not searched for Tensors.
    """
    eager, other = make(), make()
    model = ref(other) if hidden else lambda: other
    compiled = tg.compile(lambda *args: step(model(), *args))
    for i in range(calls):
        if before is not None:
            before(eager, i)
            before(other, i)
        expected = step(eager, *arguments(eager, i))
        found = compiled(*arguments(other, i))
        assert agree(values(found), values(expected)), f"call {i}: another result"
        assert agree(visible(other), visible(eager)), f"call {i}: another state"
        clean(other)
    assert (compiled._last is not None) is replays
    return compiled


def refused(
    make: Callable[[], Any],
    step: Step,
    match: str,
    arguments: Callable[[Any, int], tuple[Any, ...]] = lambda m, i: m.batch(i),
    calls: int = CALLS,
) -> None:
    """Assert that a step is right as long as it does not raise, and then raises a CaptureError that names its line."""
    eager, other = make(), make()
    compiled = tg.compile(lambda *args: step(other, *args))
    for i in range(calls):
        given = arguments(other, i)
        try:
            found = compiled(*given)
        except CaptureError as error:
            message = str(error)
            break
        assert values(found) == values(step(eager, *arguments(eager, i))), f"call {i}: another result"
        assert visible(other) == visible(eager), f"call {i}: another state"
    else:
        raise AssertionError("it was not refused")
    clean(other)
    assert re.search(match, message, re.DOTALL), message
