"""Coercion of operands: numbers, lists and raw arrays beside Tensors, and Tensors of different vmap levels."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from itertools import zip_longest
from typing import Any

from tapegrad._engine.bound import bound
from tapegrad._engine.dispatch import (
    CaptureError,
    as_tracer,
    backend_of,
    device_of,
    dtype_of,
    find_backend,
    namespace_of,
    native_device,
)
from tapegrad._engine.dtypes import KIND_RANKS, SCALAR_RANKS
from tapegrad._engine.host_constants import HOST, copied_beside, is_host
from tapegrad._engine.levels import capturing, mapping
from tapegrad._engine.rules import BROADCASTING
from tapegrad._engine.source_line import user_line
from tapegrad._engine.tensor import Tensor, wrap
from tapegrad.backends import Array, remedy

SCALARS = frozenset(SCALAR_RANKS)
# Functions, beside those that broadcast, that promote their operands to one dtype. Others keep integers as integers.
_PROMOTING = frozenset(("asarray", "clip", "concat", "cross", "diff", "matmul", "outer", "solve", "stack"))
_PROMOTING |= {"tensordot", "vecdot", "divmod", "einsum", "kron", "vdot"}


def coerce(name: str, x: object, like: Array, keep: bool) -> Any:
    """Return an operand other than a Tensor as a Python scalar or a raw array of `like`'s library.

    An array is a constant. A NumPy array is copied to the device of `like`. Other arrays are copied if a rule will read
    them later (`keep`). Scalars, also NumPy's, stay weakly typed.

    Return NotImplemented for an operand that is no scalar or array. Raise TypeError for an array of another library,
    and for an array that its own library records.
    """
    if type(x) in SCALARS:
        return x
    backend = find_backend(x)
    if backend is None:
        if isinstance(x, int):
            return int(x)
        return float(x) if isinstance(x, float) else complex(x) if isinstance(x, complex) else NotImplemented
    scalar = backend.as_scalar(x)
    if scalar is not None:
        return scalar
    backend.refuse_recorded(x)
    x = as_tracer(x)
    if is_host(x, like):
        x = copied_beside(x, like, promotes(name))
    elif keep:
        x = backend_of[type(x)].copy(x)
    elif type(x) is not type(like):
        x = backend_of[type(x)].as_array(x)  # a subclass of the library's array type
    alike = same_library(name, x, like)
    return lift_beside(like, wrap(x))._array if alike is None else alike


def promotes(name: str) -> bool:
    """Return whether a function promotes its operands to one dtype; the name may be of an update, as `x += y`."""
    return name in BROADCASTING or name in _PROMOTING or name.endswith("= y")


def same_library(name: str, a: Array, b: Array) -> Array | None:
    """Return a raw array to compute with beside another one.

    It is the array itself, except where a tentative capture mixes tracers and raw arrays. Return None if the arrays are
    of different vmap levels, see `on_one_level`. Raise TypeError if they are of different libraries.
    """
    first, second = backend_of[type(a)], backend_of[type(b)]
    if first is second:
        return a
    graph = capturing.get()
    if first.root is second.root or (graph is not None and (first.depth or second.depth) and _base(a) is _base(b)):
        return None
    if graph is not None:
        a = graph.alike(a, b)
        if backend_of[type(a)] is second:
            return a
    raise TypeError(
        f"{name}: operands on {device_of(a)} and {device_of(b)}; move one first, as in "
        f"tapegrad.asarray(x, device={device_of(b)!r})"
    )


def _base(a: Array) -> Any:
    """Return the adapter of the library that computes, below vmap and capture."""
    root = backend_of[type(a)].root
    return getattr(root, "base", root)


def on_one_level(operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return operands with all Tensors lifted to the innermost vmap level among them."""
    arrays = [x._array for x in operands if type(x) is Tensor]
    like = max(arrays, key=lambda a: backend_of[type(a)].depth)
    return tuple([lift_beside(like, x) if type(x) is Tensor else x for x in operands])


def lift_beside(like: Array, x: Tensor) -> Tensor:
    """Lift a Tensor to the vmap level of an array, unless it is on that level.

    The lifted Tensor has no record on the level, as nothing there can ask for its gradient. Its array keeps the record
    outside.
    """
    x = _on_one_root(like, x)
    return x if backend_of[type(x._array)].depth >= backend_of[type(like)].depth else wrap(like.level.lift(x))


