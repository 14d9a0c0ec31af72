"""Where and in which float dtype new Tensors are made when the call does not say."""

from __future__ import annotations

import os
from contextvars import ContextVar, Token
from typing import Any, Generic, TypeVar

from tapegrad import backends
from tapegrad._dtypes import DType, as_dtype, isdtype

T = TypeVar("T")


class _Setting(Generic[T]):
    """A value for the whole process, which a `with` block overrides for its own context."""

    def __init__(self, name: str, value: T) -> None:
        self.everywhere = value
        self.here: ContextVar[T] = ContextVar(f"tapegrad.{name}")

    def get(self) -> T:
        return self.here.get(self.everywhere)


class _Scope(Generic[T]):
    """What setting a default returns: leave it and it stays set, or use it in a `with` block."""

    def __init__(self, setting: _Setting[T], value: T) -> None:
        self._setting, self._value, self._previous = setting, value, setting.everywhere
        self._tokens: list[Token[T]] = []
        setting.everywhere = value

    def __enter__(self) -> T:
        if not self._tokens:
            self._setting.everywhere = self._previous
        self._tokens.append(self._setting.here.set(self._value))
        return self._value

    def __exit__(self, *error: object) -> None:
        self._setting.here.reset(self._tokens.pop())

    def __repr__(self) -> str:
        return f"<default {self._value!r}>"


_device = _Setting("device", os.environ.get("TAPEGRAD_DEVICE", "cpu"))
_dtype: _Setting[DType] = _Setting("dtype", as_dtype("float64"))


def default_device(device: str | None = None) -> Any:
    """Set the device of new Tensors, for good or in a `with` block; with no argument, return it.

    It holds for creation functions without `device=` and for Python data; arrays stay where they are.
    The environment variable TAPEGRAD_DEVICE sets it from outside; it starts as "cpu". Raises ValueError
    for an unknown string and RuntimeError for a device that is not there, before anything is set.

    >>> import tapegrad as tg
    >>> with tg.default_device("cpu"):
    ...     tg.zeros(2).device
    'cpu'
    >>> tg.default_device()
    'cpu'
    """
    if device is None:
        return _device.get()
    backends.of_device(device)
    return _Scope(_device, device)


def default_dtype(dtype: object = None) -> Any:
    """Set the float dtype of new Tensors, for good or in a `with` block; with no argument, return it.

    It starts as float64, the standard's default, on all devices; a device that has no float64 (JAX
    without x64, say) uses its own default as long as this was not set. Raises TypeError for a dtype that
    is not a real floating one.

    >>> import tapegrad as tg
    >>> with tg.default_dtype(tg.float32):
    ...     tg.zeros(2).dtype
    tapegrad.float32
    """
    if dtype is None:
        return _dtype.get()
    found = as_dtype(dtype)
    if not isdtype(found, "real floating"):
        raise TypeError(f"the default dtype must be a real floating one, not {found.name}")
    return _Scope(_dtype, found)


def float_dtype_on(backend: backends.Backend, device: Any) -> Any:
    """Return the native float dtype that new Tensors on a device get."""
    dtype: DType = _dtype.get()
    name = dtype.name
    if name == "float64" and not backend.has_dtype(name, device):
        name = "float32"
    return backend.native_dtype(name)
