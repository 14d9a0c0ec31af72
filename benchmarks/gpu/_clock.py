"""Clocks: the host's for the cost of a call, the device's own events for the time of its work."""

from __future__ import annotations

import gc
from collections.abc import Callable
from time import perf_counter
from typing import Any

CAPTURED = 8  # calls after which a compiled function is recorded, planned, warmed up and replayed as graphs
Call = Callable[[], object]


def host_time(call: Call, wait: Call, calls: int, rounds: int = 3) -> float:
    """Return the seconds for which a call keeps the host busy, at best: the device works on meanwhile.

    The work must be small, or the queue of the device fills up and the host waits for it.
    """
    for _ in range(min(calls, 20)):  # kernels are compiled, buffers in the pools
        call()
    best = float("inf")
    collecting = gc.isenabled()
    gc.disable()  # a collection in one library's calls would be no part of their cost
    try:
        for _ in range(rounds):
            wait()
            start = perf_counter()
            for _ in range(calls):
                call()
            best = min(best, (perf_counter() - start) / calls)
    finally:
        if collecting:
            gc.enable()
    wait()
    return best


def device_time(call: Call, calls: int, rounds: int = 5) -> float:
    """Return the seconds that the device works on a call, at best, by events on CuPy's current stream."""
    import cupy

    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    for _ in range(min(calls, 3)):
        call()
    best = float("inf")
    for _ in range(rounds):
        begin.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        best = min(best, cupy.cuda.get_elapsed_time(begin, end) / 1e3 / calls)
    return best


def graphs_of(step: Any) -> list[Any]:
    """Return the CUDA graphs that a compiled function replays, without the copies before and after them."""
    executor = step.program._run.executor
    return [graph for graph in executor._graphs.graphs if graph is not None]
