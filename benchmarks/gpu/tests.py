"""A step: the tests of tapegrad on CuPy, all workers of the machine at once: `python -m benchmarks.gpu.tests samples`.

Each failure is on disk as it happens.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from time import monotonic
from typing import Any

import pytest

from benchmarks.gpu._libraries import device_columns
from benchmarks.gpu._records import Output, output_of
from benchmarks.gpu._runner import MISSING

SAMPLES, COMPILED = "tests/test_samples.py", "tests/test_compile_samples.py"
ELSEWHERE = ("tests/test_package.py", "tests/test_cuda_stand_in.py", "tests/test_conformance.py")  # not here
SELECTIONS = {
    "samples": [SAMPLES],
    "compiled": [COMPILED],
    "others": ["tests", *(f"--ignore={file}" for file in (SAMPLES, COMPILED, *ELSEWHERE))],
}
TINY = ["tests/test_engine.py"]
EVERY = 5.0  # seconds
WORKERS = 12  # more wait for the device


class Reports:
    """A plugin of pytest that writes each failure at once, and the counts of outcomes every few seconds."""

    def __init__(self, output: Output, selection: str) -> None:
        self._output, self._selection = output, selection
        self.counts: Counter[str] = Counter()
        self._written = monotonic()

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a test; write where it failed."""
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
        if report.failed:
            lines = str(report.longreprtext).strip().splitlines()
            why = next((line[2:].strip() for line in lines if line.startswith("E ")), lines[-1] if lines else "")
            self._output.write(f"FAILED {report.nodeid}: {why}", kind="failure", test=report.nodeid, why=why)
        if monotonic() - self._written > EVERY:
            self.write(complete=False)

    def write(self, complete: bool) -> None:
        """Write the counts, of all tests or of those so far."""
        counts, self._written = self.counts, monotonic()
        line = f"{self._selection}: {counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped"
        self._output.write(line, kind="tests", selection=self._selection, complete=complete, **counts)

    def pytest_collectreport(self, report: Any) -> None:
        """Write the tests that could not be collected."""
        if report.failed:
            self.counts["failed"] += 1
            self._output.write(f"FAILED {report.nodeid}", kind="failure", test=report.nodeid, why="not collected")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a selection of the tests; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("selection", choices=SELECTIONS)
    output, given = output_of(argv, parser)
    _, status = device_columns(output, peers=(), compiled=False)
    if status:
        return status
    os.environ.pop("PYTEST_ADDOPTS", None)
    options = [
        "-q",
        "--tb=short",
        "--no-header",
        "-p",
        "no:cacheprovider",
        "-W",
        "default",
        "-k",
        "(cupy or cuda) and not torch",
    ]
    if find_spec("xdist") is not None:
        workers = 1 if output.tiny else min(WORKERS, os.cpu_count() or 1)
        options += ["-n", str(workers), "--dist", "worksteal"]
    else:
        output.write(
            "MISSING pytest-xdist: one process only", kind="missing", what="xdist", fix="pip install pytest-xdist"
        )
        status = MISSING
    reports = Reports(output, given.selection)
    failed = pytest.main([*(TINY if output.tiny else SELECTIONS[given.selection]), *options], plugins=[reports])
    reports.write(complete=failed != pytest.ExitCode.INTERRUPTED)
    return status if not failed and reports.counts["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
