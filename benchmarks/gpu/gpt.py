"""A step: time and peak memory of training at GPT-2's width, in one precision: `python -m benchmarks.gpu.gpt tf32`.

Width 768, 12 heads, 1024 tokens, a vocabulary of 50257 and 4 layers, batch 8. One column at a time is on the device.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from statistics import median

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # before JAX is imported

from benchmarks import gpt
from benchmarks._arrays import Results, on_host, wait
from benchmarks._case import Case
from benchmarks._check import compared
from benchmarks._columns import HAND, Column, first_line
from benchmarks._measure import cores, timed
from benchmarks._memory import place_name
from benchmarks._meters import meter
from benchmarks._step import step_of
from benchmarks.gpu._clock import CAPTURED
from benchmarks.gpu._libraries import device_columns
from benchmarks.gpu._precision import BFLOAT16, FLOAT32, PRECISIONS, TOLERANCES, precise, why_not
from benchmarks.gpu._records import Output, output_of

CHECKED = 4  # calls that are compared; the last ones of a compiled step are replayed
SAMPLES = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step in all columns, one after the other; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("precision", choices=PRECISIONS)
    output, given = output_of(argv, parser)
    found, status = device_columns(output)
    sizes = (2, 6, 8, 2, 2, 11) if output.tiny else (8, 1024, 768, 12, 4, 50257)
    task = gpt.task(*sizes, compute=BFLOAT16 if given.precision == BFLOAT16 else FLOAT32)
    case = Case("gpt", given.precision, task, gpt.PROGRAMS)
    batch, length, width, _, layers, vocabulary = sizes
    output.write(f"{layers} layers, width {width}, {length} tokens, batch {batch}, vocabulary {vocabulary}:")
    wanted: list[Results] = []
    with precise(given.precision):
        # The slowest to compile comes last, should the time run out.
        for column in sorted(found, key=lambda c: c.compiled and c.library == "torch"):
            if column.library == "hand" and (column.label == HAND or given.precision != FLOAT32):
                continue
            why = why_not(given.precision) if column.library == "tapegrad" else None
            if why is not None:
                output.write(
                    f"skipped: {column.label}: {why}", kind="skipped", what=f"gpt {case.name}, {column.label}", why=why
                )
                continue
            status = max(status, _column(output, case, column, wanted))
            gc.collect()
    return status


def _column(output: Output, case: Case, column: Column, wanted: list[Results]) -> int:
    """Print and record one column; return 1 if it fails. wanted: the results of the first, empty before it."""
    record = {"kind": "gpt", "precision": case.name, "column": column.label}
    memory = meter(column.library, place_name(column))
    memory.forget()
    before = memory.used()
    try:
        step = step_of(case, column, cores())
        results = [on_host(step()) for _ in range(CHECKED)]
        if wanted:
            tolerance = TOLERANCES[case.name]
            where = f"gpt {case.name}: {column.label}, call"
            for turn, (got, want) in enumerate(zip(results, wanted, strict=True)):
                compared(f"{where} {turn + 1}", got, "the first column", want, tolerance)
        else:
            wanted += results
        for _ in range(CAPTURED - CHECKED):
            wait(step())
        ms = 1e3 * median(timed(step) for _ in range(2 if output.tiny else SAMPLES))
        megabytes = max(0.0, memory.peak() - before) / 1e6
    except Exception as error:  # out of memory, a column that computes something else, ...
        why = f"{type(error).__name__}: {first_line(error)}"
        output.write(f"{column.label:24} failed  {why}", **record, failed=why)
        return 1
    output.write(f"{column.label:24} {ms:10.2f} ms a step, {megabytes:8.0f} MB at most", **record, ms=ms, mb=megabytes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
