"""NumPy's BLAS beside compiled programs: held to one thread, and adding updates to parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.backends._numpy.executor import axpy, blas, sharing


def test_blas_is_held_and_let_go() -> None:
    if not blas.can_hold():
        pytest.skip("threadpoolctl is not installed")

    def now() -> list[int]:
        return [library.get_num_threads() for library in blas.loaded()]

    before = now()
    with blas.held():
        held = now()
    assert set(held) == {1}
    assert now() == before


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have updates of any size added by BLAS."""
    if axpy.axpy(np.dtype(np.float32)) is None:
        pytest.skip("threadpoolctl is not installed, or NumPy's BLAS is another than OpenBLAS")
    monkeypatch.setattr(sharing, "WAKES_BLAS", 1)
    monkeypatch.setattr(axpy, "LARGE", 1)


Update = Callable[[tg.Tensor, tg.Tensor, tg.Tensor], None]


def subtract(w: tg.Tensor, g: tg.Tensor, rate: tg.Tensor) -> None:
    w -= 0.05 * g


def by_a_tensor(w: tg.Tensor, g: tg.Tensor, rate: tg.Tensor) -> None:
    w -= g * rate


def add(w: tg.Tensor, g: tg.Tensor, rate: tg.Tensor) -> None:
    w[...] = g * 0.3 + w


def plain(w: tg.Tensor, g: tg.Tensor, rate: tg.Tensor) -> None:
    w += g


def divided(w: tg.Tensor, g: tg.Tensor, rate: tg.Tensor) -> None:
    w -= g / 7


def test_what_is_added_is_what_numpy_adds() -> None:
    for dtype in (np.float32, np.float64):
        function = axpy.axpy(np.dtype(dtype))
        if function is None:
            pytest.skip("threadpoolctl is not installed, or NumPy's BLAS is another than OpenBLAS")
        x, y = np.random.default_rng(0).normal(size=(2, 300, 101)).astype(dtype)
        x[0, :4] = np.inf, -np.inf, np.nan, -0.0
        for sign in (1, -1):
            out = y.copy()
            axpy.add_multiple(function, sign, 1, x, out)
            np.testing.assert_array_equal(out, y + sign * x)
            turned = np.asfortranarray(y)
            axpy.add_multiple(function, sign, 1, x, turned)
            np.testing.assert_array_equal(turned, out)
    assert axpy.axpy(np.dtype(np.float16)) is axpy.axpy(np.dtype(np.int64)) is None


def training(update: Update, dtype: Any, **options: Any) -> tuple[Any, list[Any]]:
    """Return the parameters after a few steps, and the names of the functions that the program calls."""
    rng = np.random.default_rng(0)
    w = tg.tensor(rng.normal(size=(30, 20)), dtype=dtype, requires_grad=True)
    x = tg.tensor(rng.normal(size=(5, 30)), dtype=dtype)
    rate = tg.tensor(0.05, dtype=dtype)

    def step() -> Any:
        w.grad = None
        loss = tg.mean(tg.tanh(x @ w))
        loss.backward()
        with tg.no_grad():
            update(w, w.grad, rate)  # type: ignore[arg-type]
        return loss

    compiled: Any = tg.compile(step, **options) if options else step
    losses = [compiled().item() for _ in range(6)]
    code = compiled._last.executor.code if options else []
    return (losses, np.asarray(w.detach())), [getattr(function, "__name__", "") for function, _ in code]


UPDATES = [subtract, by_a_tensor, add, plain, divided]


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.usefixtures("small")
def test_updates_are_added_by_blas_to_the_bit(update: Update, dtype: Any) -> None:
    (losses, w), called = training(update, dtype, threads=2)
    assert "add_multiple" in called
    (expected, final), _ = training(update, dtype)
    assert losses == expected
    np.testing.assert_array_equal(w, final)


@pytest.mark.parametrize("runs", [False, True])
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.usefixtures("small")
def test_reassociated_updates_are_rounded_once(monkeypatch: pytest.MonkeyPatch, update: Update, runs: bool) -> None:
    monkeypatch.setattr("tapegrad.backends.Backend.smallest_run", 4 if runs else 1_000_000)
    (losses, w), called = training(update, np.float64, threads=2, reassociate=True)
    assert "add_multiple" in called
    alone = runs and update in (subtract, by_a_tensor, add)  # no pass for the product
    assert called.count("multiply") == training(update, np.float64, threads=2)[1].count("multiply") - alone
    (expected, final), _ = training(update, np.float64)
    np.testing.assert_allclose(losses, expected, rtol=1e-14)
    np.testing.assert_allclose(w, final, rtol=1e-14)


@pytest.mark.usefixtures("small")
def test_who_else_reads_the_step_gets_it() -> None:
    rng = np.random.default_rng(0)
    w = tg.tensor(rng.normal(size=(30, 20)))
    x = tg.tensor(rng.normal(size=(20, 20)))

    def step() -> Any:
        product = w @ x
        change = 0.1 * product
        w.__isub__(change)
        return change, w + 0

    compiled = tg.compile(step, threads=2, reassociate=True)
    for _ in range(5):
        before = np.asarray(w).copy()
        change, after = map(np.asarray, compiled())
        np.testing.assert_allclose(change, 0.1 * (before @ np.asarray(x)), rtol=1e-12)
        np.testing.assert_allclose(after, before - change, rtol=1e-12)


@pytest.mark.usefixtures("small")
def test_one_thread_leaves_updates_to_numpy() -> None:
    assert "add_multiple" not in training(subtract, np.float32, threads=1)[1]


def test_small_updates_are_left_to_numpy() -> None:
    assert "add_multiple" not in training(subtract, np.float32, threads=2)[1]


@pytest.mark.usefixtures("small")
def test_a_state_that_steps_along_itself() -> None:
    w = tg.tensor(np.arange(12.0).reshape(3, 4))
    other = tg.tensor(np.ones((4, 4)))

    def step() -> Any:
        w.__isub__(0.5 * w)
        return w @ other

    compiled = tg.compile(step, threads=2, reassociate=True)
    for n in range(1, 6):
        compiled()
        np.testing.assert_array_equal(w, np.arange(12.0).reshape(3, 4) / 2**n)
