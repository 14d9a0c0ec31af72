"""Undefined derivatives: the documented value, never a silent NaN from 0 * inf."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import WHOLE_SWEEPS, Place

import tapegrad as tg
from tapegrad import backends

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
        (tg.relu6, 0.0, 0.0),
        (tg.relu6, 6.0, 0.0),
        (tg.hard_tanh, 1.0, 0.0),
        (tg.hard_tanh, -1.0, 0.0),
        (tg.hard_sigmoid, 3.0, 0.0),
        (tg.hard_sigmoid, -3.0, 0.0),
        (tg.hard_swish, -3.0, 0.0),
        (tg.hard_swish, 3.0, 1.0),
        (tg.leaky_relu, 0.0, 0.01),
        (lambda x: tg.prelu(x, 0.25), 0.0, 0.25),
        (lambda x: tg.elu(x, alpha=0.5), 0.0, 0.5),
        (lambda x: tg.selu(x), 0.0, 1.0507009873554805 * 1.6732632423543772),
        (lambda x: tg.celu(x, alpha=0.5), 0.0, 1.0),
        (tg.softsign, 0.0, 1.0),
        (lambda x: tg.mae_loss(x, 2.0), 2.0, 0.0),
        (lambda x: tg.huber_loss(x, 2.0), 2.0, 0.0),
        (lambda x: tg.hinge_loss(x, 1.0), 1.0, 0.0),
        (lambda x: tg.sum(tg.sparsemax(tg.stack([x, 0.0 * x])) * tg.asarray([2.0, 5.0])), 1.0, 0.0),
        (lambda x: tg.kl_div_loss(tg.asarray(-1.0), x), 0.0, 0.0),
    ],
)
def test_documented_values(f: Callable[..., Any], x: float, expected: float) -> None:
    assert slope(f, x) == expected


def test_absolute_values_of_complex_zeros(xp: Place) -> None:
    """The slope is 0, and has no derivative, in both modes; that of abs(z)^2 is 2, which the chain rule cannot find."""
    z = xp.tensor(np.array([0j, 3.0 + 4.0j]))
    v = xp.tensor(np.array([1.0 + 1.0j, 0.0]))

    def square(z: tg.Tensor) -> tg.Tensor:
        return tg.sum(tg.abs(z) ** 2)

    xp.check(tg.grad(lambda z: tg.sum(tg.abs(z)))(z), np.array([0.0, 0.6 + 0.8j]))
    xp.check(tg.jvp(tg.abs, (z,), (v,))[1], np.zeros(2))
    with np.errstate(all="ignore"):
        forward = xp.values(tg.jvp(tg.grad(square), (z,), (v,))[1])
        reverse = xp.values(tg.grad(lambda z: tg.sum(tg.real(tg.conj(tg.grad(square)(z)) * v)))(z))
    for second in (forward, reverse):
        assert list(np.isnan(second)) == [True, False]
        assert second[1] == 0


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("tensor", [False, True])
def test_pow_at_zero_to_third_order(xp: Place, n: int, tensor: bool) -> None:
    exponent = xp.tensor(float(n)) if tensor else n
    f: Callable[..., Any] = lambda x: x**exponent  # noqa: E731
    for order in range(1, 4):
        f = tg.grad(f)
        expected = {0: 0, 1: float(order == 1), 2: 2.0 if order == 2 else 0.0}[n]
        xp.check(f(xp.tensor(0.0)), expected)


@pytest.mark.parametrize(
    ("y", "orders", "expected"),
    [
        (0.0, (0, 1), 1.25),  # of x ** y at x = 0.8, by x and then by y: 1 / x
        (0.0, (1, 0), 1.25),
        (0.0, (0, 0, 1), -1.5625),
        (0.0, (1, 0, 1), 2.5 * np.log(0.8)),
        (1.0, (0, 0, 1), 1.25),
        (2.0, (0, 0, 0, 1), 2.5),
    ],
)
def test_pow_by_both_operands(xp: Place, y: float, orders: tuple[int, ...], expected: float) -> None:
    f: Callable[..., Any] = tg.pow
    for argument in orders:
        f = tg.grad(f, argument)
    xp.check(f(xp.tensor(0.8), xp.tensor(y)), expected)


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


def test_the_deviation_of_equal_values_has_gradient_zero(xp: Place) -> None:
    """Their mean may be rounded, so that none of them is that."""
    for value, n in product((0.1, 0.3, 1e-3, 7.7, -1e5 / 3), (2, 3, 5, 6, 7, 100)):
        x = xp.tensor(np.full((2, n), value))
        for options in ({}, {"axis": -1}, {"correction": 1}, {"axis": (0, 1), "keepdims": True}):
            g = tg.grad(lambda x, options=options: tg.sum(tg.std(x, **options)))(x)
            np.testing.assert_array_equal(xp.values(g), np.zeros((2, n)))


def test_the_deviation_of_nearly_equal_values() -> None:
    """The deviations from their mean are exact, though that is rounded, and with it the value of NumPy."""
    x = tg.asarray(0.1 + np.asarray([0.0, 1.0, 0.0]) * 2.0**-56)
    deviations = np.asarray([-1, 2, -1]) / 3 * 2.0**-56
    np.testing.assert_allclose(np.asarray(tg.grad(tg.std)(x)), deviations / (3 * tg.std(x).item()), rtol=1e-12)


@pytest.mark.parametrize("f", [tg.logsumexp, lambda x: tg.logsumexp(x, axis=0), lambda x: tg.log_softmax(x)[0]])
@pytest.mark.parametrize("special", [inf, np.nan])
def test_logsumexp_of_what_is_not_finite(xp: Place, f: Callable[..., Any], special: float) -> None:
    """The gradient is that of softmax, which is 1 for infinity and 0 for others beside it, or NaN."""
    with np.errstate(all="ignore"):
        for x in ([special, 1.0, 3.0], [1.0, special, -inf]):
            g = xp.values(gradient(xp, f, np.asarray(x)))
            assert np.all(np.isnan(g) | (g == (np.asarray(x) == inf)))


def test_logsumexp_keeps_the_digits_of_large_values(xp: Place) -> None:
    """exp(x - out) would not: the last digit of out is worth more the larger it is."""
    x = np.asarray([1e5, 1e5 - 1.0, 1e5 - 3.0])
    e = np.exp(x - 1e5)
    got = gradient(xp, tg.logsumexp, x)
    np.testing.assert_allclose(xp.values(got), e / e.sum(), rtol=1e-14 if xp.double else 5e-7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sums_of_exponentials_that_overflow_half_precision(dtype: str) -> None:
    n = 80_000
    device = "torch:cpu" if dtype == "bfloat16" else "cpu"
    if device == "torch:cpu":
        pytest.importorskip("torch")
    x = tg.ones(n, dtype=dtype, device=device)

    def values(y: Any) -> Any:
        return np.asarray(tg.astype(y, "float32").to_device("cpu"))

    assert values(tg.logsumexp(x)) == pytest.approx(1 + np.log(n), rel=1e-2)
    np.testing.assert_allclose(values(tg.grad(tg.logsumexp)(x)), np.full(n, 1 / n), rtol=2e-2)
    np.testing.assert_allclose(values(tg.softmax(x)), np.full(n, 1 / n), rtol=2e-2)
    np.testing.assert_allclose(values(tg.log_softmax(x)), np.full(n, -np.log(n)), rtol=1e-2)
    loss = tg.cross_entropy(tg.reshape(x, (1, n)), tg.asarray([3], device=device))
    assert values(loss) == pytest.approx(np.log(n), rel=1e-2)


def multiples() -> tuple[Any, Any]:
    """Return x and y with x beside multiples of y, where x / y may be rounded up or down to a whole number."""
    y = np.asarray([0.1, 0.2, 0.3, 0.7, -0.1, 1 / 3, 1e-5, 3.0])[:, None]
    x = y * np.asarray([-1e6, -10, -3, -1, 0, 1, 2, 3, 7, 10, 100, 12345, 1e7])
    x = np.concatenate([x, np.round(x, 9)], axis=1)
    x = np.concatenate([np.nextafter(x, -inf), x, np.nextafter(x, inf)], axis=1)
    return x, np.broadcast_to(y, x.shape)


@pytest.mark.parametrize("f", [tg.remainder, lambda x, y: x % y, np.mod])
def test_remainder_beside_multiples(xp: Place, f: Callable[..., Any]) -> None:
    """The derivative in the divisor is the whole number that the remainder leaves."""
    x, y = (xp.tensor(np.ravel(v)) for v in multiples())
    out = f(x, y)
    g = xp.values(gradient(xp, lambda y: f(x, y), xp.values(y)))
    whole = [
        round((Fraction(float(a)) - Fraction(float(r))) / Fraction(float(b)))
        for a, b, r in zip(xp.values(x), xp.values(y), xp.values(out), strict=True)
    ]
    np.testing.assert_array_equal(g, [-float(n) for n in whole])


def test_the_imaginary_part_of_real_values(xp: Place) -> None:
    x = xp.tensor([1.0, 2.0])
    xp.check(tg.imag(x), [0.0, 0.0])
    for f in (lambda x: tg.sum(tg.imag(x)), lambda x: tg.sum(tg.imag(x) * x)):
        g = tg.grad(f)(x)
        assert g.dtype is x.dtype
        xp.check(g, [0.0, 0.0])
    assert tg.jvp(tg.imag, (x,), (x,))[1].dtype is x.dtype


def test_sort_ties_follow_the_stable_order(xp: Place) -> None:
    x = xp.tensor([2.0, 1.0, 2.0], requires_grad=True)
    (tg.sort(x) * xp.tensor([1.0, 10.0, 100.0])).backward(xp.tensor([1.0, 1.0, 1.0]))
    xp.check(x.grad, [10.0, 1.0, 100.0])


gelu_tanh = partial(tg.gelu, approximate="tanh")


def test_large_values_do_not_overflow(xp: Place) -> None:
    x = xp.tensor([80.0, -80.0, 0.0] if not xp.double else [800.0, -800.0, 0.0], requires_grad=True)
    for f in (tg.sigmoid, tg.silu, tg.softmax, tg.log_softmax, tg.logsumexp, tg.gelu, gelu_tanh, tg.tanh):
        x.grad = None
        tg.sum(f(x)).backward()
        assert np.isfinite(xp.values(x.grad)).all()


# -- linear algebra ----------------------------------------------------------------------------------------


def gradient(xp: Place, f: Callable[[tg.Tensor], tg.Tensor], x: Any) -> Any:
    """Return the gradient of the sum of f."""
    leaf = xp.tensor(x, requires_grad=True)
    tg.sum(f(leaf)).backward()
    return leaf.grad


def test_equal_eigenvalues(xp: Place) -> None:
    """Results that do not depend on the basis of their subspace are exact; others are finite."""
    x = np.diag([2.0, 2.0, 5.0])
    xp.check(gradient(xp, tg.linalg.eigvalsh, x), np.eye(3), rtol=1e-12)

    def projector(x: tg.Tensor) -> tg.Tensor:
        v = tg.linalg.eigh(x).eigenvectors[:, :2]
        return (v @ v.mT)[0, 2]

    expected = np.zeros((3, 3))
    expected[0, 2] = expected[2, 0] = 0.5 / (2.0 - 5.0)
    xp.check(gradient(xp, projector, x), expected, rtol=1e-10)
    arbitrary = gradient(xp, lambda x: tg.linalg.eigh(x).eigenvectors, x)
    assert np.isfinite(xp.values(arbitrary)).all()


def test_equal_and_zero_singular_values(xp: Place) -> None:
    x = np.asarray([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    xp.check(gradient(xp, lambda x: tg.linalg.svdvals(x)[:2], x), np.diag([1.0, 1.0, 0.0]), rtol=1e-12)

    def product(x: tg.Tensor) -> tg.Tensor:  # x itself
        u, s, vh = tg.linalg.svd(x)
        return (u * s) @ vh * tg.asarray(np.eye(3)[::-1].copy().tolist(), device=x.device, dtype=x.dtype)

    assert np.isfinite(xp.values(gradient(xp, product, x))).all()


@pytest.mark.parametrize("ord", [2, 1, 3, 1.5, 0.5, float("inf")])
def test_vector_norm_at_zero(xp: Place, ord: float) -> None:
    """0; norms with a power have no second derivative there, and say so."""

    def norm(x: tg.Tensor) -> tg.Tensor:
        return tg.linalg.vector_norm(x, ord=ord)

    zero = gradient(xp, norm, np.zeros(3))
    xp.check(zero, np.zeros(3))
    second = xp.values(tg.grad(lambda x: tg.sum(tg.grad(norm)(x)))(xp.tensor(np.zeros(3))))
    assert np.isfinite(second).all() if ord in (1, np.inf) else np.isnan(second).all()


@pytest.mark.parametrize(("ord", "expected"), [(2, 0.5), (3, 0.0), (1.5, np.nan), (1, 0.0), (4, 0.0)])
def test_second_derivative_of_a_norm_where_one_element_is_zero(ord: float, expected: float) -> None:
    """Right where there is one, at x1 = 0 beside x2 = 2, and no number where it is infinite."""
    hessian = np.asarray(tg.hessian(lambda x: tg.linalg.vector_norm(x, ord=ord))(tg.asarray([0.0, 2.0])))
    np.testing.assert_allclose(hessian[0, 0], expected)
    np.testing.assert_allclose(hessian[1, 1], 0.0, atol=1e-15)


def test_determinant_of_singular_matrices(xp: Place) -> None:
    rank2 = np.asarray([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0, 0.0, 1.0]])
    cofactors = np.asarray([[4.0, 4.0, -4.0], [-2.0, -2.0, 2.0], [0.0, 0.0, 0.0]])
    xp.check(gradient(xp, tg.linalg.det, rank2), cofactors, rtol=1e-12 if xp.double else 1e-5)
    xp.check(gradient(xp, tg.linalg.det, np.outer([1.0, 2.0, 3.0], [1.0, 1.0, 2.0])), np.zeros((3, 3)), rtol=1e-12)
    xp.check(gradient(xp, tg.linalg.det, np.zeros((2, 2))), np.zeros((2, 2)))


def test_equal_eigenvalues_of_a_general_matrix() -> None:
    g = gradient(Place("cpu"), lambda x: tg.real(tg.linalg.eigvals(x)), np.diag([2.0, 2.0, 5.0]))
    np.testing.assert_allclose(np.asarray(g), np.eye(3), atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"axis": 1, "correction": 1}, {"axis": (0, 1), "keepdims": True}], ids=str)
def test_std_where_the_variance_has_no_number(xp: Place, options: Any) -> None:
    """It neither overflows nor underflows before its result does, as the norms; the gradient is right there too."""
    data = np.asarray([[1.0, 3.0, 3.0], [-2.0, 4.0, 2.5]])
    for size in (1e-200, 1e200) if xp.double else (1e-30, 1e30):
        x = xp.tensor(data * size)
        want = tg.std(tg.asarray(data), **options)
        xp.check(tg.std(x, **options) / size, np.asarray(want), rtol=1e-6)
        gradient = np.asarray(tg.grad(lambda x: tg.sum(tg.std(x, **options)))(tg.asarray(data)))
        xp.check(tg.grad(lambda x: tg.sum(tg.std(x, **options)))(x), gradient, rtol=1e-5)


def test_std_in_half_precision() -> None:
    assert tg.std(tg.asarray([0.0, 1000.0], dtype=tg.float16)).item() == 500.0


@pytest.mark.parametrize("f", [tg.var, tg.std])
def test_the_sample_variance_of_one_value_is_not_a_number(f: Callable[..., Any]) -> None:
    """The gradient is NaN, and no error, if NumPy has 0 / 0 for the value."""
    x = tg.tensor([3.0], requires_grad=True)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y = f(x, correction=1)
        y.backward()
    assert np.isnan(y.item())
    assert x.grad is not None
    assert np.isnan(x.grad.tolist()).all()


def test_where_takes_no_harm_from_the_other_branch(xp: Place) -> None:
    """NaN and inf in elements not selected leave gradients finite, on every library, to second order."""
    x = xp.tensor([-1.0, 0.0, 4.0])
    for f, first, second in ((tg.sqrt, 0.25, -1 / 32), (tg.log, 0.25, -1 / 16), (lambda v: v**-0.5, -1 / 16, 3 / 128)):

        def g(v: tg.Tensor, f: Callable[..., Any] = f) -> tg.Tensor:
            return tg.sum(tg.where(v > 0, f(v), v * v))

        with np.errstate(all="ignore"):
            xp.check(tg.grad(g)(x), [-2.0, 0.0, first])
            xp.check(tg.grad(lambda v, g=g: tg.sum(tg.grad(g)(v)))(x), [2.0, 2.0, second])


@pytest.mark.parametrize("f", [tg.max, tg.min])
def test_ties_share_equally_over_axes(xp: Place, f: Callable[..., Any]) -> None:
    sign = 1.0 if f is tg.max else -1.0
    data = sign * np.asarray([[[1.0, 3.0], [3.0, 0.0]], [[3.0, 2.0], [2.0, 2.0]]])
    t = np.asarray([6.0, 12.0])
    third = xp.tensor(data, requires_grad=True)
    f(third, axis=(1, 2)).backward(xp.tensor(t))
    xp.check(third.grad, [[[0.0, 3.0], [3.0, 0.0]], [[12.0, 0.0], [0.0, 0.0]]])
    whole = xp.tensor(data, requires_grad=True)
    f(whole, keepdims=True).backward(xp.tensor([[[6.0]]]))
    xp.check(whole.grad, [[[0.0, 2.0], [2.0, 0.0]], [[2.0, 0.0], [0.0, 0.0]]])
    last = xp.tensor(data, requires_grad=True)
    f(last, axis=-1).backward(xp.tensor(np.ones((2, 2))))
    xp.check(last.grad, [[[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.5, 0.5]]])


def test_sort_ties_descending_follow_the_stable_order(xp: Place) -> None:
    x = xp.tensor([1.0, 2.0, 2.0], requires_grad=True)
    (tg.sort(x, descending=True) * xp.tensor([1.0, 10.0, 100.0])).backward(xp.tensor([1.0, 1.0, 1.0]))
    xp.check(x.grad, [100.0, 1.0, 10.0])


@pytest.mark.parametrize("zeros", [(), (1,), (0, 2), (0, 1, 3), (0, 1, 2, 3)])
def test_products_with_zeros_are_exact_to_second_order(xp: Place, zeros: tuple[int, ...]) -> None:
    """Against the products of the others, written out."""
    a = np.asarray([2.0, -3.0, 0.5, 4.0])
    a[list(zeros)] = 0.0
    n = len(a)

    def others(*left_out: int, of: int = n) -> float:
        return float(np.prod([a[i] for i in range(of) if i not in left_out])) if max(left_out) < of else 0.0

    def hessian(f: Callable[..., Any]) -> list[Any]:
        return [xp.values(tg.grad(lambda v, i=i: tg.grad(f)(v)[i])(xp.tensor(a))) for i in range(n)]

    xp.check(tg.grad(tg.prod)(xp.tensor(a)), [others(i) for i in range(n)])
    expected = np.asarray([[others(i, j) if i != j else 0.0 for j in range(n)] for i in range(n)])
    np.testing.assert_allclose(hessian(tg.prod), expected, rtol=1e-5)
    total: Callable[..., Any] = lambda v: tg.sum(tg.cumulative_prod(v))  # noqa: E731
    upto = range(1, n + 1)
    xp.check(tg.grad(total)(xp.tensor(a)), [sum(others(i, of=k) for k in upto) for i in range(n)])
    expected = np.asarray(
        [[sum(others(i, j, of=k) for k in upto) if i != j else 0.0 for j in range(n)] for i in range(n)]
    )
    np.testing.assert_allclose(hessian(total), expected, rtol=1e-5)


def test_pow_in_y_of_a_negative_number_is_not_a_number(xp: Place) -> None:
    with np.errstate(all="ignore"):
        g = tg.grad(lambda y: tg.sum(xp.tensor([-2.0, 0.0, 2.0]) ** y))(xp.tensor([2.0, 2.0, 2.0]))
    values = xp.values(g)
    assert np.isnan(values[0])
    np.testing.assert_allclose(values[1:], [0.0, 4 * np.log(2)], rtol=1e-5)


def test_a_norm_spelt_out_at_zero(xp: Place) -> None:
    """sqrt(sum(x^2)) at 0 is inf times 0: NaN, as everywhere; hypot and std know better, and `where` leaves it out."""
    norm: Callable[..., Any] = lambda v: tg.sqrt(tg.sum(v * v))  # noqa: E731
    x = xp.tensor([0.0, 0.0])
    with np.errstate(all="ignore"):
        assert np.isnan(xp.values(tg.grad(norm)(x))).all()
        assert np.isnan(xp.values(tg.grad(lambda v: 0.0 * norm(v))(x))).all()
        xp.check(tg.grad(lambda v: tg.where(norm(v) > 0, norm(v), 0.0))(x), [0.0, 0.0])
    xp.check(tg.grad(lambda v: tg.hypot(v[0], v[1]))(x), [0.0, 0.0])
    xp.check(tg.grad(tg.std)(x), [0.0, 0.0])


def test_steps_are_not_recorded(xp: Place) -> None:
    x = xp.tensor([0.5, 2.0], requires_grad=True)
    for name in ("floor", "ceil", "round", "trunc", "sign"):
        assert not getattr(tg, name)(x).requires_grad
    for name in ("floor_divide", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal"):
        assert not getattr(tg, name)(x, 0.75).requires_grad
        assert not getattr(tg, name)(x, x).requires_grad


@pytest.mark.parametrize(
    "f",
    [
        tg.linalg.inv,
        lambda x: tg.linalg.solve(x, tg.ones(2)),
        lambda x: tg.linalg.slogdet(x)[1],
        lambda x: tg.linalg.qr(x)[0],
    ],
)
def test_singular_matrices_raise(f: Callable[..., Any]) -> None:
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="[Ss]ingular"):
        tg.grad(lambda x: tg.sum(f(x)))(tg.zeros((2, 2)))


def _clip_cases() -> tuple[np.ndarray[Any, Any], ...]:
    """Return values and bounds in all combinations of order, with ties and NaN."""
    grid = np.meshgrid(*[[-1.0, 0.0, 1.0, np.nan]] * 3)
    return tuple(a.reshape(-1) for a in grid)


@pytest.mark.parametrize("low", [None, -0.5, np.nan, "array"])
@pytest.mark.parametrize("high", [None, 0.5, -1.5, np.nan, "array"])
def test_clip_gives_the_gradient_to_what_it_took(xp: Place, low: Any, high: Any) -> None:
    """Values are NumPy's, a bound of NaN included; the slope is 1 for the operand that each was taken from."""
    x, *bounds = _clip_cases()
    given = [b if isinstance(kind, str) else kind for kind, b in zip((low, high), bounds, strict=True)]
    arrays = [a for a in (x, *given) if isinstance(a, np.ndarray)]

    def f(*tensors: tg.Tensor) -> tg.Tensor:
        left = list(tensors)
        x = left.pop(0)
        return tg.clip(x, *[left.pop(0) if isinstance(b, np.ndarray) else b for b in given])

    with np.errstate(all="ignore"):
        y, pull = tg.vjp(f, *map(xp.tensor, arrays))
        slopes = [xp.values(g) for g in pull(tg.ones_like(y))]
        if low is None and high is None:
            xp.check(y, x)
        else:
            xp.check(y, np.clip(x, *given))
        for i, a in enumerate(arrays):
            tangents = tuple(xp.tensor(np.full(x.shape, float(i == k))) for k in range(len(arrays)))
            xp.check(tg.jvp(f, tuple(map(xp.tensor, arrays)), tangents)[1], slopes[i])
            assert set(slopes[i]) <= {0, 1}
            chosen = slopes[i] == 1
            np.testing.assert_array_equal(xp.values(y)[chosen], a[chosen])
    total = np.sum(slopes, axis=0)
    assert (total <= 1).all()
    if all(isinstance(b, (np.ndarray, type(None))) for b in given):
        assert (total == 1).all()


