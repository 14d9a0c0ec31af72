"""Pickling and copying of a Tensor as an object."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from tapegrad._engine.dispatch import backend_of, detached_array, find_backend, outer_record
from tapegrad._engine.dtypes import DType
from tapegrad._engine.tensor import Tensor, host, make_leaf, wrap
from tapegrad.ops.creation import tensor


def copied(x: Tensor) -> Tensor:
    """Return a copy with the same value and gradient: a leaf for a leaf, else recorded as a copy."""
    return deep_copied(x, {})


def deep_copied(x: Tensor, memo: dict[int, Any]) -> Tensor:
    """Do the same as `copied`, for `deepcopy`."""
    if not x.is_leaf or (x._record is None and outer_record(x._array) is not None):
        copy = +x  # a leaf would be cut from the tape
    else:
        copy = wrap(detached_array(backend_of[type(x._array)].copy(x._array)))
        if x._record is not None:
            make_leaf(copy)
    memo[id(x)] = copy
    if x.is_leaf and x.grad is not None:
        copy.grad = deepcopy(x.grad, memo)
    return copy


def reduced(x: Tensor) -> tuple[Any, ...]:
    """Return the state for pickle; raise TypeError for a recorded result, which would be cut from the tape."""
    if not x.is_leaf:
        x._leave("pickling")
    gradient = None if not x.is_leaf or x.grad is None else x.grad.detach()
    values = host(x) if backend_of[type(x._array)].adapted else x._array  # as the library itself pickles it
    return (_unpickle, (values, x.device, x._record is not None and x.is_leaf, x.dtype, gradient))


def _unpickle(values: Any, device: str, requires_grad: bool, dtype: DType, gradient: Tensor | None = None) -> Tensor:
    find_backend(values)  # registers a library that the process has not used yet
    x = tensor(values, dtype=dtype, device=device, requires_grad=requires_grad)
    if gradient is not None:
        x.grad = gradient
    return x
