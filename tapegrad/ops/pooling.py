"""Windows over the last axes: unfolded, folded back, and reduced to their maxima or means."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import numpy as np

from tapegrad._engine.coercion import as_tensor
from tapegrad._engine.rules import composed
from tapegrad._engine.tensor import Tensor
from tapegrad.ops import _windows
from tapegrad.ops._axis_maps import HostArray, along, constant
from tapegrad.ops._text import SAME, documented
from tapegrad.ops._window_sizes import Padding, Sizes, padding_of, sizes_of, space_of
from tapegrad.ops.binary import divide
from tapegrad.ops.indexing import getitem
from tapegrad.ops.shaping import broadcast_to, concat, reshape
from tapegrad.typing import ArrayLike

SIZE = (
    "The lengths of a window: a tuple for the last axes of `x`, or an integer for each axis behind the first two, "
    "which are batch and channels."
)
STRIDE = "The step from one window to the next: an integer, or one for each axis; `size` for None."
STEP = "The step from one window to the next: an integer, or one for each axis."
PADDING = "The padding before and behind each axis: an integer, or one or a pair (before, behind) for each axis."
DILATION = "The step from one tap of a window to the next: an integer, or one for each axis."
FLOATS = "TypeError: `x` is not floating, or a length is no integer."
WINDOWS = (
    "ValueError: The window is larger than the padded array, a stride or dilation is below 1, a padding is negative, "
    "or there are not as many entries as axes."
)
RESULT = "The lengths of the result: a tuple for the last axes of `x`, or an integer for each one behind the first two."
NO_PADDING = "ValueError: The padding is more than half of a window, so that windows would lie in it alone."


def _window(name: str, x: Tensor, size: Any) -> Sizes:
    """Return the lengths of a window; an integer is for the axes behind the first two."""
    if isinstance(size, (tuple, list)):
        if not 0 < len(size) <= x.ndim:
            raise ValueError(f"{name}: size {tuple(size)} is for {len(size)} axes, x of shape {x.shape} has {x.ndim}")
        return sizes_of(name, "size", size, len(size))
    if x.ndim < 3:
        raise ValueError(
            f"{name}: x of shape {x.shape} has no axes behind batch and channels: pass size as a tuple, which is for "
            "its last axes"
        )
    return sizes_of(name, "size", size, x.ndim - 2)


def _floating(name: str, x: Tensor, kinds: str = "floating") -> None:
    if kinds not in x.dtype.kind:
        what = "real floating" if kinds == "real floating" else "floating"
        raise TypeError(
            f"{name}: x of {x.dtype.name} and shape {x.shape} is not {what}: convert it, as in "
            "tapegrad.astype(x, tapegrad.float32)"
        )


def _at_most_half(name: str, padding: Padding, size: Sizes) -> None:
    if any(2 * max(pair) > k for pair, k in zip(padding, size, strict=True)):
        raise ValueError(
            f"{name}: padding {padding} is more than half of a window of {size}: pass at most "
            f"{tuple([k // 2 for k in size])}, or pad x first with tapegrad.pad"
        )


@documented(
    f"The windows as columns: (batch, channels * taps, places). {SAME}",
    WINDOWS,
    x="Of shape (batch, channels, *space), of any dtype; for `size` as a tuple any axes before the space axes.",
    size=SIZE,
    stride=STEP,
    padding=PADDING,
    dilation=DILATION,
)
def unfold(
    x: ArrayLike,
    size: int | tuple[int, ...],
    /,
    *,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[Any, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
) -> Tensor:
    """Windows of an array side by side, the channel axis and the taps as one axis; padding is zero.

    Derivative: t, folded.

    >>> import tapegrad as tg
    >>> tg.unfold(tg.asarray([[[1.0, 2.0, 3.0]]]), 2)
    Tensor([[[1., 2.],
             [2., 3.]]])
    """
    x = as_tensor(x)
    window = _window("unfold", x, size)
    d = len(window)
    steps, gaps = sizes_of("unfold", "stride", stride, d), sizes_of("unfold", "dilation", dilation, d)
    pads = padding_of("unfold", padding, window, steps, gaps)
    out = space_of("unfold", x.shape, window, steps, pads, gaps)
    y = _windows.windows(x, window, steps, pads, gaps)
    lead = x.shape[: x.ndim - d]
    joined = (*lead[:-1], lead[-1] * prod(window)) if lead else (prod(window),)
    return reshape(y, (*joined, prod(out)))


@documented(
    f"The sums, (batch, channels, *space). {SAME}",
    WINDOWS,
    "ValueError: The columns are not those of such an array.",
    FLOATS,
    x="Columns as `unfold` gives them: (batch, channels * taps, places).",
    space="The lengths of the space axes of the result.",
    size="The lengths of a window: an integer, or one for each space axis.",
    stride=STEP,
    padding=PADDING,
    dilation=DILATION,
)
def fold(
    x: ArrayLike,
    space: tuple[int, ...],
    size: int | tuple[int, ...],
    /,
    *,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[Any, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
) -> Tensor:
    """Array to which columns are added at their windows, the adjoint of `unfold`.

    Derivative: t, unfolded.

    >>> import tapegrad as tg
    >>> tg.fold(tg.asarray([[[1.0, 2.0], [10.0, 20.0]]]), (3,), 2)
    Tensor([[[ 1., 12., 20.]]])
    """
    x = as_tensor(x)
    _floating("fold", x)
    if not isinstance(space, (tuple, list)):
        raise TypeError(f"fold: the space is a tuple with the length of each axis, not {space!r}")
    d = len(space)
    lengths, window = sizes_of("fold", "a length", space, d), sizes_of("fold", "size", size, d)
    steps, gaps = sizes_of("fold", "stride", stride, d), sizes_of("fold", "dilation", dilation, d)
    pads = padding_of("fold", padding, window, steps, gaps)
    out = space_of("fold", lengths, window, steps, pads, gaps)
    taps = prod(window)
    if x.ndim < 2 or x.shape[-1] != prod(out) or x.shape[-2] % taps:
        raise ValueError(
            f"fold: x of shape {x.shape}: the space {lengths} with windows of {window} has columns of shape "
            f"(batch, channels * {taps}, {prod(out)})"
        )
    y = reshape(x, (*x.shape[:-2], x.shape[-2] // taps, *window, *out))
    return _windows.windows_sum(y, lengths, window, steps, pads, gaps)


@documented(
    f"The maxima, (batch, channels, *places). {SAME}",
    WINDOWS,
    NO_PADDING,
    "TypeError: `x` is not real floating, or a length is no integer.",
    x="Real floating, of shape (batch, channels, *space); for `size` as a tuple any axes before the space axes.",
    size=SIZE,
    stride=STRIDE,
    padding=f"{PADDING} It is below all numbers, so that it is never the maximum.",
    dilation=DILATION,
    ceil_mode="Whether a last window counts that begins inside and ends outside.",
)
def max_pool(
    x: ArrayLike,
    size: int | tuple[int, ...],
    /,
    *,
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[Any, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Maximum of each window; NaN if there is one in it.

    Derivative: t, added at the first maximum of its window.

    >>> import tapegrad as tg
    >>> tg.max_pool(tg.asarray([[[1.0, 3.0, 2.0, 0.0]]]), 2)
    Tensor([[[3., 2.]]])
    """
    x = as_tensor(x)
    _floating("max_pool", x, "real floating")
    window = _window("max_pool", x, size)
    d = len(window)
    steps = window if stride is None else sizes_of("max_pool", "stride", stride, d)
    gaps = sizes_of("max_pool", "dilation", dilation, d)
    pads = padding_of("max_pool", padding, window, steps, gaps)
    _at_most_half("max_pool", pads, window)
    space_of("max_pool", x.shape, window, steps, pads, gaps)
    if ceil_mode:
        pads = _ceiled(x.shape[x.ndim - d :], window, steps, pads, gaps)
    return _windows.max_pool(x, window, steps, pads, gaps)[0]


