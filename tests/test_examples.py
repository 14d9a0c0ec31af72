"""The examples run, print the promised text, and end as they should."""

import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from example_runs import Run, interrupted

import tapegrad as tg
from tapegrad import backends, to_dot, to_mermaid


def need_digits() -> None:
    for package in ("sklearn", "matplotlib", "tqdm", "safetensors"):
        pytest.importorskip(package)


def need_scikit_learn() -> None:
    for package in ("sklearn", "scipy", "matplotlib"):
        pytest.importorskip(package)


# -- 01_backpropagation.py ---------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "cuda", "torch:cpu", "strict:CPU_DEVICE"])
def test_tape_and_closed_form_agree(run: Run, tmp_path: Path, device: str) -> None:
    if not backends.is_available(device):
        pytest.skip(f"{device} is not available here")
    result = run("01_backpropagation.py", "--device", device, "--out", tmp_path, "--seed", 1)
    assert result.status == 0
    lines = [line for line in result.out if line.endswith("agree")]
    assert len(lines) == 16
    for formula in (
        "dC0/dw12 = 2 (a1 - y1) g'(z1) a2",
        "dC0/db1  = 2 (a1 - y1) g'(z1)",
        "dC0/da2  = sum_j 2 (aj - yj) g'(zj) w_j2",
        "dC0/dw22 = dC0/da2 g'(z2) x2",
        "output layer: dC/dw12 = 1/n sum dC0/dw12",
        "hidden layer: w22 <- w22 - lr dC/dw22",
    ):
        (line,) = (line for line in lines if line.strip().startswith(formula + "  "))
        tape, closed = (float(number) for number in line.split()[-4:-2])
        assert abs(tape - closed) <= 1e-12
        assert tape != 0


def test_training_lowers_the_cost(run: Run, tmp_path: Path) -> None:
    out = run("01_backpropagation.py", "--out", tmp_path).out
    sections = "\n".join(out).split("\n\n")
    for title in ("6. TRAINING, ONE SAMPLE", "7. TRAINING IN BATCHES"):
        (section,) = (s for s in sections if s.startswith(title))
        costs = [float(cost) for cost in re.findall(r"mean C0 = ([\d.]+)", section)]
        assert costs[-1] <= 0.1 < costs[0]
    assert "  20 of 20 samples right" in out


def test_backpropagation_ends_with_the_tape(run: Run, tmp_path: Path) -> None:
    out = run("01_backpropagation.py", "--out", tmp_path).out
    table = out[out.index("9. THE TAPE OF ONE FORWARD PASS") :]
    start = next(i for i, line in enumerate(table) if line.startswith("---")) + 1
    end = next(i for i, line in enumerate(table) if "bytes saved" in line)
    operations = [line.split()[1] for line in table[start:end]]
    layer = ["matmul", "add", "sigmoid"]
    assert operations == [*layer, *layer, "subtract", "pow", "sum"]
    assert out[-1].startswith("the graph of this pass: ")


