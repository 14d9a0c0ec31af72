"""fixed_point and root in compiled functions: loops that end when values say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from compiling import Model, same, values
from places import Place

import tapegrad as tg
from tapegrad._engine.dispatch import CaptureError

CALLS = 6


class Implicit(Model):
    """A model whose hidden state is a fixed point, and whose output is a root; and a counter of iterations."""

    def __init__(self, device: str = "cpu", dtype: Any = None) -> None:
        super().__init__(device, dtype)
        self.a = self.make([[0.3, 0.1, 0.0], [-0.2, 0.4, 0.1], [0.0, 0.2, -0.3]], True)
        self.steps = 0

    def parameters(self) -> list[tg.Tensor]:
        return [self.w, self.b, self.a]

    def hidden(self, x: Any) -> tg.Tensor:
        def f(z: Any, given: Any) -> Any:
            return tg.tanh(z @ given["a"] + given["x"])

        x = x @ self.w + self.b
        return tg.fixed_point(f, x * 0.0, {"a": self.a, "x": x})

    def loss(self, x: Any, y: Any) -> Any:
        scale = tg.mean(x * x)  # read by the root's function, which does not get it
        z = self.hidden(x)
        out = tg.root(lambda v, z: v**3 + v * (1.0 + scale) - z, z * 0.0, z)
        return tg.mean(tg.square(out - y))


def training(model: Any, x: Any, y: Any) -> Any:
    model.zero()
    loss = model.loss(x, y)
    loss.backward()
    model.sgd(0.5)
    return loss.detach()


def batch(model: Any, i: int) -> Any:
    """Return a batch for which the number of iterations is another than for others."""
    x, y = model.batch(i)
    return x * 3.0 ** (i - 3), y


def agree(xp: Place, a: Any, b: Any) -> None:
    """Assert that two results are the same, to rounding where XLA compiles programs."""
    if xp.device.startswith("jax"):
        np.testing.assert_allclose(xp.values(a), xp.values(b), rtol=1e-10, atol=1e-12)
    else:
        assert values(a) == values(b)


@pytest.mark.parametrize("hidden", [False, True])
def test_training(xp: Place, hidden: bool) -> None:
    dtype = tg.float64 if xp.double else tg.float32
    if xp.device.startswith("jax"):
        pytest.skip("rounds in its own way")
    compiled = same(lambda: Implicit(xp.device, dtype), training, batch, hidden=hidden)
    text = str(compiled.program)
    assert "loop(fixed_point: " in text
    assert "loop(root: " in text
    assert text.count("loop(") == 3  # the derivative of one is such a loop as well
    assert "loop" in compiled.program.to_dot()


@pytest.mark.parametrize("xp", ["jax"], indirect=True)
def test_training_on_jax_is_one_function(xp: Place) -> None:
    eager, model = Implicit(xp.device), Implicit(xp.device)
    compiled = tg.compile(lambda x, y: training(model, x, y))
    for i in range(CALLS):
        agree(xp, compiled(*batch(model, i)), training(eager, *batch(eager, i)))
        for p, q in zip(model.parameters(), eager.parameters(), strict=True):
            agree(xp, p, q)
            agree(xp, p.grad, q.grad)
    assert compiled._last.executor.how == "compiled by jax.jit"
    w = xp.tensor([1.0, 2.0])
    labels = tg.compile(lambda x, k: tg.fixed_point(lambda z: 0.1 * z + tg.cross_entropy(x, k), x * 0.0))
    for _ in range(3):
        labels(tg.stack([w, w]), xp.tensor([0, 1]))
    assert labels._last.executor.how == "replayed call by call, as loop looks at values"  # as a round may raise
    with pytest.raises(ValueError, match="a label is out of range"):
        labels(tg.stack([w, w]), xp.tensor([0, 7]))


@pytest.mark.parametrize("xp", ["torch"], indirect=True)
def test_torch_is_given_no_program_that_looks_at_values(xp: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAPEGRAD_TORCH_COMPILE")
    monkeypatch.setattr("tapegrad.backends._torch_compile.has_compiler", lambda: True)
    for f, what in ((newton, "loop"), (tg.grad(lambda x: tg.linalg.det(x * tg.eye(4, device=x.device))), "as_one")):
        compiled = tg.compile(f)
        for i in range(3):
            x = xp.tensor([1.0, 2.0 + i, 3.0, 4.0])
            assert values(compiled(x)) == values(f(x))
        assert compiled._last.executor.how == f"replayed call by call, as {what} looks at values"


def newton(a: Any) -> Any:
    return tg.fixed_point(lambda x, a: 0.5 * (x + a / x), tg.ones_like(a), a)


def cube_root(a: Any) -> Any:
    return tg.root(lambda x, a: x**3 - a, tg.ones_like(a), a)


def nested(a: Any) -> Any:
    def f(x: Any, a: Any) -> Any:
        return 0.5 * tg.fixed_point(lambda y, x, a: 0.5 * tg.cos(y) + 0.1 * x * tg.sin(a), x * 0.0, x, a)

    return tg.fixed_point(f, a * 0.0, a)


@pytest.mark.parametrize("f", [newton, cube_root])
@pytest.mark.parametrize("at", [2.0, [1.0, 3.0]])
def test_derivatives(xp: Place, f: Callable[..., Any], at: Any) -> None:
    functions: list[Any] = [
        f,
        tg.grad(lambda x: tg.sum(f(x))),
        tg.hessian(lambda x: tg.sum(f(x))),
        tg.jacobian(f),
        lambda x: tg.jvp(f, (x,), (x,))[1],
        lambda x: tg.vmap(lambda k: f(x) * k)(tg.stack([x, x * 2.0])),
    ]
    compiled = tg.compile(lambda x: [g(x) for g in functions])
    for i in range(CALLS):
        x = xp.tensor(at) * 4.0**i
        for a, b in zip(compiled(x), [g(x) for g in functions], strict=True):
            agree(xp, a, b)
    assert compiled._last is not None


def test_a_loop_in_a_loop(xp: Place) -> None:
    step = tg.grad(lambda x: tg.sum(nested(x)))
    compiled = tg.compile(step)
    for i in range(4):
        x = xp.tensor([1.0, 2.0 * i])
        agree(xp, compiled(x), step(x))
    assert compiled._last is not None


def test_only_what_is_read_is_computed_again() -> None:
    w = tg.asarray([0.1, 0.2])

    def f(z: Any) -> Any:
        tg.exp(z * w)  # which nobody reads
        return 0.5 * z + w

    def step(x: Any) -> Any:
        nothing = tg.fixed_point(lambda z: z * 0.5, x[:0])
        return nothing, tg.fixed_point(f, x), tg.fixed_point(lambda z: w, x), tg.fixed_point(lambda z: z, x)

    compiled = tg.compile(step)
    for n in range(4):
        x = tg.asarray([1.0, n])
        for a, b in zip(compiled(x), step(x), strict=True):
            assert values(a) == values(b)
        w *= 2.0
    assert "fixed_point: 7 operations" in str(compiled.program)
    assert "exp" not in str(compiled.program)


@pytest.mark.parametrize("how", ["debug", "profile"])
def test_debug_and_profile(how: str) -> None:
    compiled = tg.compile(lambda x: tg.exp(newton(x)), debug=how == "debug")
    for i in range(4):
        y = compiled(tg.asarray([1.0 + i, 2.0]))
    assert values(y) == values(tg.exp(newton(tg.asarray([4.0, 2.0]))))
    if how == "profile":
        assert " ms one by one" in str(compiled.program.profile(tg.asarray([4.0, 2.0])))
        row = next(r for r in str(compiled.program).splitlines() if "loop(" in r)
        assert " - " in row  # how many operations it takes is not known


# -- errors -----------------------------------------------------------------------------------------------


def test_a_loop_that_does_not_converge_leaves_state_untouched(xp: Place) -> None:
    w, b = xp.tensor([1.0, 2.0], requires_grad=True), xp.tensor([1.0, 2.0])

    def step(rate: Any) -> Any:
        w.grad = None
        new = b * 0.5  # made before the loop, and written after it
        z = tg.fixed_point(lambda z, b: rate * z + b, b * 0.0, b, max_iterations=50)
        loss = tg.sum((w - z) ** 2)
        loss.backward()
        with tg.no_grad():
            w[...] = w - 0.1 * w.grad  # type: ignore[operator]
            b[...] = new + 1.0
        return loss.detach()

    compiled = tg.compile(step)
    for i in range(4):
        compiled(xp.tensor(0.1 * i))
    assert compiled._last is not None
    for _ in range(2):
        before = values([w, b, w.grad])
        with pytest.raises(RuntimeError, match="the last of 50 iterations still changed an element by") as found:
            compiled(xp.tensor(2.0))
        assert values([w, b, w.grad]) == before
        with pytest.raises(RuntimeError) as expected:
            tg.fixed_point(lambda z, b: 2.0 * z + b, b * 0.0, b, max_iterations=50)
        assert str(found.value) == str(expected.value)
        compiled(xp.tensor(0.2))
        assert values([w, b]) != before[:2]


def test_eager_calls_raise_as_they_are() -> None:
    compiled = tg.compile(lambda x: tg.fixed_point(lambda z: z * x, 1.0, max_iterations=9))
    for _ in range(3):
        with pytest.raises(RuntimeError, match="last of 9 iterations"):
            compiled(tg.asarray(2.0))
    wrong = tg.compile(lambda x: tg.fixed_point(lambda z: tg.ones(2), x))
    for _ in range(3):
        with pytest.raises(ValueError, match=r"f gives float64 of shape \(2,\)"):
            wrong(tg.asarray(1.0))


def test_mapped_loops_raise_as_they_are() -> None:
    """A call raises, captured or replayed, if one of the examples does not converge; else it goes on."""
    solve = lambda a: tg.fixed_point(lambda x, a: a * x + 1.0, tg.zeros_like(a), a, max_iterations=60)  # noqa: E731
    compiled = tg.compile(lambda x: tg.vmap(solve)(x))
    for k in range(6):
        np.testing.assert_allclose(np.asarray(compiled(tg.asarray([0.1, 0.5]))), [1 / 0.9, 2.0])
        if k > 2:
            with pytest.raises(RuntimeError, match="fixed_point: the last of 60 iterations still changed"):
                compiled(tg.asarray([0.1, 1.5]))


def caught(x: Any) -> Any:
    try:
        return tg.fixed_point(lambda z: 2.0 * z, x, max_iterations=3)
    except RuntimeError:
        return x


def counted() -> Any:
    count = tg.asarray(0.0)

    def step(x: Any) -> Any:
        def f(z: Any) -> Any:
            count[...] = count + 1.0
            return 0.5 * z + x

        return tg.fixed_point(f, x)

    return step


def kept(x: Any) -> Any:
    last: list[Any] = []

    def f(z: Any) -> Any:
        last[:] = [0.5 * z + x]
        return last[0]

    tg.fixed_point(f, x)
    return last[0] * 2.0


def with_momentum(x: Any) -> Any:
    history = [x]

    def f(z: Any) -> Any:
        history.append(0.5 * z + 0.01 * history[-1])
        return history[-1] * 1.0

    return tg.fixed_point(f, x)


def annealed(x: Any) -> Any:
    rates = [0.5]

    def f(z: Any) -> Any:
        rates.append(rates[-1] * 0.9)
        return rates[-1] * z + x

    return tg.fixed_point(f, x)


def longer(x: Any) -> Any:
    rounds = [0]

    def f(z: Any) -> Any:
        rounds[0] += 1
        return (0.5 * z if rounds[0] < 4 else 0.25 * z + 0.0) + x

    return tg.fixed_point(f, x)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (caught, r"fixed_point at test_compile_loop.py:\d+ raised an error, and the function went on"),
        (counted(), r"a result of an iteration .* at test_compile_loop.py:\d+ is used after it"),
        (kept, r"a result of an iteration .* at test_compile_loop.py:\d+ is used after it"),
        (with_momentum, r"does not do the same in each iteration.*: multiply .*came from elsewhere"),
        (annealed, r"fixed_point at test_compile_loop.py:\d+: its function .*: multiply .*the number 0.405 became"),
        (longer, r"does not do the same in each iteration.*: multiply at .*the number 0.5 became 0.25"),
    ],
)
def test_what_replay_would_not_do_is_refused(step: Callable[..., Any], message: str) -> None:
    compiled, x = tg.compile(step), tg.asarray([1.0, 2.0])
    assert values(compiled(x)) == values(step(x))  # the first call is right whatever it does
    with pytest.raises(CaptureError, match=message):
        compiled(x)


def test_another_tolerance_is_another_program() -> None:
    tolerances = iter([1e-3, 1e-4, 1e-5])
    compiled = tg.compile(lambda x: tg.fixed_point(lambda z: 0.5 * z + x, x, tolerance=next(tolerances)))
    compiled(tg.asarray(1.0))
    compiled(tg.asarray(1.0))
    with pytest.raises(CaptureError, match=r"the number 0.0001 became 1e-05"):
        compiled(tg.asarray(1.0))
