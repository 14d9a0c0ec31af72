"""array-api-strict: the standard and nothing more, on made-up devices; it stands in for a GPU in tests."""

from __future__ import annotations

from typing import Any

import array_api_strict as strict
import numpy as np

from tapegrad.backends._base import Array, Backend


class Adapter(Backend):
    """Arrays of array-api-strict, on "strict:CPU_DEVICE", "strict:device1", "strict:no_float64" ..."""

    def __init__(self) -> None:
        super().__init__("array-api-strict", strict)
        self.prefix = "strict"
        self._host = strict.Device("CPU_DEVICE")

    def owns(self, array_type: type) -> bool:
        return array_type is type(strict.zeros(()))

    def native_device(self, text: str) -> Any:
        try:
            return strict.Device(text or "CPU_DEVICE")
        except ValueError as error:
            raise ValueError(f"unknown device 'strict:{text}': {error}") from error

    def full_name(self, device: Any) -> str:
        return f"strict:{device._device}"

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        return np.asarray(array.to_device(self._host))

    def index_get(self, array: Array, key: tuple[Any, ...]) -> Array:
        if self.has_integer_arrays(key) and not all(hasattr(i, "shape") for i in key):
            return array[tuple(self.spell_out(array, key))]
        return array[key]

    def index_set(self, array: Array, key: tuple[Any, ...], value: Array) -> Array:
        if not self.has_integer_arrays(key):
            return super().index_set(array, self._without_none(key), value)
        shape = self.index_get(array, key).shape
        value = strict.broadcast_to(value, shape)
        for at, item in self.items(array, key):
            array[at] = value[item]
        return array

    def index_add(self, array: Array, key: tuple[Any, ...], value: Array) -> Array:
        if not self.has_integer_arrays(key) and None in [i for i in key if not hasattr(i, "shape")]:
            short = self._without_none(key)
            array[short] = array[short] + strict.reshape(value, array[short].shape)
            return array
        return super().index_add(array, key, value)

    @staticmethod
    def _without_none(key: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(i for i in key if i is not None)
