"""A step: the official conformance suite of the array API standard over "cuda".

The variable ARRAY_API_TESTS names a checkout of the suite, as tests/run_conformance.py says.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from run_conformance import run, why_not

from benchmarks.gpu._libraries import DEVICE, device_columns
from benchmarks.gpu._records import output_of
from benchmarks.gpu._runner import MISSING
from benchmarks.gpu.tests import WORKERS

EXAMPLES = 10  # for each function


def main(argv: Sequence[str] | None = None) -> int:
    """Run the suite; return the exit status."""
    output, _ = output_of(argv, argparse.ArgumentParser(description=__doc__))
    _, status = device_columns(output, peers=(), compiled=False)
    if status:
        return status
    why = why_not()
    absent = [name for name in ("hypothesis", "ndindex", "pytest_jsonreport") if find_spec(name) is None]
    if why is None and absent:
        why = f"not installed: {', '.join(absent)} (pip install hypothesis ndindex pytest-json-report)"
    if why is not None:
        output.write(f"MISSING conformance: {why}", kind="missing", what="conformance", fix=why)
        return MISSING
    options = ["-n", str(min(WORKERS, os.cpu_count() or 1))] if find_spec("xdist") is not None else []
    options += ["--max-examples", "1", "-k", "test_abs"] if output.tiny else ["--max-examples", str(EXAMPLES)]
    return min(run(DEVICE, *options), 1)


if __name__ == "__main__":
    sys.exit(main())
