"""Runs of the examples: in this process, or in one of their own that gets a signal."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


class Result(NamedTuple):
    """The end of a program: its exit status, or the message that it ended with, and all that it printed."""

    status: object
    out: list[str]
    err: list[str]


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run an example in this process."""
    monkeypatch.setenv("JAX_ENABLE_X64", os.environ.get("JAX_ENABLE_X64", "1"))  # so that it is put back
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def run(name: str, *options: object) -> Result:
        script = str(EXAMPLES / name)
        monkeypatch.setattr(sys, "argv", [script, *map(str, options)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(script, run_name="__main__")
        out, err = capsys.readouterr()
        return Result(ended.value.code, out.splitlines(), err.splitlines())

    return run


def interrupted(name: str, folder: Path, number: signal.Signals) -> Result:
    """Run a long training in a process of its own, and send it a signal once its bar shows the loss."""
    command = [sys.executable, str(EXAMPLES / name), "--epochs", "100000", "--out", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        seen = b""
        try:
            while b"loss" not in seen:
                byte = process.stderr.read(1)
                assert byte, f"ended before it trained: {seen!r}"
                seen += byte
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    return Result(process.returncode, out.decode().splitlines(), err.decode().splitlines())
