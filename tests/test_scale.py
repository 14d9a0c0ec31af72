"""Functions that do not change their form with the scale of their operand: right from the smallest to the largest."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg

inf = np.inf
ORDERS = [2, 1, 3, 0.5, 1.5, 10, -1, -2, -0.5, inf, -inf]
# Homogeneous of degree 1: f(s x) = s f(x), and the gradient is the same for all s > 0.
NORMS: dict[str, Callable[[Any], Any]] = {
    **{f"vector_norm {ord}": partial(tg.linalg.vector_norm, ord=ord) for ord in ORDERS},
    **{f"vector_norm {ord} axis": partial(tg.linalg.vector_norm, ord=ord, axis=-1) for ord in ORDERS},
    "vector_norm keepdims": lambda x: tg.linalg.vector_norm(x, axis=0, keepdims=True),
    "matrix_norm": tg.linalg.matrix_norm,
    "hypot": lambda x: tg.hypot(x[0], x[1]),
    "atan2": lambda x: x[0] * tg.atan2(x[0], x[1]),
    "abs": tg.abs,
    "logaddexp of logs": lambda x: tg.exp(tg.logaddexp(tg.log(x[0]), tg.log(x[1]))),
}
X = np.asarray([[3.0, 0.5, 1.0, 2.5], [4.0, 1.25, 7.0, 0.75]])


def scales(dtype: str) -> list[float]:
    """Return powers of two, so that no operand is rounded, towards both ends of a dtype."""
    low, high = {"float64": (-1000, 1015), "float32": (-110, 115), "float16": (-8, 8)}[dtype]
    return [2.0**low, 2.0 ** (low // 2), 1.0, 2.0 ** (high // 2), 2.0 ** (high - 3)]


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_norms_have_one_slope_at_all_scales(xp: Place, name: str, dtype: str, kind: str) -> None:
    f = NORMS[name]
    if (dtype == "float64" and not xp.double) or (dtype == "float16" and "strict" in xp.device):
        pytest.skip("the device has no such dtype")
    if kind == "complex" and (dtype == "float16" or name in ("hypot", "atan2", "logaddexp of logs")):
        pytest.skip("not of complex values")
    if name == "logaddexp of logs" and (dtype == "float16" or "strict" in xp.device):
        pytest.skip("exp(log(x)) has too few digits")
    values = X.astype(dtype)
    if kind == "complex":
        values = values * np.asarray(0.6 + 0.8j, dtype={"float64": np.complex128, "float32": np.complex64}[dtype])
    tolerance = {"float64": 3e-13, "float32": 2e-4, "float16": 3e-2}[dtype]

    def at(s: float) -> tuple[Any, Any]:
        x = tg.asarray(values * np.asarray(s, dtype=dtype)).to_device(xp.device)
        y, pull = tg.vjp(f, x)
        (g,) = pull(tg.ones_like(y))
        return xp.values(y).astype(float) / s, xp.values(g)

    with np.errstate(all="ignore"):
        y, g = at(1.0)
        for s in scales(dtype):
            y_s, g_s = at(s)
            np.testing.assert_allclose(y_s, y, rtol=tolerance, err_msg=str(s))
            np.testing.assert_allclose(g_s, g, rtol=tolerance, atol=tolerance, err_msg=str(s))


@pytest.mark.parametrize("ord", [2, 3, 0.5, -1, -2, 10])
def test_norms_are_those_of_numpy(xp: Place, ord: float) -> None:
    for x in (X, X[:, :1], -X):
        xp.check(tg.linalg.vector_norm(xp.tensor(x), ord=ord, axis=1), np.linalg.norm(x, ord, axis=1))
        got = tg.linalg.vector_norm(xp.tensor(x), ord=ord, axis=(0, 1), keepdims=True)
        xp.check(got, np.linalg.norm(x.ravel(), ord).reshape(1, 1))


@pytest.mark.parametrize("ord", [-1, -2, -0.5, -inf])
def test_a_zero_makes_a_norm_of_negative_order_constant(xp: Place, ord: float) -> None:
    """The norm is 0 whatever the other elements are: their slope is 0."""
    x = xp.tensor([[0.0, -0.18, 0.5], [1.0, 2.0, -2.0]])
    y, pull = tg.vjp(lambda x: tg.linalg.vector_norm(x, ord=ord, axis=-1), x)
    (g,) = pull(tg.ones_like(y))
    assert xp.values(y)[0] == 0
    np.testing.assert_array_equal(xp.values(g)[0], np.zeros(3))
    assert np.all(xp.values(g)[1, :1] != 0)


@pytest.mark.parametrize("name", ["vector_norm 2", "vector_norm 3", "vector_norm 0.5", "hypot", "std"])
def test_a_norm_that_is_too_large_has_no_slope_of_zero(xp: Place, name: str) -> None:
    """The slope is right or NaN if the norm itself overflows."""
    f = NORMS.get(name, tg.std)
    most = float(np.finfo(np.float64 if xp.double else np.float32).max)
    with np.errstate(all="ignore"):
        g = xp.values(tg.grad(lambda x: tg.sum(f(x)))(xp.tensor([0.9 * most, -0.9 * most])))
    assert np.all(np.isnan(g) | (g != 0))


def test_integers_have_norms() -> None:
    np.testing.assert_allclose(np.asarray(tg.linalg.vector_norm(tg.asarray([3, 4]))), 5.0)
    assert tg.linalg.vector_norm(tg.zeros((0, 3)), axis=0).tolist() == [0.0, 0.0, 0.0]
