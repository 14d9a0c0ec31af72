"""Peak memory of a step, in a fresh process: `python -m benchmarks._memory gelu tapegrad 4000000`."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks._case import Case
from benchmarks._columns import Column
from benchmarks._measure import Row, wait


def measure_memory(case: Case, columns: Sequence[Column], repeat: int) -> Row:
    """Measure peak memory, in MB above the task's inputs, for the columns that are on the host."""
    row = Row(case)
    for column in columns:
        if column.library not in case.programs or column.place not in ("cpu", columns[0].place):
            continue
        command = [sys.executable, "-m", "benchmarks._memory", case.benchmark, column.library, str(case.task)]
        root = Path(__file__).parents[1]
        row.samples[column.label] = [
            float(subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout)
            for _ in range(repeat)
        ]
    return row


def main(benchmark: str, library: str, size: str) -> None:
    """Print how far one step raises this process's memory, in MB."""
    module = importlib.import_module(f"benchmarks.{benchmark}")
    place = importlib.import_module("numpy") if library == "hand" else "cpu"
    program = module.PROGRAMS[library]
    wait(program(module.task(1000), place)())  # whatever the library loads or starts on first use
    step = program(module.task(int(size)), place)
    before = _resident()
    wait(step())
    print(max(0.0, _peak() - before) / 1e6)


def _peak() -> float:
    """Return the most memory this process has had, in bytes."""
    # Not ru_maxrss if there is a choice: on Linux it starts from the peak of the process that started this.
    status = _status("VmHWM")
    if status is not None:
        return status
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _resident() -> float:
    status = _status("VmRSS")
    return _peak() if status is None else status


def _status(name: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


if __name__ == "__main__":
    main(*sys.argv[1:])
