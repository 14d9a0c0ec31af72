"""The examples of the training kit: each runs small, on several devices, compiled, and goes on where it stopped."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from example_runs import Run, interrupted

import tapegrad as tg
from tapegrad import backends

SMALL: dict[str, tuple[object, ...]] = {  # options that make a run short
    "bundle_adjustment.py": ("--epochs", 2, "--points", 20),
    "cnn_digits.py": ("--epochs", 1, "--width", 2),
    "gaussian_process.py": ("--epochs", 2, "--points", 20),
    "gpt_characters.py": ("--epochs", 1, "--letters", 3000, "--width", 8, "--context", 16, "--sample", 3),
    "heat_pinn.py": ("--width", 4, "--iterations", 2),
    "neural_ode.py": ("--epochs", 2, "--points", 100, "--width", 4),
    "private_gradients.py": ("--epochs", 1),
    "recommender.py": ("--epochs", 1, "--size", 3000),
    "train_digits.py": ("--epochs", 2),
    "variational_autoencoder.py": ("--epochs", 1, "--width", 8),
    "wave_inversion.py": ("--epochs", 1, "--cells", 8),
}
# SciPy's loops keep their state to themselves: these have no --resume, and no run to write over.
NOT_RESUMED = ("bundle_adjustment.py", "gaussian_process.py")
RESUMED = [name for name in SMALL if name not in NOT_RESUMED]
for _package in ("sklearn", "matplotlib", "tqdm", "safetensors"):
    pytest.importorskip(_package)


def pictures(folder: Path) -> list[Path]:
    return [p for p in folder.glob("*.png") if p.read_bytes().startswith(b"\x89PNG")]


@pytest.mark.parametrize("compiled", [(), ("--compile",)])
@pytest.mark.parametrize("device", ["cpu", "cuda", "torch:cpu", "jax:cpu"])
@pytest.mark.parametrize("name", SMALL)
def test_each_runs(run: Run, tmp_path: Path, name: str, device: str, compiled: tuple[str, ...]) -> None:
    if not backends.is_available(device):
        pytest.skip(f"{device} is not available here")
    if device == "torch:cpu" and compiled:
        pytest.skip("torch.compile takes half a minute; its programs are tested elsewhere")
    if device == "jax:cpu" and not compiled and name != "train_digits.py":
        pytest.skip("JAX compiles each operation of an eager step; train_digits.py does it")
    result = run(name, *SMALL[name], "--device", device, *compiled, "--out", tmp_path)
    assert result.status == 0
    assert pictures(tmp_path)
    assert any("/s" in line for line in result.err)  # the progress bar


@pytest.mark.parametrize("name", SMALL)
def test_the_same_seed_gives_the_same_files(run: Run, tmp_path: Path, name: str) -> None:
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert run(name, *SMALL[name], "--seed", seed, "--out", tmp_path / folder).status == 0
    weights = [sorted(p.read_bytes() for p in (tmp_path / f).glob("*.safetensors")) for f in "abc"]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_goes_on_to_the_bit(run: Run, tmp_path: Path, name: str) -> None:
    def weights(folder: Path) -> list[bytes]:
        return [p.read_bytes() for p in sorted(folder.glob("*.safetensors"))]

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(name, *SMALL[name], "--out", whole).status == 0
    assert run(name, *SMALL[name], "--out", parts, "--stop", 3).status == 0
    first = weights(parts)
    result = run(name, *SMALL[name], "--out", parts, "--resume")
    assert result.status == 0
    assert "resumed at step 3" in result.out
    assert weights(parts) == weights(whole) != first


@pytest.mark.parametrize("name", RESUMED)
def test_a_folder_with_a_run_is_not_written_over(run: Run, tmp_path: Path, name: str) -> None:
    assert run(name, *SMALL[name], "--out", tmp_path, "--stop", 2).status == 0
    status, _, _ = run(name, *SMALL[name], "--out", tmp_path)
    assert isinstance(status, str)
    assert "--resume goes on with it" in status


@pytest.mark.parametrize("name", SMALL)
def test_unknown_devices_and_impossible_folders_are_one_line(run: Run, tmp_path: Path, name: str) -> None:
    status, out, err = run(name, "--device", "abacus", "--out", tmp_path)
    assert (status, out, len(err)) == (2, [], 1)
    assert err[0].startswith(f"{name}: zeros: unknown device 'abacus'")
    (tmp_path / "file").touch()
    status, _, err = run(name, "--out", tmp_path / "file")
    assert (status, len(err)) == (2, 1)
    for value in ("0", "-3", "many"):
        result = run(name, "--epochs", value)
        assert result.status == 2
        assert "--epochs" in result.err[-1]


def test_a_missing_package_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "tqdm" else object())
    status = run("train_digits.py").status
    assert status == "this example needs more packages (tqdm): pip install 'tapegrad[examples]'"


def test_digits_reach_97_percent(run: Run, tmp_path: Path) -> None:
    result = run("train_digits.py", "--compile", "--out", tmp_path)
    match = re.fullmatch(r"test accuracy (\d+\.\d) %", result.out[-1])
    assert match
    assert float(match[1]) >= 97
    assert len(tg.load(tmp_path / "digits.safetensors", device="cpu")) == 4


def test_the_convolutional_network_reaches_99_percent(run: Run, tmp_path: Path) -> None:
    result = run("cnn_digits.py", "--compile", "--seed", 1, "--out", tmp_path)
    match = re.fullmatch(r"test accuracy (\d+\.\d) %", result.out[-1])
    assert match
    assert float(match[1]) >= 99


@pytest.mark.parametrize(
    ("command", "line", "low", "high"),
    [
        ("bundle_adjustment.py", r"error .* before, ([\d.]+) after", 0.3, 0.5),  # less than the noise: it fits
        ("gaussian_process.py", r"within two standard deviations for (\d+) %", 75, 100),
        ("private_gradients.py --epochs 10 --compile", r"noise 1.0: .* accuracy ([\d.]+) %", 88, 100),
        ("private_gradients.py --epochs 10 --compile", r"noise 8.0: .* accuracy ([\d.]+) %", 30, 80),
        ("recommender.py --epochs 10 --compile", r"never seen ([\d.]+)", 0, 0.25),  # 1.1 by the mean rating
        ("wave_inversion.py --epochs 10 --compile", r"(\d+) % of the inclusions is not explained", 0, 30),
    ],
    ids=["bundle adjustment", "Gaussian process", "privacy", "too much privacy", "recommender", "waves"],
)
def test_it_finds_what_it_seeks(run: Run, tmp_path: Path, command: str, line: str, low: float, high: float) -> None:
    result = run(*command.split(), "--out", tmp_path)
    (found,) = [match for text in result.out if (match := re.search(line, text))]
    assert low <= float(found[1]) <= high


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send a Ctrl-C to one process")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_keeps_the_weights_and_the_run(tmp_path: Path, number: signal.Signals, status: int) -> None:
    result = interrupted("train_digits.py", tmp_path, number)
    assert result.status == status
    assert not any("Traceback" in line for line in result.err)
    assert result.out[-1].startswith("test accuracy")
    assert (tmp_path / "digits.safetensors").exists()
    assert list((tmp_path / "run").glob("step-*.safetensors"))
