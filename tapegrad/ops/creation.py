"""Making Tensors, from data and from nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad import backends
from tapegrad._engine.coercion import SCALARS, as_tensor, as_tensors, within
from tapegrad._engine.dispatch import (
    backend_of,
    checked_dtype,
    constant_array,
    device_of,
    dtype_of,
    entered,
    find_backend,
    lifted,
    namespace_of,
    native_device,
    native_dtype,
)
from tapegrad._engine.dtypes import KIND_RANKS, DType, as_dtype, isdtype, of_parts
from tapegrad._engine.graph_breaks import cut
from tapegrad._engine.host_constants import HOST, moved_to
from tapegrad._engine.primitive import primitive
from tapegrad._engine.record import mode, noticed
from tapegrad._engine.rules import composed, constant
from tapegrad._engine.settings import chosen_device, default_device, float_dtype_on
from tapegrad._engine.tensor import Tensor, make_leaf, wrap
from tapegrad.backends import Array, Backend
from tapegrad.ops.conversion import astype, dtype_name, full_name, to_device, transfer, unchanged
from tapegrad.ops.shaping import _sizes, broadcast_to, reshape, stack

# -- from data -------------------------------------------------------------------------------------------


def tensor(data: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Make a new Tensor from numbers, nested lists, an array of any library, or another Tensor's value.

    The data is always copied, and the Tensor is a constant or a leaf: `asarray` keeps what is recorded. dtype: by
    default that of an array, `default_dtype` for Python floats; device: by default `default_device`, if it was set,
    for all but Tensors, which stay where they are; if it was not, "cpu" for Python data and an array's own.
    requires_grad: make it a leaf, whose `.grad` `backward` fills. Raises TypeError for objects, strings and ragged
    lists, for a Tensor that is being recorded, and for a leaf that is not real floating; ValueError and RuntimeError
    for a device that does not exist or is not there.

    >>> import tapegrad as tg
    >>> tg.tensor([1, 2, 3])
    Tensor([1, 2, 3])
    >>> tg.tensor([1.0], dtype=tg.float32, requires_grad=True)
    Tensor([1.], dtype=float32, requires_grad=True)
    """
    if isinstance(data, Tensor):
        if data.requires_grad and mode().recording:
            raise TypeError(
                "tensor: a new Tensor would not be tied to this one, which is recorded, and lose its gradient: use "
                "tapegrad.asarray(x), or tapegrad.asarray(x, copy=True), which are recorded, or "
                "tapegrad.tensor(x.detach()) for a constant"
            )
        noticed(data)
        data = constant_array(data._array)
        if device is None and backend_of[type(data)].prefix == HOST:
            device = HOST
    elif _first_tensor(data) is not None:
        raise TypeError("tensor: a list of Tensors is joined with tapegrad.stack or tapegrad.concat")
    elif device is None and (backend := find_backend(data)) is not None and backend.prefix != HOST:
        device = chosen_device()
    x = asarray(data, dtype=dtype, device=device, copy=True)
    if requires_grad:
        make_leaf(x)
    return x


@composed
def asarray(obj: Any, /, *, dtype: Any = None, device: str | None = None, copy: bool | None = None) -> Tensor:
    """Return a Tensor of an object, on the device of its library unless `device` says otherwise.

    obj: a Tensor (conversions of it are recorded; a leaf that needs none is returned itself), an array of any
    library, a number, or nested lists of numbers and Tensors, which are stacked on the device of the Tensors and
    recorded. Numbers and arrays of NumPy go to `default_device`, if it was set; other arrays stay where they are.
    copy: an array that others may write to is copied unless this is False, which is for arrays that nobody will write
    to again; False returns a Tensor itself, and raises ValueError if a copy is unavoidable.

    >>> import numpy as np, tapegrad as tg
    >>> tg.asarray(np.asarray([1.0, 2.0]))
    Tensor([1., 2.])
    """
    if isinstance(obj, Tensor):
        return _asarray_of_tensor(obj, dtype, device, copy)
    obj = lifted(obj)
    backend = find_backend(obj)
    if backend is None:
        like = _first_tensor(obj)
        if like is not None:
            return _asarray_of_tensor(_joined(obj, like), dtype, device, copy)
        return wrap(_from_python(obj, dtype, *backends.of_device(_or_default(device)), copy))
    backend.refuse_recorded(obj)
    array = backend.as_array(obj)
    checked = dtype_of(array)  # object and string arrays stop here
    if device is None and backend.prefix == HOST and not backend.depth:
        device = chosen_device()
        if device is not None and full_name(device) != HOST and dtype is None and copy is not False:
            return within(wrap(moved_to(array, device)))
    if dtype is not None and as_dtype(dtype) is not checked:
        if copy is False:
            raise ValueError(f"asarray: from {checked.name} to {as_dtype(dtype).name} needs a copy")
        if device is not None and not backend.has_dtype(as_dtype(dtype).name, native_device(array)):
            array = transfer(array, device)  # NumPy has no bfloat16, a GPU has
        array = namespace_of[type(array)].astype(array, native_dtype(array, dtype))
        copy = False
    if device is not None and device_of(array) != full_name(device):
        if copy is False and array is obj:
            raise ValueError(f"asarray: from {device_of(array)} to {device} needs a copy")
        return within(wrap(transfer(array, device)))
    return within(wrap(array if copy is False else backend.copy(array)))


