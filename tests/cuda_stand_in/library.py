"""The stand-in's own library: built from the .cpp files here, loaded, and put in CUDA's place in memory."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib
import importlib.metadata
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from cuda_stand_in import requirements

HERE = Path(__file__).parent
_loaded: ctypes.CDLL | None = None


@cache
def folder() -> Path:
    """Return the folder of all that is compiled: CUDA_STAND_IN_CACHE, or one of this user's among temporary files.

    What was compiled from other sources, by another compiler or for another CuPy is in another subfolder.
    """
    default = Path(tempfile.gettempdir()) / f"cuda-stand-in-{os.getuid()}"
    key = hashlib.sha1(subprocess.run(["g++", "-v"], capture_output=True, check=True).stderr)
    key.update(_cupy_version().encode())
    for path in sorted([*HERE.glob("*.cpp"), *HERE.glob("*.h"), HERE / "compiler.py"]):
        key.update(path.read_bytes())
    path = Path(os.environ.get("CUDA_STAND_IN_CACHE") or default) / key.hexdigest()[:12]
    path.mkdir(parents=True, exist_ok=True)
    return path


def _cupy_version() -> str:
    names = ("cupy-cuda13x", "cupy-cuda12x", "cupy")
    found = [d.version for n in names for d in importlib.metadata.distributions(name=n)]
    return found[0] if found else ""


@contextmanager
def build_lock() -> Iterator[None]:
    """Let one process at a time build what all share."""
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
            subprocess.run(["g++", *include_options(), *sources, *options, "-o", str(path)], check=True)
    _loaded = ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)


def replace_runtime(module: str) -> None:
    """Replace the CUDA runtime, which is linked into a module of CuPy's."""
    start = _start_of(module)
    for line in _symbols(module):
        address, kind, name = line
        if kind in "tT" and re.fullmatch(r"cuda[A-Z]\w*", name):
            _replace(start + address, name)


def replace_cublas() -> None:
    """Replace cuBLAS, the file that CuPy loads at the first use of this module."""
    try:
        _ = importlib.import_module("cupy_backends.cuda.libs").cublas
    except ImportError as error:
        raise requirements.unavailable(f"CuPy has no cuBLAS: pip install 'tapegrad[cuda-stand-in]' ({error})") from None
    with open("/proc/self/maps") as maps:
        path = next(line.split()[-1] for line in maps if "libcublas.so" in line)
    real = ctypes.CDLL(path)
    for _, _, name in _symbols(str(folder() / "libcuda.so.1")):
        if name.startswith("cublas"):
            address = _address(real, name)
            if address is not None:
                _replace(address, name)


def _symbols(path: str) -> list[tuple[int, str, str]]:
    text = subprocess.run(["nm", "--defined-only", path], capture_output=True, text=True, check=True).stdout
    rows = (line.split() for line in text.splitlines())
    return [(int(row[0], 16), row[1], row[2]) for row in rows if len(row) == 3]


def _start_of(path: str) -> int:
    """Return the address where a loaded file begins."""
    with open("/proc/self/maps") as maps:
        rows = [line.split() for line in maps]
    return next(int(row[0].split("-")[0], 16) for row in rows if row[-1] == path and int(row[2], 16) == 0)


def _address(library: ctypes.CDLL, name: str) -> int | None:
    function = getattr(library, name, None)
    return None if function is None else ctypes.cast(function, ctypes.c_void_p).value


def _replace(address: int, name: str) -> None:
    """Write a jump to the stand-in's function over another; one that the stand-in lacks says so when it is called."""
    target = _address(loaded(), name) or _address(loaded(), name.partition("_")[0])
    code = b""
    if target is None:
        target = _address(loaded(), "unimplemented")
        code = b"\x48\xbf" + _name_pointer(name).to_bytes(8, "little")  # movabs rdi
    assert target is not None
    code += b"\x48\xb8" + target.to_bytes(8, "little") + b"\xff\xe0"  # movabs rax; jmp rax
    page = address & ~4095
    libc = ctypes.CDLL(None)
    if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(8192), 7):
        raise requirements.unavailable("this system lets nobody write over code (mprotect is refused)")
    ctypes.memmove(address, code, len(code))


@cache
def _name_buffer(name: str) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(name.encode())


def _name_pointer(name: str) -> int:
    return ctypes.addressof(_name_buffer(name))
