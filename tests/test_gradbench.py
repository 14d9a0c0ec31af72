"""Our tool for the suite GradBench: the protocol, and every module against values made without tapegrad."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from math import lgamma
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tapegrad as tg

ROOT = Path(__file__).parents[1]
Array = np.ndarray[Any, np.dtype[np.float64]]
Input = dict[str, Any]
QUICK: dict[str, Input] = {
    "saddle": {"start": [1e-6, 1e-6]},
    "particle": {"w": 0.20719},
}  # where the descents end at once


@pytest.fixture(autouse=True)
def _root_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def evaluate(module: str, function: str, given: Any, device: str = "cpu") -> Any:
    from benchmarks.gradbench.run import functions

    output, timings = functions(module)[function].evaluate(given, device)
    assert timings[-1]["name"] == "evaluate"
    return json.loads(json.dumps(output))


def tiny() -> dict[str, Input]:
    from benchmarks.gradbench._inputs import cases

    return {case.module: case.given for case in cases(True, None)} | QUICK


def slopes(f: Callable[[Array], Any], x: Array) -> Array:
    """Return the Jacobian of f by central differences: a column for each element of x."""
    columns = []
    for i in range(x.size):
        step = np.zeros(x.size)
        step[i] = 1e-6
        up, down = (np.asarray(f(x + s.reshape(x.shape))).ravel() for s in (step, -step))
        columns.append((up - down) / 2e-6)
    return np.stack(columns, axis=1)


def close(a: Any, b: Any, tolerance: float = 1e-7) -> None:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


# -- the protocol ----------------------------------------------------------------------------------------


def talk(lines: list[str], *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/gradbench/run.py", *options]
    return subprocess.run(
        command, cwd=ROOT, input="\n".join(lines), capture_output=True, text=True, check=False, timeout=600
    )


@pytest.mark.parametrize("options", [[], ["--compile"]])
def test_a_session_over_all_modules(options: list[str]) -> None:
    from benchmarks.gradbench import MODULES
    from benchmarks.gradbench.run import functions

    messages: list[Input] = [{"kind": "start", "eval": "all"}]
    inputs: dict[str, Any] = {"hello": 3.0} | tiny()
    for module in MODULES:
        messages.append({"kind": "define", "module": module})
        for function in ["rr"] if module in QUICK else functions(module):
            given = inputs[module]
            if isinstance(given, dict):
                given = given | {"min_runs": 2, "min_seconds": 0}
            messages.append({"kind": "evaluate", "module": module, "function": function, "input": given})
            messages.append({"kind": "analysis", "of": len(messages) - 1, "valid": True})
    done = talk([json.dumps({"id": i} | message) for i, message in enumerate(messages)], *options)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["id"] for answer in answers] == list(range(len(messages)))
    config = {"device": "cpu"} | ({"compile": True} if options else {})
    assert answers[0] == {"id": 0, "tool": "tapegrad", "config": config}
    for message, answer in zip(messages, answers, strict=True):
        if message["kind"] == "define":
            assert answer["success"] is True
        elif message["kind"] == "analysis":
            assert set(answer) == {"id"}
        elif message["kind"] == "evaluate":
            assert answer["success"] is True, answer["error"]
            wanted = evaluate(message["module"], message["function"], message["input"])
            if options:
                close(_flat(answer["output"]), _flat(wanted), 1e-12)
            else:
                assert answer["output"] == wanted
            names = [timing["name"] for timing in answer["timings"]]
            before = ["prepare", "compile"] if options else ["prepare"]
            assert names == before + ["evaluate"] * (1 if message["module"] == "hello" else 2)
            assert all(type(timing["nanoseconds"]) is int for timing in answer["timings"])


def test_a_program_serves_all_inputs_alike() -> None:
    from benchmarks.gradbench import kmeans, llsq
    from benchmarks.gradbench._compiled import Compiler
    from benchmarks.gradbench._inputs import kmeans as made_up

    compiler = Compiler(kept=2)
    compute = kmeans.FUNCTIONS["dir"].compute
    tasks = [kmeans.prepare(made_up(rng(), 2, n, 3), "cpu") for n in (6, 6, 7)]
    tasks[1] = kmeans.Task(*(2 * part + 1 for part in tasks[1]))
    compiled = [compiler("kmeans", compute, task) for task in tasks]
    assert compiled[0] is compiled[1] is not compiled[2]
    assert len(compiled[0].program) > 0  # type: ignore[attr-defined]
    for function, task in zip(compiled, tasks, strict=True):
        close(np.asarray(function(task)), np.asarray(compute(task)), 1e-12)
    assert compiler("kmeans", compute, tasks[0]) is compiled[0]
    compiler("llsq", llsq.FUNCTIONS["primal"].compute, llsq.prepare({"x": [1.0, 2.0], "n": 4}, "cpu"))
    assert compiler("kmeans", compute, tasks[2]) is not compiled[2]


def test_what_cannot_be_compiled_runs_eagerly(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.gradbench._compiled import NOT_COMPILED, Compiler
    from benchmarks.gradbench.run import functions

    def positive(x: tg.Tensor) -> bool:
        return bool(x > 0)

    compiler = Compiler()
    assert compiler("hello", positive, tg.asarray(1.0)) is positive
    assert "hello runs eagerly: " in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="needs the value of an array"):
        compiler("hello", positive, tg.asarray(1.0), refuse=RuntimeError)
    compute = functions("saddle")["rr"].compute
    assert compiler("saddle", compute, None) is compute
    with pytest.raises(RuntimeError, match="how many steps a descent takes"):
        compiler("saddle", compute, None, refuse=RuntimeError)
    for module, given in tiny().items():
        rule = NOT_COMPILED.get(module)
        task = next(iter(functions(module).values())).prepare(given, "cpu")
        assert (rule is not None and rule.when(task)) == (module in {"saddle", "particle", "ode"})


def test_what_the_tool_does_not_have_is_answered() -> None:
    from benchmarks.gradbench.run import respond

    def answer(**message: Any) -> Input:
        return respond(message, "cpu")

    assert answer(kind="define", module="nothing")["success"] is False
    assert "no module 'nothing'" in answer(kind="define", module="nothing")["error"]
    unknown = answer(kind="evaluate", module="lse", function="hessian", input={"x": [1.0]})
    assert unknown == {"success": False, "error": "module lse has no function 'hessian'; it has primal, gradient"}
    assert answer(kind="evaluate", module="nothing", function="f", input=0)["success"] is False
    assert answer(kind="define") == {"success": False, "error": "the message has no 'module'"}
    failed = answer(kind="evaluate", module="lse", function="primal", input={"x": "no numbers"})
    assert failed["success"] is False
    assert "Traceback" in failed["error"]
    assert answer(kind="something new") == {}


@pytest.mark.parametrize("line", ["{nonsense", "[1, 2]", '{"id": 3}'])
def test_a_line_that_is_no_message_ends_the_tool_and_says_why(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.gradbench.run import main

    monkeypatch.setattr(sys, "stdin", io.StringIO('{"id": 0, "kind": "start"}\n' + line + "\n"))
    assert main([]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["id"] == 0
    assert err.startswith("gradbench: line 2 is no")
    assert repr(line) in err


def test_min_seconds_asks_for_more_runs() -> None:
    from benchmarks.gradbench.run import functions

    _, timings = functions("lse")["primal"].evaluate({"x": [1.0, 2.0], "min_runs": 1, "min_seconds": 0.01}, "cpu")
    assert len(timings) > 3
    assert sum(t["nanoseconds"] for t in timings[1:]) >= 1e7


def test_the_table_is_made_without_a_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.gradbench.__main__ import main

    assert main(["--tiny", "--seconds", "0", "--out", str(tmp_path), "llsq", "ba", "ht"]) == 0
    assert capsys.readouterr().out == (tmp_path / "table.txt").read_text()
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["module"] for row in rows] == ["llsq", "ba", "ht"]
    assert all(row["milliseconds"]["tapegrad cpu"] > 0 for row in rows)


def test_the_table_has_a_compiled_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.gradbench.__main__ import _beside, main

    options = ["--tiny", "--compile", "--seconds", "0", "--out", str(tmp_path)]
    assert main([*options, "lse", "ode"]) == 0
    text = capsys.readouterr().out
    assert "tapegrad cpu  tapegrad cpu compiled" in text
    assert "- tapegrad cpu compiled: ode n=5, s=100: planning a program" in text
    assert (tmp_path / "results.png").exists() or "no chart" in text
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [len(row["milliseconds"]) for row in rows] == [2, 1]
    own = ["tapegrad cpu", "tapegrad cpu compiled"]
    assert _beside({own[0]: 4.0, own[1]: 1.0, "other": 2.0}, "other", own) == "2 (2x, 0.5x)"
    assert _beside({own[0]: 4.0, "other": 2.0}, "other", own) == "2 (2x, -)"


def test_any_device(place_device: str) -> None:
    from benchmarks.gradbench.run import functions

    for module, given in tiny().items():
        for name in ["rf"] if module in QUICK else functions(module):
            here, there = (evaluate(module, name, given, device) for device in ("cpu", place_device))
            close(_flat(there), _flat(here), 1e-9)


@pytest.fixture(params=["torch:cpu", "strict:device1"])
def place_device(request: pytest.FixtureRequest) -> str:
    device: str = request.param
    if not tg.backends.is_available(device):
        pytest.skip(f"{device} is not available here")
    return device


def _flat(tree: Any) -> list[float]:
    if isinstance(tree, dict):
        return [x for key in sorted(tree) for x in _flat(tree[key])]
    return [x for value in tree for x in _flat(value)] if isinstance(tree, list) else [float(tree)]


# -- the modules -----------------------------------------------------------------------------------------


def test_hello() -> None:
    assert evaluate("hello", "square", 3.0) == 9.0
    assert evaluate("hello", "double", 3.0) == 6.0


@pytest.mark.parametrize("m", [4, 5, 6, 128])
def test_llsq(m: int) -> None:
    x, t = rng().random(m), np.linspace(-1, 1, 9)
    powers = t[:, None] ** np.arange(m)
    error = np.sign(t) - powers @ x
    given = {"x": x.tolist(), "n": 9}
    close(evaluate("llsq", "primal", given), 0.5 * (error @ error))
    close(evaluate("llsq", "gradient", given), -powers.T @ error)


def test_lse() -> None:
    x = rng().normal(size=10)
    close(evaluate("lse", "primal", {"x": x.tolist()}), np.log(np.exp(x).sum()))
    close(evaluate("lse", "gradient", {"x": x.tolist()}), np.exp(x) / np.exp(x).sum())


def posterior(given: Input) -> float:
    """The definition: a product of sums of densities, and of densities of the precision matrices."""
    d, k, m, gamma = (given[name] for name in ("d", "k", "m", "gamma"))
    share = np.exp(given["alpha"]) / np.exp(given["alpha"]).sum()
    total, freedom = 0.0, d + m + 1
    precisions = []
    for q, low in zip(given["q"], given["l"], strict=True):
        triangle = np.diag(np.exp(q))
        triangle.T[np.triu_indices(d, 1)] = low  # column by column below the diagonal
        precisions.append(triangle.T @ triangle)
    for x in np.asarray(given["x"]):
        density = 0.0
        for c in range(k):
            away = x - np.asarray(given["mu"][c])
            scale = np.sqrt(np.linalg.det(precisions[c]) / (2 * np.pi) ** d)
            density += share[c] * scale * np.exp(-0.5 * away @ precisions[c] @ away)
        total += np.log(density)
    for p in precisions:
        log_gamma = d * (d - 1) / 4 * np.log(np.pi) + sum(lgamma((freedom - i) / 2) for i in range(d))
        total += 0.5 * m * np.log(np.linalg.det(p)) - 0.5 * gamma**2 * np.trace(p)
        total += freedom * d * np.log(gamma) - 0.5 * freedom * d * np.log(2) - log_gamma
    return float(total)


@pytest.mark.parametrize("m", [0, 2])
def test_gmm(m: int) -> None:
    from benchmarks.gradbench._inputs import gmm

    given = gmm(rng(), 3, 2, 4) | {"m": m, "gamma": 1.3}
    close(evaluate("gmm", "objective", given), posterior(given))
    gradient = evaluate("gmm", "jacobian", given)
    assert set(gradient) == {"alpha", "mu", "q", "l"}
    for name, found in gradient.items():
        x = np.asarray(given[name])
        wanted = slopes(lambda x, name=name: posterior(given | {name: x.tolist()}), x)  # type: ignore[misc]
        close(np.ravel(found), wanted[0], 1e-6)


def lstm_loss(main: Array, extra: Array, state: Array, text: Array) -> float:
    """Layer by layer, character by character."""

    def sigmoid(x: Array) -> Array:
        return 1 / (1 + np.exp(-x))

    b, state, total = text.shape[1], state.copy(), 0.0
    for now, after in pairwise(text):
        x = now * extra[0]
        for i in range(0, len(state), 2):
            (wf, wi, wo, wc), (bf, bi, bo, bc) = main[i].reshape(4, b), main[i + 1].reshape(4, b)
            hidden, cell = state[i], state[i + 1]
            cell = cell * sigmoid(x * wf + bf) + sigmoid(hidden * wi + bi) * np.tanh(hidden * wc + bc)
            state[i + 1] = cell
            x = state[i] = sigmoid(x * wo + bo) * np.tanh(cell)
        y = x * extra[1] + extra[2]
        total += after @ (y - np.log(2 + np.exp(y).sum()))
    return float(-total / text[1:].size)


@pytest.mark.parametrize(("layers", "c"), [(1, 4), (3, 5), (4, 3)])
def test_lstm(layers: int, c: int) -> None:
    from benchmarks.gradbench._inputs import lstm

    given = lstm(rng(), layers, c, bits=3)
    main, extra, state, text = (
        np.asarray(given[name]) for name in ("main_params", "extra_params", "state", "sequence")
    )
    close(evaluate("lstm", "objective", given), lstm_loss(main, extra, state, text))
    by_main = slopes(lambda x: lstm_loss(x, extra, state, text), main)
    by_extra = slopes(lambda x: lstm_loss(main, x, state, text), extra)
    close(evaluate("lstm", "jacobian", given), np.concatenate([by_main[0], by_extra[0]]), 1e-6)


def test_kmeans() -> None:
    from benchmarks.gradbench._inputs import kmeans

    given = kmeans(rng(), 3, 20, 2)
    points, centroids = np.asarray(given["points"]), np.asarray(given["centroids"])
    distances = ((points[:, None] - centroids) ** 2).sum(axis=2)
    close(evaluate("kmeans", "cost", given), distances.min(axis=1).sum())
    means = [points[distances.argmin(axis=1) == j].mean(axis=0) for j in range(3)]
    close(evaluate("kmeans", "dir", given), centroids - np.stack(means))


def test_ode() -> None:
    x, steps = rng().random(4), 3

    def solve(x: Array) -> Array:
        def f(y: Array) -> Array:
            z: Array = x * np.concatenate([[1.0], y[:-1]])
            return z

        y, h = np.zeros(4), 2 / steps
        for _ in range(steps):
            k1 = f(y)
            k2 = f(y + h * k1 / 2)
            k3 = f(y + h * k2 / 2)
            y = y + h * (k1 + 2 * k2 + 2 * k3 + f(y + h * k3)) / 6
        return y

    given = {"x": x.tolist(), "s": steps}
    close(evaluate("ode", "primal", given), solve(x))
    close(evaluate("ode", "gradient", given), slopes(solve, x)[-1], 1e-6)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_det(n: int) -> None:
    a = rng().random((n, n))
    given = {"A": a.ravel().tolist(), "ell": n}
    close(evaluate("det", "primal", given), np.linalg.det(a))
    close(evaluate("det", "gradient", given), (np.linalg.det(a) * np.linalg.inv(a).T).ravel())


def project(camera: Array, x: Array, weight: float, feature: Array) -> Array:
    angle = np.linalg.norm(camera[:3])
    a, b, c = camera[:3] / angle
    k = np.array([[0, -c, b], [c, 0, -a], [-b, a, 0]])
    turned = (np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k) @ (x - camera[3:6])
    flat = turned[:2] / turned[2]
    r = flat @ flat
    result: Array = weight * (flat * (1 + camera[9] * r + camera[10] * r * r) * camera[6] + camera[7:9] - feature)
    return result


def test_ba() -> None:
    """With cameras, points, weights and features that differ, unlike the suite's."""
    from benchmarks.gradbench.ba import Task, jacobian, objective

    n, m, p = 2, 3, 5
    random = rng()
    cameras, points = 0.3 * random.normal(size=(n, 11)), random.normal(size=(m, 3)) + [0, 0, 5]
    weights, features = random.random(p), random.normal(size=(p, 2))
    camera, point = np.arange(p) % n, np.arange(p) % m

    def flat_errors(z: Array) -> Array:
        cams, xs, ws = z[: 11 * n].reshape(n, 11), z[11 * n : 11 * n + 3 * m].reshape(m, 3), z[11 * n + 3 * m :]
        pairs = [project(cams[camera[i]], xs[point[i]], ws[i], features[i]) for i in range(p)]
        return np.concatenate([*pairs, 1 - ws**2])

    parts = (cameras.T, points.T, weights, camera, point, features.T)
    task = Task(*[tg.asarray(np.ascontiguousarray(part)) for part in parts])
    z = np.concatenate([cameras.ravel(), points.ravel(), weights])
    pairs, by_weight = objective(task)
    close(np.concatenate([np.asarray(pairs), np.asarray(by_weight)]), flat_errors(z))

    rows, cols, vals = (np.asarray(part) for part in jacobian(task))
    assert len(rows) == 3 * p + 1
    assert len(cols) == len(vals) == rows[-1] == 31 * p
    dense = np.zeros((3 * p, z.size))
    for i in range(3 * p):
        own = slice(rows[i], rows[i + 1])
        assert np.all(np.diff(cols[own]) > 0)
        dense[i, cols[own]] = vals[own]
    close(dense, slopes(flat_errors, z), 1e-5)


