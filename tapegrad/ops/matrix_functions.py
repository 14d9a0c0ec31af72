"""Functions of square matrices: the exponential."""

from __future__ import annotations

from typing import Any

from tapegrad._engine.dispatch import detached_array
from tapegrad._engine.primitive import primitive
from tapegrad._engine.tensor import Tensor, wrap
from tapegrad.ops._matrices import herm, of_matrices
from tapegrad.ops._text import FLOATED, SQUARE, documented
from tapegrad.ops.conversion import astype
from tapegrad.ops.solving import square
from tapegrad.typing import ArrayLike


def _expm_vjp(xp: Any, t: Any, x: Any) -> Any:
    """Return the derivative at x^H in the direction t: a block of the exponential of [[x^H, t], [0, x^H]].

    The derivative is linear in t, which is scaled to the size of x so that its norm asks for no more squarings.
    """
    n = x.shape[-1]
    if 0 in t.shape:
        return t
    fixed = wrap(detached_array(t._array)) if type(t) is Tensor else t
    scale = xp.max(xp.abs(fixed), axis=(-2, -1), keepdims=True)
    scale = xp.where((scale > 0) & xp.isfinite(scale), scale, 1)
    scale = xp.astype(scale, t.dtype)
    a = xp.broadcast_to(herm(xp, x), t.shape)
    top = xp.concat([a, t / scale], axis=-1)
    low = xp.concat([xp.zeros_like(a), a], axis=-1)
    return xp.linalg.expm(xp.concat([top, low], axis=-2))[..., :n, n:] * scale


_expm = primitive("expm", lambda xp, x: xp.linalg.expm(x), _expm_vjp, adjoint=True, rows=of_matrices)


@documented(f"The exponentials (..., n, n). {FLOATED}", SQUARE, x="Matrices (..., n, n).")
def expm(x: ArrayLike, /) -> Tensor:
    """Exponential of square matrices: the sum of x^k / k!.

    By scaling and squaring with Pade's approximant (Higham, 2005); PyTorch has its own. Derivative: a block
    of the exponential of a matrix twice as large (Mathias, "A chain rule for matrix functions", 1996).

    >>> import tapegrad as tg
    >>> tg.linalg.expm(tg.asarray([[0.0, 1.0], [0.0, 0.0]]))
    Tensor([[1., 1.],
            [0., 1.]])
    """
    x = square("expm", x)
    if x.dtype.itemsize == 2:  # half precision, in which the terms overflow
        return astype(_expm(astype(x, "float32")), x.dtype)
    return _expm(x)
