"""bfloat16 on CuPy: every operation of the table, its gradient, and all ways in and out."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda_stand_in import counted, is_installed
from places import why_not

import tapegrad as tg
from tapegrad import backends
from tapegrad.testing import SAMPLES, Sample

pytest.importorskip("ml_dtypes")
if why := why_not("cuda"):
    pytest.skip(why, allow_module_level=True)

import cupy
import ml_dtypes

from tapegrad.backends._cupy import adapter, bfloat16
from tapegrad.backends._cupy.codegen import cuda_types

ULP = 2.0**-7  # the unit in the last place of 1


def rounded(a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the nearest numbers that bfloat16 holds, as float32."""
    return a.astype(ml_dtypes.bfloat16).astype(np.float32)


def on_device(a: Any, requires_grad: bool = False) -> tg.Tensor:
    values = np.asarray(a)
    return tg.tensor(
        values,
        dtype=tg.bfloat16 if values.dtype.kind == "f" else None,
        device="cuda",
        requires_grad=requires_grad and values.dtype.kind == "f",
    )


def on_host(x: tg.Tensor | None) -> np.ndarray[Any, Any]:
    assert x is not None
    return np.asarray(x.detach())


def is_real(sample: Sample) -> bool:
    kinds = {a.dtype.kind for a in sample.args}
    return "f" in kinds and "c" not in kinds


# One sample of each operation; those of the same operation differ in axes and shapes, which bfloat16 does not change.
FIRST = {sample.operation: sample for sample in reversed(SAMPLES) if is_real(sample)}
REAL = {"irfft", "hfft"}  # of a complex operand, whose parts are float32
LOOSE = {"qr": 4, "pinv": 2}  # gradients put together from several products


def run(sample: Sample, device: str, dtype: Any) -> tuple[tg.Tensor, list[tg.Tensor]]:
    """Return a sample's result and its arguments, whose gradients are there for a random cotangent."""
    with tg.default_device(device), tg.default_dtype(dtype):
        xs = [
            tg.tensor(
                rounded(a) if a.dtype.kind == "f" else a,
                dtype=dtype if a.dtype.kind == "f" else None,
                requires_grad=a.dtype.kind == "f" and sample.order > 0,
            )
            for a in sample.args
        ]
        y = sample.f(*xs)
        if not y.is_leaf:
            rng = np.random.default_rng(0)
            seed = rounded(rng.standard_normal(y.shape))
            y.backward(tg.astype(tg.asarray(seed, device=device), y.dtype))
    return y, [x for x in xs if x.grad is not None]


@pytest.mark.parametrize("sample", FIRST.values(), ids=lambda s: s.operation)
def test_every_operation_and_its_gradient(sample: Sample) -> None:
    y, xs = run(sample, "cuda", tg.bfloat16)
    expected, leaves = run(sample, "cpu", tg.float32)
    name = expected.dtype.name
    assert y.dtype.name == (name if name != "float32" or sample.operation in REAL else "bfloat16")
    assert [x.grad.dtype for x in xs if x.grad is not None] == [tg.bfloat16] * len(leaves)
    units = LOOSE.get(sample.operation, 1)
    for got, like in [(y, expected), *[(x.grad, leaf.grad) for x, leaf in zip(xs, leaves, strict=True)]]:
        values = on_host(like)
        scale = np.abs(values[np.isfinite(values)]).max(initial=1) if values.dtype != bool else 1
        np.testing.assert_allclose(on_host(got) / scale, values / scale, rtol=units * ULP, atol=units * ULP)


