"""Advice for errors of a CUDA device: memory that ran out, a device that is lost."""

from __future__ import annotations

import cupy
from cupy.cuda.memory import OutOfMemoryError

# Errors after which a process cannot use the device again: devices that are unavailable or not there, illegal
# addresses, destroyed contexts, asserts, hardware and launch failures.
_LOST = frozenset((46, 100, 101, 201, 214, 700, 709, 710, 714, 715, 716, 717, 718, 719, 999))


def remedy(error: Exception) -> str:
    """Return advice in one line, "" for other errors."""
    if isinstance(error, OutOfMemoryError):
        held = cupy.get_default_memory_pool().total_bytes()
        return (
            f"CuPy's pool holds {held:,} bytes: let go of Tensors and compiled functions that you no longer need, "
            "take smaller batches, or compute again instead of saving, with tapegrad.checkpoint"
        )
    if getattr(error, "status", None) in _LOST:
        return "this process cannot use the device any more: start another one (nvidia-smi shows its state)"
    return ""
