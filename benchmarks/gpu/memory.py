"""A step: peak memory of whole steps, each column in a fresh process: `python -m benchmarks.gpu.memory gelu gpt`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # before JAX is imported; processes inherit it

from benchmarks._columns import HAND, first_line
from benchmarks._memory import peak_memory
from benchmarks.gpu._libraries import device_columns
from benchmarks.gpu._records import output_of


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the first case of each benchmark in all columns; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmarks", nargs="+")
    output, given = output_of(argv, parser)
    columns, status = device_columns(output)
    for name in given.benchmarks:
        case = import_module(f"benchmarks.{name}").cases(output.tiny)[0]
        output.write(f"{name} {case.name}:")
        for column in columns:
            if column.label == HAND:
                continue
            record = {"kind": "memory", "name": f"{name} {case.name}", "column": column.label}
            try:
                mb = peak_memory(case, column, output.tiny)
            except RuntimeError as error:
                status = 1
                output.write(f"{column.label:24} failed  {first_line(error)}", **record, failed=first_line(error))
            else:
                output.write(f"{column.label:24} {mb:10.1f} MB above the inputs", **record, mb=mb)
    return status


if __name__ == "__main__":
    sys.exit(main())
