"""Where a derivative is undefined: the documented value, never a silent NaN from 0 * inf."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg

inf = np.inf


def slope(f: Callable[..., Any], x: float) -> float:
    with np.errstate(all="ignore"):
        return float(tg.grad(f)(tg.asarray(x)).item())


@pytest.mark.parametrize(
    ("f", "x", "expected"),
    [
        (tg.abs, 0.0, 0.0),
        (tg.relu, 0.0, 0.0),
        (tg.sqrt, 0.0, inf),
        (tg.reciprocal, 0.0, -inf),
        (lambda x: tg.maximum(x, 1.0), 1.0, 0.5),
        (lambda x: tg.minimum(1.0, x), 1.0, 0.5),
        (lambda x: tg.clip(x, 0.0, 1.0), 0.0, 1.0),
        (lambda x: tg.clip(x, 0.0, 1.0), 1.0, 1.0),
        (lambda x: tg.hypot(x, 0.0 * x), 0.0, 0.0),
        (lambda x: tg.atan2(x, 0.0 * x), 0.0, 0.0),
        (lambda x: tg.copysign(x, -1.0), 0.0, 0.0),
        (lambda x: x**0, 0.0, 0.0),
        (lambda x: x**1, 0.0, 1.0),
        (lambda x: x**2, 0.0, 0.0),
        (lambda x: x ** tg.asarray(0.0), 0.0, 0.0),
        (lambda x: x ** tg.asarray(1.0), 0.0, 1.0),
        (lambda x: tg.asarray(0.0) ** x, 2.0, 0.0),
        (lambda x: tg.std(tg.stack([x, x])), 3.0, 0.0),
        (lambda x: tg.max(tg.stack([x, 2 * x, x + 1])), 1.0, 1.5),
        (lambda x: tg.logsumexp(tg.stack([x, tg.asarray(-inf)])), 1.0, 1.0),
        (lambda x: tg.logaddexp(x, tg.asarray(-inf)), 1.0, 1.0),
    ],
)
def test_documented_values(f: Callable[..., Any], x: float, expected: float) -> None:
    assert slope(f, x) == expected


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("tensor", [False, True])
def test_pow_at_zero_to_third_order(xp: Place, n: int, tensor: bool) -> None:
    exponent = xp.tensor(float(n)) if tensor else n
    f: Callable[..., Any] = lambda x: x**exponent  # noqa: E731
    for order in range(1, 4):
        f = tg.grad(f)
        expected = {0: 0, 1: float(order == 1), 2: 2.0 if order == 2 else 0.0}[n]
        xp.check(f(xp.tensor(0.0)), expected)


UNSELECTED: list[tuple[Callable[..., Any], float]] = [
    (tg.sqrt, 0.0),
    (tg.sqrt, -1.0),
    (tg.log, 0.0),
    (tg.log, -1.0),
    (tg.log2, 0.0),
    (tg.log10, 0.0),
    (tg.log1p, -1.0),
    (tg.reciprocal, 0.0),
    (lambda x: 1.0 / x, 0.0),
    (lambda x: x / x, 0.0),
    (lambda x: x**0.5, 0.0),
    (lambda x: x**0.5, -1.0),
    (lambda x: x**-1.0, 0.0),
    (lambda x: x ** tg.asarray(-1.5), 0.0),
    (lambda x: tg.asarray(-2.0) ** x, 0.5),
    (tg.acos, 1.0),
    (tg.asin, 2.0),
    (tg.acosh, 1.0),
    (tg.atanh, 1.0),
    (lambda x: tg.hypot(x, x), 0.0),
    (lambda x: tg.log(tg.sqrt(x)), 0.0),
]


@pytest.mark.parametrize(("f", "x"), UNSELECTED)
def test_an_unselected_branch_has_gradient_zero(f: Callable[..., Any], x: float) -> None:
    """`where` with NaN or inf in the branch not taken: first and second derivatives are those of the other."""

    def g(x: Any) -> Any:
        return tg.where(tg.asarray(False), f(x), x * x)

    assert slope(g, x) == 2 * x
    assert slope(lambda x: tg.grad(g)(x), x) == 2.0


def test_a_zero_cotangent_keeps_second_derivatives() -> None:
    """The Hessian of log(x)^2 at 1 is 2: the cotangent is zero there, and must not be tested alone."""
    assert slope(tg.grad(lambda x: tg.log(x) ** 2), 1.0) == 2.0
    assert slope(tg.grad(lambda x: tg.sqrt(x - 1.0) ** 4), 2.0) == 2.0
    assert slope(tg.grad(lambda x: (x**3 + 8.0) ** 2), -2.0) == 2 * 12.0**2


def test_prod_with_zeros_is_exact(xp: Place) -> None:
    x = xp.tensor([0.0, 2.0, 3.0], requires_grad=True)
    tg.prod(x).backward()
    xp.check(x.grad, [6.0, 0.0, 0.0])
    y = xp.tensor([0.0, 2.0, 0.0], requires_grad=True)
    tg.sum(tg.cumulative_prod(y)).backward()
    xp.check(y.grad, [1.0 + 2.0 + 0.0, 0.0, 0.0])


def test_ties_share_equally(xp: Place) -> None:
    x = xp.tensor([1.0, 3.0, 3.0], requires_grad=True)
    (tg.max(x) + tg.min(x)).backward()
    xp.check(x.grad, [1.0, 0.5, 0.5])


def test_sort_ties_follow_the_stable_order(xp: Place) -> None:
    x = xp.tensor([2.0, 1.0, 2.0], requires_grad=True)
    (tg.sort(x) * xp.tensor([1.0, 10.0, 100.0])).backward(xp.tensor([1.0, 1.0, 1.0]))
    xp.check(x.grad, [10.0, 1.0, 100.0])


def test_large_values_do_not_overflow(xp: Place) -> None:
    x = xp.tensor([80.0, -80.0, 0.0] if not xp.double else [800.0, -800.0, 0.0], requires_grad=True)
    for f in (tg.sigmoid, tg.silu, tg.softmax, tg.log_softmax, tg.logsumexp, tg.gelu, tg.tanh):
        x.grad = None
        tg.sum(f(x)).backward()
        assert np.isfinite(xp.values(x.grad)).all()


@pytest.mark.parametrize("f", [tg.var, tg.std])
def test_the_sample_variance_of_one_value_is_not_a_number(f: Callable[..., Any]) -> None:
    """Where NumPy has 0 / 0 for the value, the gradient is NaN too, and no error."""
    x = tg.tensor([3.0], requires_grad=True)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y = f(x, correction=1)
        y.backward()
    assert np.isnan(y.item())
    assert x.grad is not None
    assert np.isnan(x.grad.tolist()).all()
