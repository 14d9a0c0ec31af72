"""Memory of a process, now and at its peak, on the host and on a GPU, in bytes."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any


class Host:
    """The memory of this process. On other systems than Linux its peak cannot be forgotten."""

    def used(self) -> float:
        """Return the bytes in use now."""
        status = _status("VmRSS")
        return self.peak() if status is None else status

    def peak(self) -> float:
        """Return the most there was at once, since the start or `forget`."""
        # Not ru_maxrss if there is a choice: on Linux it starts from the peak of the process that started this.
        status = _status("VmHWM")
        if status is not None:
            return status
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def forget(self) -> None:
        """Give back free memory, and let the peak begin anew from the bytes in use."""
        try:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
        except (OSError, AttributeError):  # another system, or another C library
            return


class Cupy:
    """The memory of the device that is taken: CuPy's pools give nothing back, so that it is the peak.

    Those of compiled programs are pools of their own, and all count. It is the device's: nobody else may use it.
    """

    def __init__(self) -> None:
        import cupy

        self._cupy = cupy

    def used(self) -> float:
        """Return the bytes in use now, with those that the pools keep."""
        free, total = self._cupy.cuda.runtime.memGetInfo()
        return float(total - free)

    peak = used

    def forget(self) -> None:
        """Give back free memory."""
        self._cupy.get_default_memory_pool().free_all_blocks()


class Torch:
    """PyTorch's allocator on a GPU."""

    def __init__(self) -> None:
        import torch

        self._cuda = torch.cuda

    def used(self) -> float:
        """Return the bytes in use now."""
        return self._cuda.memory_allocated()  # type: ignore[no-any-return]

    def peak(self) -> float:
        """Return the most there was at once, since the start or `forget`."""
        return self._cuda.max_memory_allocated()  # type: ignore[no-any-return]

    def forget(self) -> None:
        """Give back free memory, and let the peak begin anew from the bytes in use."""
        self._cuda.empty_cache()
        self._cuda.reset_peak_memory_stats()


class Jax:
    """JAX's allocator on a GPU, whose peak cannot be forgotten."""

    def __init__(self) -> None:
        import jax

        self._device = jax.devices("gpu")[0]

    def used(self) -> float:
        """Return the bytes in use now."""
        return self._device.memory_stats()["bytes_in_use"]  # type: ignore[no-any-return]

    def peak(self) -> float:
        """Return the most there was at once."""
        return self._device.memory_stats()["peak_bytes_in_use"]  # type: ignore[no-any-return]

    def forget(self) -> None:
        """Do nothing."""


def meter(library: str, place: str) -> Any:
    """Return a meter of the memory in which a column has its arrays.

    library: the column's. place: a device as tapegrad names it, or a kind of device, or the module of a column that is
    written by hand.
    """
    if library == "tapegrad":
        library, _, kind = place.partition(":")
        place = "cuda" if library == "cuda" else kind
    if place in ("cuda", "cupy") and library in ("cuda", "hand"):
        return Cupy()
    if place.startswith(("cuda", "gpu")):
        return {"torch": Torch, "jax": Jax}[library]()
    return Host()


def _status(name: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
