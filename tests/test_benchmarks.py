"""The benchmarks, run small: they work, report, and notice a column that computes something else."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import tapegrad as tg

NAMES = ("rows", "overhead", "mlp", "lstm", "gelu", "gpt")
TINY = ("--tiny", "--no-peers", "--device", "cpu", "--repeat", "2")


@pytest.fixture(autouse=True)
def _root_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))


def run(*argv: str, out: Path) -> None:
    from benchmarks.__main__ import main

    assert main([*argv, *TINY, "--out", str(out)]) == 0


def test_a_tiny_run_prints_the_table_and_writes_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(out=tmp_path)
    lines = capsys.readouterr().out.splitlines()
    head = next(line for line in lines if line.startswith("median"))
    assert "hand numpy" in head
    assert "tapegrad cpu" in head
    for name in NAMES:
        assert any(line.startswith(f"{name} ") and "±" in line and "x)" in line for line in lines), name

    report = json.loads((tmp_path / "results.json").read_text())
    assert report["machine"]["cpu"]
    assert report["machine"]["cores"] >= 1
    assert {"python", "numpy", "tapegrad"} <= set(report["versions"])
    assert report["settings"]["tiny"] is True
    assert {row["benchmark"] for row in report["rows"]} == set(NAMES)
    for row in report["rows"]:
        for column in ("hand numpy", "tapegrad cpu"):
            measured = row["columns"][column]
            assert measured["median"] >= 0
            assert measured["spread"] >= 0
            assert measured["samples"] == 2
        assert row["columns"]["hand numpy"]["ratio"] == 1


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_the_chart_is_drawn(tmp_path: Path) -> None:
    run("overhead", out=tmp_path)
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_matplotlib_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run("mlp", out=tmp_path)
    assert "matplotlib is not installed" in capsys.readouterr().out
    assert (tmp_path / "results.json").exists()
    assert not (tmp_path / "results.png").exists()


def wrong_from_the_second_call(task: Any, device: str) -> Any:
    from benchmarks.mlp import on_tapegrad

    step = on_tapegrad(task, device)
    calls = []

    def wrong() -> Sequence[Any]:
        loss, *grads = step()
        calls.append(loss)
        return loss, *[g * 1.001 if len(calls) > 1 else g for g in grads]

    return wrong


def of_another_dtype(task: Any, device: str) -> Any:
    return lambda: [tg.tensor(0.0)] * 7


def too_few(task: Any, device: str) -> Any:
    return lambda: [tg.tensor(0.0)]


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (
            wrong_from_the_second_call,
            r"mlp batch 4: tapegrad cpu, call 2: result 1 is off by .* from hand numpy",
        ),
        (of_another_dtype, "result 0 is float64 of shape .* that of hand numpy float32"),
        (too_few, "1 results, hand numpy returned 7"),
    ],
)
def test_a_column_that_computes_something_else_is_an_error(
    program: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import mlp
    from benchmarks._check import Disagreement

    monkeypatch.setitem(mlp.PROGRAMS, "tapegrad", program)
    with pytest.raises(Disagreement, match=message):
        run("mlp", out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_targets_say_pass_and_fail() -> None:
    from benchmarks._case import Case, Target
    from benchmarks._measure import Row
    from benchmarks._report import targets

    asked = (
        Target(2.0),
        Target(0.4, against="torch"),
        Target(1.5, difference=True),
        Target(9, against="absent"),
    )
    case = Case("mlp", "batch 4", None, {}, targets=asked)
    rows = [Row(case, {"hand numpy": [1.0, 1.0], "tapegrad cpu": [2.0], "torch": [4.0]})]
    lines = [line.split() for line in targets(rows).splitlines()[2:]]
    assert [line[-1] for line in lines] == ["pass", "FAIL", "pass"]
    assert [line[-2] for line in lines] == ["2", "0.5", "1"]
    assert targets([]) == ""
