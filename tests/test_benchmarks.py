"""The benchmarks, run small: they work, report, and notice a column that computes something else."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tapegrad as tg

NAMES = ("rows", "overhead", "mlp", "lstm", "gelu", "layers", "gpt", "optimisers")
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
        Target(2.5, against=None),
        Target(1.5, against=None),
    )
    case = Case("mlp", "batch 4", None, {}, targets=asked)
    rows = [Row(case, {"hand numpy": [1.0, 1.0], "tapegrad cpu": [2.0], "torch": [4.0]})]
    lines = [line.split() for line in targets(rows).splitlines()[2:]]
    assert [line[-1] for line in lines] == ["pass", "FAIL", "pass", "pass", "FAIL"]
    assert [line[-2] for line in lines] == ["2", "0.5", "1", "2", "2"]
    assert lines[-2][-4:] == ["2.5", "ms", "2", "pass"]
    assert targets([]) == ""


# -- compiled ----------------------------------------------------------------------------------------------


def test_compile_adds_a_column_for_each_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--compile", "--device", "strict:CPU_DEVICE", "mlp", "overhead", "gelu", out=tmp_path)
    out = capsys.readouterr().out
    head = next(line for line in out.splitlines() if line.startswith("median"))
    for column in ("tapegrad cpu", "tapegrad cpu compiled", "tapegrad strict:CPU_DEVICE compiled"):
        assert f"  {column}" in head
    assert "- overhead backward: tapegrad cpu compiled: compiled columns have forward and backward in one" in out
    rows = {f"{r['benchmark']} {r['case']}": r for r in json.loads((tmp_path / "results.json").read_text())["rows"]}
    for name in ("mlp batch 4", "mlp first four calls, batch 4", "gelu peak memory, composed, 1M"):
        assert rows[name]["columns"]["tapegrad cpu compiled"]["median"] > 0
    assert "tapegrad cpu compiled" not in rows["overhead backward"]["columns"]


def test_replayed_calls_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import _step
    from benchmarks._check import Disagreement

    def wrong_when_replayed(step: Any, case: Any, library: str, threads: int) -> Any:
        calls: list[None] = []

        def wrong() -> Sequence[Any]:
            calls.append(None)
            loss, *grads = step()
            return [loss * 1.001 if len(calls) > 2 else loss, *grads]

        return wrong

    monkeypatch.setattr(_step, "_compiled", wrong_when_replayed)
    with pytest.raises(Disagreement, match="mlp batch 4: tapegrad cpu compiled, call 3: result 0 is off by"):
        run("mlp", "--compile", out=tmp_path)


def test_what_cannot_be_compiled_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import mlp

    def looks_at_its_loss(task: Any, device: str) -> Any:
        step = mlp.on_tapegrad(task, device)

        def step_and_look() -> Any:
            loss, *grads = step()
            assert loss.item() > 0
            return loss, *grads

        return step_and_look

    monkeypatch.setitem(mlp.PROGRAMS, "tapegrad", looks_at_its_loss)
    monkeypatch.setattr(mlp, "cases", lambda tiny, cases=mlp.cases: cases(tiny)[:1])
    run("mlp", "--compile", out=tmp_path)
    (note,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("- mlp"))
    assert note.startswith("- mlp batch 4: tapegrad cpu compiled: ")
    columns = json.loads((tmp_path / "results.json").read_text())["rows"][0]["columns"]
    assert columns.keys() == {"hand numpy", "tapegrad cpu"}


def test_torch_compile_is_a_column_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from benchmarks._columns import columns

    monkeypatch.setattr(torch, "compile", lambda f: f)
    assert "torch.compile" in [column.label for column in columns(["cpu"], compiled=True)[0]]

    def broken(f: Any) -> Any:
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(torch, "compile", broken)
    found, notes = columns(["cpu"], compiled=True)
    assert "torch.compile" not in [column.label for column in found]
    assert "torch.compile: does not work here (no compiler)" in notes
    assert not [column for column in columns(["cpu"])[0] if column.compiled]


# -- devices compared --------------------------------------------------------------------------------------

DEVICES = ("cpu", "strict:CPU_DEVICE")


def compare(*argv: str, out: Path) -> int:
    from benchmarks.__main__ import main

    return main(["--compare", *DEVICES, *argv, "--tiny", "--repeat", "2", "--out", str(out)])


def test_devices_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import _compare

    # Memory is measured in a process for each number, which the tests of peak_memory and of the columns start.
    monkeypatch.setattr(_compare, "peak_memory", lambda case, column, tiny: 2.5 if column.compiled else 1.5)
    assert compare("abacus", "mlp", "overhead", out=tmp_path) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert any(line.startswith("- zeros: unknown device 'abacus'") for line in lines)
    assert out == (tmp_path / "table.txt").read_text()
    at = lines.index("mlp batch 4")
    assert [line.split()[0] for line in lines[at + 1 : at + 3]] == list(DEVICES)
    assert all(
        line.count("±") == 2 and line.count("x ") == 3 and "-" not in line.split() for line in lines[at + 1 : at + 3]
    )
    assert "geometric mean" in lines
    assert not any("backward:" in line for line in lines)  # half a step

    report = json.loads((tmp_path / "results.json").read_text())
    assert report["settings"]["devices"] == list(DEVICES)
    assert report["settings"]["missing"].keys() == {"abacus"}
    mlp = report["programs"][0]
    assert (mlp["benchmark"], mlp["case"]) == ("mlp", "batch 4")
    for device in DEVICES:
        measured = mlp["devices"][device]
        assert measured["speed_up"] > 0
        for how, megabytes in (("eager", 1.5), ("compiled", 2.5)):
            assert measured[how]["median"] > 0
            assert measured[how]["off"] <= 1e-4
            assert measured[how]["peak_memory"] == megabytes
    if importlib.util.find_spec("matplotlib") is not None:
        assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


def test_devices_that_disagree_are_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import _compare, mlp

    def wrong_elsewhere(task: Any, device: str) -> Any:
        step = mlp.on_tapegrad(task, device)

        def scaled() -> Any:
            loss, *grads = step()
            return loss.detach() * (1.0 if device == "cpu" else 1.01), *grads

        return scaled

    def no_memory(*_: Any) -> float:
        raise RuntimeError("no memory today")

    monkeypatch.setitem(mlp.PROGRAMS, "tapegrad", wrong_elsewhere)
    monkeypatch.setattr(mlp, "cases", lambda tiny, cases=mlp.cases: cases(tiny)[:1])
    monkeypatch.setattr(_compare, "peak_memory", no_memory)
    assert compare("mlp", out=tmp_path) == 1
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if line.endswith(" !")] == ["strict:CPU_DEVICE"]
    assert "- mlp batch 4: the results differ by more than 0.0001" in out
    assert "- mlp batch 4: cpu compiled: no peak memory (no memory today)" in out


def test_a_comparison_needs_a_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.__main__ import main

    assert main(["--compare", "abacus", "--out", str(tmp_path)]) == 2
    assert "unknown device 'abacus'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--compare", "mlp"])


def test_peak_memory_of_a_step() -> None:
    from benchmarks import gelu
    from benchmarks._columns import Column
    from benchmarks._memory import peak_memory

    case = gelu.cases(True)[-1]
    megabytes = peak_memory(case, Column("tapegrad cpu", "tapegrad", "cpu"), True)
    assert 4 * 4 < megabytes < 4 * 20  # of 1M float32: some are saved, and not too many
    with pytest.raises(RuntimeError, match="unknown device 'abacus'"):
        peak_memory(case, Column("", "tapegrad", "abacus"), True)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks can be forgotten on Linux only")
def test_a_peak_is_forgotten() -> None:
    from benchmarks._meters import meter

    memory = meter("tapegrad", "cpu")
    large = np.ones(8_000_000)
    before = memory.peak()
    del large
    memory.forget()
    assert memory.peak() < before - 32e6
