"""Best-fit pool: buffers of bytes that values of a program use one after the other.

A value takes a buffer when it is computed and gives it back after its last use. The smallest free buffer that is large
enough is taken, unless more than half of it, and of a page, would lie idle:

    a = exp(x)     takes a new buffer, A                free: -
    b = sin(a)     takes a new buffer, B; a gives A     free: A
    c = cos(b)     takes A; b gives B                   free: B
"""

from __future__ import annotations

from collections.abc import Callable

from tapegrad.backends._array import Array

SPARE = 4096  # bytes of a buffer that may lie idle beside the half of it


class Pool:
    """A best-fit pool; new: makes a buffer of so many bytes.

    free: buffers that no value uses now; nbytes: the size of all buffers that were ever made.
    """

    def __init__(self, new: Callable[[int], Array]) -> None:
        self._new = new
        self.free: list[Array] = []
        self.nbytes = 0

    def take(self, nbytes: int) -> Array:
        """Return the free buffer that fits best, or a new one."""
        fitting = [b for b in self.free if nbytes <= b.nbytes <= 2 * nbytes + SPARE]
        if fitting:
            best = min(fitting, key=lambda b: b.nbytes)
            self.free = [b for b in self.free if b is not best]
            return best
        self.nbytes += nbytes
        return self._new(nbytes)

    def give(self, buffer: Array) -> None:
        """Take a buffer back whose contents nobody needs."""
        self.free.append(buffer)
