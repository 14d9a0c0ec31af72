"""Norms of vectors and standard deviations that neither overflow nor underflow on the way, by scaling as BLAS does."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import inf, log2, sqrt
from typing import Any

import numpy as np

from tapegrad.backends._quiet import quietly

Array = Any
UNSCALED = (0, 1, inf, -inf)  # orders without a power


def scaled(xp: Any, norm: Callable[..., Array]) -> Callable[..., Array]:
    """Return a scaled norm of vectors; norm: the library's own norm, for cases without scaling."""

    def vector_norm(x: Array, /, *, axis: Any = None, keepdims: bool = False, ord: float = 2) -> Array:
        if ord in UNSCALED or 0 in x.shape or not xp.isdtype(x.dtype, ("real floating", "complex floating")):
            return norm(x, axis=axis, keepdims=keepdims, ord=ord)
        return of_sizes(xp, xp.abs(x), axis, keepdims, ord)

    return vector_norm


def of_sizes(xp: Any, size: Array, axis: Any, keepdims: bool, ord: float) -> Array:
    """Return the norm of absolute values of any order with a power, scaled by the largest, or the least one."""
    dtype = size.dtype
    if str(dtype).endswith("float16"):  # of which sums overflow as well
        size = xp.astype(size, xp.float32)
    scale = (xp.max if ord > 0 else xp.min)(size, axis=axis, keepdims=True)
    zero = scale == 0
    if abs(ord) < 32:
        scale = scale * 0.25  # the reciprocal of the largest number is subnormal, which XLA takes for 0
    safe = xp.where(zero | (scale == inf), 1, scale)
    ratio = size / safe
    if ord < 0:
        ratio = xp.where(zero, 1, ratio)
    power = xp.square(ratio) if ord == 2 else ratio**ord
    total = xp.sum(power, axis=axis, keepdims=True)
    out = xp.where(zero, 0, safe * (xp.sqrt(total) if ord == 2 else total ** (1 / ord)))
    out = xp.astype(out, dtype) if out.dtype != dtype else out
    if keepdims:
        return out
    return xp.squeeze(out, axis=tuple(range(size.ndim)) if axis is None else axis)


@cache
def _range(dtype: Any, ord: float) -> tuple[float, float]:
    """Return the range of norms without loss: their power is neither near 0 nor infinite."""
    info = np.finfo(dtype)
    lowest, highest = log2(info.smallest_normal), log2(info.max)
    low, high = sorted(end / ord for end in (lowest - log2(info.eps), highest - 2))
    return 2.0 ** max(low, lowest), 2.0 ** min(high, highest - 2)


def checked(xp: Any, norm: Callable[..., Array]) -> Callable[..., Array]:
    """Return a scaled norm for NumPy, where it is cheaper to check whether a plain norm must be computed again."""

    def vector_norm(x: Array, /, *, axis: Any = None, keepdims: bool = False, ord: float = 2) -> Array:
        if x.size == 0 or ord in UNSCALED or x.dtype.kind not in "fc":
            return norm(x, axis=axis, keepdims=keepdims, ord=ord)
        if x.dtype.itemsize > 2:
            with np.errstate(all="ignore"):
                out = norm(x, axis=axis, keepdims=keepdims, ord=ord)
            low, high = _range(out.dtype, ord)
            if (low <= out <= high) if out.ndim == 0 else out.min() >= low and out.max() <= high:
                return out
        return of_sizes(xp, np.abs(x), axis, keepdims, ord)

    return vector_norm


def scaled_std(xp: Any, std: Callable[..., Array]) -> Callable[..., Array]:
    """Return the standard deviation in terms of a namespace, whose square may overflow; std: the library's own."""

    def scaled(x: Array, /, *, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Array:
        if 0 in x.shape or not xp.isdtype(x.dtype, "real floating"):
            return std(x, axis=axis, correction=correction, keepdims=keepdims)
        return std_of(xp, std, x, axis, correction, keepdims)

    return scaled


def std_of(xp: Any, std: Callable[..., Array], x: Array, axis: Any, correction: float, keepdims: bool) -> Array:
    """Return the standard deviation of values that are scaled by the largest of them."""
    dtype = x.dtype
    if not x.shape:
        return std(x, axis=axis, correction=correction, keepdims=keepdims)
    if str(dtype).endswith("float16"):  # of which sums overflow as well
        x = xp.astype(x, xp.float32)
    scale = xp.max(xp.abs(x), axis=axis, keepdims=True)
    scale = xp.where((scale > 0) & (scale < inf), scale * 0.25, 1)  # as above: no reciprocal is subnormal
    out = std(x / scale, axis=axis, correction=correction, keepdims=True) * scale
    out = xp.astype(out, dtype) if out.dtype != dtype else out
    if keepdims:
        return out
    return xp.squeeze(out, axis=tuple(range(x.ndim)) if axis is None else axis)


def checked_std(xp: Any, std: Callable[..., Array]) -> Callable[..., Array]:
    """Return the same for NumPy, computed again where the sum of squares was near 0 or infinite."""

    def call(x: Array, /, *, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Array:
        if x.size == 0 or x.dtype.kind != "f":
            return std(x, axis=axis, correction=correction, keepdims=keepdims)
        if x.dtype.itemsize > 2:
            out = quietly(std, x, axis=axis, correction=correction, keepdims=keepdims)
            low, high = _range(out.dtype, 2)
            high /= sqrt(x.size)
            if (low <= out <= high) if out.ndim == 0 else out.min() >= low and out.max() <= high:
                return out
        return std_of(xp, std, x, axis, correction, keepdims)

    return call
