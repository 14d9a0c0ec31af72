"""Where values of a compiled program lie on NumPy: buffers they share, and arrays that change from call to call."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from tapegrad.backends._array import Array

ALIGN = 64


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """Return a new array that begins at a multiple of ALIGN bytes; its `base` owns the memory."""
    nbytes = prod(shape) * dtype.itemsize
    raw = np.empty(nbytes + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    array: Array = raw[start : start + nbytes].view(dtype).reshape(shape)
    return array


class Ref:
    """An array that is another one at some calls: an input or output, or a view of one."""

    __slots__ = ("array", "dtype", "function", "parent", "root", "shape")

    def __init__(self, root: Any, parent: Ref | None, function: Any, shape: tuple[int, ...], dtype: Any) -> None:
        self.root, self.parent, self.function = root, parent, function
        self.shape, self.dtype = shape, dtype
        self.array: Any = None


class Pool:
    """Buffers that values use one after the other."""

    def __init__(self) -> None:
        self.free: list[Array] = []
        self.nbytes = 0
        self._arrays: dict[Any, Array] = {}

    def take(self, nbytes: int) -> Array:
        """Return a buffer of so many bytes or a little more."""
        fitting = [b for b in self.free if nbytes <= b.nbytes <= 2 * nbytes + 4096]
        if fitting:
            best = min(fitting, key=lambda b: b.nbytes)
            self.free = [b for b in self.free if b is not best]
            return best
        self.nbytes += nbytes
        return empty((nbytes,), np.dtype(np.uint8))

    def array(self, buffer: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return a buffer as an array, the same object each time: thousands of them would not stay in the cache."""
        key = id(buffer), shape, dtype
        found = self._arrays.get(key)
        if found is None:
            n = prod(shape) * dtype.itemsize
            found = self._arrays[key] = buffer[:n].view(dtype).reshape(shape)
        return found

    def give(self, buffer: Array) -> None:
        """Take a buffer back."""
        self.free.append(buffer)


def alike(x: Any, v: Any) -> bool:
    """Say whether a value can take over the buffer of another."""
    return tuple(x.shape) == tuple(v.shape) and x.dtype.itemsize == v.dtype.itemsize


def roots_of(args: Any) -> Any:
    """Go through the changing arrays that are among nested arguments."""
    for x in args:
        kind = type(x)
        if kind is Ref:
            yield x.root
        elif kind is tuple or (kind is list and len(x) < 1000 and not (x and type(x[0]) is tuple)):
            yield from roots_of(x)
        elif kind is dict:
            yield from roots_of(x.values())


def actual(args: Any) -> Any:
    """Return nested arguments with the arrays that are there now."""
    kind = type(args)
    if kind is Ref:
        return args.array
    if kind is tuple:
        return tuple([actual(x) for x in args])
    if kind is list:
        return [actual(x) for x in args]
    if kind is dict:
        return {k: actual(v) for k, v in args.items()}
    return args


def reshaping(shape: tuple[int, ...]) -> Callable[[Any], Any]:
    """Return the function that gives an array a shape."""
    return lambda x: x.reshape(shape)