# The lines of the table in the guide of subgradients, and where each is tested (by name in another file).
TESTED: dict[str, Any] = {
    "abs, relu, copysign at 0": test_documented_values,
    "abs of complex numbers at 0": test_absolute_values_of_complex_zeros,
    "relu6, hard_tanh, hard_sigmoid at the ends of their slope; hinge_loss at the margin; mae_loss of equal values": (
        test_documented_values
    ),
    "hard_swish at -3 and 3": test_documented_values,
    "leaky_relu, prelu, elu, selu at 0": test_documented_values,
    "sparsemax where a value is just at the threshold": test_documented_values,
    "kl_div_loss in a probability of 0": test_documented_values,
    "sqrt at 0": test_an_unselected_branch_has_gradient_zero,
    "sqrt(sum(x * x)) at 0": test_a_norm_spelt_out_at_zero,
    "maximum, minimum, max, min in a tie": test_ties_share_equally_over_axes,
    "segment_max, segment_min in a tie": "test_segments.test_ties_and_empty_segments",
    "cumulative_max, cumulative_min in a tie": "test_scans.test_first_of_a_tie_gets_the_gradient",
    "top_k in a tie": "test_scans.test_top_k",
    "cumulative_logsumexp where the result is -inf": "test_scans.test_singular_values",
    "max_pool, adaptive_max_pool in a tie": "test_windows.test_the_gradient_goes_to_the_first_maximum",
    "sort in a tie": test_sort_ties_descending_follow_the_stable_order,
    "clip at its bounds": test_documented_values,
    "clip with a bound of NaN": test_clip_gives_the_gradient_to_what_it_took,
    "hypot, atan2 at the origin; std of equal values": test_documented_values,
    "var, std of one value with correction 1": test_the_sample_variance_of_one_value_is_not_a_number,
    "pow in x at x = 0": test_pow_at_zero_to_third_order,
    "pow in y": test_pow_in_y_of_a_negative_number_is_not_a_number,
    "prod, cumulative_prod with zeros": test_products_with_zeros_are_exact_to_second_order,
    "unique_values of repeated values": "test_standard.test_unique_values_give_their_gradient_to_first_places",
    "gammaln, digamma, polygamma at their poles; i0e at 0": "test_special.test_values_and_slopes_of_one_argument",
    "entr, erfinv, ndtri, logit at the ends of their domain": "test_special.test_values_and_slopes_of_one_argument",
    "xlogy(x, y) at (0, 0)": "test_special.test_values_and_slopes_of_two_arguments",
    "rel_entr at (0, 0) and outside of its domain": "test_special.test_values_and_slopes_of_two_arguments",
    "linalg.vector_norm where x is 0": test_vector_norm_at_zero,
    "linalg.det of a singular matrix": test_determinant_of_singular_matrices,
    "linalg.eigh, eig, svd with equal eigenvalues or singular values": test_equal_eigenvalues,
    "linalg.inv, solve, slogdet, qr of a singular matrix": test_singular_matrices_raise,
    "floor, ceil, round, trunc, sign, floor_divide, comparisons": test_steps_are_not_recorded,
}


