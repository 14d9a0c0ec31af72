"""Another dtype, another device."""

from __future__ import annotations

from typing import Any

from tapegrad import backends
from tapegrad._engine.coercion import as_tensor
from tapegrad._engine.dispatch import backend_of, checked_dtype, dtype_of, native_device, native_dtype
from tapegrad._engine.dtypes import DTYPES, as_dtype, isdtype
from tapegrad._engine.graph_breaks import cut
from tapegrad._engine.levels import capturing
from tapegrad._engine.mode import notify_use
from tapegrad._engine.primitive import primitive
from tapegrad._engine.record import LEAF, Record
from tapegrad._engine.rules import identity
from tapegrad._engine.settings import float_dtype_on
from tapegrad._engine.tensor import Tensor, shallow_copy, wrap
from tapegrad.backends import Array, Backend
from tapegrad.ops._text import SAME, documented
from tapegrad.ops.shaping import reshape
from tapegrad.typing import ArrayLike, DTypeLike

_astype = primitive("astype", lambda xp, x, dtype: xp.astype(x, dtype), identity, moves="all")


@documented(
    "The elements of `x`, converted, in its shape.",
    "TypeError: `x` is complex and the dtype is not.",
    dtype="The dtype of the result.",
    copy=("Whether to return another Tensor where there is nothing to convert; it makes no difference to the values."),
    device="The device of the result; that of `x` for None.",
)
def astype(x: ArrayLike, dtype: DTypeLike, /, *, copy: bool = True, device: str | None = None) -> Tensor:
    """Convert to another dtype.

    Derivative: t, converted back; integers and booleans get none.

    >>> import tapegrad as tg
    >>> tg.astype(tg.asarray([1.5]), tg.int32)
    Tensor([1], dtype=int32)
    """
    x = as_tensor(x)
    to, now = as_dtype(dtype), x.dtype
    if now is to and not copy:
        return unchanged(x) if device is None else to_device(x, device)
    if now.kind == "complex floating" and to.kind != "complex floating":
        raise TypeError(f"astype: from {now.name} to {to.name} would drop imaginary parts: use tapegrad.real(x)")
    native = native_dtype(x._array, to)
    if x._record is not None and not isdtype(to, ("real floating", "complex floating")):
        cut(f"astype({to.name})", x._record)
        notify_use(x)
        x = wrap(x._array)
    y = _astype(x, native)
    return y if device is None else to_device(y, device)


def unchanged(x: Tensor) -> Tensor:
    """Return the result of a conversion with nothing to convert: another Tensor, so that a write leaves `x` as it is.

    A leaf that requires a gradient is returned itself: `.grad` is filled there, and writing to it raises.
    """
    notify_use(x)
    if x._record is not None:
        return x if x._record.op is LEAF else reshape(x, x.shape)
    y = shallow_copy(x)
    y._base = x
    return y


def as_floats(x: Any) -> Tensor:
    """Return an operand as a Tensor of floats: integers and booleans in the default float dtype of their device.

    Small integers would wrap in `x - max(x)` or `x * x`, and some libraries refuse them.
    """
    y: Tensor = as_tensor(x)
    a = y._array
    if "floating" in dtype_of(a).kind:
        return y
    backend = backend_of[type(a)]
    return astype(y, DTYPES[backend.dtype_names[float_dtype_on(backend, native_device(a))]])


def index_dtype(like: Array) -> str:
    """Return the name of the integers that count on an array's device: int64, or int32 where there is none."""
    return "int64" if backend_of[type(like)].has_dtype("int64", native_device(like)) else "int32"


def as_indices(x: Tensor) -> Tensor:
    """Return integers in a dtype that can number any axis: small ones would wrap, and PyTorch takes uint8 for masks."""
    return x if dtype_of(x._array).name in ("int64", "int32") else astype(x, index_dtype(x._array))


def full_name(device: str) -> str:
    """Return a device string as arrays on it report it ("cuda" is "cuda:0")."""
    backend, native = backends.of_device(device)
    return backend.full_name(native)


def transfer(array: Array, device: str) -> Array:
    """Return a raw array on another device, of another library if the device names that."""
    if backend_of[type(array)].depth:
        return backend_of[type(array)].transfer(array, device)
    graph = capturing.get()
    return _transfer(array, device) if graph is None else graph.call("to_device", _transfer, (array, device), {})


def _transfer(array: Array, device: str) -> Array:
    backend = backend_of[type(array)]
    to, native = backends.of_device(device)
    if to is backend:
        return backend.move(array, native)
    name = dtype_of(array).name
    checked_dtype(to, as_dtype(name), native)
    if name == "bfloat16":  # which NumPy lacks, and float32 holds exactly
        wide = backend.xp.astype(array, backend.native_dtype("float32"))
        return to.xp.astype(to.from_host(backend.to_host(wide), native), to.native_dtype(name))
    return to.from_host(backend.to_host(array), native)


def _move(t: Any, device: str) -> Any:
    return to_device(t, device) if type(t) is Tensor else transfer(t, device)


def _push_to_device(r: Record, tangents: dict[Record, Any], create_graph: bool) -> Any:
    (p,) = r.parents
    t = None if p is None else tangents.get(p)
    return None if t is None else _move(t, r.saved[0])


_to_device = primitive(
    "to_device",
    lambda xp, x, device, source: transfer(x, device),
    lambda xp, t, device, source: _move(t, source),
    moves="all",
    push=_push_to_device,
)


@documented(
    f"The elements of `x` in its shape, there. {SAME}",
    "ValueError: `stream` is given.",
    "TypeError: The device lacks the dtype.",
    device="The device, with the library where it is another one: 'cpu', 'cuda:1', 'torch:cpu'.",
    stream="Must be None; the libraries order their own work.",
)
def to_device(x: Tensor, device: str, /, *, stream: None = None) -> Tensor:
    """Move to another device, and to another library if the string names one.

    Derivative: t, moved back.

    >>> import tapegrad as tg
    >>> tg.asarray([1.0]).to_device("cpu").device
    'cpu'
    """
    if stream is not None:
        raise ValueError("to_device: stream= is not supported; pass None")
    name = full_name(device)
    if name == x.device:
        return unchanged(x)
    return _to_device(x, name, x.device)


def dtype_name(backend: Backend, native: Any) -> str:
    """Return the standard's name of a library's dtype."""
    return backend.dtype_names[native]
