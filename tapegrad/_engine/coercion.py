"""Coercion of operands that are no Tensors: numbers, lists and arrays of other libraries."""

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
# Functions, beside those that broadcast, whose operands get one dtype; the others take integers for what they are.
_PROMOTING = frozenset(("asarray", "clip", "concat", "cross", "diff", "matmul", "outer", "solve", "stack"))
_PROMOTING |= {"tensordot", "vecdot", "divmod", "einsum", "kron", "vdot"}


def coerce(name: str, x: object, like: Array, keep: bool) -> Any:
    """Return an operand that is no Tensor as a Python scalar or a raw array of `like`'s library.

    An array is a constant. One of NumPy's is copied to where `like` is; others are copied if `keep` says that a rule
    will read them later. Scalars, NumPy's too, stay weak. NotImplemented for what is neither; TypeError for an array of
    another library, or that its own records.
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
        x = backend_of[type(x)].as_array(x)  # of a subclass of the library's array type
    alike = same_library(name, x, like)
    return lift_beside(like, wrap(x))._array if alike is None else alike


def promotes(name: str) -> bool:
    """Say whether the operands of a function get one dtype; its name may be that of an update, as `x += y`."""
    return name in BROADCASTING or name in _PROMOTING or name.endswith("= y")


def same_library(name: str, a: Array, b: Array) -> Array | None:
    """Return a raw array to compute with beside another one, None if only one is of a vmap: see `on_one_level`.

    It is the array itself but for one that a tentative capture meets. Raises TypeError unless they are of one library.
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
    """Return the adapter of the library that computes, also if it is recorded."""
    root = backend_of[type(a)].root
    return getattr(root, "base", root)


