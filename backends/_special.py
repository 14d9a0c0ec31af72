"""Special functions of a library, found by SciPy's names for them when they are first used.

A library without special functions of its own gets SciPy's, through the host.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np

from tapegrad.backends._array import Array
from tapegrad.backends._special_functions import COMPOSED

Function = Callable[..., Any]


class Special:
    """The namespace `xp.special` on raw arrays: a function is looked up once, and is a plain attribute then."""

    def __init__(self, find: Callable[[str], Function]) -> None:
        self._find = find

    def __getattr__(self, name: str) -> Function:
        if name.startswith("_"):
            raise AttributeError(name)
        function = self._find(name)
        self.__dict__[name] = function
        return function


def scipy_special() -> Any:
    """Return scipy.special; raise ImportError with the install command if SciPy is missing."""
    try:
        import scipy.special
    except ImportError as error:
        raise ImportError(
            "special functions of NumPy arrays, and of libraries without their own, are SciPy's, which cannot be "
            f"imported ({error}): pip install 'tapegrad[scipy]'"
        ) from error
    return scipy.special


class Host(Protocol):
    """The part of an adapter that copies arrays from and to the host."""

    xp: Any

    def to_host(self, array: Array) -> Any: ...
    def from_host(self, array: Any, device: Any) -> Array: ...
    def has_dtype(self, name: str, device: Any) -> bool: ...


def find(
    backend: Host,
    name: str,
    module: Any = None,
    own: Mapping[str, Function] | None = None,
    composed: Collection[str] = (),
) -> Function:
    """Return a special function for the arrays of a library.

    name: SciPy's name; module: the library's module of special functions; own: functions that the library has elsewhere
    or under another name; composed: names for which the composition is better than the module's function.
    """
    if own is not None and name in own:
        return own[name]
    missing = module is not None and not hasattr(module, name)
    # polygamma is always composed: those of the libraries return float64 for float32, or have 10 digits.
    if name in COMPOSED and (missing or name in composed or name == "polygamma"):
        return partial(COMPOSED[name], backend.xp)
    if module is None or missing:
        return through_host(backend, name)
    return getattr(module, name)  # type: ignore[no-any-return]


def through_host(backend: Host, name: str) -> Function:
    """Return SciPy's function for arrays of another library; the result is on the argument's device."""
    function = getattr(scipy_special(), name)

    def call(*args: Any) -> Array:
        device = next(getattr(a, "device", None) for a in args if hasattr(a, "shape"))
        out = np.asarray(function(*[backend.to_host(a) if hasattr(a, "shape") else a for a in args]))
        if out.dtype == np.float64 and not backend.has_dtype("float64", device):  # SciPy returns it for integers
            out = out.astype(np.float32)
        return backend.from_host(out, device)

    return call


def promoting(xp: Any, function: Function) -> Function:
    """Return a function of two arrays that promotes them as the standard does, those of no axes too."""

    def call(a: Array, b: Array) -> Array:
        if a.dtype != b.dtype:
            dtype = xp.result_type(a, b)
            a, b = xp.astype(a, dtype), xp.astype(b, dtype)
        return function(a, b)

    return call
