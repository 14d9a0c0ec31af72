"""Parameters of distributions: their dtypes, devices, shapes and ranges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tapegrad._engine.coercion import placed
from tapegrad._engine.dispatch import backend_of, checked_dtype, native_device
from tapegrad._engine.dtypes import as_dtype, isdtype
from tapegrad._engine.settings import float_dtype_on
from tapegrad._engine.tensor import Tensor
from tapegrad.ops.conversion import astype, dtype_name
from tapegrad.ops.dtypes import result_type
from tapegrad.ops.reductions import any as any_of
from tapegrad.ops.shaping import _sizes, broadcast_shapes


class Source(Protocol):
    """A generator, as distributions see it."""

    @property
    def key(self) -> Tensor:
        """The key, on the device of the numbers."""

    def advance(self, blocks: int) -> tuple[Tensor, Tensor]:
        """Return the key and the counter for a draw, and go on behind it."""

    def numbers(self, form: str, shape: tuple[int, ...], dtype: str) -> Tensor:
        """Return random numbers of a form."""


def shape_of(name: str, shape: Any, *parameters: Any) -> tuple[int, ...]:
    """Return a shape as a tuple; raise ValueError for negative lengths, or parameters that do not broadcast to it."""
    sizes = _sizes(name, shape)
    if any([n < 0 for n in sizes]):
        raise ValueError(f"{name}: a shape has no negative lengths, but {shape} has")
    shapes = [tuple(p.shape) for p in parameters if hasattr(p, "shape")]
    if shapes and not _broadcasts(sizes, shapes):
        listed = ", ".join(map(str, shapes))
        raise ValueError(
            f"{name}: parameters of shape {listed} do not broadcast to the shape of the numbers, {sizes}: give the "
            "whole shape of the result"
        )
    return sizes


def _broadcasts(sizes: tuple[int, ...], shapes: list[tuple[int, ...]]) -> bool:
    try:
        return broadcast_shapes(sizes, *shapes) == sizes
    except ValueError:
        return False


def given(name: str, rng: Source, *parameters: Any) -> tuple[Any, ...]:
    """Return parameters as Python numbers, or as Tensors beside the key; raise TypeError for complex ones."""
    found = tuple([_given(name, rng, p) for p in parameters])
    for p in found:
        if isinstance(p, complex) or (isinstance(p, Tensor) and p.dtype.kind == "complex floating"):
            raise TypeError(f"{name}: parameters are real, not complex")
    return found


def _given(name: str, rng: Source, p: Any) -> Any:
    if type(p) in (int, float, bool, complex):
        return p
    like = rng.key._array
    scalar = backend_of[type(like)].as_scalar(p) if hasattr(p, "dtype") and not isinstance(p, Tensor) else None
    return placed(name, p, like) if scalar is None else scalar


def float_dtype(name: str, rng: Source, dtype: Any, *parameters: Any) -> str:
    """Return the dtype of floating numbers: the given one, else that of floating Tensors, else the default one."""
    like = rng.key._array
    backend = backend_of[type(like)]
    if dtype is not None:
        found = as_dtype(dtype)
        if not isdtype(found, "real floating"):
            raise TypeError(f"{name}: dtype is a real floating one, not {found.name}")
        checked_dtype(backend, found, native_device(like))
        return found.name
    of_tensors = [p.dtype for p in parameters if isinstance(p, Tensor) and p.dtype.kind == "real floating"]
    if of_tensors:
        return as_dtype(result_type(*of_tensors)).name
    return dtype_name(backend, float_dtype_on(backend, native_device(like)))


def cast(dtype: str, *parameters: Any) -> tuple[Any, ...]:
    """Return the Tensors among parameters in a dtype."""
    return tuple([astype(p, dtype, copy=False) if isinstance(p, Tensor) else p for p in parameters])


def check(name: str, what: str, fits: Callable[..., Any], *parameters: Any) -> None:
    """Raise ValueError unless parameters are in their range: Tensors by a check that a GPU defers.

    fits: of a parameter or several, whether they are; true nowhere for NaN.
    """
    if not any([isinstance(p, Tensor) for p in parameters]):
        if not fits(*parameters):
            raise ValueError(f"{name}: {what}, not {' and '.join(map(repr, parameters))}")
        return
    wrong = ~fits(*parameters)
    array = any_of(wrong)._array
    backend_of[type(array)].refuse(array, lambda: ValueError(f"{name}: {what}, which the Tensor given is not"))