def on_one_level(operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return operands with the Tensors from outside of a vmap as those of the innermost one that any is of."""
    arrays = [x._array for x in operands if type(x) is Tensor]
    like = max(arrays, key=lambda a: backend_of[type(a)].depth)
    return tuple([lift_beside(like, x) if type(x) is Tensor else x for x in operands])


def lift_beside(like: Array, x: Tensor) -> Tensor:
    """Return a Tensor as an operand beside an array: one from outside of the vmap that the array is of is lifted.

    It gets no record inside, where nothing can ask for its gradient; the lifted array keeps the one outside.
    """
    x = _on_one_root(like, x)
    return x if backend_of[type(x._array)].depth >= backend_of[type(like)].depth else wrap(like.level.lift(x))


def _on_one_root(like: Array, x: Tensor) -> Tensor:
    """Return a Tensor recorded in a program like an array, or not, as far as only one of them is."""
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
    """Return a Tensor as one of the call of vmap that is running, if any."""
    level = mapping.get()
    if level is None or backend_of[type(x._array)].depth >= level.depth:
        return x
    return wrap(level.lift(x))


def from_outside(what: str) -> RuntimeError:
    """Return the error for an in-place update that would give a Tensor from outside of a vmap values from inside."""
    return RuntimeError(
        f"{what} at {user_line()} would give a Tensor from outside of the function mapped by vmap a value for each "
        "example: update a copy made inside, as in x = tapegrad.asarray(x, copy=True)"
    )


def not_an_operand(name: str, x: object) -> TypeError:
    """Return the error for an operand that is no array and no number."""
    return TypeError(
        f"{name}: an operand is a Tensor, an array or a number, not {type(x).__name__}; "
        "convert it with tapegrad.asarray"
    )


def tensor_of_list(name: str, x: object, like: Array) -> Tensor | None:
    """Return a list or tuple beside a raw array as a Tensor where that is, None for anything else.

    It is a constant, but for the Tensors in it that are recorded; its numbers are as weak as one alone. Raises
    TypeError for what is no array of numbers; in a comparison that is only unequal.
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
    """Return an operand that is no Tensor as a Tensor beside a raw array, or as a Python scalar.

    NotImplemented for what is neither array, list nor number.
    """
    array = coerce(name, x, like, keep=True)
    if array is NotImplemented:
        made = tensor_of_list(name, x, like)
        return array if made is None else made
    return array if type(array) in SCALARS else wrap(array)


def as_tensor(x: object, name: str = "") -> Tensor:
    """Return an operand as a Tensor, a constant if it is none; errors name the function."""
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
    """Return operands of which none is a Tensor with one as a Tensor, a constant: the others go where that is.

    It is the first array of a device library, or list that holds Tensors: arrays and lists of the host go anywhere.
    """
    arrays = [n for n, x in enumerate(operands) if type(x) not in SCALARS]
    n = next((n for n in arrays if not _goes_anywhere(operands[n])), arrays[0] if arrays else 0)
    return (*operands[:n], as_tensor(operands[n], name), *operands[n + 1 :])


def _goes_anywhere(x: object) -> bool:
    """Say whether an operand is an array, list or number of the host."""
    if isinstance(x, (list, tuple)):
        return not any(type(part) is Tensor or not _goes_anywhere(part) for part in x if type(part) not in SCALARS)
    backend = find_backend(x)
    return backend is None or backend.prefix == HOST


def as_tensors(name: str, *operands: object) -> tuple[Tensor, ...]:
    """Return operands as Tensors of one library; Python scalars become arrays of the first one's dtype."""
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
    """Return an operand that is no Tensor as one beside a raw array, a number in its dtype where the kind fits."""
    found = operand(name, x, like)
    if found is NotImplemented:
        raise not_an_operand(name, x)
    if type(found) is Tensor:
        return found
    if SCALAR_RANKS[type(found)] > KIND_RANKS[dtype_of(like).kind]:  # the dtype that new Tensors of such a number get
        return as_tensor_on(found, device_of(like))
    return wrap(backend_of[type(like)].xp.full((), found, dtype=like.dtype, device=native_device(like)))


def placed(name: str, x: object, like: Array) -> Tensor:
    """Return an argument as a Tensor where it can be used beside a raw array: what is of the host goes where that is.

    Tensors and arrays of other libraries stay where they are; a number gets the dtype that new Tensors get.
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
    """Return a number as a Tensor on a device, in the dtype that new Tensors get."""
    made: Tensor = bound.asarray(x, device=device)
    return made


def recovered(
    name: str, error: Exception, forward: Callable[..., Any], arrays: tuple[Any, ...], args: tuple[Any, ...]
) -> Any:
    """Return what an operation gives that failed only because a tentative call met a Tensor that nobody knew of.

    Any other error is raised, explained.
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
    """Return the error to raise for one that a library raised: naming the operation, shapes and fix.

    An error of an earlier operation, which was found when this one waited for the device, is raised as it is.
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
    """Say whether shapes broadcast."""
    lengths = zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1)
    return all(len(set(column) - {1}) <= 1 for column in lengths)


# What the error of a library becomes at most, where its own type cannot be made of a message.
_KINDS = (
    *(ValueError, IndexError, TypeError, FloatingPointError, ZeroDivisionError, OverflowError, NotImplementedError),
    *(MemoryError, ImportError),
)


def same_kind(error: Exception, message: str) -> Exception:
    """Return an error of the same type with another message, so that it is caught as that of the library is.

    What tells of an error within the library, as AttributeError does, becomes a RuntimeError.
    """
    its: Any = type(error)
    kind = _portable(its)
    if issubclass(kind, (*_KINDS, RuntimeError, Warning)):  # a warning, if the caller has made them errors
        try:
            same = kind(message)
        except Exception:  # it is made of other things
            pass
        else:
            if str(same) == message:
                return same
    return next((k for k in _KINDS if issubclass(kind, k)), RuntimeError)(message)


@cache
def _portable(kind: Any) -> type[Exception]:
    """Return the type of an error, made one of NumPy's LinAlgError too where it is another library's.

    So it is a ValueError everywhere, as NumPy's is, and `except` finds it whatever library computes.
    """
    if not kind.__name__.endswith("LinAlgError") or issubclass(kind, ValueError):
        return kind  # type: ignore[no-any-return]
    numpy = sys.modules.get("numpy")
    made: type[Exception] = type("LinAlgError", (kind, numpy.linalg.LinAlgError if numpy else ValueError), {})
    return made
