"""Functions of the standard on NumPy arrays, where NumPy's own take a detour.

np.sum and the like, and array_api_compat, put Python frames around the ufunc methods used here; np.where on a mask that
jumps and np.broadcast_to of a scalar take ten times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import array_api_compat.numpy as compat
import numpy as np

from tapegrad.backends import _scans as scans
from tapegrad.backends._array import Array
from tapegrad.backends._quiet import quietly


def refuse_subclass(array_type: type) -> None:
    """Raise TypeError for a subclass of ndarray whose meaning would be lost if it was taken for plain numbers.

    np.memmap and others that only say where the numbers are do not raise.
    """
    name = f"{array_type.__module__}.{array_type.__qualname__}"
    if issubclass(array_type, np.ma.MaskedArray):
        raise TypeError(
            "a masked array would lose its mask: pass x.filled(0.0), or x.data and the mask beside it, as in "
            "tapegrad.where(x.mask, 0.0, x.data)"
        )
    if issubclass(array_type, np.matrix):
        raise TypeError(f"{name} means products of matrices by *: pass numpy.asarray(x), and write @ for them")
    if getattr(array_type, "__array_ufunc__", None) is not np.ndarray.__array_ufunc__:
        raise TypeError(
            f"{name} has arithmetic of its own, such as units, which would be lost: pass numpy.asarray(x) for the "
            "numbers alone"
        )


def sum_(x: Array, /, *, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Array:
    return np.add.reduce(x, axis, dtype, None, keepdims)  # type: ignore[call-overload]


def mean(x: Array, /, *, axis: Any = None, keepdims: bool = False) -> Array:
    if x.dtype.itemsize < 4:
        return np.mean(x, axis=axis, keepdims=keepdims)  # which sums float16 in float32
    total = np.add.reduce(x, axis, None, None, keepdims)  # type: ignore[call-overload]
    return total / (x.size // max(total.size, 1))


def max_(x: Array, /, *, axis: Any = None, keepdims: bool = False) -> Array:
    return np.maximum.reduce(x, axis, None, None, keepdims)  # type: ignore[call-overload]


def min_(x: Array, /, *, axis: Any = None, keepdims: bool = False) -> Array:
    return np.minimum.reduce(x, axis, None, None, keepdims)  # type: ignore[call-overload]


def take_along_axis(x: Array, indices: Array, /, *, axis: int = -1) -> Array:
    if x.ndim == indices.ndim == 2 and axis == -1 and len(x) == len(indices):  # the labels of a batch
        return x[np.arange(len(x))[:, None], indices]
    return np.take_along_axis(x, indices, axis)


def where(condition: Array, x1: Any, x2: Any, /) -> Array:
    if type(x2) is int and x2 == 0:
        return masked(condition, x1)
    if type(x1) is int and x1 == 0:
        return masked(~condition, x2)
    return np.where(condition, x1, x2)


SAME_SIZE = {np.float32: np.dtype(np.int32), np.float64: np.dtype(np.int64)}


def masked(mask: Array, x: Array) -> Array:
    """Return x where the mask is true, else 0, by its bits: np.where takes ten times as long on a mask that jumps."""
    kind = SAME_SIZE.get(x.dtype.type) if type(x) is np.ndarray else None
    if kind is None or x.shape != mask.shape or x.shape == ():
        return np.where(mask, x, 0)
    bits: Array = np.multiply(x.view(kind), mask)  # an integer times 1 or 0: inf and NaN vanish where the mask is false
    return bits.view(x.dtype)


def broadcast_to(x: Array, shape: tuple[int, ...], /) -> Array:
    if x.shape == ():  # a scalar's cotangent, the common case: np.broadcast_to takes ten times as long
        view: Array = np.ndarray(shape, x.dtype, x, 0, (0,) * len(shape))
        view.flags.writeable = False
        return view
    return np.broadcast_to(x, shape)


def reshape(x: Array, shape: tuple[int, ...], /) -> Array:
    return x.reshape(shape)


def matrix_transpose(x: Array, /) -> Array:
    return x.swapaxes(-1, -2)


def sigmoid(x: Array, /) -> Array:
    out = np.empty(x.shape, x.dtype)  # one buffer, where 1 / (1 + np.exp(-x)) takes four
    try:
        quietly(np.exp, np.negative(x, out), out)  # exp(-x) = inf gives 0, as it should
    except TypeError:  # integers and booleans
        return sigmoid(x.astype(np.float64))
    return np.reciprocal(np.add(out, 1, out), out)


def sigmoid_slope(of_complex: Callable[[Array], Array], x: Array, /) -> Array:
    if x.dtype.kind == "c":
        return of_complex(x)
    out = quietly(np.cosh, x, np.empty(x.shape, x.dtype))  # inf gives 0, as it should
    return np.divide(0.5, np.add(out, 1, out), out)


def tanh_slope(of_complex: Callable[[Array], Array], x: Array, /) -> Array:
    if x.dtype.kind == "c":
        return of_complex(x)
    out = quietly(np.cosh, x, np.empty(x.shape, x.dtype))  # inf gives 0, as it should
    return np.square(np.reciprocal(out, out), out)  # in this order nothing overflows


def add_at(array: Array, key: tuple[Any, ...], value: Array) -> None:
    """Add values at an index with integer arrays; whole rows by their single numbers, which np.add.at does faster."""
    rows = key[0]
    whole = type(rows) is np.ndarray and picks_rows(key, rows.shape, array.shape, value.shape)
    if whole and array.flags.c_contiguous:
        add_rows(array, numbers_of(rows, array.shape), value)
    else:
        np.add.at(array, key, value)


def picks_rows(key: tuple[Any, ...], rows: tuple[int, ...], array: tuple[int, ...], value: tuple[int, ...]) -> bool:
    """Say whether an index, an array of a shape and slices, picks whole rows as a value has them."""
    rest = all(type(i) is slice and i == slice(None) for i in key[1:])
    return len(key) > 1 and rest and value == (*rows, *array[1:])


def numbers_of(rows: Array, shape: tuple[int, ...]) -> Array:
    """Return the numbers of all elements of rows of an array, counted in C order."""
    n = prod(shape[1:])
    if shape[0] <= rows.size:  # rows of a table are copied faster than they are computed
        found: Array = np.take(np.arange(shape[0] * n).reshape(shape[0], n), rows, axis=0)
        return found
    return np.asarray(np.multiply(rows, n, dtype=np.intp)[..., None] + np.arange(n))


def add_rows(array: Array, numbers: Array, value: Array) -> None:
    """Add values to the elements of these numbers; the array is in C order."""
    np.add.at(array.reshape(-1), numbers.reshape(-1), value.reshape(-1))


def cumulative_max(x: Array, /, *, axis: int) -> Array:
    return np.maximum.accumulate(x, axis)


def cumulative_min(x: Array, /, *, axis: int) -> Array:
    return np.minimum.accumulate(x, axis)


def segment_extreme(largest: bool, x: Array, ids: Array, n: int, /) -> Array:
    """Do as `scans.segment_extreme` does; rows of several elements are sorted first, and reduced by runs of one id."""
    out = np.full((n, *x.shape[1:]), scans.least(compat, x.dtype, largest), x.dtype)
    pick = np.maximum if largest else np.minimum
    if x.ndim == 1 or not x.size:
        pick.at(out, ids, x)
        return out
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    starts = np.flatnonzero(np.diff(ids, prepend=ids[0] - 1))
    out[ids[starts]] = pick.reduceat(x[order], starts, axis=0)
    return out
