"""Convolution and windows on PyTorch tensors by PyTorch's own functions."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, prod
from typing import Any

import torch
from torch.nn import functional

from tapegrad.backends import _convolution, _windows
from tapegrad.backends._array import Array
from tapegrad.backends._windows import Padding, Sizes, cropped, padded, places

_POOLS: dict[int, Any] = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


def functions(xp: Any) -> dict[str, Callable[..., Any]]:
    """Return the functions of a namespace, by name."""
    own = _Functions(xp)
    names = "convolution convolution_input convolution_weight max_pool pad_last pool_gather pool_scatter"
    names += " window_spread window_sum windows windows_sum"
    return {name: getattr(own, name) for name in names.split()}


def _symmetric(padding: Padding) -> Sizes | None:
    """Return the padding of each axis if it is the same before and behind."""
    return tuple([lo for lo, _ in padding]) if all(lo == hi for lo, hi in padding) else None


def _by_torch(*arrays: Array) -> bool:
    """Say whether PyTorch's functions take arrays: real floating ones, with elements."""
    return all(a.is_floating_point() and a.numel() for a in arrays)


class _Functions:
    """The functions, with the namespace that stands in where PyTorch has none for the dtype or shape."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp

    # -- convolution -----------------------------------------------------------------------------------

    def convolution(self, x: Array, w: Array, stride: Sizes, padding: Padding, dilation: Sizes, groups: int) -> Array:
        if not _by_torch(x, w):
            return _convolution.convolution(self.xp, x, w, stride, padding, dilation, groups)
        pads = _symmetric(padding)
        if pads is None:
            x, pads = self.pad_last(x, padding, 0), (0,) * len(stride)
        return torch.convolution(x, w, None, stride, pads, dilation, False, (0,) * len(stride), groups)

    def convolution_input(
        self, t: Array, w: Array, space: Sizes, stride: Sizes, padding: Padding, dilation: Sizes, groups: int
    ) -> Array:
        if not _by_torch(t, w):
            return _convolution.convolution_input(self.xp, t, w, space, stride, padding, dilation, groups)
        pads = _symmetric(padding)
        whole = space if pads is not None else padded(space, padding)
        like = t.new_empty(1).expand(t.shape[0], groups * w.shape[1], *whole)  # of which only the shape is read
        found = self._adjoint(t, like, w, stride, pads, dilation, groups, [True, False, False])[0]
        return found if pads is not None else cropped(self.xp, found, space, padding)

    def convolution_weight(
        self, x: Array, t: Array, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes, groups: int
    ) -> Array:
        if not _by_torch(x, t):
            return _convolution.convolution_weight(self.xp, x, t, size, stride, padding, dilation, groups)
        pads = _symmetric(padding)
        x = x if pads is not None else self.pad_last(x, padding, 0)
        like = t.new_empty(1).expand(t.shape[1], x.shape[1] // groups, *size)
        return self._adjoint(t, x, like, stride, pads, dilation, groups, [False, True, False])[1]

    def _adjoint(
        self, t: Array, x: Array, w: Array, stride: Sizes, pads: Sizes | None, dilation: Sizes, groups: int, mask: Any
    ) -> Any:
        zeros = [0] * len(stride)
        pads = tuple(zeros) if pads is None else pads
        return torch.ops.aten.convolution_backward(t, x, w, None, stride, pads, dilation, False, zeros, groups, mask)

    # -- windows ---------------------------------------------------------------------------------------

    def pad_last(self, x: Array, widths: Padding, value: Any) -> Array:
        if not x.numel():
            return _windows.pad_last(self.xp, x, widths, value)
        flat = [n for pair in reversed(widths) for n in pair]
        return functional.pad(x, flat, value=value) if any(flat) else x

    def windows(self, x: Array, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes) -> Array:
        x = self.pad_last(x, padding, 0)
        d = len(size)
        lead = x.ndim - d
        for i, (k, s, g) in enumerate(zip(size, stride, dilation, strict=True)):
            x = x.unfold(lead + i, g * (k - 1) + 1, s)[..., ::g]
        return x.permute((*range(lead), *range(lead + d, lead + 2 * d), *range(lead, lead + d))).contiguous()

    def windows_sum(
        self, c: Array, space: Sizes, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes
    ) -> Array:
        d = len(size)
        if d > 2 or 0 in space or not _by_torch(c):
            return _windows.windows_sum(self.xp, c, space, size, stride, padding, dilation)
        lead, out = c.shape[: -2 * d], c.shape[-d:]
        columns = c.reshape(prod(lead), prod(size), prod(out))
        one = (1,) * (2 - d)
        options = {"kernel_size": (*one, *size), "stride": (*one, *stride), "dilation": (*one, *dilation)}
        pads = _symmetric(padding)
        whole = space if pads is not None else padded(space, padding)
        pads = pads or (0,) * d
        single = columns.float() if columns.itemsize == 2 else columns
        found = functional.fold(single, (*one, *whole), padding=(*(0,) * (2 - d), *pads), **options).to(c.dtype)
        found = found.reshape(*lead, *whole)
        return found if whole == space else cropped(self.xp, found, space, padding)

    # -- maxima ----------------------------------------------------------------------------------------
    # Taps are PyTorch's indices: places in the flat space, with its padding if that is not symmetric.

    def _pools(self, x: Array, size: Sizes) -> bool:
        return len(size) <= 3 and _by_torch(x)

    def max_pool(self, x: Array, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes) -> tuple[Array, Array]:
        d = len(size)
        if not self._pools(x, size):
            return _windows.max_pool(self.xp, x, size, stride, padding, dilation)
        out = places(tuple(x.shape[-d:]), size, stride, padding, dilation)
        pads = _symmetric(padding)
        if pads is None:
            x, pads = self.pad_last(x, padding, -inf), (0,) * d
        lead = x.shape[:-d]
        flat = x.reshape(1, prod(lead), *x.shape[-d:])
        values, taps = _POOLS[d](flat, size, stride, pads, dilation, return_indices=True)
        return values.reshape(*lead, *out), taps.reshape(*lead, *out)

    def pool_gather(
        self, x: Array, taps: Array, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes
    ) -> Array:
        d = len(size)
        if taps.dtype != torch.int64:
            return _windows.pool_gather(self.xp, x, taps, size, stride, padding, dilation)
        if _symmetric(padding) is None:
            x = self.pad_last(x, padding, 0)
        lead = x.shape[:-d]
        return x.reshape(*lead, -1).gather(-1, taps.reshape(*lead, -1)).reshape(taps.shape)

    def pool_scatter(
        self, t: Array, taps: Array, space: Sizes, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes
    ) -> Array:
        d = len(size)
        if taps.dtype != torch.int64:
            return _windows.pool_scatter(self.xp, t, taps, space, size, stride, padding, dilation)
        whole = space if _symmetric(padding) is not None else padded(space, padding)
        lead = t.shape[:-d]
        single = t.float() if t.itemsize == 2 else t
        total = single.new_zeros((*lead, prod(whole)))
        total = total.scatter_add(-1, taps.reshape(*lead, -1), single.reshape(*lead, -1)).to(t.dtype)
        found = total.reshape(*lead, *whole)
        return found if whole == space else cropped(self.xp, found, space, padding)

    # -- sums ------------------------------------------------------------------------------------------

    def window_sum(self, x: Array, size: Sizes, stride: Sizes, padding: Padding) -> Array:
        d = len(size)
        if d > 3 or not _by_torch(x):
            return _windows.window_sum(self.xp, x, size, stride, padding)
        x = self.pad_last(x, padding, 0)
        lead, space = x.shape[:-d], x.shape[-d:]
        one = (1,) if d == 1 else ()
        single = x.float() if x.itemsize == 2 else x
        pool = functional.avg_pool3d if d == 3 else functional.avg_pool2d
        flat = single.reshape(1, prod(lead), *one, *space)
        found = pool(flat, (*one, *size), (*one, *stride), divisor_override=1)
        return found.reshape(*lead, *found.shape[-d:]).to(x.dtype)

    def window_spread(self, t: Array, space: Sizes, size: Sizes, stride: Sizes, padding: Padding) -> Array:
        d = len(size)
        if d > 3 or not _by_torch(t):
            return _windows.window_spread(self.xp, t, space, size, stride, padding)
        lead, whole = t.shape[:-d], padded(space, padding)
        one = (1,) if d == 1 else ()
        zeros = (0,) * max(d, 2)
        single = t.float() if t.itemsize == 2 else t
        flat = single.reshape(1, prod(lead), *one, *t.shape[-d:])
        like = flat.new_empty(1).expand(1, prod(lead), *one, *whole)
        aten = torch.ops.aten
        back = aten.avg_pool3d_backward if d == 3 else aten.avg_pool2d_backward
        found = back(flat, like, (*one, *size), (*one, *stride), zeros, False, True, 1)
        return cropped(self.xp, found.reshape(*lead, *whole).to(t.dtype), space, padding)
