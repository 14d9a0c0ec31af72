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
WORKERS = 12  # more wait for the device


class Reports:
    """A plugin of pytest that writes each failure at once, and counts outcomes."""

    def __init__(self, output: Output, selection: str) -> None:
        self._output, self._selection = output, selection
        self.counts: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a test; write where it failed."""
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
        if report.failed:
            lines = str(report.longreprtext).strip().splitlines()
            why = next((line[2:].strip() for line in lines if line.startswith("E ")), lines[-1] if lines else "")
            self._output.write(f"FAILED {report.nodeid}: {why}", kind="failure", test=report.nodeid, why=why)

    def pytest_collectreport(self, report: Any) -> None:
        """Write what could not be collected."""
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
    counts = reports.counts
    line = f"{given.selection}: {counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped"
    output.write(line, kind="tests", selection=given.selection, **counts)
    return status if not failed and counts["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
