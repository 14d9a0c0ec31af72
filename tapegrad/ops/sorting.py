"""Sorting, with the searches that rest on it."""

from __future__ import annotations

from typing import NamedTuple

from tapegrad._engine.coercion import as_tensor, as_tensors
from tapegrad._engine.dispatch import namespace_of
from tapegrad._engine.mode import notify_use
from tapegrad._engine.primitive import primitive
from tapegrad._engine.rules import NONDIFFERENTIABLE, composed
from tapegrad._engine.tensor import Tensor, wrap
from tapegrad.ops._axes import axis_of, integer
from tapegrad.ops._text import INDICES, SAME, documented
from tapegrad.ops.conversion import as_indices, astype
from tapegrad.ops.dtypes import result_type
from tapegrad.ops.indexing import take_along_axis
from tapegrad.typing import ArrayLike

DESCENDING = "Whether the greatest come first."
STABLE = "Whether equal elements keep their order."
REDUCED = "The axis to search along; the flat array is searched for None."
WITHOUT = "in the shape of `x` without the axis, or with length 1 there."
EMPTY = "ValueError: There is no element; on PyTorch it is an IndexError."

_argsort = primitive(
    "argsort",
    lambda xp, x, axis, descending, stable: xp.argsort(x, axis=axis, descending=descending, stable=stable),
    None,
)
_argmax = primitive("argmax", lambda xp, x, axis, keepdims: xp.argmax(x, axis=axis, keepdims=keepdims), None)
_argmin = primitive("argmin", lambda xp, x, axis, keepdims: xp.argmin(x, axis=axis, keepdims=keepdims), None)


@documented(f"The indices along the axis, in the shape of `x`. {INDICES}", descending=DESCENDING, stable=STABLE)
def argsort(x: ArrayLike, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """Indices that sort along an axis.

    Not differentiable.

    >>> import tapegrad as tg
    >>> tg.argsort(tg.asarray([3.0, 1.0, 2.0]))
    Tensor([1, 2, 0])
    """
    x = as_tensor(x)
    return _argsort(x, axis_of("argsort", x.ndim, axis), descending, stable)


@composed
@documented(f"The elements of `x`, sorted, in its shape. {SAME}", descending=DESCENDING, stable=STABLE)
def sort(x: ArrayLike, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """Sort along an axis.

    Derivative: t, put where the elements came from; those of ties by the stable order.

    >>> import tapegrad as tg
    >>> tg.sort(tg.asarray([3.0, 1.0, 2.0]))
    Tensor([1., 2., 3.])
    """
    x = as_tensor(x)
    return take_along_axis(x, argsort(x, axis=axis, descending=descending, stable=stable), axis=axis)


class TopK(NamedTuple):
    """The greatest elements along an axis, and where they stood."""

    values: Tensor
    indices: Tensor


@composed
@documented(
    f"The `values` and their `indices`, each with length k along the axis. {SAME} "
    "Indices are int64, or int32 where the device has no int64.",
    "ValueError: There are fewer than k elements along the axis, or k is negative.",
    "TypeError: k is no integer, or `x` is complex.",
    k="How many elements to take.",
    largest="Whether to take the greatest, in descending order; else the least, in ascending order.",
)
def top_k(x: ArrayLike, k: int, /, *, axis: int = -1, largest: bool = True) -> TopK:
    """The k greatest elements along an axis, and their indices; of equal ones the first come first.

    Derivative: t, added at the indices.

    >>> import tapegrad as tg
    >>> tg.top_k(tg.asarray([3.0, 1.0, 7.0, 7.0]), 3)
    TopK(values=Tensor([7., 7., 3.]), indices=Tensor([2, 3, 0]))
    """
    x = as_tensor(x)
    place, k = axis_of("top_k", x.ndim, axis), integer("top_k", "k", k)
    if "complex" in x.dtype.kind:
        raise TypeError("top_k: complex numbers have no order: give real ones, such as abs(x)")
    if not 0 <= k <= x.shape[place]:
        raise ValueError(f"top_k: k is 0 to {x.shape[place]}, the length along axis {axis}, not {k}")
    indices = argsort(x, axis=place, descending=largest)[(..., slice(None, k), *(slice(None),) * (-place - 1))]
    return TopK(take_along_axis(x, indices, axis=place), indices)


@documented(f"The indices along the axis, {WITHOUT} {INDICES}", EMPTY, axis=REDUCED)
def argmax(x: ArrayLike, /, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Index of the first greatest element along an axis.

    Not differentiable.

    >>> import tapegrad as tg
    >>> tg.argmax(tg.asarray([3.0, 1.0, 5.0]))
    Tensor(2)
    """
    x = as_tensor(x)
    return _argmax(x, None if axis is None else axis_of("argmax", x.ndim, axis), keepdims)


@documented(f"The indices along the axis, {WITHOUT} {INDICES}", EMPTY, axis=REDUCED)
def argmin(x: ArrayLike, /, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Index of the first least element along an axis.

    Not differentiable.

    >>> import tapegrad as tg
    >>> tg.argmin(tg.asarray([3.0, 1.0, 5.0]))
    Tensor(1)
    """
    x = as_tensor(x)
    return _argmin(x, None if axis is None else axis_of("argmin", x.ndim, axis), keepdims)


@documented(
    f"For each axis, the indices along it of these elements, in C order. {INDICES}", "ValueError: `x` has no axes."
)
def nonzero(x: ArrayLike, /) -> tuple[Tensor, ...]:
    """Indices of the elements that are not zero.

    Not differentiable. How many there are depends on the values: `vmap` and compiled functions refuse it.

    >>> import tapegrad as tg
    >>> tg.nonzero(tg.asarray([0.0, 2.0]))
    (Tensor([1]),)
    """
    x = as_tensor(x)
    if x.ndim == 0:
        raise ValueError("nonzero: a Tensor with no axes")
    notify_use(x)
    return tuple(wrap(a) for a in namespace_of[type(x._array)].nonzero(x._array))


NONDIFFERENTIABLE.add("nonzero")


_searchsorted = primitive(
    "searchsorted",
    lambda xp, x1, x2, sorter, side: xp.searchsorted(x1, x2, side=side, sorter=sorter),
    None,
    None,
    None,
)


@documented(
    f"The indices, in the shape of `x2`. {INDICES}",
    "ValueError: `side` is another one, `x1` has other than one axis, or `sorter` another shape than `x1`.",
    "TypeError: `sorter` holds no integers.",
    x1="A vector of rising values, or one that `sorter` puts in that order.",
    x2="The values to insert, of any shape.",
    side="Whether to insert before equal elements ('left') or behind them ('right').",
    sorter="The indices that sort `x1`, as of `argsort`; None if it is sorted.",
)
def searchsorted(x1: ArrayLike, x2: ArrayLike, /, *, side: str = "left", sorter: ArrayLike | None = None) -> Tensor:
    """Indices at which values could be inserted in a sorted vector so that it stays sorted.

    Not differentiable.

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
            raise ValueError(f"searchsorted: sorter has shape {sorter.shape}, but x1 has {x1.shape}")
        sorter = as_indices(sorter)
    dtype = result_type(x1, x2)
    return _searchsorted(astype(x1, dtype, copy=False), astype(x2, dtype, copy=False), sorter, side)
