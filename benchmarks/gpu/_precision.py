"""The precision of matrix products, set alike in all libraries."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import tapegrad as tg
from benchmarks.gpu._libraries import DEVICE
from tapegrad import backends

FLOAT32, TF32, BFLOAT16 = PRECISIONS = ("float32", "tf32", "bfloat16")
TOLERANCES = {FLOAT32: 1e-3, TF32: 2e-2, BFLOAT16: 1e-1}
"""The largest differences of results between libraries, relative to the largest element."""


def why_not(precision: str) -> str | None:
    """Say why tapegrad does not have a precision on the device, or None if it has."""
    backend, device = backends.of_device(DEVICE)
    if precision == BFLOAT16 and not backend.has_dtype(BFLOAT16, device):
        return "no bfloat16 on this device (pip install ml-dtypes)"
    return None


@contextmanager
def precise(precision: str) -> Iterator[None]:
    """Multiply float32 matrices in this precision, in tapegrad and in all other libraries that are loaded."""
    fast = precision == TF32
    if (jax := sys.modules.get("jax")) is not None:
        jax.config.update("jax_default_matmul_precision", "tensorfloat32" if fast else "highest")
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_float32_matmul_precision("high" if fast else "highest")
    with tg.tf32(fast):
        yield
