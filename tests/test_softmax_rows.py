"""Softmax of large arrays on NumPy, which goes by blocks of rows, beside the way of small ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.backends._numpy import rows, softmax
from tapegrad.testing import gradgradcheck


def written_out(x: Any, t: Any) -> tuple[Any, Any]:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    return p, p * (t - (t * p).sum(axis=-1, keepdims=True))


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(request.param))
    monkeypatch.setattr(rows, "SHARED", 1)
    monkeypatch.setattr(rows, "BLOCK", 1000)
    monkeypatch.setattr(softmax, "FEWEST", 1)


SHAPES: list[tuple[int, ...]] = [(7, 130), (3, 5, 64), (1, 4096), (4097, 1), (2, 3, 4, 5), (2, 1500), (9,)]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_give_the_bits_of_whole_passes(shape: tuple[int, ...], dtype: str) -> None:
    rng = np.random.default_rng(0)
    x, t = (4 * rng.normal(size=(2, *shape))).astype(dtype)
    assert softmax.softmax_rows(x, -1) is not None
    w = tg.tensor(x, requires_grad=True)
    y = tg.softmax(w)
    y.backward(tg.asarray(t))
    for found, right in zip((y.detach(), w.grad), written_out(x, t), strict=True):
        assert found is not None
        np.testing.assert_array_equal(found, right, strict=True)


@pytest.mark.usefixtures("threads")
def test_infinities_and_nan_are_those_of_one_pass() -> None:
    x = np.zeros((6, 40))
    x[1, 3], x[2, 4], x[3, 5], x[4], x[5] = np.inf, -np.inf, np.nan, -np.inf, 1e308
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(tg.softmax(tg.asarray(x)), written_out(x, x)[0])


@pytest.mark.usefixtures("threads")
def test_second_order_maps_and_compiled_calls() -> None:
    rng = np.random.default_rng(1)
    x, t = rng.normal(size=(2, 6, 40))
    gradgradcheck(tg.softmax, [tg.tensor(x[:2, :5], requires_grad=True)])
    mapped = tg.vmap(tg.grad(lambda row, u: tg.sum(tg.softmax(row) * u)))(tg.asarray(x), tg.asarray(t))
    np.testing.assert_allclose(mapped, written_out(x, t)[1], rtol=1e-12, atol=1e-15)
    (slopes,) = tg.vmap(lambda u: tg.vjp(tg.softmax, tg.asarray(x))[1](u))(tg.asarray(np.stack([t, 2 * t])))
    np.testing.assert_allclose(slopes[1], 2 * written_out(x, t)[1], rtol=1e-12, atol=1e-15)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_compiled_calls_give_the_bits_of_eager_ones(dtype: str) -> None:
    x, t = (tg.asarray(a.astype(dtype)) for a in 3 * np.random.default_rng(2).normal(size=(2, 300, 700)))

    def step(x: tg.Tensor) -> Any:
        return tg.value_and_grad(lambda x: tg.sum(tg.softmax(x) * t))(x)

    compiled, right = tg.compile(step), step(x)
    for _ in range(4):
        found = compiled(x)
    np.testing.assert_array_equal(found[1], right[1])


@pytest.mark.parametrize(
    ("x", "axis"),
    [
        (np.zeros((300, 300), np.float16), -1),
        (np.zeros((300, 300)).T, -1),  # its rows do not lie in a row
        (np.zeros((300, 300)), 0),
        (np.zeros((4, 4)), -1),
    ],
    ids=["halves", "transposed", "columns", "small"],
)
def test_arrays_that_gain_nothing_go_the_other_way(x: Any, axis: int) -> None:
    assert softmax.softmax_rows(x, axis) is None
    assert softmax.softmax_rows_gradient(x, x, axis) is None
    np.testing.assert_allclose(tg.softmax(tg.asarray(x), axis=axis), 1 / x.shape[axis], rtol=1e-3)
