"""`python -m benchmarks.gradbench.validate --suite PATH [MODULE ...] [-- ARGUMENT ...]`: run the suite's evaluations.

Stands between each evaluation and our tool, as the suite's own `gradbench run` does, and prints how many answers
were valid. The arguments after `--` go to the evaluations. They need the suite's requirements (pydantic,
dataclasses-json), and the tool `manual` built: they compare with its answers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gradbench import MODULES


def main(argv: Sequence[str] | None = None) -> int:
    """Run evaluations as the command line says; return 0 if all answers were valid."""
    given = list(sys.argv[1:] if argv is None else argv)
    extra: list[str] = []
    if "--" in given:
        at = given.index("--")
        given, extra = given[:at], given[at + 1 :]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gradbench.validate", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="MODULE", help="default: all")
    parser.add_argument("--suite", type=Path, required=True, help="a checkout of the suite")
    parser.add_argument("--device", default="cpu", help="a tapegrad device")
    parser.add_argument("--compile", action="store_true", help="with compiled functions")
    options = parser.parse_args(given)
    ours = ["--device", options.device, *(["--compile"] if options.compile else [])]
    good = True
    for name in options.names or MODULES:
        valid, total, errors = session(name, options.suite.resolve(), ours, extra)
        print(f"{name}: {valid} of {total} valid", flush=True)
        for error in errors[:3]:
            print(f"  {error.strip().splitlines()[-1]}", flush=True)
        good = good and valid == total > 0
    return 0 if good else 1


def session(name: str, suite: Path, ours: list[str], extra: list[str]) -> tuple[int, int, list[str]]:
    """Run one evaluation to its end; return the numbers of valid answers and of all, and the faults.

    ours: arguments of our tool; extra: of the evaluation.
    """
    packages = suite / "python" / "gradbench"
    path = os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")])
    evaluation = subprocess.Popen(
        [sys.executable, str(packages / "gradbench" / "evals" / name / "run.py"), *extra],
        cwd=suite,
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    tool = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "run.py"), *ours],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert evaluation.stdin is not None
    assert evaluation.stdout is not None
    assert tool.stdin is not None
    assert tool.stdout is not None
    valid = total = 0
    errors: list[str] = []
    for line in evaluation.stdout:
        tool.stdin.write(line)
        tool.stdin.flush()
        answer = tool.stdout.readline()
        evaluation.stdin.write(answer)
        evaluation.stdin.flush()
        message: dict[str, Any] = json.loads(line)
        response: dict[str, Any] = json.loads(answer)
        if message["kind"] == "evaluate":
            total += 1
            description = f"{message['function']} {message.get('description', '')}"
            print(f"  {name} {description}", file=sys.stderr, flush=True)
            if not response["success"]:
                errors.append(f"{description}: {response['error']}")
        elif message["kind"] == "analysis":
            valid += message["valid"]
            if not message["valid"]:
                errors.append(message.get("error", "not valid"))
    tool.stdin.close()
    if evaluation.wait() or tool.wait():
        errors.append("the evaluation or the tool ended with an error")
    return valid, total, errors


if __name__ == "__main__":
    sys.exit(main())
