"""Norms of vectors and matrices, with diagonals and products of vectors."""

from __future__ import annotations

from math import inf, nan
from typing import Any

from tapegrad._engine.coercion import SCALARS, as_tensor, as_tensors
from tapegrad._engine.dispatch import native_device
from tapegrad._engine.mode import notify_use
from tapegrad._engine.primitive import primitive
from tapegrad._engine.rules import composed, nondifferentiable
from tapegrad._engine.tensor import Tensor, wrap
from tapegrad.ops._axes import axes_of, axis_of, count, integer, reduced, spread
from tapegrad.ops._kinks import kink, unit
from tapegrad.ops._text import ABSOLUTE, INDICES, PROMOTED, RTOL, SAME, SUMMED, documented
from tapegrad.ops.binary import multiply
from tapegrad.ops.conversion import as_floats, astype
from tapegrad.ops.decompositions import svdvals
from tapegrad.ops.elementwise import abs
from tapegrad.ops.reductions import max, min, sum
from tapegrad.ops.shaping import broadcast_arrays, expand_dims, reshape, roll
from tapegrad.typing import ArrayLike, Axis, DTypeLike

OFFSET = "Which diagonal: 0 for the main one, positive above it, negative below."


def _vector_norm_vjp(xp: Any, t: Any, x: Any, out: Any, axis: tuple[int, ...], keepdims: bool, ord: float) -> Any:
    t, out = (spread(xp, v, x.shape, axis, keepdims) for v in (t, out))
    if ord not in (0, 1):
        out = xp.where(out == inf, nan, out)  # the quotient by infinity would be 0, which is no slope of a norm
    if ord == 2:
        return t * unit(xp, x, out)
    if ord == 0:
        return t * xp.zeros_like(x)
    if ord == 1:
        return t * xp.sign(x)
    size = xp.abs(x)
    if ord in (inf, -inf):
        share = xp.astype(size == out, out.dtype)
        return t * xp.sign(x) * (share / xp.sum(share, axis=axis, keepdims=True))
    zero = size == 0
    ratio = xp.where(zero, 1, size) / xp.where(out == 0, 1, out)
    none = zero | (out == 0) if ord < 0 else zero  # one zero makes such a norm 0, whatever the others are
    # The slope abs(x)^(ord - 1) has itself no slope at 0 below order 2, and nothing has where the norm is 0.
    at = zero if ord < 0 else (out == 0) if ord > 2 else zero | (out == 0)
    return t * xp.sign(x) * kink(xp, xp.where(none, 0, ratio ** (ord - 1)), size, at)


_vector_norm = primitive(
    "vector_norm",
    lambda xp, x, axis, keepdims, ord: xp.linalg.vector_norm(x, axis=axis, keepdims=keepdims, ord=ord),
    _vector_norm_vjp,
    adjoint=True,
    fuses=True,
    rows=reduced,
)


@documented(
    f"The norms: a number for each place along the other axes. {ABSOLUTE}",
    "ValueError: `ord` is -inf, and there is no element.",
    x="The vectors.",
    axis="The axes of a vector; all of them for None.",
    ord="The order: inf and -inf take the largest and the least absolute value, 0 counts all but zeros.",
)
def vector_norm(x: ArrayLike, /, *, axis: Axis = None, keepdims: bool = False, ord: float = 2) -> Tensor:
    """Norm of vectors along axes: sum(abs(x)^ord)^(1/ord).

    Derivative: t sign(x) (abs(x) / out)^(ord - 1), and 0 where x is 0; ties of the largest share equally.

    >>> import tapegrad as tg
    >>> tg.linalg.vector_norm(tg.asarray([3.0, 4.0]))
    Tensor(5.)
    """
    x = as_floats(x)
    axes = axes_of("vector_norm", x.ndim, axis)
    if not axes:
        return abs(x) if ord != 0 else _count(x)
    if 0 in x._array.shape and count(x.shape, axes) == 0:
        return _of_nothing(x, axes, bool(keepdims), ord)
    return _vector_norm(x, axes, bool(keepdims), ord)


