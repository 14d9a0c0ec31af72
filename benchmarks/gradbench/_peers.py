"""The suite's own tools on one evaluation: the one by hand in C++, and the one for PyTorch."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gradbench._inputs import Case

Evaluation = tuple[Any, list[dict[str, Any]]]


class Missing(Exception):
    """The tool does not have this module, or is not installed or not built."""


def cpp(suite: Path, case: Case, runs: dict[str, float]) -> Evaluation:
    """Return output and timings of the tool `manual`. Raises Missing if it was not built or has no such module."""
    program = suite / "tools" / "manual" / "bin" / case.module
    if not program.exists():
        has = (program.parents[1] / f"{case.module}.cpp").exists()
        raise Missing("not built (make -C cpp && make -C tools/manual)" if has else "has no such module")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(case.given | runs, file)
        file.flush()
        command = [str(program), file.name, case.function]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return json.loads(answer[0]), [json.loads(line) for line in answer[1:]]


def pytorch(suite: Path, case: Case, runs: dict[str, float]) -> Evaluation:
    """Return output and timings of the tool `pytorch`. Raises Missing if it cannot be imported."""
    if not case.torch:
        raise Missing(f"{case.name} left out: it takes minutes")
    folder = suite / "python" / "gradbench"
    if not (folder / "gradbench" / "tools" / "pytorch" / f"{case.module}.py").exists():
        raise Missing("has no such module")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(f"gradbench.tools.pytorch.{case.module}")
    except ImportError as error:
        raise Missing(f"cannot be imported ({error})") from error
    answer = getattr(module, case.function).wrapped(case.given | runs)
    return answer["output"], answer["timings"]


def difference(output: Any, wanted: Any) -> float:
    """Return the largest difference by the suite's measure, at most 1e-4 if valid: absolute below 1, relative above."""
    a, b = np.asarray(_numbers(output)), np.asarray(_numbers(wanted))
    if len(a) != len(b):
        return float("inf")
    return float(np.max(np.abs(a - b) / np.maximum(np.abs(a) + np.abs(b), 1)))


def _numbers(tree: Any) -> list[float]:
    if isinstance(tree, dict):
        return [x for key in sorted(tree) for x in _numbers(tree[key])]
    if isinstance(tree, (list, tuple)):
        return [x for value in tree for x in _numbers(value)]
    return [float(tree)]
