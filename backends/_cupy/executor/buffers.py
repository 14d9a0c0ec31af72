"""Memory for the results of a plan: buffers that are used again once their value is dead."""

from __future__ import annotations

from math import prod
from typing import Any

SLACK = 4096  # bytes that a buffer may be larger than twice what is asked for


class Pool:
    """Buffers of bytes, the best fitting one first; `empty` makes an array on the device."""

    def __init__(self, empty: Any) -> None:
        self._empty = empty
        self._free: list[Any] = []
        self.nbytes = 0

    def take(self, nbytes: int) -> Any:
        """Return a buffer of at least so many bytes."""
        fitting = [b for b in self._free if nbytes <= b.nbytes <= 2 * nbytes + SLACK]
        if fitting:
            best = min(fitting, key=lambda b: b.nbytes)
            self._free = [b for b in self._free if b is not best]
            return best
        self.nbytes += nbytes
        return self._empty((max(nbytes, 1),), "uint8")

    def give(self, buffer: Any) -> None:
        """Take a buffer back whose contents nobody needs."""
        self._free.append(buffer)


def shaped(buffer: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Return the start of a buffer as an array."""
    return buffer[: prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
