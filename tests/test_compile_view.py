"""Programs of compiled functions as text, as pictures and with times."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad._compile.costs import flops_of
from tapegrad._compile.display import View
from tapegrad._program.ir import Node, Program, Run, Value


def step_of(xp: Place) -> tuple[Any, tg.Tensor]:
    """Return a compiled training step that was called three times, and its parameter."""
    w = xp.tensor(np.ones((3, 2)), requires_grad=True)

    @tg.compile
    def step(x: Any, labels: Any) -> Any:
        w.grad = None
        loss = tg.cross_entropy(tg.tanh(x @ w), labels)
        loss.backward()
        assert w.grad is not None
        with tg.no_grad():
            w[...] = w - 0.123456789 * w.grad
        return loss.detach()

    for _ in range(4):
        step(xp.tensor(np.ones((4, 3))), xp.tensor(np.asarray([0, 1, 1, 0])))
    return step, w


def test_table(xp: Place) -> None:
    step, w = step_of(xp)
    size = 8 if xp.double else 4
    lines = str(step.program).splitlines()
    assert lines[0].split() == ["operation", "shape", "dtype", "bytes", "FLOP", "line"]
    assert [line.split()[0] for line in lines[2:5]] == ["x0", "x1", "w0"]
    assert lines[5].split()[:3] == ["%0", "matmul(x0,", "w0)"]
    assert f"{(12 + 6 + 8) * size} B" in lines[5]
    assert lines[5].split()[-2] == str(2 * 4 * 3 * 2)
    assert lines[5].split()[-1].startswith("test_compile_view.py:")
    assert "multiply(0.123457, " in str(step.program)
    assert any(line.split()[0].startswith("refuse(%") for line in lines)
    assert " operations, " in lines[-2]
    assert lines[-1].startswith("w0 = %")
    assert "w0.grad = %" in lines[-1]
    assert ", result = %" in lines[-1]
    assert "matmul(x0, weights)" in step.program.table({"weights": w})
    assert step.program is step.program
    assert len(step.program) == len(step.program.nodes)
    assert "program of " in repr(step.program)


def test_every_dtype_and_static_argument_is_named(xp: Place) -> None:
    compiled = tg.compile(lambda x: tg.sum(tg.astype(x[..., ::2, None] > 0, tg.float32), axis=1))
    for _ in range(4):
        compiled(xp.tensor(np.ones((2, 4))))
    text = str(compiled.program)
    assert "axis=(-2,)" in text
    assert "index_get(x0, (:, 0:4:2, None))" in text
    assert ", float32)" in text
    assert "array()" not in text


def test_profile_times_every_item_and_changes_nothing(xp: Place) -> None:
    step, w = step_of(xp)
    before, grad, array = xp.values(w), w.grad, w._array
    x, labels = xp.tensor(np.ones((4, 3))), xp.tensor(np.asarray([0, 1, 1, 0]))
    shown = step.program.profile(x, labels)
    assert shown is step.program
    assert len(shown.seconds) == len(shown.items)
    assert all(s > 0 for s in shown.seconds)
    assert w._array is array
    assert w.grad is grad
    np.testing.assert_array_equal(xp.values(w), before)
    head, *_, totals, _ = str(shown).splitlines()
    assert head.split()[3:] == ["bytes", "FLOP", "ms", "GB/s", "GFLOP/s", "line"]
    assert " ms one by one" in totals


def test_profile_takes_the_arguments_of_a_call() -> None:
    step, _ = step_of(Place("cpu"))
    for args in ((), (tg.ones((4, 3)),), (tg.ones((5, 3)), tg.asarray([0, 1, 1, 0])), (1.0, 2.0)):
        with pytest.raises(ValueError, match=r"pass the arguments of a call .* takes \(4, 3\) float64"):
            step.program.profile(*args)


def test_a_bad_value_is_refused_when_profiling() -> None:
    step, _ = step_of(Place("cpu"))
    with pytest.raises(ValueError, match="label is out of range"):
        step.program.profile(tg.ones((4, 3)), tg.asarray([0, 1, 7, 0]))


def test_pictures() -> None:
    step, w = step_of(Place("cpu"))
    for text, arrow in (
        (step.program.to_dot({"w": w}), "n0 -> n3"),
        (step.program.to_mermaid({"w": w}), "n0 --> n3"),
    ):
        assert arrow in text
        assert "%0 = matmul(x0, w)" in text
        assert text.count("w.grad") == 1  # a result
    assert "fde7b0" in step.program.to_dot()


def fused() -> View:
    """Return a program whose first two calls are fused."""
    x = Value((3,), np.dtype(np.float64))
    one = Node("exp", np.exp, (x,), {}, "here.py:1")
    one.outs = (Value((3,), x.dtype, one),)
    two = Node("multiply", np.multiply, (one.out, 2.0), {}, "here.py:2")
    two.outs = (Value((3,), x.dtype, two),)
    three = Node("sum", np.sum, (two.out,), {}, "here.py:3")
    three.outs = (Value((), x.dtype, three),)

    run = Run((3,))
    run.nodes, run.ins, run.outs = [one, two], (x,), (two.out,)
    return View(Program([x], [run, three], [three.out]))


def test_what_is_fused_is_one_item() -> None:
    lines = str(fused()).splitlines()
    assert lines[2:7] == [
        "x0    input                (3,)   float64",
        "%1    run(x0)                              48 B   6",
        "  %0    exp(x0)            (3,)   float64               here.py:1",
        "  %1    multiply(%0, 2.0)  (3,)   float64               here.py:2",
        "%2    sum(%1)              ()     float64  32 B   3     here.py:3",
    ]
    assert lines[-2] == "2 items, 3 operations, 80 B read and written, 9 FLOP"
    assert lines[-1] == "result 0 = %2"
    assert len(fused()) == 3


def test_what_is_fused_is_in_a_box() -> None:
    dot, mermaid = fused().to_dot(), fused().to_mermaid()
    assert 'subgraph cluster_1 { label="run (0)";' in dot
    assert dot.count("{") == dot.count("}") == 2
    assert 'subgraph g1["run (0)"]' in mermaid
    assert mermaid.splitlines().count("  end") == 1


def test_what_numpy_plans_is_shown_and_timed_as_planned() -> None:
    w = tg.tensor(np.linspace(0.0, 1.0, 100_000), requires_grad=True)

    @tg.compile
    def step(x: Any) -> Any:
        w.grad = None
        loss = tg.sum(tg.gelu(w * x) * 2.0)
        loss.backward()
        return loss.detach()

    x = tg.ones(100_000)
    for _ in range(4):
        step(x)
    view = step.program
    assert len(view.items) < len(view.nodes)
    before = np.asarray(w.grad)
    text = str(view.profile(x))
    assert "run(w0, x0" in text
    assert "w0.grad = %" in text
    assert "a constant" not in text
    np.testing.assert_array_equal(np.asarray(w.grad), before)
    assert "subgraph cluster_" in view.to_dot()


@pytest.mark.parametrize(
    ("f", "shapes", "flops"),
    [
        (lambda a, b: a @ b, ((5, 2, 3), (3, 4)), 2 * 5 * 2 * 3 * 4),
        (lambda a, b: tg.tensordot(a, b, axes=1), ((2, 3), (3, 4)), 2 * 2 * 3 * 4),
        (lambda a, b: tg.vecdot(a, b), ((2, 3), (2, 3)), 2 * 2 * 3),
        (lambda a, b: a * b, ((2, 3), (3,)), 6),
        (lambda a, b: tg.sum(a, axis=0) + b, ((2, 3), (3,)), 6 + 3),
        (lambda a, b: tg.concat([a, b]), ((2, 3), (2, 3)), 0),
        (lambda q, k: tg.attention(q, k, k), ((2, 5, 3), (4, 3)), 2 * 2 * 5 * 4 * (3 + 3)),
    ],
)
def test_flops(f: Any, shapes: Any, flops: int) -> None:
    compiled = tg.compile(f)
    for _ in range(3):
        compiled(*map(tg.ones, shapes))
    assert sum(flops_of(n) or 0 for n in compiled.program.nodes) == flops


def test_flops_of_a_decomposition_are_not_known() -> None:
    compiled = tg.compile(tg.linalg.eigvalsh)
    for _ in range(3):
        compiled(tg.eye(3))
    assert " - " in str(compiled.program)
