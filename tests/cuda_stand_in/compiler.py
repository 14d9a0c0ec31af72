"""Kernels compiled by g++: a text for NVRTC becomes a shared library, kept by its text."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cuda_stand_in import library

# -O1 leaves out the functions of headers that nothing calls, and is quicker for that; unique symbols would be one for
# all libraries that have a kernel of one name.
OPTIONS = ["-std=c++17", "-O1", "-w", "-fPIC", "-fno-gnu-unique", "-fwrapv", "-ffp-contract=off", "-fpermissive"]
# Headers that most texts share are compiled once: those without half precision and complex numbers are much smaller.
# NVRTC has none of C's macros for infinity and NaN.
_SHARED = "#include <cupy/carray.cuh>\n#include <cupy/atomics.cuh>\n#undef NAN\n#undef INFINITY\n"
PREAMBLES = {
    "real": f'#include "device.h"\n{_SHARED}',
    "full": f'#define STAND_IN_HALF\n#include "device.h"\n#include <cupy/complex.cuh>\n{_SHARED}',
}
_FULL = re.compile(r"complex<|float16|bfloat16|xsf/|__half|cuda_fp16")
_KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(')
_DYNAMIC = re.compile(r"extern __shared__ ([^;\[]*?)(\w+)\[\];")
_BARRIER = re.compile(r"__sync|__shfl|__ballot|__any|__all|= tg_shfl\(")
_GENERATED = "tg_"  # stands in every text that tapegrad generates


def compile_module_with_cache(
    source: str,
    options: Sequence[str] = (),
    *,
    arch: Any = None,
    extra_source: str | None = None,
    backend: str = "nvrtc",
    enable_cooperative_groups: bool = False,
    name_expressions: Sequence[str] | None = None,
    log_stream: Any = None,
    jitify: bool = False,
    to_ltoir: bool = False,
) -> Any:
    """Compile and load a text of kernels, as CuPy's function of this name does."""
    from cupy.cuda import function

    if _GENERATED in source:
        _keep_text(source, options)
    names = {name: f"expression{i}" for i, name in enumerate(sorted(name_expressions or ()))}
    module = function.Module()
    module.load(str(compiled(source, names)).encode())
    module._set_mapping(names or None)
    return module


def compiled(source: str, names: dict[str, str]) -> Path:
    """Return the shared library of a text; names: of instances of templates -> of their stand-ins."""
    path = library.folder() / f"{hashlib.sha1((source + repr(names)).encode()).hexdigest()}.so"
    if path.exists():
        return path
    kind = "full" if _FULL.search(source) else "real"
    new = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.cpp")
    new.write_text(host_text(source, names, kind))
    output = new.with_suffix(".so")
    command = [
        "g++",
        *OPTIONS,
        f"-I{_preamble(kind)}",
        *library.include_options(),
        "-shared",
        str(new),
        "-o",
        str(output),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        from cupy.cuda.compiler import CompileException

        errors = "\n".join(line for line in done.stderr.splitlines() if "error" in line)
        raise CompileException(f"g++ for the stand-in: {errors[:2000]}", source, str(new), (), "g++")
    os.replace(output, path)
    new.unlink()
    return path


def host_text(source: str, names: dict[str, str], kind: str) -> str:
    """Return a text of kernels as g++ compiles it, with the list of its kernels for the launcher."""
    left_out = r"asm\(" if kind == "full" else r"asm\(|#include <cupy/complex.cuh>"
    text = "\n".join(line for line in source.splitlines() if not re.search(left_out, line))
    shared, *pieces = text.split('extern "C"')
    shared = "\n".join(line for line in shared.splitlines() if "TG_FN" not in line)  # tapegrad's own shuffle
    found = [(name, piece) for piece in pieces for name in _KERNEL.findall('extern "C"' + piece)]
    listed = [_listed(name, name, shared + piece) for name, piece in found]
    listed += [_listed(new, name, text) for name, new in names.items()]
    return "\n".join(['#include "preamble.h"', _DYNAMIC.sub(r"\1* \2 = (\1*)dynamic_shared;", text), *listed, ""])


def _listed(symbol: str, kernel: str, text: str) -> str:
    """Return an entry of the list: a kernel, and the conditions of its text on how it is run."""
    barriers = bool(_BARRIER.search(text))
    loops = "CUPY_FOR" in text and not barriers and "return;" not in text  # one thread may do the work of all
    return f"STAND_IN_KERNEL({symbol}, ({kernel}), {int(barriers)}, {int(loops)})"


def _preamble(kind: str) -> Path:
    """Return the folder of a precompiled preamble.h."""
    folder = library.folder() / kind
    header, built = folder / "preamble.h", folder / "preamble.h.gch"
    if not built.exists():
        with library.build_lock():
            if not built.exists():
                folder.mkdir(exist_ok=True)
                header.write_text(PREAMBLES[kind])
                options = [*OPTIONS, *library.include_options(), "-x", "c++-header"]
                library.gcc(*options, str(header), "-o", f"{built}.new")
                os.replace(f"{built}.new", built)
    return folder


def _keep_text(source: str, options: Sequence[str]) -> None:
    """Keep the texts that tapegrad generated in this session, for the tests that give them to NVRTC."""
    folder = os.environ.get("CUDA_STAND_IN_TEXTS")
    if folder:
        path = Path(folder) / f"{hashlib.sha1(source.encode()).hexdigest()}.json"
        path.write_text(json.dumps({"source": source, "options": [*options, *library.include_options()]}))
