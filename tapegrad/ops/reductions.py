"""Reductions of the standard: statistics, cumulative sums and products, logic."""

from __future__ import annotations

from functools import partial
from math import nan
from typing import Any

from tapegrad._engine.coercion import as_tensor, as_tensors
from tapegrad._engine.dispatch import backend_of, native_device
from tapegrad._engine.primitive import primitive
from tapegrad._engine.rules import composed
from tapegrad._engine.tensor import Tensor
from tapegrad.ops._axes import along, axes_of, axis_of, count, fill, reduced, spread
from tapegrad.ops._kinks import unit
from tapegrad.ops._text import AN_AXIS_OF, BOOLEAN, FLOATING, INDICES, SAME, SUMMED, UNFIT, documented
from tapegrad.ops.binary import subtract
from tapegrad.ops.conversion import astype
from tapegrad.ops.creation import full
from tapegrad.ops.shaping import broadcast_to, concat, reshape, squeeze
from tapegrad.typing import ArrayLike, Axis, DTypeLike

SHAPE = "a number for each place along the other axes."
EMPTY = "ValueError: There is no element to take; on PyTorch it is an IndexError."
NO_AXIS = "ValueError: `x` has other than one axis, and `axis` is None."
ALONG = "The axis, which `x` of one axis need not name; a negative one counts from the last."
VARIANCE = "The dtype is real: that of the parts for complex values, that of `x` for real ones."
CORRECTION = "The number to take from n: 0 for a population, 1 (Bessel's correction) for a sample."
_documented = partial(
    documented,
    shared={
        "x": "The elements.",
        "axis": "The axes to reduce; all of them for None.",
        "dtype": "The dtype to compute in and to return; for None it follows that of `x`.",
    },
)


_sum = primitive(
    "sum",
    lambda xp, x, axis, keepdims: xp.sum(x, axis=axis, keepdims=keepdims),
    lambda xp, t, x_shape, axis, keepdims: fill(xp, t, x_shape, axis, keepdims),
    moves="all",
)


@_documented(f"The sums: {SHAPE} {SUMMED} With `dtype`, it is that one.")
def sum(x: ArrayLike, /, *, axis: Axis = None, dtype: DTypeLike | None = None, keepdims: bool = False) -> Tensor:
    """Sum of elements over axes.

    Derivative: t, broadcast back.

    >>> import tapegrad as tg
    >>> tg.sum(tg.asarray([[1.0, 2.0], [3.0, 4.0]]), axis=0)
    Tensor([4., 6.])
    """
    x = _cast(x, dtype)
    out: Tensor = _sum(x, axes_of("sum", x.ndim, axis), keepdims)
    return out if dtype is None else _cast(out, dtype)  # libraries widen small integers, asked or not


_mean = primitive(
    "mean",
    lambda xp, x, axis, keepdims: xp.mean(x, axis=axis, keepdims=keepdims),
    lambda xp, t, x_shape, axis, keepdims: fill(xp, t / (count(x_shape, axis) or 1), x_shape, axis, keepdims),
    moves="all",
)


