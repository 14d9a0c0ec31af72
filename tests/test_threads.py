"""Threads, generators and tasks: settings hold for each itself, shared objects lose nothing."""

from __future__ import annotations

import asyncio
import gc
import inspect
import random
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from contextvars import copy_context
from typing import Any

import numpy as np
import pytest

import tapegrad as tg
from tapegrad._engine import mode


@pytest.fixture(autouse=True)
def _switching() -> Iterator[None]:
    """Have threads take turns as often as can be; leave nothing set."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
    assert not mode.scopes
    assert mode.mode().open() is mode.DEFAULT
    assert tg.default_dtype() is tg.float64


def together(*works: Callable[[], object]) -> None:
    """Run functions in threads that start at once; raise an error of one of them."""
    barrier, errors = threading.Barrier(len(works)), []

    def run(work: Callable[[], object]) -> None:
        barrier.wait()
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]


def elsewhere(work: Callable[[], object]) -> None:
    """Run a function in another thread."""
    together(work)


def recording() -> bool:
    """Say whether operations are recorded here; functions that ask for the mode must agree."""
    recorded = (tg.tensor([1.0], requires_grad=True) * 2.0).requires_grad
    assert mode.mode().recording is recorded
    return recorded


# -- gradients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("create_graph", [False, True])
def test_threads_add_to_the_gradient_of_one_leaf(create_graph: bool) -> None:
    w, v = (tg.tensor(np.ones(5000), requires_grad=True) for _ in range(2))  # NumPy lets others run meanwhile
    rounds, threads = 30, 6

    def work() -> None:
        for _ in range(rounds):
            tg.sum(w * 3.0 + v).backward(create_graph=create_graph)

    together(*[work] * threads)
    assert w.grad is not None
    assert v.grad is not None
    assert set(w.grad.tolist()) == {3.0 * rounds * threads}
    assert set(v.grad.tolist()) == {1.0 * rounds * threads}


def test_threads_that_walk_one_tape_get_all_of_it_or_an_error() -> None:
    """Without retain_graph the tape is the first one's: nobody adds up a part without a word."""
    for _ in range(20):
        x = tg.tensor([2.0], requires_grad=True)
        y = x
        for _ in range(30):
            y = y * 1.0 + 0.0
        failed: list[Exception] = []

        def walk(y: tg.Tensor = y, failed: list[Exception] = failed) -> None:
            try:
                tg.sum(y).backward()
            except RuntimeError as error:
                failed.append(error)

        together(walk, walk)
        assert x.grad is None or x.grad.tolist() == [2.0 - len(failed)]


# -- first use ---------------------------------------------------------------------------------------------

FIRST_USE = """
import sys, threading, time, warnings
import numpy as np
import tapegrad as tg
from tapegrad._vmap import array
from tapegrad._engine import elementwise
from tapegrad.testing._samples import SAMPLES

warnings.simplefilter("ignore")
def held(function):  # all threads come here before one goes on
    def call(*args):
        time.sleep(0.002)
        return function(*args)
    return call
elementwise.again = held(elementwise.again)
array.BatchedBackend.__init__ = held(array.BatchedBackend.__init__)
sys.setswitchinterval(1e-6)
barrier, errors = threading.Barrier(4), []
def inputs(s):
    return [tg.tensor(a) for a in s.args]
def differentiated(s):
    xs = inputs(s)
    places = [i for i, x in enumerate(xs) if "floating" in x.dtype.kind]
    def f(*active):
        for i, x in zip(places, active):
            xs[i] = x
        return s.f(*xs)
    y, pull = tg.vjp(f, *[xs[i] for i in places])
    return pull(tg.ones_like(y))
jobs = [(f"vmap {n}", lambda n=n: tg.vmap(lambda x: getattr(tg, n)(x) * x)(tg.ones((3, 2)))) for n in ("sin", "sum")]
jobs += [("grad of vmap", lambda: tg.grad(lambda x: tg.sum(tg.vmap(tg.vmap(tg.exp))(x)))(tg.ones((3, 2))))]
jobs += [(s.name, lambda s=s: s.f(*inputs(s))) for s in SAMPLES]
jobs += [(f"gradient of {s.name}", lambda s=s: differentiated(s)) for s in SAMPLES[::4] if s.order]
def work():
    for name, job in jobs:
        barrier.wait()
        try:
            job()
        except Exception as error:
            errors.append(f"{name}: {type(error).__name__}: {error}")
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
print(len(jobs), "jobs", errors[:3])
sys.exit(len(errors) > 0)
"""


