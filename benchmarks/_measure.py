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

from benchmarks._arrays import wait
from benchmarks._case import Case, Skip, Step
from benchmarks._check import Checked, calls_of, check
from benchmarks._columns import HAND, Column, first_line
from benchmarks._step import step_of
from tapegrad import CaptureError

SECONDS = 3.0  # a column that has used this up is sampled no more
FEWEST = 3  # but has so many samples


@dataclass
class Row:
    """The measurements of a case: samples of each column, in the case's unit, and why columns lack.

    The samples of all columns with the same index were taken in the same round. refused: label -> why its step
    does not run; the notes say so too.
    """

    case: Case
    samples: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

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


def measure(
    case: Case, columns: Sequence[Column], repeat: int, threads: int, forgiven: type[Exception] = CaptureError
) -> Row:
    """Time the steps of all columns, one sample of each in turn, `repeat` times.

    forgiven: the errors that leave a column out, and are not raised.
    """
    row = Row(case)
    columns = [column for column in columns if column.library in case.programs]
    with ready(row, columns, threads, forgiven) as steps:
        assert next(iter(steps)) == HAND
        seen = check(case, steps, calls_of(case, columns), forgiven=forgiven)
        sample(row, steps, seen, repeat)
    return row


@contextmanager
def ready(
    row: Row, columns: Sequence[Column], threads: int, forgiven: type[Exception] = CaptureError
) -> Iterator[dict[str, Step]]:
    """Set a row's case up in all columns, and hold the libraries to their threads; note skipped ones."""
    case = row.case
    threads = 1 if case.one_thread else threads
    steps: dict[str, Step] = {}
    with held_to(threads):
        for column in columns:
            try:
                steps[column.label] = step_of(case, column, threads)
            except Skip as why:
                row.notes.append(f"{case.benchmark} {case.name}: {column.label}: {why}")
            except forgiven as error:
                row.refused[column.label] = first_line(error)
        yield steps


def sample(row: Row, steps: dict[str, Step], seen: Checked, repeat: int) -> None:
    """Fill a row with the times of steps that were checked, in its case's unit."""
    case = row.case
    row.refused |= seen.refused
    for label, why in row.refused.items():
        row.notes.append(f"{case.benchmark} {case.name}: {label}: {why}")
    # A first call is made once.
    cold = set(steps) if case.first else seen.slow
    seconds = _sample({label: step for label, step in steps.items() if label in seen.off}, cold, repeat)
    scale = {"us": 1e6, "ms": 1e3}[case.unit[:2]] / case.per
    row.samples = {label: [s * scale for s in samples] for label, samples in seconds.items()}


def _sample(steps: dict[str, Step], cold: set[str], repeat: int) -> dict[str, list[float]]:
    """Return the seconds that each step took, sampled in turns; cold: those not run untimed before."""
    seconds: dict[str, list[float]] = {label: [] for label in steps}
    labels = list(steps)
    # Collections pass over the objects of the libraries themselves, or whoever makes the
    # most objects would pay for all the others.
    gc.collect()
    gc.freeze()
    try:
        for _ in range(repeat):
            for label in labels:
                done = seconds[label]
                if len(done) >= FEWEST and sum(done) > SECONDS:
                    continue
                if label not in cold:
                    _warm_up(steps[label])
                done.append(timed(steps[label]))
            labels.append(labels.pop(0))  # nobody always follows the same column
    finally:
        gc.unfreeze()
    return seconds


def _warm_up(step: Step) -> None:
    """Run a step, for 30 ms at least: after another column caches are cold, and the threads of its BLAS still spin."""
    start = perf_counter()
    while True:
        wait(step())
        if perf_counter() - start > 0.03:
            return


def timed(step: Step) -> float:
    """Return the seconds from the call of a step until its outputs are computed."""
    start = perf_counter()
    outputs = step()
    wait(outputs)
    return perf_counter() - start
