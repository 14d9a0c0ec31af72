"""Linear systems of triangular matrices, and those that a factorisation makes of other systems."""

from __future__ import annotations

from typing import Any

from tapegrad._engine.coercion import as_tensors
from tapegrad._engine.primitive import primitive
from tapegrad._engine.rules import composed
from tapegrad._engine.tensor import Tensor
from tapegrad.ops._matrices import times_dagger
from tapegrad.ops._text import SINGULAR, SQUARE, documented
from tapegrad.ops.conversion import as_floats, astype
from tapegrad.ops.decompositions import qr
from tapegrad.ops.dtypes import result_type
from tapegrad.ops.elementwise import conj
from tapegrad.ops.products import matmul, matrix_transpose
from tapegrad.ops.shaping import expand_dims, squeeze
from tapegrad.ops.solving import checked, square
from tapegrad.typing import ArrayLike

_SOLUTIONS = "The dtype is that of the operands, promoted; for integers the default floating one."
_RIGHT = "Right-hand sides: one vector (n,), or (..., n, k); leading axes broadcast."
_UNFIT = "ValueError: The shapes do not fit."
_OTHER = {"N": "C", "C": "N"}


def _triangle(xp: Any, g: Any, upper: bool, unit_diagonal: bool) -> Any:
    return xp.triu(g, k=int(unit_diagonal)) if upper else xp.tril(g, k=-int(unit_diagonal))


def _matrix_vjp(xp: Any, t: Any, a: Any, out: Any, upper: bool, trans: str, unit_diagonal: bool) -> Any:
    w = xp.linalg.solve_triangular(a, t, upper=upper, trans=_OTHER[trans], unit_diagonal=unit_diagonal)
    g = times_dagger(xp, w, out) if trans == "N" else times_dagger(xp, out, w)
    return -_triangle(xp, g, upper, unit_diagonal)


_solve_triangular = primitive(
    "solve_triangular",
    lambda xp, a, b, upper, trans, unit_diagonal: xp.linalg.solve_triangular(
        a, b, upper=upper, trans=trans, unit_diagonal=unit_diagonal
    ),
    _matrix_vjp,
    lambda xp, t, a, upper, trans, unit_diagonal: xp.linalg.solve_triangular(
        a, t, upper=upper, trans=_OTHER[trans], unit_diagonal=unit_diagonal
    ),
    broadcasts=True,
    adjoint=True,
)


def _system(name: str, x1: Any, x2: Any, rows: int) -> tuple[Tensor, Tensor, bool]:
    """Return matrices and right-hand sides as floats of one dtype, and whether the latter is one vector."""
    x1, x2 = as_tensors(name, x1, x2)
    x1, x2 = as_floats(x1), as_floats(x2)
    if x1.dtype is not x2.dtype:
        dtype = result_type(x1, x2)
        x1, x2 = astype(x1, dtype, copy=False), astype(x2, dtype, copy=False)
    if x1.ndim < 2:
        raise ValueError(f"{name}: matrices (..., m, n) are needed, not a Tensor of shape {x1.shape}")
    if x2.ndim == 0 or x2.shape[0 if x2.ndim == 1 else -2] != x1.shape[rows]:
        raise ValueError(f"{name}: matrices {x1.shape} do not fit a right-hand side of shape {x2.shape}")
    return (x1, expand_dims(x2, axis=-1), True) if x2.ndim == 1 else (x1, x2, False)