def test_every_line_of_the_table_is_tested() -> None:
    guide = Path(__file__).resolve().parent.parent / "examples" / "guides" / "subgradients.md"
    text = guide.read_text(encoding="utf-8")
    table = text.partition("| where a derivative is undefined | value |\n|---|---|\n")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| (.*?) \|", table, re.MULTILINE)) == set(TESTED)
    for test in TESTED.values():
        if isinstance(test, str):
            file, name = test.split(".")
            assert f"def {name}(" in (Path(__file__).parent / f"{file}.py").read_text(encoding="utf-8")


RANK_ONE = np.outer([1.0, 2.0, -1.0], [0.5, 1.0, 2.0])


@pytest.mark.parametrize("rows", [3, 4])
@pytest.mark.parametrize("x", [np.zeros((3, 3)), RANK_ONE, RANK_ONE + np.diag([1.0, 0.0, 0.0]), np.ones((3, 3)) * 7.0])
def test_derivatives_of_a_determinant_that_is_zero(xp: Place, x: Any, rows: int) -> None:
    """To the third order, where they do not depend on the matrix: the derivatives of a sum over permutations.

    With another row and column of the unit matrix the derivatives are the same, and computed in another way.
    """
    if xp.device.startswith("jax") and rows == 4 and not WHOLE_SWEEPS:
        pytest.skip("XLA compiles it for a minute")
    sides, corner = xp.tensor(np.eye(rows, 3)), xp.tensor(np.diag([0.0] * 3 + [1.0])[:rows, :rows])

    def det(x: Any) -> Any:
        return tg.linalg.det(sides @ x @ sides.T + corner)

    third = np.zeros((3,) * 6)
    for down, across in product(permutations(range(3)), repeat=2):
        pairs = [i for pair in zip(down, across, strict=True) for i in pair]
        third[tuple(pairs)] = np.linalg.det(np.eye(3)[list(down)]) * np.linalg.det(np.eye(3)[list(across)])
    second = np.tensordot(third, x, axes=2)
    at = xp.tensor(x)
    xp.check(tg.grad(det)(at), np.tensordot(second, x, axes=2) / 2, rtol=1e-12)
    xp.check(tg.hessian(det)(at), second, rtol=1e-12)
    xp.check(tg.jacobian(tg.hessian(det))(at), third, rtol=1e-11)
    turned = xp.tensor(x * (1 + 2j))  # the same polynomial of complex numbers
    xp.check(tg.grad(lambda x: tg.real(tg.linalg.det(x)))(turned), np.tensordot(second, x, axes=2) / 2 * (1 - 2j) ** 2)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    ("f", "slopes"),
    [
        (tg.gelu, lambda x: (x > 0) * 1.0),
        (gelu_tanh, lambda x: (x > 0) * 1.0),
        (tg.asinh, lambda x: 1 / abs(x)),
        (lambda x: tg.acosh(abs(x)), lambda x: 1 / x),
        (lambda x: tg.atan2(x, abs(x)), lambda x: np.sign(x) * 0.0),
        (lambda x: tg.atan2(abs(x.detach()), x), lambda x: -0.5 / abs(x)),
        (lambda x: tg.logaddexp(x, x.detach()), lambda x: 0.5 + 0 * x),
    ],
)
def test_squares_that_overflow(dtype: str, f: Callable[[tg.Tensor], tg.Tensor], slopes: Any) -> None:
    """Derivatives of values whose squares are infinite in the dtype, but which are not so themselves."""
    x = np.asarray([300.0, -300.0, 20000.0, -20000.0] if dtype == "float16" else [1e20, -1e20, 1e30])
    with np.errstate(over="ignore"):
        g = tg.grad(lambda x: tg.sum(f(x)))(tg.asarray(x, dtype=dtype))
    np.testing.assert_allclose(np.asarray(g, dtype=np.float64), slopes(x), rtol=5e-3)


