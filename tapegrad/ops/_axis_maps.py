"""Constants of operations along axes, and linear maps along one axis by a small matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad._engine.dispatch import backend_of, native_device
from tapegrad._engine.tensor import Tensor, wrap
from tapegrad.ops.conversion import astype, index_dtype
from tapegrad.ops.products import matmul
from tapegrad.ops.shaping import moveaxis

HostArray = np.ndarray[Any, Any]


def constant(values: HostArray, like: Tensor) -> Tensor:
    """Return an array of the host on the device of a Tensor: integers as indices, floats in the Tensor's dtype."""
    a = like._array
    if values.dtype.kind == "i":
        values = values.astype(index_dtype(a))
    else:
        values = values.astype({"float64": np.float64, "complex128": np.float64}.get(like.dtype.name, np.float32))
    x = wrap(backend_of[type(a)].from_host(values, native_device(a)))
    return x if values.dtype.kind == "i" else astype(x, like.dtype, copy=False)


def along(x: Tensor, matrix: HostArray, axis: int) -> Tensor:
    """Return the product of each vector along an axis, counted from the end, with a matrix (new length, length)."""
    m = constant(matrix.T.copy(), x)
    return matmul(x, m) if axis == -1 else moveaxis(matmul(moveaxis(x, axis, -1), m), -1, axis)
