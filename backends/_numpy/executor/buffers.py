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

from tapegrad.backends import _pool
from tapegrad.backends._numpy.executor.references import NDArray

ALIGN = 64  # bytes of a cache line, and of the widest vector register


def new_buffer(shape: tuple[int, ...], dtype: Any) -> NDArray:
    """Return a new array that begins at a multiple of ALIGN bytes; its `base` owns the memory."""
    # NumPy aligns to 16 bytes only: take ALIGN bytes more, and begin at the first multiple in them.
    nbytes = prod(shape) * dtype.itemsize
    raw = np.empty(nbytes + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    array: NDArray = raw[start : start + nbytes].view(dtype).reshape(shape)
    return array


class Pool(_pool.Pool):
    """A best-fit pool of aligned buffers, and the arrays that lie in them."""

    def __init__(self) -> None:
        super().__init__(lambda nbytes: new_buffer((nbytes,), np.dtype(np.uint8)))
        self._arrays: dict[tuple[int, tuple[int, ...], Any], NDArray] = {}

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
