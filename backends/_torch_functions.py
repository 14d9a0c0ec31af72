"""Functions on PyTorch tensors where PyTorch's own differ from the standard."""

from __future__ import annotations

from typing import Any

import torch

from tapegrad.backends._base import Array


def searchsorted(x1: Array, x2: Array, /, *, side: str = "left", sorter: Array | None = None) -> Array:
    sorter = None if sorter is None else sorter.long().contiguous()
    return torch.searchsorted(x1.contiguous(), x2.contiguous(), side=side, sorter=sorter)  # which warns of gaps


def take_along_axis(x: Array, indices: Array, /, *, axis: int) -> Array:
    n, i = x.shape[axis], indices.long()
    return torch.gather(x, axis, torch.where(i < 0, i + n, i))  # torch.take_along_dim wraps what is out of range


def one_array(key: tuple[Any, ...]) -> bool:
    """Say whether a key is slices around one vector of integers."""
    arrays = [i for i in key if hasattr(i, "shape")]
    rest = [i for i in key if not hasattr(i, "shape")]
    return len(arrays) == 1 and arrays[0].ndim == 1 and all(i == slice(None) for i in rest)


def refuse_recorded(array: Array) -> None:
    """Raise TypeError for a tensor that PyTorch's autograd records."""
    if array.requires_grad:
        raise TypeError(
            "this PyTorch tensor is recorded by PyTorch's own autograd, which would lose its gradient here: "
            "use tensor.detach() first"
        )
