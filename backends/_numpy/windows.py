"""Windows on NumPy arrays, in few passes, in the layout of the operand: channels last in memory stay last."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tapegrad.backends._array import Array
from tapegrad.backends._numpy.functions import SAME_SIZE, masked
from tapegrad.backends._windows import Padding, Sizes, first_taps, keys, padded, places

DOTS: Any = ...


def like_in_memory(x: Array, shape: Sizes, dtype: Any) -> Array:
    """Return a new array of a shape whose axes have the order in memory that those of `x` have."""
    return np.empty_like(x, dtype, order="K", shape=shape)


def pad_last(x: Array, widths: Padding, value: Any) -> Array:
    if not any(map(any, widths)):
        return x
    d = len(widths)
    out = like_in_memory(x, (*x.shape[: x.ndim - d], *padded(x.shape[x.ndim - d :], widths)), x.dtype)
    inside = tuple([slice(lo, out.shape[i - d] - hi) for i, (lo, hi) in enumerate(widths)])
    # The edges of an axis, along the inner part of the axes before it: each element is written once.
    for i, (lo, hi) in enumerate(widths):
        for edge in (slice(0, lo), slice(out.shape[i - d] - hi, None)):
            if edge.stop != 0 and (edge.start == 0 or hi):
                out[(DOTS, *inside[:i], edge, *(slice(None),) * (d - i - 1))] = value
    out[(DOTS, *inside)] = x
    return out


def windows(x: Array, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes) -> Array:
    d = len(size)
    out = places(x.shape[x.ndim - d :], size, stride, padding, dilation)
    x = pad_last(x, padding, 0)
    lead, steps = x.ndim - d, x.strides[x.ndim - d :]
    taps = [s * g for s, g in zip(steps, dilation, strict=True)]
    moves = [s * k for s, k in zip(steps, stride, strict=True)]
    view = as_strided(x, (*x.shape[:lead], *size, *out), (*x.strides[:lead], *taps, *moves))
    return np.array(view, order="C")


def max_pool(x: Array, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes) -> tuple[Array, Array]:
    d = len(size)
    space = x.shape[x.ndim - d :]
    out = places(space, size, stride, padding, dilation)
    x = pad_last(x, padding, -inf)
    parts = [x[(DOTS, *key)] for key in keys(out, size, stride, dilation)]
    if len(parts) > 256 or x.ndim == d:
        return _general(parts, x, space, size, stride, padding, dilation)
    shape = parts[0].shape
    best = like_in_memory(x, shape, x.dtype)
    np.copyto(best, parts[0])
    taps = like_in_memory(x, shape, np.uint8)
    taps[...] = first_taps(out, space, size, stride, padding, dilation) if any(map(any, padding)) else 0
    better, number = like_in_memory(x, shape, np.bool), like_in_memory(x, shape, np.uint8)
    with np.errstate(invalid="ignore"):
        for k, part in enumerate(parts[1:], 1):
            # Taps rise, so that the number of a better one is the larger: no choice by a mask, which is slow.
            np.greater(part, best, out=better)
            np.maximum(best, part, out=best)
            np.multiply(better.view(np.uint8), np.uint8(k), out=number)
            np.maximum(taps, number, out=taps)
    if np.isnan(best).any():
        return _general(parts, x, space, size, stride, padding, dilation)
    return best, taps


def _general(
    parts: Iterable[Array], x: Array, space: Sizes, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes
) -> tuple[Array, Array]:
    """Return maxima and their taps among NaN, of which the last is the maximum."""
    best: Any = None
    taps: Any = None
    with np.errstate(invalid="ignore"):
        for k, part in enumerate(parts):
            if best is None:
                first = first_taps(part.shape[part.ndim - len(size) :], space, size, stride, padding, dilation)
                best, taps = part, np.broadcast_to(first, part.shape)
                taps = taps.astype(np.uint8 if prod(size) <= 256 else np.int32)
            better = (part > best) | (part != part) if k else part != part
            best = np.where(better, part, best)
            taps = np.where(better, taps.dtype.type(k), taps)
    return best, taps


def pool_gather(x: Array, taps: Array, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes) -> Array:
    x = pad_last(x, padding, 0)
    found = like_in_memory(taps, taps.shape, x.dtype)
    found[...] = 0
    for k, key in enumerate(keys(taps.shape[taps.ndim - len(size) :], size, stride, dilation)):
        np.copyto(found, x[(DOTS, *key)], where=taps == k)
    return found


def pool_scatter(
    t: Array, taps: Array, space: Sizes, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes
) -> Array:
    lead, out = t.shape[: t.ndim - len(size)], t.shape[t.ndim - len(size) :]
    single = t.astype(np.float32) if t.dtype.itemsize == 2 else t
    total = like_in_memory(taps, (*lead, *padded(space, padding)), single.dtype)
    apart = all(s >= g * (k - 1) + 1 and g == 1 for s, k, g in zip(stride, size, dilation, strict=True))
    tiled = apart and all(s == k for s, k in zip(stride, size, strict=True))
    if not tiled or any(n * k != m for n, k, m in zip(out, size, padded(space, padding), strict=True)):
        total[...] = 0
    bits = SAME_SIZE.get(single.dtype.type) if apart else None
    for k, key in enumerate(keys(out, size, stride, dilation)):
        spot, chosen = total[(DOTS, *key)], taps == k
        if bits is not None:  # an integer times 1 or 0, written in its place
            np.multiply(single.view(bits), chosen, out=spot.view(bits))
        elif apart:
            spot[...] = masked(chosen, single)
        else:
            spot += masked(chosen, single)
    return cropped(total, space, padding).astype(t.dtype, copy=False)


def cropped(x: Array, space: Sizes, padding: Padding) -> Array:
    """Return the last axes of an array without their padding."""
    if not any(map(any, padding)):
        return x
    return x[(DOTS, *[slice(lo, lo + n) for n, (lo, _) in zip(space, padding, strict=True)])]


def window_sum(x: Array, size: Sizes, stride: Sizes, padding: Padding) -> Array:
    d, ones = len(size), (1,) * len(size)
    out = places(x.shape[x.ndim - d :], size, stride, padding, ones)
    dtype = np.dtype(np.float32) if x.dtype.itemsize == 2 else x.dtype
    x = pad_last(x, padding, 0)
    total: Any = None
    for key in keys(out, size, stride, ones):
        part = x[(DOTS, *key)]
        if total is None:
            total = like_in_memory(x, part.shape, dtype)
            np.copyto(total, part)
        else:
            total += part
    return total.astype(x.dtype, copy=False)


def window_spread(t: Array, space: Sizes, size: Sizes, stride: Sizes, padding: Padding) -> Array:
    lead, out = t.shape[: t.ndim - len(size)], t.shape[t.ndim - len(size) :]
    dtype = np.dtype(np.float32) if t.dtype.itemsize == 2 else t.dtype
    total = like_in_memory(t, (*lead, *padded(space, padding)), dtype)
    total[...] = 0
    for key in keys(out, size, stride, (1,) * len(size)):
        spot = total[(DOTS, *key)]
        spot += t
    return cropped(total, space, padding).astype(t.dtype, copy=False)


def windows_sum(c: Array, space: Sizes, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes) -> Array:
    d = len(size)
    lead, out = c.shape[: c.ndim - 2 * d], c.shape[c.ndim - d :]
    dtype = np.dtype(np.float32) if c.dtype.itemsize == 2 else c.dtype
    total = np.zeros((*lead, *padded(space, padding)), dtype)
    c = c.reshape(*lead, prod(size), *out)
    for k, key in enumerate(keys(out, size, stride, dilation)):
        spot = total[(DOTS, *key)]
        spot += c[(*(slice(None),) * len(lead), k)]
    return cropped(total, space, padding).astype(c.dtype, copy=False)