@documented(
    f"The solutions, (n,) or (..., n, k). {_SOLUTIONS}",
    SQUARE,
    _UNFIT,
    "ValueError: `trans` is another one.",
    "ValueError: A matrix is singular; PyTorch, CuPy and JAX say so under `tapegrad.debug` only, and else return inf.",
    x1="Triangular matrices (..., n, n); the other triangle is not read.",
    x2=_RIGHT,
    upper="Whether the upper triangle is read, else the lower one.",
    trans="'N' for x1 x = x2, 'T' for x1^T x = x2, 'C' for x1^H x = x2.",
    unit_diagonal="Whether the diagonal is taken for ones; it is not read then.",
)
def solve_triangular(
    x1: ArrayLike, x2: ArrayLike, /, *, upper: bool = False, trans: str = "N", unit_diagonal: bool = False
) -> Tensor:
    """Solution x of triangular systems x1 x = x2, by substitution.

    Derivatives: the triangle of -w out^H, with w = x1^-H t; w (Giles, "Collected matrix derivative results", 2008).

    >>> import tapegrad as tg
    >>> tg.linalg.solve_triangular(tg.asarray([[2.0, 0.0], [1.0, 4.0]]), tg.asarray([2.0, 5.0]))
    Tensor([1., 1.])
    """
    if trans not in ("N", "T", "C"):
        raise ValueError(f"solve_triangular: trans is 'N', 'T' or 'C', not {trans!r}")
    x1, x2, vector = _system("solve_triangular", x1, x2, -1)
    x1 = square("solve_triangular", x1)
    turned = trans == "T" and "complex" in x1.dtype.kind  # x1^T x = x2 is x1^H conj(x) = conj(x2)
    x2 = conj(x2) if turned else x2

    def operation(a: Tensor, b: Tensor) -> Tensor:
        return _solve_triangular(a, b, bool(upper), "N" if trans == "N" else "C", bool(unit_diagonal))

    out = checked("solve_triangular", operation, x1, x2)
    out = conj(out) if turned else out
    return squeeze(out, axis=-1) if vector else out


@composed
@documented(
    f"The solutions, (n,) or (..., n, k). {_SOLUTIONS}",
    SQUARE,
    _UNFIT,
    x1="Cholesky factors (..., n, n), as of `cholesky`; the other triangle is not read.",
    x2=_RIGHT,
    upper="Whether the factor is U of U^H U, else L of L L^H.",
)
def cho_solve(x1: ArrayLike, x2: ArrayLike, /, *, upper: bool = False) -> Tensor:
    """Solution x of systems (x1 x1^H) x = x2, given the Cholesky factor x1 of the matrix.

    Composed of two calls of `solve_triangular`.

    >>> import tapegrad as tg
    >>> factor = tg.linalg.cholesky(tg.asarray([[4.0, 0.0], [0.0, 9.0]]))
    >>> tg.linalg.cho_solve(factor, tg.asarray([4.0, 18.0]))
    Tensor([1., 2.])
    """
    x1, x2, vector = _system("cho_solve", x1, x2, -1)
    x1 = square("cho_solve", x1)
    half = solve_triangular(x1, x2, upper=upper, trans="C" if upper else "N")
    out = solve_triangular(x1, half, upper=upper, trans="N" if upper else "C")
    return squeeze(out, axis=-1) if vector else out


@composed
@documented(
    f"The solutions, (n,) or (..., n, k). {_SOLUTIONS}",
    _UNFIT,
    SINGULAR.replace("is singular", "has not full rank"),
    x1="Matrices (..., m, n) of full rank: tall, wide or square.",
    x2="Right-hand sides: one vector (m,), or (..., m, k); leading axes broadcast.",
)
def lstsq(x1: ArrayLike, x2: ArrayLike, /) -> Tensor:
    """Solution x of least squares: the x of least norm among those that make the norm of x1 x - x2 least.

    Composed of `qr` of x1 or, for wide matrices, of x1^H, of `matmul` and `solve_triangular`. Matrices that lack full
    rank have no derivative here: write `pinv(x1) @ x2`, whose rank is constant.

    >>> import tapegrad as tg
    >>> tg.linalg.lstsq(tg.asarray([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]), tg.asarray([1.0, 3.0, 5.0]))
    Tensor([1., 2.])
    """
    x1, x2, vector = _system("lstsq", x1, x2, -2)
    if x1.shape[-2] >= x1.shape[-1]:
        q, r = qr(x1)
        out = solve_triangular(r, matmul(conj(matrix_transpose(q)), x2), upper=True)
    else:
        q, r = qr(conj(matrix_transpose(x1)))
        out = matmul(q, solve_triangular(r, x2, upper=True, trans="C"))
    return squeeze(out, axis=-1) if vector else out