def on_device(x: Any, device: str | None) -> Tensor:
    """Return an array or number as a constant, one of the host on a device; None is the default one."""
    backend = find_backend(x)
    if device is None or (backend is not None and backend.prefix != HOST):
        return asarray(x)
    if backend is None or backend.as_scalar(x) is not None or full_name(device) == HOST:
        return asarray(x, device=device)
    return within(wrap(moved_to(lifted(x), device)))


def _asarray_of_tensor(x: Tensor, dtype: Any, device: str | None, copy: bool | None) -> Tensor:
    if dtype is not None and as_dtype(dtype) is not x.dtype:
        if copy is False:
            raise ValueError(f"asarray: from {x.dtype.name} to {as_dtype(dtype).name} needs a copy")
        x = astype(x, dtype)
        copy = None
    if device is not None and full_name(device) != x.device:
        if copy is False:
            raise ValueError(f"asarray: from {x.device} to {device} needs a copy")
        return to_device(x, device)
    if copy is False:
        noticed(x)
        return x  # whose memory the result is to share, in-place updates included
    return _positive_copy(x) if copy else unchanged(x)


def _first_tensor(obj: Any) -> Tensor | None:
    """Return the first Tensor in nested lists, None without one."""
    if not isinstance(obj, (list, tuple)):
        return obj if type(obj) is Tensor else None
    kinds = set(map(type, obj))  # at the speed of C, for long lists of numbers
    if not any(kind is Tensor or issubclass(kind, (list, tuple)) for kind in kinds):
        return None
    return next((found for part in obj if (found := _first_tensor(part)) is not None), None)


def _joined(obj: Any, like: Tensor) -> Tensor:
    """Return nested lists that hold Tensors as one Tensor, stacked from the inside out; numbers adapt to a Tensor."""
    if isinstance(obj, (list, tuple)):
        return stack([_joined(part, like) for part in obj])
    return obj if type(obj) is Tensor else as_tensors("asarray", like, obj)[1]


def _positive_copy(x: Tensor) -> Tensor:
    """Return another Tensor of the same value: a Tensor is a value, so the buffer may be shared."""
    noticed(x)
    x = within(x)
    return wrap(x._array) if x._record is None else astype(x, x.dtype)


def of_list(obj: Any, like: Array, weak: bool = False, dtype: Any = None) -> Tensor:
    """Return nested lists as a Tensor where a raw array is, recorded if they hold Tensors that are.

    weak: whether numbers get the dtype of the array wherever its kind allows; dtype: of others; by default what new
    Tensors of them get.
    """
    tensor = _first_tensor(obj)
    if tensor is not None:
        return _joined(obj, tensor)
    if weak:
        dtype = _weak_dtype(obj, dtype_of(like))
    root = backend_of[type(like)].root
    return wrap(_from_python(obj, dtype, getattr(root, "base", root), native_device(like), None))


def _weak_dtype(obj: Any, like: DType) -> DType | None:
    """Return the dtype of lists of numbers beside an array of a dtype, None for the one of new Tensors."""
    try:
        kind = np.asarray(obj).dtype.kind
    except ValueError:  # ragged, which is explained later
        return None
    rank = {"b": 0, "u": 1, "i": 1, "f": 3, "c": 4}.get(kind, 5)
    if rank <= KIND_RANKS[like.kind]:
        return like
    return of_parts(like) if kind == "c" and like.kind == "real floating" else None


