"""The threads of compiled programs on NumPy: sharing work, errors, and who else wants them."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest
from forking import in_child

import tapegrad as tg
from tapegrad.backends._numpy.executor import blas, sharing, threads


def test_codes_run_at_once() -> None:
    both = threading.Barrier(2, timeout=10)
    threads.run_all([[(both.wait, ())], [(both.wait, ())]])  # neither would end alone


def test_an_error_of_a_helper_is_raised_here() -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            threads.run_all([[(abs, (1,))], [(divmod, (1, 0))]])
    seen: list[int] = []
    threads.run_all([[(seen.append, (1,))], [(seen.append, (2,))]])
    assert sorted(seen) == [1, 2]


def test_an_error_here_waits_for_the_helpers() -> None:
    seen: list[int] = []
    with pytest.raises(ZeroDivisionError):
        threads.run_all([[(divmod, (1, 0))], [(seen.append, (1,))]])
    assert seen == [1]


@pytest.mark.parametrize("late", [False, True], ids=["while it waits", "beside its own work"])
def test_ctrl_c_waits_for_the_helpers(late: bool) -> None:
    """The next call would read, or write over, buffers that they still write to."""
    order: list[str] = []
    begun = threading.Event()

    def interrupt() -> None:
        begun.wait(10)
        signal.raise_signal(signal.SIGINT)

    def work() -> None:
        begun.set()
        if not late:
            time.sleep(0.05)  # the caller waits by now
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.2)
        order.append("helper")

    own = [(interrupt, ())] if late else []
    for n in range(1, 4):
        begun.clear()
        with pytest.raises(KeyboardInterrupt):
            threads.run_all([own, [(work, ())]])
        order.append("raised")
        assert order == ["helper", "raised"] * n
    seen: list[int] = []
    threads.run_all([[], [(time.sleep, (0.05,)), (seen.append, (1,))]])
    assert seen == [1]


def test_busy_helpers_are_not_waited_for() -> None:
    seen: list[int] = []
    with threads.team.free:
        threads.run_all([[(seen.append, (1,))], [(seen.append, (2,))]])
    assert seen == [1, 2]


def test_helpers_have_the_errstate_of_the_caller() -> None:
    states: list[Any] = []
    with np.errstate(over="raise"):
        threads.run_all([[(abs, (1,))], [(lambda: states.append(np.geterr()["over"]), ())]])
    assert states == ["raise"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes to fork here")
@pytest.mark.filterwarnings("ignore")  # of Python and JAX, which warn of forks beside threads
def test_a_forked_process_has_helpers_of_its_own() -> None:
    threads.run_all([[(abs, (1,))], [(abs, (1,))]])

    def both_parts_run() -> bool:
        seen: list[int] = []
        threads.run_all([[(seen.append, (1,))], [(seen.append, (2,))]])
        return sorted(seen) == [1, 2]

    assert in_child(both_parts_run) == 0


def test_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    assert threads.thread_count(None) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert (threads.thread_count(None), threads.thread_count(2)) == (5, 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    assert threads.thread_count(None) >= 1


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("shapes", [((7, 5), (5, 3)), ((4, 6, 5), (5, 3)), ((2, 3, 4, 5), (3, 5, 2)), ((5, 7), (7, 5))])
def test_split_products(monkeypatch: pytest.MonkeyPatch, count: int, shapes: Any) -> None:
    monkeypatch.setattr(sharing, "WORTH_THREADS", 1)
    a, b = (tg.tensor(np.random.default_rng(i).normal(size=s), requires_grad=True) for i, s in enumerate(shapes))

    def step() -> Any:
        a.grad = b.grad = None
        tg.sum(tg.sin(a @ b)).backward()
        return a.grad, b.grad

    compiled = tg.compile(step, threads=count)
    for _ in range(4):
        found = compiled()
    for x, y in zip(found, step(), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12)
    batched = len(shapes[0]) > 2
    assert compiled._last.executor.plan.writer.threaded is (batched and count > 1 and blas.can_hold())


def test_attention_beside_products_counts_as_batches_of_products() -> None:
    """Its kernels run on threads of this process, with which those of BLAS would compete."""
    x, w = (tg.asarray(np.random.default_rng(i).normal(size=(4, 16, 16))) for i in range(2))

    def step(x: Any, w: Any) -> Any:
        q = x @ w
        return tg.grad(lambda q: tg.sum(tg.attention(q, q, q)))(q)

    compiled = tg.compile(step, threads=2)
    for _ in range(4):
        found = compiled(x, w)
    np.testing.assert_allclose(found, step(x, w), rtol=1e-12)
    assert sharing.sharing_of(compiled._last.executor.program, 2).splits is blas.can_hold()
    alone = tg.compile(lambda x, w: x @ w, threads=2)
    for _ in range(4):
        alone(x, w)
    assert not sharing.sharing_of(alone._last.executor.program, 2).splits