def _of_nothing(x: Tensor, axes: tuple[int, ...], keepdims: bool, ord: float) -> Tensor:
    """Return the norm of vectors without elements; the libraries do not agree on it."""
    if ord == -inf:
        raise ValueError(f"vector_norm: ord=-inf is the least of no elements, of a Tensor of shape {x.shape}")
    return sum(abs(x), axis=axes, keepdims=keepdims) + (0.0 if ord >= 0 else inf)


def _count(x: Tensor) -> Tensor:
    notify_use(x)
    x = wrap(x._array)
    return astype(x != 0, abs(x).dtype)


@composed
@documented(
    f"The norms (...), or (..., 1, 1) with `keepdims`. {ABSOLUTE}",
    "ValueError: `x` has fewer than two axes, or `ord` is another one.",
    x="Matrices (..., m, n).",
    ord=(
        "'fro' or None: Frobenius; 'nuc': the sum of the singular values; 2 and -2: the largest "
        "and the least singular value; 1 and -1: the largest and the least sum of absolute values"
        " in a column; inf and -inf: in a row."
    ),
    keepdims="Whether to keep the last two axes, with length 1.",
)
def matrix_norm(x: ArrayLike, /, *, keepdims: bool = False, ord: float | str | None = "fro") -> Tensor:
    """Norm of matrices.

    Composed of `vector_norm`, `svdvals`, `abs` and reductions.

    >>> import tapegrad as tg
    >>> tg.linalg.matrix_norm(tg.asarray([[3.0, 0.0], [0.0, 4.0]]))
    Tensor(5.)
    """
    x = as_floats(x)
    if x.ndim < 2:
        raise ValueError(f"matrix_norm: matrices (..., m, n) are needed, not a Tensor of shape {x.shape}")
    if ord in ("fro", None):
        return vector_norm(x, axis=(-2, -1), keepdims=keepdims)
    if ord == "nuc":
        out = sum(svdvals(x), axis=-1)
    elif ord in (2, -2):
        out = _extreme(svdvals(x), ord)
    elif ord in (1, -1):
        out = _extreme(sum(abs(x), axis=-2), ord)
    elif ord in (inf, -inf):
        out = _extreme(sum(abs(x), axis=-1), ord)
    else:
        raise ValueError(f"matrix_norm: ord is 'fro', 'nuc', 1, -1, 2, -2, inf or -inf, not {ord!r}")
    return reshape(out, (*out.shape, 1, 1)) if keepdims else out


def _extreme(values: Tensor, ord: Any) -> Tensor:
    """Return the largest value along the last axis, the least for a negative `ord`; 0 if there is none."""
    if values.shape[-1] == 0:
        return sum(values, axis=-1)
    return max(values, axis=-1) if ord > 0 else min(values, axis=-1)


@nondifferentiable
@documented(f"The ranks (...). {INDICES}", x="Matrices (..., m, n).", rtol=RTOL)
def matrix_rank(x: ArrayLike, /, *, rtol: ArrayLike | None = None) -> Tensor:
    """Number of singular values of matrices that are not zero.

    Not differentiable.

    >>> import tapegrad as tg
    >>> tg.linalg.matrix_rank(tg.asarray([[3.0, 0.0], [0.0, 0.0]]))
    Tensor(1)
    """
    x = as_floats(x)
    if rtol is not None and type(rtol) not in SCALARS:
        rtol = as_tensors("matrix_rank", x, rtol)[1]._array
    return _matrix_rank(x, rtol)


def _rank(xp: Any, x: Any, rtol: Any) -> Any:
    return xp.linalg.matrix_rank(x) if rtol is None else xp.linalg.matrix_rank(x, rtol=rtol)


_matrix_rank = primitive("matrix_rank", _rank, None)


def _diagonal_vjp(xp: Any, t: Any, x_shape: tuple[int, ...], offset: int) -> Any:
    rows, columns = x_shape[-2:]
    before, k = -min_(offset, 0), t.shape[-1]
    batch_shape = tuple(t.shape[:-1])
    zeros = [xp.zeros((*batch_shape, n), dtype=t.dtype, device=native_device(t)) for n in (before, rows - before - k)]
    column = xp.concat([zeros[0], t, zeros[1]], axis=-1)[..., None]
    return xp.where(xp.eye(rows, columns, k=offset, dtype=xp.bool, device=native_device(t)), column, 0)


