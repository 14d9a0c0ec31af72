"""Sorting and searching."""

from __future__ import annotations

from typing import Any

from tapegrad._engine.coercion import as_tensor, as_tensors
from tapegrad._engine.dispatch import namespace_of
from tapegrad._engine.primitive import primitive
from tapegrad._engine.record import noticed
from tapegrad._engine.rules import CONSTANT, composed
from tapegrad._engine.tensor import Tensor, wrap
from tapegrad.ops._axes import axis_of
from tapegrad.ops.conversion import as_indices, astype
from tapegrad.ops.dtypes import result_type
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
    noticed(x)
    return tuple(wrap(a) for a in namespace_of[type(x._array)].nonzero(x._array))


CONSTANT.add("nonzero")


_searchsorted = primitive(
    "searchsorted",
    lambda xp, x1, x2, sorter, side: xp.searchsorted(x1, x2, side=side, sorter=sorter),
    None,
    None,
    None,
)


def searchsorted(x1: Any, x2: Any, /, *, side: str = "left", sorter: Any = None) -> Tensor:
    """Indices at which values could be inserted in a sorted Tensor of one axis so that it stays sorted.

    x1: rising, or put in that order by the indices `sorter`; x2: a Tensor of any shape or a number. side: before equal
    elements ("left") or behind them ("right"). Gives integers in the shape of x2. Raises ValueError for another side,
    for x1 of other than one axis and a sorter of another shape, TypeError for a sorter that holds no integers. Not
    differentiable.

    >>> import tapegrad as tg
    >>> tg.searchsorted(tg.asarray([1.0, 2.0, 2.0]), tg.asarray([2.0, 5.0]))
    Tensor([1, 3])
    """
    x1, x2 = as_tensors("searchsorted", x1, x2)
    if side not in ("left", "right"):
        raise ValueError(f"searchsorted: side is 'left' or 'right', not {side!r}")
    if x1.ndim != 1:
        raise ValueError(f"searchsorted: the sorted Tensor has one axis, not {x1.ndim}")
    if sorter is not None:
        _, sorter = as_tensors("searchsorted", x1, sorter)
        if "integer" not in sorter.dtype.kind:
            raise TypeError(f"searchsorted: sorter holds indices, so it must be of integers, not {sorter.dtype.name}")
        if sorter.shape != x1.shape:
            raise ValueError(f"searchsorted: sorter has shape {sorter.shape}, but what it sorts {x1.shape}")
        sorter = as_indices(sorter)
    dtype = result_type(x1, x2)
    return _searchsorted(astype(x1, dtype, copy=False), astype(x2, dtype, copy=False), sorter, side)
