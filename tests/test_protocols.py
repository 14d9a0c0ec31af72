"""Properties and Python's protocols of a Tensor, on every place, and on a library that has no adapter of its own."""

from __future__ import annotations

import copy
import math
import operator
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg

VALUES = np.asarray([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
Make = Callable[..., tg.Tensor]


def host(x: Any) -> Any:
    return np.asarray(x.detach().to_device("cpu"))


def same(x: Any, expected: Any) -> None:
    np.testing.assert_array_equal(host(x), expected)


def dask(data: Any, requires_grad: bool = False) -> tg.Tensor:
    da = pytest.importorskip("dask.array")
    return tg.tensor(da.from_array(np.asarray(data), chunks=2), requires_grad=requires_grad)


def check(make: Make, device: str) -> None:
    """Assert that all of a Tensor's properties and protocols give the right answers."""
    x, one, whole, leaf = make(VALUES), make(2.5), make(np.asarray(3)), make(VALUES, requires_grad=True)
    assert (x.shape, x.ndim, x.size, x.device) == ((2, 3), 2, 6, device)
    assert (one.shape, one.ndim, one.size, one.device) == ((), 0, 1, device)
    assert x.dtype in (tg.float64, tg.float32)
    assert not x.requires_grad
    assert x.is_leaf
    assert x.grad is None
    for y in (x.T, x.mT, x.detach().mT):
        same(y, VALUES.T)
        assert y.device == device
    with pytest.raises(ValueError, match="two axes|2 axes|axes"):
        _ = one.T

    for text in (repr(x), str(x), f"{x}", f"{leaf * 1.0}"):
        assert text.startswith("Tensor([[1., 2., 3.]")
        assert ("device" in text) is (device != "cpu")
    assert f"{one:.2f}" == "2.50"
    with pytest.raises(TypeError, match="format"):
        _ = f"{x:.2f}"

    assert len(x) == 2
    with pytest.raises(TypeError, match="len"):
        len(one)
    rows = list(x)
    assert len(rows) == 2
    same(rows[1], VALUES[1])
    with pytest.raises(TypeError):
        iter(one)
    same(next(reversed(x)), VALUES[1])
    assert bool(one)
    assert not make(0.0)
    with pytest.raises(ValueError, match="6 elements"):
        bool(x)
    assert (float(one), int(one), complex(one), one.item()) == (2.5, 2, 2.5 + 0j, 2.5)
    assert (round(one), math.floor(one), math.ceil(one), math.trunc(one)) == (2, 2, 3, 2)
    assert operator.index(whole) == 3
    assert [10, 20, 30, 40][whole] == 40
    with pytest.raises(TypeError, match="integers"):
        operator.index(one)
    assert x.tolist() == VALUES.tolist()
    np.testing.assert_array_equal(np.asarray(x), VALUES)

    same(x == x, np.ones((2, 3)))
    same(x != x, np.zeros((2, 3)))
    same(x < 3.0, VALUES < 3)
    assert hash(x) != hash(leaf)
    assert {x: 1}[x] == 1
    assert (x in [x], x[0, 0] in [one]) == (True, False)

    for made in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x)), x.to_device(device), +x):
        same(made, VALUES)
        assert (made.device, made.dtype, made.requires_grad) == (device, x.dtype, False)
    for made in (copy.copy(leaf), copy.deepcopy(leaf), pickle.loads(pickle.dumps(leaf))):
        assert made.requires_grad
        assert made.is_leaf
    assert x.to_device("cpu").device == "cpu"
    tg.sum(leaf * leaf[0]).backward()
    assert leaf.grad is not None
    same(leaf.grad, VALUES[0] + np.asarray([[5.0, 7.0, 9.0], [0.0, 0.0, 0.0]]))
    assert leaf.grad.device == device
    assert type(tg.asarray(x.array)) is tg.Tensor
    assert x.__array_namespace__() is tg


def test_everywhere(xp: Place) -> None:
    check(xp.tensor, tg.zeros((), device=xp.device).device)


def test_a_library_without_an_adapter() -> None:
    check(dask, "dask:cpu")
    for export in (np.from_dlpack, lambda x: x.__dlpack__(), lambda x: x.__dlpack_device__()):
        with pytest.raises(BufferError, match=r"no DLPack export.*x.to_device\('cpu'\)"):
            export(dask(VALUES))
    assert tg.zeros(2, device="dask:cpu").device == "dask:cpu"  # once it has been met
    assert tg.zeros_like(dask(VALUES)).device == "dask:cpu"


def test_a_library_without_an_adapter_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps(dask(VALUES, requires_grad=True)))
    script = f"import pickle; x = pickle.load(open({str(path)!r}, 'rb')); print(x.device, x.requires_grad, x.tolist())"
    root = str(Path(tg.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={"PYTHONPATH": root}, timeout=600
    )
    assert run.stdout.strip() == f"dask:cpu True {VALUES.tolist()}", run.stderr
