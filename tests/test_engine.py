"""The walk: accumulation, release, depth, memory, threads."""

from __future__ import annotations

import gc
import threading
import time
import tracemalloc
import weakref
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad._engine import rules


def test_first_gradient(xp: Place) -> None:
    x = xp.tensor([1.0, 2.0, 3.0], requires_grad=True)
    tg.sum(x * x).backward()
    xp.check(x.grad, [2.0, 4.0, 6.0])


def test_branches_and_reuse_accumulate(xp: Place) -> None:
    x = xp.tensor([2.0], requires_grad=True)
    a = x * 3.0
    tg.sum(a * a + a + x).backward()
    xp.check(x.grad, [2 * 9 * 2.0 + 3 + 1])


def test_backward_twice_adds(xp: Place) -> None:
    x = xp.tensor([2.0], requires_grad=True)
    for _ in range(2):
        tg.sum(x * x).backward()
    xp.check(x.grad, [8.0])


def test_a_held_gradient_never_changes(xp: Place) -> None:
    x = xp.tensor([2.0], requires_grad=True)
    tg.sum(x * x).backward()
    held = x.grad
    tg.sum(x * x).backward()
    xp.check(held, [4.0])
    xp.check(x.grad, [8.0])


def test_retain_graph_walks_again(xp: Place) -> None:
    x = xp.tensor([2.0], requires_grad=True)
    y = tg.sum(x * x * x)
    y.backward(retain_graph=True)
    y.backward()
    xp.check(x.grad, [24.0])
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        y.backward()


def test_a_shared_trunk_is_released_too(xp: Place) -> None:
    x = xp.tensor([2.0], requires_grad=True)
    trunk = x * x
    first, second = tg.sum(trunk * 2.0), tg.sum(trunk * 3.0)
    first.backward()
    with pytest.raises(RuntimeError, match="released by an earlier backward"):
        second.backward()
    xp.check(x.grad, [8.0])  # the failed walk wrote nothing


def test_gradient_argument(xp: Place) -> None:
    x = xp.tensor([1.0, 2.0], requires_grad=True)
    (x * x).backward(xp.tensor([10.0, 1.0]))
    xp.check(x.grad, [20.0, 4.0])


def test_retain_grad_keeps_intermediate_gradients(xp: Place) -> None:
    x = xp.tensor([1.0, 2.0], requires_grad=True)
    a = x * 2.0
    before = tg.sum(a)  # a use from before the call counts as well
    a.retain_grad()
    (tg.sum(a * a) + before).backward()
    xp.check(a.grad, 2 * np.asarray([2.0, 4.0]) + 1)
    xp.check(x.grad, 2 * (2 * np.asarray([2.0, 4.0]) + 1))
    assert not a.is_leaf


def test_retained_gradient_survives_a_later_write_in_place() -> None:
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    y = x * 1.0
    y[0] = 5.0
    y.retain_grad()
    tg.sum(y * y).backward()
    np.testing.assert_array_equal(np.asarray(y.grad), [10.0, 4.0])
    np.testing.assert_array_equal(np.asarray(x.grad), [0.0, 4.0])


def test_create_graph_gives_second_and_third_derivatives(xp: Place) -> None:
    x = xp.tensor([0.5, 1.5], requires_grad=True)
    tg.sum(tg.sin(x) * x).backward(create_graph=True)
    first = x.grad
    assert first is not None
    x.grad = None
    tg.sum(first).backward(create_graph=True)
    second = x.grad
    assert second is not None
    x.grad = None
    tg.sum(second).backward()
    v = np.asarray([0.5, 1.5])
    xp.check(first, np.sin(v) + v * np.cos(v))
    xp.check(second, 2 * np.cos(v) - v * np.sin(v))
    xp.check(x.grad, -3 * np.sin(v) - v * np.cos(v))


def test_first_derivatives_are_not_recorded() -> None:
    x = tg.tensor([1.0], requires_grad=True)
    tg.sum(x * x).backward()
    assert x.grad is not None
    assert not x.grad.requires_grad


def test_no_grad_and_enable_grad() -> None:
    x = tg.tensor([1.0], requires_grad=True)
    with tg.no_grad():
        assert not (x * x).requires_grad
        with tg.enable_grad():
            assert (x * x).requires_grad
        assert not (x * x).requires_grad
    assert (x * x).requires_grad

    @tg.no_grad()
    def f() -> tg.Tensor:
        return x * x

    assert not f().requires_grad


def test_recording_is_restored_after_an_exception() -> None:
    x = tg.tensor([1.0], requires_grad=True)
    with pytest.raises(KeyError), tg.no_grad():
        raise KeyError
    assert (x * x).requires_grad
    with pytest.raises(KeyError):
        tg.grad(lambda x: {}[x])(1.0)
    assert (x * x).requires_grad


def test_several_outputs(xp: Place) -> None:
    x = xp.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], requires_grad=True)
    a, _, c = tg.unstack(x)
    tg.sum(a * c + a).backward()
    xp.check(x.grad, [[6.0, 7.0], [0.0, 0.0], [1.0, 2.0]])


def chain(n: int) -> tuple[tg.Tensor, tg.Tensor]:
    x = tg.tensor(1.0, requires_grad=True)
    y = x
    for _ in range(n):
        y = y + 1e-6
    return x, y


MANY = 200_000  # so many frames of a recursion do not fit on a stack of 8 MB


