"""Kernels that compiled programs on CuPy become: which operations are computed together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from places import why_not

import tapegrad as tg

if why := why_not("cuda"):
    pytest.skip(why, allow_module_level=True)

from tapegrad.backends._cupy.codegen.row_schedule import Form
from tapegrad.backends._cupy.executor import kernel_groups
from tapegrad.backends._cupy.executor.executor import Executor


def on_device(array: Any) -> Any:
    return tg.asarray(array, device="cuda")


def host(x: Any) -> Any:
    return np.asarray(x.to_device("cpu"), np.float64)


def in_rows(executor: Executor) -> list[Any]:
    """Return the operations of a plan's kernels over rows."""
    assert executor._plan is not None
    return [group.rows for group in executor._plan.groups if isinstance(group, kernel_groups.RowGroup)]


def checked(function: Any, *args: Any, tolerance: float = 2e-5) -> None:
    """Compare a compiled function with the eager one."""
    compiled = tg.compile(function)
    expected = [host(x) for x in function(*args)]
    for _ in range(4):
        for a, b in zip(compiled(*args), expected, strict=True):
            np.testing.assert_allclose(host(a), b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("classes", "form"), [(11, Form.REGISTERS), (1000, Form.REGISTERS), (50257, Form.STREAM)])
def test_cross_entropy_and_its_gradient_are_one_kernel(executors: list[Executor], classes: int, form: Form) -> None:
    rng = np.random.default_rng(0)
    x = on_device(rng.normal(size=(8, 4)).astype(np.float32))
    w = on_device(rng.normal(size=(4, classes)).astype(np.float32))
    bias = on_device(rng.normal(size=classes).astype(np.float32))
    labels = on_device(rng.integers(0, classes, 8))

    def step(x: Any, w: Any, bias: Any, labels: Any) -> Any:
        loss, pull = tg.vjp(lambda w, bias: tg.cross_entropy(x @ w + bias, labels), w, bias)
        return (loss, *pull(tg.ones_like(loss)))

    checked(step, x, w, bias, labels)
    softmax, *others = in_rows(executors[-1])
    operations = [n.op for n in softmax.nodes]
    assert softmax.grid.form is form
    assert {"add", "max", "exp", "take_along_axis", "log", "equal", "multiply"} <= set(operations)
    assert sum(n.outs[0].size == 1 for n in softmax.totals) == 1  # the loss
    if form is Form.STREAM:
        assert softmax.passes.turns == 2  # over the logits: maximum and sum at once, then the gradient
        assert [n.op for run in others for n in run.nodes] == ["sum"]  # of the bias
        assert others[0].grid.form is Form.TILES
    else:
        assert not others


def test_long_rows_of_layer_norm_are_one_kernel(executors: list[Executor]) -> None:
    rng = np.random.default_rng(0)
    x, gain = (on_device(rng.normal(size=shape).astype(np.float32)) for shape in ((8, 20001), (20001,)))

    def norm(x: Any, gain: Any) -> Any:
        centred = x - tg.mean(x, axis=-1, keepdims=True)
        return (centred / tg.sqrt(tg.mean(centred * centred, axis=-1, keepdims=True) + 1e-5) * gain,)

    checked(norm, x, gain)
    (run,) = in_rows(executors[-1])
    assert run.grid.form is Form.STREAM
    assert run.passes.turns == 3


def test_state_over_which_a_row_is_written(executors: list[Executor]) -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(size=(8, 64)).astype(np.float32)
    w = on_device(start)

    @tg.compile
    def step(x: Any) -> Any:
        w[...] = w - 0.5 * tg.softmax(w * x, axis=-1)
        return tg.sum(w)

    x, expected = on_device(np.float32(2.0)), start.astype(np.float64)
    for _ in range(6):
        step(x)
        e = np.exp(2 * expected - (2 * expected).max(axis=-1, keepdims=True))
        expected = expected - 0.5 * e / e.sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(host(w), expected, rtol=1e-4, atol=1e-5)
    plan = executors[-1]._plan
    assert plan is not None
    assert len(plan.overwritten) == 1  # written over, not copied
    pairs = plan.overwritten.items()
    assert [run.overwrites(old, new) for run in in_rows(executors[-1]) for new, old in pairs] == [True]
