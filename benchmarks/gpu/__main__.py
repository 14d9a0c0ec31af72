"""`python -m benchmarks.gpu environment costs --out FOLDER`: run phases, and report. See README.md beside this file."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.gpu._phases import LONGEST, PHASES
from benchmarks.gpu._report import write
from benchmarks.gpu._runner import ROOT, Runner
from benchmarks.gpu._wheels import unpack

ALL, REPORT = "all", "report"


def main(argv: Sequence[str] | None = None) -> int:
    """Run phases as the command line says; return 0 if every step passed."""
    given = _options(argv)
    phases = list(PHASES) if ALL in given.phases else [phase for phase in given.phases if phase != REPORT]
    passed = True
    with TemporaryDirectory() as site:
        paths = [str(ROOT), str(ROOT / "tests"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        if unpack(given.wheels, Path(site)):
            paths.append(site)
        environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1", "MPLBACKEND": "agg"}
        runner = Runner(given.out, given.limit or LONGEST * len(phases), environment)
        try:
            for phase in phases:
                for step in PHASES[phase]:
                    options = ["--out", str(given.out.resolve())] + ["--tiny"] * given.tiny
                    if step.name == "environment" and given.commit:
                        options += ["--commit", given.commit]
                    passed &= runner.run(phase, step, *options) == "passed"
        finally:
            given.out.mkdir(parents=True, exist_ok=True)
            print("\n" + write(given.out), flush=True)
    return 0 if passed else 1


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Measure tapegrad on a CUDA device.")
    names = [*PHASES, ALL, REPORT]
    parser.add_argument("phases", nargs="+", choices=names, metavar="PHASE", help=f"any of {', '.join(names)}")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to; a second run adds to it")
    parser.add_argument("--limit", type=float, help=f"seconds for all of it (default: {LONGEST:g} a phase)")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--commit", help="the commit that is measured, where there is no repository to ask")
    parser.add_argument("--wheels", type=Path, default=ROOT / ".whl", help="wheels for a machine that lacks packages")
    return parser.parse_args(argv)


def _end(*_: object) -> None:
    raise SystemExit("told to end")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)  # so that the step at hand is ended, and the report written
    sys.exit(main())