def test_threads_use_everything_for_the_first_time_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_USE], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


# -- settings ----------------------------------------------------------------------------------------------

SETTINGS: dict[str, tuple[Callable[..., Any], Any]] = {
    "default_dtype": (tg.default_dtype, tg.float32),
    "default_device": (tg.default_device, "strict:CPU_DEVICE"),
    "deterministic": (tg.deterministic, True),
    "tf32": (tg.tf32, True),
}


@pytest.fixture(params=SETTINGS)
def setting(request: pytest.FixtureRequest) -> Iterator[tuple[Callable[..., Any], Any]]:
    setter, value = SETTINGS[request.param]
    before = setter()
    if setter is tg.default_device:
        pytest.importorskip("array_api_strict")
    yield setter, value
    assert setter() == before


def test_blocks_are_not_seen_by_other_threads(setting: tuple[Callable[..., Any], Any]) -> None:
    setter, value = setting
    before, over, seen = setter(), threading.Event(), set()

    def block() -> None:
        for _ in range(500):
            with setter(value), setter(before), setter(value):
                assert setter() == value
        over.set()

    def look() -> None:
        while not over.is_set():
            seen.add(setter())

    together(block, block, look)
    assert seen <= {before}
    scope = setter(value)  # as a `with` statement begins
    elsewhere(lambda: seen.add(setter()))
    with scope:
        elsewhere(lambda: seen.add(setter()))
    assert seen == {before}


def test_calls_that_are_interleaved_are_taken_back(setting: tuple[Callable[..., Any], Any]) -> None:
    setter, value = setting
    before = setter()
    first, second = setter(value), setter(value)
    with first:
        pass
    with second:
        assert setter() == value
    assert setter() == before


def test_a_statement_sets_it_for_all(setting: tuple[Callable[..., Any], Any]) -> None:
    setter, value = setting
    before, seen = setter(), []
    setter(value)
    elsewhere(lambda: seen.append(setter()))
    elsewhere(lambda: setter(before) and None)
    seen.append(setter())
    kept = setter(value)  # as an interactive session keeps it
    repr(kept)
    elsewhere(lambda: seen.append(setter()))
    setter(before)
    assert seen == [value, before, value]


def test_a_value_that_was_used_and_then_entered_holds_in_the_block_only(
    setting: tuple[Callable[..., Any], Any],
) -> None:
    setter, value = setting
    before = setter()
    scope = setter(value)
    assert setter() == value
    for _ in range(2):
        with scope:
            assert setter() == value
        assert setter() == before


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 2, 1), (2, 0, 1), (1, 2, 0)])
def test_objects_that_were_set_first_and_entered_later_leave_nothing(order: tuple[int, ...]) -> None:
    before = tg.default_dtype()
    scopes = []
    for _ in order:
        scopes.append(tg.default_dtype(tg.float32))
        assert tg.default_dtype() is tg.float32  # which makes it a value for the process
    for i in order:
        with scopes[i]:
            assert tg.default_dtype() is tg.float32
    assert tg.default_dtype() is before


# -- blocks that end in any order --------------------------------------------------------------------------

SCOPES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": tg.no_grad,
    "enable_grad": tg.enable_grad,
    "debug": tg.debug,
    "Tape": tg.Tape,
    "default_dtype": lambda: tg.default_dtype(tg.float32),
    "default_device": lambda: tg.default_device("cpu"),
    "deterministic": lambda: tg.deterministic(True),
    "tf32": lambda: tg.tf32(True),
}


def state() -> tuple[Any, ...]:
    m = mode.mode()
    return recording(), m.watch is None, m.debug, tg.default_dtype(), tg.deterministic(), tg.tf32()


def held(scope: Callable[[], AbstractContextManager[Any]], n: int = 3) -> Iterator[int]:
    with scope():
        yield from range(n)


@pytest.mark.parametrize("second", SCOPES)
@pytest.mark.parametrize("first", SCOPES)
def test_generators_end_in_the_order_they_began(first: str, second: str) -> None:
    before = state()
    for _ in zip(held(SCOPES[first], 2), held(SCOPES[second], 5), strict=False):
        pass
    assert state() == before