def _or_default(device: str | None) -> str:
    return default_device() if device is None else device


def _from_python(obj: Any, dtype: Any, backend: Backend, native: Any, copy: bool | None) -> Array:
    """Return numbers, or nested lists of them, as a raw array of a library on one of its devices."""
    if copy is False:
        raise ValueError("asarray: Python data always needs a copy")
    _check_parts(obj)
    try:
        values = np.asarray(obj)
        if dtype is not None and values.dtype.kind == "f" and isdtype(dtype, "integral"):
            values = np.asarray(obj, dtype=as_dtype(dtype).name)  # NumPy takes integers from 2^63 on for floats
    except ValueError as error:
        raise TypeError(f"asarray: {error}") from error
    if values.dtype.kind not in "biufc":
        raise TypeError(
            f"asarray: {type(obj).__name__} gives an array of {values.dtype.name}; a Tensor holds numbers and booleans"
        )
    backend = entered(backend)
    if dtype is not None:
        to = checked_dtype(backend, as_dtype(dtype), native)
        if values.dtype.kind == "c" and not isdtype(dtype, "complex floating"):
            raise TypeError(f"asarray: complex numbers do not fit in {as_dtype(dtype).name}")
    elif values.dtype.kind == "f":
        to = float_dtype_on(backend, native)
    elif values.dtype.kind == "c":
        double = dtype_name(backend, float_dtype_on(backend, native)) == "float64"
        to = backend.native_dtype("complex128" if double else "complex64")
    else:
        name = values.dtype.name
        to = backend.native_dtype(name if backend.has_dtype(name, native) else "int32")
    name = dtype_name(backend, to)
    if name == "bfloat16":  # which NumPy lacks
        return backend.xp.astype(backend.from_host(values.astype("float32"), native), to)
    return backend.from_host(values.astype(name, copy=False), native)


def _check_parts(obj: Any) -> None:
    """Raise TypeError for nested lists with a part that NumPy would take for less than it is: a masked array."""
    if not isinstance(obj, (list, tuple)):
        return
    kinds = set(map(type, obj)) - SCALARS  # at the speed of C, for long lists of numbers
    for kind in kinds:
        if not issubclass(kind, (list, tuple)):
            backends.of_type(kind)
    for part in obj if any(issubclass(kind, (list, tuple)) for kind in kinds) else ():
        _check_parts(part)


# -- from nothing ------------------------------------------------------------------------------------------


def _place(dtype: Any, device: str | None, integer: bool = False) -> tuple[Backend, Any, Any]:
    """Return the adapter, native device and native dtype for a new array."""
    backend, native = backends.of_device(_or_default(device))
    backend = entered(backend)
    if dtype is not None:
        return backend, native, checked_dtype(backend, as_dtype(dtype), native)
    if integer:
        name = "int64" if backend.has_dtype("int64", native) else "int32"
        return backend, native, backend.native_dtype(name)
    return backend, native, float_dtype_on(backend, native)


def _shape(shape: Any) -> tuple[int, ...]:
    sizes = _sizes("creation", shape)
    if any(n < 0 for n in sizes):
        raise ValueError(f"a shape has no negative lengths, but {shape} has")
    return sizes


def _like(x: Any, dtype: Any, device: str | None) -> tuple[Tensor, DType, str]:
    x = as_tensor(x)
    return x, x.dtype if dtype is None else as_dtype(dtype), x.device if device is None else device


