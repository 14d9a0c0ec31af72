"""Runs: everything is saved, and a training that was killed goes on as if it had not been."""

from __future__ import annotations

import os
import random
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import WHOLE_SWEEPS, why_not

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad._training.tensor_file import read, write
from tapegrad.data import Batches

pytest.importorskip("safetensors")

EPOCHS = 4


class Training:
    """A small training with all that a run saves: model, optimiser, random numbers, shuffled data."""

    def __init__(self, folder: Path, device: str, compiled: bool, save_every: int | None = 1) -> None:
        data = np.random.default_rng(0)
        rng = tg.random.Generator(7, device=device)
        model = nn.Sequential(nn.Linear(6, 16, rng=rng), tg.tanh, nn.Dropout(0.3), nn.Linear(16, 3, rng=rng))
        x, y = data.normal(size=(50, 6)).astype(np.float32), data.integers(0, 3, 50)
        batches = Batches(x, y, size=8, shuffle=rng, device=device)
        optimiser = optim.AdamW(model, optim.cosine(0.01, EPOCHS * len(batches), warmup=5))
        self.run = tg.Run(folder, model=model, optimiser=optimiser, rng=rng, data=batches)
        self.run.resume()
        self.loop = tg.Loop(batches, epochs=EPOCHS, run=self.run, save_every=save_every, log=())
        self.model = model

        def step(x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
            with nn.training(rng):
                loss = tg.cross_entropy(model(x + 0.1 * rng.normal(x.shape, dtype=x.dtype)), y)
            loss.backward()
            optimiser.step()
            return loss

        self.step: Callable[..., Any] = tg.compile(step, rehearse=True) if compiled else step

    def train(self, pause: float = 0.0) -> None:
        for x, y in self.loop:
            self.loop.log(loss=self.step(x, y))
            time.sleep(pause)

    def weights(self) -> bytes:
        return b"".join(np.asarray(w.detach().to_device("cpu")).tobytes() for w in nn.parameters(self.model))


def forked(work: Callable[[], None]) -> int:
    """Run work in a forked process; return its number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks beside threads
        child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("device", ["cpu", "torch:cpu"])
def test_a_run_that_is_killed_at_any_time_goes_on_to_the_bit(device: str, compiled: bool, tmp_path: Path) -> None:
    if (why := why_not(device)) is not None:
        pytest.skip(why)
    slow = device == "torch:cpu" and compiled  # each process compiles for seconds
    kills = 3 if slow and not WHOLE_SWEEPS else 20
    result = tmp_path / "result"

    def whole(folder: Path, pause: float = 0.0) -> None:
        if device == "torch:cpu":
            import torch

            torch.set_num_threads(1)  # the threads of the parent process are not there
        training = Training(folder, device, compiled)
        training.train(pause)
        result.write_bytes(training.weights())

    assert os.waitpid(forked(lambda: whole(tmp_path / "unbroken")), 0)[1] == 0
    expected = result.read_bytes()
    result.unlink()
    folder = tmp_path / "killed"
    draw = random.Random(3)
    killed = 0
    while not result.exists():
        child = forked(lambda: whole(folder, 0.02))
        if killed < kills:
            saves = set(folder.glob("step-*")) if folder.exists() else set()
            deadline = time.time() + 120
            while (not folder.exists() or set(folder.glob("step-*")) == saves) and time.time() < deadline:
                time.sleep(0.001)  # until it has gone on by a step
                if os.waitpid(child, os.WNOHANG)[0]:
                    break
            else:
                time.sleep(draw.uniform(0.0, 0.03))
                os.kill(child, signal.SIGKILL)
                killed += 1
                os.waitpid(child, 0)
        else:
            assert os.waitpid(child, 0)[1] == 0
        for path in folder.glob("*.safetensors"):
            tg.load(path)  # no file is ever half written
    assert killed >= min(kills, 10)
    assert result.read_bytes() == expected


@pytest.mark.parametrize("device", ["cpu", "torch:cpu", "jax:cpu"])
def test_a_run_goes_on_in_the_middle_of_an_epoch(device: str, tmp_path: Path) -> None:
    if (why := why_not(device)) is not None:
        pytest.skip(why)
    unbroken = Training(tmp_path / "a", device, False, save_every=None)
    unbroken.train()
    first = Training(tmp_path / "b", device, False, save_every=None)
    for x, y in first.loop:
        first.step(x, y)
        if first.loop.step == 9:
            first.loop.stop()
    second = Training(tmp_path / "b", device, False, save_every=None)
    assert second.run.step == 10
    second.train()
    assert second.loop.step == unbroken.loop.step == EPOCHS * 7
    assert second.weights() == unbroken.weights()


def test_history_and_patience_go_on_with_the_run(tmp_path: Path) -> None:
    def trained(folder: Path, stops: int) -> tuple[Any, int]:
        """Train until one of the stops, in so many programs; return the history and the steps done."""
        for last in (*range(stops), None):
            batches = tg.data.Batches([3.0, 2.0, 4.0, 5.0, 6.0, 1.0, 0.0, 9.0], size=1)
            run = tg.Run(folder, model=[tg.zeros(2)], data=batches)
            run.resume()
            loop = tg.Loop(batches, run=run, every=2, save_every=2, patience=3, log=())
            for x in loop:
                loop.log(x=x[0])
                loop.best(x[0])
                if last is not None and loop.step == 2 * last + 1:
                    loop.stop()
        return loop.history, loop.step

    whole = trained(tmp_path / "a", 0)
    assert whole == ({"x": [(2, 2.5), (4, 4.5), (5, 6.0)]}, 5)
    assert trained(tmp_path / "b", 2) == whole
    fresh = tg.Loop([1.0, 2.0], every=1, log=())
    for x in fresh:
        fresh.log(x=x)
    assert fresh.history == {"x": [(1, 1.0), (2, 2.0)]}


def test_a_save_from_before_there_was_a_history_resumes(tmp_path: Path) -> None:
    run = tg.Run(tmp_path, model=[tg.ones(2)])
    run.save(3)
    path = tmp_path / "step-000000003.safetensors"
    content = read(path)
    for name in ("run.history", "run.worse"):
        del content.values[name]
    write(path, content)
    run.history = {"x": [(1, 2.0)]}
    assert run.resume() == 3
    assert run.history == {}


def test_saves_are_few_and_the_best_one_stays(tmp_path: Path) -> None:
    w = tg.tensor([0.0])
    run = tg.Run(tmp_path, keep=2, model={"w": w})
    for step in range(1, 6):
        w += 1.0
        run.save(step)
        assert run.best(abs(step - 2)) is (step <= 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best.safetensors",
        "step-000000004.safetensors",
        "step-000000005.safetensors",
    ]
    again = tg.tensor([0.0])
    other = tg.Run(tmp_path, model={"w": again})
    assert (other.resume(), float(again)) == (5, 5.0)
    assert other.best(0.5) is False  # the best value was saved, too
    assert (other.load_best(), float(again), other.step) == (0.0, 2.0, 2)


def test_names_and_kinds_of_state_must_fit(tmp_path: Path) -> None:
    w, rng = tg.tensor([1.0, 2.0]), tg.random.Generator(0)
    tg.Run(tmp_path, model={"w": w}, rng=rng).save(3)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"model": {"w": w}}, "has also rng"),
        ({"model": {"w": w}, "rng": rng, "more": rng}, "lacks more"),
        ({"model": {"w": tg.zeros(3)}, "rng": rng}, r"(?s)w.*\(2,\).*\(3,\)"),
        ({"model": {"v": w}, "rng": rng}, "w"),
    ]
    for state, text in cases:
        with pytest.raises((ValueError, KeyError), match=text):
            tg.Run(tmp_path, **state).resume()


def test_a_part_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    class Part:
        """The last part, whose state is refused."""

        def state(self) -> dict[str, Any]:
            return {"x": 1}

        def restore(self, state: Any) -> None:
            raise ValueError("refused")

    def made() -> tuple[tg.Tensor, tg.random.Generator, tg.Run]:
        w, rng = tg.tensor([1.0, 2.0]), tg.random.Generator(0)
        return w, rng, tg.Run(tmp_path, model=[w], rng=rng, last=Part())

    w, rng, run = made()
    rng.uniform((3,))
    w *= 2.0
    run.save(4)
    w, rng, run = made()
    before = np.asarray(rng.count.to_device("cpu")).copy()
    with pytest.raises(ValueError, match="refused") as caught:
        run.resume()
    assert "nothing was changed" in caught.value.__notes__[0]
    np.testing.assert_array_equal(w, [1.0, 2.0])
    np.testing.assert_array_equal(rng.count, before)
    assert run.step == 0


def test_a_folder_of_another_run_is_not_written_over(tmp_path: Path) -> None:
    w = tg.tensor([1.0])
    tg.Run(tmp_path, model=[w]).save(100)
    run, batches = tg.Run(tmp_path, model=[w]), Batches([1.0], size=1)
    with pytest.raises(ValueError, match=r"a save of step 100, and this run is at step 0: resume\(\) goes on"):
        tg.Loop(batches, run=tg.Run(tmp_path, model=[w], data=batches), log=())
    with pytest.raises(ValueError, match="needs an empty folder"):
        run.save(5)
    assert run.resume() == 100
    run.save(101)


def test_a_loop_needs_a_run_that_holds_its_batches(tmp_path: Path) -> None:
    batches = Batches([1.0], size=1)
    with pytest.raises(TypeError, match="make it with them"):
        tg.Loop(batches, run=tg.Run(tmp_path, model=[tg.ones(1)]))


def test_a_damaged_save_is_named(tmp_path: Path) -> None:
    w = tg.tensor([1.0])
    run = tg.Run(tmp_path, model=[w])
    run.save(1)
    path = tmp_path / "step-000000001.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="step-000000001.safetensors cannot be read: .*damaged"):
        run.resume()
    tg.save(path, {"w": w})
    with pytest.raises(ValueError, match=r"was not written by tg\.Run: load it with tg\.load"):
        run.resume()


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda p: tg.Run(p), TypeError, "name the objects to save"),
        (lambda p: tg.Run(p, keep=0, model=[tg.ones(1)]), ValueError, "keep must be 1 or more"),
        (lambda p: tg.Run(p, count=3), TypeError, "count is of type int, holds no Tensor"),
        (lambda p: tg.Run(p, model=[tg.ones(1)]).best(1.0, mode="up"), ValueError, "not 'up'"),
        (lambda p: tg.Run(p, model=[tg.ones(1)]).load_best(), FileNotFoundError, "best.safetensors"),
    ],
)
def test_bad_input(make: Any, kind: type[Exception], text: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=text):
        make(tmp_path)
