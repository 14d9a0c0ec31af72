"""The matrix of cofactors, the derivative of the determinant, for singular matrices too.

For up to three rows it is computed by products, for larger matrices from the inverse. For singular matrices it avoids
divisions by zero, so that it is differentiable to any order: x = U B V^H with constant U and V from the singular value
decomposition. B is diagonal at first, and its last entries may be zero. Schur's complement S separates the block of
these; the cofactors of S are polynomials.
"""

from __future__ import annotations

from typing import Any

from tapegrad._engine.dispatch import backend_of, detached_array, holds, native_device
from tapegrad._engine.tensor import Tensor, wrap
from tapegrad.ops._matrices import epsilon, herm


def cofactors(xp: Any, x: Any, det_x: Any) -> Any:
    """Return det(x) x^-T, and its limit where x is singular."""
    n = x.shape[-1]
    if n == 3:  # entry [i, j] is the minor of the next two rows and columns, cyclically
        a, b, c, d = (xp.roll(x, (-i, -j), axis=(-2, -1)) for i, j in ((1, 1), (2, 2), (1, 2), (2, 1)))
        return a * b - c * d
    if n == 2:
        return (2 * xp.eye(2, dtype=x.dtype, device=native_device(x)) - 1) * xp.flip(x, axis=(-2, -1))
    return xp.as_one(large_cofactors, x, det_x) if n > 1 else xp.ones_like(x)


def large_cofactors(xp: Any, x: Any, det_x: Any) -> Any:
    """Return the cofactors of matrices of any size; the method depends on whether any of them is singular."""
    # A determinant counts as zero if it is within rounding of zero, relative to Hadamard's bound.
    bound = xp.prod(xp.sqrt(xp.sum(xp.abs(x) ** 2, axis=-1)), axis=-1)
    singular = xp.abs(det_x) <= x.shape[-1] * epsilon(x.dtype) * bound
    if not _any(xp, singular):
        return det_x[..., None, None] * xp.matrix_transpose(xp.linalg.inv(x))
    u, s, vh = xp.linalg.svd(_fixed(x))
    value = _from_factors(xp, u, s, vh)
    if type(x) is not Tensor:
        return value
    eye = xp.eye(x.shape[-1], dtype=x.dtype, device=native_device(x))
    chosen = singular[..., None, None]
    regular = det_x[..., None, None] * xp.matrix_transpose(xp.linalg.inv(xp.where(chosen, eye, x)))
    y = xp.where(chosen, _of_singular(xp, xp.where(chosen, x, eye)), regular)
    return y + (value - _fixed(y))  # the accurate value, with the derivatives of the polynomials


def _fixed(x: Any) -> Any:
    """Return a constant of the same values."""
    return wrap(detached_array(x._array)) if type(x) is Tensor else x


def _from_factors(xp: Any, u: Any, s: Any, vh: Any) -> Any:
    """Return cofactors from the singular value decomposition; the values are accurate, the derivatives are not."""
    # The product of all other singular values, without a division.
    others = xp.where(xp.eye(s.shape[-1], dtype=xp.bool, device=native_device(s)), 1, s[..., None, :])
    rest = xp.astype(xp.prod(others, axis=-1), u.dtype)
    phase = xp.linalg.det(u) * xp.linalg.det(vh)
    return phase[..., None, None] * xp.matmul(xp.conj(u) * rest[..., None, :], xp.conj(vh))


def _of_singular(xp: Any, x: Any) -> Any:
    """Return cofactors by polynomials."""
    u, s, vh = xp.linalg.svd(_fixed(x))
    k = n = x.shape[-1]
    while k and (k == n or _any(xp, s[..., k - 1] <= epsilon(x.dtype) ** 0.5 * s[..., 0])):
        k -= 1
    inner = _adjugate(xp, xp.matmul(herm(xp, u), xp.matmul(x, herm(xp, vh))), k)
    phase = xp.linalg.det(u) * xp.linalg.det(vh)
    return phase[..., None, None] * xp.matrix_transpose(xp.matmul(herm(xp, vh), xp.matmul(inner, herm(xp, u))))


def _any(xp: Any, condition: Any) -> bool:
    """Return whether a condition holds, or may hold, anywhere."""
    found = xp.any(condition)
    raw = found._array if type(found) is Tensor else found
    return backend_of[type(raw)].is_symbolic(raw) or holds(raw)


def _adjugate(xp: Any, b: Any, k: int) -> Any:
    """Return the adjugate of matrices whose first k rows and columns are regular."""
    if k == 0:
        return _polynomials(xp, b)[1]
    a, right, left = b[..., :k, :k], b[..., :k, k:], b[..., k:, :k]
    inverse, det_a = xp.linalg.inv(a), xp.linalg.det(a)[..., None, None]
    left, right = xp.matmul(left, inverse), xp.matmul(inverse, right)
    det_s, adj_s = _polynomials(xp, b[..., k:, k:] - xp.matmul(left, b[..., :k, k:]))
    corner = inverse * det_s[..., None, None] + xp.matmul(right, xp.matmul(adj_s, left))
    top = xp.concat([corner, -xp.matmul(right, adj_s)], axis=-1)
    return det_a * xp.concat([top, xp.concat([-xp.matmul(adj_s, left), adj_s], axis=-1)], axis=-2)


def _polynomials(xp: Any, s: Any) -> tuple[Any, Any]:
    """Return the determinant and the adjugate of small matrices by the Faddeev-LeVerrier algorithm."""
    eye = xp.eye(s.shape[-1], dtype=s.dtype, device=native_device(s))
    product, total = s, eye + s * 0
    for i in range(1, s.shape[-1]):
        trace = xp.sum(product * eye, axis=(-2, -1)) / i
        total = product - trace[..., None, None] * eye
        product = xp.matmul(s, total)
    sign = 1 if s.shape[-1] % 2 else -1
    return sign * xp.sum(product * eye, axis=(-2, -1)) / s.shape[-1], sign * total
