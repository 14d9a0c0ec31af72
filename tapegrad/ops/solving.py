"""Linear systems, inverses and determinants. Formulas: Giles, "Collected matrix derivative results" (2008)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tapegrad._engine.coercion import SCALARS, as_tensor, as_tensors
from tapegrad._engine.dispatch import backend_of, holds, namespace_of
from tapegrad._engine.dtypes import is_complex
from tapegrad._engine.mode import mode
from tapegrad._engine.primitive import primitive, several
from tapegrad._engine.rules import composed
from tapegrad._engine.tensor import Tensor
from tapegrad.ops._axes import integer
from tapegrad.ops._cofactors import cofactors
from tapegrad.ops._matrices import (
    dagger_times,
    diagonal_of,
    herm,
    of_matrices,
    right_divide,
    symmetric,
    times_dagger,
)
from tapegrad.ops._text import FLOATED, RTOL, SINGULAR, SQUARE, UNFIT, documented
from tapegrad.ops.conversion import as_floats
from tapegrad.ops.creation import eye
from tapegrad.ops.elementwise import conj
from tapegrad.ops.products import matmul, matrix_transpose
from tapegrad.ops.shaping import broadcast_to
from tapegrad.typing import ArrayLike


def square(name: str, operand: Any) -> Tensor:
    """Return an operand as a Tensor of square matrices of floats; ValueError if it is none."""
    return _check_square(name, as_floats(operand))


def _check_square(name: str, x: Tensor) -> Tensor:
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ValueError(f"{name}: square matrices (..., n, n) are needed, not a Tensor of shape {x.shape}")
    return x


def checked(name: str, operation: Callable[..., Tensor], *xs: Tensor) -> Tensor:
    """Return the result of an operation; under `debug()`, raise ValueError for matrices that all should refuse.

    CuPy and JAX return numbers for singular matrices: a look at these would make the host wait.
    """
    if not mode().debug:
        return operation(*xs)
    kind = type(xs[0]._array)
    with backend_of[kind].raising():
        out = operation(*xs)
    xp = namespace_of[kind]
    finite = [xp.all(xp.isfinite(x._array)) for x in (*xs, out)]
    given = finite[0] if len(xs) == 1 else xp.logical_and(*finite[:2])
    if holds(xp.logical_and(given, xp.logical_not(finite[-1]))):
        what = "not positive definite" if name == "cholesky" else "singular"
        raise ValueError(f"{name} of operands of shape {', '.join(str(x.shape) for x in xs)}: a matrix is {what}")
    return out


def _inv_vjp(xp: Any, t: Any, out: Any) -> Any:
    return -times_dagger(xp, dagger_times(xp, out, t), out)


_inv = primitive("inv", lambda xp, x: xp.linalg.inv(x), _inv_vjp, adjoint=True, rows=of_matrices)


@documented(f"The inverses (..., n, n). {FLOATED}", SQUARE, SINGULAR, x="Matrices (..., n, n).")
def inv(x: ArrayLike, /) -> Tensor:
    """Inverse of square matrices.

    Derivative: -out^H t out^H (Giles, "Collected matrix derivative results", 2008).

    >>> import tapegrad as tg
    >>> tg.linalg.inv(tg.asarray([[2.0, 0.0], [0.0, 4.0]]))
    Tensor([[0.5 , 0.  ],
            [0.  , 0.25]])
    """
    return checked("inv", _inv, square("inv", x))


def _solve_1(xp: Any, t: Any, x1: Any, x2: Any, out: Any) -> Any:
    if x2.ndim == 1:
        return -xp.linalg.solve(herm(xp, x1), t[..., None]) * xp.conj(out)[..., None, :]
    return -times_dagger(xp, xp.linalg.solve(herm(xp, x1), t), out)


def _solve_2(xp: Any, t: Any, x1: Any, x2_shape: tuple[int, ...]) -> Any:
    if len(x2_shape) == 1:
        return xp.linalg.solve(herm(xp, x1), t[..., None])[..., 0]
    return xp.linalg.solve(herm(xp, x1), t)


_solve = primitive(
    "solve", lambda xp, x1, x2: xp.linalg.solve(x1, x2), _solve_1, _solve_2, broadcasts=True, adjoint=True
)


@documented(
    (
        "The solutions, (n,) or (..., n, k). The dtype is that of the operands, promoted; for "
        "integers the default floating one."
    ),
    SQUARE,
    UNFIT,
    SINGULAR,
    x1="Matrices (..., n, n).",
    x2="Right-hand sides: one vector (n,), or (..., n, k); leading axes broadcast.",
)
def solve(x1: ArrayLike, x2: ArrayLike, /) -> Tensor:
    """Solution x of linear systems x1 x = x2.

    Derivatives: -x1^-H t out^H; x1^-H t (Giles, "Collected matrix derivative results", 2008).

    >>> import tapegrad as tg
    >>> tg.linalg.solve(tg.asarray([[2.0, 0.0], [0.0, 4.0]]), tg.asarray([2.0, 2.0]))
    Tensor([1. , 0.5])
    """
    x1, x2 = as_tensors("solve", x1, x2)
    x1, x2 = square("solve", x1), as_floats(x2)
    if x2.ndim == 0 or x2.shape[0 if x2.ndim == 1 else -2] != x1.shape[-1]:
        raise ValueError(f"solve: matrices {x1.shape} do not fit a right-hand side of shape {x2.shape}")
    return checked("solve", _solve, x1, x2)


_det = primitive(
    "det",
    lambda xp, x: xp.linalg.det(x),
    lambda xp, t, x, out: t[..., None, None] * cofactors(xp, x, out),
    rows=lambda xp, _: ((-2, -1), ()),
)


@documented(f"The determinants (...). {FLOATED}", SQUARE, x="Matrices (..., n, n).")
def det(x: ArrayLike, /) -> Tensor:
    """Determinant of square matrices.

    Derivative: t out x^-T, and its limit for a singular x (the matrix of cofactors), to any order. From four rows on it
    looks for singular matrices, for which the host waits on a GPU.

    >>> import tapegrad as tg
    >>> tg.linalg.det(tg.asarray([[2.0, 0.0], [0.0, 4.0]]))
    Tensor(8.)
    """
    return _det(square("det", x))


class SlogdetResult(NamedTuple):
    """Sign of a determinant, and the logarithm of its absolute value."""

    sign: Tensor
    logabsdet: Tensor


def _slogdet_vjp(xp: Any, ts: list[Any], x: Any, outs: tuple[Any, Any]) -> Any:
    t_sign, t = ts
    if t_sign is not None and is_complex(x.dtype):  # the sign turns with the angle of the determinant
        turn = xp.astype(-xp.imag(xp.conj(t_sign) * outs[0]), x.dtype) * 1j
        t = turn if t is None else t + turn
    if t is None:  # only the sign is used, and it is real: constant
        return xp.broadcast_to(t_sign[..., None, None] * 0, tuple(t_sign.shape) + tuple(x.shape[-2:]))
    return t[..., None, None] * herm(xp, xp.linalg.inv(x))


_slogdet = several("slogdet", lambda xp, x: xp.linalg.slogdet(x), _slogdet_vjp)


@documented(
    "`sign`, in the floating dtype of `x`, and `logabsdet`, which is real, each of shape (...).",
    SQUARE,
    x="Matrices (..., n, n).",
)
def slogdet(x: ArrayLike, /) -> SlogdetResult:
    """Sign and logarithm of the absolute value of the determinant of square matrices.

    Derivatives: of logabsdet, t x^-H; of the sign, zero for real and that of an angle for complex x. Differentiating at
    a singular matrix, where logabsdet is -inf, raises ValueError where the library says so.

    >>> import tapegrad as tg
    >>> tg.linalg.slogdet(tg.asarray([[-1.0, 0.0], [0.0, 1.0]])).sign
    Tensor(-1.)
    """
    return SlogdetResult(*_slogdet(square("slogdet", x)))


def _cholesky_vjp(xp: Any, t: Any, out: Any) -> Any:
    inner = xp.tril(dagger_times(xp, out, xp.tril(t)))  # above the diagonal is nothing but zero
    inner = inner - 0.5 * diagonal_of(xp, inner)
    return symmetric(xp, right_divide(xp, xp.linalg.solve(herm(xp, out), inner), out))


_cholesky = primitive("cholesky", lambda xp, x: xp.linalg.cholesky(x), _cholesky_vjp, adjoint=True, rows=of_matrices)


@documented(
    f"The factors (..., n, n). {FLOATED}",
    SQUARE,
    "ValueError: A matrix is not positive definite; CuPy and JAX say so under `tapegrad.debug` only.",
    x="Positive definite Hermitian matrices (..., n, n), of which only one triangle is read.",
    upper="Whether to return U of x = U^H U, else L of x = L L^H.",
)
def cholesky(x: ArrayLike, /, *, upper: bool = False) -> Tensor:
    """Triangular factor of positive definite Hermitian matrices.

    Derivative: Murray, "Differentiation of the Cholesky decomposition" (2016). The gradient is spread over both
    triangles, so that a step along it keeps x Hermitian.

    >>> import tapegrad as tg
    >>> tg.linalg.cholesky(tg.asarray([[4.0, 0.0], [0.0, 9.0]]))
    Tensor([[2., 0.],
            [0., 3.]])
    """
    lower = checked("cholesky", _cholesky, square("cholesky", x))
    return conj(matrix_transpose(lower)) if upper else lower


def _pinv_vjp(xp: Any, t: Any, x: Any, out: Any) -> Any:
    th = herm(xp, t)
    outer = times_dagger(xp, out, out)  # out out^H
    inner = dagger_times(xp, out, out)  # out^H out
    left = xp.matmul(th, outer)
    right = xp.matmul(inner, th)
    g = -times_dagger(xp, dagger_times(xp, out, t), out)
    g = g + left - xp.matmul(x, xp.matmul(out, left))
    return g + right - xp.matmul(xp.matmul(right, out), x)


def _pinv_forward(xp: Any, x: Any, rtol: Any) -> Any:
    return xp.linalg.pinv(x) if rtol is None else xp.linalg.pinv(x, rtol=rtol)


_pinv = primitive("pinv", _pinv_forward, _pinv_vjp, adjoint=True, rows=of_matrices)


@documented(f"The pseudoinverses (..., n, m). {FLOATED}", x="Matrices (..., m, n).", rtol=RTOL)
def pinv(x: ArrayLike, /, *, rtol: ArrayLike | None = None) -> Tensor:
    """Moore-Penrose pseudoinverse of matrices.

    Derivative: Golub and Pereyra (1973), for matrices of constant rank.

    >>> import tapegrad as tg
    >>> tg.linalg.pinv(tg.asarray([[2.0], [0.0]]))
    Tensor([[0.5, 0. ]])
    """
    x = as_floats(x)
    if rtol is not None and type(rtol) not in SCALARS:
        rtol = as_tensors("pinv", x, rtol)[1]._array
    return _pinv(x, rtol)


@composed
@documented(
    ("The powers (..., m, m), in the dtype of `x`; of integers to a negative power, in the default floating one."),
    SQUARE,
    "ValueError: `n` is negative and a matrix is singular; see `inv`.",
    "TypeError: `n` is no integer.",
    x="Matrices (..., m, m).",
    n="The power, which may be zero or negative.",
)
def matrix_power(x: ArrayLike, n: int, /) -> Tensor:
    """Power of square matrices.

    Composed of `matmul`, by repeated squaring, and of `inv`.

    >>> import tapegrad as tg
    >>> tg.linalg.matrix_power(tg.asarray([[2.0, 0.0], [0.0, 3.0]]), 2)
    Tensor([[4., 0.],
            [0., 9.]])
    """
    base, n = _check_square("matrix_power", as_tensor(x)), integer("matrix_power", "the exponent", n)
    if n == 0:
        return broadcast_to(eye(base.shape[-1], dtype=base.dtype, device=base.device), base.shape)
    if n < 0:
        base, n = inv(base), -n
    while n % 2 == 0:
        base, n = matmul(base, base), n // 2
    out = base
    while n := n // 2:
        base = matmul(base, base)
        if n % 2:
            out = matmul(out, base)
    return broadcast_to(out, out.shape) if out is x else out