@constant
def zeros(shape: Any, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """Make a Tensor of zeros, of the default float dtype unless said otherwise.

    >>> import tapegrad as tg
    >>> tg.zeros(2)
    Tensor([0., 0.])
    """
    return full(shape, 0, dtype=default_if(dtype, device), device=device)


@constant
def ones(shape: Any, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """Make a Tensor of ones, of the default float dtype unless said otherwise.

    >>> import tapegrad as tg
    >>> tg.ones(2)
    Tensor([1., 1.])
    """
    return full(shape, 1, dtype=default_if(dtype, device), device=device)


def _number(name: str, value: Any) -> Any:
    """Return a number, which may be a NumPy scalar or a Tensor of one element, as a Python one."""
    if type(value) in SCALARS:
        return value
    x = as_tensor(value)
    if x._record is not None:  # what is made has integers, or nothing is recorded here
        cut(f"{name}()", x._record)
    return wrap(x._array).item()


def _is_recorded(value: Any) -> bool:
    """Say whether a number is a Tensor whose gradient, or the value that each example of vmap has, must not be lost."""
    if type(value) is not Tensor:
        return False
    return (value.requires_grad and mode().recording) or backend_of[type(value._array)].depth > 0


def _differentiable(numbers: tuple[Any, ...], dtype: Any, device: str | None) -> tuple[DType, list[Tensor]] | None:
    """Return the dtype of what is made of numbers, and them as Tensors of it, if any is recorded; else None."""
    if not any(_is_recorded(v) for v in numbers) or (dtype is not None and isdtype(dtype, ("integral", "bool"))):
        return None
    if dtype is None:
        kinds = [as_tensor(v).dtype.kind for v in numbers]
        if not any("floating" in kind for kind in kinds):
            return None
        dtype = _complex_dtype(device) if "complex floating" in kinds else default_if(None, device)
    device = full_name(_or_default(device))
    tensors = [v if type(v) is Tensor else full((), v, dtype=dtype, device=device) for v in numbers]
    return as_dtype(dtype), [to_device(astype(reshape(v, ()), dtype), device) for v in tensors]


def _complex_dtype(device: str | None) -> str:
    return "complex128" if default_if(None, device) == "float64" else "complex64"


def default_if(dtype: Any, device: str | None) -> Any:
    """Return a dtype, or for None the name of the float dtype that new Tensors on a device get."""
    if dtype is not None:
        return dtype
    backend, _, native = _place(None, device)
    return dtype_name(backend, native)


@constant
def empty(shape: Any, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """Make a Tensor whose values are not set, of the default float dtype unless said otherwise.

    >>> import tapegrad as tg
    >>> tg.empty((2, 3)).shape
    (2, 3)
    """
    backend, native, to = _place(dtype, device)
    return wrap(backend.xp.empty(_shape(shape), dtype=to, device=native))


@composed
def full(shape: Any, fill_value: Any, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """Make a Tensor of one value, a number; its dtype follows the number unless said otherwise.

    fill_value: also a Tensor of one element. Derivative in it: the sum of t.

    >>> import tapegrad as tg
    >>> tg.full(2, 7)
    Tensor([7, 7])
    """
    recorded = _differentiable((fill_value,), dtype, device)
    if recorded is not None:
        return broadcast_to(recorded[1][0], _shape(shape))
    fill_value = _number("full", fill_value)
    if dtype is None and isinstance(fill_value, bool):
        dtype = "bool"
    if dtype is None and isinstance(fill_value, complex):
        dtype = _complex_dtype(device)
    backend, native, to = _place(dtype, device, integer=isinstance(fill_value, int))
    return wrap(backend.xp.full(_shape(shape), fill_value, dtype=to, device=native))


@constant
def zeros_like(x: Any, /, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """Make zeros of the shape, dtype and device of another Tensor.

    >>> import tapegrad as tg
    >>> tg.zeros_like(tg.asarray([1.0]))
    Tensor([0.])
    """
    x, dtype, device = _like(x, dtype, device)
    return full(x.shape, 0, dtype=dtype, device=device)


@constant
def ones_like(x: Any, /, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """Make ones of the shape, dtype and device of another Tensor.

    >>> import tapegrad as tg
    >>> tg.ones_like(tg.asarray([3.0]))
    Tensor([1.])
    """
    x, dtype, device = _like(x, dtype, device)
    return full(x.shape, 1, dtype=dtype, device=device)


@constant
def empty_like(x: Any, /, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """Make a Tensor of another's shape, dtype and device whose values are not set.

    >>> import tapegrad as tg
    >>> tg.empty_like(tg.asarray([3.0])).shape
    (1,)
    """
    x, dtype, device = _like(x, dtype, device)
    return empty(x.shape, dtype=dtype, device=device)


@composed
def full_like(x: Any, /, fill_value: Any, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """Make a Tensor of one value in the shape, dtype and device of another. Derivative in the value: the sum of t.

    >>> import tapegrad as tg
    >>> tg.full_like(tg.asarray([3.0]), 2)
    Tensor([2.])
    """
    x, dtype, device = _like(x, dtype, device)
    return full(x.shape, fill_value, dtype=dtype, device=device)


@constant
def arange(
    start: Any,
    /,
    stop: Any = None,
    step: Any = 1,
    *,
    dtype: Any = None,
    device: str | None = None,
) -> Tensor:
    """Make numbers from start (0 if one is given) up to and without stop; integers if all three are.

    Raises TypeError for a Tensor that is being recorded: how many numbers there are depends on its value.

    >>> import tapegrad as tg
    >>> tg.arange(3)
    Tensor([0, 1, 2])
    """
    if any(_is_recorded(v) for v in (start, stop, step)):
        raise TypeError(
            "arange: how many numbers there are depends on the value of a Tensor that is recorded or mapped: use "
            "x.detach(), or tapegrad.linspace, which has a derivative"
        )
    start, step = _number("arange", start), _number("arange", step)
    start, stop = (0, start) if stop is None else (start, _number("arange", stop))
    integer = all(isinstance(v, int) for v in (start, stop, step))
    backend, native, to = _place(dtype, device, integer)
    return wrap(backend.xp.arange(start, stop, step, dtype=to, device=native))


@composed
def linspace(
    start: Any,
    stop: Any,
    /,
    num: int,
    *,
    dtype: Any = None,
    device: str | None = None,
    endpoint: bool = True,
) -> Tensor:
    """Make `num` evenly spaced numbers from start to stop, which endpoint=False leaves out.

    start, stop: numbers, or Tensors of one element. Derivatives: the sum of t by the weight that each has in a number.

    >>> import tapegrad as tg
    >>> tg.linspace(0.0, 1.0, 3)
    Tensor([0. , 0.5, 1. ])
    """
    recorded = _differentiable((start, stop), dtype, device)
    if recorded is not None:
        to, (first, last) = recorded
        weight = linspace(0.0, 1.0, num, dtype=to, device=device, endpoint=endpoint)
        return first * (1 - weight) + last * weight  # exact at both ends
    start, stop = _number("linspace", start), _number("linspace", stop)
    if dtype is None and (isinstance(start, complex) or isinstance(stop, complex)):
        dtype = _complex_dtype(device)
    backend, native, to = _place(dtype, device)
    return wrap(backend.xp.linspace(start, stop, num, dtype=to, device=native, endpoint=endpoint))


@constant
def eye(
    n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = None, device: str | None = None
) -> Tensor:
    """Make a matrix with ones on the k-th diagonal and zeros elsewhere.

    >>> import tapegrad as tg
    >>> tg.eye(2)
    Tensor([[1., 0.],
            [0., 1.]])
    """
    backend, native, to = _place(dtype, device)
    return wrap(backend.xp.eye(n_rows, n_rows if n_cols is None else n_cols, k=k, dtype=to, device=native))


_tril = primitive("tril", lambda xp, x, k: xp.tril(x, k=k), lambda xp, t, k: xp.tril(t, k=k), moves="some")
_triu = primitive("triu", lambda xp, x, k: xp.triu(x, k=k), lambda xp, t, k: xp.triu(t, k=k), moves="some")


def _of_matrices(name: str, x: Any) -> Tensor:
    y = as_tensor(x)
    if y.ndim < 2:
        raise ValueError(f"{name}: it takes matrices, with two axes or more, not shape {y.shape}")
    return y


def tril(x: Any, /, *, k: int = 0) -> Tensor:
    """Keep what is on and below the k-th diagonal of matrices, zero the rest. Derivative: the same of t.

    Raises ValueError for fewer than two axes.

    >>> import tapegrad as tg
    >>> tg.tril(tg.ones((2, 2)))
    Tensor([[1., 0.],
            [1., 1.]])
    """
    return _tril(_of_matrices("tril", x), k)


def triu(x: Any, /, *, k: int = 0) -> Tensor:
    """Keep what is on and above the k-th diagonal of matrices, zero the rest. Derivative: the same of t.

    Raises ValueError for fewer than two axes.

    >>> import tapegrad as tg
    >>> tg.triu(tg.ones((2, 2)))
    Tensor([[1., 1.],
            [0., 1.]])
    """
    return _triu(_of_matrices("triu", x), k)
