"""The CUDA text that completes several reductions by one launch: each gets as many blocks as by itself."""

from __future__ import annotations

import re

from tapegrad.backends._cupy_kernels import Kernel

WIDEST = 48  # reductions of one launch
_HEAD = re.compile(r'extern "C" __global__ void __launch_bounds__\([^)]*\) \S+\((.+) r0, (.+) p0\) \{\n')
_SHARED = re.compile(r"__shared__ ([^;\[]+) s\[\d+\];")


def together(kernels: list[Kernel]) -> str:
    """Return the text, with the name "@", of kernels of one block size: it takes the arrays of each in turn."""
    threads = kernels[0].block
    arguments, parts = [], []
    for i, kernel in enumerate(kernels):
        head = _HEAD.match(kernel.source)
        assert head is not None, kernel.source
        out, partial = head.groups()
        arguments.append(f"{out} q{i}, {partial} w{i}")
        body = kernel.source[head.end() : kernel.source.rindex("}")].replace("blockIdx.x", "block")
        body = _SHARED.sub(r"\1* const s = (\1*)shared;", body)
        parts.append(
            f"  if (block < {kernel.grid}) {{\n  {out} r0 = q{i};\n  {partial} p0 = w{i};\n{body}  return;\n  }}\n"
            f"  block -= {kernel.grid};\n"
        )
    return (
        f'extern "C" __global__ void __launch_bounds__({threads}, 1) @({", ".join(arguments)}) {{\n'
        f"  __shared__ double shared[{threads}];\n  unsigned int block = blockIdx.x;\n" + "".join(parts) + "}\n"
    )
