"""The first call: two eager ones suffice where its Tensors are found, and whatever it does, it is an eager call."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from compiling import CALLS, Model, clean, same, values, visible
from test_compile import plain
from test_compile_arguments import _device as at

import tapegrad as tg
from tapegrad._compile.capture.state_discovery import reachable
from tapegrad.backends import Backend

total = tg.zeros(())


class Optimiser:
    """An optimiser with moments, a step count and a rate, all Tensors."""

    __slots__ = ("groups", "rate", "steps")

    def __init__(self, parameters: list[tg.Tensor]) -> None:
        self.groups = [{"p": p, "m": tg.zeros_like(p)} for p in parameters]
        self.rate, self.steps = tg.asarray(0.1), tg.asarray(0.0)

    def step(self) -> None:
        with tg.no_grad():
            self.steps += 1
            for group in self.groups:
                p, m = group["p"], group["m"]
                assert p.grad is not None
                m[...] = 0.9 * m + 0.1 * p.grad
                p -= self.rate * m / (1 - 0.9**self.steps)
                p.grad = None


def trained() -> Any:
    m: Any = Model()
    m.optimiser = Optimiser(m.parameters())
    return m


def with_optimiser(m: Any, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
    loss = m.loss(x, y)
    loss.backward()
    m.optimiser.step()
    return loss  # type: ignore[no-any-return]


def test_a_training_step_takes_two_eager_calls() -> None:
    calls = []

    def step(m: Any, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
        calls.append(m)
        return with_optimiser(m, x, y)

    same(trained, step)
    assert len(calls) == CALLS + 2


class Slots:
    __slots__ = ("__hidden", "never")

    def __init__(self, x: tg.Tensor) -> None:
        self.__hidden = x

    def add(self, x: tg.Tensor) -> None:
        self.__hidden += x


class Called:
    def __init__(self, x: tg.Tensor) -> None:
        self.parts = {"all": [(x,)]}

    def __call__(self, x: tg.Tensor) -> None:
        self.parts["all"][0][0][...] += x


def of_globals(s: tg.Tensor) -> Callable[[Any], None]:
    def f(x: Any) -> None:
        helper(x)

    def helper(x: Any) -> None:
        add_to_total(x)

    return f


def add_to_total(x: tg.Tensor) -> None:
    total[...] += x


def of_a_module(s: tg.Tensor) -> Callable[[Any], None]:
    def f(x: Any) -> None:
        sys.kept_by_a_test += x  # type: ignore[attr-defined]

    sys.kept_by_a_test = s  # type: ignore[attr-defined]
    return f


def of_a_closure(s: tg.Tensor) -> Callable[[Any], None]:
    def f(x: Any) -> None:
        def inner() -> None:
            add(s, x)

        inner()

    return f


def add(s: tg.Tensor, x: tg.Tensor) -> None:
    s[...] = s + x


def of_defaults(s: tg.Tensor) -> Callable[[Any], None]:
    def f(x: Any, a: Any = s, *, b: Any = (s,)) -> None:
        a += x

    return f


def of_a_wrapper(s: tg.Tensor) -> Callable[[Any], None]:
    def f(x: Any) -> None:
        add(s, x)

    return wraps(f)(partial(lambda g, x: g(x), f))


def of_a_set(s: tg.Tensor) -> Callable[[Any], None]:
    some = {s}

    def f(x: Any) -> None:
        for v in some:
            add(v, x)

    return f


def of_a_namespace(s: tg.Tensor) -> Callable[[Any], None]:
    space = SimpleNamespace(s=s)
    return lambda x: add(space.s, x)


class Named:
    def __call__(self, x: tg.Tensor) -> None:
        add_to_total(x)


FOUND: dict[str, Callable[[tg.Tensor], Callable[[Any], None]]] = {
    "a closure": of_a_closure,
    "a global": of_globals,
    "a global that a method names": lambda s: partial(lambda o, x: o(x), Named()),
    "an attribute of a module": of_a_module,
    "defaults": of_defaults,
    "a method": lambda s: Slots(s).add,
    "an object": Called,
    "a partial": lambda s: partial(add, s),
    "keywords of a partial": lambda s: partial(lambda x, to: add(to, x), to=s),
    "a wrapper": of_a_wrapper,
    "a set": of_a_set,
    "a namespace": of_a_namespace,
    "a compiled function": lambda s: tg.compile(partial(add, s)),
    "a function of a transform": lambda s: lambda x: add(s, tg.value_and_grad(lambda v: tg.sum(v * s * 0.0 + v))(x)[0]),
}


def eager_calls(f: Callable[[Any], Any], s: tg.Tensor) -> int:
    """Call a function that adds its argument to a Tensor; return how many calls did not replay."""
    calls = 0

    def counted(x: tg.Tensor) -> Any:
        nonlocal calls
        calls += 1
        return f(x)

    compiled = tg.compile(counted)
    expected = s.item()
    for i in range(6):
        compiled(tg.asarray(float(i)))
        expected += i
        assert s.item() == expected
        assert type(s._array) is np.ndarray or np.isscalar(s._array)
    return calls


@pytest.mark.parametrize("name", FOUND)
def test_tensors_that_are_found(name: str) -> None:
    s = total if name.startswith("a global") else tg.asarray(1.0)
    assert eager_calls(FOUND[name](s), s) == 2


class Hiding:
    held: Any = None

    def __init__(self, x: tg.Tensor) -> None:
        type(self).held = x

    def __getattr__(self, name: str) -> Any:
        if name == "computed":
            return type(self).held
        raise AttributeError(name)


def generated(s: tg.Tensor) -> Iterator[tg.Tensor]:
    while True:
        yield s


def too_deep(s: tg.Tensor) -> Callable[[Any], None]:
    many: list[Any] = [object() for _ in range(20_000)]
    return lambda x: add([*many, s][-1], x)


HIDDEN: dict[str, Callable[[tg.Tensor], Callable[[Any], None]]] = {
    "a class attribute": lambda s: partial(lambda o, x: add(o.held, x), Hiding(s)),
    "__getattr__": lambda s: partial(lambda o, x: add(o.computed, x), Hiding(s)),
    "a weak reference": lambda s: partial(lambda r, x: add(r(), x), weakref.ref(s)),
    "a generator": lambda s: partial(lambda g, x: add(next(g), x), generated(s)),
    "a thread's own": lambda s: in_a_thread_of_its_own(s),
}


def in_a_thread_of_its_own(s: tg.Tensor) -> Callable[[Any], None]:
    local = threading.local()
    local.s = s
    return lambda x: add(local.s, x)


@pytest.mark.parametrize("name", HIDDEN)
def test_tensors_that_are_not_found_take_a_call_more(name: str) -> None:
    s = tg.asarray(1.0)
    assert eager_calls(HIDDEN[name](s), s) == 3


def test_a_search_has_an_end() -> None:
    many: list[Any] = [object() for _ in range(20_000)]
    s = tg.asarray(1.0)
    assert reachable([s, many])[0] == [s]
    assert reachable([[*many, s]])[0] == []
    ring: list[Any] = [s]
    ring.append(ring)
    assert reachable([ring])[0] == [s]


@pytest.mark.parametrize("device", ["cpu", "torch:cpu", "jax:cpu", "strict:device1"])
@pytest.mark.parametrize("hidden", ["the model", "the weights", "the bias"])
def test_known_and_unknown_tensors_meet(device: str, hidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if type(tg.backends.of_device(at(device))[0]).executor is not Backend.executor:
        # Call by call: fusion by XLA changes the last digit.
        monkeypatch.setattr(type(tg.backends.of_device(device)[0]), "executor", Backend.executor)

    def make() -> Any:
        m: Any = Model(device, "float32")
        m.s, m.i = m.make(np.ones((4, 3))), tg.asarray([0, 2], device=device)
        return m

    def step(m: Any, x: tg.Tensor, y: tg.Tensor) -> Any:
        m.zero()
        w, s = m.w, m.s
        y = tg.concat([y, s[:1, :]]) + tg.stack([m.b, m.b])[0]
        y = tg.where(y > m.b, y, 2.0 * s[0, ...]) * tg.take(s, m.i, axis=0)[1]
        z = tg.exp(tg.sin(w) * 0.1) * w / s - tg.square(s) @ tg.linalg.diagonal(w[:3, :])[:, None]
        loss = tg.sum(tg.tanh(x @ z)) + tg.sum(y * tg.max(m.b)) + tg.sum(w[m.i, :] * m.b)
        loss.backward()
        with tg.no_grad():
            s[m.i, :] = tg.cos(m.w[m.i, :]) + 2.0
            s[0, 0] = tg.cos(m.b[0]) + 2.0
        m.sgd(0.01)
        return loss, s * 1.0

    given = {"the model": ["w", "b", "s", "i"], "the weights": ["w", "s"], "the bias": ["b"]}[hidden]
    eager, other = make(), make()
    lost = weakref.ref(other)
    found = [v for name, v in vars(other).items() if name not in given]
    compiled = tg.compile(lambda x, y: step(lost() if found else None, x, y))
    for i in range(5):
        assert values(compiled(*other.batch(i))) == values(step(eager, *eager.batch(i))), i
        assert visible(other) == visible(eager), i
        clean(other)


LOOKS: dict[str, Callable[[tg.Tensor], Any]] = {
    "if": lambda x: 1.0 if x[0] > 0 else 2.0,
    "float": lambda x: float(x[0]),
    "int": lambda x: int(x[1]),
    "complex": lambda x: complex(x[0]).real,
    "item": lambda x: x[0].item(),
    "tolist": lambda x: sum(x.tolist()),
    "array": lambda x: float(x.array[0]),
    "np.asarray": lambda x: float(np.asarray(x)[1]),
    "dlpack": lambda x: float(np.from_dlpack(x)[1]),
    "dlpack without a copy": lambda x: float(np.from_dlpack(x, copy=False)[1]),
    "dlpack to PyTorch": lambda x: float(pytest.importorskip("torch").from_dlpack(x)[1]),
    "range": lambda x: len(range(tg.astype(x, tg.int64)[1])),
    "index": lambda x: x[tg.argmax(x)].item(),
    "nonzero": lambda x: tg.nonzero(x)[0].shape[0],
    "unique": lambda x: tg.unique_counts(x).values.shape[0],
    "mask": lambda x: tg.sum(x[x > 1.0]).item(),
    "repeat": lambda x: tg.sum(tg.repeat(x, tg.astype(x, tg.int64))).item(),
    "NumPy": lambda x: float(np.median(np.asarray(x.detach())) + np.sum(x[1:])),
    "a numpy function": lambda x: float(np.percentile(x, 50)),
}


@pytest.mark.parametrize("name", LOOKS)
def test_looking_at_values_in_the_first_call(name: str) -> None:
    def step(m: Any, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
        if not hasattr(m, "scale"):
            m.scale = LOOKS[name](tg.asarray([1.0, 2.0, 2.0]) + 0.0 * x[0, 0])
        return plain(m, x * m.scale, y)

    same(Model, step)


def test_raw_arrays_in_the_first_call_are_the_users_own() -> None:
    def step(m: Any, x: Any) -> Any:
        assert type(x) is np.ndarray
        if not hasattr(m, "mean"):
            m.mean = x.mean()
            x += 1.0
            x[0] = 5.0
            g = tg.grad(lambda v: tg.sum(v * v))(x)
            assert type(g) is np.ndarray
            g *= 2.0
            m.g = tg.asarray(g)
            g[...] = 0.0
        return tg.asarray(x) * m.mean + m.g, x

    eager, other = SimpleNamespace(), SimpleNamespace()
    assert values(tg.compile(lambda x: step(other, x))(np.arange(3.0))) == values(step(eager, np.arange(3.0)))
    assert visible(other) == visible(eager)


def test_gradients_of_raw_arguments_take_two_calls() -> None:
    calls = []

    @tg.compile
    def step(x: Any) -> Any:
        calls.append(1)
        return tg.grad(lambda v: tg.sum(tg.sin(v)))(x), x

    for i in range(5):
        x = np.asarray([1.0, float(i)])
        g, again = step(x)
        np.testing.assert_array_equal(g, np.cos(x))
        assert again is x
    assert len(calls) == 2


class Failure(Exception):
    pass


@pytest.mark.parametrize("hidden", [False, True])
def test_an_error_in_the_first_call_leaves_what_an_eager_call_leaves(hidden: bool) -> None:
    eager, other = Model(), Model()

    def step(m: Any, x: tg.Tensor, y: tg.Tensor) -> None:
        m.loss(x, y).backward()
        m.sgd(0.1)
        m.left = [m.loss(x, y)]
        raise Failure(m.left)

    for m, f in (
        (eager, partial(step, eager)),
        (other, tg.compile(partial(lambda r, *a: step(r(), *a), lambda: other))),
    ):
        with pytest.raises(Failure) as caught:
            f(*m.batch(0))
        (loss,) = caught.value.args[0]
        loss.backward()  # the tape that it left is whole
    clean(other)
    assert visible(other) == visible(eager)


@tg.custom_vjp
def tripled(x: tg.Tensor) -> tg.Tensor:
    return x * 3.0


tripled.defvjp(lambda x: (x * 3.0, x), lambda x, t: (t * x,))


KEPT: dict[str, Callable[[Any, tg.Tensor], Any]] = {
    "a recorded Tensor": lambda m, x: m.loss(x, m.ys_),
    "a list of them": lambda m, x: [tg.sin(m.w), tg.stack([m.b, m.b])],
    "a part": lambda m, x: m.w[tg.asarray([0, 2]), :] * x[0, 0],
    "several results": lambda m, x: tg.unstack(m.w * 2.0),
    "a custom rule": lambda m, x: tripled(m.w),
    "a checkpoint": lambda m, x: tg.checkpoint(tg.tanh)(m.w),
    "a pull": lambda m, x: tg.vjp(lambda v: tg.tanh(v * m.b.detach()), m.w.detach())[1],
    "a linear function": lambda m, x: tg.linearize(lambda v: tg.tanh(v * m.b.detach()), m.w.detach())[1],
    "a tape": lambda m, x: taped(m, x),
}


def taped(m: Any, x: tg.Tensor) -> tg.Tape:
    with tg.Tape() as tape:
        tg.sum(m.w * x[0, 0])
    return tape


@pytest.mark.parametrize("name", KEPT)
def test_what_the_first_call_keeps_can_be_used_after_it(name: str) -> None:
    found = []
    for compiled in (False, True):
        m: Any = Model()
        m.ys_ = m.make(m.ys[0])
        kept: list[Any] = []

        def step(x: tg.Tensor, m: Any = m, kept: list[Any] = kept) -> None:
            kept.append(KEPT[name](m, x))

        (tg.compile(step) if compiled else step)(m.batch(0)[0])
        (y,) = kept
        if callable(y):
            found.append(values(y(m.w.detach())))
        elif isinstance(y, tg.Tape):
            found.append([str(y)])
        else:
            total = sum([tg.sum(v * v) for v in (y if isinstance(y, (list, tuple)) else [y])])
            total.backward()  # type: ignore[union-attr]
            found.append(visible(m))
    assert found[0] == found[1]


def test_recorded_results_are_refused_at_once_and_stay_whole() -> None:
    m = Model()
    x, y = m.batch(0)
    f = tg.compile(lambda: m.loss(x, y))
    with pytest.raises(
        tg.CaptureError, match="is recorded, as it depends on a leaf.*: a compiled function records nothing"
    ):
        f()
    clean(m)


def test_tensors_that_begin_a_tape_may_be_reached() -> None:
    w = tg.tensor([1.0, 2.0], requires_grad=True)
    outer = w * 2.0
    state = {"outer": outer, "s": tg.asarray(0.0)}

    def step(x: tg.Tensor) -> None:
        state["s"] += x

    assert eager_calls(step, state["s"]) == 2
    tg.sum(outer * w).backward()
    assert w.grad is not None
    assert w.grad.tolist() == [4.0, 8.0]


def test_what_is_reached_and_not_used_is_not_kept() -> None:
    state = {"unused": tg.tensor([1.0], requires_grad=True), "s": tg.asarray(0.0)}
    tg.sum(state["unused"]).backward()
    f = tg.compile(lambda x: add(state["s"], x))
    for i in range(4):
        f(tg.asarray(1.0))
        if i == 0:
            assert type(state["unused"]._array) is np.ndarray
    gone = weakref.ref(state.pop("unused"))
    gc.collect()
    assert gone() is None
    f(tg.asarray(1.0))
    assert state["s"].item() == 5.0


def test_threads_of_the_functions_own_in_the_first_call() -> None:
    m = Model()

    def step(x: tg.Tensor) -> None:
        if not hasattr(m, "made"):
            thread = threading.Thread(target=lambda: setattr(m, "made", tg.sum(m.w * m.w).detach()))
            thread.start()
            thread.join()
        with tg.no_grad():
            m.b *= x

    f = tg.compile(step)
    for _ in range(4):
        f(tg.asarray(2.0))
        clean(m)
    assert m.b.tolist() == [0.0] * 3
    assert m.made.item() == tg.sum(m.w * m.w).item()  # type: ignore[attr-defined]


def test_a_context_that_a_call_leaves_is_an_eager_one() -> None:
    left: list[Context] = []
    s = tg.asarray(1.0)

    @tg.compile
    def step(x: tg.Tensor) -> tg.Tensor:
        left.append(copy_context())
        return s * x

    for _ in range(2):
        step(tg.asarray(2.0))
        y = left.pop().run(lambda: tg.asarray(np.ones(2)) * s + tg.zeros(2) + np.ones(2))
        assert y.tolist() == [2.0, 2.0]
        assert type(y._array) is type(s._array) is np.ndarray


def test_a_leaf_that_the_first_call_makes() -> None:
    def step(m: Any, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
        if not hasattr(m, "extra"):
            m.extra = tg.zeros(3, dtype="float64")
            m.extra.requires_grad = True
            m.b.requires_grad = True
        m.extra.grad = None
        return plain(m, x, y + tg.sum(m.extra))

    def make() -> Any:
        m = Model()
        m.b.requires_grad = False
        return m

    same(make, step)


def test_numbers_of_the_first_call_alone_do_no_harm() -> None:
    calls: list[int] = []

    def step(m: Any, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
        first = not hasattr(m, "begun")
        m.begun = 1
        calls.append(1)
        return plain(m, x * (0.1 if first else 1.0), y)

    same(Model, step)
    assert len(calls) == CALLS + 3
