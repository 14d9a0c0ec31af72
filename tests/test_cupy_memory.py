"""Memory on CuPy: which buffers are written in place, and which are shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from places import why_not

import tapegrad as tg
from tapegrad import backends

if why := why_not("cuda"):
    pytest.skip(why, allow_module_level=True)

import cupy


def tensor(n: int = 16) -> tg.Tensor:
    return tg.tensor(np.arange(float(n)), device="cuda")


HOLDERS: list[Callable[[tg.Tensor], Any]] = [
    lambda x: x._array,
    lambda x: x._array[2:],
    lambda x: x._array.reshape(4, 4),
    lambda x: x._array.__dlpack__(),
    lambda x: x.detach(),
    lambda x: tg.reshape(x, (4, 4)),
    lambda x: x[3:],
    lambda x: [x._array],
]


@pytest.mark.parametrize("hold", HOLDERS)
def test_a_buffer_somebody_holds_is_not_written(hold: Callable[[tg.Tensor], Any]) -> None:
    x = tensor()
    backend = backends.load("cuda")
    assert backend.is_private(x)
    held = hold(x)
    assert not backend.is_private(x)
    del held
    assert backend.is_private(x)


def test_memory_of_others_is_not_written() -> None:
    a = cupy.arange(4.0)
    memory = cupy.cuda.UnownedMemory(a.data.ptr, a.nbytes, a)
    x = tg.asarray(cupy.ndarray((4,), a.dtype, memptr=cupy.cuda.MemoryPointer(memory, 0)), copy=False)
    assert not backends.load("cuda").is_private(x)


def test_updates_are_made_in_place() -> None:
    x = tensor()
    pointer = x._array.data.ptr
    x[3] = 7.0
    x[1:3] = tensor(2)
    x += 1.0
    assert x._array.data.ptr == pointer
    assert x.tolist() == [1.0, 1.0, 2.0, 8.0, *map(float, range(5, 17))]
    y = +x
    z = x.detach()
    x += y
    assert x._array.data.ptr != pointer
    assert z.tolist() == y.tolist()


def test_a_whole_array_is_written_by_taking_the_value() -> None:
    x, v = tensor(), tensor() * 2
    x[...] = v
    assert x._array is v._array
    x += 1.0  # the value stays as it was
    assert v.tolist() == [2.0 * i for i in range(16)]
    x[:] = v
    v[0] = 5.0
    assert x.tolist() == [2.0 * i for i in range(16)]


VALUES: list[Callable[[], Any]] = [
    lambda: cupy.arange(16.0),  # an array from outside, which may be written to
    lambda: tensor(32)[::2],
    lambda: tensor(32)[16:],
    lambda: tg.astype(tensor(), tg.float32),
    lambda: tensor(1),
    lambda: 3.0,
]


@pytest.mark.parametrize("value", VALUES)
def test_other_values_are_copied(value: Callable[[], Any]) -> None:
    x, v = tensor(), value()
    expected = np.empty(16)
    expected[...] = cupy.asnumpy(getattr(v, "_array", v))
    x[...] = v
    assert x._array is not getattr(v, "_array", v)
    assert x._array.base is None
    if isinstance(v, cupy.ndarray):
        v[...] = 0
    np.testing.assert_array_equal(np.asarray(x.to_device("cpu")), expected)


def test_gradients_of_a_whole_write() -> None:
    p, v = (tg.tensor(np.arange(3.0), device="cuda", requires_grad=True) for _ in range(2))
    x = p * 2
    x[...] = v * 3
    tg.sum(x * x).backward()
    assert p.grad is not None
    assert v.grad is not None
    assert p.grad.tolist() == [0.0, 0.0, 0.0]
    assert v.grad.tolist() == [0.0, 18.0, 36.0]


def test_zeros_are_set_and_keep_their_sign() -> None:
    assert np.signbit(tg.full((2,), -0.0, device="cuda").tolist()).all()
    for dtype in (tg.float32, tg.int8, tg.bool, tg.complex64):
        x = tg.zeros((2, 3), dtype=dtype, device="cuda")
        assert x.dtype == dtype
        assert not np.any(np.asarray(x.to_device("cpu")))
