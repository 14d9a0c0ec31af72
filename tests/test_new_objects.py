"""No function returns a Tensor object that it was given: an in-place update of a result leaves the operands alone."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad._engine.tree import flatten

SPACES = {"": tg, "linalg.": tg.linalg, "fft.": tg.fft, "special.": tg.special}
NAMES = [
    prefix + name
    for prefix, space in SPACES.items()
    for name in getattr(space, "__all__", dir(space))
    if not name.startswith("_") and inspect.isfunction(getattr(space, name)) and name != "broadcast_shapes"
]
# A leaf that requires a gradient stays that leaf: writing to it raises while recording.
CONVERSIONS = ("asarray", "astype", "from_dlpack")
MORE: list[tuple[Any, ...]] = [
    *[(), (0,), (1,), ((),), ((0, 1),), ((2, 2),)],
    *[(None, None), (-9.0, 9.0), (tg.float64,), ("cpu",)],
]
OPTIONS: list[dict[str, Any]] = [
    {},
    *[{"axis": axis} for axis in ((), None, 0, -1)],
    *[{"copy": copy} for copy in (None, False)],
    {"axis": (), "keepdims": True},
    {"axis": (), "correction": 1},
    {"axes": ()},
    {"axes": (0, 1)},
    {"dtype": None},
    {"dtype": tg.float64},
    {"device": "cpu"},
    {"shift": 0, "axis": 0},
    {"min": None},
    {"indexing": "ij"},
]


def operands(kind: str) -> Iterator[tg.Tensor]:
    for values in ([[1.0, 2.0], [3.0, 4.0]], [1.0, 2.0], 2.0, [[3.0]], [[[0.5, 2.0]]]):
        x = tg.tensor(values, requires_grad=kind != "constant")
        yield x * 1.0 if kind == "result" else x
    if kind == "constant":
        yield tg.zeros(0)
        yield from (tg.asarray([1, 0]), tg.asarray(3), tg.asarray([True, False]), tg.asarray([1.0 + 2.0j, 3.0]))


def results(f: Any, x: tg.Tensor) -> Iterator[Any]:
    """Yield the result of a function for each way to call it that it takes."""
    for more in (*MORE, (x,), (x, x)):
        for options in OPTIONS:
            if f in (tg.asarray, tg.from_dlpack) and options.get("copy") is False:
                continue  # the Tensor itself, as asked
            for first in (x, [x], [x, x]):
                try:
                    yield f(first, *more, **options)
                except Exception:  # most ways are not this function's
                    continue


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["constant", "leaf", "result"])
@pytest.mark.parametrize("name", NAMES)
def test_results_are_other_tensors(name: str, kind: str) -> None:
    if name in CONVERSIONS and kind == "leaf":
        pytest.skip("a leaf that needs no conversion stays the leaf")
    prefix, _, last = name.rpartition(".")
    f = getattr(SPACES[f"{prefix}." if prefix else ""], last)
    for x in operands(kind):
        for y in results(f, x):
            assert not any(v is x for v in flatten(y)[0])


@pytest.mark.parametrize("kind", ["constant", "result"])
def test_methods_give_other_tensors(kind: str) -> None:
    x = next(operands(kind))
    found = [
        x.to_device("cpu"),
        x[...],
        x[:],
        x[()],
        x[:, :],
        +x,
        abs(x),
        x + 0,
        x * 1,
        x**1,
        x.detach(),
        *x,
        x.mT,
        x.T,
    ]
    assert all(y is not x for y in found)


def test_a_conversion_of_nothing(xp: Place) -> None:
    x = xp.tensor([1.0, 2.0])
    for y in (tg.asarray(x), x.to_device(x.device), tg.astype(x, x.dtype, copy=False)):
        assert y is not x
        assert y._array is x._array  # no copy is made until one of them is written to
        with pytest.warns(RuntimeWarning, match="NumPy would change that one too"):
            y += 1.0
        xp.check(x, [1.0, 2.0])
    assert tg.asarray(x, copy=False) is x
    leaf = xp.tensor([1.0, 2.0], requires_grad=True)
    tg.sum(tg.asarray(leaf) * leaf.to_device(leaf.device)).backward()
    xp.check(leaf.grad, [2.0, 4.0])
    assert tg.asarray(leaf) is leaf
    recorded = leaf * 2.0
    y = tg.asarray(recorded)
    with pytest.warns(RuntimeWarning, match="NumPy would change that one too"):
        y *= recorded
    xp.check(tg.grad(lambda v: tg.sum(tg.clip(v).__imul__(v)))(recorded), [4.0, 8.0], 1e-6)
    np.testing.assert_allclose(xp.values(y), [4.0, 16.0])
