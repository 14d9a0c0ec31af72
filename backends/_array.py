"""Names of arrays, dtypes and devices that all adapters share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Array = Any  # an array of whatever library
DTYPE_NAMES = (
    "bool",
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
)

DEVICE_IDS: dict[type, Callable[[Any], Any]] = {}  # types of native devices that cannot be hashed -> their identity


def as_key(x: Any) -> Any:
    """Return a static value as something hashable that equals for equal ones.

    Parameters
    ----------
    x : object
        The value, such as a dtype or a native device.

    Returns
    -------
    hashable
        The value itself, or a stand-in.

    Examples
    --------
    >>> from tapegrad import backends
    >>> backends.as_key(2)
    2
    """
    identity = DEVICE_IDS.get(type(x))
    return x if identity is None else (type(x), identity(x))
