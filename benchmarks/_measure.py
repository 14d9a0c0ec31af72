"""Timing all columns of a case in turn, after checking that they compute the same."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import numpy as np

import tapegrad as tg
from benchmarks._case import Case, Skip, Step
from benchmarks._columns import HAND, Column
from tapegrad import backends

TOLERANCE = 1e-4  # relative to the largest element: float32, summed in any order
SECONDS = 3.0  # a column that has used this up is sampled no more
FEWEST = 3  # but has so many samples
SLOW = 0.5  # a step that takes longer, in seconds, is not run untimed before each sample

Results = list[np.ndarray[Any, Any]]


class Disagreement(Exception):
    """Two columns of a row computed different results, so that their times say nothing."""


@dataclass
class Row:
    """What was measured of a case: samples of each column, in the case's unit, and why columns lack.

    The samples of all columns with the same index were taken in the same round.
    """

    case: Case
    samples: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def median(self, label: str) -> float:
        """Return the median of a column's samples."""
        return median(self.samples[label])

    def spread(self, label: str) -> float:
        """Return the interquartile range of a column's samples, 0 if there is only one."""
        samples = self.samples[label]
        if len(samples) < 2:
            return 0.0
        low, _, high = quantiles(samples, n=4, method="inclusive")
        return high - low

    def ratio(self, label: str, to: str) -> float:
        """Return the median over the rounds of one column's sample divided by another's.

        Within a round the machine is equally fast for both; over a run its clock may change by half.
        """
        return median(a / b for a, b in self._pairs(label, to))

    def excess(self, label: str, over: str) -> float:
        """Return the median over the rounds of one column's sample less another's."""
        return median(a - b for a, b in self._pairs(label, over))

    def _pairs(self, label: str, other: str) -> Iterator[tuple[float, float]]:
        return zip(self.samples[label], self.samples[other], strict=False)  # one may have stopped early


def raw(x: Any) -> Any:
    """Return the array in a Tensor, without a copy, and anything else as it is."""
    return x._array if isinstance(x, tg.Tensor) else x


def wait(outputs: Sequence[Any]) -> None:
    """Return when the values of these arrays or Tensors, of any library, are computed."""
    for x in outputs:
        array = raw(x)
        backend = backends.of_type(type(array))
        if backend is not None:
            backend.synchronize(array)


def on_host(outputs: Sequence[Any]) -> Results:
    """Return copies of the values of arrays or Tensors of any library."""
    arrays = []
    for x in outputs:
        array = raw(x)
        backend = backends.of_type(type(array))
        if hasattr(array, "requires_grad"):
            array = array.detach()
        arrays.append(np.array(array if backend is None else backend.to_host(array)))
    return arrays


def check(case: Case, steps: dict[str, Step]) -> set[str]:
    """Run every step twice and raise Disagreement unless all results are those of the first column.

    Twice because a training step is only right if the next one starts where it should. Returns the labels of
    the steps that are slow.
    """
    slow = set()
    first = ""
    wanted: list[Results] = []
    for label, step in steps.items():
        results = [on_host(step())]
        start = perf_counter()
        results.append(on_host(step()))
        if perf_counter() - start > SLOW:
            slow.add(label)
        if not first:
            first, wanted = label, results
        for turn in range(2):
            _compare(f"{case.benchmark} {case.name}: {label}, call {turn + 1}", results[turn], first, wanted[turn])
    return slow


def _compare(where: str, got: Results, first: str, wanted: Results) -> None:
    if len(got) != len(wanted):
        raise Disagreement(f"{where}: {len(got)} results, {first} returned {len(wanted)}")
    for i, (a, b) in enumerate(zip(got, wanted, strict=True)):
        if a.shape != b.shape or a.dtype != b.dtype:
            raise Disagreement(
                f"{where}: result {i} is {a.dtype} of shape {a.shape}, that of {first} {b.dtype} of {b.shape}"
            )
        error, largest = (float(np.max(np.abs(v))) for v in (a - b, b))
        if not error <= TOLERANCE * largest:  # nor is NaN
            raise Disagreement(
                f"{where}: result {i} is off by {error:.3g} from {first}, whose largest is {largest:.3g}"
            )


@contextmanager
def held_to(count: int) -> Iterator[None]:
    """Hold BLAS, OpenMP and PyTorch to so many threads, as far as they are loaded and can be told."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else 0
    try:
        limits = importlib.import_module("threadpoolctl").threadpool_limits(count)
    except ImportError:
        limits = None
    if torch is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if limits is not None:
            limits.restore_original_limits()
        if torch is not None:
            torch.set_num_threads(before)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure(case: Case, columns: Sequence[Column], repeat: int, threads: int) -> Row:
    """Time the steps of all columns, one sample of each in turn, `repeat` times."""
    row = Row(case)
    steps: dict[str, Step] = {}
    with held_to(1 if case.one_thread else threads):
        for column in columns:
            if column.library not in case.programs:
                continue
            try:
                steps[column.label] = case.programs[column.library](case.task, column.place)
            except Skip as why:
                row.notes.append(f"{case.benchmark} {case.name}: {column.label}: {why}")
        assert next(iter(steps)) == HAND
        slow = check(case, steps)
        seconds = _sample(steps, slow, repeat)
    scale = {"us": 1e6, "ms": 1e3}[case.unit[:2]] / case.per
    row.samples = {label: [s * scale for s in samples] for label, samples in seconds.items()}
    return row


def _sample(steps: dict[str, Step], slow: set[str], repeat: int) -> dict[str, list[float]]:
    """Return the seconds that each step took, sampled in turns."""
    seconds: dict[str, list[float]] = {label: [] for label in steps}
    labels = list(steps)
    # What the libraries themselves hold is not gone through again in every collection, or whoever makes the
    # most objects would pay for all the others.
    gc.collect()
    gc.freeze()
    try:
        for _ in range(repeat):
            for label in labels:
                done = seconds[label]
                if len(done) >= FEWEST and sum(done) > SECONDS:
                    continue
                if label not in slow:
                    _warm_up(steps[label])
                done.append(_timed(steps[label]))
            labels.append(labels.pop(0))  # nobody always follows the same column
    finally:
        gc.unfreeze()
    return seconds


def _warm_up(step: Step) -> None:
    """Run a step, for 5 ms at least: after another column caches are cold and the threads of its library still spin."""
    start = perf_counter()
    while True:
        wait(step())
        if perf_counter() - start > 0.005:
            return


def _timed(step: Step) -> float:
    start = perf_counter()
    outputs = step()
    wait(outputs)
    return perf_counter() - start
