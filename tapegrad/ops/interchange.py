"""DLPack, both ways: memory handed from one array library to another."""

from __future__ import annotations

from typing import Any

from tapegrad import backends
from tapegrad._engine.dispatch import backend_of, find_backend
from tapegrad._engine.host_constants import HOST
from tapegrad._engine.rules import NONDIFFERENTIABLE
from tapegrad._engine.tensor import Tensor, host
from tapegrad.ops._text import documented
from tapegrad.ops.creation import asarray
from tapegrad.typing import SupportsDLPack

_CPU, _CUDA = 1, 2  # kinds of device, as DLPack counts them


@documented(
    "A Tensor of the shape and dtype of the object, on its device if that is not given.",
    "AttributeError: The object has no `__dlpack__`.",
    "ValueError: `copy` is False and a copy is unavoidable.",
    x=("An object that speaks DLPack, or an array of a library that tapegrad knows, which stays on that library."),
    device="The device of the result; where the object is for None.",
    copy=(
        "Whether to copy the memory; it is copied except for False, which is for memory that "
        "nobody will write to again."
    ),
)
def from_dlpack(x: SupportsDLPack, /, *, device: str | None = None, copy: bool | None = None) -> Tensor:
    """Make a Tensor of an object that speaks DLPack.

    Objects of libraries that tapegrad does not know become arrays of NumPy, or of CuPy if they are on a CUDA device.

    >>> import numpy as np, tapegrad as tg
    >>> tg.from_dlpack(np.asarray([1.0]))
    Tensor([1.])
    """
    backend = None if isinstance(x, Tensor) else find_backend(x)
    if backend is not None and backend.prefix == HOST and device is None:
        device = HOST
    if isinstance(x, Tensor) or backend is not None:
        return asarray(x, device=device, copy=copy)  # type: ignore[arg-type]
    if not hasattr(x, "__dlpack__"):
        raise AttributeError(f"from_dlpack: {type(x).__name__} has no __dlpack__: use tapegrad.asarray for data")
    kind, _ = _numbers(x.__dlpack_device__())
    if kind != _CUDA and device is None:
        device = HOST
    return asarray(backends.load("cuda" if kind == _CUDA else HOST).xp.from_dlpack(x), device=device, copy=copy)


NONDIFFERENTIABLE.add("from_dlpack")


def _numbers(device: tuple[Any, int]) -> tuple[int, int]:
    """Return a DLPack device, of whatever enumeration, as two ints."""
    kind, number = device
    return int(getattr(kind, "value", kind)), int(number)


def export(
    self: Tensor,
    /,
    *,
    stream: Any = None,
    max_version: tuple[int, int] | None = None,
    dl_device: tuple[Any, int] | None = None,
    copy: bool | None = None,
) -> Any:
    """Return a DLPack capsule of a copy; for copy=False of the memory itself, marked as read-only.

    Raises TypeError while this Tensor is being recorded; BufferError where copy=False cannot be marked so, and for a
    device other than its own and the host.
    """
    self._leave("DLPack export")
    array, backend = self._array, backend_of[type(self._array)]
    if not (backend.adapted or hasattr(array, "__dlpack__")):
        raise _no_export(backend.name)
    if dl_device is not None and _numbers(dl_device) != _numbers(array.__dlpack_device__()):
        if _numbers(dl_device)[0] != _CPU:
            raise BufferError(f"DLPack export from {self.device} to device {dl_device}: use x.to_device first")
        if copy is False:
            raise BufferError(f"DLPack export from {self.device} to the host needs a copy")
        array, backend = host(self), backends.load("cpu")
    if copy is False:
        return backend.readonly_dlpack(array, stream)
    # A capsule can say that it is read-only, but PyTorch does not listen: so it is a copy unless that was asked.
    return backend.copied_dlpack(array, stream=stream, max_version=max_version)


def device_of_memory(self: Tensor, /) -> tuple[Any, int]:
    """Return the DLPack device: its kind and its number."""
    array, backend = self._array, backend_of[type(self._array)]
    if not (backend.adapted or hasattr(array, "__dlpack_device__")):
        raise _no_export(backend.name)
    device: tuple[Any, int] = array.__dlpack_device__()
    return device


def _no_export(library: str) -> BufferError:
    return BufferError(f"{library} has no DLPack export: move the Tensor first, as in x.to_device('cpu')")
