"""NVRTC by itself: `python tests/nvrtc.py FILE ...` compiles texts of kernels for an H100 and prints their resources.

A file holds a text and its options as JSON. This runs in a process of its own: NVRTC brings a compiler along that
nothing else should share memory with.
"""

from __future__ import annotations

import ctypes
import glob
import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

OPTIONS = ("--gpu-architecture=sm_90", "-ftz=true", "--ptxas-options=-v")  # CuPy flushes denormals too
SHARED_LIMIT = 48 << 10  # static, a block
_LOG = re.compile(
    r"Function properties for (?P<name>\w+)\n"
    r".* (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads\n"
    r".*Used (?P<registers>\d+) registers(?P<rest>.*)"
)


class Usage(NamedTuple):
    """Registers a thread and bytes of static shared memory a block of a kernel; bytes a thread spills."""

    name: str
    registers: int
    shared: int
    spilled: int


class CompileError(Exception):
    """NVRTC or ptxas refused a text."""


def library() -> ctypes.CDLL | None:
    """Return NVRTC, None where it is not installed."""
    found = [sorted(glob.glob(f"{p}/nvidia/**/libnvrtc.so.1?", recursive=True)) for p in sys.path]
    for name in (*[x for names in found for x in names], "libnvrtc.so.13", "libnvrtc.so.12"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def compiled(nvrtc: Any, source: str, options: tuple[str, ...]) -> list[Usage]:
    """Compile a text to a cubin and return each kernel's resources, as ptxas prints them; raises CompileError."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
    given = [o.encode() for o in (*options, *OPTIONS)]
    status = nvrtc.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given))
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    text = log.value.decode()
    used = [_usage(match) for match in _LOG.finditer(text)]
    for name, _, shared, _ in used:
        if shared > SHARED_LIMIT:  # ptxas fails without a word
            raise CompileError(f"{name} needs {shared} bytes of shared memory, of {SHARED_LIMIT}")
    if status:
        raise CompileError(text)
    return used


def _usage(match: re.Match[str]) -> Usage:
    shared = re.search(r"(\d+) bytes smem", match["rest"])
    spilled = int(match["stores"]) + int(match["loads"])
    return Usage(match["name"], int(match["registers"]), int(shared[1]) if shared else 0, spilled)


def main(paths: list[str]) -> None:
    """Print a line of JSON for each file: the resources of its kernels, or the error."""
    nvrtc = library()
    for path in paths:
        given = json.loads(Path(path).read_text())
        try:
            result: dict[str, Any] = {"kernels": compiled(nvrtc, given["source"], tuple(given["options"]))}
        except CompileError as error:
            result = {"error": str(error)}
        print(json.dumps({"path": path, **result}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
