"""Every text of kernels that the tests before these generated, compiled by NVRTC for an H100, spills next to nothing.

`python -m pytest -p cuda_stand_in` keeps the texts. They are compiled down to machine code, so that ptxas checks
registers and shared memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nvrtc
import pytest

pytestmark = pytest.mark.skipif(
    nvrtc.library() is None, reason="NVRTC is not installed (pip install nvidia-cuda-nvrtc)"
)

AROUND_CALLS = 64  # bytes that ptxas keeps aside around the slow paths of divisions and exponentials
SPILLING = r"""
extern "C" __global__ void __launch_bounds__(1024) spilling(float* p) {
  float a[200], sum = 0;
  #pragma unroll
  for (int i = 0; i < 200; i++) a[i] = p[threadIdx.x + i * 1024];
  #pragma unroll
  for (int i = 0; i < 200; i++) sum += a[i];
  #pragma unroll
  for (int i = 0; i < 200; i++) p[threadIdx.x + i * 1024] = a[i] * sum;
}
"""
FITTING = r"""
extern "C" __global__ void fitting(float* p) {
  __shared__ float rows[100];
  rows[threadIdx.x] = p[threadIdx.x];
  __syncthreads();
  p[threadIdx.x] = rows[99 - threadIdx.x];
}
"""


def results(paths: list[Path]) -> list[dict[str, Any]]:
    """Compile files in processes of their own, one a core."""
    count = os.cpu_count() or 1
    parts = [part for part in (paths[i::count] for i in range(count)) if part]

    def run(part: list[Path]) -> list[dict[str, Any]]:
        command = [sys.executable, nvrtc.__file__, *map(str, part)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    with ThreadPoolExecutor(count) as pool:
        return [result for part in pool.map(run, parts) for result in part]


def complaints(paths: list[Path]) -> list[str]:
    """List the faults of the kernels of files."""
    out = []
    for result in results(paths):
        if "error" in result:
            out.append(f"{result['path']}: {result['error'][:500]}")
        for name, registers, _, spilled in result.get("kernels", ()):
            if spilled > AROUND_CALLS:
                out.append(f"{result['path']}: {name} spills {spilled} bytes a thread, with {registers} registers")
    return out


def kept(folder: Path, *sources: str) -> list[Path]:
    paths = [folder / f"{i}.json" for i in range(len(sources))]
    for path, source in zip(paths, sources, strict=True):
        path.write_text(json.dumps({"source": source, "options": ["-std=c++17"]}))
    return paths


def test_a_spilling_kernel_is_found(tmp_path: Path) -> None:
    (found,) = complaints(kept(tmp_path, FITTING, SPILLING))
    assert "spilling spills" in found


def test_too_much_shared_memory_is_found(tmp_path: Path) -> None:
    (found,) = complaints(kept(tmp_path, FITTING, FITTING.replace("rows[100]", "rows[12289]")))
    assert "fitting needs 49156 bytes of shared memory, of 49152" in found


def test_registers_and_shared_memory_are_read(tmp_path: Path) -> None:
    (result,) = results(kept(tmp_path, FITTING + SPILLING))
    used = {name: (registers, shared) for name, registers, shared, _ in result["kernels"]}
    assert used["fitting"][1] == 400
    assert used["spilling"] == (64, 0)


def test_generated_kernels_compile_and_do_not_spill() -> None:
    folder = os.environ.get("CUDA_STAND_IN_TEXTS")
    paths = sorted(Path(folder).iterdir()) if folder else []
    if not paths:
        pytest.skip("nothing was generated: run other tests beside this one, with -p cuda_stand_in")
    wrong = complaints(paths)
    assert not wrong, f"{len(wrong)} of {len(paths)} texts:\n" + "\n".join(wrong)
