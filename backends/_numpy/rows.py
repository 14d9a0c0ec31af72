"""Rows of an array in blocks that fit the cache, shared among threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from tapegrad.backends._numpy.executor.threads import run_all, thread_count

Array = np.ndarray[Any, Any]
BLOCK = 1 << 17  # elements of some rows; with fewer, threads wait for each other between calls
SHARED = 1 << 17  # elements from which on threads share the work


def rows_of(x: Array, ndim: int) -> Array:
    """Return an array with its last `ndim` axes as rows of one matrix."""
    return x.reshape(-1, prod(x.shape[x.ndim - ndim :]))


def blocks(n: int, first: int, last: int, *arrays: Array) -> Iterator[list[Array]]:
    """Go through rows first to last, of n elements each, some at a time: those of each array."""
    size = max(1, BLOCK // n)
    for i in range(first, last, size):
        yield [a[i : min(i + size, last)] for a in arrays]


def share(work: Callable[[int, int], None], rows: Array) -> None:
    """Call work(first, last) for all rows, on threads if it is much."""
    threads = min(thread_count(None), len(rows))
    if threads < 2 or rows.size < SHARED:
        work(0, len(rows))
        return
    bounds = [len(rows) * i // threads for i in range(threads + 1)]
    run_all([[(work, pair)] for pair in pairwise(bounds)])
