"""Linear operations on windows over the last axes, each with its adjoint, for rules and public functions.

`stride`, `padding` and `dilation` have an entry for each of these axes, that of `padding` is (before, behind). Axes in
front of them are batch axes.
"""

from __future__ import annotations

from typing import Any

from tapegrad._engine.bound import bound
from tapegrad._engine.coercion import on_one_level
from tapegrad._engine.dispatch import namespace_of
from tapegrad._engine.primitive import primitive
from tapegrad._engine.tensor import Tensor, wrap
from tapegrad.ops.shaping import broadcast_shapes


def _last(shape: tuple[int, ...], size: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[len(shape) - len(size) :])


windows = primitive(
    "unfold",
    lambda xp, x, size, stride, padding, dilation: xp.windows(x, size, stride, padding, dilation),
    lambda xp, t, x_shape, size, stride, padding, dilation: xp.windows_sum(
        t, _last(x_shape, size), size, stride, padding, dilation
    ),
)
windows_sum = primitive(
    "fold",
    lambda xp, x, space, size, stride, padding, dilation: xp.windows_sum(x, space, size, stride, padding, dilation),
    lambda xp, t, size, stride, padding, dilation: xp.windows(t, size, stride, padding, dilation),
)
window_sum = primitive(
    "window_sum",
    lambda xp, x, size, stride, padding: xp.window_sum(x, size, stride, padding),
    lambda xp, t, x_shape, size, stride, padding: xp.window_spread(t, _last(x_shape, size), size, stride, padding),
)
window_spread = primitive(
    "window_spread",
    lambda xp, x, space, size, stride, padding: xp.window_spread(x, space, size, stride, padding),
    lambda xp, t, size, stride, padding: xp.window_sum(t, size, stride, padding),
)


def _inner(ndim: int, widths: tuple[tuple[int, int], ...], space: tuple[int, ...]) -> tuple[Any, ...]:
    """Return the index of an array inside its padding."""
    inner = [slice(lo, lo + n) for n, (lo, _) in zip(space, widths, strict=True)]
    return (*(slice(None),) * (ndim - len(widths)), *inner)


pad_last = primitive(
    "pad",
    lambda xp, x, widths, value: xp.pad_last(x, widths, value),
    lambda xp, t, x_shape, widths: xp.index_get(t, _inner(t.ndim, widths, _last(x_shape, widths))),
)

# The taps of maxima are static arguments: raw arrays of integers, which no derivative flows through.
_max_pool = primitive(
    "max_pool",
    lambda xp, x, values, taps, size, stride, padding, dilation: values,
    lambda xp, t, taps, x_shape, size, stride, padding, dilation: _scatter(
        xp, t, taps, _last(x_shape, size), size, stride, padding, dilation
    ),
)
_pool_gather = primitive(
    "pool_gather",
    lambda xp, x, taps, size, stride, padding, dilation: _gather(xp, x, taps, size, stride, padding, dilation),
    lambda xp, t, taps, x_shape, size, stride, padding, dilation: _scatter(
        xp, t, taps, _last(x_shape, size), size, stride, padding, dilation
    ),
)
_pool_scatter = primitive(
    "pool_scatter",
    lambda xp, x, taps, space, size, stride, padding, dilation: xp.pool_scatter(
        x, taps, space, size, stride, padding, dilation
    ),
    lambda xp, t, taps, size, stride, padding, dilation: _gather(xp, t, taps, size, stride, padding, dilation),
)


def max_pool(x: Tensor, size: Any, stride: Any, padding: Any, dilation: Any) -> tuple[Tensor, Tensor]:
    """Return the maximum of each window, which keeps its tap, and the taps."""
    values, taps = namespace_of[type(x._array)].max_pool(x._array, size, stride, padding, dilation)
    return _max_pool(x, values, taps, size, stride, padding, dilation), wrap(taps)


def _scatter(xp: Any, t: Any, taps: Any, *static: Any) -> Any:
    return xp.pool_scatter(*_together(xp, t, taps, len(static[0])), *static)


def _gather(xp: Any, x: Any, taps: Any, *static: Any) -> Any:
    return xp.pool_gather(*_together(xp, x, taps, len(static[0])), *static)


def _together(xp: Any, x: Any, taps: Any, d: int) -> tuple[Any, Any]:
    """Return an array and taps, one of which may lack batch axes, with the same ones."""
    lead, known = tuple(x.shape[: x.ndim - d]), tuple(taps.shape[: len(taps.shape) - d])
    if lead == known:
        return x, taps
    both = broadcast_shapes(lead, known)
    if lead != both:
        x = xp.broadcast_to(x, (*both, *x.shape[x.ndim - d :]))
    if known != both:
        taps = namespace_of[type(raw(taps))].broadcast_to(raw(taps), (*both, *taps.shape[len(known) :]))
    return x, taps


def raw(taps: Any) -> Any:
    """Return taps, which may be a Tensor, as a raw array."""
    return taps._array if type(taps) is Tensor else taps


def pool_gather(x: Tensor, taps: Any, *static: Any) -> Tensor:
    """Return the element of each window at its tap, as rules on Tensors call it."""
    return _pool_gather(*_on_tensors(x, taps, len(static[0])), *static)


def pool_scatter(x: Tensor, taps: Any, *static: Any) -> Tensor:
    """Return an array with each element added at the tap of its window, as rules on Tensors call it."""
    return _pool_scatter(*_on_tensors(x, taps, len(static[0])), *static)


def _on_tensors(x: Tensor, taps: Any, d: int) -> tuple[Tensor, Any]:
    taps = taps if type(taps) is Tensor else wrap(taps)
    if type(x._array) is not type(taps._array):
        x, taps = on_one_level((x, taps))
    x, taps = _together(bound.tensor_namespace, x, taps, d)
    return x, raw(taps)