def min_(a: int, b: int) -> int:
    """Return the lesser int (`min` is the reduction here)."""
    return a if a < b else b


_diagonal = primitive(
    "diagonal", lambda xp, x, offset: xp.linalg.diagonal(x, offset=offset), _diagonal_vjp, moves="some"
)


@documented(
    f"The diagonals (..., k). {SAME}",
    "ValueError: `x` has fewer than two axes.",
    x="Matrices (..., m, n).",
    offset=OFFSET,
)
def diagonal(x: ArrayLike, /, *, offset: int = 0) -> Tensor:
    """Diagonals of matrices, as the last axis.

    Derivative: t on the diagonal, zeros around it.

    >>> import tapegrad as tg
    >>> tg.linalg.diagonal(tg.asarray([[1.0, 2.0], [3.0, 4.0]]))
    Tensor([1., 4.])
    """
    x = as_tensor(x)
    if x.ndim < 2:
        raise ValueError(f"diagonal: matrices (..., m, n) are needed, not a Tensor of shape {x.shape}")
    m, n = x.shape[-2:]
    k = integer("diagonal", "offset", offset)
    if not -m <= k <= n:  # an empty diagonal, on every library
        k = n if k > 0 else -m
    return _diagonal(x, k)


@composed
@documented(
    f"The sums (...). {SUMMED}",
    "ValueError: `x` has fewer than two axes.",
    x="Matrices (..., m, n).",
    offset=OFFSET,
    dtype="The dtype to sum in and to return; for None it follows that of `x`.",
)
def trace(x: ArrayLike, /, *, offset: int = 0, dtype: DTypeLike | None = None) -> Tensor:
    """Sum of the diagonals of matrices.

    Composed of `diagonal` and `sum`.

    >>> import tapegrad as tg
    >>> tg.linalg.trace(tg.asarray([[1.0, 2.0], [3.0, 4.0]]))
    Tensor(5.)
    """
    return sum(diagonal(x, offset=offset), axis=-1, dtype=dtype)


@composed
@documented(
    f"The products (n, m). {PROMOTED}",
    "ValueError: An operand has other than one axis.",
    x1="A vector (n,).",
    x2="A vector (m,).",
)
def outer(x1: ArrayLike, x2: ArrayLike, /) -> Tensor:
    """Outer product of two vectors.

    Composed of `multiply`.

    >>> import tapegrad as tg
    >>> tg.linalg.outer(tg.asarray([1.0, 2.0]), tg.asarray([3.0, 4.0]))
    Tensor([[3., 4.],
            [6., 8.]])
    """
    x1, x2 = as_tensors("outer", x1, x2)
    if x1.ndim != 1 or x2.ndim != 1:
        raise ValueError(f"outer: two vectors are needed, not shapes {x1.shape} and {x2.shape}")
    return multiply(expand_dims(x1, axis=1), x2)


@composed
@documented(
    f"The products, in the shape that the operands broadcast to. {PROMOTED}",
    "ValueError: The vectors are not of length 3, or the other axes do not fit.",
    x1="Vectors of length 3 along the axis.",
    x2="Vectors of length 3 along the axis; the other axes broadcast.",
    axis="The axis of the vectors.",
)
def cross(x1: ArrayLike, x2: ArrayLike, /, *, axis: int = -1) -> Tensor:
    """Cross product of vectors of length 3 along an axis.

    Composed of `roll`, `multiply` and `subtract`.

    >>> import tapegrad as tg
    >>> tg.linalg.cross(tg.asarray([1.0, 0.0, 0.0]), tg.asarray([0.0, 1.0, 0.0]))
    Tensor([0., 0., 1.])
    """
    x1, x2 = as_tensors("cross", x1, x2)
    place = axis_of("cross", min_(x1.ndim, x2.ndim), axis)
    if x1.shape[place] != 3 or x2.shape[place] != 3:
        raise ValueError(f"cross: vectors of length 3 are needed along axis {axis}, not {x1.shape} and {x2.shape}")
    x1, x2 = broadcast_arrays(x1, x2)
    return roll(x1, -1, axis=place) * roll(x2, -2, axis=place) - roll(x1, -2, axis=place) * roll(x2, -1, axis=place)
