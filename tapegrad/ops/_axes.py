"""Normalisation of axes and shapes.

Axes are negative numbers, counted from the end, so that rules that use them also hold for cotangents with batch axes.
"""

from __future__ import annotations

from operator import index
from typing import Any


class AxisError(ValueError, IndexError):
    """An axis out of range: a ValueError, and also an IndexError, which the standard wants from some functions."""


def integer(name: str, what: str, value: Any) -> int:
    """Return a value as an int; raise TypeError with the names of the function and argument if it is no integer.

    A Tensor of one integer is an integer; its own errors are raised as they are.
    """
    try:
        return index(value)
    except TypeError:
        if hasattr(value, "__index__"):
            raise
        raise TypeError(f"{name}: {what} is an integer, not {value!r}") from None


def integers(name: str, what: str, value: Any) -> tuple[int, ...]:
    """Return an integer, or a tuple or list of them, as a tuple; raise TypeError for anything else, see `integer`."""
    try:
        return tuple([index(i) for i in value]) if isinstance(value, (tuple, list)) else (index(value),)
    except TypeError:
        if isinstance(value, (tuple, list)):
            return tuple([integer(name, what, i) for i in value])
        if hasattr(value, "__index__"):
            raise
        raise TypeError(f"{name}: {what} is an integer or a tuple of them, not {value!r}") from None


def axis_of(name: str, ndim: int, axis: Any) -> int:
    """Return one axis as a negative number; raise AxisError if it is out of range."""
    try:
        i = index(axis)
    except TypeError:
        i = integer(name, "an axis", axis)
    if not -ndim <= i < ndim:
        raise AxisError(f"{name}: axis {i} is out of range for a Tensor of {ndim} axes")
    return i if i < 0 else i - ndim


def axes_of(name: str, ndim: int, axis: Any) -> tuple[int, ...]:
    """Return an axis, a tuple of axes, or all axes for None, as sorted negative numbers."""
    if axis is None:
        return tuple(range(-ndim, 0))
    axes = tuple(sorted(axis_of(name, ndim, i) for i in (axis if isinstance(axis, (tuple, list)) else (axis,))))
    if len(set(axes)) != len(axes):
        raise ValueError(f"{name}: an axis is named twice in {axis}")
    return axes


def count(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    """Return the number of elements along some axes of a shape."""
    n = 1
    for i in axes:
        n *= shape[i]
    return n


def spread(xp: Any, t: Any, shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> Any:
    """Return the result of a reduction over axes of `shape` with these axes restored, with length 1.

    Batch axes of `t` pass through.
    """
    if keepdims or not axes:
        return t
    kept = tuple(1 if i - len(shape) in axes else n for i, n in enumerate(shape))
    batch_ndim = t.ndim - len(shape) + len(axes)
    return xp.reshape(t, tuple(t.shape[:batch_ndim]) + kept)


def fill(xp: Any, t: Any, shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> Any:
    """Return the result of a reduction, broadcast to the shape before it."""
    t = spread(xp, t, shape, axes, keepdims)
    return xp.broadcast_to(t, tuple(t.shape[: t.ndim - len(shape)]) + tuple(shape))


def reduced(xp: Any, t: Any, axis: tuple[int, ...], keepdims: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the axes that make up a row of the operand and of the result of a reduction (see `Operation.rows`)."""
    return axis, axis if keepdims else ()


def along(xp: Any, t: Any, axis: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the same axes for an operation that keeps its axis."""
    return (axis,), (axis,)
