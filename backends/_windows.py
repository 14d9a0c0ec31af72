"""Windows over the last axes of arrays, in the words of the standard: for any library, functional and slow.

A *tap* is a place in a window, an *output place* a place of a window. Tap k of window i lies at `i stride + k dilation`
of the padded array, along each axis. The first argument of each function is the library's namespace. `padding` has two
lengths for each axis, before and behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import wraps
from itertools import product
from math import inf, prod
from typing import Any

import numpy as np

from tapegrad.backends._array import Array

Sizes = tuple[int, ...]
Padding = tuple[tuple[int, int], ...]
ALL = slice(None)


def places(space: Sizes, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes) -> Sizes:
    """Return how many windows there are along each axis."""
    sizes = zip(space, size, stride, padding, dilation, strict=True)
    return tuple([(n + lo + hi - d * (k - 1) - 1) // s + 1 for n, k, s, (lo, hi), d in sizes])


def padded(space: Sizes, padding: Padding) -> Sizes:
    """Return the lengths of axes with their padding."""
    return tuple([n + lo + hi for n, (lo, hi) in zip(space, padding, strict=True)])


def keys(out: Sizes, size: Sizes, stride: Sizes, dilation: Sizes) -> Iterator[tuple[slice, ...]]:
    """Go through the taps in order: the index of each, for all windows, into the last axes of the padded array."""
    for tap in product(*map(range, size)):
        yield tuple(
            [slice(k * d, k * d + s * (n - 1) + 1, s) for k, d, s, n in zip(tap, dilation, stride, out, strict=True)]
        )


def pad_last(xp: Any, x: Array, widths: Padding, value: Any) -> Array:
    """Return an array with a value before and behind its last axes."""
    for i, (lo, hi) in enumerate(widths):
        axis = len(x.shape) - len(widths) + i
        parts = [x]
        for n, at in ((lo, 0), (hi, 1)):
            if n:
                shape = (*x.shape[:axis], n, *x.shape[axis + 1 :])
                edge = xp.full(shape, value, dtype=x.dtype, device=getattr(x, "device", None))
                parts.insert(at * len(parts), edge)
        if len(parts) > 1:
            x = xp.concat(parts, axis=axis)
    return x


def in_single(function: Any) -> Any:
    """Compute in single precision for an operand of half precision, which sums would lose."""

    @wraps(function)
    def call(xp: Any, x: Array, *args: Any) -> Array:
        if not is_half(x):
            return function(xp, x, *args)
        return xp.astype(function(xp, xp.astype(x, xp.float32), *args), x.dtype)

    return call


def is_half(x: Array) -> bool:
    """Say whether an array is of float16 or bfloat16."""
    return str(x.dtype).rpartition(".")[2] in ("float16", "bfloat16")


def _lead(x: Array, ndim: int) -> tuple[slice, ...]:
    return (ALL,) * (len(x.shape) - ndim)


def windows(xp: Any, x: Array, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes) -> Array:
    """Return the windows (..., *size, *places) of an array (..., *space)."""
    d = len(size)
    out = places(tuple(x.shape[-d:]), size, stride, padding, dilation)
    lead, before = tuple(x.shape[:-d]), _lead(x, d)
    x = xp.pad_last(x, padding, 0)
    taps = [xp.index_get(x, (*before, *key)) for key in keys(out, size, stride, dilation)]
    return xp.reshape(xp.stack(taps, axis=len(lead)), (*lead, *size, *out))


@in_single
def windows_sum(
    xp: Any, c: Array, space: Sizes, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes
) -> Array:
    """Return an array (..., *space) with windows (..., *size, *places) added at their places: the adjoint."""
    d = len(size)
    lead, out = tuple(c.shape[: -2 * d]), tuple(c.shape[-d:])
    c = xp.reshape(c, (*lead, prod(size), *out))
    total = _zeros(xp, c, (*lead, *padded(space, padding)))
    before = (ALL,) * len(lead)
    for k, key in enumerate(keys(out, size, stride, dilation)):
        total = xp.index_add(total, (*before, *key), xp.index_get(c, (*before, k, *(ALL,) * d)))
    return cropped(xp, total, space, padding)


def _zeros(xp: Any, like: Array, shape: Sizes) -> Array:
    return xp.zeros(shape, dtype=like.dtype, device=getattr(like, "device", None))


def cropped(xp: Any, x: Array, space: Sizes, padding: Padding) -> Array:
    """Return the last axes of an array without their padding."""
    inner = tuple([slice(lo, lo + n) for n, (lo, _) in zip(space, padding, strict=True)])
    return xp.index_get(x, (*_lead(x, len(space)), *inner))


# -- sums ------------------------------------------------------------------------------------------------


@in_single
def window_sum(xp: Any, x: Array, size: Sizes, stride: Sizes, padding: Padding) -> Array:
    """Return the sum of each window."""
    d, ones = len(size), (1,) * len(size)
    out = places(tuple(x.shape[-d:]), size, stride, padding, ones)
    x = xp.pad_last(x, padding, 0)
    total = None
    for key in keys(out, size, stride, ones):
        part = xp.index_get(x, (*_lead(x, d), *key))
        total = part if total is None else total + part
    return total


@in_single
def window_spread(xp: Any, t: Array, space: Sizes, size: Sizes, stride: Sizes, padding: Padding) -> Array:
    """Return an array (..., *space) with each element of `t` added all over its window: the adjoint of sums."""
    d, ones = len(size), (1,) * len(size)
    total = _zeros(xp, t, (*t.shape[:-d], *padded(space, padding)))
    for key in keys(tuple(t.shape[-d:]), size, stride, ones):
        total = xp.index_add(total, (*_lead(t, d), *key), t)
    return cropped(xp, total, space, padding)


# -- maxima ----------------------------------------------------------------------------------------------


def max_pool(xp: Any, x: Array, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes) -> tuple[Array, Array]:
    """Return the maximum of each window, and the tap where it is: the first one, or the last NaN."""
    d = len(size)
    space = tuple(x.shape[-d:])
    out = places(space, size, stride, padding, dilation)
    best: Any = None
    taps: Any = None
    x = xp.pad_last(x, padding, -inf)
    for k, key in enumerate(keys(out, size, stride, dilation)):
        part = xp.index_get(x, (*_lead(x, d), *key))
        if best is None:
            best, device = part, getattr(x, "device", None)
            dtype = xp.uint8 if prod(size) <= 256 else xp.int32
            first = first_taps(out, space, size, stride, padding, dilation)
            taps = xp.broadcast_to(xp.asarray(first.tolist(), dtype=dtype, device=device), part.shape)
        else:
            better = (part > best) | (part != part)
            best = xp.where(better, part, best)
            taps = xp.where(better, xp.asarray(k, dtype=dtype, device=device), taps)
    return best, taps


def first_taps(out: Sizes, space: Sizes, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes) -> Any:
    """Return the first tap of each window that lies in the array itself, not in its padding; on the host."""
    first, step = np.zeros((1,) * len(out), np.int64), 1
    for i in reversed(range(len(size))):
        begins = np.arange(out[i]) * stride[i]
        taps = np.clip(-((begins - padding[i][0]) // dilation[i]), 0, size[i] - 1) * step
        first = first + taps.reshape([-1 if j == i else 1 for j in range(len(size))])
        step *= size[i]
    return first


def pool_gather(xp: Any, x: Array, taps: Array, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes) -> Array:
    """Return the element of each window at its tap."""
    d = len(size)
    x = xp.pad_last(x, padding, 0)
    found = None
    for k, key in enumerate(keys(tuple(taps.shape[-d:]), size, stride, dilation)):
        part = xp.index_get(x, (*_lead(x, d), *key))
        found = xp.where(taps == k, part, xp.zeros_like(part) if found is None else found)
    return found


@in_single
def pool_scatter(
    xp: Any, t: Array, taps: Array, space: Sizes, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes
) -> Array:
    """Return an array (..., *space) with each element of `t` added at the tap of its window: the adjoint."""
    d = len(size)
    total = _zeros(xp, t, (*t.shape[:-d], *padded(space, padding)))
    nothing = xp.zeros_like(t)
    for k, key in enumerate(keys(tuple(t.shape[-d:]), size, stride, dilation)):
        total = xp.index_add(total, (*_lead(t, d), *key), xp.where(taps == k, t, nothing))
    return cropped(xp, total, space, padding)
