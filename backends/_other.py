"""Arrays of a library that has no adapter of its own, such as Dask, by the standard and array-api-compat."""

from __future__ import annotations

from typing import Any

import array_api_compat

from tapegrad.backends._array import Array
from tapegrad.backends._base import Backend


class Adapter(Backend):
    """A library that is known by its arrays alone, once one was met; its devices are "dask:cpu" and the like."""

    adapted = False

    def device_string(self, array: Array) -> str:
        return self.full_name(array_api_compat.device(array))

    def move(self, array: Array, device: Any) -> Array:
        return array_api_compat.to_device(array, device)
