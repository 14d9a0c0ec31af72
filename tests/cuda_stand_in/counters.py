"""Counts of requests to the device: launches, copies, waits."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from cuda_stand_in import library


@dataclass
class Counts:
    """Calls since the start, or within a `counted()` block. The order of the fields is that of runtime.h."""

    launches: int = 0  # of kernels, those that are recorded in a graph included
    copies_in: int = 0
    copies_out: int = 0
    copies_on_device: int = 0
    waits: int = 0  # of the host: for a stream, a device, an event or a blocking copy
    graph_launches: int = 0
    allocations: int = 0
    gemms: int = 0
    fills: int = 0  # memset
    captured: int = 0  # work recorded in graphs


def counters() -> Counts:
    """Return the counts since the stand-in was installed."""
    numbers = (ctypes.c_long * len(fields(Counts))).in_dll(library.loaded(), "counts")
    return Counts(*numbers)


@contextmanager
def counted() -> Iterator[Counts]:
    """Give an object that holds, after the block, the counts of the block."""
    before, difference = counters(), Counts()
    try:
        yield difference
    finally:
        after = counters()
        for field in fields(Counts):
            setattr(difference, field.name, getattr(after, field.name) - getattr(before, field.name))
