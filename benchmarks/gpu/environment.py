"""A step: the machine, the libraries and the driver, as PASS and FAIL lines with the fix.

It imports no more than it reports, so that it runs where next to nothing is installed.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from benchmarks.gpu._records import Output, output_of
from benchmarks.gpu._runner import MISSING, ROOT

REQUIRED = {
    "numpy": "pip install numpy",
    "array_api_compat": "pip install array-api-compat, or put its wheel into .whl/",
    "cupy": "pip install 'tapegrad[cuda13]'",
    "pytest": "pip install pytest",
    "xdist": "pip install pytest-xdist",
    "hypothesis": "pip install hypothesis",
    "scipy": "pip install scipy",
    "torch": "pip install torch",
    "jax": "pip install 'jax[cuda13]'",
    "ml_dtypes": "pip install ml-dtypes",
}
PACKAGES = (
    *("numpy", "scipy", "array-api-compat", "array-api-strict", "cupy", "cupy-cuda12x", "cupy-cuda13x", "ml-dtypes"),
    *("torch", "triton", "jax", "jaxlib", "jax-cuda13-plugin", "pytest", "pytest-xdist", "hypothesis"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Print and record all of it; return 0, or MISSING."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commit", default="", help="the commit, where there is no repository to ask")
    output, given = output_of(argv, parser)
    missing = [name for name, fix in REQUIRED.items() if not _installed(output, name, fix)]
    gpu, driver = _driver(output)
    device = _device(output) if "cupy" not in missing else None
    about: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "commit": given.commit or _commit(),
        "gpu": gpu or device,
        "driver": driver,
        "stand_in": gpu is None and device is not None,
        "cpu": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": {"python": platform.python_version(), **_versions()},
        "tiny": output.tiny,
    }
    output.write("\n".join(f"{key}: {value}" for key, value in about.items()), kind="environment", **about)
    complete = not missing and device is not None and (gpu is not None or output.tiny)
    return 0 if complete else MISSING


def _installed(output: Output, name: str, fix: str) -> bool:
    found = find_spec(name) is not None
    _fact(output, f"{name} is installed", found, "" if found else fix)
    return found


def _driver(output: Output) -> tuple[str | None, str | None]:
    """Return the GPU's name and the driver's version, None where no driver answers."""
    command = shutil.which("nvidia-smi")
    answer = ""
    if command is not None:
        query = [command, "--query-gpu=name,driver_version", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        answer = done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else ""
        print(subprocess.run([command], capture_output=True, text=True, check=False).stdout)
    _fact(
        output, "the NVIDIA driver answers", bool(answer), answer or "install the NVIDIA driver: nvidia-smi must work"
    )
    name, _, driver = answer.partition(",")
    return name.strip() or None, driver.strip() or None


def _device(output: Output) -> str | None:
    """Return the name of the device that CuPy finds, and print its configuration."""
    import cupy

    if not cupy.is_available():
        fix = "CuPy finds no CUDA device: install the NVIDIA driver, and the CuPy of its CUDA version"
        _fact(output, "CuPy finds a device", False, fix)
        return None
    properties = cupy.cuda.runtime.getDeviceProperties(0)
    name = properties["name"]
    text = name.decode() if isinstance(name, bytes) else str(name)
    _fact(output, "CuPy finds a device", True, f"{text}, {properties['totalGlobalMem'] / 2**30:.0f} GiB")
    return text


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return "unknown"
    command = [git, "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _fact(output: Output, name: str, passed: bool, detail: str) -> None:
    line = f"{'PASS' if passed else 'FAIL'} {name}{': ' if detail else ''}{detail}"
    output.write(line, kind="fact", name=name, passed=passed, detail=detail)


if __name__ == "__main__":
    sys.exit(main())
