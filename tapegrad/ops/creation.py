"""Creation of Tensors from data, shapes and ranges."""

from __future__ import annotations

from functools import partial
from math import inf
from typing import Any

import numpy as np

from tapegrad import backends
from tapegrad._engine.coercion import SCALARS, as_tensor, as_tensors, lift_to_level
from tapegrad._engine.dispatch import (
    as_tracer,
    backend_of,
    checked_dtype,
    detached_array,
    device_of,
    dtype_of,
    find_backend,
    innermost_backend,
    namespace_of,
    native_device,
    native_dtype,
)
from tapegrad._engine.dtypes import KIND_RANKS, DType, as_dtype, isdtype, of_parts
from tapegrad._engine.graph_breaks import cut
from tapegrad._engine.host_constants import HOST, copied_to
from tapegrad._engine.mode import mode, notify_use
from tapegrad._engine.primitive import primitive
from tapegrad._engine.rules import composed, nondifferentiable
from tapegrad._engine.settings import chosen_device, default_device, float_dtype_on
from tapegrad._engine.tensor import Tensor, make_leaf, wrap
from tapegrad.backends import Array, Backend
from tapegrad.ops._text import SAME, documented
from tapegrad.ops.conversion import astype, dtype_name, full_name, to_device, transfer, unchanged
from tapegrad.ops.shaping import _sizes, broadcast_to, reshape, stack
from tapegrad.typing import ArrayLike, DTypeLike, Shape

COMPLEX = "TypeError: A number is complex, and `dtype` is not."
FEW = "ValueError: `x` has fewer than two axes."
DIAGONAL = "Up to which diagonal to keep: 0 for the main one, positive above it, negative below."
_documented = partial(
    documented,
    shared={
        "shape": "The shape, or its one length.",
        "x": "The Tensor, array, number or nested list whose shape, dtype and device are taken.",
    },
)

# -- from data -------------------------------------------------------------------------------------------


