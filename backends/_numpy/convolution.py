"""Convolution on NumPy arrays and its two adjoints: strips that fit the cache, one product of matrices each.

The windows of a strip are copied side by side, as the rows of a matrix (im2col; Chellapilla, Puri and Simard, 2006),
which is multiplied by the weights while it is in the cache. Channels come last, so that a copy moves long runs, and the
result is a view with channels first; the next convolution finds them last again. With few channels, the copy is by
planes instead: a row of the matrix for each tap, with runs along the last axis of the space.

Strips are shared among threads, with BLAS held to one. A strip is the same whatever the number of threads, and sums
over strips are in a fixed order, so that results do not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tapegrad.backends._array import Array
from tapegrad.backends._numpy.executor import blas
from tapegrad.backends._numpy.executor.threads import run_ranges, thread_count
from tapegrad.backends._windows import Padding, Sizes, padded, places

STRIP = 1 << 19  # bytes of the matrix of a strip
SHORT = 64  # bytes of a run along taps and channels from which channels come last
WORTH = 3e7  # floating-point operations from which strips are shared among threads: waking one takes 0.1 ms
CHUNKS = 8  # sums over strips that are computed side by side
PARTIAL = 1 << 25  # bytes of all these sums


class Strip(NamedTuple):
    """A part of the output places: all of some pictures, or some rows of one."""

    start: int
    stop: int
    first: int
    last: int


class Plan(NamedTuple):
    """The way to go through a batch, by its shapes alone.

    planes: whether rows of the matrix are taps; strips: in order; rows: places of the largest strip; pictures: those of
    the largest strip; space, out: the lengths of the padded space, and the number of places along each axis.
    """

    planes: bool
    strips: tuple[Strip, ...]
    rows: int
    pictures: int
    space: Sizes
    out: Sizes
    size: Sizes
    stride: Sizes
    dilation: Sizes
    padding: Padding
    groups: int
    channels: int  # of a group


@lru_cache(512)
def plan_of(
    shape: Sizes, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes, groups: int, itemsize: int
) -> Plan:
    """Return the plan for a batch (pictures, channels, *space)."""
    n, channels, *space = shape
    out = places(tuple(space), size, stride, padding, dilation)
    taps, per = prod(size), channels // groups
    row = channels * taps * itemsize  # bytes of a place
    inner = prod(out[1:])
    planes = per * size[-1] * itemsize < SHORT and groups == 1
    picture = prod(out) * row
    if picture <= STRIP:
        count = max(1, STRIP // max(picture, 1))
        strips = [Strip(i, min(i + count, n), 0, out[0]) for i in range(0, n, count)]
    else:
        rows = max(1, STRIP // max(inner * row, 1))
        rows = -(-out[0] // -(-out[0] // rows))  # of about equal length
        strips = [Strip(i, i + 1, r, min(r + rows, out[0])) for i in range(n) for r in range(0, out[0], rows)]
    most = max([(s.stop - s.start) * (s.last - s.first) * inner for s in strips], default=0)
    pictures = max([s.stop - s.start for s in strips], default=0)
    lengths = padded(tuple(space), padding)
    return Plan(planes, tuple(strips), most, pictures, lengths, out, size, stride, dilation, padding, groups, per)


class Columns:
    """The matrices of strips of one batch, made in memory of one thread."""

    def __init__(self, plan: Plan, x: Array, dtype: Any) -> None:
        self.plan, self.x = plan, x
        channels, taps = x.shape[1], prod(plan.size)
        self.buffer = np.empty(plan.rows * channels * taps, dtype)
        d = len(plan.size)
        # The pictures of a strip with their padding, which stays zero; channels last or, by planes, first.
        order = (0, 1, *range(2, d + 2)) if plan.planes else (0, *range(2, d + 2), 1)
        self.pictures = x.transpose(order)
        self.loaded = -1
        shape = (channels, *plan.space) if plan.planes else (*plan.space, channels)
        is_padded = any(map(any, plan.padding))
        # Without padding, pictures are read where they lie if their innermost axis lies in order.
        steps = self.pictures.strides
        direct = not is_padded and steps[-1] == x.itemsize and x.dtype == dtype
        self.padded = None if direct else np.zeros((plan.pictures, *shape), dtype)
        if self.padded is not None:
            lead = 2 if plan.planes else 1
            inner = [slice(lo, n - hi) for n, (lo, hi) in zip(plan.space, plan.padding, strict=True)]
            self.inside = self.padded[(slice(None),) * lead + tuple(inner)]

    def load(self, strip: Strip) -> Array:
        """Return the pictures of a strip."""
        if self.padded is None:
            return self.pictures[strip.start : strip.stop]
        n = strip.stop - strip.start
        if self.loaded != strip.start:
            np.copyto(self.inside[:n], self.pictures[strip.start : strip.stop])
            self.loaded = strip.start
        return self.padded[:n]

    def matrix(self, strip: Strip) -> Array:
        """Return the matrix (places, taps of channels) of a strip; (groups, places, ...) if there are groups."""
        plan, source = self.plan, self.load(strip)
        d, n = len(plan.size), strip.stop - strip.start
        out = (strip.last - strip.first, *plan.out[1:])
        at = 2 if plan.planes else 1
        space = source.strides[at : at + d]
        steps = tuple([s * k for s, k in zip(space, plan.stride, strict=True)])
        gaps = tuple([s * k for s, k in zip(space, plan.dilation, strict=True)])
        start = at, strip.first * plan.stride[0]
        taps, channels, g = prod(plan.size), plan.channels, plan.groups
        rows = n * prod(out)
        buffer = self.buffer[: rows * taps * channels * g]
        if plan.planes:
            windows = view_of(
                source,
                *start,
                (channels, *plan.size, n, *out),
                (source.strides[1], *gaps, source.strides[0], *steps),
            )
            np.copyto(buffer.reshape(windows.shape), windows)
            return buffer.reshape(channels * taps, rows).T
        c = source.strides[-1]
        if g == 1:
            windows = view_of(source, *start, (n, *out, *plan.size, channels), (source.strides[0], *steps, *gaps, c))
            np.copyto(buffer.reshape(windows.shape), windows)
            return buffer.reshape(rows, taps * channels)
        windows = view_of(
            source,
            *start,
            (g, n, *out, *plan.size, channels),
            (c * channels, source.strides[0], *steps, *gaps, c),
        )
        np.copyto(buffer.reshape(windows.shape), windows)
        return buffer.reshape(g, rows, taps * channels)


def view_of(x: Array, axis: int, first: int, shape: Sizes, strides: Sizes) -> Array:
    """Return a view of an array with other strides, from a place along an axis on."""
    if x.flags.c_contiguous:  # where as_strided would take ten times as long
        return np.ndarray(shape, x.dtype, x, first * x.strides[axis], strides)
    return as_strided(x[(slice(None),) * axis + (slice(first, None),)], shape, strides)


def weights_of(w: Array, plan: Plan, dtype: Any) -> Array:
    """Return weights as a matrix (taps of channels, outputs); (groups, ...) if there are groups."""
    g, d = plan.groups, w.ndim - 2
    outputs = len(w) // g
    split = w.reshape(g, outputs, *w.shape[1:]).astype(dtype, copy=False)
    taps = tuple(range(3, 3 + d))
    order = (0, 2, *taps, 1) if plan.planes else (0, *taps, 2, 1)
    matrix: Array = split.transpose(order).reshape(g, w.shape[1] * prod(w.shape[2:]), outputs)
    return matrix[0] if g == 1 else matrix


def weights_from(matrix: Array, plan: Plan) -> Array:
    """Return a matrix of weights in their own order (outputs, channels, *size)."""
    g, d, outputs = plan.groups, len(plan.size), matrix.shape[-1]
    if plan.planes:
        w = matrix.reshape(g, plan.channels, *plan.size, outputs)
        order: Sizes = (0, d + 2, 1, *range(2, d + 2))
    else:
        w = matrix.reshape(g, *plan.size, plan.channels, outputs)
        order = (0, d + 2, d + 1, *range(1, d + 1))
    return np.ascontiguousarray(w.transpose(order)).reshape(g * outputs, plan.channels, *plan.size)


def rows_of(t: Array, strip: Strip, buffer: Array, groups: int) -> Array:
    """Return the elements of a strip of (pictures, outputs, *places) as rows (places, outputs), by groups if any."""
    part = t[strip.start : strip.stop, :, strip.first : strip.last]
    last = part.transpose(0, *range(2, t.ndim), 1)
    outputs, count = t.shape[1], prod(last.shape[:-1])
    if last.flags.c_contiguous and last.dtype == buffer.dtype:
        rows = last.reshape(count, outputs)
    else:
        rows = buffer[: last.size].reshape(last.shape)
        np.copyto(rows, last)
        rows = rows.reshape(count, outputs)
    return rows if groups == 1 else rows.reshape(len(rows), groups, outputs // groups).transpose(1, 0, 2)


def share(work: float, count: int, threads: int | None, part: Callable[[range], None]) -> None:
    """Run a function of ranges of numbers below `count`, on as many threads as are of use."""
    n = min(thread_count(threads), count) if work >= WORTH and blas.can_hold() else 1
    # BLAS is held for little work, too: its threads would be woken for each strip.
    with blas.held():
        run_ranges(part, count, n)


def working_dtype(a: Array, b: Array) -> Any:
    """Return the dtype that products are summed in."""
    dtype = np.result_type(a.dtype, b.dtype)
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def convolution(
    x: Array,
    w: Array,
    stride: Sizes,
    padding: Padding,
    dilation: Sizes,
    groups: int,
    threads: int | None = None,
) -> Array:
    """Return the sums of products (batch, outputs, *places), a view of an array with channels last."""
    dtype = working_dtype(x, w)
    size = tuple(w.shape[2:])
    plan = plan_of(x.shape, size, stride, padding, dilation, groups, dtype.itemsize)
    n, outputs = len(x), len(w)
    out = np.empty((n, *plan.out, outputs), x.dtype)
    if w.shape[1] == 1 and outputs == groups > 1:
        by_channel(x, w, plan, out, dtype, threads)
        return _channels_first(out)
    matrix = weights_of(w, plan, dtype)
    plain = out.dtype == dtype and groups == 1

    def part(numbers: range) -> None:
        columns = Columns(plan, x, dtype)
        for i in numbers:
            strip = plan.strips[i]
            spot = out[strip.start : strip.stop, strip.first : strip.last]
            rows = columns.matrix(strip)
            if plain:
                np.matmul(rows, matrix, out=spot.reshape(rows.shape[0], outputs))
            elif groups == 1:
                spot[...] = np.matmul(rows, matrix).reshape(spot.shape)
            else:
                found = np.matmul(rows, matrix).transpose(1, 0, 2)
                spot.reshape(len(found), groups, outputs // groups)[...] = found

    share(2.0 * n * prod(plan.out) * w.size, len(plan.strips), threads, part)
    return _channels_first(out)


def _channels_first(x: Array) -> Array:
    view: Array = x.transpose(0, x.ndim - 1, *range(1, x.ndim - 1))
    return view


def convolution_input(
    t: Array,
    w: Array,
    space: Sizes,
    stride: Sizes,
    padding: Padding,
    dilation: Sizes,
    groups: int,
    threads: int | None = None,
) -> Array:
    """Return the adjoint by x, (batch, channels, *space), a view of an array with channels last."""
    size, out = tuple(w.shape[2:]), tuple(t.shape[2:])
    d, per, outputs = len(size), w.shape[1], len(w) // groups
    if max(stride) == 1:
        # The convolution of t with the reversed weights, whose inputs and outputs change places.
        reach = [g * (k - 1) for g, k in zip(dilation, size, strict=True)]
        before = [r - lo for r, (lo, _) in zip(reach, padding, strict=True)]
        behind = [n - m - lo + r for n, m, lo, r in zip(space, out, before, reach, strict=True)]
        if min(*before, *behind) >= 0:
            back = w.reshape(groups, outputs, per, *size).swapaxes(1, 2)
            back = back[(slice(None),) * 3 + (slice(None, None, -1),) * d].reshape(groups * per, outputs, *size)
            return convolution(t, back, stride, tuple(zip(before, behind, strict=True)), dilation, groups, threads)
    dtype = working_dtype(t, w)
    n, channels = len(t), groups * per
    shape = (n, channels, *space)
    plan = plan_of(shape, size, stride, padding, dilation, groups, dtype.itemsize)._replace(planes=False)
    # One more picture's row of places may be there than the windows of the space: `out` counts.
    matrix = weights_of(w, plan, dtype)
    right = np.ascontiguousarray(matrix.swapaxes(-1, -2))
    found = np.empty((n, *space, channels), t.dtype)
    taps = list(product(*map(range, size)))
    inside = tuple([slice(lo, lo + k) for k, (lo, _) in zip(space, padding, strict=True)])
    rows = max(1, STRIP // max(prod(out[1:]) * channels * len(taps) * dtype.itemsize, 1))

    def part(numbers: range) -> None:
        picture = np.empty((*plan.space, channels), dtype)
        buffer = np.empty(min(rows, out[0]) * prod(out[1:]) * t.shape[1], dtype)
        for i in numbers:
            picture.fill(0)
            for first in range(0, out[0], rows):
                strip = Strip(i, i + 1, first, min(first + rows, out[0]))
                m = strip.last - strip.first
                columns = np.matmul(rows_of(t, strip, buffer, groups), right)  # (..., places, taps * channels)
                if groups > 1:
                    columns = columns.transpose(1, 0, 2)
                    columns = columns.reshape(m, *out[1:], groups, len(taps), per)
                else:
                    columns = columns.reshape(m, *out[1:], len(taps), per)
                for k, tap in enumerate(taps):
                    key = [
                        slice(j * g + f * s, j * g + (f + c - 1) * s + 1, s)
                        for j, g, s, f, c in zip(
                            tap, dilation, stride, (first, *(0,) * (d - 1)), (m, *out[1:]), strict=True
                        )
                    ]
                    spot = picture[tuple(key)]
                    spot += columns[..., k, :].reshape(spot.shape)
            found[i] = picture[inside]

    share(2.0 * t.size * w.size / max(len(w), 1), n, threads, part)
    return _channels_first(found)


def convolution_weight(
    x: Array,
    t: Array,
    size: Sizes,
    stride: Sizes,
    padding: Padding,
    dilation: Sizes,
    groups: int,
    threads: int | None = None,
) -> Array:
    """Return the adjoint by w, (outputs, channels / groups, *size): sums over strips in a fixed order."""
    dtype = working_dtype(x, t)
    plan = plan_of(x.shape, size, stride, padding, dilation, groups, dtype.itemsize)
    outputs, per = t.shape[1] // groups, x.shape[1] // groups
    shape = (per * prod(size), outputs) if groups == 1 else (groups, per * prod(size), outputs)
    count = len(plan.strips)
    chunks = max(1, min(CHUNKS, count, PARTIAL // max(prod(shape) * dtype.itemsize, 1)))
    sums = np.zeros((chunks, *shape), dtype)

    def part(numbers: range) -> None:
        columns = Columns(plan, x, dtype)
        buffer, piece = np.empty(plan.rows * t.shape[1], dtype), np.empty(shape, dtype)
        for chunk in numbers:
            for i in range(chunk * count // chunks, (chunk + 1) * count // chunks):
                strip = plan.strips[i]
                left = columns.matrix(strip).swapaxes(-1, -2)
                np.matmul(left, rows_of(t, strip, buffer, groups), out=piece)
                sums[chunk] += piece

    share(2.0 * t.size * per * prod(size), chunks, threads, part)
    total = sums[0]
    for piece in sums[1:]:
        total += piece
    return weights_from(total, plan).astype(x.dtype, copy=False)


def by_channel(x: Array, w: Array, plan: Plan, out: Array, dtype: Any, threads: int | None) -> None:
    """Convolve each channel with its own weights: a product and a sum for each tap, in the cache."""
    last = x.transpose(0, *range(2, x.ndim), 1)
    taps = np.ascontiguousarray(w.reshape(len(w), prod(w.shape[1:])).T.astype(dtype, copy=False))
    inner = tuple([slice(lo, n - hi) for n, (lo, hi) in zip(plan.space, plan.padding, strict=True)])

    def part(numbers: range) -> None:
        picture = np.zeros((*plan.space, x.shape[1]), dtype)
        total, term = np.empty(out.shape[1:], dtype), np.empty(out.shape[1:], dtype)
        for i in numbers:
            np.copyto(picture[inner], last[i])
            for k, key in enumerate(_keys(plan)):
                np.multiply(picture[key], taps[k], out=term if k else total)
                if k:
                    np.add(total, term, out=total)
            out[i] = total

    share(2.0 * out.size * len(taps), len(x), threads, part)


def _keys(plan: Plan) -> Iterator[tuple[slice, ...]]:
    for tap in product(*map(range, plan.size)):
        yield tuple(
            [
                slice(k * g, k * g + s * (n - 1) + 1, s)
                for k, g, s, n in zip(tap, plan.dilation, plan.stride, plan.out, strict=True)
            ]
        )
