"""Functions of matrices for libraries that have none: triangular systems and the exponential."""

from __future__ import annotations

from collections.abc import Callable
from math import frexp, isfinite
from typing import Any

Array = Any
_SMALL = 64  # rows of a block that is solved as a general system
# The coefficients of Pade's approximant of degree 13, and the norm up to which it has 16 digits (Higham, "The scaling
# and squaring method for the matrix exponential revisited", 2005, table 2.3).
_PADE = (
    *(64764752532480000, 32382376266240000, 7771770303897600, 1187353796428800, 129060195264000, 10559470521600),
    *(670442572800, 33522128640, 1323241920, 40840800, 960960, 16380, 182, 1),
)
NORM = 5.371920351148152


def solve_triangular(
    xp: Any, a: Array, b: Array, /, *, upper: bool = False, trans: str = "N", unit_diagonal: bool = False
) -> Array:
    """Return x of op(a) x = b, with op by `trans`: "N" for a itself, "C" for its conjugate transpose.

    Of `a` one triangle is read. It is cut in blocks; the part left of each is one product. A block is made upper
    triangular, of which an LU decomposition changes nothing, so that the library's solver substitutes back.
    """
    a = xp.triu(a) if upper else xp.tril(a)
    if unit_diagonal:
        a = xp.where(xp.eye(a.shape[-1], dtype=xp.bool, device=getattr(a, "device", None)), 1, a)
    if trans == "C":
        a = xp.matrix_transpose(a)
        a = xp.conj(a) if xp.isdtype(a.dtype, "complex floating") else a
        upper = not upper
    if upper:
        return _of_upper(xp, a, b)
    return xp.flip(_of_upper(xp, xp.flip(a, axis=(-2, -1)), xp.flip(b, axis=-2)), axis=-2)


def _of_upper(xp: Any, a: Array, b: Array) -> Array:
    n = a.shape[-1]
    if n <= _SMALL:
        return xp.linalg.solve(a, b)
    k = n // 2
    low = _of_upper(xp, a[..., k:, k:], b[..., k:, :])
    rest = b[..., :k, :] - xp.matmul(a[..., :k, k:], low)
    high = _of_upper(xp, a[..., :k, :k], rest)
    return xp.concat([high, low], axis=-2)  # both have all batch axes by now


def expm(xp: Any, to_host: Callable[[Array], Any], x: Array, /) -> Array:
    """Return the exponential of matrices by scaling and squaring; each is scaled and squared as its own norm needs.

    The host reads the norms.
    """
    if 0 in x.shape:
        return x
    norms = xp.max(xp.sum(xp.abs(x), axis=-2), axis=-1)
    counts = [_squarings(float(norm)) for norm in to_host(norms).reshape(-1)]
    real = norms.dtype
    scales = xp.reshape(
        xp.asarray([0.5**n for n in counts], dtype=real, device=getattr(x, "device", None)), (*norms.shape, 1, 1)
    )
    out = pade(xp, x * xp.astype(scales, x.dtype))
    for step in range(max(counts)):
        squared = xp.matmul(out, out)
        more = scales < 0.5**step  # the matrices that were halved more than `step` times
        out = squared if min(counts) > step else xp.where(more, squared, out)
    return out


def _squarings(norm: float) -> int:
    """Return how often a matrix of a norm is halved; NaN and infinity go through as they are."""
    if not isfinite(norm) or norm <= NORM:
        return 0
    fraction, exponent = frexp(norm / NORM)
    return exponent - (fraction == 0.5)


def pade(xp: Any, a: Array) -> Array:
    """Return q^-1 p with even and odd parts of p, six products of matrices."""
    b = [float(c) for c in _PADE]
    eye = xp.eye(a.shape[-1], dtype=a.dtype, device=getattr(a, "device", None))
    a2 = xp.matmul(a, a)
    a4 = xp.matmul(a2, a2)
    a6 = xp.matmul(a4, a2)
    odd = xp.matmul(a6, b[13] * a6 + b[11] * a4 + b[9] * a2) + (b[7] * a6 + b[5] * a4 + b[3] * a2 + b[1] * eye)
    odd = xp.matmul(a, odd)
    even = xp.matmul(a6, b[12] * a6 + b[10] * a4 + b[8] * a2) + (b[6] * a6 + b[4] * a4 + b[2] * a2 + b[0] * eye)
    return xp.linalg.solve(even - odd, even + odd)
