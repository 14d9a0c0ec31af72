"""Running steps as processes: one after the other, each held to its limit, every line of output on disk at once.

A step that fails, runs over its limit or is interrupted stops no other.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from time import monotonic
from typing import Any, TextIO

from benchmarks.gpu._records import append

MISSING = 3  # exit status of a step that ran without something it should have
GRACE = 8.0  # seconds to end after an interrupt, before a step is killed
LOG = "log.txt"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Step:
    """A process of a phase: a name, its limit in seconds, and the arguments of `python -m`."""

    name: str
    limit: float
    module: str
    arguments: tuple[str, ...] = ()


@dataclass
class Runner:
    """Runs steps; their output goes to the screen and to the log.

    seconds: the time that all steps have together. environment: variables for the steps, beside those of this
    process.
    """

    folder: Path
    seconds: float
    environment: Mapping[str, str] = field(default_factory=dict)
    begin: float = field(default_factory=monotonic)

    @contextmanager
    def log(self) -> Iterator[TextIO]:
        """Open the log, to which each line goes at once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOG).open("a", buffering=1) as file:
            yield file

    def run(self, phase: str, step: Step, *arguments: str) -> str:
        """Run a step and return its outcome in words, "passed" if all went well; record both."""
        with self.log() as log:
            elapsed = monotonic() - self.begin
            limit = min(step.limit, self.seconds - elapsed)
            record: dict[str, Any] = {"kind": "step", "phase": phase, "step": step.name, "limit": step.limit}
            if limit <= 0:
                outcome = f"not started: the {self.seconds:g} s for all steps are over"
                _say(log, f"--- {phase}, {step.name}: {outcome}")
                append(self.folder, {**record, "outcome": outcome, "seconds": 0.0, "last": ""})
                return outcome
            _say(log, f"=== {phase}, {step.name} (limit {limit:.0f} s, at {elapsed:.0f} s)")
            command = [sys.executable, "-m", step.module, *step.arguments, *arguments]
            start = monotonic()
            outcome, last = "interrupted", ""
            try:
                outcome, last = self._run(command, limit, log)
            finally:  # also where this process is told to end
                seconds = monotonic() - start
                _say(log, f"--- {phase}, {step.name}: {outcome} in {seconds:.1f} s")
                append(self.folder, {**record, "outcome": outcome, "seconds": seconds, "last": last})
            return outcome

    def _run(self, command: Sequence[str], limit: float, log: TextIO) -> tuple[str, str]:
        """Return the outcome of a command and the last line that it printed."""
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that a signal reaches all that it starts
        )
        late = Timer(limit, _interrupt, [process])
        kill = Timer(limit + GRACE, _signal, [process, signal.SIGKILL])
        late.daemon = kill.daemon = True
        start = monotonic()
        last = ""
        late.start()
        kill.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                _say(log, line.rstrip("\n"))
                last = line.strip() or last
            status = process.wait()
        except KeyboardInterrupt:  # this step alone; a second one ends all
            _interrupt(process)
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            return "interrupted", last
        finally:
            late.cancel()
            kill.cancel()
            _signal(process, signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        if status != 0 and monotonic() - start >= limit:
            return f"over its limit of {limit:.0f} s", last
        return _outcome(status), last


def _outcome(status: int) -> str:
    if status == 0:
        return "passed"
    if status == MISSING:
        return "incomplete: something is missing"
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"failed (exit status {status})"


def _interrupt(process: subprocess.Popen[str]) -> None:
    """Ask a process and all that it started to end; pytest then sums up."""
    _signal(process, signal.SIGINT)


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _say(log: TextIO, line: str) -> None:
    log.write(line + "\n")
    print(line, flush=True)