def test_powers_of_no_number() -> None:
    """Exponents of inf and NaN differentiate as in PyTorch."""
    x = tg.asarray([1.0, 2.0, 0.5])
    expected = {inf: [inf, inf, np.nan], -inf: [-inf, np.nan, -inf], np.nan: [np.nan] * 3}
    with np.errstate(all="ignore"):
        for exponent, slopes in expected.items():
            g = tg.grad(lambda x, n=exponent: tg.sum(x**n))(x)
            np.testing.assert_array_equal(np.asarray(g), slopes)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-13)])
def test_a_regular_matrix_beside_a_singular_one(dtype: str, tolerance: float) -> None:
    a, d = np.random.default_rng(0).normal(size=(2, 20, 20)).astype(dtype)
    both = np.stack([a, np.zeros_like(a)])
    alone = np.asarray(tg.grad(tg.linalg.det)(a))
    beside = np.asarray(tg.grad(lambda x: tg.sum(tg.linalg.det(x)))(both))[0]
    np.testing.assert_allclose(beside, alone, rtol=0, atol=tolerance * abs(alone).max())
    slope = np.asarray(tg.hvp(tg.linalg.det, (tg.asarray(a),), (tg.asarray(d),)))
    slopes = tg.hvp(lambda x: tg.sum(tg.linalg.det(x)), (tg.asarray(both),), (tg.asarray(np.stack([d, d])),))
    np.testing.assert_allclose(np.asarray(slopes)[0], slope, rtol=0, atol=10 * tolerance * abs(slope).max())


