"""Checks on a CUDA device: noted by kernels, raised when the host next waits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from places import why_not

import tapegrad as tg
from tapegrad import backends

if why := why_not("cuda"):
    pytest.skip(why, allow_module_level=True)

import cupy

from tapegrad.backends._cupy import deferred_checks as checks

WAITS: dict[str, Callable[[tg.Tensor], object]] = {
    "item": lambda x: tg.sum(x).item(),
    "synchronize": lambda x: backends.load("cuda").synchronize(x._array),
    "bool": lambda x: bool(tg.sum(x) > 0),
    "to_device": lambda x: x.to_device("cpu"),
}
MESSAGE = "cross_entropy: a label is out of range: with 3 classes they are 0 to 2"


def on_device(values: Any) -> tg.Tensor:
    return tg.tensor(np.asarray(values), device="cuda")


@pytest.mark.parametrize("bad", [-1, 3, 300])
@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint64"])
@pytest.mark.parametrize("wait", WAITS)
def test_a_bad_label_is_reported_at_the_next_wait(bad: int, dtype: str, wait: str) -> None:
    if bad not in range(*(np.iinfo(dtype).min, np.iinfo(dtype).max)):
        pytest.skip("no such number")
    x = on_device(np.zeros((2, 3)))
    tg.cross_entropy(x, on_device(np.asarray([0, bad], dtype)))
    with pytest.raises(ValueError, match=MESSAGE) as raised:
        WAITS[wait](x)
    first, second = raised.value.__notes__
    assert first.startswith("labels of the call at test_cupy_checks.py:")
    assert "tapegrad.debug() raises it at once" in second
    assert tg.sum(x).item() == 0  # once


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint64"])
@pytest.mark.parametrize(
    "shape",
    [(3,), (1, 3), (2, 3), (300, 3), (5, 4, 3), (3, 1 << 18), (0, 3)],
    ids=lambda shape: "x".join(map(str, shape)),
)
def test_one_bad_label_among_many(shape: tuple[int, ...], dtype: str, device: str) -> None:
    """The first call of a shape and the next ones, in kernels of any form, of losses and of gradients."""
    if cupy.cuda.runtime.getDeviceCount() <= int(device[-1]):
        pytest.skip("no second device")
    classes = shape[-1]
    x = tg.zeros(shape, device=device)
    labels = np.zeros(shape[:-1], dtype)
    good = tg.tensor(labels, device=device)
    if labels.size:
        labels[(-1,) * labels.ndim] = min(classes, np.iinfo(dtype).max)
    bad = tg.tensor(labels, device=device)
    for f in (tg.cross_entropy, tg.grad(tg.cross_entropy)):
        for given, wrong in ((good, False), (bad, True), (bad, True), (good, False)):
            y = f(x, given)
            if wrong and 0 not in shape and classes <= np.iinfo(dtype).max:
                with pytest.raises(ValueError, match=f"with {classes} classes they are 0 to {classes - 1}"):
                    y.tolist()
            y.tolist()


def test_a_tape_lists_operands_alone() -> None:
    x, labels = on_device(np.zeros((2, 3))), on_device([0, 3])
    with tg.Tape() as tape:
        loss = tg.cross_entropy(x, labels)
    assert "cross_entropy  a, b " in str(tape)
    with pytest.raises(ValueError, match=MESSAGE):
        loss.item()


def test_good_labels_raise_nothing() -> None:
    x = on_device(np.zeros((2, 3)))
    tg.cross_entropy(x, on_device([0, 2]))
    assert tg.sum(x).item() == 0


def test_debug_reports_at_once() -> None:
    x, labels = on_device(np.zeros((2, 3))), on_device([0, 3])
    with tg.debug(), pytest.raises(ValueError, match=MESSAGE):
        tg.cross_entropy(x, labels)
    with tg.debug(), pytest.raises(ValueError, match=MESSAGE):
        tg.vmap(tg.cross_entropy, in_axes=(None, 0))(x, tg.stack([labels, labels]))


def test_two_errors_are_reported_one_by_one() -> None:
    x = on_device(np.zeros((2, 3)))
    tg.cross_entropy(x, on_device([0, 3]))
    tg.cross_entropy(on_device(np.zeros((2, 5))), on_device([0, 9]))
    with pytest.raises(ValueError, match="with 3 classes"):
        tg.sum(x).item()
    with pytest.raises(ValueError, match="with 5 classes"):
        tg.sum(x).item()
    assert tg.sum(x).item() == 0


def failed(i: int) -> Exception:
    return ArithmeticError(f"check {i}")


def test_memory_is_bounded() -> None:
    checks._tables.clear()
    wrong, right = cupy.asarray([True, False]), cupy.asarray([False])
    for _ in range(3 * checks.MOST):  # one check again and again
        checks.defer(right, partial(failed, -1))
    for i in range(1, checks.MOST):  # different ones, as many as there is room for
        checks.defer(wrong if i == 7 else right, partial(failed, i))
    with pytest.raises(ArithmeticError, match="check 7"):
        checks.defer(right, partial(failed, 0))  # one more: the host waits
    assert len(checks._tables[0].numbers) <= checks.MOST
    checks.report(0)


def test_another_stream_is_reported_when_it_has_been_waited_for() -> None:
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        checks.defer(cupy.asarray([False]), partial(failed, 1))
    checks.report(0)
    table = checks._tables[0].flags
    table._host[checks._tables[0].numbers[failed, (1,)]] = 1  # as a kernel that ends only now
    with stream, pytest.raises(ArithmeticError, match="check 1"):
        checks.report(0)
    with stream:
        checks.report(0)


def test_flags_of_a_graph_stay_until_they_are_reported() -> None:
    flags = checks.Flags(2, [partial(failed, 0), partial(failed, 1)])
    wrong = cupy.asarray([False, True])
    flags.note(1, wrong)
    cupy.cuda.get_current_stream().synchronize()
    with pytest.raises(ArithmeticError, match="check 1"):
        flags.raise_first()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        flags.note(1, wrong)
        graph = stream.end_capture()
    graph.launch(cupy.cuda.get_current_stream())
    flags.launched()
    wrong[...] = False
    graph.launch(cupy.cuda.get_current_stream())  # does not take it back
    flags.launched()
    del flags  # launched checks are reported all the same
    with pytest.raises(ArithmeticError, match="check 1"):
        tg.asarray(wrong).tolist()
    checks.report(0)
