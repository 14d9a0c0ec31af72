"""Comparison of the results of all columns of a case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from time import perf_counter

import numpy as np

from benchmarks._arrays import Results, on_host
from benchmarks._case import Case, Step
from benchmarks._columns import Column, first_line
from tapegrad import CaptureError

TOLERANCE = 1e-4  # relative to the largest element: float32, summed in any order
SLOW = 0.5  # a step that takes longer, in seconds, is not run untimed before each sample


class Disagreement(Exception):
    """Two columns of a row computed different results, so that their times say nothing."""


@dataclass
class Checked:
    """The outcome of running the steps of a case.

    slow: the labels of slow steps. refused: label -> why its step cannot be compiled. off: label -> how far
    its results are from those of the first, relative to the largest element.
    """

    slow: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    off: dict[str, float] = field(default_factory=dict)


def calls_of(case: Case, columns: Sequence[Column]) -> int:
    """Return how often steps are run to be compared.

    Twice, because a training step is only right if the next one starts where it should. Two calls of a compiled
    function are eager ones, so that two more show replayed calls.
    """
    return 4 if any(column.compiled for column in columns) and not case.first else 2


def check(
    case: Case,
    steps: dict[str, Step],
    calls: int,
    tolerance: float = TOLERANCE,
    forgiven: type[Exception] = CaptureError,
) -> Checked:
    """Run every step so often; raise Disagreement unless all results are those of the first column.

    forgiven: the errors that leave a column out, and are not raised.
    """
    seen = Checked()
    first = ""
    wanted: list[Results] = []
    for label, step in steps.items():
        try:
            results = []
            for _ in range(calls):
                start = perf_counter()
                results.append(on_host(step()))
            if perf_counter() - start > SLOW:  # the last, when all is loaded and compiled
                seen.slow.add(label)
            if not first:
                first, wanted = label, results
            where = f"{case.benchmark} {case.name}: {label}, call "
            seen.off[label] = max(
                compared(f"{where}{turn + 1}", results[turn], first, wanted[turn], tolerance) for turn in range(calls)
            )
        except forgiven as error:
            seen.refused[label] = first_line(error)
    return seen


def compared(where: str, got: Results, first: str, wanted: Results, tolerance: float) -> float:
    """Return the largest relative difference; raise Disagreement if it is above the tolerance."""
    if len(got) != len(wanted):
        raise Disagreement(f"{where}: {len(got)} results, {first} returned {len(wanted)}")
    worst = 0.0
    for i, (a, b) in enumerate(zip(got, wanted, strict=True)):
        if a.shape != b.shape or a.dtype != b.dtype:
            raise Disagreement(
                f"{where}: result {i} is {a.dtype} of shape {a.shape}, that of {first} {b.dtype} of {b.shape}"
            )
        error, largest = (float(np.max(np.abs(v))) for v in (a - b, b))
        off = 0.0 if error == 0 else error / largest if largest else inf
        if not off <= tolerance:  # nor is NaN
            raise Disagreement(
                f"{where}: result {i} is off by {error:.3g} from {first}, whose largest is {largest:.3g}"
            )
        worst = max(worst, off)
    return worst