@pytest.mark.parametrize(
    "f", [tg.silu, tg.gelu, gelu_tanh, tg.sigmoid, tg.relu], ids=["silu", "gelu", "gelu tanh", "sigmoid", "relu"]
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_activations_have_their_limits_at_infinity(xp: Place, f: Callable[..., Any], dtype: str) -> None:
    """First and second derivatives, forward and reverse, at infinities and the largest numbers."""
    if not backends.of_device(xp.device)[0].has_dtype(dtype, backends.of_device(xp.device)[1]):
        pytest.skip("the device lacks it")
    most = float(tg.finfo(dtype).max)
    x = tg.asarray([inf, most, most / 4, -inf, -most], dtype=dtype, device=xp.device)
    one = tg.ones_like(x)
    first = [0.0] * 5 if f is tg.sigmoid else [1.0] * 3 + [0.0] * 2
    with np.errstate(all="ignore"):
        assert tg.vjp(f, x)[1](one)[0].tolist() == first
        assert tg.jvp(f, (x,), (one,))[1].tolist() == first
        assert tg.grad(lambda x: tg.sum(f(x)))(x).tolist() == first
        slope_of = tg.grad(lambda x: tg.sum(f(x)))
        assert tg.grad(lambda x: tg.sum(slope_of(x)))(x).tolist() == [0.0] * 5
        assert tg.jvp(slope_of, (x,), (one,))[1].tolist() == [0.0] * 5
        assert tg.jvp(lambda x: tg.jvp(f, (x,), (one,))[1], (x,), (one,))[1].tolist() == [0.0] * 5
