"""Contents of a compiled function that may stand there, and uses of its arguments."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from compiling import CALLS, Model, same, values, visible
from test_compile import plain

import tapegrad as tg
from tapegrad._engine.tree import flatten


def cube(v: tg.Tensor) -> tg.Tensor:
    return tg.sum(v * v * v)


@tg.custom_vjp
def tripled(x: tg.Tensor) -> tg.Tensor:
    return x * 2.0


tripled.defvjp(lambda x: (x * 2.0, x), lambda x, t: (t * 3.0 * x,))


@tg.custom_jvp
def halved(x: tg.Tensor) -> tg.Tensor:
    return tg.sin(x)


halved.defjvp(lambda primals, tangents: (tg.sin(primals[0]), tangents[0] * 0.5 * primals[0]))


def back(y: tg.Tensor, *rest: Any) -> Any:
    y.backward()
    return rest


INSIDE: dict[str, Callable[[Any, Any], Any]] = {
    "value_and_grad": lambda m, x: tg.value_and_grad(cube)(m.b),
    "grad of grad": lambda m, x: tg.grad(lambda v: tg.sum(tg.grad(cube)(v) * m.b.detach()))(m.b),
    "jvp": lambda m, x: tg.jvp(lambda v: tg.exp(v) @ m.w, (x,), (x * 2.0,)),
    "vjp": lambda m, x: tg.vjp(lambda v: tg.tanh(v @ m.w), x)[1](m.y),
    "hvp": lambda m, x: tg.hvp(cube, (m.b,), (m.b * 2.0,)),
    "jacobian": lambda m, x: tg.jacobian(lambda v: tg.sin(v) * m.b)(m.b),
    "hessian": lambda m, x: tg.hessian(cube)(m.b),
    "linearize": lambda m, x: tg.linearize(tg.sin, m.b)[1](m.b),
    "stop_gradient": lambda m, x: tg.grad(lambda v: tg.sum(v * tg.stop_gradient(m.b)))(m.b),
    "create_graph": lambda m, x: second(m),
    "checkpoint": lambda m, x: tg.sum(tg.checkpoint(lambda v: tg.tanh(v @ m.w))(x)).backward(),
    "checkpoint of state": lambda m, x: tg.sum(tg.checkpoint(tg.tanh)(m.w)).backward(),
    "custom_vjp": lambda m, x: tg.sum(tripled(m.w) * tripled(m.w)).backward(),
    "custom_jvp": lambda m, x: back(tg.sum(halved(m.w)), tg.jvp(halved, (m.b,), (m.b,))),
    "no_grad": lambda m, x: no_grad(m, x),
    "detach": lambda m, x: m.w.detach() * 2.0 + tg.sum(x),
    "indices": lambda m, x: m.w.detach()[tg.asarray([0, -1]), 1:],
    "an index from outside": lambda m, x: tg.take(m.w, m.i, axis=0).detach() + m.w[m.i, :].detach(),
    "hook": lambda m, x: hooked(m, x),
    "retain_grad": lambda m, x: retained(m, x),
    "sort": lambda m, x: (tg.sort(x), tg.argsort(m.w), tg.searchsorted(tg.arange(5.0), tg.sum(x))),
    "where": lambda m, x: tg.where(m.w > 0, m.w, 0.0).detach(),
    "eigh": lambda m, x: tg.linalg.eigh(x.T @ x),
    "unstack": lambda m, x: tg.unstack(x, axis=1),
    "fft": lambda m, x: tg.fft.rfft(x),
    "special": lambda m, x: tg.special.erf(m.b).detach(),
    "print": lambda m, x: print(x, m.w),
    "accumulated": lambda m, x: (back(tg.sum(m.b * x[0, 0])), m.b.grad),
    "deepcopy": lambda m, x: copy.deepcopy(x) * 2.0,
    "constants": lambda m, x: tg.asarray([1.0, 2.0, 3.0, 4.0]) * tg.sum(x) + np.asarray([1.0, 0.0, 0.0, 0.0]),
    "an in-place result": lambda m, x: in_place(m, x),
    "shape": lambda m, x: x / x.shape[0] + len(x) + x.ndim,
    "numpy functions": lambda m, x: np.sum(x) + np.sin(m.b.detach()),
    "format": lambda m, x: (f"{x}"[:6], tg.sum(x)),
}


def second(m: Any) -> tg.Tensor:
    (g,) = (tg.grad(lambda v: tg.sum(tg.sin(v)))(m.b),)
    tg.sum(g * m.b).backward()
    return g  # type: ignore[no-any-return]


def no_grad(m: Any, x: Any) -> tg.Tensor:
    with tg.no_grad():
        return m.w * 2.0  # type: ignore[no-any-return]


def hooked(m: Any, x: Any) -> None:
    y = tg.tanh(m.w)
    y.register_hook(lambda g: g * m.w.detach())
    tg.sum(y).backward()


def retained(m: Any, x: Any) -> tg.Tensor:
    y = tg.tanh(m.w)
    y.retain_grad()
    tg.sum(y * y).backward()
    assert y.grad is not None
    return y.grad


def in_place(m: Any, x: Any) -> tg.Tensor:
    y = tg.zeros((5, 4))
    y[1:, 0] = tg.sum(m.w) * x[1:, 0]
    y *= 2.0
    y[tg.asarray([0, 0, 2]), ...] = x[:3]
    tg.sum(y * y).backward()
    return y.detach()


def with_indices() -> Model:
    m: Any = Model()
    m.i = tg.asarray([0, 2])
    m.y = m.make(m.ys[0])
    return m  # type: ignore[no-any-return]


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("name", INSIDE)
def test_inside(name: str, hidden: bool) -> None:

    def step(m: Any, x: Any, y: Any) -> Any:
        if name != "accumulated":
            m.zero()
        leaves, rebuild = flatten(INSIDE[name](m, x))
        return rebuild([v.detach() if isinstance(v, tg.Tensor) else v for v in leaves])

    same(with_indices, step, hidden=hidden)


def loss_of(m: Any, x: Any) -> tg.Tensor:
    loss = tg.sum(tg.square(x @ m.w))
    loss.backward()
    return loss


def test_a_function_compiled_inside_is_a_part() -> None:
    inner: dict[int, Any] = {}

    def step(m: Any, x: Any, y: Any) -> Any:
        f = inner.setdefault(id(m), tg.compile(lambda v: loss_of(m, v)))
        m.zero()
        loss = f(x)
        m.b.grad = tg.zeros(3)
        m.sgd(0.01)
        return loss, loss.detach()

    same(Model, step)


def test_a_compiled_function_inside_that_has_a_program() -> None:
    m = Model()
    inner = tg.compile(lambda v: (v @ m.w).detach() * 2.0)
    for i in range(5):
        inner(m.batch(i)[0])
    outer = tg.compile(lambda v: inner(v) + 1.0)
    for i in range(6):
        x = m.batch(i)[0]
        assert values(outer(x)) == values((x @ m.w).detach() * 2.0 + 1.0)


class Counter:
    def __init__(self, start: float) -> None:
        self.total = tg.asarray(start)

    @tg.compile
    def add(self, x: tg.Tensor, times: int = 1) -> tg.Tensor:
        """Add."""
        self.total += x * times
        return self.total * 1.0


def test_methods() -> None:
    a, b = Counter(0.0), Counter(100.0)
    for i in range(6):
        assert a.add(tg.asarray(1.0)).item() == i + 1
        assert b.add(tg.asarray(1.0), times=2).item() == 100 + 2 * (i + 1)
    assert Counter.add.__doc__ == "Add."


@dataclass
class Pair:
    first: tg.Tensor
    second: Any


class Named(NamedTuple):
    first: tg.Tensor
    second: Any


@pytest.mark.parametrize("kind", [Pair, Named])
def test_containers(kind: Any) -> None:
    f = tg.compile(lambda p, q: kind(p.first + q["x"][0] * p.second, [p.second, None, (q["x"][1],)]))
    for i in range(6):
        x, y = tg.asarray(float(i)), tg.asarray([1.0, i])
        out = f(kind(x, 2.0 if i < 5 else -0.0), {"x": [x, y]})
        assert out.first.item() == i + i * (2.0 if i < 5 else -0.0)
        assert out.second[2][0] is y
        assert out.second[1] is None


def test_dataclasses_may_have_compiled_methods() -> None:
    made = []

    @dataclass
    class Network:
        w: tg.Tensor
        names: tuple[str, ...] = ("a",)

        def __post_init__(self) -> None:
            made.append(self)

        @tg.compile
        def step(self, x: tg.Tensor) -> tg.Tensor:
            self.w += x
            return self.w * 1.0

    network = Network(tg.asarray(0.0))
    for i in range(6):
        assert network.step(tg.asarray(1.0)).item() == i + 1
    assert made == [network]


def test_hooks_that_come_and_go() -> None:
    eager, m = Model(), Model()
    f = tg.compile(lambda x, y: plain(m, x, y))
    handles: list[Any] = []
    for i in range(20):
        if i in (5, 11):
            handles = [v.w.register_hook(lambda g: g * 0.5) for v in (m, eager)]
        if i == 8:
            for handle in handles:
                handle.remove()
        f(*m.batch(i % CALLS))
        plain(eager, *eager.batch(i % CALLS))
        assert visible(m) == visible(eager), i


def test_static_arguments_are_told_apart() -> None:
    f = tg.compile(lambda x, s: x * s if isinstance(s, float) else x[s])
    x = tg.asarray([1.0, 2.0, 3.0])
    for _ in range(5):
        assert not np.signbit(np.asarray(f(x, 0.0))).any()
        assert np.signbit(np.asarray(f(x, -0.0))).all()
        assert np.isnan(np.asarray(f(x, float("nan")))).all()
        assert f(x, slice(0, 2)).tolist() == [1.0, 2.0]
        assert f(x, 1).item() == 2.0
    assert len(f._keys) == 5


def test_objects_that_are_equal_are_not_the_same() -> None:
    class Layer:
        def __init__(self, w: float) -> None:
            self.w = tg.asarray(w)

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 1

    f = tg.compile(lambda layer, x: layer.w * x)
    layers = [Layer(1.0), Layer(2.0)]
    for _ in range(5):
        for n, layer in enumerate(layers):
            assert f(layer, tg.asarray(3.0)).item() == 3.0 * (n + 1)


def test_raw_arguments() -> None:
    state = tg.zeros(2)
    buffer = np.zeros(2)

    @tg.compile
    def step(x: Any) -> Any:
        state[...] = tg.asarray(x)
        return state * x + x[::-1] * state, x

    for i in range(6):
        buffer[:] = [i, 2 * i]
        y, z = step(buffer)
        assert y.tolist() == [i * i + 2 * i * i, 4 * i * i + 2 * i * i]
        assert z is buffer
        buffer[:] = -1.0
        assert state.tolist() == [i, 2 * i]


def test_labels_out_of_range_lose_nothing() -> None:
    m = Model()

    @tg.compile
    def step(x: tg.Tensor, labels: tg.Tensor) -> tg.Tensor:
        m.zero()
        loss = tg.cross_entropy(x @ m.w + m.b, labels)
        loss.backward()
        m.sgd(0.1)
        return loss

    labels = tg.asarray([0, 1, 2, 0, 1])
    for i in range(5):
        x = m.batch(i)[0]
        step(x, tg.asarray([0, 1, 2, 0, 1]))
    before = visible(m)
    for wrong in (3, -1):
        bad = tg.asarray([0, 1, 2, 0, wrong])
        with pytest.raises(ValueError, match="a label is out of range: with 3 classes"):
            step(x, bad)
        assert visible(m) == before
    step(x, labels)
    assert visible(m) != before


def test_arguments_of_an_outer_tape_are_differentiated() -> None:
    f = tg.compile(lambda x: tg.sum(tg.sin(x)))
    for i in range(6):
        f(tg.asarray([1.0, 2.0]))
        x = tg.tensor([1.0, float(i)], requires_grad=True)
        f(x * 2.0).backward()
        np.testing.assert_array_equal(np.asarray(x.grad), 2 * np.cos(2 * np.asarray(x.detach())))
        g = tg.grad(f)(np.asarray([0.5, float(i)]))
        np.testing.assert_array_equal(g, np.cos([0.5, float(i)]))


def test_an_open_tape_sees_all_operations() -> None:
    f = tg.compile(lambda x: x * 2.0 + 1.0)
    for _ in range(5):
        f(tg.asarray(1.0))
    with tg.Tape() as tape:
        f(tg.asarray(1.0))
    assert [e.operation.name for e in tape] == ["multiply", "add"]


def test_print_is_not_replayed(capsys: pytest.CaptureFixture[str]) -> None:
    f = tg.compile(lambda x: (print("x is", x), x * 2.0)[1])
    for i in range(6):
        f(tg.asarray(float(i)))
    assert capsys.readouterr().out.splitlines() == ["x is Tensor(0.)", "x is Tensor(1.)"]


def training(m: Model, rate: float) -> Any:
    """Return a compiled training step."""

    @tg.compile
    def step(x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
        m.zero()
        loss = m.loss(x, y)
        loss.backward()
        if rate:
            m.sgd(rate)
        return loss

    return step


def test_memory_of_gradients_that_nobody_else_sees_is_used_again() -> None:
    m = Model()
    step = training(m, 0.1)
    seen, kept, raw = set(), [], []
    for i in range(CALLS):
        step(*m.batch(i))
        assert m.w.grad is not None
        seen.add(id(m.w.grad._array))
    assert len(seen) <= 4  # of eager calls, and of all replayed ones
    for i in range(CALLS):
        step(*m.batch(i))
        kept.append((m.w.grad, np.array(m.w.grad)))
    for i in range(CALLS):
        step(*m.batch(i))
        assert m.w.grad is not None
        raw.append((m.w.grad._array[1:], np.array(m.w.grad)[1:]))
    for g, was in (*kept, *raw):
        np.testing.assert_array_equal(np.asarray(g), was)


def test_an_interrupted_call_leaves_no_half_written_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    from tapegrad.backends._numpy.executor import executor

    m = Model()
    step = training(m, 0.0)
    for i in range(5):
        step(*m.batch(i))
    kept = m.b.grad

    def interrupted(code: Any) -> None:
        for function, args in code[: len(code) // 2]:
            function(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(executor, "run_code", interrupted)
        with pytest.raises(KeyboardInterrupt):
            step(*m.batch(6))
    assert m.w.grad is None
    assert m.b.grad is kept  # somebody else holds that one
    m.zero()
    for i in (6, 6):  # as eager calls go on
        assert step(*m.batch(i)).item() == step.function(*m.batch(i)).item()
