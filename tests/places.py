"""Devices to test on, and the reason where there is none."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

import tapegrad as tg
from tapegrad import backends

PLUGIN = "without a GPU these tests run on a stand-in for CUDA: python -m pytest -p cuda_stand_in"


@cache
def why_not(device: str) -> str | None:
    """Say why nothing can be tested on a device here, None where it can."""
    prefix = device.partition(":")[0]
    if prefix == "jax" and importlib.util.find_spec("jax"):
        import jax

        jax.config.update("jax_enable_x64", True)
    try:
        backends.of_device(device)
    except (RuntimeError, ValueError) as error:
        return f"{error}; {PLUGIN}" if prefix == "cuda" else str(error)
    return None


# JAX compiles each operation for each shape, which takes most of the time of all tests. So sweeps run there in part,
# unless TAPEGRAD_TESTS=all.
WHOLE_SWEEPS = os.environ.get("TAPEGRAD_TESTS") == "all"


@dataclass(frozen=True)
class Place:
    """A device to test on: its string, and whether it has float64."""

    device: str
    double: bool = True
    readonly: bool = False

    def tensor(self, data: Any, requires_grad: bool = False) -> tg.Tensor:
        """Make a Tensor there, in float32 where there is no float64."""
        values = np.asarray(data)
        if values.dtype.kind == "f":
            values = values.astype(np.float64 if self.double else np.float32)
        elif values.dtype.kind == "c":
            values = values.astype(np.complex128 if self.double else np.complex64)
        elif values.dtype.kind == "i" and self.device == "strict:no_x64":
            values = values.astype(np.int32)
        x = tg.tensor(values, device=self.device, requires_grad=requires_grad)
        if self.readonly and x.ndim:
            x._array.flags.writeable = False
        return x

    def values(self, x: tg.Tensor | None) -> np.ndarray[Any, Any]:
        """Return a Tensor's values on the host."""
        assert isinstance(x, tg.Tensor)
        assert x.device == tg.zeros((), device=self.device).device
        return np.asarray(x.detach().to_device("cpu"))

    def check(self, x: tg.Tensor | None, expected: Any, rtol: float = 1e-12) -> None:
        """Assert that a Tensor lives here and has these values."""
        rtol = rtol if self.double else max(rtol, 2e-4)
        np.testing.assert_allclose(self.values(x), expected, rtol=rtol, atol=rtol)
