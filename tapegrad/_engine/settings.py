"""Settings: defaults for device, dtype, order of sums and precision of products."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from tapegrad import backends
from tapegrad._engine.dtypes import DType, as_dtype, isdtype
from tapegrad.backends._settings import DETERMINISTIC, TF32, Scope, Setting
from tapegrad.typing import DTypeLike

_device: Setting[str | None] = Setting("device", os.environ.get("TAPEGRAD_DEVICE") or None)  # None: was not set
_dtype: Setting[DType] = Setting("dtype", as_dtype("float64"))


class Training(NamedTuple):
    """The mode of layers inside a block of `tapegrad.nn.training`.

    rng: the generator that they draw from, None if there is none; again: whether this is a second computation, as of a
    checkpoint, in which running statistics stay.
    """

    rng: Any
    again: bool = False


training_mode: ContextVar[Training | None] = ContextVar("tapegrad.training", default=None)  # None: evaluation
precision_mode: ContextVar[DType | None] = ContextVar("tapegrad.precision", default=None)  # None: that of operands
Modes = tuple[Training | None, DType | None]


def modes_of_layers() -> Modes:
    """Return the modes of layers in this context, for a second computation: see `modes_put_back`."""
    return training_mode.get(), precision_mode.get()


@contextmanager
def modes_put_back(modes: Modes) -> Iterator[None]:
    """A context in which layers compute again as they did in some modes."""
    training, precision = modes
    first = training_mode.set(None if training is None else training._replace(again=True))
    second = precision_mode.set(precision)
    try:
        yield
    finally:
        precision_mode.reset(second)
        training_mode.reset(first)


def default_device(device: str | None = None) -> Any:
    """Set the device of new Tensors, for good or in a `with` block; without an argument, return it.

    It holds for creation functions without `device=` and for data of the host: Python's numbers, lists, and NumPy's
    arrays, those given to transforms such as `grad` too. Arrays of other libraries stay where they are, except for
    those that `tensor` is given. The environment variable TAPEGRAD_DEVICE sets it from outside. As long as nothing
    sets it, it is "cpu", and all arrays stay.

    Parameters
    ----------
    device : str or None, default None
        The device, as in 'cpu', 'cuda:1', 'torch:cpu'; None to ask.

    Returns
    -------
    str or context manager
        The device for None; else an object for a `with` block, which is ignored to set it for good.

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
    >>> import tapegrad as tg
    >>> with tg.default_device("cpu"):
    ...     tg.zeros(2).device
    'cpu'
    >>> tg.default_device()
    'cpu'
    """
    if device is None:
        return _device.get() or "cpu"
    backends.of_device(device)
    return Scope(_device, device)


def chosen_device() -> str | None:
    """Return the device of new Tensors if the user has set one, else None."""
    return _device.get()


def default_dtype(dtype: DTypeLike | None = None) -> Any:
    """Set the float dtype of new Tensors, for good or in a `with` block; without an argument, return it.

    It starts as float64, the standard's default, on all devices. A device that has no float64 (JAX without x64, say)
    uses its own default as long as this was not set.

    Parameters
    ----------
    dtype : DTypeLike or None, default None
        The dtype; None to ask.

    Returns
    -------
    DType or context manager
        The dtype for None; else an object for a `with` block, which is ignored to set it for good.

    Raises
    ------
    TypeError
        The dtype is not a real floating one.

    Examples
    --------
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
    return Scope(_dtype, found)


def float_dtype_on(backend: backends.Backend, device: Any) -> Any:
    """Return the native float dtype that new Tensors on a device get."""
    dtype: DType = _dtype.get()
    name = dtype.name
    if name == "float64" and not backend.has_dtype(name, device):
        name = "float32"
    return backend.native_dtype(name)


def deterministic(on: bool | None = None) -> Any:
    """Add and write at repeated indices in a fixed order, for good or in a `with` block.

    The gradients of `take`, `take_along_axis` and of indexing by integer arrays add up where indices repeat, and
    `x[indices] = v` keeps the last value. A CUDA device does both in any order, so that the last bits, or which value
    stays, differ from run to run. With this on they are the same each time: the indices are sorted, which costs time.
    On CPUs it changes nothing. It starts as off.

    Parameters
    ----------
    on : bool or None, default None
        Whether to do so; None to ask.

    Returns
    -------
    bool or context manager
        Whether it is on for None; else an object for a `with` block, which is ignored to set it for good.

    Raises
    ------
    TypeError
        `on` is no bool.

    Examples
    --------
    >>> import tapegrad as tg
    >>> with tg.deterministic(True):
    ...     tg.deterministic()
    True
    """
    return _switch("deterministic", DETERMINISTIC, on)


def tf32(on: bool | None = None) -> Any:
    """Multiply matrices of float32 on CuPy in TF32, for good or in a `with` block.

    A GPU's tensor cores then round the factors to 10 bits of fraction, where float32 has 23, and add their products in
    float32: faster, and right to about three digits. It holds for `matmul`, `tensordot`, `vecdot` and their gradients,
    eager and compiled. A compiled function keeps a program for either: set it around calls, not inside. It starts as
    off, or as on where the variable CUPY_TF32 is 1, which CuPy's own functions obey. PyTorch and JAX have switches of
    their own (`torch.backends.cuda.matmul`, `jax_default_matmul_precision`).

    Parameters
    ----------
    on : bool or None, default None
        Whether to do so; None to ask.

    Returns
    -------
    bool or context manager
        Whether it is on for None; else an object for a `with` block, which is ignored to set it for good.

    Raises
    ------
    TypeError
        `on` is no bool.

    Examples
    --------
    >>> import tapegrad as tg
    >>> with tg.tf32(True):
    ...     tg.tf32()
    True
    """
    return _switch("tf32", TF32, on)


def _switch(name: str, setting: Setting[bool], on: bool | None) -> Any:
    if on is None:
        return setting.get()
    if not isinstance(on, bool):
        raise TypeError(f"{name}: True or False, not {type(on).__name__}")
    return Scope(setting, on)
