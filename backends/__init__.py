"""Discovery of array libraries: which exist, which run here, which one an array or device belongs to.

An adapter is a module or a package `_<name>` in this folder with a class `Adapter` that derives from
`tapegrad.backends.Backend`. It is imported when its library is first used, never before.
"""

from __future__ import annotations

import importlib
import sys

from tapegrad.backends._array import Array, as_key
from tapegrad.backends._base import Backend, Namespace

__all__ = [
    "Array",
    "Availability",
    "Backend",
    "Namespace",
    "as_key",
    "available",
    "imported",
    "is_available",
    "load",
    "of_array",
    "of_device",
    "of_type",
]

# Device prefix -> adapter module, install command. "cpu" and "cuda" name NumPy and CuPy themselves.
_LIBRARIES = {
    "cpu": ("_numpy", "pip install numpy"),
    "cuda": ("_cupy", "pip install 'tapegrad[cuda13]' (or [cuda12])"),
    "torch": ("_torch", "pip install 'tapegrad[torch]'"),
    "jax": ("_jax", "pip install 'tapegrad[jax]'"),
    "strict": ("_strict", "pip install array-api-strict"),
}
# Root package of an array's type -> device prefix.
_ROOTS = {
    "numpy": "cpu",
    "cupy": "cuda",
    "torch": "torch",
    "jax": "jax",
    "jaxlib": "jax",
    "array_api_strict": "strict",
}
_loaded: dict[str, Backend] = {}


class Availability(dict[str, str | None]):
    """Device prefix -> None where it is usable, else the reason why not, in one line; print it for a table.

    Examples
    --------
    >>> from tapegrad import backends
    >>> print(backends.Availability({"cpu": None}))
    cpu     available
    """

    def __str__(self) -> str:
        return "\n".join(f"{name:8}{'available' if why is None else why}" for name, why in self.items())


def available() -> Availability:
    """Return which device prefixes this machine can run, and why it cannot run the others.

    It imports every installed library, so it may take seconds.

    Returns
    -------
    Availability
        A mapping from prefix ('cpu', 'cuda', 'torch', 'jax', 'strict') to None, or to the reason with the install
        command.

    Examples
    --------
    >>> from tapegrad import backends
    >>> backends.available()["cpu"] is None
    True
    """
    return Availability({prefix: _why_not(prefix) for prefix in _LIBRARIES})


def is_available(device: str) -> bool:
    """Say whether arrays can be made on a device here.

    Parameters
    ----------
    device : str
        The device, as in 'cpu', 'cuda:1', 'torch:cpu'.

    Returns
    -------
    bool
        Whether it is there.

    Raises
    ------
    TypeError
        The device is no string.

    Examples
    --------
    >>> from tapegrad import backends
    >>> backends.is_available("cpu")
    True
    """
    try:
        of_device(device)
    except (RuntimeError, ValueError):
        return False
    return True


def _why_not(prefix: str) -> str | None:
    module, install = _LIBRARIES[prefix]
    try:
        adapter: type[Backend] = importlib.import_module(f"{__name__}.{module}").Adapter
    except ImportError as error:
        return f"{error}; {install}"
    return adapter.why_not()


def _unknown(device: object) -> ValueError:
    return ValueError(
        f"unknown device {device!r}: it starts with one of {', '.join(_LIBRARIES)}, as in 'cpu', 'cuda:1', 'torch:cpu'"
    )


def load(prefix: str) -> Backend:
    """Return the adapter for a device prefix, importing its library on the first call.

    Parameters
    ----------
    prefix : str
        The prefix: 'cpu', 'cuda', 'torch', 'jax' or 'strict'.

    Returns
    -------
    Backend
        The adapter.

    Raises
    ------
    RuntimeError
        The library is not usable; the message has the reason and the install command.
    ValueError
        The prefix is unknown.

    Examples
    --------
    >>> from tapegrad import backends
    >>> backends.load("cpu").name
    'numpy'
    """
    backend = _loaded.get(prefix)
    if backend is None:
        if prefix not in _LIBRARIES:
            raise _unknown(prefix)
        why = _why_not(prefix)
        if why is not None:
            raise RuntimeError(f"device {prefix!r} is not available here: {why}")
        module = importlib.import_module(f"{__name__}.{_LIBRARIES[prefix][0]}")
        backend = _loaded.setdefault(prefix, module.Adapter())
    return backend