def test_ba_reports_what_the_suite_wants() -> None:
    from benchmarks.gradbench._inputs import ba

    given = ba(2, 3, 12)
    errors = evaluate("ba", "objective", given)
    camera, x, feature = (np.asarray(given[name]) for name in ("cam", "x", "feat"))
    close(errors["reproj_error"]["elements"], project(camera, x, given["w"], feature))
    assert errors["reproj_error"]["repeated"] == errors["w_err"]["repeated"] == 12
    close(errors["w_err"]["element"], 1 - given["w"] ** 2)
    assert all(len(part) == 31 for part in evaluate("ba", "jacobian", given).values())


def hand_errors(theta: Array, us: Array | None, given: Input) -> Array:
    """Bone by bone, vertex by vertex."""

    def turn(axis: int, angle: float) -> Array:
        matrix, (i, j) = np.eye(4), ((1, 2), (0, 1))[axis]
        matrix[[i, j], [i, j]] = np.cos(angle)
        matrix[j, i] = np.sin(angle)
        matrix[i, j] = -np.sin(angle)
        return matrix

    model = given["data"]["model"]
    frames: list[Array] = []
    for bone, parent in enumerate(model["parents"]):
        x = z = 0.0
        finger, joint = divmod(bone - 1, 4)
        if finger in range(5) and joint > 0:
            angles = theta[6 + 4 * finger :][:4]
            x = angles[(0, 0, 2, 3)[joint]]
            z = angles[1] if joint == 1 else 0.0
        own = np.asarray(model["base_relatives"][bone]) @ turn(1, z) @ turn(0, x)
        frames.append(own if parent < 0 else frames[parent] @ own)
    angle = np.linalg.norm(theta[:3])
    a, b, c = theta[:3] / angle
    k = np.array([[0, -c, b], [c, 0, -a], [-b, a, 0]])
    rotation = np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k
    placed = []
    for base, weights in zip(model["base_positions"], model["weights"], strict=True):
        moved = [
            weight * (frame @ np.asarray(rest) @ np.asarray(base))[:3]
            for frame, rest, weight in zip(frames, model["inverse_base_absolutes"], weights, strict=True)
        ]
        position = np.sum(moved, axis=0) * ([-1, 1, 1] if model["is_mirrored"] else 1)
        placed.append(rotation @ position + theta[3:6])
    off = []
    for i, (measured, found) in enumerate(zip(given["data"]["points"], given["data"]["correspondences"], strict=True)):
        if us is None:
            on = placed[found]
        else:
            corners = [placed[v] for v in model["triangles"][found]]
            on = us[i, 0] * corners[0] + us[i, 1] * corners[1] + (1 - us[i].sum()) * corners[2]
        off.append(np.asarray(measured) - on)
    return np.asarray(off)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("c", "vertices"), [(2, 7), (4, 5)])
