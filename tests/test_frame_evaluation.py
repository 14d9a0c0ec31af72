"""Results where something evaluates Python's frames in CPython's place: torch.compile, debuggers, profilers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Those whose results hang on reference counts: updates in place, lent gradients, state and its lifetime.
TESTS = (
    "test_compile_random.py",
    "test_compile_lifetimes.py",
    "test_compile_plan.py::test_an_optimiser_update_is_one_run_written_in_place",
    "test_compile_plan.py::test_state_that_somebody_holds_is_not_written",
    "test_views.py",
)


@pytest.mark.skipif(sys.implementation.name != "cpython" or shutil.which("cc") is None, reason="needs CPython and cc")
def test_what_counts_references_does_not_depend_on_who_evaluates_frames() -> None:
    command = [sys.executable, "-m", "pytest", "-p", "frame_evaluation", "-q", "-x", "-p", "no:cacheprovider"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    env["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent), env.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, "-k", "not jax and not torch and not cuda", *[str(HERE / name) for name in TESTS]],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        cwd=HERE.parent,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
