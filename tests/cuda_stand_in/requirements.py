"""Requirements of the stand-in: packages of the machine, and advice where one is missing."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from pathlib import Path


class Unavailable(RuntimeError):
    """The stand-in cannot run here; the message names the packages to install."""


def check() -> None:
    """Raise Unavailable if anything is missing."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise unavailable(f"it runs on x86-64 Linux, not on {platform.machine()} {sys.platform}")
    if shutil.which("g++") is None:
        raise unavailable("g++ is not installed: install your system's g++ package (apt-get install g++)")
    if importlib.util.find_spec("cupy") is None:
        raise unavailable("CuPy is not installed: pip install 'tapegrad[cuda-stand-in]'")
    if "cupy" in sys.modules:
        raise unavailable("CuPy is imported already: install the stand-in first")
    cuda_headers()


def cuda_headers() -> Path:
    """Return the folder of CUDA's headers."""
    for folder in _header_folders():
        if all((folder / name).exists() for name in ("cuda_fp16.h", "driver_types.h", "crt/host_defines.h")):
            return folder
    raise unavailable(
        "CUDA's headers are not installed (cuda_fp16.h, crt/host_defines.h): pip install 'tapegrad[cuda-stand-in]'"
    )


def _header_folders() -> list[Path]:
    return [*(Path(p) / "nvidia/cu13/include" for p in sys.path), Path("/usr/local/cuda/include")]


def cupy_headers() -> Path:
    """Return the folder of the headers that CuPy's kernels include; does not import CuPy."""
    spec = importlib.util.find_spec("cupy")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "_core/include"


def unavailable(why: str) -> Unavailable:
    """Return the error for a reason."""
    return Unavailable(f"the stand-in for CUDA cannot run: {why}")
