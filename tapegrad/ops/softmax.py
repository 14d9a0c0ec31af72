"""Softmax and its kin, without overflow."""

from __future__ import annotations

from functools import wraps
from typing import Any

from tapegrad._engine.dispatch import dtype_of
from tapegrad._engine.primitive import primitive
from tapegrad._engine.rules import composed, with_operators
from tapegrad._engine.tensor import Tensor
from tapegrad.ops._axes import along, axes_of, axis_of, count, reduced, spread
from tapegrad.ops._text import FLOATED, documented
from tapegrad.ops.activations import ANY_FLOATING
from tapegrad.ops.binary import maximum, where
from tapegrad.ops.conversion import as_floats, astype
from tapegrad.ops.creation import arange
from tapegrad.ops.indexing import take_along_axis
from tapegrad.ops.reductions import cumulative_sum
from tapegrad.ops.reductions import max as max_
from tapegrad.ops.reductions import sum as sum_
from tapegrad.ops.shaping import reshape
from tapegrad.ops.sorting import sort
from tapegrad.typing import ArrayLike, Axis

_MOST = 65504  # the largest number of half precision


def overflows(x: Any, n: int) -> bool:
    """Say whether a sum of n exponentials, of at most 1, may overflow the dtype of x."""
    return n > _MOST and dtype_of(x).itemsize == 2


def _in_single(forward: Any) -> Any:
    """Compute in single precision where a sum of exponentials along the given axes may overflow half precision."""

    @wraps(forward)
    def call(xp: Any, x: Any, axis: Any, *static: Any) -> Any:
        if not overflows(x, count(x.shape, axis if isinstance(axis, tuple) else (axis,))):
            return forward(xp, x, axis, *static)
        return xp.astype(forward(xp, xp.astype(x, xp.float32), axis, *static), x.dtype)

    return call


def shifted(xp: Any, x: Any, axis: Any) -> Any:
    """Return x less its maximum, so that no exponential overflows."""
    if x.shape[axis] == 0:
        return x  # nothing has no maximum
    return x - xp.max(x, axis=axis, keepdims=True)


@with_operators
@_in_single
def softmax_forward(xp: Any, x: Any, axis: int) -> Any:
    rows = getattr(xp, "softmax_rows", None)  # the adapter's own passes over large arrays
    out = None if rows is None else rows(x, axis)
    if out is not None:
        return out
    e = xp.exp(shifted(xp, x, axis))
    return e / xp.sum(e, axis=axis, keepdims=True)


@with_operators
@_in_single
def log_softmax_forward(xp: Any, x: Any, axis: int) -> Any:
    z = shifted(xp, x, axis)
    if x.shape[axis] == 0:
        return xp.positive(x)  # without a warning about the logarithm of an empty sum
    return z - xp.log(xp.sum(xp.exp(z), axis=axis, keepdims=True))


def _softmax_vjp(xp: Any, t: Any, out: Any, axis: int) -> Any:
    rows = getattr(xp, "softmax_rows_gradient", None)
    found = None if rows is None else rows(t, out, axis)
    if found is not None:
        return found
    return out * (t - xp.sum(t * out, axis=axis, keepdims=True))


_softmax = primitive("softmax", softmax_forward, _softmax_vjp, fuses=True, rows=along)
_log_softmax = primitive(
    "log_softmax",
    log_softmax_forward,
    lambda xp, t, out, axis: t - xp.exp(out) * xp.sum(t, axis=axis, keepdims=True),
    fuses=True,
    rows=along,
)


@documented(f"The shape is that of `x`. {FLOATED}", x=ANY_FLOATING, axis="The axis to sum over.")
def softmax(x: ArrayLike, /, *, axis: int = -1) -> Tensor:
    """Exponentials over their sum along an axis, without overflow.

    Derivative: out (t - sum(t out)).

    >>> import tapegrad as tg
    >>> tg.softmax(tg.asarray([0.0, 0.0]))
    Tensor([0.5, 0.5])
    """
    x = as_floats(x)
    return _softmax(x, axis_of("softmax", x.ndim, axis))


