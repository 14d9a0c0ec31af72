"""The threads that large compiled programs run on."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache


def thread_count(asked: int | None) -> int:
    """Return how many threads to use: as asked, else as the usual variables say, else one a core."""
    if asked is not None:
        return asked
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        if os.environ.get(name, "").isdecimal():
            return max(1, int(os.environ[name]))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def pool() -> ThreadPoolExecutor:
    """Return the threads beside the calling one, started when first used."""
    return ThreadPoolExecutor(max(1, thread_count(None) - 1), "tapegrad")
