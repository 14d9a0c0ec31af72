"""Functions on PyTorch tensors where PyTorch's own differ from the standard."""

from __future__ import annotations

from typing import Any

import array_api_compat.torch as compat
import torch

from tapegrad.backends import _scans as scans
from tapegrad.backends._array import Array


def searchsorted(x1: Array, x2: Array, /, *, side: str = "left", sorter: Array | None = None) -> Array:
    sorter = None if sorter is None else sorter.long().contiguous()
    return torch.searchsorted(x1.contiguous(), x2.contiguous(), side=side, sorter=sorter)  # warns of gaps in memory


def take_along_axis(x: Array, indices: Array, /, *, axis: int) -> Array:
    n, i = x.shape[axis], indices.long()
    return torch.gather(x, axis, torch.where(i < 0, i + n, i))  # torch.take_along_dim wraps indices out of range


def segment_extreme(largest: bool, x: Array, ids: Array, n: int, /) -> Array:
    out = torch.full((n, *x.shape[1:]), scans.least(compat, x.dtype, largest), dtype=x.dtype, device=x.device)
    places = ids.long().reshape(-1, *(1,) * (x.ndim - 1)).expand(x.shape)
    return out.scatter_reduce(0, places, x, "amax" if largest else "amin")


def solve_triangular(
    a: Array, b: Array, /, *, upper: bool = False, trans: str = "N", unit_diagonal: bool = False
) -> Array:
    a, upper = (a.mH, not upper) if trans == "C" else (a, upper)
    return torch.linalg.solve_triangular(a, b, upper=upper, unitriangular=unit_diagonal)


def one_array(key: tuple[Any, ...]) -> bool:
    """Return whether a key is one vector of integers among full slices."""
    arrays = [i for i in key if hasattr(i, "shape")]
    rest = [i for i in key if not hasattr(i, "shape")]
    return len(arrays) == 1 and arrays[0].ndim == 1 and all(i == slice(None) for i in rest)


class _Tracing:
    """A count of the programs that are being traced for torch.compile, in all threads."""

    def __init__(self) -> None:
        self.depth = 0

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(self, *error: object) -> None:
        self.depth -= 1


tracing = _Tracing()


def added(array: Array, key: tuple[Any, ...], value: Array) -> Array:
    """Return an array with values added at a key of integers, None and slices of positive step.

    The values are padded to the shape of the array and added. Of a chain of in-place additions to slices, the compiler
    would make one expression, in which each addition reads the one before twice: its size doubles with each. A padded
    value is read once.
    """
    value = value.broadcast_to(array[key].shape)
    shape = list(array.shape)
    axis = 0
    sizes: list[int] = []
    for i in key:
        if i is None:
            value = value.squeeze(axis)
            continue
        if isinstance(i, int):
            value = value.unsqueeze(axis)
        sizes.append(value.shape[axis])
        axis += 1
    places = [i for i in key if i is not None]
    for axis, i in enumerate(places):
        n = shape[axis]
        if isinstance(i, int):
            i = slice(i, i + 1)
        if sizes[axis] != n:
            whole = value.new_zeros([*value.shape[:axis], n, *value.shape[axis + 1 :]])
            start, stop, step = i.indices(n)
            value = torch.slice_scatter(whole, value, axis, start, stop, step)
    return array + value


def refuse_recorded(array: Array) -> None:
    """Raise TypeError for a tensor that PyTorch's autograd records."""
    if array.requires_grad:
        raise TypeError(
            "this PyTorch tensor is recorded by PyTorch's own autograd, which would lose its gradient here: "
            "use tensor.detach() first"
        )