@documented(f"The shape is that of `x`. {FLOATED}", x=ANY_FLOATING, axis="The axis to sum over.")
def log_softmax(x: ArrayLike, /, *, axis: int = -1) -> Tensor:
    """Logarithm of softmax along an axis, precise where that is near 0.

    Derivative: t - softmax(x) sum(t).

    >>> import tapegrad as tg
    >>> tg.log_softmax(tg.asarray([0.0, -1000.0]))
    Tensor([    0., -1000.])
    """
    x = as_floats(x)
    return _log_softmax(x, axis_of("log_softmax", x.ndim, axis))


@with_operators
@_in_single
def _logsumexp_forward(xp: Any, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    if count(x.shape, axis) == 0:
        return xp.sum(x, axis=axis, keepdims=keepdims) - xp.inf
    m = xp.max(x, axis=axis, keepdims=True)
    m = xp.where(xp.isfinite(m), m, 0)
    s = xp.sum(xp.exp(x - m), axis=axis, keepdims=True)
    out = m + xp.log(xp.where(s == 0, 1, s))
    out = xp.where(s == 0, -xp.inf, out)
    return out if keepdims else xp.squeeze(out, axis=axis) if axis else out


def _logsumexp_vjp(xp: Any, t: Any, x: Any, out: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    t, out = (spread(xp, v, x.shape, axis, keepdims) for v in (t, out))
    nothing = out == -xp.inf
    e = xp.exp(x - xp.where(nothing, 0, out))
    # The sum is 1 but for the rounding of out, which may be large: its digits are those of the largest value.
    return t / xp.where(nothing, 1, xp.sum(e, axis=axis, keepdims=True)) * e


_logsumexp = primitive("logsumexp", _logsumexp_forward, _logsumexp_vjp, fuses=True, rows=reduced)


@documented(
    f"The logarithms: a number for each place along the other axes. {FLOATED}",
    x=ANY_FLOATING,
    axis="The axes to sum over; all of them for None.",
)
def logsumexp(x: ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Logarithm of the sum of exponentials over axes, without overflow.

    Derivative: t softmax(x).

    >>> import tapegrad as tg
    >>> tg.logsumexp(tg.asarray([1000.0, -1000.0]))
    Tensor(1000.)
    """
    x = as_floats(x)
    return _logsumexp(x, axes_of("logsumexp", x.ndim, axis), keepdims)


@composed
@documented(f"The shape is that of `x`. {FLOATED}", "TypeError: `x` is complex.", x="Real floating.", axis="The axis.")
def sparsemax(x: ArrayLike, /, *, axis: int = -1) -> Tensor:
    """Projection onto the simplex along an axis: probabilities of which some are exactly 0.

    Martins and Astudillo, arXiv:1602.02068: max(x - tau, 0), with tau so that the sum is 1. Derivative: t less its mean
    over the values above 0; 0 for the others. Composed of `sort`, `cumulative_sum` and `sum`.

    >>> import tapegrad as tg
    >>> tg.sparsemax(tg.asarray([1.0, 0.5, -1.0]))
    Tensor([0.75, 0.25, 0.  ])
    """
    x = as_floats(x)
    if "complex" in x.dtype.kind:
        raise TypeError(f"sparsemax: x is real, not {x.dtype.name}")
    axis = axis_of("sparsemax", x.ndim, axis)
    n = x.shape[axis]
    if n == 0:
        return x * 1.0
    dtype = x.dtype
    z = astype(x, "float32") if dtype.itemsize == 2 else x
    z = z - max_(z, axis=axis, keepdims=True)
    # Which values are above tau: the first k in falling order, as long as 1 + k x_k > x_1 + ... + x_k.
    falling = sort(z, axis=axis, descending=True)
    k = reshape(arange(1, n + 1, dtype=z.dtype, device=z.device), (n, *(1,) * (-axis - 1)))
    last = sum_(astype(1 + k * falling > cumulative_sum(falling, axis=axis), "int64"), axis=axis, keepdims=True)
    above = z >= take_along_axis(falling, maximum(last - 1, 0), axis=axis)
    count_ = sum_(astype(above, z.dtype), axis=axis, keepdims=True)
    tau = (sum_(where(above, z, 0.0), axis=axis, keepdims=True) - 1) / count_
    out = where(above, z - tau, 0.0)
    return out if out.dtype == dtype else astype(out, dtype)