@pytest.mark.parametrize("complicated", [False, True])
def test_ht(complicated: bool, c: int, vertices: int, mirrored: bool) -> None:
    from benchmarks.gradbench._inputs import ht

    given = ht(rng(), c, vertices, complicated)
    given["data"]["model"]["is_mirrored"] = mirrored
    theta = np.asarray(given["theta"])
    us = np.asarray(given["us"]) if complicated else None
    close(evaluate("ht", "objective", given), hand_errors(theta, us, given).ravel())
    wanted = slopes(lambda theta: hand_errors(theta, us, given), theta)
    if us is not None:
        by_us = [slopes(lambda shift: hand_errors(theta, us + shift, given), np.zeros(2))]
        wanted = np.concatenate([*by_us, wanted], axis=1)
    close(evaluate("ht", "jacobian", given), wanted, 1e-6)


def test_ht_without_a_rotation() -> None:
    from benchmarks.gradbench._inputs import ht

    given = ht(rng(), 2, 4)
    given["theta"][:3] = [0.0, 0.0, 0.0]
    wanted = hand_errors(np.asarray([1e-9, 0.0, 0.0, *given["theta"][3:]]), np.asarray(given["us"]), given)
    close(evaluate("ht", "objective", given), wanted.ravel())


@pytest.mark.parametrize("modes", ["ff", "fr", "rf", "rr"])
def test_saddle_and_particle(modes: str) -> None:
    from benchmarks.gradbench import _descent, particle, saddle

    outer, inner = (_descent.MODES[mode] for mode in modes)
    close(evaluate("saddle", modes, QUICK["saddle"]), [1e-6] * 4)
    # Descent of a bowl, and the derivative of a maximum that is itself found by descent.
    bowl = _descent.argmin(lambda x: tg.sum((x - 0.5) ** 2), tg.asarray([3.0, -2.0]), outer)
    close(np.asarray(bowl), [0.5, 0.5], 1e-4)
    start = tg.asarray([1e-6, 1e-6])
    value, slope = outer(lambda x: saddle.f(x, _descent.argmax(lambda y: saddle.f(x, y), start, inner)))(
        tg.asarray([1.0, 2.0])
    )
    close(value.item(), 5.0)
    close(np.asarray(slope), [2.0, 4.0])

    close(evaluate("particle", modes, QUICK["particle"]), QUICK["particle"]["w"])
    value, slope = outer(lambda w: particle.landing(w, inner))(tg.asarray(0.3))
    close(value.item(), landing(0.3))
    close(slope.item(), slopes(lambda w: landing(float(w[0])), np.asarray([0.3]))[0, 0], 1e-6)


def landing(w: float) -> float:
    charges = np.asarray([[10.0, 10.0 - w], [10.0, 0.0]])
    x, speed = np.asarray([0.0, 8.0]), np.asarray([0.75, 0.0])
    while x[1] + 0.1 * speed[1] > 0:
        apart = x - charges
        pull = (apart / np.linalg.norm(apart, axis=1, keepdims=True) ** 3).sum(axis=0)
        x, speed = x + 0.1 * speed, speed + 0.1 * pull
    return float((x[0] - x[1] / speed[1] * speed[0]) ** 2)


@pytest.mark.slow
def test_what_the_suite_expects_of_saddle_and_particle() -> None:
    close(evaluate("saddle", "rr", {"start": [1.0, 1.0]}), [8.246324826140356e-06] * 4, 1e-9)
    close(evaluate("particle", "rr", {"w": 0.0}), 0.2071918746486116, 1e-9)