def imported() -> list[Backend]:
    """Return the adapters of the libraries that this process has imported, as far as they are usable.

    Returns
    -------
    list of Backend
        The adapters, NumPy's first.

    Examples
    --------
    >>> from tapegrad import backends
    >>> backends.imported()[0].name
    'numpy'
    """
    prefixes = dict.fromkeys(prefix for root, prefix in _ROOTS.items() if root in sys.modules)
    return [load(prefix) for prefix in prefixes if _why_not(prefix) is None]


def remedy(error: Exception) -> str:
    """Return advice for an error of a device, in one line.

    Parameters
    ----------
    error : Exception
        The error.

    Returns
    -------
    str
        The advice; an empty string for other errors.

    Examples
    --------
    >>> from tapegrad import backends
    >>> backends.remedy(ValueError())
    ''
    """
    return next((advice for backend in _loaded.values() if (advice := backend.remedy(error))), "")


def of_device(device: str) -> tuple[Backend, object]:
    """Return the adapter of a device, and that library's own device object.

    Parameters
    ----------
    device : str
        The device: 'cpu' is NumPy, 'cuda' and 'cuda:1' are CuPy, 'torch:cpu', 'jax:cpu', 'strict:device1' and the like
        name the library first.

    Returns
    -------
    tuple of Backend and object
        The adapter and the device object.

    Raises
    ------
    TypeError
        The device is no string.
    ValueError
        The device is unknown.
    RuntimeError
        The device is not there.

    Examples
    --------
    >>> from tapegrad import backends
    >>> backends.of_device("cpu")[0].name
    'numpy'
    """
    if not isinstance(device, str):
        number = f"; write 'cuda:{device}' for a GPU by its number" if type(device) is int else ""
        raise TypeError(
            f"a device is a string such as 'cpu', 'cuda:1' or 'torch:cpu', not {type(device).__name__}{number}"
        )
    prefix, _, rest = device.partition(":")
    if prefix not in _LIBRARIES and prefix not in _loaded:
        raise _unknown(device)
    backend = load(prefix)
    return backend, backend.native_device(rest)


def of_type(array_type: type) -> Backend | None:
    """Return the adapter whose library made arrays of a type.

    Parameters
    ----------
    array_type : type
        The type of the arrays.

    Returns
    -------
    Backend or None
        The adapter; None if there is none.

    Raises
    ------
    RuntimeError
        The library is not usable.

    Examples
    --------
    >>> import numpy as np
    >>> from tapegrad import backends
    >>> backends.of_type(np.ndarray).name
    'numpy'
    """
    for base in array_type.__mro__:
        root = base.__module__.partition(".")[0]
        if root in _ROOTS:
            backend = load(_ROOTS[root])
            return backend if backend.owns(array_type) else None
        if root in _loaded:
            return _loaded[root]
    return None


def of_array(array: object) -> Backend | None:
    """Return the adapter for an array, also for a library that has none of its own (Dask, ndonnx).

    Such a library is used through its array API namespace and the defaults of `Backend`.

    Parameters
    ----------
    array : object
        The array.

    Returns
    -------
    Backend or None
        The adapter; None if it is no array.

    Raises
    ------
    RuntimeError
        The library is not usable.

    Examples
    --------
    >>> import numpy as np
    >>> from tapegrad import backends
    >>> backends.of_array(np.ones(2)).name
    'numpy'
    """
    backend = of_type(type(array))
    if backend is None and _looks_like_an_array(array):
        from array_api_compat import array_namespace

        from tapegrad.backends._other import Adapter

        root = type(array).__module__.partition(".")[0]
        backend = _loaded.setdefault(root, Adapter(root, array_namespace(array)))
    return backend


def _looks_like_an_array(array: object) -> bool:
    if isinstance(array, type):  # np.float32 has an array's attributes, for its instances
        return False
    if type(array).__module__.startswith("tapegrad."):  # a Tensor is no array of a library
        return False
    return hasattr(array, "__array_namespace__") or type(array).__module__.startswith("dask.array")
