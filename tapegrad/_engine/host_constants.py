"""Host arrays beside Tensors on a device: constants, copied to the device of the Tensor at each call."""

from __future__ import annotations

import sys
import warnings
import zlib
from collections.abc import Callable
from contextvars import ContextVar, Token
from threading import Lock
from types import FrameType
from typing import Any, NamedTuple

import numpy as np

from tapegrad import backends
from tapegrad._engine.dispatch import backend_of, checked_dtype, device_of, dtype_of, native_device
from tapegrad._engine.dtypes import promote
from tapegrad._engine.levels import capturing
from tapegrad._engine.source_line import inside, user_line
from tapegrad.backends import Array, Backend

HOST = "cpu"  # the device prefix of NumPy's arrays
LARGE = 2**20  # bytes from which a copy that recurs is worth a warning
RECURRING = 3  # copies of the same values on a line before a warning
_SAMPLE = 1024  # elements of an array that its checksum reads
_REMEMBERED = 16  # arrays that are remembered for a line
_LINES = 1024  # lines that are remembered
_NARROWER = {"float64": "float32", "complex128": "complex64", "int64": "int32", "uint64": "uint32"}


class Copies(NamedTuple):
    """The copies of host arrays: their number and their bytes."""

    times: int
    bytes: int


class HostCopies:
    """A `with` block that counts the copies of host arrays to the devices of Tensors beside them.

    Such an array is a constant, and goes where the Tensor is: see the guide examples/guides/devices.md. Inside a
    training loop that is a copy at each step. `print` gives a table of the lines, those with most bytes first.

    Attributes
    ----------
    count : int
        The number of copies in the block.
    bytes : int
        The number of bytes that were copied in the block.
    lines : dict of str to Copies
        The number of copies and of bytes, for each 'file:line'.

    Examples
    --------
    >>> import numpy as np, tapegrad as tg
    >>> with tg.HostCopies() as copies:
    ...     y = tg.ones(2, device="cpu") * np.asarray([1.0, 2.0])
    >>> copies.count  # both are on the host
    0
    """

    def __init__(self) -> None:
        self.lines: dict[str, Copies] = {}
        self._tokens: list[Token[tuple[HostCopies, ...]]] = []

    @property
    def count(self) -> int:
        """The number of copies."""
        return sum(n for n, _ in self.lines.values())

    @property
    def bytes(self) -> int:
        """The number of bytes that were copied."""
        return sum(size for _, size in self.lines.values())

    def __enter__(self) -> HostCopies:
        self._tokens.append(_counters.set((*_counters.get(), self)))
        return self

    def __exit__(self, *error: object) -> None:
        _counters.reset(self._tokens.pop())

    def __str__(self) -> str:
        rows = sorted(self.lines.items(), key=lambda item: -item[1].bytes)
        return "\n".join([f"{'copies':>8}  {'bytes':>12}  line", *[f"{n:8}  {b:12}  {line}" for line, (n, b) in rows]])

    def _add(self, line: str, size: int) -> None:
        n, total = self.lines.get(line, (0, 0))
        self.lines[line] = Copies(n + 1, total + size)


_counters: ContextVar[tuple[HostCopies, ...]] = ContextVar("tapegrad.host_copies", default=())


def is_host(array: Array, like: Array) -> bool:
    """Return whether a raw array is of the host, and another one, beside which it is used, is not."""
    backend = backend_of[type(array)]
    return backend.prefix == HOST and not backend.depth and backend_of[type(like)].prefix != HOST


def copied_beside(array: Array, like: Array, promoted: bool = False) -> Array:
    """Copy a raw array of the host to the device of another one, and count the copy.

    promoted: whether the array gets the dtype that NumPy promotes both to, if only one of them is floating. The
    standard leaves it open, and libraries differ.
    """
    root = backend_of[type(like)].root
    name = None
    if promoted:
        host, there = dtype_of(array), dtype_of(like)
        if ("floating" in there.kind) is not ("floating" in host.kind):
            name = promote(host, there).name
    return _called(_beside, array, getattr(root, "base", root), native_device(like), name)


