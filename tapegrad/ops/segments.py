"""Reductions of segments: of the rows that have the same number."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tapegrad._engine.coercion import as_tensors
from tapegrad._engine.dispatch import backend_of, dtype_of
from tapegrad._engine.mode import mode
from tapegrad._engine.primitive import primitive
from tapegrad._engine.rules import composed
from tapegrad._engine.source_line import user_line
from tapegrad._engine.tensor import Tensor
from tapegrad.ops._axes import axis_of, integer
from tapegrad.ops._keys import ALL, Key
from tapegrad.ops._text import SUMMED, documented
from tapegrad.ops.binary import clip, divide, maximum, where
from tapegrad.ops.conversion import as_floats, as_indices, astype
from tapegrad.ops.creation import ones, zeros
from tapegrad.ops.indexing import index_add
from tapegrad.ops.reductions import widened
from tapegrad.ops.shaping import moveaxis, reshape
from tapegrad.typing import ArrayLike

_documented = partial(
    documented,
    shared={
        "ids": "The number of each row's segment, 0 to n - 1, in any order: a vector of integers, as long as the axis.",
        "n": "The number of segments.",
        "axis": "The axis that the rows lie along.",
    },
)
_ROWS = "in the shape of `x`, with n along the axis."
_UNFIT = (
    "ValueError: `ids` is no vector as long as the axis, or n is negative.",
    "TypeError: `ids` are no integers, or n is none.",
    (
        "IndexError: An id is out of range; on a GPU it is raised when the host next waits. Where JAX compiles, "
        "nothing can raise: rows with such an id are left out, and floating ones make the first or last segment NaN."
    ),
)


def _checked(name: str, x: Any, ids: Any, n: int, axis: int) -> tuple[Tensor, Tensor, int, int]:
    """Return rows along the first axis, their ids, the number of segments and the axis; raise if they do not fit."""
    x, ids = as_tensors(name, x, ids)
    n = integer(name, "the number of segments", n)
    if n < 0:
        raise ValueError(f"{name}: the number of segments is 0 or more, not {n}")
    place = axis_of(name, x.ndim, axis) + x.ndim
    if "integer" not in ids.dtype.kind:
        raise TypeError(f"{name}: ids must be integers, not {ids.dtype.name}")
    if ids.shape != (x.shape[place],):
        raise ValueError(
            f"{name}: ids of shape {ids.shape} for {x.shape[place]} rows along axis {place} of a Tensor of shape "
            f"{x.shape}: one id for each row is needed"
        )
    ids = as_indices(ids)
    x = moveaxis(x, place, 0) if place else x
    raw = ids._array
    backend = backend_of[type(raw)]
    if raw.shape[0] and backend.is_symbolic(raw):
        outside = (ids < 0) | (ids >= n)
        spoiled = reshape(outside, (-1,) + (1,) * (x.ndim - 1))
        x = where(spoiled, float("nan") if "floating" in x.dtype.kind else 0, x)
        ids = clip(ids, 0, max(n - 1, 0))
    elif raw.shape[0]:
        backend.refuse_outside(raw, n, partial(_out_of_range, name, n, user_line()))
        if mode().debug:
            backend.synchronize(raw)
    return x, ids, n, place


def _out_of_range(name: str, n: int, line: str) -> IndexError:
    error = IndexError(
        f"{name}: an id is out of range: {n} segments have the ids 0 to {n - 1}; give rows to leave out an id of their "
        f"own, as with n = {n + 1}, and drop its segment"
    )
    error.add_note(f"ids of the call at {line}")
    return error


def _back(out: Tensor, place: int) -> Tensor:
    return moveaxis(out, 0, place) if place else out


def _rows_at(ids: Any, ndim: int) -> Key:
    """Return the key of rows at ids; raw arrays stand in keys."""
    return (ids._array if type(ids) is Tensor else ids, *(ALL,) * (ndim - 1))


def _total(x: Tensor, ids: Tensor, n: int) -> Tensor:
    """Return the sums of rows, of half precision in single precision."""
    half = "floating" in x.dtype.kind and x.dtype.itemsize == 2
    y = astype(x, "float32") if half else x
    out = index_add(zeros((n, *x.shape[1:]), dtype=y.dtype, device=x.device), _rows_at(ids, y.ndim), y)
    return astype(out, x.dtype) if half else out


@composed
@_documented(f"The sums, {_ROWS} An empty segment gives 0. {SUMMED}", *_UNFIT, x="The rows to add, of a numeric dtype.")
def segment_sum(x: ArrayLike, ids: ArrayLike, n: int, /, *, axis: int = 0) -> Tensor:
    """Sum of the rows of each segment.

    Derivative: t, taken at the ids.

    >>> import tapegrad as tg
    >>> tg.segment_sum(tg.asarray([1.0, 2.0, 5.0]), tg.asarray([0, 2, 0]), 3)
    Tensor([6., 0., 2.])
    """
    rows, ids, n, place = _checked("segment_sum", x, ids, n, axis)
    if rows.dtype.kind == "bool":
        rows = astype(rows, ids.dtype)
    return _back(_total(widened(rows), ids, n), place)


@composed
@_documented(
    f"The means, {_ROWS} An empty segment gives 0. The dtype is that of `x`; for integers the default floating one.",
    *_UNFIT,
    x="The rows to average, of a numeric dtype.",
)
def segment_mean(x: ArrayLike, ids: ArrayLike, n: int, /, *, axis: int = 0) -> Tensor:
    """Mean of the rows of each segment.

    Derivative: t over the number of rows, taken at the ids.

    >>> import tapegrad as tg
    >>> tg.segment_mean(tg.asarray([1.0, 2.0, 5.0]), tg.asarray([0, 2, 0]), 3)
    Tensor([3., 0., 2.])
    """
    rows, ids, n, place = _checked("segment_mean", x, ids, n, axis)
    rows = as_floats(rows)
    numbers = _total(ones(ids.shape, dtype=ids.dtype, device=ids.device), ids, n)
    share = reshape(maximum(numbers, 1), (n,) + (1,) * (rows.ndim - 1))
    half = rows.dtype.itemsize == 2  # whose sum may overflow where the mean does not
    total = _total(astype(rows, "float32") if half else rows, ids, n)
    out = divide(total, astype(share, total.dtype))
    return _back(astype(out, rows.dtype) if half else out, place)


def _extreme_vjp(xp: Any, t: Any, x: Any, ids: Any, out: Any, n: int) -> Any:
    mask = (x == xp.take(out, ids, axis=-x.ndim)) | (x != x)  # NaN is the extreme of a segment that holds one
    ones = xp.astype(mask, out.dtype)
    ties = xp.index_add(xp.zeros_like(out), _rows_at(ids, x.ndim), ones)
    return xp.where(mask, xp.take(t / xp.where(ties == 0, 1, ties), ids, axis=-x.ndim), 0)


_segment_max = primitive(
    "segment_max", lambda xp, x, ids, n: xp.segment_max(x, ids, n), _extreme_vjp, None, moves="some"
)
_segment_min = primitive(
    "segment_min", lambda xp, x, ids, n: xp.segment_min(x, ids, n), _extreme_vjp, None, moves="some"
)


def _extreme(name: str, operation: Callable[..., Tensor], x: Any, ids: Any, n: int, axis: int) -> Tensor:
    rows, ids, n, place = _checked(name, x, ids, n, axis)
    if dtype_of(rows._array).kind not in ("real floating", "signed integer", "unsigned integer"):
        raise TypeError(f"{name}: the rows are of {rows.dtype.name}, which has no order: give real numbers")
    return _back(operation(rows, ids, n), place)


@_documented(
    f"The greatest values, {_ROWS} An empty segment gives -inf, of integers the least one. The dtype is that of `x`.",
    *_UNFIT,
    x="The rows, of a real dtype.",
)
def segment_max(x: ArrayLike, ids: ArrayLike, n: int, /, *, axis: int = 0) -> Tensor:
    """Greatest value of each segment, element by element of the rows; NaN where one of them is NaN.

    Derivative: t, shared equally by ties.

    >>> import tapegrad as tg
    >>> tg.segment_max(tg.asarray([1.0, 2.0, 5.0]), tg.asarray([0, 2, 0]), 3)
    Tensor([  5., -inf,   2.])
    """
    return _extreme("segment_max", _segment_max, x, ids, n, axis)


@_documented(
    f"The least values, {_ROWS} An empty segment gives inf, of integers the greatest one. The dtype is that of `x`.",
    *_UNFIT,
    x="The rows, of a real dtype.",
)
def segment_min(x: ArrayLike, ids: ArrayLike, n: int, /, *, axis: int = 0) -> Tensor:
    """Least value of each segment, element by element of the rows; NaN where one of them is NaN.

    Derivative: t, shared equally by ties.

    >>> import tapegrad as tg
    >>> tg.segment_min(tg.asarray([1.0, 2.0, 5.0]), tg.asarray([0, 2, 0]), 3)
    Tensor([ 1., inf,  2.])
    """
    return _extreme("segment_min", _segment_min, x, ids, n, axis)
