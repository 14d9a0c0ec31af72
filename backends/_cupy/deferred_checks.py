"""Deferred checks on a CUDA device: a kernel notes a fault, and the host raises the error when it next waits.

A check must not make the host wait. A flag is one byte of pinned host memory, which kernels write directly: they set
it where a condition holds and never clear it. After a wait, reading the flags is a look into host memory, with no copy.
Captured kernels may set flags too: a flag stays set over any number of launches, until its error is raised.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from threading import Lock
from typing import Any

import cupy
import numpy as np

from tapegrad.backends._array import Array

MOST = 256  # different checks of a device that wait for their report; one more makes the host wait

Error = Callable[[], Exception]

_note = cupy.ElementwiseKernel("bool wrong", "raw uint8 flag", "if (wrong) flag[0] = 1", "tg_note")
# The condition stands in generated kernels too: see `row_kernels`.
_note_outside = cupy.ElementwiseKernel(
    "T x, uint64 n",  # a negative number is a large unsigned one
    "raw uint8 flag",
    "if ((unsigned long long)x >= n) flag[0] = 1",
    "tg_note_outside",
)


class Flags:
    """Flags of the current device, each with the error that it stands for.

    Hold them as long as kernels that set them may run; `launched` keeps them until the host has waited.
    """

    def __init__(self, count: int, errors: Sequence[Error] = ()) -> None:
        memory = cupy.cuda.alloc_pinned_memory(max(count, 1))
        self.device = cupy.cuda.runtime.getDevice()
        self.errors = list(errors)
        self._host = np.frombuffer(memory, np.uint8, count)
        self._host[:] = 0
        owner = cupy.cuda.UnownedMemory(memory.ptr, max(count, 1), memory, self.device)
        whole = cupy.ndarray((count,), np.uint8, memptr=cupy.cuda.MemoryPointer(owner, 0))
        self._flags = [whole[i : i + 1] for i in range(count)]

    def note(self, i: int, wrong: Array) -> None:
        """Set a flag where a condition of any shape holds; it may be captured."""
        _note(wrong, self._flags[i])

    def note_outside(self, i: int, indices: Array, n: int) -> None:
        """Set a flag where an integer is not in 0 to n - 1; it may be captured."""
        note_outside(indices, n, self._flags[i])

    def flag(self, i: int) -> Array:
        """Return a flag for kernels that set it."""
        return self._flags[i]

    def launched(self) -> None:
        """Have the next wait on the current stream report these flags."""
        _pending.setdefault((self.device, cupy.cuda.get_current_stream().ptr), set()).add(self)

    def raise_first(self) -> None:
        """Raise the error of the first flag that is set, and clear it."""
        if self._host.any():
            i = int(self._host.argmax())
            self._host[i] = 0
            error: Any = self.errors[i]()
            error.deferred = True  # it is not of the operation that waits
            error.add_note("noticed when the host waited for the device; tapegrad.debug() raises it at once")
            raise error


class _Table:
    """The flags of eager calls on one device: one for each error that may have to be raised."""

    def __init__(self) -> None:
        self.flags = Flags(MOST)
        self.numbers: dict[Hashable, int] = {}

    def number(self, error: Error) -> int:
        key: Hashable = (error.func, error.args) if isinstance(error, partial) else error
        i = self.numbers.get(key)
        if i is None:
            if len(self.numbers) == MOST:
                cupy.cuda.runtime.deviceSynchronize()
                self.flags.raise_first()
                self.numbers.clear()
                self.flags.errors.clear()
            i = self.numbers[key] = len(self.numbers)
            self.flags.errors.append(error)
        return i


# (device, stream) -> the flags of launches there since the host last waited for it.
_pending: dict[tuple[int, int], set[Flags]] = {}
_tables: dict[int, _Table] = {}
_lock = Lock()


def defer(wrong: Array, error: Error) -> None:
    """Raise an error at the next wait if a condition, of any shape, holds anywhere."""
    with wrong.device:
        flags, i = _place(error)
        flags.note(i, wrong)


def defer_outside(indices: Array, n: int, error: Error) -> None:
    """Raise an error at the next wait unless all integers are in 0 to n - 1."""
    with indices.device:
        flags, i = _place(error)
        flags.note_outside(i, indices, n)


def flag_of(indices: Array, error: Error) -> Array:
    """Return the flag, on the device of some integers, that has the next wait raise an error if it is set."""
    with indices.device:
        flags, i = _place(error)
        return flags.flag(i)


def note_outside(indices: Array, n: int, flag: Array) -> None:
    """Set a flag unless all integers are in 0 to n - 1."""
    _note_outside(indices, n, flag)


def _place(error: Error) -> tuple[Flags, int]:
    """Return the flags of the current device, and the number of the one for an error."""
    device = cupy.cuda.runtime.getDevice()
    with _lock:
        table = _tables.get(device)
        if table is None:
            table = _tables[device] = _Table()
        i = table.number(error)
        table.flags.launched()
        return table.flags, i


def report(device: int) -> None:
    """Raise the first error of checks on a device; to be called when the host has waited for the current stream there.

    Checks of other streams are looked at as well, and stay until those have been waited for.
    """
    if not _pending:
        return
    here = (device, cupy.cuda.get_current_stream(device).ptr)
    for key in [key for key in _pending if key[0] == device]:
        launched = _pending.pop(here, set()) if key == here else _pending[key]
        for flags in list(launched):
            try:
                flags.raise_first()
            except Exception:
                if key == here:  # there may be others
                    _pending.setdefault(here, set()).update(launched)
                raise
