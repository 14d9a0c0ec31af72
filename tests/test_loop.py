"""Loops and loggers: steps, means, ends, saves and signals."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from places import Place

import tapegrad as tg
from tapegrad import loggers
from tapegrad.data import Batches


class Kept:
    """A logger that keeps all numbers."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.calls: list[str] = []

    def begin(self, step: int, total: int | None) -> None:
        self.calls.append(f"begin {step} of {total}")

    def advance(self, step: int) -> None:
        self.calls.append(f"{step}")

    def end(self) -> None:
        self.calls.append("end")

    def log(self, numbers: Any, *, step: int) -> None:
        self.rows.append((step, dict(numbers)))


def test_steps_epochs_and_means(xp: Place) -> None:
    kept = Kept()
    loop = tg.Loop(Batches(xp.tensor([1.0, 2.0, 3.0]), size=1), epochs=2, every=2, log=kept)
    seen = []
    for x in loop:
        seen.append((loop.step, loop.epoch))
        loop.log(x=x[0], twice=2.0)
    assert seen == [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]
    assert kept.rows == [
        (2, {"x": 1.5, "twice": 2.0}),
        (4, {"x": 2.0, "twice": 2.0}),
        (6, {"x": 2.5, "twice": 2.0}),
    ]
    assert kept.calls == ["begin 0 of 6", "1", "2", "3", "4", "5", "6", "end"]
    assert loop.history["x"] == [(2, 1.5), (4, 2.0), (6, 2.5)]


def test_what_is_left_at_the_end_is_logged() -> None:
    kept = Kept()
    loop = tg.Loop(Batches([1.0, 2.0, 3.0], size=1), every=2, log=[kept])
    for x in loop:
        loop.log(x=x[0])
    assert kept.rows == [(2, {"x": 1.5}), (3, {"x": 3.0})]


def test_recorded_numbers_are_let_go() -> None:
    w = tg.tensor([1.0], requires_grad=True)
    loop = tg.Loop([1.0, 2.0], every=2, log=())
    for x in loop:
        loss = tg.sum(w * x)
        loop.log(loss=loss)
        loss.backward()
    assert loop.history == {"loss": [(2, 1.5)]}


def test_any_iterable_that_begins_anew() -> None:
    class Endless:
        def __iter__(self) -> Any:
            return iter("ab")

    loop = tg.Loop(Endless(), epochs=2, log=())
    assert list(loop) == ["a", "b", "a", "b"]
    assert list(tg.Loop([], epochs=3, log=())) == []


def test_stop_and_patience() -> None:
    loop = tg.Loop(Batches([3.0, 2.0, 4.0, 5.0, 1.0], size=1), epochs=9, patience=2, log=())
    better = [loop.best(x[0]) for x in loop]
    assert better == [True, True, False, False]
    loop = tg.Loop(Batches([1.0, 2.0, 3.0], size=1), patience=1, log=())
    assert [loop.best(x[0], mode="max") for x in loop] == [True] * 3
    assert loop.best(float("nan")) is False


def test_evaluate_weighs_batches_by_their_samples(xp: Place) -> None:
    held_out = Batches(xp.tensor([1.0, 2.0, 6.0]), size=2)
    kept = Kept()
    loop = tg.Loop(held_out, log=kept)
    assert loop.evaluate(lambda x: {"mean": tg.mean(x)}, held_out) == {"mean": 3.0}
    assert kept.rows == [(0, {"mean": 3.0})]
    recorded = []
    w = tg.tensor(1.0, requires_grad=True)
    loop.evaluate(lambda x, y: {"n": recorded.append(w * 2.0) or 1.0}, Batches([1.0], [2.0], size=1))  # type: ignore[func-returns-value]
    assert not recorded[0].requires_grad


def run_and_signal(code: str, number: signal.Signals) -> tuple[int, str]:
    """Run code in a process of its own, send it a signal when it prints, and return its status and output."""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    first = child.stdout.readline()
    child.send_signal(number)
    try:
        rest = child.communicate(timeout=60)[0]
    finally:
        child.kill()
    return child.returncode, first + rest


