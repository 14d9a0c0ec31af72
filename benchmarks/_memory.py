"""Peak memory of a step, in a fresh process: `python -m benchmarks._memory mlp "batch 32" tapegrad cpu --compiled`."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks._arrays import wait
from benchmarks._case import Case
from benchmarks._columns import Column
from benchmarks._measure import Row, cores
from benchmarks._meters import meter
from benchmarks._step import step_of


def measure_memory(case: Case, columns: Sequence[Column], repeat: int, tiny: bool) -> Row:
    """Measure peak memory, in MB above the task's inputs, for the columns that are on the host."""
    row = Row(case)
    for column in columns:
        if column.library in case.programs and column.place in ("cpu", columns[0].place):
            row.samples[column.label] = [peak_memory(case, column, tiny) for _ in range(repeat)]
    return row


def peak_memory(case: Case, column: Column, tiny: bool) -> float:
    """Return the peak memory of a case's step in one column, in MB above the task's inputs.

    Of a compiled step, it is that of a replayed call. Raises RuntimeError if the step fails.
    """
    command = [sys.executable, "-m", "benchmarks._memory", case.benchmark, case.name]
    command += [column.library, place_name(column)]
    command += ["--tiny"] * tiny + ["--compiled"] * column.compiled
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(next(reversed(done.stderr.strip().splitlines()), f"exit status {done.returncode}"))
    return float(done.stdout)


def place_name(column: Column) -> str:
    """Return the place of a column as text, which `_place` reads."""
    if column.library == "hand":
        return str(column.place.__name__)
    return str(getattr(column.place, "platform", column.place))


def _place(library: str, name: str) -> Any:
    if library == "jax":
        return importlib.import_module("jax").devices(name)[0]
    return importlib.import_module(name) if library == "hand" else name


def main() -> None:
    """Print how far one step raises the memory in use, in MB."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmark")
    parser.add_argument("case")
    parser.add_argument("library")
    parser.add_argument("place")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    module = importlib.import_module(f"benchmarks.{given.benchmark}")
    column = Column("", given.library, _place(given.library, given.place), compiled=given.compiled)
    eager = 3 if given.compiled else 0  # calls before the first that is replayed

    small = step_of(next(case for case in module.cases(True) if not case.memory), column, cores())
    for _ in range(eager + 1):  # whatever the library loads or starts on first use
        wait(small())
    cases = module.cases(given.tiny)
    case = next(case for case in cases if case.name == given.case)
    if case.memory:
        case = replace(case, task=module.task(case.task))
    step = step_of(case, column, cores())
    memory = meter(given.library, given.place)
    memory.forget()
    before = memory.used()
    for _ in range(eager):
        wait(step())
    if eager:
        memory.forget()
    wait(step())
    print(max(0.0, memory.peak() - before) / 1e6)


if __name__ == "__main__":
    main()