def _ceiled(space: Sizes, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes) -> Padding:
    """Return a padding with which a last window ends, if it begins in the array or in the padding before it."""
    found = []
    for n, k, s, (lo, hi), g in zip(space, size, stride, padding, dilation, strict=True):
        reach = g * (k - 1) + 1
        out = -(-(n + lo + hi - reach) // s) + 1
        out -= (out - 1) * s >= n + lo
        found.append((lo, max(hi, (out - 1) * s + reach - n - lo)))
    return tuple(found)


@composed
@documented(
    f"The means, (batch, channels, *places). {SAME}",
    WINDOWS,
    NO_PADDING,
    FLOATS,
    x="Real or complex floating, of shape (batch, channels, *space); for `size` as a tuple any axes before the space "
    "axes.",
    size=SIZE,
    stride=STRIDE,
    padding=f"{PADDING} It is zero.",
    count_include_pad="Whether padding counts in the number that a sum is divided by.",
)
def mean_pool(
    x: ArrayLike,
    size: int | tuple[int, ...],
    /,
    *,
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[Any, ...] = 0,
    count_include_pad: bool = True,
) -> Tensor:
    """Mean of each window.

    Derivative: t over the number of elements, added all over its window.

    >>> import tapegrad as tg
    >>> tg.mean_pool(tg.asarray([[[1.0, 3.0, 2.0, 0.0]]]), 2)
    Tensor([[[2., 1.]]])
    """
    x = as_tensor(x)
    _floating("mean_pool", x)
    window = _window("mean_pool", x, size)
    d = len(window)
    steps = window if stride is None else sizes_of("mean_pool", "stride", stride, d)
    ones = (1,) * d
    pads = padding_of("mean_pool", padding, window, steps, ones)
    _at_most_half("mean_pool", pads, window)
    out = space_of("mean_pool", x.shape, window, steps, pads, ones)
    total = _windows.window_sum(x, window, steps, pads)
    if count_include_pad or not any(map(any, pads)):
        return divide(total, prod(window))
    for i, (n, k, s, (lo, _), m) in enumerate(zip(x.shape[x.ndim - d :], window, steps, pads, out, strict=True)):
        begins = [j * s - lo for j in range(m)]
        counts = np.asarray([float(min(a + k, n) - max(a, 0)) for a in begins])
        total = divide(total, constant(counts.reshape(m, *(1,) * (d - i - 1)), x))
    return total


def _bounds(n: int, m: int) -> list[tuple[int, int]]:
    """Return the begin and end of m parts of n places, which may overlap by one."""
    return [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]


@cache
def _mean_matrix(n: int, m: int) -> HostArray:
    """Return the matrix that takes n places to the means of m parts."""
    matrix = np.zeros((m, n))
    for row, (a, b) in zip(matrix, _bounds(n, m), strict=True):
        row[a:b] = 1 / (b - a)
    return matrix


def _parts(name: str, x: Tensor, size: Any) -> tuple[Sizes, Sizes]:
    """Return the lengths of the last axes, and those of the result."""
    out = _window(name, x, size)
    space = x.shape[x.ndim - len(out) :]
    if 0 in space:
        raise ValueError(f"{name}: x of shape {x.shape} has a space axis of length 0, without means or maxima")
    return space, out


def _of_length(x: Tensor, axis: int, start: int, stop: int, n: int) -> Tensor:
    """Return a part of an axis, its last place repeated up to a length."""
    rest = (slice(None),) * (-axis - 1)
    part = getitem(x, (..., slice(start, stop), *rest))
    if stop - start == n:
        return part
    last = getitem(x, (..., slice(stop - 1, stop), *rest))
    at = x.ndim + axis
    shape = (*x.shape[:at], n - stop + start, *x.shape[at + 1 :])
    return concat([part, broadcast_to(last, shape)], axis=axis)


@composed
@documented(
    f"The maxima, (batch, channels, *size). {SAME}",
    "ValueError: There are not as many entries as axes, or an axis is empty.",
    "TypeError: `x` is not real floating, or a length is no integer.",
    x="Real floating, of shape (batch, channels, *space); for `size` as a tuple any axes before the space axes.",
    size=RESULT,
)
def adaptive_max_pool(x: ArrayLike, size: int | tuple[int, ...], /) -> Tensor:
    """Maximum of each of so many parts of the space axes, which overlap by one where they do not divide.

    Part i of n places in m parts goes from floor(i n / m) up to ceil((i + 1) n / m). Derivative: t, added at the first
    maximum of its part.

    >>> import tapegrad as tg
    >>> tg.adaptive_max_pool(tg.asarray([[[1.0, 3.0, 2.0]]]), 2)
    Tensor([[[3., 3.]]])
    """
    x = as_tensor(x)
    _floating("adaptive_max_pool", x, "real floating")
    space, out = _parts("adaptive_max_pool", x, size)
    window = []
    for axis, (n, m) in enumerate(zip(space, out, strict=True), -len(out)):
        bounds = _bounds(n, m)
        most = max(b - a for a, b in bounds)
        window.append(most)
        if n % m:  # each part as long as the longest, its last place repeated
            x = concat([_of_length(x, axis, a, b, most) for a, b in bounds], axis=axis)
    return max_pool(x, tuple(window))


@composed
@documented(
    f"The means, (batch, channels, *size). {SAME}",
    "ValueError: There are not as many entries as axes, or an axis is empty.",
    FLOATS,
    x="Real or complex floating, of shape (batch, channels, *space); for `size` as a tuple any axes before the space "
    "axes.",
    size=RESULT,
)
def adaptive_mean_pool(x: ArrayLike, size: int | tuple[int, ...], /) -> Tensor:
    """Mean of each of so many parts of the space axes, which overlap by one where they do not divide.

    Part i of n places in m parts goes from floor(i n / m) up to ceil((i + 1) n / m). Derivative: t over the number of
    elements, added all over its part.

    >>> import tapegrad as tg
    >>> tg.adaptive_mean_pool(tg.asarray([[[1.0, 3.0, 2.0]]]), 2)
    Tensor([[[2. , 2.5]]])
    """
    x = as_tensor(x)
    _floating("adaptive_mean_pool", x)
    space, out = _parts("adaptive_mean_pool", x, size)
    if not any(n % m for n, m in zip(space, out, strict=True)):
        return mean_pool(x, tuple([n // m for n, m in zip(space, out, strict=True)]))
    for axis, (n, m) in enumerate(zip(space, out, strict=True), -len(out)):
        x = along(x, _mean_matrix(n, m), axis)
    return x
