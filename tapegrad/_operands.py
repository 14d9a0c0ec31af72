"""What an operation does with operands that are no Tensors, and with errors of the library below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapegrad._cuts import user_line
from tapegrad._dtypes import KIND_RANKS, SCALAR_RANKS
from tapegrad._namespace import (
    CaptureError,
    backend_of,
    capturing,
    device_of,
    dtype_of,
    find_backend,
    lifted,
    mapping,
    native_device,
)
from tapegrad._tensor import Tensor, wrap
from tapegrad.backends import Array

SCALARS = frozenset(SCALAR_RANKS)


def coerce(name: str, x: object, like: Array, keep: bool) -> Any:
    """Return an operand that is no Tensor as a Python scalar or a raw array of `like`'s library.

    An array is a constant, copied if `keep` says that a rule will read it later; scalars, NumPy's too,
    stay weak. NotImplemented for what is neither; TypeError for an array of another library.
    """
    if type(x) in SCALARS:
        return x
    backend = find_backend(x)
    if backend is None:
        return x if isinstance(x, (int, float, complex)) else NotImplemented
    scalar = backend.as_scalar(x)
    if scalar is not None:
        return scalar
    x = lifted(x)
    x = backend_of[type(x)].copy(x) if keep else x
    return x if same_library(name, x, like) else beside(like, wrap(x))._array


def same_library(name: str, a: Array, b: Array) -> bool:
    """Say whether two raw arrays are of one library and one vmap; TypeError if it is not even one library."""
    first, second = backend_of[type(a)], backend_of[type(b)]
    if first is second:
        return True
    if first.root is not second.root:
        graph = capturing.get()
        if graph is not None:
            graph.check_known(a, b)
        raise TypeError(
            f"{name}: operands on {device_of(a)} and {device_of(b)}; "
            f"move one first, as in x.to_device({device_of(b)!r})"
        )
    return False


def beside(like: Array, x: Tensor) -> Tensor:
    """Return a Tensor as an operand beside an array: one from outside of the vmap that the array is of is lifted.

    It gets no record inside, where nothing can ask for its gradient; the lifted array keeps the one outside.
    """
    return x if backend_of[type(x._array)].depth >= backend_of[type(like)].depth else wrap(like.level.lift(x))


def on_one_level(operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return operands with the Tensors from outside of a vmap as those of the innermost one that any is of."""
    arrays = [x._array for x in operands if type(x) is Tensor]
    like = max(arrays, key=lambda a: backend_of[type(a)].depth)
    return tuple([beside(like, x) if type(x) is Tensor else x for x in operands])


def within(x: Tensor) -> Tensor:
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


def as_tensor(x: object) -> Tensor:
    """Return an operand as a Tensor, a constant if it is none."""
    if type(x) is Tensor:
        return x
    from tapegrad.ops.creation import asarray

    return asarray(x)


def as_tensors(name: str, *operands: object) -> tuple[Tensor, ...]:
    """Return operands as Tensors of one library; Python scalars become arrays of the first one's dtype."""
    first = next((x for x in operands if type(x) is Tensor), None)
    if first is None:
        first = as_tensor(next((x for x in operands if type(x) not in SCALARS), operands[0]))
    like = first._array
    xs = tuple([x if type(x) is Tensor else _constant(name, x, like) for x in operands])
    for x in xs:
        if type(x._array) is not type(like) and not same_library(name, x._array, like):
            return on_one_level(xs)
    return xs


def _constant(name: str, x: object, like: Array) -> Tensor:
    array = coerce(name, x, like, keep=True)
    if array is NotImplemented:
        raise not_an_operand(name, x)
    if type(array) in SCALARS:
        if (
            SCALAR_RANKS[type(array)] > KIND_RANKS[dtype_of(like).kind]
        ):  # the dtype that new Tensors of such a number get
            return as_tensor_on(array, device_of(like))
        array = backend_of[type(like)].xp.full((), array, dtype=like.dtype, device=native_device(like))
    return wrap(array)


def as_tensor_on(x: object, device: str) -> Tensor:
    """Return a number as a Tensor on a device, in the dtype that new Tensors get."""
    from tapegrad.ops.creation import asarray

    return asarray(x, device=device)


def explain(name: str, error: Exception, arrays: tuple[Any, ...]) -> Exception:
    """Return the error to raise for one that a library raised: naming the operation, shapes and fix."""
    if isinstance(error, CaptureError):
        return CaptureError(str(error))
    devices = dict.fromkeys(device_of(a) for a in arrays if hasattr(a, "shape"))
    if len(devices) > 1:
        where = " and ".join(devices)
        return TypeError(f"{name}: operands on {where}; move one first, as in x.to_device({list(devices)[-1]!r})")
    shapes = ", ".join(str(tuple(a.shape)) if hasattr(a, "shape") else repr(a) for a in arrays)
    return _same_kind(error)(f"{name} of operands of shape {shapes}: {error}")


def _same_kind(error: Exception) -> Callable[[str], Exception]:
    if isinstance(error, Warning):  # the caller has made warnings errors
        return type(error)
    for kind in (IndexError, ValueError, TypeError, OverflowError, NotImplementedError, MemoryError, ImportError):
        if isinstance(error, kind):
            return kind
    return RuntimeError
