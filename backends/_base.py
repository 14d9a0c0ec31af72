"""What tapegrad asks of an array library beyond the array API standard, with defaults in standard terms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np

Array = Any  # an array of whatever library
DTYPE_NAMES = (
    "bool",
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
)


class Namespace:
    """A library's array API namespace, with an adapter's own functions in front of it.

    Derivative rules see this and nothing else of the library.
    """

    def __init__(self, base: Any, **own: Callable[..., Any]) -> None:
        self._base = base
        self.__dict__.update(own)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._base, name)
        self.__dict__[name] = value  # the next look-up is a plain attribute
        return value

    def __repr__(self) -> str:
        return f"<{self._base.__name__} as tapegrad sees it>"


class Backend:
    """An array library: its namespace and the few things the standard has no word for.

    A subclass for a library is an adapter. Only arrays and native devices and dtypes of that library
    come in and go out; no adapter knows of Tensors or records.
    """

    mutable = True  # whether arrays can be written in place

    def __init__(self, name: str, xp: Any) -> None:
        self.name = name
        self.prefix = name  # of the device strings
        self.xp = Namespace(
            xp, index_get=self.index_get, index_set=self.index_set, index_add=self.index_add
        )
        self.dtype_names: dict[object, str] = {self.native_dtype(n): n for n in self._known_dtypes()}

    # -- what the library is -------------------------------------------------------------------------

    @classmethod
    def why_not(cls) -> str | None:
        """Say in one line why the library cannot be used here, or None if it can."""
        return None

    def owns(self, array_type: type) -> bool:
        """Say whether a type from this library's package is its array type."""
        return True

    def _known_dtypes(self) -> Iterator[str]:
        return (name for name in DTYPE_NAMES if hasattr(self.xp, name))

    def native_dtype(self, name: str) -> Any:
        """Return the library's dtype object for a name of the standard, as `array.dtype` gives it."""
        return getattr(self.xp, name)

    def has_dtype(self, name: str, device: Any) -> bool:
        """Say whether a device has a dtype."""
        dtypes = self.xp.__array_namespace_info__().dtypes(device=device)
        return name in dtypes

    # -- devices and moving --------------------------------------------------------------------------

    def native_device(self, text: str) -> Any:
        """Return the library's device object for what follows the colon of a device string."""
        for device in self.xp.__array_namespace_info__().devices():
            if text in ("", str(device)):
                return device
        raise ValueError(f"{self.name} has no device {text!r}")

    def full_name(self, device: Any) -> str:
        """Return the device string of a native device."""
        return f"{self.prefix}:{device}"

    def device_string(self, array: Array) -> str:
        """Return the device string of an array."""
        return self.full_name(array.device)

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        """Return the values as a NumPy array, which may share memory with the array."""
        return np.asarray(array)

    def from_host(self, array: np.ndarray[Any, Any], device: Any) -> Array:
        """Return a new array on a device with the values, and the dtype, of a NumPy array."""
        return self.xp.asarray(array, dtype=self.native_dtype(array.dtype.name), device=device, copy=True)

    def move(self, array: Array, device: Any) -> Array:
        """Return the array on another device of the same library."""
        return array.to_device(device)

    def synchronize(self, array: Array) -> None:
        """Wait until the values of an array are computed."""

    # -- what functions return and users pass ---------------------------------------------------------

    def as_array(self, result: Any) -> Array:
        """Return what a function of the library returned as an array (NumPy returns scalars)."""
        return result

    def as_scalar(self, operand: Any) -> bool | int | float | complex | None:
        """Return an operand that is a scalar of the library, not an array, as a Python number."""
        return None

    # -- buffers -------------------------------------------------------------------------------------

    def copy(self, array: Array) -> Array:
        """Return a copy in memory of its own."""
        return self.xp.asarray(array, copy=True) if self.mutable else array

    def export(self, array: Array) -> Array:
        """Return the values for outsiders, so that nothing they do changes this array."""
        return self.copy(array)

    def is_private(self, holder: Any) -> bool:
        """Say whether nobody but `holder._array` can see that buffer, so that it may be written.

        False where the library cannot tell. It is asked about the slot, not the array: a reference
        passed as an argument would itself count.
        """
        return False

    def index_get(self, array: Array, key: tuple[Any, ...]) -> Array:
        """Return `array[key]`, which may be a view."""
        return array[key]

    def index_set(self, array: Array, key: tuple[Any, ...], value: Array) -> Array:
        """Write `array[key] = value` into a private array and return it (or a new array)."""
        array[key] = value
        return array

    def index_add(self, array: Array, key: tuple[Any, ...], value: Array) -> Array:
        """Add values at an index into a private array and return it; repeated indices add up.

        This default writes one item of an integer index at a time: right on every library, and slow.
        """
        arrays = [i for i in key if hasattr(i, "shape")]
        if not arrays or len(arrays) == len(key) == 1 and self.xp.isdtype(arrays[0].dtype, "bool"):
            array[key] = array[key] + value
            return array
        arrays = self.xp.broadcast_arrays(*arrays)
        first = leading_axes(key)
        for item in product(*map(range, arrays[0].shape)):
            numbers = iter(int(a[item]) for a in arrays)
            at = tuple(next(numbers) if hasattr(i, "shape") else i for i in key)
            array[at] = array[at] + value[(slice(None),) * first + item + (...,)]
        return array


def leading_axes(key: tuple[Any, ...]) -> int:
    """Count the axes of `x[key]` before those that the index arrays of a full key make."""
    where = [n for n, i in enumerate(key) if hasattr(i, "shape")]
    if where[-1] - where[0] >= len(where):
        return 0  # index arrays with a slice between them: their axes come first
    return sum(i is None or isinstance(i, slice) for i in key[: where[0]])
