"""Launches, copies and waits of every operation and benchmark program on CuPy, counted on the stand-in for CUDA.

    PYTHONPATH=tests python -m cuda_stand_in launches

writes the table to cupy_launches.tsv, to which test_cupy_launches.py holds them. What the stand-in computes on the host
(cuSOLVER, cuFFT) shows as copies and waits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from cuda_stand_in import counted
from cuda_stand_in.counters import Counts

import tapegrad as tg
from benchmarks._case import Case, Skip
from benchmarks._columns import Column
from benchmarks._step import step_of
from tapegrad.testing._sample import Sample
from tapegrad.testing._samples import SAMPLES

TABLE = Path(__file__).with_name("cupy_launches.tsv")
COMMAND = "PYTHONPATH=tests python -m cuda_stand_in launches"
PROGRAMS = ("mlp", "lstm", "gelu", "gpt", "rows", "overhead")
ORDER = (
    "graph_launches",
    "launches",
    "gemms",
    "fills",
    "copies_on_device",
    "copies_in",
    "copies_out",
    "waits",
)
WARM_UPS = 3  # calls before the one that is counted: tracing, compiling, capturing
Row = tuple[str, str, str]  # name, and two cells: forward and backward, or eager and compiled


def cell(counts: Counts) -> str:
    """Return counts that are not 0 in words."""
    found = asdict(counts)
    return ", ".join(f"{found[name]} {name.replace('_', ' ')}" for name in ORDER if found[name]) or "nothing"


def of_sample(sample: Sample) -> Row:
    """Return the row of an operation."""
    xs = [tg.tensor(a, device="cuda") for a in sample.args]
    places = [i for i, x in enumerate(xs) if "floating" in x.dtype.kind] if sample.order else []

    def f(*active: tg.Tensor) -> Any:
        args = list(xs)
        for i, x in zip(places, active, strict=True):
            args[i] = x
        return sample.f(*args)

    active = [xs[i] for i in places]
    for _ in range(WARM_UPS + 1):
        with counted() as forward:
            outs, pull = tg.vjp(f, *active) if places else (f(), None)
        with counted() as backward:
            if pull is not None:
                pull(outs)
    return sample.name, cell(forward), cell(backward) if places else "no derivative"


def of_case(case: Case) -> Row:
    """Return the row of a benchmark program."""
    cells = []
    for column in (Column("", "tapegrad", "cuda"), Column("", "tapegrad", "cuda", compiled=True)):
        try:
            step: Callable[[], Any] = step_of(case, column, 1)
        except Skip as why:
            cells.append(f"not compiled: {why}")
            continue
        for _ in range(2 * WARM_UPS):
            step()
        with counted() as counts:
            step()
        cells.append(cell(counts))
    return f"program {case.benchmark}: {case.name}", cells[0], cells[1]


def cases() -> list[Case]:
    """Return the benchmark programs of tiny sizes, each once."""
    found = [case for name in PROGRAMS for case in import_module(f"benchmarks.{name}").cases(True)]
    return [case for case in found if not (case.memory or case.first)]


def table() -> dict[str, tuple[str, str]]:
    """Return the table that is checked in."""
    lines = TABLE.read_text().splitlines()[1:]
    return {name: (first, second) for name, first, second in (line.split("\t") for line in lines)}


def rows() -> Iterator[Row]:
    """Go through the rows as they are now."""
    for sample in SAMPLES:
        yield of_sample(sample)
    for case in cases():
        yield of_case(case)


def main() -> None:
    warnings.simplefilter("ignore")
    lines = ["\t".join(row) for row in rows()]
    TABLE.write_text("\n".join(["operation or program\tforward, or eager\tbackward, or compiled", *lines]) + "\n")


if __name__ == "__main__":
    main()
