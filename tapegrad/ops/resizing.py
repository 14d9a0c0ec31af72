"""Arrays made longer at their edges, or resampled to other lengths."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from tapegrad._engine.coercion import as_tensor
from tapegrad._engine.rules import composed
from tapegrad._engine.tensor import Tensor
from tapegrad.ops import _windows
from tapegrad.ops._axes import integer
from tapegrad.ops._axis_maps import HostArray, along, constant
from tapegrad.ops._text import SAME, documented
from tapegrad.ops._window_sizes import Padding, sizes_of
from tapegrad.ops.binary import where
from tapegrad.ops.conversion import astype
from tapegrad.ops.creation import ones
from tapegrad.ops.indexing import getitem, repeat, take
from tapegrad.ops.shaping import broadcast_to, concat, flip
from tapegrad.typing import ArrayLike

# -- padding -----------------------------------------------------------------------------------------------


@documented(
    f"The elements of `x`, with others before and behind. {SAME}",
    "ValueError: The widths do not fit the axes or are negative, the mode is another one, or an axis is too short to "
    "give what is put at its ends: 'reflect' needs more elements than are put there, 'edge' and 'wrap' need one.",
    "TypeError: A width is no integer, or `value` does not fit in the dtype of `x`.",
    widths="How many elements to put before and behind, as in `numpy.pad`: a number for all axes, a pair (before, "
    "behind) for all axes, or a pair for each axis.",
    mode="The padding: 'constant' the value; 'reflect' the elements mirrored at the last one, which is not "
    "repeated; 'edge' the last one; 'wrap' the elements from the other end.",
    value="The value for 'constant': a number, or a Tensor without axes.",
)
def pad(x: ArrayLike, widths: int | tuple[Any, ...], /, *, mode: str = "constant", value: ArrayLike = 0) -> Tensor:
    """Put elements before and behind an array along its axes.

    Derivative: t without the padding, which is added at the elements that it was copied from.

    >>> import tapegrad as tg
    >>> x = tg.asarray([1.0, 2.0, 3.0])
    >>> tg.pad(x, 1), tg.pad(x, (2, 1), mode="reflect")
    (Tensor([0., 1., 2., 3., 0.]), Tensor([3., 2., 1., 2., 3., 2.]))
    """
    x = as_tensor(x)
    pairs = _widths(widths, x.shape)
    if mode == "constant":
        return _constant(x, pairs, value)
    if mode not in _PIECES:
        raise ValueError(f"pad: mode is 'constant', {', '.join(map(repr, _PIECES))}, not {mode!r}")
    for axis, (lo, hi) in enumerate(pairs):
        if lo or hi:
            n = x.shape[axis]
            if n == 0 or (mode == "reflect" and max(lo, hi) >= n):
                raise ValueError(
                    f"pad: axis {axis} of shape {x.shape} is too short for mode {mode!r} with widths {(lo, hi)}: "
                    f"{'at most ' + str(n - 1) if n else 'none'} can be put there; pad in several steps, or by another "
                    "mode"
                )
            before, behind = _PIECES[mode](x, axis, lo, hi)
            x = concat([*before, x, *behind], axis=axis)
    return x if any(map(any, pairs)) else astype(x, x.dtype)


def _widths(widths: Any, shape: tuple[int, ...]) -> Padding:
    """Return a pair of widths for each axis, by the rules of `numpy.pad`."""

    def one(width: Any) -> int:
        n: int = integer("pad", "a width", width)
        if n < 0:
            raise ValueError(f"pad: widths are not negative, but {widths} are: take a part by x[...]")
        return n

    ndim = len(shape)
    entries = list(widths) if isinstance(widths, (tuple, list)) else [widths]
    if any(isinstance(n, (tuple, list)) for n in entries):
        pairs = [list(n) if isinstance(n, (tuple, list)) else [n] for n in entries]
        pairs = [pair * 2 if len(pair) == 1 else pair for pair in pairs]
        if len(pairs) == 1:
            pairs *= ndim
        if len(pairs) != ndim or any(len(pair) != 2 for pair in pairs):
            raise ValueError(f"pad: widths {widths} are not a pair (before, behind) for each axis of a shape {shape}")
        return tuple([(one(lo), one(hi)) for lo, hi in pairs])
    if len(entries) > 2:
        raise ValueError(f"pad: widths {widths}: pass a pair (before, behind) for each axis of a shape {shape}")
    lo, hi = (one(entries[0]), one(entries[-1])) if entries else (0, 0)
    return ((lo, hi),) * ndim


def _constant(x: Tensor, pairs: Padding, value: Any) -> Tensor:
    if not isinstance(value, (bool, int, float, complex)):
        given = as_tensor(value)
        if given.ndim:
            raise ValueError(f"pad: value is a number, or a Tensor without axes, not one of shape {given.shape}")
        inside = _windows.pad_last(ones(x.shape, dtype="bool", device=x.device), pairs, False)
        return where(inside, _windows.pad_last(x, pairs, 0), given)
    kind = x.dtype.kind
    if (isinstance(value, complex) and "complex" not in kind) or (
        isinstance(value, float) and "floating" not in kind and value != int(value)
    ):
        raise TypeError(f"pad: the value {value} does not fit in an array of {x.dtype.name} and shape {x.shape}")
    return _windows.pad_last(x, pairs, value) if any(map(any, pairs)) else astype(x, x.dtype)  # a Tensor of its own


def _part(x: Tensor, axis: int, start: int, stop: int) -> Tensor:
    return getitem(x, (*(slice(None),) * axis, slice(start, stop)))


def _reflected(x: Tensor, axis: int, lo: int, hi: int) -> tuple[list[Tensor], list[Tensor]]:
    n = x.shape[axis]
    before = [flip(_part(x, axis, 1, lo + 1), axis=axis)] if lo else []
    return before, [flip(_part(x, axis, n - 1 - hi, n - 1), axis=axis)] if hi else []


def _edge(x: Tensor, axis: int, lo: int, hi: int) -> tuple[list[Tensor], list[Tensor]]:
    n = x.shape[axis]

    def repeated(place: int, times: int) -> list[Tensor]:
        shape = (*x.shape[:axis], times, *x.shape[axis + 1 :])
        return [broadcast_to(_part(x, axis, place, place + 1), shape)] if times else []

    return repeated(0, lo), repeated(n - 1, hi)


def _wrapped(x: Tensor, axis: int, lo: int, hi: int) -> tuple[list[Tensor], list[Tensor]]:
    n = x.shape[axis]
    before = [_part(x, axis, n - lo % n, n)] if lo % n else []
    behind = [_part(x, axis, 0, hi % n)] if hi % n else []
    return before + [x] * (lo // n), [x] * (hi // n) + behind


Pieces = Callable[[Tensor, int, int, int], tuple[list[Tensor], list[Tensor]]]
_PIECES: dict[str, Pieces] = {"reflect": _reflected, "edge": _edge, "wrap": _wrapped}

RESULT = "The lengths of the result: a tuple for the last axes of `x`, or an integer for each one behind the first two."

# -- resampling --------------------------------------------------------------------------------------------


@composed
@documented(
    f"The resampled array, (batch, channels, *size). {SAME}",
    "ValueError: There are not as many entries as axes, an axis is empty, the mode is another one, or an option is not "
    "for the mode.",
    "TypeError: `x` is not floating, except for 'nearest', or a length is no integer.",
    x="Of shape (batch, channels, *space); for `size` as a tuple any axes before the space axes.",
    size=RESULT,
    mode="'nearest' for the element at floor(i n / m), of any dtype; 'linear' by the two neighbours along each axis; "
    "'cubic' by four neighbours (Keys 1981, a = -0.75).",
    antialias="Whether a smaller result is by all elements that a wider kernel reaches, as pictures should be shrunk; "
    "the cubic kernel has a = -0.5 then. For 'linear' and 'cubic'.",
    align_corners="Whether the first and the last elements stay where they are; else the outer edges of their cells "
    "do. For 'linear' and 'cubic'.",
)
def resize(
    x: ArrayLike,
    size: int | tuple[int, ...],
    /,
    *,
    mode: str = "nearest",
    antialias: bool = False,
    align_corners: bool = False,
) -> Tensor:
    """Resample the space axes to other lengths, with the numbers of PyTorch.

    It is linear in x: one small matrix for each axis. Derivative: t times the transposed matrices.

    >>> import tapegrad as tg
    >>> x = tg.asarray([[[1.0, 2.0]]])
    >>> tg.resize(x, 4), tg.resize(x, 4, mode="linear")
    (Tensor([[[1., 1., 2., 2.]]]), Tensor([[[1.  , 1.25, 1.75, 2.  ]]]))
    """
    x = as_tensor(x)
    if mode not in ("nearest", "linear", "cubic"):
        raise ValueError(f"resize: mode is 'nearest', 'linear' or 'cubic', not {mode!r}")
    if mode == "nearest" and (antialias or align_corners):
        raise ValueError("resize: antialias and align_corners are for mode 'linear' and 'cubic', not for 'nearest'")
    if mode != "nearest" and "floating" not in x.dtype.kind:
        raise TypeError(
            f"resize: x of {x.dtype.name} and shape {x.shape} is not floating: convert it, as in "
            "tapegrad.astype(x, tapegrad.float32), or pass mode='nearest'"
        )
    if isinstance(size, (tuple, list)):
        d = len(size)
        if not 0 < d <= x.ndim:
            raise ValueError(f"resize: size {tuple(size)} has {d} entries, and x of shape {x.shape} {x.ndim} axes")
    else:
        d = x.ndim - 2
        if d < 1:
            raise ValueError(
                f"resize: x of shape {x.shape} has no axes behind batch and channels: pass size as a tuple, which is "
                "for its last axes"
            )
    lengths = sizes_of("resize", "size", size, d)
    if 0 in x.shape[x.ndim - d :]:
        raise ValueError(f"resize: x of shape {x.shape} has a space axis of length 0, without anything to resample")
    same = tuple(lengths) == x.shape[x.ndim - d :]
    for axis, m in enumerate(lengths, -d):
        n = x.shape[axis]
        if mode == "nearest":
            x = x if n == m else _nearest(x, axis, n, m)
        elif n != m:
            x = along(x, _matrix(n, m, mode, antialias, align_corners), axis)
    return astype(x, x.dtype) if same else x  # a Tensor of its own


def _nearest(x: Tensor, axis: int, n: int, m: int) -> Tensor:
    """Resample an axis by whole elements; without looking them up where one length is a multiple of the other."""
    if m % n == 0:
        return repeat(x, m // n, axis=axis)
    if n % m == 0:
        return getitem(x, (..., slice(None, None, n // m), *(slice(None),) * (-axis - 1)))
    return take(x, constant(_places(n, m), x), axis=axis)


@cache
def _places(n: int, m: int) -> HostArray:
    """Return the place among n that each of m takes; PyTorch computes it in single precision."""
    scale = np.float32(n) / np.float32(m)
    return np.asarray(np.minimum(np.floor(np.arange(m, dtype=np.float32) * scale).astype(np.int64), n - 1))


@cache
def _matrix(n: int, m: int, mode: str, antialias: bool, align_corners: bool) -> HostArray:
    """Return the matrix (m, n) of a resampling from n to m places."""
    scale = ((n - 1) / (m - 1) if m > 1 else 0.0) if align_corners else n / m
    if antialias:
        return _antialiased(n, m, mode, scale)
    at = np.arange(m) * scale if align_corners else (np.arange(m) + 0.5) * scale - 0.5
    if mode == "linear":
        at = np.clip(at, 0, n - 1)
    first = np.floor(at).astype(int)
    matrix = np.zeros((m, n))
    for tap in (0, 1) if mode == "linear" else (-1, 0, 1, 2):
        weights = _kernel(mode, first + tap - at, -0.75)
        np.add.at(matrix, (np.arange(m), np.clip(first + tap, 0, n - 1)), weights)
    return matrix


def _antialiased(n: int, m: int, mode: str, scale: float) -> HostArray:
    """Return the matrix of a resampling by a kernel that is as wide as a step, if that is more than one place."""
    width = max(scale, 1.0)
    reach = (1 if mode == "linear" else 2) * width
    matrix = np.zeros((m, n))
    for i, row in enumerate(matrix):
        center = scale * (i + 0.5)
        start, stop = max(int(center - reach + 0.5), 0), min(int(center + reach + 0.5), n)
        weights = _kernel(mode, (np.arange(start, stop) - center + 0.5) / width, -0.5)
        row[start:stop] = weights / weights.sum()
    return matrix


def _kernel(mode: str, at: HostArray, a: float) -> HostArray:
    """Return the triangle, or the cubic convolution kernel of Keys, at some distances."""
    r = np.abs(at)
    if mode == "linear":
        return np.asarray(np.maximum(1 - r, 0))
    near = ((a + 2) * r - (a + 3)) * r * r + 1
    far = ((a * r - 5 * a) * r + 8 * a) * r - 4 * a
    return np.where(r <= 1, near, np.where(r < 2, far, 0))