@pytest.mark.parametrize("scope", SCOPES)
def test_a_generator_ends_in_another_thread(scope: str) -> None:
    before, steps = state(), held(SCOPES[scope])
    rest: list[int] = []
    next(steps)
    with tg.Tape() as tape:
        elsewhere(lambda: rest.extend(steps))
        tg.tensor([1.0]) * 2.0
        assert len(tape) == 1
        assert state() == (before[0], False, *before[2:])
    assert rest == [1, 2]
    assert state() == before


class Model:
    """Blocks that are open, in the order in which they began, and the mode and dtype that follow."""

    def __init__(self) -> None:
        self.open: list[tuple[str, Any]] = []

    def check(self) -> None:
        kinds = [kind for kind, _ in self.open]
        switches = [kind for kind in kinds if kind in ("no_grad", "enable_grad")]
        assert recording() is (not switches or switches[-1] == "enable_grad")
        assert mode.mode().debug is ("debug" in kinds)
        dtypes = [kind for kind in kinds if kind in ("float16", "float32")]
        assert tg.default_dtype().name == (dtypes[-1] if dtypes else "float64")
        assert tg.zeros(()).dtype is tg.default_dtype()
        tapes = [scope for kind, scope in self.open if kind == "Tape"]
        before = [len(tape) for tape in tapes]
        tg.tensor([1.0]) * 2.0
        assert [len(tape) for tape in tapes] == [n + 1 for n in before]


@pytest.mark.parametrize("seed", range(20))
def test_blocks_that_end_in_any_order_and_thread_leave_the_others(seed: int) -> None:
    rng, model = random.Random(seed), Model()
    kinds: dict[str, Callable[[], Any]] = {
        "no_grad": tg.no_grad,
        "enable_grad": tg.enable_grad,
        "debug": tg.debug,
        "Tape": tg.Tape,
        "float16": lambda: tg.default_dtype(tg.float16),
        "float32": lambda: tg.default_dtype(tg.float32),
    }
    ended = []
    for step in range(60):
        if model.open and (step > 40 or rng.random() < 0.45):
            _, scope = model.open.pop(rng.randrange(len(model.open)))
            if rng.random() < 0.3:
                elsewhere(lambda scope=scope: scope.__exit__(None, None, None))  # type: ignore[misc]
            else:
                scope.__exit__(None, None, None)
            ended.append(scope)
        else:
            kind = rng.choice(list(kinds))
            scope = kinds[kind]()
            scope.__enter__()
            model.open.append((kind, scope))
        model.check()
        if rng.random() < 0.2:
            copy_context().run(model.check)
    assert all(len(tape) == n for tape, n in [(t, len(t)) for t in ended if isinstance(t, tg.Tape)])
    while model.open:
        model.open.pop(0)[1].__exit__(None, None, None)
        model.check()


def test_one_scope_in_several_blocks() -> None:
    scope = tg.no_grad()
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with scope:
            entered.set()
            leave.wait()
            assert not recording()
        assert recording()

    thread = threading.Thread(target=other)
    with scope:
        thread.start()
        entered.wait()
        with scope:
            assert not recording()
        assert not recording()
    assert recording()
    leave.set()
    thread.join()


# -- decorated generators and coroutines -------------------------------------------------------------------


@tg.no_grad()
def steps(n: int) -> Generator[Any, Any, Any]:
    """Say whether the body records, at each step, and give the objects sent in."""
    sent: Any = None
    try:
        for _ in range(n):
            try:
                sent = yield recording(), sent
            except KeyError as error:
                sent = f"caught {error.args[0]}, recording: {recording()}"
    finally:
        ENDS.append(recording())
    return "the end", recording()


ENDS: list[bool] = []