def copied_to(array: Array, device: str) -> Array:
    """Copy a raw array of the host to a device."""
    return _called(constant_on, array, *backends.of_device(device))


def _called(function: Callable[..., Array], *args: Any) -> Array:
    graph = capturing.get()
    return function(*args) if graph is None else graph.call("to_device", function, args, {})


def constant_on(array: np.ndarray[Any, Any], backend: Backend, device: Any, dtype: str | None = None) -> Array:
    """Return data of the host as a new array on a device; dtype: the name of another dtype for it.

    If the device lacks the dtype, the array gets the narrower one, as Python numbers do. Raise OverflowError for
    integers that do not fit, TypeError for a dtype that is not in the standard.
    """
    if dtype is not None:
        array = array.astype(dtype)
    name = dtype_of(array).name
    if not backend.has_dtype(name, device):
        narrow = _NARROWER.get(name, name)
        if narrow == name or not backend.has_dtype(narrow, device):
            checked_dtype(backend, dtype_of(array), device)
        array = _narrowed(array, narrow)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return backend.from_host(array, device)


def copied_by(function: Any, args: tuple[Any, ...]) -> Callable[[Array], Array] | None:
    """Return a function that repeats a recorded copy for another array; None for any other recorded call."""
    if function not in (constant_on, _beside):
        return None
    return lambda array: function(array, *args[1:])


def _beside(array: np.ndarray[Any, Any], backend: Backend, device: Any, dtype: str | None) -> Array:
    out = constant_on(array, backend, device, dtype)
    if _counters.get() or array.nbytes >= LARGE:
        _note(array, out)
    return out


def _narrowed(array: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    if array.dtype.kind in "iu" and array.size:
        limits = np.iinfo(name)
        if array.min() < limits.min or array.max() > limits.max:
            raise OverflowError(
                f"integers of an array of {array.dtype.name} do not fit in {name}, the widest on the device of the "
                "Tensor beside it"
            )
    with np.errstate(over="ignore"):
        return array.astype(name)


# -- counting --------------------------------------------------------------------------------------------


def _note(array: np.ndarray[Any, Any], out: Array) -> None:
    line = user_line()
    for counter in _counters.get():
        counter._add(line, array.nbytes)
    if array.nbytes >= LARGE and _recurs(line, array):
        _warn(
            f"an array of {array.nbytes / 2**20:.1f} MiB on the host is copied to {device_of(out)} each time that this "
            "line runs: make it a Tensor there once, before the loop, as in "
            f"x = tapegrad.asarray(x, device={device_of(out)!r})"
        )


# For each line the number of copies of each array, by checksum; None once the line was warned of.
_seen: dict[str, dict[int, int] | None] = {}
_lock = Lock()


def _recurs(line: str, array: np.ndarray[Any, Any]) -> bool:
    """Return whether a line copies the same values repeatedly and was not warned of yet.

    Values are compared by a checksum of a sample. Identity would not do: an array that is computed at each step is a
    new object. Batches of data on one line have other values.
    """
    key = _checksum(array)
    with _lock:
        known = _seen.setdefault(line, {})
        if known is None:
            return False
        known[key] = known.pop(key, 0) + 1
        if known[key] >= RECURRING:
            _seen[line] = None
            return True
        if len(known) > _REMEMBERED:
            del known[next(iter(known))]
        if len(_seen) > _LINES:
            del _seen[next(iter(_seen))]
    return False


def _checksum(array: np.ndarray[Any, Any]) -> int:
    step = max(array.size // _SAMPLE, 1)
    sample = array.flat[:: step + (step % 2 == 0)]  # an odd step meets all columns of most shapes
    return zlib.crc32(repr((array.shape, array.dtype)).encode(), zlib.crc32(sample.tobytes()))


def _warn(message: str) -> None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and inside(frame):
        frame = frame.f_back
    if frame is None:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return
    module = frame.f_globals.get("__name__", "<unknown>")
    warnings.warn_explicit(message, RuntimeWarning, frame.f_code.co_filename, frame.f_lineno, module)
