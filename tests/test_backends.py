"""Devices, settings, moving between libraries, and duties of an adapter."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad import backends
from tapegrad._protocols import numpy_protocols


def test_creation_follows_the_default_device(xp: Place) -> None:
    name = tg.zeros(1).device
    makers = [
        tg.zeros(2),
        tg.ones(2),
        tg.empty(2),
        tg.full(2, 3.0),
        tg.arange(2),
        tg.linspace(0.0, 1.0, 3),
        tg.eye(2),
        tg.asarray([1.0]),
        tg.tensor([1.0]),
        tg.zeros_like(xp.tensor([1.0])),
        tg.one_hot(tg.asarray([0, 1]), 2),
    ]
    assert {x.device for x in makers} == {name}
    assert name.startswith(xp.device.partition(":")[0])


def test_creation_values(xp: Place) -> None:
    xp.check(tg.arange(1, 7, 2), [1, 3, 5])
    xp.check(tg.arange(0.0, 1.0, 0.25), [0.0, 0.25, 0.5, 0.75])
    xp.check(tg.linspace(0.0, 1.0, 4, endpoint=False), [0.0, 0.25, 0.5, 0.75])
    xp.check(tg.eye(2, 3, k=1), [[0, 1, 0], [0, 0, 1]])
    xp.check(tg.full((2, 1), 7), [[7], [7]])
    xp.check(tg.full_like(xp.tensor([1.0, 2.0]), 3), [3.0, 3.0])
    xp.check(tg.ones_like(xp.tensor([1.0])), [1.0])
    assert tg.empty_like(xp.tensor([1.0])).shape == (1,)
    assert tg.full(1, True).dtype is tg.bool
    assert tg.full(1, 1).dtype in (tg.int64, tg.int32)
    xs = tg.meshgrid(tg.arange(2), tg.arange(3))
    np.testing.assert_array_equal(xp.values(xs[0]), np.meshgrid(np.arange(2), np.arange(3))[0])


def test_the_default_float_is_one_thing_on_all_devices(xp: Place) -> None:
    expected = tg.float64 if xp.double else tg.float32
    assert tg.zeros(1).dtype is tg.asarray([1.0]).dtype is tg.linspace(0.0, 1.0, 2).dtype is expected
    with tg.default_dtype(tg.float32):
        assert tg.zeros(1).dtype is tg.asarray([1.0]).dtype is tg.tensor(1.0).dtype is tg.float32
        assert tg.asarray([1]).dtype in (tg.int64, tg.int32)
    assert tg.tensor(1.0).dtype is expected


def test_python_and_numpy_scalars_are_weak(xp: Place) -> None:
    x = tg.astype(xp.tensor([1.0]), tg.float32)
    for scalar in (2, 2.0, np.float64(2.0), np.int64(2)):
        assert (x * scalar).dtype is tg.float32
        assert (scalar * x).dtype is tg.float32
    assert (x + np.float64(1.0)).device == x.device


def test_settings_are_queries_statements_and_scopes() -> None:
    assert tg.default_device() == "cpu"
    assert tg.default_dtype() is tg.float64
    with tg.default_device("strict:device1") as name:
        assert name == tg.default_device() == tg.zeros(1).device == "strict:device1"
        with tg.default_device("cpu"):
            assert tg.zeros(1).device == "cpu"
        assert tg.zeros(1).device == "strict:device1"
    assert tg.default_device() == "cpu"
    tg.default_dtype(tg.float32)
    try:
        assert tg.zeros(1).dtype is tg.float32
    finally:
        tg.default_dtype(tg.float64)
    assert "float64" in repr(tg.default_dtype(tg.float64))


def test_numpy_data_goes_to_the_default_device(xp: Place) -> None:
    data = np.ones(2, np.float32)
    here = tg.zeros(1).device
    assert tg.tensor(data).device == tg.asarray(data).device == tg.sin(data).device == here
    x = tg.asarray(np.asarray([1.5, 2.5]))
    assert (x.device, x.tolist()) == (here, [1.5, 2.5])
    assert x.dtype is (tg.float64 if xp.double else tg.float32)  # the narrower one where there is no other


def test_a_setting_reaches_other_threads_and_a_scope_does_not() -> None:
    seen: list[object] = []
    tg.default_dtype(tg.float32)
    try:
        with tg.default_device("strict:device1"):
            t = threading.Thread(target=lambda: seen.extend((tg.default_dtype(), tg.default_device())))
            t.start()
            t.join()
    finally:
        tg.default_dtype(tg.float64)
    assert seen == [tg.float32, "cpu"]


def test_the_environment_sets_the_default_device() -> None:
    code = "import tapegrad as tg; print(tg.zeros(1).device)"
    env = {**os.environ, "TAPEGRAD_DEVICE": "strict:device2"}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=600)
    assert out.stdout.strip() == "strict:device2"


def test_to_device_is_differentiable_and_changes_the_library(xp: Place) -> None:
    x = tg.tensor([1.0, 2.0], dtype=tg.float32, device="cpu", requires_grad=True)
    y = (x * 3.0).to_device(xp.device)
    assert y.device == tg.zeros(1).device
    z = tg.sum(y * y).to_device("cpu")
    z.backward()
    assert x.grad is not None
    assert x.grad.device == "cpu"
    np.testing.assert_allclose(np.asarray(x.grad), [18.0, 36.0])
    first = tg.grad(lambda x: tg.sum(x.to_device(xp.device) ** 3).to_device("cpu"))
    np.testing.assert_allclose(np.asarray(tg.grad(lambda x: tg.sum(first(x)))(x.detach())), [6.0, 12.0], rtol=1e-5)


def test_moving_a_leaf_to_the_same_device_is_the_same_leaf(xp: Place) -> None:
    x = xp.tensor([1.0], requires_grad=True)
    assert x.to_device(x.device) is x
    assert tg.asarray(x) is x


@pytest.mark.parametrize("dtype", ["bool", "int32", "int64", "float16", "float32", "complex64"])
def test_moving_keeps_dtypes(xp: Place, dtype: str) -> None:
    if xp.device == "strict:no_float64" and dtype == "int64":
        pytest.skip("this device may lack int64")
    try:
        x = tg.asarray([1, 0], dtype=dtype, device="cpu").to_device(xp.device)
    except TypeError as error:
        pytest.skip(str(error))
    back = x.to_device("cpu")
    assert x.dtype is back.dtype
    assert x.dtype.name == dtype
    assert back.tolist() == [1, 0]


def test_an_array_stays_on_its_library() -> None:
    torch = pytest.importorskip("torch")
    x = tg.asarray(torch.ones(2))
    assert x.device == "torch:cpu"
    assert x.dtype is tg.float32
    assert tg.asarray(torch.ones(2), device="cpu").device == "cpu"
    assert isinstance((x * 2).array, torch.Tensor)


def test_bfloat16_where_the_library_has_it() -> None:
    torch = pytest.importorskip("torch")
    x = tg.tensor([1.0, 2.0], dtype=tg.bfloat16, device="torch:cpu", requires_grad=True)
    tg.sum(tg.exp(x) * 2.0).backward()
    assert x.grad is not None
    assert x.grad.dtype is tg.bfloat16
    assert "bfloat16" in repr(x)
    wide = tg.astype(x.grad, tg.float32).to_device("cpu")
    np.testing.assert_allclose(np.asarray(wide), 2 * np.exp([1.0, 2.0]), rtol=1e-2)
    assert torch.bfloat16 is not None


def test_an_unknown_array_library_is_used_through_the_standard() -> None:
    da = pytest.importorskip("dask.array")
    x = tg.asarray(da.from_array(np.asarray([1.0, 2.0]), chunks=1))
    x.requires_grad = True
    tg.sum(tg.exp(x) * x).backward()
    v = np.asarray([1.0, 2.0])
    assert x.grad is not None
    np.testing.assert_allclose(np.asarray(x.grad._array), np.exp(v) * (1 + v))


def test_available_says_why_not() -> None:
    report = backends.available()
    assert report["cpu"] is None
    assert set(report) == {"cpu", "cuda", "torch", "jax", "strict"}
    assert all(why is None or "\n" not in why for why in report.values())
    assert str(report).splitlines()[0].split() == ["cpu", "available"]
    assert backends.is_available("cpu")
    assert not backends.is_available("nowhere")


def test_dtypes_are_one_object_each(xp: Place) -> None:
    x = tg.astype(xp.tensor([1.0]), tg.float32)
    assert x.dtype is tg.float32
    assert x.dtype == np.float32
    assert x.dtype == "float32"
    assert x.dtype != np.float64
    assert x.dtype != "nothing"
    assert {x.dtype: 1}[tg.float32] == 1
    assert tg.isdtype(x.dtype, "real floating")
    assert not tg.isdtype(x.dtype, ("integral", tg.bool))


def test_constants_of_the_standard_work_on_tensors(xp: Place) -> None:
    x = xp.tensor([[0.5, -1.5], [2.5, 0.0]])
    v = xp.values(x)
    for name in ("ceil", "floor", "round", "trunc", "sign", "isfinite", "isinf", "isnan", "signbit"):
        np.testing.assert_array_equal(xp.values(getattr(tg, name)(x)), getattr(np, name)(v))
    for name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"):
        np.testing.assert_array_equal(xp.values(getattr(tg, name)(x, 0.5)), getattr(np, name)(v, 0.5))
    np.testing.assert_array_equal(xp.values(tg.floor_divide(x, 0.75)), v // 0.75)
    n = xp.tensor([[1, 2], [3, 0]])
    m = xp.values(n)
    for name in ("bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift"):
        np.testing.assert_array_equal(xp.values(getattr(tg, name)(n, n)), getattr(np, name)(m, m))
    np.testing.assert_array_equal(xp.values(~n), ~m)
    b = x > 0
    for name in ("logical_and", "logical_or", "logical_xor"):
        np.testing.assert_array_equal(xp.values(getattr(tg, name)(b, ~b)), getattr(np, name)(v > 0, v <= 0))
    np.testing.assert_array_equal(xp.values(tg.logical_not(b)), v <= 0)
    assert tg.all(b, axis=0).tolist() == [True, False]
    assert tg.any(b).item() is True
    assert tg.count_nonzero(b, axis=1).tolist() == [1, 1]
    assert [i.tolist() for i in tg.nonzero(b)] == [[0, 1], [0, 0]]
    assert tg.argmax(x).item() == 2
    assert tg.argmin(x, axis=1).tolist() == [1, 1]
    assert tg.argsort(x, axis=1).tolist() == [[1, 0], [1, 0]]
    assert tg.argsort(x, axis=1, descending=True).tolist() == [[0, 1], [0, 1]]
    for f in (tg.floor, tg.sign, tg.argsort, tg.isnan):
        assert not f(xp.tensor([1.0], requires_grad=True)).requires_grad


def test_numpy_ufuncs_on_tensors_are_recorded() -> None:
    x = tg.tensor([0.5, 1.5], requires_grad=True)
    a = np.asarray([2.0, 3.0])
    y = np.sin(x) + a * x + np.float64(2.0) * x + np.power(x, 2) - np.maximum(x, 1.0)
    assert isinstance(y, tg.Tensor)
    y.backward(tg.ones(2))
    v = np.asarray([0.5, 1.5])
    np.testing.assert_allclose(np.asarray(x.grad), np.cos(v) + a + 2 + 2 * v - [0.0, 1.0])


@pytest.mark.parametrize("name", sorted(numpy_protocols._RENAMED))
def test_renamed_ufuncs_exist(name: str) -> None:
    assert callable(getattr(np, name))
    assert callable(getattr(tg, numpy_protocols._RENAMED[name]))


def test_array_api_code_of_others_runs_on_tensors() -> None:
    """Code that asks an array for its namespace is differentiable as it is."""

    def softplus_by_others(x: Any) -> Any:
        xp = x.__array_namespace__()
        return xp.log1p(xp.exp(-xp.abs(x))) + xp.where(x > 0, x, xp.zeros_like(x))

    from array_api_compat import array_namespace

    x = tg.tensor([-1.0, 2.0], requires_grad=True)
    assert array_namespace(x) is tg
    tg.sum(softplus_by_others(x)).backward()
    np.testing.assert_allclose(np.asarray(x.grad), 1 / (1 + np.exp([1.0, -2.0])))


def test_numbers_that_are_recorded(xp: Place) -> None:
    """Tensors as numbers of a new array keep their gradients, in the default dtype; arange has none to keep."""
    v = xp.tensor(2.0)
    xp.check(tg.grad(lambda v: tg.sum(tg.full(3, v) * v))(v), 12.0)
    xp.check(tg.grad(lambda v: tg.sum(tg.full_like(tg.ones(3), v) * v))(v), 12.0)
    xp.check(tg.grad(lambda v: tg.sum(tg.linspace(v[0], v[1], 3)))(xp.tensor([1.0, 1.0])), [1.5, 1.5])
    assert tg.grad(lambda v: tg.sum(tg.linspace(v, 3, 3)))(tg.astype(v, tg.float32)).dtype is tg.float32
    xp.check(tg.vmap(lambda v: tg.full(2, v) + tg.linspace(0, v, 2))(xp.tensor([1.0, 2.0])), [[1, 2], [2, 4]])
    with pytest.raises(TypeError, match="^arange: .* recorded or mapped: use x.detach"):
        tg.grad(lambda v: tg.sum(tg.arange(0.0, v)))(v)