@_documented(f"The means: {SHAPE} {FLOATING.result}", x=FLOATING.operands)
def mean(x: ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Arithmetic mean over axes.

    Derivative: t / n, broadcast back, where n is the number of elements for each mean.

    >>> import tapegrad as tg
    >>> tg.mean(tg.asarray([1.0, 2.0, 6.0]))
    Tensor(3.)
    """
    x = as_tensor(x)
    return _mean(x, axes_of("mean", x.ndim, axis), keepdims)


def _var_vjp(xp: Any, t: Any, x: Any, axis: tuple[int, ...], correction: float, keepdims: bool) -> Any:
    t = spread(xp, t, x.shape, axis, keepdims)
    n = (count(x.shape, axis) - correction) or nan  # var of one sample with correction 1 is 0 / 0
    return t * (x - xp.mean(x, axis=axis, keepdims=True)) * (2 / n)


_var = primitive(
    "var",
    lambda xp, x, axis, correction, keepdims: xp.var(
        x, axis=axis if x.ndim else None, correction=correction, keepdims=keepdims
    ),
    _var_vjp,
    fuses=True,
    rows=reduced,
)


@_documented(f"The variances: {SHAPE} {VARIANCE}", x=FLOATING.operands, correction=CORRECTION)
def var(x: ArrayLike, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """Variance over axes: the sum of squared deviations over n - correction.

    Derivative: 2 t (x - mean) / (n - correction).

    >>> import tapegrad as tg
    >>> tg.var(tg.asarray([1.0, 3.0]))
    Tensor(1.)
    """
    x = as_tensor(x)
    return _var(x, axes_of("var", x.ndim, axis), correction, keepdims)


def _std_vjp(xp: Any, t: Any, x: Any, out: Any, axis: tuple[int, ...], correction: float, keepdims: bool) -> Any:
    n = (count(x.shape, axis) - correction) or nan
    t, out = (spread(xp, v, x.shape, axis, keepdims) for v in (t, out))
    if count(x.shape, axis):
        x = x - xp.max(x, axis=axis, keepdims=True)  # exact zeros for equal values, whose mean may be rounded
        out = xp.where(xp.min(x, axis=axis, keepdims=True) == 0, 0, out)
    return t * unit(xp, x - xp.mean(x, axis=axis, keepdims=True), out) / n


_std = primitive(
    "std",
    lambda xp, x, axis, correction, keepdims: xp.std(
        x, axis=axis if x.ndim else None, correction=correction, keepdims=keepdims
    ),
    _std_vjp,
    fuses=True,
    rows=reduced,
)


@_documented(f"The standard deviations: {SHAPE} {VARIANCE}", x=FLOATING.operands, correction=CORRECTION)
def std(x: ArrayLike, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """Standard deviation over axes: the square root of `var`.

    Derivative: t (x - mean) / (out (n - correction)), 0 where all values are equal.

    >>> import tapegrad as tg
    >>> tg.std(tg.asarray([1.0, 3.0]))
    Tensor(1.)
    """
    x = as_tensor(x)
    return _std(x, axes_of("std", x.ndim, axis), correction, keepdims)


def _extreme_vjp(xp: Any, t: Any, x: Any, out: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    t, out = (spread(xp, v, x.shape, axis, keepdims) for v in (t, out))
    mask = (x == out) | (x != x)  # NaN is the extreme of a row that holds one
    ties = xp.sum(xp.astype(mask, out.dtype), axis=axis, keepdims=True)
    return xp.where(mask, t / ties, 0)


_max = primitive(
    "max", lambda xp, x, axis, keepdims: xp.max(x, axis=axis, keepdims=keepdims), _extreme_vjp, moves="some"
)
_min = primitive(
    "min", lambda xp, x, axis, keepdims: xp.min(x, axis=axis, keepdims=keepdims), _extreme_vjp, moves="some"
)


@_documented(f"The greatest values: {SHAPE} {SAME}", EMPTY)
def max(x: ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Greatest value over axes; NaN where one of them is NaN.

    Derivative: t, shared equally by ties.

    >>> import tapegrad as tg
    >>> tg.max(tg.asarray([1.0, 3.0]))
    Tensor(3.)
    """
    x = as_tensor(x)
    return _max(x, axes_of("max", x.ndim, axis), keepdims)


@_documented(f"The least values: {SHAPE} {SAME}", EMPTY)
def min(x: ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Least value over axes; NaN where one of them is NaN.

    Derivative: t, shared equally by ties.

    >>> import tapegrad as tg
    >>> tg.min(tg.asarray([1.0, 3.0]))
    Tensor(1.)
    """
    x = as_tensor(x)
    return _min(x, axes_of("min", x.ndim, axis), keepdims)


# -- products --------------------------------------------------------------------------------------------


def _part(start: int | None, stop: int | None, axis: int) -> tuple[Any, ...]:
    """Return the index that cuts one axis, counted from the end."""
    return (..., slice(start, stop), *(slice(None),) * (-axis - 1))


def _cumprod_vjp(xp: Any, t: Any, x: Any, axis: int) -> Any:
    """Return L_i s_i, where L_i is the product before i and s_i = t_i + x_(i+1) s_(i+1).

    No division, so zeros are exact. The recurrence is solved by doubling in log2(n) steps.
    """
    n = x.shape[axis]
    if n == 0:
        return t
    b = t
    a = xp.concat([x[_part(1, None, axis)], xp.zeros_like(x[_part(0, 1, axis)])], axis=axis)
    step = 1
    while step < n:
        keep, rest = _part(None, n - step, axis), _part(step, None, axis)
        b = xp.concat([b[keep] + a[keep] * b[rest], b[_part(n - step, None, axis)]], axis=axis)
        a = xp.concat([a[keep] * a[rest], xp.zeros_like(a[_part(n - step, None, axis)])], axis=axis)
        step *= 2
    return _before(xp, x, axis) * b


def _before(xp: Any, x: Any, axis: int) -> Any:
    """Return for each element the product of those before it along an axis."""
    ones = xp.ones_like(x[_part(0, 1, axis)])
    return xp.cumulative_prod(xp.concat([ones, x[_part(None, -1, axis)]], axis=axis), axis=axis)


_cumulative_prod = primitive(
    "cumulative_prod",
    lambda xp, x, axis: xp.cumulative_prod(x, axis=axis),
    _cumprod_vjp,
    rows=along,
)


@_documented(
    f"The products, in the shape of `x`, longer by one along the axis with `include_initial`. {SUMMED}",
    NO_AXIS,
    axis=ALONG,
    include_initial="Whether to put a 1 before them.",
)
def cumulative_prod(
    x: ArrayLike, /, *, axis: int | None = None, dtype: DTypeLike | None = None, include_initial: bool = False
) -> Tensor:
    """Product of the elements up to each one along an axis.

    Derivative: exact with zeros too, without a division; it costs log2(n) passes over the n elements.

    >>> import tapegrad as tg
    >>> tg.cumulative_prod(tg.asarray([1.0, 2.0, 3.0]))
    Tensor([1., 2., 6.])
    """
    return _cumulative("cumulative_prod", _cumulative_prod, 1, x, axis, dtype, include_initial)


_cumulative_sum = primitive(
    "cumulative_sum",
    lambda xp, x, axis: xp.cumulative_sum(x, axis=axis),
    lambda xp, t, axis: xp.flip(xp.cumulative_sum(xp.flip(t, axis=axis), axis=axis), axis=axis),
    moves="all",
)


@_documented(
    f"The sums, in the shape of `x`, longer by one along the axis with `include_initial`. {SUMMED}",
    NO_AXIS,
    axis=ALONG,
    include_initial="Whether to put a 0 before them.",
)
def cumulative_sum(
    x: ArrayLike, /, *, axis: int | None = None, dtype: DTypeLike | None = None, include_initial: bool = False
) -> Tensor:
    """Sum of the elements up to each one along an axis.

    Derivative: the cumulative sum of t from the end.

    >>> import tapegrad as tg
    >>> tg.cumulative_sum(tg.asarray([1.0, 2.0, 3.0]))
    Tensor([1., 3., 6.])
    """
    return _cumulative("cumulative_sum", _cumulative_sum, 0, x, axis, dtype, include_initial)


def _cumulative(
    name: str, op: Any, initial: int, x: Any, axis: int | None, dtype: Any, include_initial: bool
) -> Tensor:
    x = _cast(x, dtype) if dtype is not None else widened(as_tensor(x))
    if axis is None and x.ndim != 1:
        raise ValueError(f"{name}: a Tensor of {x.ndim} axes needs axis=")
    place = axis_of(name, x.ndim, -1 if axis is None else axis)
    out: Tensor = op(x, place)
    if dtype is not None:
        out = _cast(out, dtype)
    if include_initial:
        shape = list(out.shape)
        shape[place] = 1
        first = full(tuple(shape), initial, dtype=out.dtype, device=out.device)
        out = concat([first, out], axis=place)
    return out


def _prod_vjp(xp: Any, t: Any, x: Any, axis: int) -> Any:
    """Return t times the product of the others: those before times those after, with no division."""
    if x.shape[axis] == 0:
        return t * x
    after = xp.flip(_before(xp, xp.flip(x, axis=axis), axis), axis=axis)
    return t * (_before(xp, x, axis) * after)


_prod = primitive("prod", lambda xp, x, axis: xp.prod(x, axis=axis, keepdims=True), _prod_vjp, rows=along)


@_documented(f"The products: {SHAPE} {SUMMED} With `dtype`, it is that one.")
def prod(x: ArrayLike, /, *, axis: Axis = None, dtype: DTypeLike | None = None, keepdims: bool = False) -> Tensor:
    """Product of elements over axes.

    Derivative: t times the product of the others, without a division, so that it is exact with zeros.

    >>> import tapegrad as tg
    >>> tg.prod(tg.asarray([2.0, 3.0]))
    Tensor(6.)
    """
    x = _cast(x, dtype)
    axes = axes_of("prod", x.ndim, axis)
    if not axes and "integer" in x.dtype.kind:  # the dtype that the library gives a product
        x = squeeze(_prod(reshape(x, (1, *x.shape)), -x.ndim - 1), (-x.ndim - 1,))
    for i in axes:  # all libraries have one at a time
        x = _prod(x, i)
    if dtype is not None:
        x = _cast(x, dtype)
    if not axes:
        return broadcast_to(x, x.shape)
    return x if keepdims else squeeze(x, axes)


def widened(x: Tensor) -> Tensor:
    """Return small integers in the default integer dtype, or the unsigned one of its size, where there is one."""
    kind, device = x.dtype.kind, native_device(x._array)
    if kind not in ("signed integer", "unsigned integer"):
        return x
    has = backend_of[type(x._array)].has_dtype
    bits = 64 if has("int64", device) else 32
    name = f"{'u' if kind[0] == 'u' else ''}int{bits}"
    return _cast(x, name) if x.dtype.itemsize * 8 < bits and has(name, device) else x


def _cast(x: Any, dtype: Any) -> Tensor:
    if dtype is None:
        return as_tensor(x)
    return astype(x, dtype, copy=False)


# -- logic -----------------------------------------------------------------------------------------------


_all = primitive("all", lambda xp, x, axis, keepdims: xp.all(x, axis=axis, keepdims=keepdims), None)
_any = primitive("any", lambda xp, x, axis, keepdims: xp.any(x, axis=axis, keepdims=keepdims), None)
_count_nonzero = primitive(
    "count_nonzero",
    lambda xp, x, axis, keepdims: xp.count_nonzero(x, axis=axis, keepdims=keepdims),
    None,
)


@_documented(f"The answers: {SHAPE} {BOOLEAN}")
def all(x: ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Logical AND over axes: True where all elements are true, or not zero.

    Not differentiable.

    >>> import tapegrad as tg
    >>> tg.all(tg.asarray([True, False]))
    Tensor(False)
    """
    x = as_tensor(x)
    return _all(x, axes_of("all", x.ndim, axis), keepdims)


@_documented(f"The answers: {SHAPE} {BOOLEAN}")
def any(x: ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Logical OR over axes: True where any element is true, or not zero.

    Not differentiable.

    >>> import tapegrad as tg
    >>> tg.any(tg.asarray([True, False]))
    Tensor(True)
    """
    x = as_tensor(x)
    return _any(x, axes_of("any", x.ndim, axis), keepdims)


@_documented(f"The numbers: {SHAPE} {INDICES}")
def count_nonzero(x: ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Number of elements over axes that are not zero.

    Not differentiable.

    >>> import tapegrad as tg
    >>> tg.count_nonzero(tg.asarray([0.0, 2.0, 3.0]))
    Tensor(2)
    """
    x = as_tensor(x)
    return _count_nonzero(x, axes_of("count_nonzero", x.ndim, axis), keepdims)


@composed
@_documented(
    f"The differences, in the shape of `x`, shorter by `n` along the axis. {SAME}",
    "ValueError: `n` is negative.",
    UNFIT,
    axis=AN_AXIS_OF,
    n="How often to take differences; each time makes the axis shorter by one.",
    prepend="An array to put before `x` first, of the same shape except along the axis; nothing for None.",
    append="An array to put behind `x` first, likewise.",
)
def diff(
    x: ArrayLike, /, *, axis: int = -1, n: int = 1, prepend: ArrayLike | None = None, append: ArrayLike | None = None
) -> Tensor:
    """Differences of neighbours along an axis, taken n times.

    Composed of `subtract`, indexing and `concat`.

    >>> import tapegrad as tg
    >>> tg.diff(tg.asarray([1.0, 4.0, 9.0])), tg.diff(tg.asarray([1.0, 4.0, 9.0]), n=2)
    (Tensor([3., 5.]), Tensor([2.]))
    """
    x, *ends = as_tensors("diff", x, *[part for part in (prepend, append) if part is not None])
    place = axis_of("diff", x.ndim, axis)
    if n < 0:
        raise ValueError(f"diff: n says how often to take differences, so it is not negative, as {n} is")
    if ends:
        parts = [*ends, x] if append is None else [x, *ends] if prepend is None else [ends[0], x, ends[1]]
        x = concat(parts, axis=place)
    rest = (slice(None),) * (-place - 1)
    for _ in range(n):
        x = subtract(x[(..., slice(1, None), *rest)], x[(..., slice(None, -1), *rest)])
    return x