def _on_one_root(like: Array, x: Tensor) -> Tensor:
    """Return a Tensor whose array is a tracer if the array is one, and a raw array if not."""
    graph = capturing.get()
    while backend_of[type(like)].depth:
        like = like.whole._array
    a = x._array
    if graph is None or backend_of[type(a)].root is backend_of[type(like)]:
        return x
    if backend_of[type(a)].depth:
        return wrap(a.level.array(_on_one_root(like, a.whole), a.mapped), x._record)
    return wrap(graph.alike(a, like), x._record)


def lift_to_level(x: Tensor) -> Tensor:
    """Lift a Tensor to the running vmap level, if there is one."""
    level = mapping.get()
    if level is None or backend_of[type(x._array)].depth >= level.depth:
        return x
    return wrap(level.lift(x))


def from_outside(what: str) -> RuntimeError:
    """Return the error for an in-place update of a Tensor outside of a vmap with values from inside."""
    return RuntimeError(
        f"{what} at {user_line()} would write a value for each example to a Tensor from outside of the function mapped "
        "by vmap: update a copy made inside, as in x = tapegrad.asarray(x, copy=True)"
    )


def not_an_operand(name: str, x: object) -> TypeError:
    """Return the error for an operand that is neither an array nor a number."""
    return TypeError(
        f"{name}: an operand is a Tensor, an array or a number, not {type(x).__name__}; "
        "convert it with tapegrad.asarray"
    )


def tensor_of_list(name: str, x: object, like: Array) -> Tensor | None:
    """Return a list or tuple as a Tensor on the device of a raw array; None for anything else.

    It is a constant, except for recorded Tensors in it. Its numbers are weakly typed, as single numbers are. Raise
    TypeError unless it is an array of numbers; in a comparison such a list is only unequal.
    """
    if not isinstance(x, (list, tuple)):
        return None
    try:
        made: Tensor = bound.of_list(x, like, promotes(name))
    except TypeError:
        if name in ("equal", "not_equal"):
            return None
        raise
    return made


def operand(name: str, x: object, like: Array) -> Any:
    """Return an operand other than a Tensor as a Tensor on the device of a raw array, or as a Python scalar.

    Return NotImplemented unless it is an array, a list or a number.
    """
    array = coerce(name, x, like, keep=True)
    if array is NotImplemented:
        made = tensor_of_list(name, x, like)
        return array if made is None else made
    return array if type(array) in SCALARS else wrap(array)


def as_tensor(x: object, name: str = "") -> Tensor:
    """Return an operand as a Tensor; anything else becomes a constant. Errors name the function."""
    if type(x) is Tensor:
        return x
    try:
        made: Tensor = bound.asarray(x)
    except (TypeError, ValueError) as error:
        if name:
            error.args = (f"{name}: {str(error).removeprefix('asarray: ')}",)
        raise
    return made


def with_leading_tensor(operands: tuple[Any, ...], name: str = "") -> tuple[Any, ...]:
    """Convert one of several operands without Tensors to a constant Tensor, whose device the others will follow.

    It is the first array of a device library, or list that holds Tensors; else the first array or list of the host;
    else the first number.
    """
    arrays = [n for n, x in enumerate(operands) if type(x) not in SCALARS]
    n = next((n for n in arrays if not _goes_anywhere(operands[n])), arrays[0] if arrays else 0)
    return (*operands[:n], as_tensor(operands[n], name), *operands[n + 1 :])


def _goes_anywhere(x: object) -> bool:
    """Return whether an operand is an array, list or number of the host, which can go to any device."""
    if isinstance(x, (list, tuple)):
        return not any(type(part) is Tensor or not _goes_anywhere(part) for part in x if type(part) not in SCALARS)
    backend = find_backend(x)
    return backend is None or backend.prefix == HOST


def as_tensors(name: str, *operands: object) -> tuple[Tensor, ...]:
    """Return operands as Tensors of one library; Python scalars get the dtype of the first Tensor."""
    first: Any = next((x for x in operands if type(x) is Tensor), None)
    if first is None:
        operands = with_leading_tensor(operands, name)
        first = next(x for x in operands if type(x) is Tensor)
    like = first._array
    xs = tuple([x if type(x) is Tensor else _constant(name, x, like) for x in operands])
    for x in xs:
        if type(x._array) is not type(like) and same_library(name, x._array, like) is None:
            return on_one_level(xs)
    return xs


def _constant(name: str, x: object, like: Array) -> Tensor:
    """Return an operand as a constant beside a raw array; a number gets the array's dtype if the kind fits."""
    found = operand(name, x, like)
    if found is NotImplemented:
        raise not_an_operand(name, x)
    if type(found) is Tensor:
        return found
    if SCALAR_RANKS[type(found)] > KIND_RANKS[dtype_of(like).kind]:  # the dtype that new Tensors of such a number get
        return as_tensor_on(found, device_of(like))
    return wrap(backend_of[type(like)].xp.full((), found, dtype=like.dtype, device=native_device(like)))


