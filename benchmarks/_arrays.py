"""Results of steps as arrays of NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import tapegrad as tg
from tapegrad import backends

Results = list[np.ndarray[Any, Any]]


def raw(x: Any) -> Any:
    """Return the array in a Tensor, without a copy, and anything else as it is."""
    return x._array if isinstance(x, tg.Tensor) else x


def wait(outputs: Sequence[Any]) -> None:
    """Return when the values of these arrays or Tensors, of any library, are computed."""
    for x in outputs:
        array = raw(x)
        backend = backends.of_type(type(array))
        if backend is not None:
            backend.synchronize(array)


def on_host(outputs: Sequence[Any]) -> Results:
    """Return copies of the values of arrays or Tensors of any library."""
    arrays = []
    for x in outputs:
        array = raw(x)
        backend = backends.of_type(type(array))
        if hasattr(array, "requires_grad"):
            array = array.detach()
        arrays.append(np.array(array if backend is None else backend.to_host(array)))
    return arrays
