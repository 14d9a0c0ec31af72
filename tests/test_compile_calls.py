"""Calls over time: errors, threads, the limit, objects that are kept alive."""

from __future__ import annotations

import gc
import threading
import weakref
from contextlib import ExitStack
from typing import Any

import pytest
from compiling import CALLS, Model, clean, visible
from test_compile import plain

import tapegrad as tg
from tapegrad._compile.function import LIMIT
from tapegrad._engine.dispatch import CaptureError


@pytest.mark.parametrize("call", range(5))
def test_an_error_of_the_users_leaves_what_an_eager_call_leaves(call: int) -> None:
    eager, m = Model(), Model()

    class Failure(Exception):
        pass

    def failing(m: Any, x: Any, y: Any, fail: Any = None) -> Any:
        m.zero()
        loss = m.loss(x, y)
        loss.backward()
        m.sgd(0.1)
        if state["fail"]:
            m.left = loss
            raise Failure(loss)
        return loss

    state = {"fail": False}
    f = tg.compile(lambda x, y: failing(m, x, y))
    for i in range(CALLS):
        state["fail"] = i == call and i < 3
        runs: list[tuple[Any, Any]] = [(f, m), (lambda x, y: failing(eager, x, y), eager)]
        for g, model in runs:
            if state["fail"]:
                with pytest.raises(Failure):
                    g(*model.batch(i))
            else:
                g(*model.batch(i))
        clean(m)
        assert visible(m) == visible(eager)


def test_threads() -> None:
    m = Model()
    m.total = tg.zeros(())  # type: ignore[attr-defined]

    @tg.compile
    def step(x: tg.Tensor) -> tg.Tensor:
        m.total += tg.sum(x)  # type: ignore[attr-defined]
        return x * 2.0

    errors: list[BaseException] = []

    def work(n: int) -> None:
        try:
            for i in range(50):
                x = tg.asarray([float(n), float(i)])
                assert step(x).tolist() == [2.0 * n, 2.0 * i]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    assert m.total.item() == 50 * 6 * 2 / 2 + 4 * sum(range(50))  # type: ignore[attr-defined]


def test_the_limit_warns_and_stays_right() -> None:
    def twice(x: tg.Tensor) -> tg.Tensor:
        return x * 2.0

    f = tg.compile(twice)
    for n in range(LIMIT):
        for i in range(4):
            assert f(tg.full(n + 1, float(i))).tolist() == [2.0 * i] * (n + 1)
    with pytest.warns(
        RuntimeWarning, match=r"twice was called with 9 combi.*has 8.*last change was in .*0.*\[8\].*\[9\]"
    ):
        assert f(tg.ones(LIMIT + 1)).tolist() == [2.0] * (LIMIT + 1)
    assert f(tg.ones(LIMIT + 2)).tolist() == [2.0] * (LIMIT + 2)  # warned once


def test_numbers_that_change_at_each_call_warn_and_stay_right() -> None:
    f = tg.compile(lambda x, n: x * n)

    def steps() -> None:
        for n in range(50):
            assert f(tg.asarray(2.0), n).item() == 2.0 * n

    with pytest.warns(RuntimeWarning, match=r"has 0 of these.*last change was in 1: \d+ and \d+. Pass changing values"):
        steps()


def test_state_that_becomes_a_result_is_captured_anew() -> None:
    w, s = tg.tensor([1.0, 2.0], requires_grad=True), tg.tensor([3.0, 4.0], requires_grad=True)
    f = tg.compile(lambda x: tg.grad(lambda v: tg.sum(v * s.detach()))(x))
    for i in range(6):
        f(tg.asarray([1.0, float(i)]))
    s.requires_grad = False
    s[...] = w * 2.0
    with pytest.raises(CaptureError, match="a result of setitem, is recorded.*detach"):
        _until_captured(f)


def _until_captured(f: Any) -> None:
    for i in range(3):
        f(tg.asarray([1.0, float(i)]))


def test_other_threads_may_use_compiled_functions_of_the_same_state() -> None:
    m = Model()
    x, y = m.batch(0)
    errors: list[BaseException] = []

    def work(shape: int) -> None:
        try:
            f = tg.compile(lambda v: tg.sum(v @ m.w).detach())
            for n in range(40):
                v = tg.full((n % 5 + 1, 4), float(shape))
                assert abs(f(v).item() - tg.sum(v @ w).item()) < 1e-9
        except BaseException as error:
            errors.append(error)

    w = m.w.detach()
    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert x.shape[0] == y.shape[0]
    assert errors == []


def test_nothing_of_a_call_is_kept_alive() -> None:
    m = Model()
    f = tg.compile(lambda x, y: plain(m, x, y))
    seen = []
    for i in range(CALLS):
        x, y = m.batch(i)
        loss = f(x, y)
        seen += [weakref.ref(v) for v in (x, y, loss)]
    del x, y, loss
    gc.collect()
    assert not any(r() is not None for r in seen)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: tg.reshape(x, (6,)),
        lambda x: tg.matrix_transpose(x),
        lambda x: x[1:],
        lambda x: tg.unstack(x)[0],
        lambda x: tg.repeat(x, 2, axis=0),
    ],
)
def test_a_result_that_is_a_view_of_what_was_computed_may_be_kept(view: Any) -> None:
    x = tg.asarray([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    f = tg.compile(lambda x: view(x * 2.0))
    kept = [f(x) for _ in range(CALLS)]
    assert all(tg.all(y == view(x * 2.0)) for y in kept)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_under_no_grad_inside_a_transform_it_is_compiled(blocks: int) -> None:
    calls = []

    @tg.compile
    def teacher(x: Any) -> Any:
        calls.append(1)
        return x * 2.0

    def loss(x: Any) -> Any:
        with ExitStack() as stack:
            for _ in range(blocks):
                stack.enter_context(tg.no_grad())
            y = teacher(x.detach())
        return tg.sum(x * y)

    for _ in range(6):
        assert tg.grad(loss)(tg.ones(2)).tolist() == [2.0, 2.0]
    assert len(calls) == 2

    def cut(x: Any) -> Any:
        with tg.no_grad():
            return tg.sum(teacher(x))

    for _ in range(4):  # an eager call, and captured ones
        with pytest.raises(RuntimeError, match=r"the chain was cut by no_grad\(\)|is recorded: .*pass it detached"):
            tg.grad(cut)(tg.ones(2))