NUMBERS: dict[str, Callable[[Any], Any]] = {
    "add": lambda x: x + 0.1,
    "subtract from": lambda x: 0.1 - x,
    "multiply": lambda x: x * 0.1,
    "divide": lambda x: x / 3.0,
    "integer": lambda x: x * 3,
    "truth": lambda x: x + True,
    "NumPy's": lambda x: x * np.float64(0.1),
    "power": lambda x: tg.abs(x) ** 1.5,
    "base": lambda x: 2.0**x,
    "floor_divide": lambda x: x // 0.3 + x,
    "remainder": lambda x: x % 0.3,
    "maximum": lambda x: tg.maximum(x, 0.1),
    "where": lambda x: tg.where(x > 0.5, x, 0.1),
    "where integer": lambda x: tg.where(x > 0.5, 1, x),
    "clip": lambda x: tg.clip(x, 0.1, 0.7),
    "xlogy": lambda x: tg.special.xlogy(x, 0.1),
}


@pytest.mark.parametrize("f", NUMBERS.values(), ids=NUMBERS)
def test_python_numbers_are_weak_eager_and_compiled(f: Callable[[Any], Any]) -> None:
    x = on_device(np.linspace(-1, 2, 7), requires_grad=True)
    y = f(x)
    tg.sum(y).backward()
    assert (y.dtype, x.grad is not None and x.grad.dtype) == (tg.bfloat16, tg.bfloat16)

    def step(x: tg.Tensor) -> Any:
        out, pull = tg.vjp(f, x)
        return out, *pull(tg.ones_like(out))

    compiled = tg.compile(step)
    for _ in range(5):
        found = compiled(x.detach())
    for a, b in zip(found, (y, x.grad), strict=True):
        assert a.dtype is tg.bfloat16
        np.testing.assert_array_equal(on_host(a), on_host(b))


def test_comparisons_with_numbers_round_them_first() -> None:
    x = on_device([0.1, 0.2])
    assert (x == 0.1).tolist() == [True, False]
    compiled = tg.compile(lambda x: tg.where(x == 0.1, x, 0))
    for _ in range(5):
        found = compiled(x)
    assert found.tolist() == [0.10009765625, 0.0]


MIXED: dict[str, Callable[[Any, Any], Any]] = {
    "add": tg.add,
    "concat": lambda a, b: tg.concat([a, b]),
    "divide": tg.divide,
    "matmul": tg.matmul,
    "maximum": tg.maximum,
    "stack": lambda a, b: tg.stack([a, b]),
    "vecdot": tg.vecdot,
    "where": lambda a, b: tg.where(a > 0, a, b),
}
OTHERS = ("bool", "int8", "uint8", "int16", "int32", "float16", "float32", "float64", "complex64")


@pytest.mark.parametrize("dtype", OTHERS)
@pytest.mark.parametrize("f", MIXED.values(), ids=MIXED)
def test_promotion_is_what_result_type_says(f: Callable[[Any, Any], Any], dtype: str) -> None:
    if dtype == "complex64" and f is tg.maximum:
        pytest.skip("complex numbers have no order")
    x, y = on_device([0.5, 1.0]), tg.ones(2, dtype=dtype, device="cuda")
    expected = tg.result_type(tg.bfloat16, dtype)
    assert (f(x, y).dtype, f(y, x).dtype if f is not MIXED["where"] else expected) == (expected, expected)


def test_sums_are_added_up_in_float32() -> None:
    x = on_device(np.full((2, 1000), 1.01), requires_grad=True)
    exact = 1000 * float(rounded(np.asarray(1.01)))
    for total in (tg.sum(x, axis=1), 1000 * tg.mean(x, axis=1), tg.cumulative_sum(x, axis=1)[:, -1]):
        np.testing.assert_allclose(on_host(total), exact, rtol=ULP)
    np.testing.assert_allclose(on_host(tg.matmul(x, tg.ones_like(x[0]))), exact, rtol=ULP)
    assert tg.sum(x, dtype=tg.float32).dtype is tg.float32
    assert tg.sum(tg.ones(3, device="cuda"), dtype=tg.bfloat16).dtype is tg.bfloat16


