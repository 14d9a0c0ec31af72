"""A step: microseconds for which an eager call keeps the host busy, beside PyTorch's, forward and with its backward.

On a device an eager call costs as much as its launches.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tapegrad as tg
from benchmarks._arrays import wait
from benchmarks._columns import first_line
from benchmarks.gpu._clock import host_time
from benchmarks.gpu._libraries import device_columns, of_library
from benchmarks.gpu._operations import OPERATIONS, Arrays, Operation, operands
from benchmarks.gpu._records import Output, output_of

Measure = Callable[[Operation, str, int], float]
"""Seconds that a call of an operation takes the host, forward or with its backward, as the mean of so many calls."""

FORWARD, BOTH = "forward", "forward and backward"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all operations; return the exit status."""
    output, _ = output_of(argv, argparse.ArgumentParser(description=__doc__))
    found, status = device_columns(output, ("torch",), compiled=False)
    calls, n = (1, 4) if output.tiny else (500, 64)  # so small that the device is done before the host
    places = {library: of_library(found, library) for library in ("tapegrad", "torch")}
    measures = {
        library: MEASURES[library](place, operands(n)) for library, place in places.items() if place is not None
    }
    if not measures:
        return status
    labels = [f"{library} {places[library]}" for library in measures]
    output.write(f"{'us a call':46}" + "".join(f"{label:>16}" for label in labels))
    for operation in OPERATIONS:
        for what in (FORWARD, BOTH) if operation.differentiable else (FORWARD,):
            status = max(status, _measure(output, operation, what, measures, calls))
    return status


def _measure(output: Output, operation: Operation, what: str, measures: dict[str, Measure], calls: int) -> int:
    """Print and record one line: an operation in all libraries; return 1 if it fails in one of them."""
    us: dict[str, float] = {}
    failed = {}
    for library, measure in measures.items():
        try:
            us[library] = measure(operation, what, calls) * 1e6
        except Exception as error:  # of as many kinds as there are libraries
            failed[library] = f"{type(error).__name__}: {first_line(error)}"
    cells = "".join(f"{us[library]:16.2f}" if library in us else f"{'failed':>16}" for library in measures)
    reasons = "".join(f"  {library}: {why}" for library, why in failed.items())
    record = {"operation": operation.name, "what": what, "us": us, "failed": failed}
    output.write(f"{operation.name + ', ' + what:46}{cells}{reasons}", kind="cost", **record)
    return int(bool(failed))


def _tapegrad(place: str, arrays: Arrays) -> Measure:
    def measure(operation: Operation, what: str, calls: int) -> float:
        def operand(name: str) -> Any:
            array = arrays[name]
            return tg.tensor(array, device=place, requires_grad=what == BOTH and array.dtype.kind == "f")

        args = [operand(name) for name in operation.operands.split()]
        leaves = [x for x in args if x.requires_grad]
        seed = tg.ones_like(operation.tapegrad(*args).detach())

        def both() -> None:
            for leaf in leaves:
                leaf.grad = None
            operation.tapegrad(*args).backward(seed)

        call = both if what == BOTH else lambda: operation.tapegrad(*args)
        return host_time(call, lambda: wait([seed]), calls)

    return measure


def _torch(place: str, arrays: Arrays) -> Measure:
    import torch

    def measure(operation: Operation, what: str, calls: int) -> float:
        def operand(name: str) -> Any:
            array = torch.tensor(arrays[name], device=place)
            return array.requires_grad_(what == BOTH and array.is_floating_point())

        args = [operand(name) for name in operation.operands.split()]
        leaves = [x for x in args if x.requires_grad]
        seed = torch.ones_like(operation.torch(torch, *args).detach())

        def both() -> None:
            for leaf in leaves:
                leaf.grad = None
            operation.torch(torch, *args).backward(seed)

        synchronize = torch.cuda.synchronize if place == "cuda" else lambda: None
        return host_time(both if what == BOTH else lambda: operation.torch(torch, *args), synchronize, calls)

    return measure


MEASURES = {"tapegrad": _tapegrad, "torch": _torch}

if __name__ == "__main__":
    sys.exit(main())
