"""Dispatch from an array to the adapter of its library, cached by type: one dict look-up on the hot path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from tapegrad import backends
from tapegrad._engine.dtypes import DTYPES, DType, as_dtype
from tapegrad._engine.levels import Level, capturing, mapping
from tapegrad.backends import Array, Backend


class CaptureError(RuntimeError):
    """A call cannot be compiled as it is written; the message names the line and the way out.

    Examples
    --------
    >>> import tapegrad as tg
    >>> @tg.compile
    ... def halved(x):
    ...     return x / 2 if x > 0 else x
    >>> half = halved(tg.asarray(3.0))  # the first call is right whatever it does
    >>> try:
    ...     halved(tg.asarray(3.0))
    ... except tg.CaptureError as error:
    ...     print("needs the value of an array" in str(error))
    True
    """


class _Backends(dict[type, Backend]):
    def __missing__(self, array_type: type) -> Backend:
        backend = backends.of_type(array_type)
        if backend is None:
            raise TypeError(f"{array_type.__module__}.{array_type.__qualname__} is not an array tapegrad knows")
        return self.setdefault(array_type, backend)


class _Namespaces(dict[type, Any]):
    def __missing__(self, array_type: type) -> Any:
        return self.setdefault(array_type, backend_of[array_type].xp)


backend_of = _Backends()
namespace_of = _Namespaces()


def find_backend(array: object) -> Backend | None:
    """Return the adapter for an array object, or None if it is no array."""
    backend = backend_of.get(type(array))
    if backend is None:
        backend = backends.of_array(array)
        if backend is not None:
            backend_of[type(array)] = backend
    return backend


def as_array(x: Any) -> Array:
    """Return a raw result as an array; some libraries return scalars."""
    return backend_of[type(x)].as_array(x)


def device_of(array: Array) -> str:
    """Return the device string of a raw array."""
    return backend_of[type(array)].device_string(array)


def native_device(array: Array) -> Any:
    """Return the library's own device object of a raw array, or None if it has none, as a tracer."""
    return getattr(array, "device", None)


def dtype_of(array: Array) -> DType:
    """Return the dtype of a raw array; raise TypeError if the standard has no such dtype."""
    name = backend_of[type(array)].dtype_names.get(array.dtype)
    return DTYPES[name] if name is not None else as_dtype(array.dtype)


def native_dtype(array: Array, dtype: object) -> Any:
    """Return the native dtype object for a raw array's library; raise TypeError if the device lacks it."""
    backend = backend_of[type(array)]
    return checked_dtype(backend, as_dtype(dtype), native_device(array))


# dtype -> the one to use on a device that lacks it.
_INSTEAD = {
    "float64": "float32",
    "complex128": "complex64",
    "int64": "int32",
    "uint64": "uint32",
    "bfloat16": "float32",
}


def checked_dtype(backend: Backend, dtype: DType, device: Any) -> Any:
    """Return a library's own dtype object; raise TypeError if the device lacks it."""
    if not backend.has_dtype(dtype.name, device):
        where = backend.prefix if device is None else f"{backend.prefix} device {device}"
        instead = _INSTEAD.get(dtype.name)
        fix = "pass another dtype="
        if instead is not None:
            fix = f"pass dtype=tapegrad.{instead}, or convert with tapegrad.astype(x, tapegrad.{instead}) first"
        raise TypeError(f"{dtype.name} is not available on {where}: {fix}{backend.dtype_hint}")
    return backend.native_dtype(dtype.name)


def as_tracer(array: Any) -> Any:
    """Return the tracer of a raw array from outside while a program is captured, else the array itself."""
    graph = capturing.get()
    if graph is None or (type(array) in backend_of and backend_of[type(array)].depth):
        return array  # a batched array holds tracers
    return graph.lift(array)


def untrace(array: Any) -> Any:
    """Return the raw array behind a tracer that goes to the user, or the array itself."""
    graph = capturing.get()
    return array if graph is None else graph.untrace(array)


def innermost_backend(backend: Backend) -> Backend:
    """Return the adapter that makes new arrays here: that of the innermost vmap, over that of the capture."""
    graph, level = capturing.get(), mapping.get()
    if graph is not None:
        backend = graph.backend(backend)
    return backend if level is None else level.backend(backend)


def computed(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call a function of a library, or an operator, on the device of the arrays."""
    like = next((a for a in args if type(a) in backend_of), None)
    elsewhere = None if like is None else namespace_of[type(like)].elsewhere
    return function(*args, **kwargs) if elsewhere is None else elsewhere(partial(function, **kwargs), *args)


def holds(condition: Array) -> bool:
    """Return whether a condition, an array of one boolean, holds; inside vmap, for any example."""
    return backend_of[type(condition)].holds(condition)


@contextmanager
def on_level(level: Level | None) -> Iterator[None]:
    """A context in which new arrays belong to a level of vmap, or to none."""
    token = mapping.set(level)
    try:
        yield
    finally:
        mapping.reset(token)


def outer_record(array: Array) -> Any:
    """Return the record that a batched array has on the tape outside of its vmap, or None."""
    return backend_of[type(array)].outer_record(array)


def detached_array(array: Array) -> Array:
    """Return an array detached from the tape outside of a vmap."""
    return backend_of[type(array)].detached(array)