def placed(name: str, x: object, like: Array) -> Tensor:
    """Return an argument as a Tensor beside a raw array: values of the host go to its device.

    Tensors and arrays of device libraries stay where they are. A number gets the default dtype.
    """
    if type(x) is Tensor:
        return x
    backend = find_backend(x)
    if backend is not None and backend.prefix != HOST:
        return as_tensor(x)
    found = operand(name, x, like)
    if found is NotImplemented:
        raise not_an_operand(name, x)
    return found if type(found) is Tensor else as_tensor_on(found, device_of(like))


def as_tensor_on(x: object, device: str) -> Tensor:
    """Return a number as a Tensor on a device, in the default dtype."""
    made: Tensor = bound.asarray(x, device=device)
    return made


def recovered(
    name: str, error: Exception, forward: Callable[..., Any], arrays: tuple[Any, ...], args: tuple[Any, ...]
) -> Any:
    """Retry an operation that failed because a tentative capture mixed tracers and raw arrays; else raise the error.

    The raised error is explained, see `explain`.
    """
    graph = capturing.get()
    unmixed = None if graph is None else graph.unmixed(args)
    if unmixed is None:
        raise explain(name, error, (*arrays, *[a for a in args[len(arrays) :] if hasattr(a, "shape")])) from error
    try:
        return forward(namespace_of[type(unmixed[0])], *unmixed)
    except Exception as again:
        raise explain(name, again, arrays) from again


def explain(name: str, error: Exception, arrays: tuple[Any, ...]) -> Exception:
    """Return a library's error with a message that names the operation, the shapes and the fix.

    A deferred error of an earlier operation, found as this one waited for the device, is raised as it is.
    """
    if getattr(error, "deferred", False):
        raise error
    if isinstance(error, CaptureError):
        return CaptureError(str(error))
    arrays = tuple([a for a in arrays if not hasattr(a, "shape") or find_backend(a) is not None])  # no NumPy dtypes
    devices = dict.fromkeys(device_of(a) for a in arrays if hasattr(a, "shape"))
    if len(devices) > 1:
        where = " and ".join(devices)
        how = f"tapegrad.asarray(x, device={list(devices)[-1]!r})"
        return TypeError(f"{name}: operands on {where}; move one first, as in {how}")
    shapes = ", ".join(str(tuple(a.shape)) if hasattr(a, "shape") else repr(a) for a in arrays)
    if name in BROADCASTING and not _broadcast([tuple(a.shape) for a in arrays if hasattr(a, "shape")]):
        return ValueError(f"{name} of operands of shape {shapes}: the shapes could not be broadcast together")
    advice = remedy(error)
    return same_kind(error, f"{name} of operands of shape {shapes}: {error}{advice and '; '}{advice}")


def _broadcast(shapes: list[tuple[int, ...]]) -> bool:
    """Return whether shapes broadcast."""
    lengths = zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1)
    return all(len(set(column) - {1}) <= 1 for column in lengths)


# The types that stand in for a library's own error type if that cannot be made of a message alone.
_KINDS = (
    *(ValueError, IndexError, TypeError, FloatingPointError, ZeroDivisionError, OverflowError, NotImplementedError),
    *(MemoryError, ImportError),
)


def same_kind(error: Exception, message: str) -> Exception:
    """Return an error of the same type with another message, so that the same `except` catches it.

    A type that tells of a fault inside the library, as AttributeError, becomes RuntimeError.
    """
    its: Any = type(error)
    kind = _portable(its)
    if issubclass(kind, (*_KINDS, RuntimeError, Warning)):  # a warning, if the caller has made them errors
        try:
            same = kind(message)
        except Exception:  # it takes other arguments
            pass
        else:
            if str(same) == message:
                return same
    return next((k for k in _KINDS if issubclass(kind, k)), RuntimeError)(message)


@cache
def _portable(kind: Any) -> type[Exception]:
    """Return the type of an error; another library's LinAlgError becomes a subclass of NumPy's too.

    So it is a ValueError everywhere, and one `except` catches it for any library.
    """
    if not kind.__name__.endswith("LinAlgError") or issubclass(kind, ValueError):
        return kind  # type: ignore[no-any-return]
    numpy = sys.modules.get("numpy")
    made: type[Exception] = type("LinAlgError", (kind, numpy.linalg.LinAlgError if numpy else ValueError), {})
    return made
