"""The stand-in's own library: built from the .cpp files here, loaded, and put in CUDA's place in memory."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib
import importlib.metadata
import mmap
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from cuda_stand_in import requirements

HERE = Path(__file__).parent
_loaded: ctypes.CDLL | None = None


@cache
def folder() -> Path:
    """Return the folder of all that is compiled: CUDA_STAND_IN_CACHE, or one of this user's among temporary files.

    What was compiled from other sources, by another compiler or for another CuPy is in another subfolder.
    """
    default = Path(tempfile.gettempdir()) / f"cuda-stand-in-{os.getuid()}"
    key = hashlib.sha1((gcc("-v") + _cupy_version()).encode())
    for path in sorted([*HERE.glob("*.cpp"), *HERE.glob("*.h"), HERE / "compiler.py"]):
        key.update(path.read_bytes())
    path = Path(os.environ.get("CUDA_STAND_IN_CACHE") or default) / key.hexdigest()[:12]
    path.mkdir(parents=True, exist_ok=True)
    return path


def gcc(*arguments: str) -> str:
    """Run g++ and return its output; Unavailable if it cannot do this."""
    done = subprocess.run(["g++", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise requirements.unavailable(f"g++ fails (version 8 or newer is needed): {done.stderr[:500]}")
    return done.stderr


def _cupy_version() -> str:
    names = ("cupy-cuda13x", "cupy-cuda12x", "cupy")
    found = [d.version for n in names for d in importlib.metadata.distributions(name=n)]
    return found[0] if found else ""


@contextmanager
def build_lock() -> Iterator[None]:
    """Let one process at a time build the files that all share."""
    with open(folder() / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def include_options() -> list[str]:
    """Return the compiler's options for the headers of the stand-in, CuPy and CUDA."""
    cupy = requirements.cupy_headers()
    parts = [cupy / "cupy/_cccl" / name for name in ("cub", "thrust", "libcudacxx")]
    return [f"-I{p}" for p in (HERE, *parts, cupy, requirements.cuda_headers())]


def loaded() -> ctypes.CDLL:
    """Return the library; RuntimeError where CUDA has not been replaced."""
    if _loaded is None:
        raise RuntimeError("CUDA is not replaced: run the tests with `python -m pytest -p cuda_stand_in`")
    return _loaded


def is_installed() -> bool:
    """Say whether CUDA is replaced in this process."""
    return _loaded is not None


def load() -> None:
    """Build the library if need be, and load it where CuPy looks for the driver."""
    global _loaded
    path = folder() / "libcuda.so.1"
    with build_lock():
        if not path.exists():
            sources = [str(p) for p in sorted(HERE.glob("*.cpp"))]
            options = ["-std=c++17", "-O1", "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-ldl"]
            gcc(*include_options(), *sources, *options, "-o", str(path))
    _loaded = ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)


def replace_runtime(module: str) -> None:
    """Replace the CUDA runtime, which is linked into a module of CuPy's."""
    start = _start_of(module)
    for offset, name in _functions("nm", module):
        if re.fullmatch(r"cuda[A-Z]\w*", name):
            _replace(start + offset, name)


def replace_cublas() -> None:
    """Replace cuBLAS, the file that CuPy loads at the first use of this module."""
    try:
        _ = importlib.import_module("cupy_backends.cuda.libs").cublas
    except ImportError as error:
        raise requirements.unavailable(f"CuPy has no cuBLAS: pip install 'tapegrad[cuda-stand-in]' ({error})") from None
    with open("/proc/self/maps") as maps:
        path = next(line.split()[-1] for line in maps if "libcublas.so" in line)
    start = _start_of(path)
    for offset, name in _functions("nm", "-D", path):
        if name.startswith("cublas"):
            _replace(start + offset, name.partition("@")[0])


def _functions(*command: str) -> list[tuple[int, str]]:
    """Return offset and name of the functions in a file that `nm` is asked about."""
    text = subprocess.run([*command, "--defined-only"], capture_output=True, text=True, check=True).stdout
    rows = (line.split() for line in text.splitlines())
    return [(int(row[0], 16), row[2]) for row in rows if len(row) == 3 and row[1] in "tT"]


def _start_of(path: str) -> int:
    """Return the address where a loaded file begins."""
    with open("/proc/self/maps") as maps:
        rows = [line.split() for line in maps]
    return next(int(row[0].split("-")[0], 16) for row in rows if row[-1] == path and int(row[2], 16) == 0)


def _replace(address: int, name: str) -> None:
    """Write a jump to the stand-in's function over the one of this name."""
    function = getattr(loaded(), name, None) or getattr(loaded(), name.removesuffix("_ptsz"), None) or _missing(name)
    target = ctypes.cast(function, ctypes.c_void_p).value
    assert target is not None
    code = b"\x48\xb8" + target.to_bytes(8, "little") + b"\xff\xe0"  # movabs rax, target; jmp rax
    page = address & ~(mmap.PAGESIZE - 1)
    everything = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    if ctypes.CDLL(None).mprotect(ctypes.c_void_p(page), ctypes.c_size_t(2 * mmap.PAGESIZE), everything):
        raise requirements.unavailable("this system lets nobody write over code (mprotect is refused)")
    ctypes.memmove(address, code, len(code))


@cache
def _missing(name: str) -> Any:
    """Return a function that says that the stand-in lacks it; kept for good, as the code that jumps to it."""

    def call() -> int:
        print(f"[cuda_stand_in] {name} is not there", file=sys.stderr)
        return 801 if name.startswith("cuda") else 15  # not supported

    return ctypes.CFUNCTYPE(ctypes.c_int)(call)
