"""Sorting and searching."""

from __future__ import annotations

from typing import Any

from tapegrad._namespace import namespace_of
from tapegrad._operands import as_tensor
from tapegrad._primitive import primitive
from tapegrad._rules import CONSTANT, composed
from tapegrad._tensor import Tensor, wrap
from tapegrad.ops._axes import axis_of
from tapegrad.ops.indexing import take_along_axis

_argsort = primitive(
    "argsort",
    lambda xp, x, axis, descending, stable: xp.argsort(x, axis=axis, descending=descending, stable=stable),
    None,
)
_argmax = primitive("argmax", lambda xp, x, axis, keepdims: xp.argmax(x, axis=axis, keepdims=keepdims), None)
_argmin = primitive("argmin", lambda xp, x, axis, keepdims: xp.argmin(x, axis=axis, keepdims=keepdims), None)


def argsort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """Indices that sort along an axis. Not differentiable.

    >>> import tapegrad as tg
    >>> tg.argsort(tg.asarray([3.0, 1.0, 2.0]))
    Tensor([1, 2, 0])
    """
    x = as_tensor(x)
    return _argsort(x, axis_of("argsort", x.ndim, axis), descending, stable)


@composed
def sort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """Sort along an axis. Derivative: t, put where the elements came from; ties by the stable order.

    >>> import tapegrad as tg
    >>> tg.sort(tg.asarray([3.0, 1.0, 2.0]))
    Tensor([1., 2., 3.])
    """
    x = as_tensor(x)
    return take_along_axis(x, argsort(x, axis=axis, descending=descending, stable=stable), axis=axis)


def argmax(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Index of the first greatest element along an axis, or in the flat array for None. Not differentiable.

    >>> import tapegrad as tg
    >>> tg.argmax(tg.asarray([3.0, 1.0, 5.0]))
    Tensor(2)
    """
    x = as_tensor(x)
    return _argmax(x, None if axis is None else axis_of("argmax", x.ndim, axis), keepdims)


def argmin(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Index of the first least element along an axis, or in the flat array for None. Not differentiable.

    >>> import tapegrad as tg
    >>> tg.argmin(tg.asarray([3.0, 1.0, 5.0]))
    Tensor(1)
    """
    x = as_tensor(x)
    return _argmin(x, None if axis is None else axis_of("argmin", x.ndim, axis), keepdims)


def nonzero(x: Any, /) -> tuple[Tensor, ...]:
    """Indices of the elements that are not zero, one Tensor for each axis. Not differentiable.

    >>> import tapegrad as tg
    >>> tg.nonzero(tg.asarray([0.0, 2.0]))
    (Tensor([1]),)
    """
    x = as_tensor(x)
    if x.ndim == 0:
        raise ValueError("nonzero: a Tensor with no axes")
    return tuple(wrap(a) for a in namespace_of[type(x._array)].nonzero(x._array))


CONSTANT.add("nonzero")
