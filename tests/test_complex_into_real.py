"""Complex values that would go into real arrays: refused everywhere, as their imaginary parts would be lost."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg

NUMBER = np.asarray([1j, 2.0])  # of the host


def written(x: tg.Tensor, key: Any, value: Any) -> tg.Tensor:
    x = x + 0.0
    x[key] = value
    return x


def updated(x: tg.Tensor, symbol: Callable[[Any, Any], Any], value: Any) -> Any:
    return symbol(x + 0.0, value)


# Each: of a real x, a complex z, both of two elements, a real dtype and a device.
CASES: dict[str, Callable[[tg.Tensor, tg.Tensor, str, str], Any]] = {
    "full of a number": lambda x, z, dtype, device: tg.full((2,), 1j, dtype=dtype, device=device),
    "full of a NumPy scalar": lambda x, z, dtype, device: tg.full((2,), np.complex128(1j), dtype=dtype, device=device),
    "full of a Tensor": lambda x, z, dtype, device: tg.full((2,), z[0], dtype=dtype, device=device),
    "full of no elements": lambda x, z, dtype, device: tg.full((0,), 1j, dtype=dtype, device=device),
    "full_like of a number": lambda x, z, dtype, device: tg.full_like(x, 1j),
    "full_like of a Tensor": lambda x, z, dtype, device: tg.full_like(x, z[0], dtype=dtype),
    "asarray of a number": lambda x, z, dtype, device: tg.asarray(1j, dtype=dtype, device=device),
    "asarray of a list": lambda x, z, dtype, device: tg.asarray([[1j, 2.0]], dtype=dtype, device=device),
    "asarray of a list of Tensors": lambda x, z, dtype, device: tg.asarray([z[0], 1.0], dtype=dtype, device=device),
    "asarray of a Tensor": lambda x, z, dtype, device: tg.asarray(z, dtype=dtype),
    "asarray of the host": lambda x, z, dtype, device: tg.asarray(NUMBER, dtype=dtype, device=device),
    "asarray of a raw array": lambda x, z, dtype, device: tg.asarray(z.detach()._array, dtype=dtype),
    "tensor of a list": lambda x, z, dtype, device: tg.tensor([1j], dtype=dtype, device=device),
    "tensor of the host": lambda x, z, dtype, device: tg.tensor(NUMBER, dtype=dtype, device=device),
    "tensor of a Tensor": lambda x, z, dtype, device: tg.tensor(z.detach(), dtype=dtype, device=device),
    "astype": lambda x, z, dtype, device: tg.astype(z, dtype),
    "linspace": lambda x, z, dtype, device: tg.linspace(0.0, 1j, 3, dtype=dtype, device=device),
    "linspace of a Tensor": lambda x, z, dtype, device: tg.linspace(z[0], 1.0, 3, dtype=dtype, device=device),
    "arange": lambda x, z, dtype, device: tg.arange(3j, dtype=dtype, device=device),
    "arange by a step": lambda x, z, dtype, device: tg.arange(0, 3, 1j, dtype=dtype, device=device),
    "sum": lambda x, z, dtype, device: tg.sum(z, dtype=dtype),
    "prod": lambda x, z, dtype, device: tg.prod(z, dtype=dtype),
    "cumulative_sum": lambda x, z, dtype, device: tg.cumulative_sum(z, dtype=dtype),
    "clip by a number": lambda x, z, dtype, device: tg.clip(x, 1j, None),
    "clip by a Tensor": lambda x, z, dtype, device: tg.clip(x, None, z),
    "clip of integers": lambda x, z, dtype, device: tg.clip(tg.astype(x, tg.int32), 0, 1j),
    "clip of complex numbers": lambda x, z, dtype, device: tg.clip(z, 0.0, 1.0),
    "a number written": lambda x, z, dtype, device: written(x, 0, 1j),
    "a NumPy scalar written": lambda x, z, dtype, device: written(x, 0, np.complex64(1j)),
    "a Tensor written": lambda x, z, dtype, device: written(x, slice(None), z),
    "a list written": lambda x, z, dtype, device: written(x, ..., [1j, 2]),
    "an array of the host written": lambda x, z, dtype, device: written(x, [0, 1], NUMBER),
    "a number written by a mask": lambda x, z, dtype, device: written(x, x > 0, 1j),
    "added in place": lambda x, z, dtype, device: updated(x, operator.iadd, 1j),
    "multiplied in place": lambda x, z, dtype, device: updated(x, operator.imul, z),
}


def has_dtype(name: str) -> bool:
    code = CASES[name].__code__
    return "dtype" in f"{code.co_consts}" or name == "astype"


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for name in CASES for dtype in ("float32", "int32", "bool")[: 3 if has_dtype(name) else 1]],
)
def test_complex_values_are_refused(xp: Place, name: str, dtype: str) -> None:
    x, z = tg.asarray([1.0, 2.0], device=xp.device), tg.asarray([1j, 2.0], device=xp.device)
    with pytest.raises((TypeError, ValueError), match="complex|imaginary") as caught:
        CASES[name](x, z, dtype, xp.device)
    assert "tapegrad" in str(caught.value) or "dtype" in str(caught.value) or "make x of" in str(caught.value)


@pytest.mark.parametrize("of", [tg.full_like, lambda x, v, **options: tg.full((2,), v, **options)])
def test_recorded_complex_values_are_refused(xp: Place, of: Callable[..., Any]) -> None:
    x, z = tg.ones(2, device=xp.device), tg.tensor(1j, device=xp.device, requires_grad=True)
    with pytest.raises(TypeError, match="imaginary"):
        of(x, z, dtype="float32")


def test_complex_values_go_into_complex_arrays(xp: Place) -> None:
    x = tg.zeros(2, dtype="complex64", device=xp.device)
    for y in (tg.full_like(x, 1j), tg.asarray([1j, 1j], dtype="complex64", device=xp.device), written(x, ..., 1j)):
        assert y.dtype == tg.complex64
        assert y.tolist() == [1j, 1j]
    assert tg.full((2,), 1.0, dtype="float32", device=xp.device).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "arguments",
    [(0, 3, 0), (0.0, 3.0, 0.0), (0, 0, 0), (3, 0, -0.0), (float("nan"),), (0, float("inf")), (0, 1, np.nan)],
)
def test_ranges_without_an_end_are_refused(xp: Place, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"arange: a step of .* never ends .*tapegrad.linspace"):
        tg.arange(*arguments, device=xp.device)


def test_empty_ranges_stay(xp: Place) -> None:
    assert tg.arange(3, 0, device=xp.device).tolist() == []
    assert tg.arange(0, 3, -1, device=xp.device).shape == (0,)
    assert tg.arange(0, -3, -2, device=xp.device).tolist() == [0, -2]
    assert tg.arange(0.0, 1.0, float("inf"), device=xp.device).shape[0] <= 1
