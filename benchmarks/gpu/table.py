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
from benchmarks._report import as_json, table
from benchmarks.gpu._libraries import device_columns
from benchmarks.gpu._records import Output, output_of

REPEAT = 30


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the rows of a benchmark; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmark")
    output, given = output_of(argv, parser)
    columns, status = device_columns(output)
    for case in import_module(f"benchmarks.{given.benchmark}").cases(output.tiny):
        if not case.memory:
            status = max(status, _row(output, replace(case, targets=()), columns))  # these are for a CPU
    return status


def _row(output: Output, case: Case, columns: Sequence[Column]) -> int:
    """Print and record a row; return 1 if a column fails."""
    row = measure(case, columns, 1 if output.tiny else REPEAT, cores(), forgiven=Exception)
    for note in row.notes:
        output.write(f"- {note}")
    (record,) = as_json([row], columns)["rows"]
    medians = {label: of["median"] for label, of in record["columns"].items()}
    name = f"{case.benchmark} {case.name}"
    output.write(
        table([row], columns),
        kind="row",
        name=name,
        unit=case.unit,
        first=case.first,
        columns=medians,
        failed=row.refused,
    )
    return int(bool(row.refused))


if __name__ == "__main__":
    sys.exit(main())
