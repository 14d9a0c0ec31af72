"""Conditions of guards: how the value at each place has to be at a call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any, NamedTuple
from weakref import ref

from tapegrad._compile.capture.graph import is_marked, mark_of
from tapegrad._compile.capture.guard_sources import Place, contents
from tapegrad._engine.tensor import Tensor, host, wrap
from tapegrad.backends import Array


class FunctionCondition(NamedTuple):
    """A function must have this code."""

    code: Any


class TensorCondition(NamedTuple):
    """A Tensor must be this one, or have its shape, dtype and type of array.

    was: a weak reference to it.
    """

    was: ref[Tensor]
    shape: tuple[int, ...]
    dtype: Any
    type: Any


class Identical(NamedTuple):
    """An object that must be the same one, or a weak reference to it."""

    thing: Any
    weak: bool


class TypeCondition(NamedTuple):
    """A type that an object must have; contents: those that a container must have."""

    held: Identical
    contents: Any

    @property
    def type(self) -> Any:
        return self.held.thing() if self.held.weak else self.held.thing


class ArrayCondition(NamedTuple):
    """A guard of an array: its type, shape, dtype and device.

    was: the only array that will do; contents: those that will do; mark: the sign of the contents; each None if all
    will.
    """

    type: type
    shape: tuple[int, ...]
    dtype: Any
    device: Any
    was: Any
    contents: bytes | None
    mark: Any

    def source(self, x: str, constant: Callable[[Any], str]) -> str:
        """Return the condition under which an array is another one."""
        if self.was is not None:
            found = f"{x} is None or {x} is not {constant(self.was)}()"
        else:
            found = f"type({x}) is not {constant(self.type)} or {x}.shape != {constant(self.shape)}"
            found += f" or {x}.dtype != {constant(self.dtype)}"
            if self.device is not None:
                found += f" or {x}.device != {constant(self.device)}"
        if self.mark is not None:
            found += f" or mark_of({x}) != {constant(self.mark)}"
        return found if self.contents is None else f"{found} or contents_of({x}) != {constant(self.contents)}"


def condition_of(place: Place, bases: set[int], pinned: set[int]) -> Any:
    """Return the condition that holds at a place, without holding objects that the user may let go.

    bases: identities of arrays of which another holds a part; pinned: of those that must have the same contents.
    """
    x = place.value
    if place.kind == "plain":
        return x
    if place.kind == "tensor":
        return TensorCondition(ref(x), x.shape, x._array.dtype, type(x._array))
    if place.kind == "array":
        device = getattr(x, "device", None) if type(x).__module__ != "numpy" else None
        marked = id(x) in pinned and is_marked(x)
        was = ref(x) if id(x) in bases or marked else None
        held = contents_of(x) if id(x) in pinned and not marked else None
        return ArrayCondition(type(x), x.shape, x.dtype, device, was, held, mark_of(x) if marked else None)
    if place.kind == "whole":
        return identical(x)
    if place.kind == "parts":
        if type(x) is FunctionType:
            return FunctionCondition(x.__code__)
        return TypeCondition(identical(type(x)), place.contents if place.contents == contents(x) else None)
    return None


def identical(x: Any) -> Identical:
    if type(x) is FunctionType or (isinstance(x, type) and _lasts(x)):
        return Identical(x, False)
    try:
        return Identical(ref(x), True)
    except TypeError:
        return Identical(x, False)


def _lasts(cls: type) -> bool:
    """Say whether a class is one of its module's, and not made by a function."""
    return getattr(sys.modules.get(cls.__module__), cls.__name__, None) is cls


def bases_of(array: Array) -> Iterable[Array]:
    """Go through the arrays whose memory an array is a part of."""
    while (array := getattr(array, "base", None)) is not None:
        yield array


def contents_of(array: Array) -> bytes:
    """Return the contents of a small array, for comparison."""
    return array.tobytes() if hasattr(array, "tobytes") else host(wrap(array)).tobytes()
