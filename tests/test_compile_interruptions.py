"""Compiled calls that end by an exception, Ctrl-C among them, or beside a fork."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from forking import in_child

import tapegrad as tg
from tapegrad._compile.capture import locks
from tapegrad._compile.capture.graph import Graph, Tracer
from tapegrad._engine.levels import capturing
from tapegrad._engine.record import Record
from tapegrad._engine.tensor import Tensor


class Custom(Exception):
    """One with arguments that its base does not have."""

    def __init__(self, code: int, *, text: str) -> None:
        super().__init__(code, text)
        self.code, self.text = code, text


ERRORS: list[Callable[[], BaseException]] = [
    KeyboardInterrupt,
    lambda: SystemExit(3),
    GeneratorExit,
    lambda: StopIteration("value"),
    StopAsyncIteration,
    lambda: Custom(7, text="seven"),
    lambda: OSError(2, "no such file", "name"),
    lambda: UnicodeDecodeError("utf-8", b"x", 0, 1, "reason"),
    lambda: TypeError("not Tracer_ndarray"[4:10]),
    lambda: AttributeError("saved"),
    MemoryError,
    lambda: tg.CaptureError("the user's own"),
]


class State:
    def __init__(self) -> None:
        self.w = tg.tensor([0.3, -0.2], requires_grad=True)
        self.count = tg.zeros(())


def step(s: State, x: tg.Tensor, error: BaseException | None = None) -> tg.Tensor:
    s.w.grad = None
    s.count += 1.0
    loss = tg.sum(tg.tanh(s.w * x) ** 2)
    loss.backward()
    if error is not None:
        raise error
    with tg.no_grad():
        assert s.w.grad is not None
        s.w -= 0.1 * s.w.grad
    return loss


def seen(s: State) -> list[Any]:
    for x in (s.w, s.count, s.w.grad):
        assert x is None or not isinstance(x._array, Tracer)
    return [s.w.tolist(), s.count.item(), None if s.w.grad is None else s.w.grad.tolist()]


def at_rest() -> bool:
    return Graph.everywhere is None and capturing.get() is None and not locks.tracing.running


@pytest.mark.parametrize("call", range(2))
@pytest.mark.parametrize("make", ERRORS, ids=lambda make: type(make()).__name__)
def test_an_exception_comes_out_as_itself(make: Callable[[], BaseException], call: int) -> None:
    eager, other = State(), State()
    raised: list[BaseException | None] = [None]
    f = tg.compile(lambda x: step(other, x, raised[0]))
    x = tg.asarray([1.0, 2.0])
    for i in range(6):
        if i == call:
            raised[0] = error = make()
            error.add_note("a note")
            with pytest.raises(type(error)) as found:
                f(x)
            assert found.value is error
            assert error.__notes__ == ["a note"]
            raised[0] = None
            with pytest.raises(type(error)):
                step(eager, x, make())
        else:
            assert f(x).item() == step(eager, x).item()
        assert seen(other) == seen(eager)
        assert at_rest()
    assert f._last is not None


def test_tensors_in_an_exception_hold_what_an_eager_call_gives() -> None:
    @tg.compile
    def failing(x: tg.Tensor) -> None:
        y = x * 2.0
        raise Custom(y, text="")  # type: ignore[arg-type]

    for _ in range(3):
        with pytest.raises(Custom) as found:
            failing(tg.asarray([1.0, 2.0]))
        y: Any = found.value.code
        assert (y + 1.0).tolist() == [3.0, 5.0]
        assert found.value.args[0] is y


def test_a_raw_array_in_an_exception_is_no_traced_one() -> None:
    @tg.compile
    def failing(x: Any) -> None:
        raise Custom(x + 1.0, text="")

    for _ in range(3):
        with pytest.raises(Custom) as found:
            failing(np.asarray([1.0, 2.0]))
        assert all(type(a) is np.ndarray for a in (found.value.args[0], found.value.code))
        del found


class Interrupt:
    """Raises KeyboardInterrupt at an entry of a function of tapegrad, the n-th one; counts them if n is 0."""

    APART = ("__enter__", "__exit__", "<genexpr>")  # those that `with` needs; the latter is also entered to be closed

    def __init__(self, n: int = 0) -> None:
        self.n, self.count = n, 0

    def __call__(self, frame: Any, event: str, arg: Any) -> Any:
        code = frame.f_code
        if event == "call" and "tapegrad" in code.co_filename and code.co_name not in self.APART:
            self.count += 1
            if self.count == self.n:
                raise KeyboardInterrupt
        return None

    def during(self, f: Callable[[], Any]) -> None:
        before = sys.gettrace()
        sys.settrace(self)
        try:
            f()
        finally:
            sys.settrace(before)


@pytest.mark.parametrize("call", range(4))
def test_ctrl_c_at_any_point_leaves_no_traced_array(call: int) -> None:
    x = tg.asarray([1.0, 2.0])

    def begun() -> tuple[State, Any]:
        s = State()
        f = tg.compile(lambda x: step(s, x))
        for _ in range(call):
            f(x)
        return s, f

    for _ in range(2):  # the first time, more is called than later
        whole = Interrupt()
        s, f = begun()
        whole.during(partial(f, x))
    rng = np.random.default_rng(call)
    points = {1, 2, *range(max(1, whole.count - 3), whole.count + 1), *rng.integers(1, whole.count + 1, 12).tolist()}
    for n in sorted(points):
        s, f = begun()
        interrupt = Interrupt(n)
        with pytest.raises(KeyboardInterrupt):
            interrupt.during(partial(f, x))
        eager = State()
        eager.w = tg.tensor(s.w.tolist(), requires_grad=True)
        eager.count = tg.asarray(s.count.item())
        seen(s)
        assert at_rest()
        for _ in range(4):
            f(x)
            step(eager, x)
            np.testing.assert_allclose(np.asarray(s.w.detach()), np.asarray(eager.w.detach()), rtol=1e-12)
            assert s.count.item() == eager.count.item()


def test_ctrl_c_while_arrays_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from tapegrad._compile.capture import remove_tracers

    settle = remove_tracers._remove_all
    times = []

    def interrupted(graph: Any, tensors: Any) -> None:
        times.append(0)
        if len(times) < 3:
            raise KeyboardInterrupt
        settle(graph, tensors)

    kept: list[Any] = []

    @tg.compile
    def failing(x: tg.Tensor) -> None:
        kept.append(x * 2.0)
        raise ValueError("the user's own")

    with pytest.raises(ValueError, match="the user's own"):
        failing(tg.asarray(1.0))
    monkeypatch.setattr(remove_tracers, "_remove_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        failing(tg.asarray(1.0))
    assert len(times) == 3
    assert [x.item() for x in kept] == [2.0, 2.0]


def test_records_that_are_being_made_are_left_alone() -> None:
    unmade = [object.__new__(Record), object.__new__(Tensor)]  # as another thread, or an interrupted frame, may hold
    made: list[tg.Tensor] = []

    @tg.compile
    def failing(x: tg.Tensor) -> None:
        made.append(x * 2.0)
        raise ValueError("the user's own")

    for _ in range(2):
        with pytest.raises(ValueError, match="the user's own"):
            failing(tg.asarray(1.0))
    assert [x.item() for x in made] == [2.0, 2.0]
    assert len(unmade) == 2


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes to fork here")


@forks
@pytest.mark.filterwarnings("ignore")  # of Python and JAX, which warn of forks beside threads
def test_a_fork_beside_replays_does_not_hang() -> None:
    a = tg.asarray(np.random.default_rng(0).normal(size=(60, 60)))
    f = tg.compile(lambda x: tg.sum(tg.tanh(x @ x * 0.01) @ x))
    right = [f(a).item() for _ in range(4)].pop()
    stop = threading.Event()

    def loop() -> None:
        while not stop.is_set():
            f(a)

    threads = [threading.Thread(target=loop) for _ in range(2)]
    for t in threads:
        t.start()
    try:
        codes = [in_child(lambda: all(abs(f(a).item() - right) < 1e-9 for _ in range(5))) for _ in range(8)]
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert codes == [0] * 8


@forks
@pytest.mark.filterwarnings("ignore")
def test_a_fork_beside_a_capture_that_does_not_end_settles_in_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    s = State()
    inside, go = threading.Event(), threading.Event()

    def waiting(x: tg.Tensor) -> tg.Tensor:
        y = step(s, x)
        inside.set()
        go.wait(30)
        return y

    f = tg.compile(waiting)
    x = tg.asarray([1.0, 2.0])

    def child() -> bool:
        clean = not isinstance(s.w._array, Tracer) and at_rest()
        go.set()
        before = s.count.item()
        for _ in range(4):
            f(x)
        return clean and f._last is not None and s.count.item() == before + 4

    for _ in range(2):
        inside.clear()
        go.clear()
        t = threading.Thread(target=f, args=(x,))
        t.start()
        assert inside.wait(30)
        try:
            assert in_child(child) == 0
        finally:
            go.set()
            t.join()
    assert s.count.item() == 2.0
    gc.collect()


@forks
@pytest.mark.filterwarnings("ignore")
def test_a_fork_inside_a_captured_call() -> None:
    codes: list[int] = []

    def forking(x: tg.Tensor) -> tg.Tensor:
        y = x * 2.0
        if len(codes) < 2:
            codes.append(in_child(lambda: y.shape == ()))
        return y + 1.0

    f = tg.compile(forking)
    assert [f(tg.asarray(float(i))).item() for i in range(5)] == [1.0, 3.0, 5.0, 7.0, 9.0]
    assert codes == [0, 0]