LOOP = """
import sys, time
import tapegrad as tg
loop = tg.Loop(tg.data.Batches([1.0] * 1000, size=1), log=())
for x in loop:
    if loop.step == 3:
        print("third", flush=True)
        end = time.time() + {seconds}
        while time.time() < end:
            time.sleep(0.01)
        done = "done"
print(done, loop.step, loop.interrupted, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_loop_after_its_step(number: signal.Signals) -> None:
    code, out = run_and_signal(LOOP.format(seconds=0.5), number)
    assert (code, out) == (0, f"third\ndone 4 {int(number)}\n")


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_second_ctrl_c_ends_the_program() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", LOOP.format(seconds=60)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    child.stdout.readline()
    deadline = time.time() + 30
    while child.poll() is None and time.time() < deadline:
        child.send_signal(signal.SIGINT)
        time.sleep(0.2)
    assert "KeyboardInterrupt" in child.communicate(timeout=30)[1]
    assert child.returncode != 0


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    for _ in tg.Loop([1, 2], log=()):
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before
    with pytest.raises(ZeroDivisionError):
        all(1 / 0 for _ in tg.Loop([1, 2], log=()))
    assert signal.getsignal(signal.SIGINT) == before


def test_a_loop_in_another_thread() -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(tg.Loop([1, 2], log=())))
    thread.start()
    thread.join()
    assert found == [1, 2]


def test_csv_grows_by_columns_and_goes_on_after_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"

    def rows() -> list[dict[str, str]]:
        with path.open() as file:
            return list(csv.DictReader(file))

    log = loggers.CSV(path)
    log.begin(0, None)
    log.log({"loss": 0.5}, step=1)
    log.log({"loss": 0.25, "accuracy": 0.9}, step=2)
    log.log({"held out": 0.3}, step=2)
    log.log({"loss": 0.125}, step=3)
    assert rows()[1] == {"step": "2", "loss": "0.25", "accuracy": "0.9", "held out": "0.3"}
    assert len(rows()) == 3
    again = loggers.CSV(path)
    again.begin(2, None)
    assert [r["step"] for r in rows()] == ["1", "2"]
    again.log({"loss": 1.0}, step=3)
    assert [r["loss"] for r in rows()] == ["0.5", "0.25", "1.0"]
    loggers.CSV(path).begin(0, None)
    assert rows() == []


def test_the_bar_shows_steps_and_numbers() -> None:
    pytest.importorskip("tqdm")
    out = io.StringIO()
    loop = tg.Loop(Batches([1.0, 2.0, 3.0], size=1), every=3, log=loggers.Bar(out))
    for x in loop:
        loop.log(loss=x[0])
    assert "3/3" in out.getvalue()
    assert "loss 2" in out.getvalue()


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    log = loggers.TensorBoard(tmp_path)
    log.begin(0, None)
    log.log({"loss": 0.5}, step=1)
    log.end()
    assert any("tfevents" in p.name for p in tmp_path.iterdir())


def test_tools_of_others() -> None:
    class Tracker:
        def __init__(self) -> None:
            self.got: Any = None

        def log_metrics(self, numbers: Any, step: int) -> None:
            self.got = numbers, step

    tracker = Tracker()
    loggers.to(tracker).log({"loss": 1.0}, step=2)
    assert tracker.got == ({"loss": 1.0}, 2)
    with pytest.raises(TypeError, match="object has no method log"):
        loggers.to(object())


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda: tg.Loop([1], epochs=0), ValueError, "epochs must be 1 or more, not 0"),
        (lambda: tg.Loop([1], every=0), ValueError, "every must be 1"),
        (lambda: tg.Loop([1], patience=0), ValueError, "patience must be 1"),
        (lambda: tg.Loop(iter([1])), TypeError, "an iterator is used up after one epoch"),
        (lambda: tg.Loop([1], log=print), TypeError, "wrap it in tg.loggers.to"),
        (lambda: tg.Loop([1], log=()).log(x=tg.ones(2)), ValueError, r"x has the shape \(2,\): log one number"),
        (lambda: tg.Loop([1], log=()).evaluate(lambda x: 1.0, [1.0]), TypeError, "returns a dict of numbers by name"),
        (lambda: tg.Loop([1], log=()).evaluate(lambda x: {}, []), ValueError, "there is no batch"),
        (lambda: tg.Loop([1], log=()).best(1.0, mode="less"), ValueError, "not 'less'"),
    ],
)
def test_bad_input(make: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        make()


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tqdm", "tensorboardX", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'tapegrad\[training\]'"):
        loggers.Bar()
    with pytest.raises(ImportError, match="pip install tensorboardX"):
        loggers.TensorBoard("folder")