@pytest.mark.parametrize("fixed", [False, True])
def test_gradients_at_repeated_indices_are_added_up_in_float32(fixed: bool) -> None:
    x = on_device(np.zeros((3, 2)), requires_grad=True)
    where = tg.asarray(np.repeat([0, 1], [1000, 3]), device="cuda")
    with tg.deterministic(fixed):
        tg.sum(x[where] * 1.0 + tg.take(x, where, axis=0)).backward()
    np.testing.assert_array_equal(on_host(x.grad), [[2000, 2000], [6, 6], [0, 0]])


def test_writing_at_indices() -> None:
    x = on_device(np.zeros((3, 3)))
    x[0] = 2.5
    x[tg.asarray([1, 2], device="cuda")] = on_device([1.0, 2.0, 3.0])
    x[x > 2.6] = 0.1
    np.testing.assert_array_equal(on_host(x), rounded(np.asarray([[2.5] * 3, [1, 2, 0.1], [1, 2, 0.1]])))


def test_sorting_puts_a_nan_last() -> None:
    x = on_device([2.0, np.nan, -1.0, 0.5])
    np.testing.assert_array_equal(on_host(tg.sort(x)), [-1.0, 0.5, 2.0, np.nan])
    assert tg.argsort(x).tolist() == [2, 3, 0, 1]


MAKERS: dict[str, Callable[[], Any]] = {
    "zeros": lambda: tg.zeros(2, dtype=tg.bfloat16, device="cuda"),
    "ones_like": lambda: tg.ones_like(on_device([0.5, 3.0])),
    "full": lambda: tg.full(2, 0.1, dtype=tg.bfloat16, device="cuda"),
    "arange": lambda: tg.arange(0, 1, 0.25, dtype=tg.bfloat16, device="cuda"),
    "linspace": lambda: tg.linspace(0, 1, 5, dtype=tg.bfloat16, device="cuda"),
    "eye": lambda: tg.eye(2, dtype=tg.bfloat16, device="cuda"),
    "asarray of numbers": lambda: tg.asarray([0.1, 0.2], dtype=tg.bfloat16, device="cuda"),
    "asarray of NumPy": lambda: tg.asarray(np.asarray([0.1, 0.2]), dtype=tg.bfloat16, device="cuda"),
    "asarray of CuPy": lambda: tg.asarray(cupy.asarray(np.asarray([0.1, 0.2], ml_dtypes.bfloat16))),
    "from ml_dtypes": lambda: tg.asarray(np.asarray([0.1, 0.2], ml_dtypes.bfloat16), device="cuda"),
    "pickle": lambda: pickle.loads(pickle.dumps(on_device([0.1, 0.2]))),
    "DLPack": lambda: tg.asarray(cupy.from_dlpack(on_device([0.1, 0.2]))),
}
MADE = {
    "zeros": [0, 0],
    "ones_like": [1, 1],
    "full": [0.1, 0.1],
    "arange": [0, 0.25, 0.5, 0.75],
    "linspace": [0, 0.25, 0.5, 0.75, 1],
    "eye": [[1, 0], [0, 1]],
}


@pytest.mark.parametrize("name", MAKERS)
def test_ways_in(name: str) -> None:
    x = MAKERS[name]()
    assert (x.dtype, x.device) == (tg.bfloat16, "cuda:0")
    np.testing.assert_array_equal(on_host(x), rounded(np.asarray(MADE.get(name, [0.1, 0.2]))))


def test_ways_out() -> None:
    x = on_device([[0.5, 3.0]])
    assert x.tolist() == [[0.5, 3.0]]
    assert (x[0, 1].item(), float(x[0, 1]), bool(x[0, 0] < 1)) == (3.0, 3.0, True)
    assert repr(x) == "Tensor([[0.5, 3. ]], dtype=bfloat16, device='cuda:0')"
    with pytest.raises(TypeError, match=r"bfloat16 is not available on cpu.*tapegrad\.astype\(x, tapegrad\.float32\)"):
        x.to_device("cpu")


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_moving_between_libraries_keeps_the_dtype_both_ways(library: str) -> None:
    pytest.importorskip(library)
    x = on_device([0.5, 3.0], requires_grad=True)
    y = x.to_device(f"{library}:cpu")
    assert y.dtype is tg.bfloat16
    tg.sum(y * y).backward()
    assert x.grad is not None
    assert (x.grad.dtype, x.grad.device, x.grad.tolist()) == (tg.bfloat16, "cuda:0", [1.0, 6.0])