def test_a_chain_of_a_million_operations_differentiates_and_is_freed() -> None:
    x, y = chain(1_000_000)
    y.backward()
    assert x.grad is not None
    assert x.grad.item() == 1.0
    x, y = chain(MANY)
    last = weakref.ref(y)
    del x, y  # freed without a walk, and without recursion
    assert last() is None


def test_very_many_unreleased_records_are_freed_without_recursion() -> None:
    x, y = chain(MANY)
    y.backward(retain_graph=True)
    del y
    assert x.grad is not None


def test_time_is_linear_in_records() -> None:
    def seconds(n: int) -> float:
        best = np.inf
        for _ in range(3):
            _, y = chain(n)
            start = time.process_time()
            y.backward()
            best = min(best, time.process_time() - start)
        return float(best)

    assert seconds(160_000) < 12 * seconds(40_000)


def test_a_diamond_with_two_to_the_twenty_paths() -> None:
    x = tg.tensor(1.0, requires_grad=True)
    y = x
    for _ in range(20):
        y = y + y
    y.backward()
    assert x.grad is not None
    assert x.grad.item() == 2.0**20


def test_graphs_are_freed_by_reference_counts_alone() -> None:
    """With the cycle collector off, nothing of a step stays behind."""

    def step() -> Any:
        x = tg.tensor(np.ones(8), requires_grad=True)
        y = tg.exp(x * x + x)[2:]
        y[0] = tg.sum(x)
        z = tg.sum(tg.softmax(tg.concat([y, x])))
        buffers = [weakref.ref(t._array) for t in (y, z)] + [weakref.ref(x), weakref.ref(y)]
        z.backward(create_graph=True)
        x.grad = None  # a recorded gradient and its leaf refer to each other
        return buffers

    gc.collect()
    gc.disable()
    try:
        assert all(r() is None for r in step())
        unwalked = tg.exp(tg.tensor([1.0], requires_grad=True))
        out = weakref.ref(unwalked._array)
        del unwalked
        assert out() is None
    finally:
        gc.enable()


def test_saves_are_released_as_they_are_used() -> None:
    """Peak memory of a deep backward pass stays near that of the forward pass alone."""
    n, size = 50, 100_000
    x = tg.tensor(np.ones(size), requires_grad=True)
    tracemalloc.start()
    try:
        y = x
        for _ in range(n):
            y = tg.tanh(y)
        forward = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        tg.sum(y).backward()
        peak = tracemalloc.get_traced_memory()[1]
        del y
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert forward > n * size * 8
    assert peak < forward + 5 * size * 8
    assert after < 3 * size * 8


def test_intermediate_results_that_no_rule_reads_are_dropped() -> None:
    x = tg.tensor(np.ones(1000), requires_grad=True)
    a = x + 1.0
    buffer = weakref.ref(a._array)
    y = a + 2.0
    del a
    assert buffer() is None
    assert y.requires_grad


def test_threads_differentiate_their_own_tapes() -> None:
    results: dict[int, float] = {}

    def work(k: int) -> None:
        for _ in range(30):
            x = tg.tensor(np.full(50, float(k)), requires_grad=True)
            y = x
            for _ in range(20):
                y = y * 1.01 + x
            tg.sum(y).backward()
            assert x.grad is not None
            results[k] = float(np.asarray(x.grad)[0])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 8
    assert len(set(results.values())) == 1  # the gradient does not depend on x here


def test_recording_is_off_in_one_thread_only() -> None:
    x = tg.tensor([1.0], requires_grad=True)
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        with tg.no_grad():
            inside.set()
            done.wait(10)

    t = threading.Thread(target=hold)
    t.start()
    inside.wait(10)
    try:
        assert (x * x).requires_grad
    finally:
        done.set()
        t.join()


def test_threads_may_share_a_leaf() -> None:
    w = tg.tensor(np.ones(10), requires_grad=True)
    grads: list[Any] = []

    def work() -> None:
        for _ in range(20):
            g = tg.grad(lambda w: tg.sum(w * w))(w.detach())
            grads.append(np.asarray(g))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(grads) == 80
    assert all((g == 2.0).all() for g in grads)


def test_an_error_in_the_walk_writes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = (tg.tensor([1.0], requires_grad=True) for _ in range(2))
    y = tg.sum(tg.exp(x) * w)

    def broken(*args: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(rules.OPERATIONS["exp"], "vjps", ((broken, 0, None),))
    with pytest.raises(MemoryError):
        y.backward()
    assert x.grad is None
    assert w.grad is None


def row_seconds(n: int, work: Any) -> float:
    best = np.inf
    for _ in range(3):
        x = tg.tensor(np.ones((n, 256), np.float32), requires_grad=True)
        start = time.process_time()
        work(x, n)
        best = min(best, time.process_time() - start)
        assert x.grad is not None
    return float(best)


def read_rows(x: tg.Tensor, n: int) -> None:
    total = x[0]
    for i in range(1, n):
        total = total + x[i]
    tg.sum(total).backward()
    np.testing.assert_array_equal(np.asarray(x.grad), np.ones((n, 256)))


def write_rows(x: tg.Tensor, n: int) -> None:
    y = tg.zeros((n, 256), dtype=tg.float32)
    for i in range(n):
        y[i] = x[0]
    tg.sum(y).backward()
    np.testing.assert_array_equal(np.asarray(x.grad)[0], np.full(256, n))


@pytest.mark.parametrize("work", [read_rows, write_rows])
def test_row_loops_are_linear(work: Any) -> None:
    """Eight times the rows take about eight times the time; a whole array for each row would take 64 times."""
    assert row_seconds(2000, work) < 24 * row_seconds(250, work)
