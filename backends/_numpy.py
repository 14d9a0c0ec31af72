"""NumPy: the arrays of device "cpu"."""

from __future__ import annotations

import operator
import sys
from typing import Any

import array_api_compat.numpy as compat
import numpy as np

from tapegrad.backends._base import Array, Backend


class Adapter(Backend):
    """NumPy arrays, and NumPy's scalars as arrays of no dimensions."""

    def __init__(self) -> None:
        super().__init__("numpy", compat)
        self.prefix = "cpu"
        # NumPy's own, without the Python frames that np.sum and the like and array_api_compat put around them.
        self.xp.replace(
            sum=_sum, mean=_mean, max=_max, min=_min, broadcast_to=_broadcast_to, matrix_transpose=_matrix_transpose
        )
        self.xp.replace(zeros=np.zeros, ones=np.ones, empty=np.empty, full=np.full, arange=np.arange)
        self.xp.replace(where=_where, matmul=np.matmul, index_get=operator.getitem, reshape=_reshape)
        self.xp.replace(take_along_axis=_take_along_axis)

    def owns(self, array_type: type) -> bool:
        return array_type is np.ndarray or issubclass(array_type, np.generic)

    def native_dtype(self, name: str) -> Any:
        return np.dtype(name)

    def has_dtype(self, name: str, device: Any) -> bool:
        return name != "bfloat16"

    def native_device(self, text: str) -> Any:
        if text not in ("", "0"):
            raise ValueError(f"the device of NumPy arrays is 'cpu'; there is no 'cpu:{text}'")
        return "cpu"

    def full_name(self, device: Any) -> str:
        return "cpu"

    def device_string(self, array: Array) -> str:
        return "cpu"

    def from_host(self, array: np.ndarray[Any, Any], device: Any) -> Array:
        return np.array(array)

    def move(self, array: Array, device: Any) -> Array:
        return array

    def as_array(self, result: Any) -> Array:
        return np.asarray(result)

    def as_scalar(self, operand: Any) -> Any:
        return operand.item() if isinstance(operand, np.generic) else None

    def export(self, array: Array) -> Array:
        view = array.view()
        view.flags.writeable = False
        return view

    def is_private(self, holder: Any) -> bool:
        array = holder._array
        return (
            array.base is None
            and sys.getrefcount(array) == _PRIVATE_COUNT
            and array.flags.owndata
            and array.flags.writeable
        )

    def sigmoid(self, x: Array) -> Array:
        with np.errstate(over="ignore"):  # exp(-x) = inf gives 0, as it should
            return 1 / (1 + np.exp(-x))

    def index_add(self, array: Array, key: tuple[Any, ...], value: Array) -> Array:
        for i in key:
            if isinstance(i, np.ndarray) and i.dtype != np.bool:
                np.add.at(array, key, value)
                return array
            if isinstance(i, np.ndarray):
                array[key] += value
                return array
        part = array[(*key, ...)]  # a view: array[key] += value would write it back onto itself as well
        part += value
        return array


def _sum(x: Array, /, *, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Array:
    return np.add.reduce(x, axis, dtype, None, keepdims)  # type: ignore[call-overload]


def _mean(x: Array, /, *, axis: Any = None, keepdims: bool = False) -> Array:
    if x.dtype.itemsize < 4:
        return np.mean(x, axis=axis, keepdims=keepdims)  # which sums float16 in float32
    total = np.add.reduce(x, axis, None, None, keepdims)  # type: ignore[call-overload]
    return total / (x.size // max(total.size, 1))


def _max(x: Array, /, *, axis: Any = None, keepdims: bool = False) -> Array:
    return np.maximum.reduce(x, axis, None, None, keepdims)  # type: ignore[call-overload]


def _min(x: Array, /, *, axis: Any = None, keepdims: bool = False) -> Array:
    return np.minimum.reduce(x, axis, None, None, keepdims)  # type: ignore[call-overload]


def _take_along_axis(x: Array, indices: Array, /, *, axis: int = -1) -> Array:
    if x.ndim == indices.ndim == 2 and axis == -1 and len(x) == len(indices):  # the labels of a batch
        return x[np.arange(len(x))[:, None], indices]
    return np.take_along_axis(x, indices, axis)


def _where(condition: Array, x1: Any, x2: Any, /) -> Array:
    if type(x2) is int and x2 == 0:
        return _masked(condition, x1)
    if type(x1) is int and x1 == 0:
        return _masked(~condition, x2)
    return np.where(condition, x1, x2)


_SAME_SIZE = {np.dtype(np.float32): np.int32, np.dtype(np.float64): np.int64}


def _masked(mask: Array, x: Array) -> Array:
    """Return x where the mask is true, else 0, by its bits: np.where takes ten times as long on a mask that jumps."""
    kind = _SAME_SIZE.get(x.dtype) if type(x) is np.ndarray and x.shape == mask.shape and x.ndim else None
    if kind is None:
        return np.where(mask, x, 0)
    bits = mask.view(np.int8).astype(kind, order="K")
    np.negative(bits, bits)  # all bits set where the mask is true
    np.bitwise_and(bits, x.view(kind), bits)
    return bits.view(x.dtype)


def _broadcast_to(x: Array, shape: tuple[int, ...], /) -> Array:
    if x.shape == ():  # a scalar's cotangent, the common case: np.broadcast_to takes ten times as long
        view: Array = np.ndarray(shape, x.dtype, x, 0, (0,) * len(shape))
        view.flags.writeable = False
        return view
    return np.broadcast_to(x, shape)


def _reshape(x: Array, shape: tuple[int, ...], /) -> Array:
    return x.reshape(shape)


def _matrix_transpose(x: Array, /) -> Array:
    return x.swapaxes(-1, -2)


class _Holder:
    __slots__ = ("_array",)

    _array: Array

    def count(self) -> int:
        array = self._array
        return sys.getrefcount(array)


def _calibrate() -> int:
    holder = _Holder()
    holder._array = np.zeros(4)
    return holder.count()


_PRIVATE_COUNT = _calibrate()
