"""Convolution and its two adjoints by windows and a product of matrices, in the words of the standard.

Convolution is trilinear: the sum of `t` times the convolution of `x` by `w` is linear in each of the three. So each of
these functions is the derivative of that sum by one of them: `convolution` by t, `convolution_input` by x, and
`convolution_weight` by w. Shapes, with channels first: x (batch, channels, *space), w (outputs, channels / groups,
*size), t (batch, outputs, *places). Channels belong to groups in order. Half precision is summed in single precision.
"""

from __future__ import annotations

from functools import wraps
from math import prod
from typing import Any

from tapegrad.backends._array import Array
from tapegrad.backends._windows import Padding, Sizes, is_half, places


def in_single(function: Any) -> Any:
    """Compute in single precision for operands of half precision."""

    @wraps(function)
    def call(xp: Any, a: Array, b: Array, *static: Any) -> Array:
        if not is_half(a):
            return function(xp, a, b, *static)
        out = function(xp, xp.astype(a, xp.float32), xp.astype(b, xp.float32), *static)
        return xp.astype(out, a.dtype)

    return call


@in_single
def convolution(xp: Any, x: Array, w: Array, stride: Sizes, padding: Padding, dilation: Sizes, groups: int) -> Array:
    """Return the sums of products (batch, outputs, *places) of all windows of `x` with the weights."""
    size, batch, outputs = tuple(w.shape[2:]), x.shape[0], w.shape[0]
    out = places(tuple(x.shape[2:]), size, stride, padding, dilation)
    rows = w.shape[1] * prod(size)
    columns = xp.reshape(xp.windows(x, size, stride, padding, dilation), (batch, groups, rows, prod(out)))
    y = xp.matmul(xp.reshape(w, (groups, outputs // groups, rows)), columns)
    return xp.reshape(y, (batch, outputs, *out))


@in_single
def convolution_input(
    xp: Any, t: Array, w: Array, space: Sizes, stride: Sizes, padding: Padding, dilation: Sizes, groups: int
) -> Array:
    """Return the adjoint by x: all weights times `t`, added at their windows of (batch, channels, *space)."""
    size, batch, outputs = tuple(w.shape[2:]), t.shape[0], w.shape[0]
    out = tuple(t.shape[2:])
    rows = w.shape[1] * prod(size)
    right = xp.matrix_transpose(xp.reshape(w, (groups, outputs // groups, rows)))
    columns = xp.matmul(right, xp.reshape(t, (batch, groups, outputs // groups, prod(out))))
    columns = xp.reshape(columns, (batch, groups * w.shape[1], *size, *out))
    return xp.windows_sum(columns, space, size, stride, padding, dilation)


@in_single
def convolution_weight(
    xp: Any, x: Array, t: Array, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes, groups: int
) -> Array:
    """Return the adjoint by w: the sums over all windows of `t` times their elements, in the shape of the weights."""
    batch, channels, outputs = x.shape[0], x.shape[1], t.shape[1]
    out = tuple(t.shape[2:])
    rows, n = channels // groups * prod(size), prod(out)
    columns = xp.reshape(xp.windows(x, size, stride, padding, dilation), (batch, groups, rows, n))
    left = xp.reshape(t, (batch, groups, outputs // groups, n))
    left = xp.reshape(xp.permute_dims(left, (1, 2, 0, 3)), (groups, outputs // groups, batch * n))
    right = xp.reshape(xp.permute_dims(columns, (1, 0, 3, 2)), (groups, batch * n, rows))
    return xp.reshape(xp.matmul(left, right), (outputs, channels // groups, *size))
