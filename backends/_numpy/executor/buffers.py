"""Buffers: memory that values of a program use one after the other (a best-fit pool).

A value takes a buffer when it is computed and gives it back after its last use. The smallest free buffer that is large
enough is taken, unless more than half of it would lie idle. Values of disjoint lifetimes so share memory::

    %0 = exp(x0)     takes a new buffer, A                  free: -
    %1 = sin(%0)     takes a new buffer, B; %0 gives A      free: A
    %2 = cos(%1)     takes A;               %1 gives B      free: B
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tapegrad.backends._numpy.executor.references import NDArray

ALIGN = 64  # bytes of a cache line, and of the widest vector register
SPARE = 4096  # bytes of a buffer that may lie idle beside the half of it: a page


def empty(shape: tuple[int, ...], dtype: Any) -> NDArray:
    """Return a new array that begins at a multiple of ALIGN bytes; its `base` owns the memory."""
    nbytes = prod(shape) * dtype.itemsize
    raw = np.empty(nbytes + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    array: NDArray = raw[start : start + nbytes].view(dtype).reshape(shape)
    return array


class Pool:
    """A best-fit pool of buffers.

    free: buffers that no value uses now; nbytes: the size of all buffers that were ever made.
    """

    def __init__(self) -> None:
        self.free: list[NDArray] = []
        self.nbytes = 0
        self._arrays: dict[tuple[int, tuple[int, ...], Any], NDArray] = {}

    def take(self, nbytes: int) -> NDArray:
        """Return the free buffer that fits best, or a new one."""
        # Best fit: a larger buffer is left to a value that needs it.
        fitting = [b for b in self.free if nbytes <= b.nbytes <= 2 * nbytes + SPARE]
        if fitting:
            best = min(fitting, key=lambda b: b.nbytes)
            self.free = [b for b in self.free if b is not best]
            return best
        self.nbytes += nbytes
        return empty((nbytes,), np.dtype(np.uint8))

    def give(self, buffer: NDArray) -> None:
        """Take a buffer back."""
        self.free.append(buffer)

    def array(self, buffer: NDArray, shape: tuple[int, ...], dtype: Any) -> NDArray:
        """Return a buffer as an array of a shape and dtype.

        It is the same object each time: a large program has thousands, which would not stay in the cache.
        """
        key = id(buffer), shape, dtype
        found = self._arrays.get(key)
        if found is None:
            n = prod(shape) * dtype.itemsize
            found = self._arrays[key] = buffer[:n].view(dtype).reshape(shape)
        return found