FUSED: dict[str, Callable[[Any], Any]] = {
    "gelu": tg.gelu,
    "gelu tanh": lambda x: tg.gelu(x, approximate="tanh"),
    "sigmoid": tg.sigmoid,
    "softmax": lambda x: tg.softmax(x, axis=-1),
    "logsumexp": tg.logsumexp,
    "clip": lambda x: tg.clip(x, 0.1, 0.5),
    "var": lambda x: tg.var(x, axis=-1),
    "where": lambda x: tg.where(x > 0.5, x, 0.0),
    "matmul": lambda x: x @ x.T,
    "cross_entropy": lambda x: tg.cross_entropy(x, tg.asarray([0, 1, 2], device="cuda")),
}


@pytest.mark.skipif(not is_installed(), reason="the counts are those of the stand-in")
@pytest.mark.parametrize("f", FUSED.values(), ids=FUSED)
def test_launches_are_those_of_float32(f: Callable[[Any], Any]) -> None:
    def launches(dtype: Any) -> tuple[int, int, int]:
        x = tg.tensor(np.linspace(0, 1, 12).reshape(3, 4), dtype=dtype, device="cuda", requires_grad=True)
        for _ in range(3):  # the first traces
            x.grad = None
            with counted() as forward:
                y = f(x)
            seed = tg.ones_like(y)
            with counted() as backward:
                y.backward(seed)
        return forward.launches, backward.launches, forward.waits + backward.waits

    assert launches(tg.bfloat16) == launches(tg.float32)


def test_a_compiled_training_step_is_the_eager_one() -> None:
    rng = np.random.default_rng(0)
    xs, ys = rng.standard_normal((6, 8, 4)), rng.standard_normal((6, 8, 3))

    def trained(wrap: Callable[[Any], Any]) -> list[np.ndarray[Any, Any]]:
        w = on_device(np.linspace(-1, 1, 12).reshape(4, 3), requires_grad=True)
        b = on_device(np.zeros(3), requires_grad=True)

        def step(x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
            w.grad = b.grad = None
            loss = tg.mean((tg.gelu(x @ w + b) - y) ** 2)
            loss.backward()
            with tg.no_grad():
                for p in (w, b):
                    assert p.grad is not None
                    p -= 0.1 * p.grad
            return loss

        step = wrap(step)
        losses = [on_host(step(on_device(x), on_device(y))) for x, y in zip(xs, ys, strict=True)]
        return [*losses, on_host(w), on_host(b)]

    for a, b in zip(trained(tg.compile), trained(lambda f: f), strict=True):
        np.testing.assert_allclose(a, b, rtol=2 * ULP, atol=2 * ULP)


def test_without_ml_dtypes_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backends.load("cuda")
    monkeypatch.setattr(bfloat16, "BFLOAT16", None)
    monkeypatch.setattr(adapter, "BFLOAT16", None)
    monkeypatch.setattr(type(backend), "dtype_hint", bfloat16.hint())
    with pytest.raises(TypeError, match=r"bfloat16 is not available on cuda .*pip install ml_dtypes"):
        tg.zeros(2, dtype=tg.bfloat16, device="cuda")


def test_result_type_of_operands() -> None:
    dtype, result_type = cuda_types.BFLOAT16, cuda_types.result_type
    assert result_type(dtype, 1.0, 2, True) is dtype
    assert result_type(np.dtype(np.float32), np.dtype(np.int8)) == np.float32
    assert result_type(dtype, 1j) == np.complex64
