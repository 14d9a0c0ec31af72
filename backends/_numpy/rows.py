"""Rows of an array in blocks that fit the cache, shared among threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np

from tapegrad.backends._numpy.executor.threads import run_ranges, thread_count

Array = np.ndarray[Any, Any]
BLOCK = 1 << 17  # elements of some rows; with fewer, threads wait for each other between calls
SHARED = 1 << 17  # elements from which on threads share the work


def rows_of(x: Array, ndim: int) -> Array:
    """Return an array with its last `ndim` axes as rows of one matrix."""
    return x.reshape(-1, prod(x.shape[x.ndim - ndim :]))


def blocks(n: int, part: range, *arrays: Array) -> Iterator[list[Array]]:
    """Go through a range of rows, of n elements each, some at a time: those of each array."""
    size = max(1, BLOCK // n)
    for i in range(part.start, part.stop, size):
        yield [a[i : min(i + size, part.stop)] for a in arrays]


def share(work: Callable[[range], None], rows: Array) -> None:
    """Call a function of ranges for all rows, on threads if it is much."""
    run_ranges(work, len(rows), min(thread_count(None), len(rows)) if rows.size >= SHARED else 1)
