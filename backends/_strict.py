"""array-api-strict: the standard and nothing more, on imaginary devices; it stands in for a GPU in tests."""

from __future__ import annotations

from typing import Any

import array_api_strict as strict
import numpy as np

from tapegrad.backends import _host_philox as philox
from tapegrad.backends._array import Array
from tapegrad.backends._base import Backend


class Adapter(Backend):
    """Arrays of array-api-strict, on "strict:CPU_DEVICE", "strict:device1", "strict:no_float64" ..."""

    def __init__(self) -> None:
        super().__init__("array-api-strict", strict)
        self.prefix = "strict"
        self.xp.replace(isin=_isin)
        self._host = strict.Device("CPU_DEVICE")

    def owns(self, array_type: type) -> bool:
        return array_type is type(strict.zeros(()))

    def native_device(self, text: str) -> Any:
        try:
            return strict.Device(text or "CPU_DEVICE")
        except ValueError as error:
            raise ValueError(f"unknown device 'strict:{text}': {error}") from error

    def devices(self) -> list[str]:
        """Return the devices with all dtypes, as code that lists devices may move any array there."""
        devices = self.xp.__array_namespace_info__().devices()
        return [self.full_name(d) for d in devices if self.has_dtype("float64", d) and self.has_dtype("int64", d)]

    def full_name(self, device: Any) -> str:
        return f"strict:{device._device}"

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        return np.asarray(array.to_device(self._host))

    def readonly_dlpack(self, array: Array, stream: Any) -> Any:
        array.__dlpack_device__()  # raises for the imaginary devices
        view = self.to_host(array).view()
        view.flags.writeable = False
        return view.__dlpack__(stream=stream, max_version=(1, 0), copy=False)

    def draw(self, key: Array, count: Array, form: str, shape: tuple[int, ...], dtype: str, least: int = 0) -> Array:
        return philox.through_host(self, philox.draw, (key, count), form, shape, dtype, least)

    def skip(self, count: Array, shape: tuple[int, ...], start: int, step: int) -> Array:
        return philox.through_host(self, philox.skip, (count,), shape, start, step)

    def memory(self, array: Array) -> int:
        below = array._array
        return id(below if below.base is None else below.base)

    # Indexing beyond the standard, in terms of the standard; slow, which does not matter here.

    def index_get(self, array: Array, key: tuple[Any, ...]) -> Array:
        key = self._integers(key)
        if self.has_integer_arrays(key) and not all(hasattr(i, "shape") for i in key):
            return array[tuple(self.spell_out(array, key))]
        return array[key]

    def index_set(self, array: Array, key: tuple[Any, ...], value: Array) -> Array:
        key = self._integers(key)
        value = strict.broadcast_to(value, self.index_get(array, key).shape)
        if self.has_integer_arrays(key):
            for at, item in self.items(array, key):
                array[at] = value[item]
        else:
            short = tuple(i for i in key if i is not None)
            array[short] = strict.reshape(value, array[short].shape)
        return array

    def index_add(self, array: Array, key: tuple[Any, ...], value: Array) -> Array:
        key = self._integers(key)
        if self.has_integer_arrays(key):
            return super().index_add(array, key, value)
        return self.index_set(array, key, self.index_get(array, key) + value)

    @staticmethod
    def _integers(key: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return a mask as integer arrays, as strict does not take masks on all its devices."""
        if any(hasattr(i, "shape") and i.dtype == strict.bool for i in key):
            batch_axes = key[:-1]  # a mask stands alone, except for batch axes
            return (*batch_axes, *strict.nonzero(key[-1]))
        return key


def _isin(x1: Array, x2: Array, /, *, invert: bool) -> Array:
    """Do the same as strict's own function, for floats too and with `invert`."""
    found = strict.any(x1[..., None] == strict.reshape(x2, (-1,)), axis=-1)
    return strict.logical_not(found) if invert else found
