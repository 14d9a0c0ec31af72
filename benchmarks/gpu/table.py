"""A step: the rows of one benchmark, with the columns that are on the device: `python -m benchmarks.gpu.table gpt`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # before JAX is imported

from benchmarks._case import Case
from benchmarks._columns import Column
from benchmarks._measure import cores, measure
from benchmarks._report import table
from benchmarks.gpu._libraries import device_columns
from benchmarks.gpu._records import Output, output_of

REPEAT = 30


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the rows of a benchmark; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmark")
    output, given = output_of(argv, parser)
    columns, status = device_columns(output)
    # PyTorch compiles for so long that the records of the others are on disk before.
    slow = [column for column in columns if column.library == "torch" and column.compiled]
    groups = [[column for column in columns if column not in slow], [columns[0], *slow]]
    for case in import_module(f"benchmarks.{given.benchmark}").cases(output.tiny):
        if not case.memory and not case.first:
            for group in groups[: 1 + bool(slow)]:
                status = max(status, _row(output, replace(case, targets=()), group))  # these are for a CPU
    return status


def _row(output: Output, case: Case, columns: Sequence[Column]) -> int:
    """Print and record a row; return 1 if a column fails."""
    row = measure(case, columns, 1 if output.tiny else REPEAT, cores(), forgiven=Exception)
    name = f"{case.benchmark} {case.name}"
    output.write(table([row], columns) if row.samples else name)
    for note in row.notes:
        output.write(f"- {note}")
    for label in row.samples:
        output.record(kind="row", name=name, column=label, ms=row.median(label), spread=row.spread(label))
    for label, why in row.refused.items():
        output.record(kind="row", name=name, column=label, failed=why)
    return int(bool(row.refused))


if __name__ == "__main__":
    sys.exit(main())