def test_graph_without_graphviz(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    run("01_backpropagation.py", "--out", tmp_path)
    text = (tmp_path / "backpropagation.mmd").read_text(encoding="utf-8")
    assert text.startswith("flowchart TD")
    for label in ("w_h, requires grad", "a_o = sigmoid(z_o)", "C0 = sum("):
        assert label in text


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graph_with_graphviz(run: Run, tmp_path: Path) -> None:
    run("01_backpropagation.py", "--out", tmp_path)
    text = (tmp_path / "backpropagation.svg").read_text(encoding="utf-8")
    assert "</svg>" in text
    assert "w_h, requires grad" in text


def test_a_wrong_derivative_is_found(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tg, "sigmoid", tg.tanh)
    result = run("01_backpropagation.py", "--out", tmp_path)
    assert result.out[-1].endswith("DISAGREE")
    assert isinstance(result.status, str)
    assert "the tape and the closed form differ" in result.status


# -- 02_digits_from_scratch.py ---------------------------------------------------------------------------------------


def last_accuracy(lines: list[str]) -> float:
    match = re.fullmatch(r"test accuracy (\d+\.\d) %", lines[-1])
    assert match, lines[-1]
    return float(match[1])


def test_digits_reach_97_percent(run: Run, tmp_path: Path) -> None:
    need_digits()
    start = time.perf_counter()
    result = run("02_digits_from_scratch.py", "--out", tmp_path)
    assert result.status == 0
    assert last_accuracy(result.out) >= 97
    assert time.perf_counter() - start < 60
    assert any("step/s" in line for line in result.err)  # the progress bar
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")


def test_same_seed_same_weights_to_the_bit(run: Run, tmp_path: Path) -> None:
    need_digits()
    weights = []
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert run("02_digits_from_scratch.py", "--epochs", 1, "--seed", seed, "--out", tmp_path / folder).status == 0
        weights.append((tmp_path / folder / "digits.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]

    from safetensors.numpy import load

    shapes = {name: (w.shape, w.dtype) for name, w in load(weights[0]).items()}
    f4 = np.dtype("float32")
    assert shapes == {"w1": ((64, 128), f4), "b1": ((128,), f4), "w2": ((128, 10), f4), "b2": ((10,), f4)}


@pytest.mark.parametrize("device", ["cuda", "torch:cpu", "jax:cpu", "strict:CPU_DEVICE"])
def test_digits_on_other_devices(run: Run, tmp_path: Path, device: str) -> None:
    need_digits()
    if not backends.is_available(device):
        pytest.skip(f"{device} is not available here")
    result = run("02_digits_from_scratch.py", "--epochs", 1, "--device", device, "--out", tmp_path)
    assert result.status == 0
    assert last_accuracy(result.out) >= 80


def test_digits_compiled(run: Run, tmp_path: Path) -> None:
    need_digits()
    result = run("02_digits_from_scratch.py", "--compile", "--out", tmp_path)
    assert result.status == 0
    assert result.out[0].endswith("on cpu, compiled")
    assert last_accuracy(result.out) >= 97


def test_compiled_weights_are_the_same_to_the_bit_and_close_to_eager_ones(run: Run, tmp_path: Path) -> None:
    need_digits()
    from safetensors.numpy import load_file

    weights = []
    for options in ((), ("--compile",), ("--compile",)):
        assert run("02_digits_from_scratch.py", "--epochs", 3, *options, "--out", tmp_path).status == 0
        weights.append(load_file(tmp_path / "digits.safetensors"))
    for name, eager in weights[0].items():
        np.testing.assert_array_equal(weights[1][name], weights[2][name])
        np.testing.assert_allclose(weights[1][name], eager, atol=1e-4)


@pytest.mark.parametrize("device", ["cuda", "torch:cpu", "jax:cpu", "strict:CPU_DEVICE"])
def test_digits_compiled_on_other_devices(run: Run, tmp_path: Path, device: str) -> None:
    need_digits()
    if not backends.is_available(device):
        pytest.skip(f"{device} is not available here")
    result = run("02_digits_from_scratch.py", "--compile", "--epochs", 3, "--device", device, "--out", tmp_path)
    assert result.status == 0
    assert last_accuracy(result.out) >= 80


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send a Ctrl-C to one process")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_keeps_the_weights(tmp_path: Path, number: signal.Signals, status: int) -> None:
    need_digits()
    result = interrupted("02_digits_from_scratch.py", tmp_path, number)
    assert result.status == status
    assert not any("Traceback" in line for line in result.err)
    assert any(re.fullmatch(r"stopped after \d+ of \d+ steps", line) for line in result.out)
    last_accuracy(result.out)
    assert (tmp_path / "digits.safetensors").stat().st_size > 30_000
    assert (tmp_path / "digits.png").exists()


def test_signal_handlers_are_put_back(run: Run, tmp_path: Path) -> None:
    need_digits()
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run("02_digits_from_scratch.py", "--epochs", 1, "--out", tmp_path)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_missing_package_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    need_digits()
    monkeypatch.setitem(sys.modules, "tqdm", None)
    status = run("02_digits_from_scratch.py").status
    assert isinstance(status, str)
    assert "tqdm" in status
    assert status.endswith("pip install 'tapegrad[examples]'")


@pytest.mark.parametrize("value", ["0", "-3", "many"])
def test_bad_epochs(run: Run, value: str) -> None:
    need_digits()
    result = run("02_digits_from_scratch.py", "--epochs", value)
    assert result.status == 2
    assert "--epochs" in result.err[-1]


# -- 03_logistic_regression.py -----------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "cuda", "torch:cpu"])
def test_optimisers_agree(run: Run, tmp_path: Path, device: str) -> None:
    need_scikit_learn()
    if not backends.is_available(device):
        pytest.skip(f"{device} is not available here")
    status, out, _ = run("03_logistic_regression.py", "--device", device, "--ridge", 0.05, "--out", tmp_path)
    assert status == 0
    assert out[-1].endswith("they agree")
    costs = {line.split()[0]: float(line.split()[-1]) for line in out if " iterations, " in line}
    assert costs.keys() == {"L-BFGS-B", "Newton-CG"}
    assert abs(costs["L-BFGS-B"] - costs["Newton-CG"]) < 1e-10
    right = [float(line.split()[1]) for line in out if " of the test tumours right" in line]
    assert len(right) == 3
    assert min(right) > 90
    assert (tmp_path / "logistic_regression.png").read_bytes().startswith(b"\x89PNG")


def test_a_fit_needs_no_matplotlib(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_scikit_learn()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run("03_logistic_regression.py", "--ridge", 0.1, "--out", tmp_path)
    assert result.status == 0
    assert "no picture: Matplotlib is not installed" in result.out
    assert list(tmp_path.iterdir()) == []


def test_a_ridge_that_is_not_positive(run: Run) -> None:
    need_scikit_learn()
    result = run("03_logistic_regression.py", "--ridge", 0)
    assert result.status == 2
    assert "--ridge" in result.err[-1]


# -- all --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["01_backpropagation.py", "03_logistic_regression.py", "02_digits_from_scratch.py"])
def test_an_unknown_device_is_one_line(run: Run, tmp_path: Path, name: str) -> None:
    if name == "02_digits_from_scratch.py":
        need_digits()
    elif name == "03_logistic_regression.py":
        need_scikit_learn()
    status, out, err = run(name, "--device", "abacus", "--out", tmp_path)
    assert status == 2
    assert out == []
    (line,) = err
    assert line.startswith(f"{name}: zeros: unknown device 'abacus'")


@pytest.mark.parametrize("name", ["01_backpropagation.py", "03_logistic_regression.py", "02_digits_from_scratch.py"])
def test_an_impossible_folder_is_one_line(run: Run, tmp_path: Path, name: str) -> None:
    if name == "02_digits_from_scratch.py":
        need_digits()
    elif name == "03_logistic_regression.py":
        need_scikit_learn()
    (tmp_path / "file").touch()
    status, _, err = run(name, "--out", tmp_path / "file")
    assert status == 2
    assert len(err) == 1


# -- the graph ---------------------------------------------------------------------------------------------


def test_graph_has_values_operations_and_edges() -> None:
    w = tg.tensor([1.0, 2.0], requires_grad=True)
    before = w * 1.0  # recorded, but no leaf
    c = tg.asarray([3.0, 4.0])
    with tg.Tape() as tape:
        y = tg.sum(before * c - w)
        with tg.no_grad():
            tg.exp(w)
    dot, mermaid = to_dot(tape, {"w": w, "c": c, "y": y}), to_mermaid(tape, {"w": w, "c": c, "y": y})
    for text in (dot, mermaid):
        assert text.count("requires grad") == 1
        assert "w, requires grad" in text
        assert "%1 = subtract(%0, w)" in text
        assert "y = sum(%1, (-1,))" in text
        assert "(2,) float64" in text
    assert "n0 -> n2;\n  n1 -> n2;\n" in dot
    assert "n0 --> n2\n  n1 --> n2\n" in mermaid
    (untracked,) = (line for line in dot.splitlines() if "dashed" in line)
    assert "exp(w)" in untracked
    assert ":::untracked" in mermaid


def test_graph_of_an_empty_tape() -> None:
    with tg.Tape() as tape:
        pass
    assert to_dot(tape).splitlines()[-1] == "}"
    assert to_mermaid(tape).startswith("flowchart TD\n")


def test_graph_of_several_results_and_one_operand_twice() -> None:
    x = tg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    with tg.Tape() as tape:
        a, b = tg.unstack(x)
        b * b + a
    dot = to_dot(tape)
    assert "%0.0, %0.1 = unstack(a" in dot
    assert dot.count("n1 -> n2;") == 2
    assert dot.count("n1 -> n3;") == 1


def test_labels_are_escaped() -> None:
    x = tg.asarray([1.0])
    with tg.Tape() as tape:
        x + 1.0
    name = 'a "b" \\N <i> & %% `\nc'
    assert r'label="a \"b\" \\N <i> &amp; %% ` c\n' in to_dot(tape, {name: x})
    assert '(["a #34;b#34; #92;N #60;i#62; #38; #37;#37; #96; c<br/>' in to_mermaid(tape, {name: x})


def test_long_labels_are_cut() -> None:
    x = tg.arange(500.0)
    with tg.Tape() as tape:
        x[tg.arange(400)]
    assert max(len(line) for line in to_dot(tape).splitlines()) < 200
