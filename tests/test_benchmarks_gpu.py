"""The measurements on a device: steps as processes, their report, and every step run small on a stand-in."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from threading import Timer
from typing import Any
from zipfile import ZipFile

import cuda_stand_in
import numpy as np
import pytest

import tapegrad as tg
from tapegrad import backends

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _root_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


# -- steps as processes ------------------------------------------------------------------------------------

FORKED = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
PROGRAMS = {
    "good": "print('first'); print('second')",
    "raises": "print('about to'); raise ValueError('no luck')",
    "without": "import sys; print('MISSING the moon'); sys.exit(3)",
    "crashes": "import os; os.abort()",
    "slow": "import time; print('begun', flush=True); time.sleep(600)",
    "forks": FORKED + "import time; print('begun', flush=True); time.sleep(600)",
    "deaf": (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('begun', flush=True); time.sleep(600)"
    ),
    "sums up": "import time\ntry: time.sleep(600)\nexcept KeyboardInterrupt: print('so far 7')",
}


class Steps:
    """Runs the programs above as steps, and gives the records on disk."""

    def __init__(self, folder: Path, seconds: float = 60.0) -> None:
        from benchmarks.gpu._runner import Runner, Step

        self.folder = folder
        self._step = Step
        for name, text in PROGRAMS.items():
            (folder / f"{name.replace(' ', '_')}.py").write_text(text + "\n")
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        self.runner = Runner(folder / "out", seconds, {"PYTHONPATH": path})

    def run(self, name: str, limit: float = 60.0) -> str:
        return self.runner.run("phase", self._step(name, limit, name.replace(" ", "_")))

    def log(self) -> str:
        return (self.folder / "out" / "log.txt").read_text()

    def records(self) -> list[dict[str, Any]]:
        from benchmarks.gpu._records import read

        return read(self.folder / "out")


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("good", "passed"),
        ("raises", "failed (exit status 1)"),
        ("without", "incomplete: something is missing"),
        ("crashes", "killed by SIGABRT"),
    ],
)
def test_the_outcome_of_a_step(name: str, outcome: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = Steps(tmp_path)
    assert steps.run(name) == outcome
    (record,) = steps.records()
    assert (record["phase"], record["step"], record["outcome"]) == ("phase", name, outcome)
    assert capsys.readouterr().out == steps.log()
    assert f"--- phase, {name}: {outcome}" in steps.log()


def test_the_output_of_a_step_is_in_the_log_and_its_last_line_in_the_record(tmp_path: Path) -> None:
    steps = Steps(tmp_path)
    steps.run("raises")
    assert "about to\n" in steps.log()
    assert steps.records()[0]["last"] == "ValueError: no luck"


@pytest.mark.parametrize("name", ["slow", "forks", "deaf"])
def test_a_step_over_its_limit_is_ended_with_all_it_started_and_the_next_one_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.gpu._runner.GRACE", 0.5)
    steps = Steps(tmp_path)
    assert steps.run(name, limit=3.0) == "over its limit of 3 s"
    assert steps.run("good") == "passed"
    assert "begun" in steps.log()
    first, second = steps.records()
    assert first["seconds"] < 30
    assert second["outcome"] == "passed"


def test_a_step_over_its_limit_may_sum_up(tmp_path: Path) -> None:
    steps = Steps(tmp_path)
    steps.run("sums up", limit=3.0)
    assert "so far 7" in steps.log()


def test_steps_for_which_no_time_is_left_are_not_started(tmp_path: Path) -> None:
    steps = Steps(tmp_path, seconds=0)
    assert steps.run("good") == "not started: the 0 s for all steps are over"
    assert steps.records()[0]["outcome"].startswith("not started")


def test_an_interrupted_step_stops_no_other(tmp_path: Path) -> None:
    steps = Steps(tmp_path)
    Timer(3.0, os.kill, [os.getpid(), signal.SIGINT]).start()
    assert steps.run("slow") == "interrupted"
    assert steps.run("good") == "passed"
    assert "--- phase, slow: interrupted" in steps.log()
    assert [r["outcome"] for r in steps.records()] == ["interrupted", "passed"]


# -- the command -------------------------------------------------------------------------------------------


def command(*argv: str) -> int:
    from benchmarks.gpu.__main__ import main

    return main(argv)


@pytest.fixture
def phases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Have phases of programs above in place of the real ones."""
    from benchmarks.gpu import __main__, _phases
    from benchmarks.gpu._runner import Step

    Steps(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = {name.replace(" ", "_"): (Step(name, 60, name.replace(" ", "_")),) for name in PROGRAMS}
    for module in (__main__, _phases):
        monkeypatch.setattr(module, "PHASES", found)
    return found


def test_the_exit_status_tells_of_any_step(phases: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert command("good", "--out", out) == 0
    assert command("raises", "good", "--out", out) == 1
    text = capsys.readouterr().out
    assert text.index("--- raises, raises: failed") > text.index("--- good, good: passed")
    assert (tmp_path / "out" / "report.txt").read_text() in text
    assert command("without", "--out", out) == 1


def test_a_command_told_to_end_ends_its_step_and_writes_the_report(phases: Any, tmp_path: Path) -> None:
    from benchmarks.gpu.__main__ import _end

    before = signal.signal(signal.SIGTERM, _end)
    try:
        Timer(3.0, os.kill, [os.getpid(), signal.SIGTERM]).start()
        with pytest.raises(SystemExit):
            command("slow", "good", "--out", str(tmp_path / "out"))
    finally:
        signal.signal(signal.SIGTERM, before)
    report = (tmp_path / "out" / "report.txt").read_text()
    assert "slow: slow" in report
    assert "interrupted" in report
    assert "good" not in report


def test_phases_are_short_and_their_modules_there() -> None:
    from benchmarks.gpu._phases import LONGEST, PHASES

    for steps in PHASES.values():
        assert sum(step.limit for step in steps) <= LONGEST
        assert all(importlib.util.find_spec(step.module) for step in steps)


def test_the_guide_lists_the_phases_with_their_limits() -> None:
    from benchmarks.gpu._phases import PHASES

    lines = (ROOT / "benchmarks" / "gpu" / "README.md").read_text().splitlines()
    rows = [line.strip("| ").split("|") for line in lines if line.startswith("| `") and line.count("|") == 4]
    listed = {name.strip(" `"): float(limit) for name, _, limit in rows}
    assert list(listed.items()) == [(name, sum(s.limit for s in steps)) for name, steps in PHASES.items()]


def test_an_unknown_phase_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command("fly", "--out", str(tmp_path))
    assert "choose from" in capsys.readouterr().err


def test_wheels_are_unpacked(tmp_path: Path) -> None:
    from benchmarks.gpu._wheels import unpack

    with ZipFile(tmp_path / "carried-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried/__init__.py", "x = 1\n")
    assert unpack(tmp_path, tmp_path / "site")
    assert (tmp_path / "site" / "carried" / "__init__.py").exists()
    assert not unpack(tmp_path / "nothing", tmp_path / "site")


# -- the report --------------------------------------------------------------------------------------------

ABOUT = {
    "kind": "environment",
    "gpu": "NVIDIA H100 80GB HBM3",
    "driver": "580.1",
    "date": "2026-11-28T05:00+00:00",
    "commit": "abc1234",
    "stand_in": False,
    "cpu": "x86_64",
    "cores": 16,
    "versions": {"python": "3.12.3"},
    "tiny": False,
}


def report(*records: dict[str, Any]) -> str:
    from benchmarks.gpu._report import report as of

    return of(records)


def target(line: str, *records: dict[str, Any]) -> list[str]:
    """Return the words of the target's line in a report."""
    return next(each for each in report(ABOUT, *records).splitlines() if each.startswith(line)).split()


def test_the_report_says_where_results_are_committed() -> None:
    assert "commit as: benchmarks/results/gpu/nvidia-h100-80gb-hbm3-2026-11-28-abc1234" in report(ABOUT)


def test_the_report_says_when_times_mean_nothing() -> None:
    assert "stand-in for CUDA, and no time here means anything" in report(ABOUT | {"stand_in": True})
    assert "A tiny run" in report(ABOUT | {"tiny": True})
    assert "run the phase environment first" in report()


def cost(ours: float, theirs: float) -> dict[str, Any]:
    us = {"tapegrad": ours, "torch": theirs}
    return {"kind": "cost", "operation": "add", "what": "forward", "us": us, "failed": {}}


def share(family: str, value: float) -> dict[str, Any]:
    return {"kind": "bandwidth", "name": f"some {family}", "family": family, "share": value}


TESTS = {"kind": "tests", "selection": "samples", "complete": True, "passed": 9}
OURS, TORCH, JAX = "tapegrad cuda compiled", "torch.compile cuda", "jax.jit gpu"


def row(column: str, ms: float) -> dict[str, Any]:
    return {"kind": "row", "name": "mlp batch 32", "column": column, "ms": ms}


def gpt(column: str, ms: float, precision: str = "bfloat16") -> dict[str, Any]:
    return {"kind": "gpt", "precision": precision, "column": column, "ms": ms, "mb": 1.0}


@pytest.mark.parametrize(
    ("line", "records", "ending"),
    [
        ("cost: add", [cost(4.0, 5.0)], ["0.8", "pass"]),
        ("cost: add", [cost(6.0, 5.0)], ["1.2", "miss"]),
        ("cost: add", [cost(6.0, 5.0), cost(5.0, 5.0)], ["1", "pass"]),
        ("bandwidth: some elementwise", [share("elementwise", 0.86)], ["0.86", "pass"]),
        ("bandwidth: some elementwise", [share("elementwise", 0.84)], ["0.84", "miss"]),
        ("bandwidth: some rows", [share("rows", 0.76)], ["0.76", "pass"]),
        ("bandwidth: some rows", [share("rows", 0.7)], ["0.7", "miss"]),
        ("compiled: mlp", [row(OURS, 2.0), row(TORCH, 2.5), row(JAX, 4.0)], ["0.8", "pass"]),
        ("compiled: mlp", [row(OURS, 3.0), row(TORCH, 4.0), row(JAX, 2.0)], ["1.5", "miss"]),
        ("compiled steps", [row(OURS, 3.0)], ["not", "measured"]),
        ("GPT in", [gpt("tapegrad cuda compiled", 11.0), gpt("torch.compile cuda", 10.0)], ["1.1", "pass"]),
        ("GPT in", [gpt("tapegrad cuda compiled", 13.0), gpt("torch.compile cuda", 10.0)], ["1.3", "miss"]),
        ("GPT of", [gpt("tapegrad cuda compiled", 1.0, "tf32"), gpt("torch.compile cuda", 1.0)], ["not", "measured"]),
        ("tests: samples", [TESTS], ["0", "pass"]),
        ("tests: samples", [TESTS | {"complete": False}], ["0", "miss"]),
        ("tests: samples", [TESTS | {"failed": 2}], ["2", "miss"]),
        ("eager cost", [], ["not", "measured"]),
    ],
)
def test_targets_are_beside_what_was_measured(line: str, records: list[dict[str, Any]], ending: list[str]) -> None:
    assert target(line, *records)[-2:] == ending


@pytest.mark.parametrize(
    ("record", "line"),
    [
        ({"kind": "fact", "name": "gravity", "passed": False, "detail": "up"}, "FAIL gravity: up"),
        ({"kind": "failure", "test": "tests/a.py::b", "why": "KeyError"}, "FAILED tests/a.py::b: KeyError"),
        (cost(1.0, 1.0) | {"failed": {"torch": "no"}}, "FAILED cost, add, forward: {'torch': 'no'}"),
        ({"kind": "bandwidth", "name": "b", "family": "rows", "failed": "no"}, "FAILED bandwidth, b: no"),
        (
            {"kind": "row", "name": "mlp batch 32", "column": JAX, "failed": "no"},
            "FAILED row, mlp batch 32, jax.jit gpu: no",
        ),
        (
            {"kind": "gpt", "precision": "tf32", "column": "torch", "failed": "out of memory"},
            "FAILED gpt, tf32, torch: out of memory",
        ),
        ({"kind": "memory", "name": "gelu", "column": "torch", "failed": "no"}, "FAILED memory, gelu, torch: no"),
        ({"kind": "product", "name": "p", "column": "torch", "failed": "no"}, "FAILED product, p, torch: no"),
        ({"kind": "skipped", "what": "gpt", "why": "no bfloat16"}, "skipped: gpt: no bfloat16"),
        ({"kind": "missing", "what": "jax", "fix": "pip install it"}, "MISSING jax: pip install it"),
    ],
)
def test_the_report_lists_what_failed_or_is_missing(record: dict[str, Any], line: str) -> None:
    assert line in report(ABOUT, record).splitlines()


@pytest.mark.parametrize("about", [{"tiny": True}, {"stand_in": True}])
def test_times_that_mean_nothing_reach_no_target(about: dict[str, Any]) -> None:
    records = [cost(4.0, 5.0), TESTS]
    lines = report(ABOUT | about, *records).splitlines()
    assert next(line for line in lines if line.startswith("cost: add")).endswith(" -")
    assert next(line for line in lines if line.startswith("tests: samples")).endswith(" pass")


def test_the_report_has_a_table_of_each_kind_of_figure() -> None:
    text = report(
        ABOUT,
        gpt(OURS, 11.0),
        gpt(TORCH, 10.0, "tf32"),
        row(JAX, 2.5),
        {"kind": "memory", "name": "gelu", "column": OURS, "mb": 7.0},
        {"kind": "product", "name": "x @ y", "column": OURS, "tflops": 700.0},
    )
    lines = [" ".join(line.split()) for line in text.splitlines()]
    at = lines.index(f"ms a step at GPT-2's width {OURS} {TORCH}")
    assert lines[at + 2 : at + 4] == ["bfloat16 11 -", "tf32 - 10"]
    for head, line in {
        f"ms a step {JAX}": "mlp batch 32 2.5",
        f"MB at most above the inputs {OURS}": "gelu 7",
        f"TFLOP/s {OURS}": "x @ y 700",
    }.items():
        assert lines[lines.index(head) + 2] == line


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    from benchmarks.gpu._records import append, read

    append(tmp_path, ABOUT)
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write(json.dumps(cost(1.0, 2.0))[:20])
    assert read(tmp_path) == [ABOUT]
    assert read(tmp_path / "nothing") == []


# -- missing things -----------------------------------------------------------------------------------------


def step(module: str, out: Path, *arguments: str) -> int:
    """Run a step in this process, small; return its exit status."""
    main: Callable[[list[str]], int] = import_module(f"benchmarks.gpu.{module}").main
    return main([*arguments, "--tiny", "--out", str(out)])


@pytest.mark.parametrize(
    "arguments",
    [
        ["facts"],
        ["costs"],
        ["bandwidth"],
        ["products"],
        ["gpt", "tf32"],
        ["table", "mlp"],
        ["tests", "samples"],
        ["conformance"],
        ["memory", "mlp"],
    ],
)
def test_without_a_device_a_step_says_so_with_the_fix(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks._columns import HAND, Column
    from benchmarks.gpu import _libraries

    why = "CuPy is installed but finds no CUDA device; install the NVIDIA driver"
    monkeypatch.setattr(backends, "available", lambda: {"cuda": why})
    monkeypatch.setattr(_libraries, "_on_cpu", lambda peer: [])
    monkeypatch.setattr(_libraries, "columns", lambda *_, **__: ([Column(HAND, "hand", np)], []))
    assert step(arguments[0], tmp_path, *arguments[1:]) == 3
    assert f"MISSING tapegrad on cuda: {why}" in capsys.readouterr().out


def test_without_cupy_the_others_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from benchmarks.gpu import _operations, costs

    monkeypatch.setattr(backends, "available", lambda: {"cuda": "CuPy is not installed"})
    monkeypatch.setattr(costs, "OPERATIONS", _operations.OPERATIONS[:1])
    assert step("costs", tmp_path) == 3
    head, line = capsys.readouterr().out.splitlines()[-3:-1]
    assert head.split()[-2] == "torch"
    assert float(line.removeprefix("add, forward")) > 0


def test_peers_that_are_missing_are_named_with_the_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.gpu import _libraries
    from benchmarks.gpu._records import Output, read

    notes = ["torch: not installed (No module named 'torch')", "torch.compile cuda: does not work here (no Triton)"]
    monkeypatch.setattr(_libraries, "columns", lambda *_, **__: ([], notes))
    monkeypatch.setattr(backends, "available", lambda: {"cuda": None})
    assert _libraries.device_columns(Output(tmp_path)) == ([], 3)
    out = capsys.readouterr().out
    assert "MISSING torch: torch is not installed: pip install 'tapegrad[torch]'" in out
    assert "MISSING jax: JAX finds no GPU: pip install 'jax[cuda13]'" in out
    assert "MISSING torch.compile cuda: does not work here (no Triton)" in out
    assert {r["what"] for r in read(tmp_path)} == {"torch", "jax", "torch.compile"}


def test_a_precision_that_is_missing_is_named_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu._precision import why_not

    class Without:
        def has_dtype(self, name: str, device: object) -> bool:
            return name != "bfloat16"

    monkeypatch.setattr(backends, "of_device", lambda device: (Without(), 0))
    assert why_not("bfloat16") == "no bfloat16 on this device (pip install ml-dtypes)"
    assert why_not("float32") is None


def test_an_environment_without_cupy_is_incomplete_and_says_the_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.gpu import environment

    real = importlib.util.find_spec
    monkeypatch.setattr(environment, "find_spec", lambda name: None if name == "cupy" else real(name))
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert step("environment", tmp_path) == 3
    assert "commit: unknown" in capsys.readouterr().out
    assert step("environment", tmp_path, "--commit", "abc1234") == 3
    out = capsys.readouterr().out
    assert "FAIL cupy is installed: pip install 'tapegrad[cuda13]'" in out
    assert "FAIL the NVIDIA driver answers: install the NVIDIA driver" in out
    assert "commit: abc1234" in out


# -- every step, on the stand-in ---------------------------------------------------------------------------

on_the_stand_in = pytest.mark.skipif(
    not cuda_stand_in.is_installed(), reason="python -m pytest -p cuda_stand_in runs the steps on CuPy"
)


@pytest.fixture
def processes_on_the_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the processes that a test starts be on the stand-in as well."""
    folders = [ROOT / "tests" / "on_cuda_stand_in", ROOT / "tests"]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")]))


@on_the_stand_in
@pytest.mark.parametrize(
    "arguments",
    [
        ["facts"],
        ["costs"],
        ["bandwidth"],
        ["products"],
        ["gpt", "float32"],
        ["gpt", "tf32"],
        ["gpt", "bfloat16"],
        ["table", "mlp"],
        ["table", "lstm"],
        ["table", "gelu"],
        ["table", "gpt"],
    ],
    ids=" ".join,
)
def test_a_step_on_cupy(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert step(arguments[0], tmp_path, *arguments[1:]) == 0, capsys.readouterr().out


@on_the_stand_in
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_a_gpt_step_on_cupy_is_one_graph_and_stores_no_scores(compute: str) -> None:
    from benchmarks import gpt
    from benchmarks.gpu._clock import CAPTURED, graphs_of

    step = tg.compile(gpt.on_tapegrad(gpt.task(2, 32, 32, 2, 1, 16, compute), "cuda"))
    for _ in range(CAPTURED):
        step()
    operations = [node.op for node in step.program.nodes]
    assert (operations.count("attention"), operations.count("attention_gradient")) == (1, 1)
    assert len(graphs_of(step)) == 1


@on_the_stand_in
def test_peak_memory_on_cupy(processes_on_the_stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks._columns import Column
    from benchmarks.gpu import memory
    from benchmarks.gpu._records import read

    monkeypatch.setattr(memory, "device_columns", lambda output: ([Column("tapegrad cuda", "tapegrad", "cuda")], 0))
    assert step("memory", tmp_path, "gelu") == 0
    (record,) = read(tmp_path)
    assert record["mb"] > 0


@on_the_stand_in
def test_the_command_on_cupy(processes_on_the_stand_in: None, tmp_path: Path) -> None:
    from benchmarks.gpu._phases import PHASES
    from benchmarks.gpu._records import read
    from benchmarks.gpu._runner import Runner

    runner = Runner(tmp_path, 300.0, {"PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], str(ROOT)])})
    options = ("--tiny", "--out", str(tmp_path))
    assert runner.run("environment", PHASES["environment"][0], *options) == "passed"
    assert runner.run("tests", PHASES["tests"][0], *options) == "passed"
    text = report(*read(tmp_path))
    assert "no time here means anything" in text
    assert next(line for line in text.splitlines() if line.startswith("tests: samples")).endswith("pass")
