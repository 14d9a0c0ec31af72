"""Helpers of linear algebra rules: adjoints, diagonals and reciprocal gaps."""

from __future__ import annotations

from typing import Any

from tapegrad._engine.dispatch import native_device
from tapegrad._engine.dtypes import as_dtype, is_complex


def herm(xp: Any, x: Any) -> Any:
    """Return the conjugate transpose of matrices."""
    x = xp.matrix_transpose(x)
    return xp.conj(x) if is_complex(x.dtype) else x


def dagger_times(xp: Any, a: Any, b: Any) -> Any:
    """Return a^H b."""
    return xp.matmul(herm(xp, a), b)


def times_dagger(xp: Any, a: Any, b: Any) -> Any:
    """Return a b^H."""
    return xp.matmul(a, herm(xp, b))


def right_divide(xp: Any, a: Any, b: Any) -> Any:
    """Return a b^-1, without making the inverse."""
    return xp.matrix_transpose(xp.linalg.solve(xp.matrix_transpose(b), xp.matrix_transpose(a)))


def on_diagonal(xp: Any, d: Any) -> Any:
    """Return square matrices with `d` on the diagonal and zeros around it."""
    return xp.where(_eye(xp, d), d[..., None], 0)


def diagonal_of(xp: Any, x: Any) -> Any:
    """Return square matrices that keep the diagonal of `x` and are zero around it."""
    return xp.where(_eye(xp, x), x, 0)


def _eye(xp: Any, x: Any) -> Any:
    return xp.eye(x.shape[-1], dtype=xp.bool, device=native_device(x))


def symmetric(xp: Any, x: Any) -> Any:
    """Return the Hermitian part of square matrices."""
    return 0.5 * (x + herm(xp, x))


def skew(xp: Any, x: Any) -> Any:
    """Return x - x^H."""
    return x - herm(xp, x)


def negligible(xp: Any, values: Any, size: int) -> Any:
    """Return the threshold for zero along the last axis: `size` rounding units of the largest value."""
    if values.shape[-1] == 0:
        return xp.abs(values)
    return xp.max(xp.abs(values), axis=-1, keepdims=True) * (size * epsilon(values.dtype))


def epsilon(dtype: object) -> float:
    """Return the gap between 1 and the next number of a floating dtype."""
    return 2.0**-52 if as_dtype(dtype).name in ("float64", "complex128") else 2.0**-23


def inverse_gaps(xp: Any, values: Any) -> Any:
    """Return 1 / (values[j] - values[i]) at [i, j], and 0 on the diagonal and for equal values.

    Values are equal up to rounding. So a gradient that does not depend on the basis of a degenerate subspace is right,
    and any other gradient is finite.
    """
    gap = values[..., None, :] - values[..., :, None]
    same = xp.abs(gap) <= negligible(xp, values, values.shape[-1])[..., None]
    return xp.where(same, 0, 1 / xp.where(same, 1, gap))


def inverse_or_zero(xp: Any, values: Any, size: int) -> Any:
    """Return 1 / values, and 0 for values that count as zero."""
    zero = xp.abs(values) <= negligible(xp, values, size)
    return xp.where(zero, 0, 1 / xp.where(zero, 1, values))


def of_matrices(xp: Any, t: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the axes of operand and result of an operation on matrices (see `Operation.rows`)."""
    return (-2, -1), (-2, -1)
