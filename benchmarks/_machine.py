"""The machine and the library versions that numbers were measured on."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._measure import cores

_PACKAGES = (
    "tapegrad",
    "numpy",
    "array-api-compat",
    "torch",
    "jax",
    "jaxlib",
    "autograd",
    "mygrad",
    "threadpoolctl",
)
_CUPY = ("cupy", "cupy-cuda12x", "cupy-cuda13x")


def machine() -> dict[str, Any]:
    """Describe the processor, its cores for this process, the GPU if there is one, and the system."""
    return {
        "cpu": _cpu(),
        "cores": cores(),
        "gpu": _gpu(),
        "system": f"{platform.system()} {platform.machine()}",
        "blas": _blas(),
    }


def versions() -> dict[str, str]:
    """Return the version of Python and of every library that is installed."""
    found = {"python": platform.python_version()}
    for package in (*_PACKAGES, *_CUPY):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def _gpu() -> str | None:
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    query = [command, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def _blas() -> str:
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{blas['name']} {blas['version']}"


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next step, for all columns alike.

    By default it returns the top of its heap to the system as soon as half a megabyte is free there, and takes page
    faults to fetch it again: 2,000 a step for a column that frees its largest arrays last, none for another.
    """
    mmap_threshold, trim_threshold = -3, -1
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(mmap_threshold, 32 * 1024 * 1024)
    mallopt(trim_threshold, 2**31 - 1)