@_documented(
    "A constant, or a leaf with `requires_grad`, in the shape of the data.",
    (
        "TypeError: The data are objects, strings or ragged lists, or a Tensor that is being "
        "recorded; or the leaf is not real floating."
    ),
    data="Numbers, nested lists, an array of any library, or a Tensor; the data is always copied.",
    dtype="The dtype; for None that of an array, for Python floats `default_dtype`.",
    device=(
        "The device. For None, a Tensor stays where it is; others go to `default_device` if it "
        "was set, else Python data go to 'cpu' and arrays stay."
    ),
    requires_grad="Whether to make it a leaf, whose `.grad` is filled by `backward`.",
)
def tensor(
    data: ArrayLike, dtype: DTypeLike | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Make a new Tensor from data.

    It is never recorded; `asarray` keeps records.

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
        notify_use(data)
        data = detached_array(data._array)
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
@_documented(
    "A Tensor of the values, in the shape of the object.",
    "TypeError: The object is none of these, or it is complex and `dtype` is not.",
    "ValueError: `copy` is False and a copy is unavoidable.",
    obj=(
        "A Tensor, an array of any library, a number, or nested lists of numbers and Tensors, "
        "which are stacked on the device of the Tensors."
    ),
    dtype="The dtype; for None that of an array, for Python floats `default_dtype`.",
    device=(
        "The device. For None, numbers and arrays of NumPy go to `default_device` if it was set; "
        "all else stays where it is."
    ),
    copy=(
        "Whether to copy. For None, an array is copied, since others may write to it, and a "
        "Tensor is not. False is for arrays that nobody will write to again, and returns a Tensor"
        " itself."
    ),
)
def asarray(
    obj: ArrayLike, /, *, dtype: DTypeLike | None = None, device: str | None = None, copy: bool | None = None
) -> Tensor:
    """Make a Tensor of an object, on the device of its library unless said otherwise.

    Conversions of a Tensor, and the stacking of a list of them, are recorded. A leaf that needs no conversion is
    returned itself.

    >>> import numpy as np, tapegrad as tg
    >>> tg.asarray(np.asarray([1.0, 2.0]))
    Tensor([1., 2.])
    """
    if isinstance(obj, Tensor):
        return _asarray_of_tensor(obj, dtype, device, copy)
    obj = as_tracer(obj)
    backend = find_backend(obj)
    if backend is None:
        like = _first_tensor(obj)
        if like is not None:
            return _asarray_of_tensor(_joined(obj, like), dtype, device, copy)
        return wrap(_from_python(obj, dtype, *backends.of_device(_or_default(device)), copy))
    backend.refuse_recorded(obj)
    array = backend.as_array(obj)
    checked = dtype_of(array)  # object and string arrays stop here
    if dtype is not None and checked.kind == "complex floating":
        _refuse_complex("asarray", dtype, 1j)
    if device is None and backend.prefix == HOST and not backend.depth:
        device = chosen_device()
        if device is not None and full_name(device) != HOST and dtype is None and copy is not False:
            return lift_to_level(wrap(copied_to(array, device)))
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
        return lift_to_level(wrap(transfer(array, device)))
    return lift_to_level(wrap(array if copy is False else backend.copy(array)))


def on_device(x: Any, device: str | None) -> Tensor:
    """Return an array or number as a constant, one of the host on a device; None is the default one."""
    backend = find_backend(x)
    if device is None or (backend is not None and backend.prefix != HOST):
        return asarray(x)
    if backend is None or backend.as_scalar(x) is not None or full_name(device) == HOST:
        return asarray(x, device=device)
    return lift_to_level(wrap(copied_to(as_tracer(x), device)))


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
        notify_use(x)
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
    notify_use(x)
    x = lift_to_level(x)
    return wrap(x._array) if x._record is None else astype(x, x.dtype)


def of_list(obj: Any, like: Array, weak: bool = False, dtype: Any = None) -> Tensor:
    """Return nested lists as a Tensor where a raw array is, recorded if they hold Tensors that are.

    weak: whether numbers get the dtype of the array wherever its kind allows; dtype: of others; by default the one that
    new Tensors of them get.
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
    backend = innermost_backend(backend)
    if dtype is not None:
        to = checked_dtype(backend, as_dtype(dtype), native)
        if values.dtype.kind == "c":
            _refuse_complex("asarray", dtype, 1j)
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
    backend = innermost_backend(backend)
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


@nondifferentiable
@_documented("Zeros in the shape.")
def zeros(shape: Shape, *, dtype: DTypeLike | None = None, device: str | None = None) -> Tensor:
    """Make a Tensor of zeros.

    >>> import tapegrad as tg
    >>> tg.zeros(2)
    Tensor([0., 0.])
    """
    return full(shape, 0, dtype=default_if(dtype, device), device=device)


@nondifferentiable
@_documented("Ones in the shape.")
def ones(shape: Shape, *, dtype: DTypeLike | None = None, device: str | None = None) -> Tensor:
    """Make a Tensor of ones.

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
    if x._record is not None:  # the result has integers, or nothing is recorded here
        cut(f"{name}()", x._record)
    return wrap(x._array).item()


def _refuse_complex(name: str, dtype: Any, *numbers: Any) -> None:
    """Raise TypeError for complex numbers in an array of another dtype, which would lose their imaginary parts."""
    if dtype is not None and any(isinstance(v, complex) for v in numbers) and not isdtype(dtype, "complex floating"):
        raise TypeError(
            f"{name}: a complex number does not fit in {as_dtype(dtype).name}: give a complex dtype, or its real part"
        )


def _check_range(start: Any, stop: Any, step: Any) -> None:
    """Raise an error for numbers between which no range can be counted."""
    numbers = (start, stop, step)
    if any(isinstance(v, complex) for v in numbers):
        raise TypeError("arange: complex numbers have no order: use tapegrad.linspace(start, stop, num)")
    if step == 0 or any(v != v for v in numbers) or inf in (abs(start), abs(stop)):
        raise ValueError(
            f"arange: a step of {step} from {start} never ends at {stop}: give a number apart from 0, or the count of "
            "numbers to tapegrad.linspace(start, stop, num)"
        )


def _is_recorded(value: Any) -> bool:
    """Say whether a number is a Tensor whose gradient, or the value that each example of vmap has, must not be lost."""
    if type(value) is not Tensor:
        return False
    return (value.requires_grad and mode().recording) or backend_of[type(value._array)].depth > 0


def _differentiable(numbers: tuple[Any, ...], dtype: Any, device: str | None) -> tuple[DType, list[Tensor]] | None:
    """Return the dtype of an array made of numbers, and these as Tensors of it, if any is recorded; else None."""
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


@nondifferentiable
@_documented("A Tensor in the shape, whose values are not set.")
def empty(shape: Shape, *, dtype: DTypeLike | None = None, device: str | None = None) -> Tensor:
    """Make a Tensor whose values are not set.

    >>> import tapegrad as tg
    >>> tg.empty((2, 3)).shape
    (2, 3)
    """
    backend, native, to = _place(dtype, device)
    return wrap(backend.xp.empty(_shape(shape), dtype=to, device=native))


@composed
@_documented(
    "The value, everywhere in the shape.",
    COMPLEX,
    fill_value="A number, or a Tensor of one element.",
    dtype="The dtype; for None it follows the number, with the default one for floats and integers.",
)
def full(shape: Shape, fill_value: ArrayLike, *, dtype: DTypeLike | None = None, device: str | None = None) -> Tensor:
    """Make a Tensor of one value.

    Derivative in the value: the sum of t.

    >>> import tapegrad as tg
    >>> tg.full(2, 7)
    Tensor([7, 7])
    """
    return _filled("full", shape, fill_value, dtype, device)


def _filled(name: str, shape: Any, fill_value: Any, dtype: Any, device: str | None) -> Tensor:
    recorded = _differentiable((fill_value,), dtype, device)
    if recorded is not None:
        return broadcast_to(recorded[1][0], _shape(shape))
    fill_value = _number(name, fill_value)
    _refuse_complex(name, dtype, fill_value)
    if dtype is None and isinstance(fill_value, bool):
        dtype = "bool"
    if dtype is None and isinstance(fill_value, complex):
        dtype = _complex_dtype(device)
    backend, native, to = _place(dtype, device, integer=isinstance(fill_value, int))
    return wrap(backend.xp.full(_shape(shape), fill_value, dtype=to, device=native))


@nondifferentiable
@_documented("Zeros in the shape of `x`.")
def zeros_like(x: ArrayLike, /, *, dtype: DTypeLike | None = None, device: str | None = None) -> Tensor:
    """Make zeros of the shape, dtype and device of another Tensor.

    >>> import tapegrad as tg
    >>> tg.zeros_like(tg.asarray([1.0]))
    Tensor([0.])
    """
    x, dtype, device = _like(x, dtype, device)
    return full(x.shape, 0, dtype=dtype, device=device)


@nondifferentiable
@_documented("Ones in the shape of `x`.")
def ones_like(x: ArrayLike, /, *, dtype: DTypeLike | None = None, device: str | None = None) -> Tensor:
    """Make ones of the shape, dtype and device of another Tensor.

    >>> import tapegrad as tg
    >>> tg.ones_like(tg.asarray([3.0]))
    Tensor([1.])
    """
    x, dtype, device = _like(x, dtype, device)
    return full(x.shape, 1, dtype=dtype, device=device)


@nondifferentiable
@_documented("A Tensor in the shape of `x`, whose values are not set.")
def empty_like(x: ArrayLike, /, *, dtype: DTypeLike | None = None, device: str | None = None) -> Tensor:
    """Make a Tensor of the shape, dtype and device of another one, whose values are not set.

    >>> import tapegrad as tg
    >>> tg.empty_like(tg.asarray([3.0])).shape
    (1,)
    """
    x, dtype, device = _like(x, dtype, device)
    return empty(x.shape, dtype=dtype, device=device)


@composed
@_documented("The value, everywhere in the shape of `x`.", COMPLEX, fill_value="A number, or a Tensor of one element.")
def full_like(
    x: ArrayLike, /, fill_value: ArrayLike, *, dtype: DTypeLike | None = None, device: str | None = None
) -> Tensor:
    """Make a Tensor of one value in the shape, dtype and device of another.

    Derivative in the value: the sum of t.

    >>> import tapegrad as tg
    >>> tg.full_like(tg.asarray([3.0]), 2)
    Tensor([2.])
    """
    x, dtype, device = _like(x, dtype, device)
    return _filled("full_like", x.shape, fill_value, dtype, device)


@nondifferentiable
@_documented(
    "The numbers, a vector.",
    "TypeError: One of them is complex, or is being recorded or mapped by `vmap`: the shape depends on its value.",
    "ValueError: The step is 0, or a number is NaN, or the start or the end infinite.",
    start="The first number; where it is the only one, the end, and the first is 0.",
    stop="The end, which is left out.",
    step="The distance between neighbours.",
    dtype=("The dtype; for None the default integer one if all three are integers, else the default floating one."),
)
def arange(
    start: ArrayLike,
    /,
    stop: ArrayLike | None = None,
    step: ArrayLike = 1,
    *,
    dtype: DTypeLike | None = None,
    device: str | None = None,
) -> Tensor:
    """Make evenly spaced numbers from a start up to an end, which is left out.

    Not differentiable; `linspace` is.

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
    _check_range(start, stop, step)
    integer = all(isinstance(v, int) for v in (start, stop, step))
    backend, native, to = _place(dtype, device, integer)
    return wrap(backend.xp.arange(start, stop, step, dtype=to, device=native))


@composed
@_documented(
    "The numbers, a vector.",
    COMPLEX,
    start="The first number, or a Tensor of one element.",
    stop="The last number, or a Tensor of one element.",
    num="How many numbers there are.",
    endpoint="Whether the last one is among them.",
)
def linspace(
    start: ArrayLike,
    stop: ArrayLike,
    /,
    num: int,
    *,
    dtype: DTypeLike | None = None,
    device: str | None = None,
    endpoint: bool = True,
) -> Tensor:
    """Make a number of evenly spaced numbers from a start to an end.

    Derivatives: the sum of t by the weight that each end has in a number.

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
    _refuse_complex("linspace", dtype, start, stop)
    if dtype is None and (isinstance(start, complex) or isinstance(stop, complex)):
        dtype = _complex_dtype(device)
    backend, native, to = _place(dtype, device)
    return wrap(backend.xp.linspace(start, stop, num, dtype=to, device=native, endpoint=endpoint))


@nondifferentiable
@_documented(
    "The matrix.",
    n_rows="The number of rows.",
    n_cols="The number of columns; that of rows for None.",
    k="Which diagonal: 0 for the main one, positive above it, negative below.",
)
def eye(
    n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: DTypeLike | None = None, device: str | None = None
) -> Tensor:
    """Make a matrix with ones on a diagonal and zeros elsewhere.

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


@_documented(f"The matrices, with zeros above the diagonal. {SAME}", FEW, k=DIAGONAL)
def tril(x: ArrayLike, /, *, k: int = 0) -> Tensor:
    """Lower triangle of matrices, zero elsewhere.

    Derivative: the lower triangle of t.

    >>> import tapegrad as tg
    >>> tg.tril(tg.ones((2, 2)))
    Tensor([[1., 0.],
            [1., 1.]])
    """
    return _tril(_of_matrices("tril", x), k)


@_documented(f"The matrices, with zeros below the diagonal. {SAME}", FEW, k=DIAGONAL)
def triu(x: ArrayLike, /, *, k: int = 0) -> Tensor:
    """Upper triangle of matrices, zero elsewhere.

    Derivative: the upper triangle of t.

    >>> import tapegrad as tg
    >>> tg.triu(tg.ones((2, 2)))
    Tensor([[1., 1.],
            [0., 1.]])
    """
    return _triu(_of_matrices("triu", x), k)
