"""Computing on the device of the operands where another one is current, on a machine with several CUDA devices.

CuPy computes on the current device of the thread. Here each function of the namespace enters the device of its arrays
if that is another one, and goes back. With one device none of this is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from types import ModuleType
from typing import Any

import cupy
from cupy.cuda import runtime

from tapegrad.backends._array import Array
from tapegrad.backends._base import Namespace
from tapegrad.backends._special import Special

_PARTS = (ModuleType, Namespace, Special)  # namespaces within a namespace


def arrays_in(values: Iterable[Any]) -> Iterator[Array]:
    """Go through the arrays among arguments, and in tuples and lists of them."""
    for x in values:
        if isinstance(x, cupy.ndarray):
            yield x
        elif type(x) is tuple or type(x) is list:
            yield from arrays_in(x)


def there(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is computed on the device of the arrays among its arguments.

    It raises ValueError for arrays of different devices. Without arrays it is computed on the current one.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        found = {a.data.device_id for a in arrays_in((*args, *kwargs.values()))}
        if len(found) > 1:
            raise ValueError(f"operands on {' and '.join(f'cuda:{i}' for i in sorted(found))}; move one first")
        here = runtime.getDevice()
        if not found or here in found:
            return function(*args, **kwargs)
        with cupy.cuda.Device(found.pop()):
            return function(*args, **kwargs)

    return call


class Everywhere(Namespace):
    """A namespace whose functions are computed on the device of their arrays."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._base, name)
        if isinstance(value, _PARTS):
            value = Everywhere(value)
        elif callable(value) and not isinstance(value, type):
            value = there(value)
        self.__dict__[name] = value
        return value

    def elsewhere(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return `function(*args)`, which may compute with operators on arrays and make another device the current one.

        It begins on the device of the first array among the arguments.
        """
        here = runtime.getDevice()
        try:
            enter(next(arrays_in(args), None))
            return function(*args)
        finally:
            runtime.setDevice(here)

    def as_one(self, function: Callable[..., Any], *arrays: Array) -> Array:
        """Return `function(self, *arrays)`, computed where the arrays are."""
        return self.elsewhere(function, self, *arrays)

    def by_record(self, arrays: dict[Any, Any]) -> dict[Any, Any]:
        """Return a dictionary of arrays; reading one makes its device the current one."""
        return _Entered(arrays)


def enter(x: Any) -> None:
    """Make the device of an array, or of the first one in a list, the current one."""
    a = next(arrays_in((x,)), None)
    if a is not None and a.data.device_id != runtime.getDevice():
        runtime.setDevice(a.data.device_id)


class _Entered(dict[Any, Any]):
    def pop(self, key: Any, *default: Any) -> Any:
        x = super().pop(key, *default)
        enter(x)
        return x

    def get(self, key: Any, default: Any = None) -> Any:
        x = super().get(key, default)
        enter(x)
        return x

    def __getitem__(self, key: Any) -> Any:
        x = super().__getitem__(key)
        enter(x)
        return x