def test_a_decorated_generator_is_not_recorded() -> None:
    assert inspect.isgeneratorfunction(steps)
    assert steps.__name__ == "steps"
    run = steps(4)
    assert recording()
    assert next(run) == (False, None)
    assert recording()
    assert run.send("hello") == (False, "hello")
    assert recording()
    assert run.throw(KeyError("x")) == (False, "caught x, recording: False")
    with tg.no_grad(), tg.enable_grad():
        assert next(run) == (False, None)
        assert recording()
    with pytest.raises(StopIteration) as stopped:
        next(run)
    assert stopped.value.value == ("the end", False)
    run = steps(4)
    next(run)
    with pytest.raises(ZeroDivisionError):
        run.throw(ZeroDivisionError())
    with closing(steps(4)) as run:
        next(run)
    del run
    assert ENDS == [False] * 3
    assert recording()
    ENDS.clear()


def test_a_decorated_generator_is_not_recorded_in_any_thread() -> None:
    run, seen = steps(100), []
    for _ in range(4):
        elsewhere(lambda: seen.append(next(run)[0]))
        seen.append(next(run)[0])
        assert recording()
    assert seen == [False] * 8
    run.close()
    ENDS.clear()


@tg.no_grad()
async def body() -> list[bool]:
    seen = [recording()]
    await asyncio.sleep(0)
    return [*seen, recording(), *await asyncio.gather(*[inner() for _ in range(2)])]


async def inner() -> bool:
    await asyncio.sleep(0)
    return recording()


@tg.no_grad()
async def numbers(n: int) -> AsyncIterator[Any]:
    sent: Any = None
    try:
        for _ in range(n):
            await asyncio.sleep(0)
            try:
                sent = yield recording(), sent
            except KeyError:
                sent = "caught"
    finally:
        ENDS.append(recording())


def test_decorated_coroutines_and_asynchronous_generators_are_not_recorded() -> None:
    assert inspect.iscoroutinefunction(body)
    assert inspect.isasyncgenfunction(numbers)

    async def main() -> None:
        task = asyncio.create_task(body())
        seen = []
        while not task.done():
            seen.append(recording())
            await asyncio.sleep(0)
        assert all(seen)
        assert await task == [False] * 4
        assert await body() == [False] * 4
        assert recording()
        async for found in numbers(3):
            assert found == (False, None)
            assert recording()
        run: Any = numbers(4)
        await anext(run)
        assert await run.asend(5) == (False, 5)
        assert await run.athrow(KeyError()) == (False, "caught")
        await run.aclose()
        assert ENDS == [False, False]
        assert recording()

    asyncio.run(main())
    ENDS.clear()


@pytest.mark.parametrize("decorator", [tg.no_grad, tg.enable_grad, tg.debug])
def test_decorators_take_any_function(decorator: Callable[[], Any]) -> None:
    def plain() -> tuple[Any, ...]:
        return state()

    def generator() -> Iterator[tuple[Any, ...]]:
        yield state()

    async def coroutine() -> tuple[Any, ...]:
        return state()

    async def asynchronous() -> AsyncIterator[tuple[Any, ...]]:
        yield state()

    async def first(run: AsyncIterator[Any]) -> Any:
        return await anext(run)

    before = state()
    with decorator():
        expected = state()
    decorate = decorator()
    found = [
        decorate(plain)(),
        next(decorate(generator)()),
        asyncio.run(decorate(coroutine)()),
        asyncio.run(first(decorate(asynchronous)())),
    ]
    assert found == [expected] * 4
    assert state() == before


def test_a_task_that_outlives_the_block_it_began_in() -> None:
    """Operations, and all that ask for the mode, know the same: `recording` compares them."""

    async def main() -> None:
        go_on = asyncio.Event()

        async def child() -> list[bool]:
            seen = [recording()]
            await go_on.wait()
            return [*seen, recording()]

        with tg.no_grad():
            task = asyncio.create_task(child())
            await asyncio.sleep(0)
        with tg.Tape():  # some block is open
            go_on.set()
            assert await task == [False, True]

    asyncio.run(main())


# -- memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", SCOPES)
def test_blocks_leave_no_cycles(scope: str) -> None:
    w = tg.tensor(np.ones(3), requires_grad=True)

    def step() -> None:
        with SCOPES[scope](), ExitStack() as stack:
            stack.enter_context(SCOPES[scope]())
            y = tg.sum(tg.tanh(w) ** 2)
            if y.requires_grad:
                y.backward()
            list(held(SCOPES[scope]))
        w.grad = None

    step()
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for _ in range(50):
            step()
        assert len(gc.get_objects()) - before < 25
        assert gc.collect() < 25
    finally:
        gc.enable()
