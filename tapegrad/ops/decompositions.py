"""Eigenvalues, singular values and orthogonal factors.

The factors are determined up to signs, phases, and the basis of a degenerate subspace; a gradient is right for results
that do not depend on that choice. Where eigenvalues or singular values are equal, a quotient by a gap of zero is left
out: first derivatives of symmetric functions of the values alone are exact, and functions of the vectors lack the terms
between equal ones, also in matrix functions like V f(l) V^T and in second derivatives; they are finite. Formulas: Giles
(2008); Townsend, "Differentiating the singular value decomposition" (2016); Walter and Lehmann, "Algorithmic
differentiation of linear algebra functions" (2018).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tapegrad._engine.dtypes import is_complex
from tapegrad._engine.primitive import several
from tapegrad._engine.rules import composed
from tapegrad._engine.tensor import Tensor
from tapegrad.ops._matrices import (
    dagger_times,
    diagonal_of,
    herm,
    inverse_gaps,
    inverse_or_zero,
    on_diagonal,
    right_divide,
    skew,
    symmetric,
    times_dagger,
)
from tapegrad.ops._text import ABSOLUTE, COMPLEX, MATRICES, SQUARE, documented
from tapegrad.ops.conversion import as_floats
from tapegrad.ops.elementwise import conj
from tapegrad.ops.products import matmul, matrix_transpose
from tapegrad.ops.shaping import concat
from tapegrad.ops.solving import square
from tapegrad.typing import ArrayLike

# -- eigenvalues -------------------------------------------------------------------------------------------


class EigResult(NamedTuple):
    """Eigenvalues and eigenvectors, which are the columns."""

    eigenvalues: Tensor
    eigenvectors: Tensor


def _eigh_vjp(xp: Any, ts: list[Any], outs: tuple[Any, Any]) -> Any:
    t, t_vectors = ts
    values, vectors = outs
    if t_vectors is None:
        return times_dagger(xp, vectors * xp.astype(t, vectors.dtype)[..., None, :], vectors)
    inner = dagger_times(xp, vectors, t_vectors) * xp.astype(inverse_gaps(xp, values), vectors.dtype)
    if t is not None:
        inner = inner + xp.astype(on_diagonal(xp, t), vectors.dtype)
    return symmetric(xp, times_dagger(xp, xp.matmul(vectors, inner), vectors))


_eigh = several("eigh", lambda xp, x: xp.linalg.eigh(x), _eigh_vjp)


@documented(
    (
        "`eigenvalues` (..., n), rising and real, and `eigenvectors` (..., n, n), the columns, in"
        " the floating dtype of `x`."
    ),
    SQUARE,
    x="Hermitian matrices (..., n, n), of which only one triangle is read.",
)
def eigh(x: ArrayLike, /) -> EigResult:
    """Eigenvalues and eigenvectors of Hermitian matrices.

    Derivatives: V diag(t) V^H; V (V^H t / gaps) V^H, without the pairs of equal eigenvalues (Giles, 2008). The gradient
    is spread over both triangles.

    >>> import tapegrad as tg
    >>> tg.linalg.eigh(tg.asarray([[2.0, 0.0], [0.0, 1.0]])).eigenvalues
    Tensor([1., 2.])
    """
    return EigResult(*_eigh(square("eigh", x)))


@composed
@documented(
    f"The eigenvalues (..., n), rising. {ABSOLUTE}",
    SQUARE,
    x="Hermitian matrices (..., n, n), of which only one triangle is read.",
)
def eigvalsh(x: ArrayLike, /) -> Tensor:
    """Eigenvalues of Hermitian matrices.

    Derivative: V diag(t) V^H.

    >>> import tapegrad as tg
    >>> tg.linalg.eigvalsh(tg.asarray([[2.0, 0.0], [0.0, 1.0]]))
    Tensor([1., 2.])
    """
    return eigh(x).eigenvalues


def _eig_vjp(xp: Any, ts: list[Any], outs: tuple[Any, Any]) -> Any:
    t, t_vectors = ts
    values, vectors = outs
    inner = None if t is None else on_diagonal(xp, t)
    if t_vectors is not None:
        a = dagger_times(xp, vectors, t_vectors)
        # The vectors have length 1: the part of a tangent along them is taken out.
        longer = xp.real(xp.sum(xp.conj(vectors) * t_vectors, axis=-2))
        a = a - xp.matmul(herm(xp, vectors), vectors * xp.astype(longer, vectors.dtype)[..., None, :])
        a = a * xp.conj(inverse_gaps(xp, values))
        inner = a if inner is None else inner + a
    return xp.linalg.solve(herm(xp, vectors), times_dagger(xp, inner, vectors))


def _eig_forward(xp: Any, x: Any) -> Any:
    return [a if is_complex(a.dtype) else xp.astype(a, _complex(xp, x)) for a in xp.linalg.eig(x)]


def _complex(xp: Any, x: Any) -> Any:
    return x.dtype if is_complex(x.dtype) else xp.complex128 if x.dtype == xp.float64 else xp.complex64


_eig = several("eig", _eig_forward, _eig_vjp)


@documented(
    (
        "`eigenvalues` (..., n) and `eigenvectors` (..., n, n), the columns, of length 1. Both "
        "are complex, also for real `x`."
    ),
    SQUARE,
    x="Matrices (..., n, n).",
)
def eig(x: ArrayLike, /) -> EigResult:
    """Eigenvalues and eigenvectors of square matrices.

    Derivatives: V^-H diag(t) V^H; V^-H ((V^H t - V^H V Re diag(V^H t)) / conj(gaps)) V^H, without the pairs of equal
    eigenvalues.

    >>> import tapegrad as tg
    >>> tg.real(tg.linalg.eig(tg.asarray([[2.0, 0.0], [0.0, 1.0]])).eigenvalues)
    Tensor([2., 1.])
    """
    return EigResult(*_eig(square("eig", x)))


@composed
@documented(f"The eigenvalues (..., n). {COMPLEX}", SQUARE, x="Matrices (..., n, n).")
def eigvals(x: ArrayLike, /) -> Tensor:
    """Eigenvalues of square matrices.

    Derivative: V^-H diag(t) V^H.

    >>> import tapegrad as tg
    >>> tg.real(tg.linalg.eigvals(tg.asarray([[2.0, 0.0], [0.0, 1.0]])))
    Tensor([2., 1.])
    """
    return eig(x).eigenvalues


# -- singular values ---------------------------------------------------------------------------------------


class SVDResult(NamedTuple):
    """x = U diag(S) Vh, with S falling."""

    U: Tensor
    S: Tensor
    Vh: Tensor


def _economy(xp: Any, t: Any, q: Any, k: int) -> Any:
    """Return the cotangent of the first k orthonormal columns for that of a full basis.

    The others span the complement of these, so that they turn with them.
    """
    if t is None or q.shape[-1] == k:
        return t
    first, rest = q[..., :, :k], q[..., :, k:]
    return t[..., :, :k] - xp.matmul(rest, dagger_times(xp, t[..., :, k:], first))


def _svd_vjp(xp: Any, ts: list[Any], outs: tuple[Any, Any, Any], x_shape: tuple[int, ...]) -> Any:
    u, s, vh = outs
    m, n = x_shape[-2:]
    k = min(m, n)
    v = herm(xp, vh)
    t_u = _economy(xp, ts[0], u, k)
    t_v = None if ts[2] is None else _economy(xp, herm(xp, ts[2]), v, k)
    u, v = u[..., :, :k], v[..., :, :k]
    wide = xp.astype(s, u.dtype)
    inner = None if ts[1] is None else xp.astype(on_diagonal(xp, ts[1]), u.dtype)

    def plus(a: Any, b: Any) -> Any:
        return b if a is None else a + b

    if t_u is not None or t_v is not None:
        # 1 / (s[j]^2 - s[i]^2) = 1 / (s[j] - s[i]) * 1 / (s[j] + s[i])
        total = s[..., None, :] + s[..., :, None]
        gaps = xp.astype(inverse_gaps(xp, s) / xp.where(total == 0, 1, total), u.dtype)
        inverse = xp.astype(inverse_or_zero(xp, s, max(m, n)), u.dtype)
    if t_u is not None:
        a = dagger_times(xp, u, t_u)
        inner = plus(inner, skew(xp, a) * gaps * wide[..., None, :])
        if is_complex(u.dtype):  # a common phase of a column of U and a row of Vh
            inner = inner + 0.5 * diagonal_of(xp, skew(xp, a)) * inverse[..., None, :]
    if t_v is not None:
        inner = plus(inner, skew(xp, dagger_times(xp, v, t_v)) * gaps * wide[..., :, None])
    g = times_dagger(xp, xp.matmul(u, inner), v)
    if t_u is not None and m > k:
        g = g + times_dagger(xp, (t_u - xp.matmul(u, a)) * inverse[..., None, :], v)
    if t_v is not None and n > k:
        g = g + times_dagger(xp, u * inverse[..., None, :], t_v - xp.matmul(v, dagger_times(xp, v, t_v)))
    return g


_svd = several("svd", lambda xp, x, full_matrices: xp.linalg.svd(x, full_matrices=full_matrices), _svd_vjp)


@documented(
    "`U`, `S` and `Vh` with x = U diag(S) Vh. The singular values `S` (..., k) are falling and real.",
    MATRICES,
    x="Matrices (..., m, n); k = min(m, n).",
    full_matrices="Whether U is (..., m, m) and Vh (..., n, n), else (..., m, k) and (..., k, n).",
)
def svd(x: ArrayLike, /, *, full_matrices: bool = True) -> SVDResult:
    """Singular value decomposition of matrices.

    Derivative: Townsend, "Differentiating the singular value decomposition" (2016), without the pairs of equal singular
    values and the reciprocals of those that are zero.

    >>> import tapegrad as tg
    >>> tg.linalg.svd(tg.asarray([[3.0, 0.0], [0.0, 2.0]])).S
    Tensor([3., 2.])
    """
    x = as_floats(x)
    if x.ndim < 2:
        raise ValueError(f"svd: matrices (..., m, n) are needed, not a Tensor of shape {x.shape}")
    return SVDResult(*_svd(x, bool(full_matrices)))


@composed
@documented(f"The singular values (..., min(m, n)), falling. {ABSOLUTE}", MATRICES, x="Matrices (..., m, n).")
def svdvals(x: ArrayLike, /) -> Tensor:
    """Singular values of matrices.

    Derivative: U diag(t) Vh.

    >>> import tapegrad as tg
    >>> tg.linalg.svdvals(tg.asarray([[3.0, 0.0], [0.0, 2.0]]))
    Tensor([3., 2.])
    """
    return svd(x, full_matrices=False).S


# -- orthogonal and triangular -----------------------------------------------------------------------------


class QRResult(NamedTuple):
    """x = Q R, with orthonormal columns in Q and an upper triangle R."""

    Q: Tensor
    R: Tensor


def _qr_vjp(xp: Any, ts: list[Any], outs: tuple[Any, Any], x_shape: tuple[int, ...]) -> Any:
    n = x_shape[-1]
    q, r = outs
    t_q = _economy(xp, ts[0], q, n)
    q, r = q[..., :, :n], r[..., :n, :]
    # Below its diagonal R is nothing but zero, so that a cotangent there, perhaps NaN, is left out.
    inner = None if ts[1] is None else times_dagger(xp, xp.triu(ts[1][..., :n, :]), r)
    if t_q is not None:
        a = dagger_times(xp, q, t_q)
        inner = -a if inner is None else inner - a
    half = xp.triu(inner)
    both = half + herm(xp, half) - symmetric(xp, diagonal_of(xp, half))
    g = xp.matmul(q, both)
    return right_divide(xp, g if t_q is None else g + t_q, herm(xp, r))


_qr = several("qr", lambda xp, x, mode: xp.linalg.qr(x, mode=mode), _qr_vjp)


@documented(
    "`Q` with orthonormal columns and the upper triangle `R`, with x = Q R, in the floating dtype of `x`.",
    MATRICES,
    "ValueError: `mode` is another one; or, differentiating, R is singular and the library says so.",
    x="Matrices (..., m, n) of full rank; k = min(m, n).",
    mode="'reduced' gives Q (..., m, k) and R (..., k, n), 'complete' Q (..., m, m) and R (..., m, n).",
)
def qr(x: ArrayLike, /, *, mode: str = "reduced") -> QRResult:
    """QR decomposition of matrices.

    Derivative: Walter and Lehmann, "Algorithmic differentiation of linear algebra functions" (2018).

    >>> import tapegrad as tg
    >>> tg.abs(tg.linalg.qr(tg.asarray([[3.0, 0.0], [0.0, 2.0]])).R)
    Tensor([[3., 0.],
            [0., 2.]])
    """
    x = as_floats(x)
    if x.ndim < 2:
        raise ValueError(f"qr: matrices (..., m, n) are needed, not a Tensor of shape {x.shape}")
    if mode not in ("reduced", "complete"):
        raise ValueError(f"qr: mode is 'reduced' or 'complete', not {mode!r}")
    m, n = x.shape[-2:]
    if m >= n:
        return QRResult(*_qr(x, mode))
    # Q comes from the first m columns, and takes the others along.
    q, r = _qr(x[..., :m], mode)
    return QRResult(q, concat([r, matmul(conj(matrix_transpose(q)), x[..., m:])], axis=-1))
