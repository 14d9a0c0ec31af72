"""The stand-in for CUDA itself: it agrees with a device, in results and in refusals."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cuda_stand_in
import numpy as np
import pytest
from cuda_stand_in import Unavailable, counted, requirements, simulated

TESTS = Path(__file__).parent
installed = pytest.mark.skipif(not cuda_stand_in.is_installed(), reason="run with -p cuda_stand_in")


def run(source: str, name: str, block: int, *args: Any, grid: int = 1, shared: int = 0) -> None:
    """Compile a text of kernels and launch one."""
    import cupy

    cupy.RawModule(code=source).get_function(name)((grid,), (block,), args, shared_mem=shared)


def zeros(n: int, dtype: str = "int32") -> Any:
    import cupy

    return cupy.zeros(n, dtype)


# -- threads of a block ------------------------------------------------------------------------------------


@installed
def test_a_barrier_waits_for_warps_that_still_shuffle() -> None:
    """The first warp shuffles five times before it writes the numbers that the others read behind the barrier."""
    out = zeros(64)
    run(
        """extern "C" __global__ void sum(int* out) {
          __shared__ int total;
          int x = threadIdx.x;
          if (threadIdx.x < 32) {
            for (int lanes = 1; lanes < 32; lanes *= 2) x += __shfl_xor_sync(0xffffffffu, x, lanes);
            if (threadIdx.x == 0) total = x;
          }
          __syncthreads();
          out[threadIdx.x] = total;
        }""",
        "sum",
        64,
        out,
    )
    assert out.get().tolist() == [31 * 16] * 64


@installed
@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("__shfl_xor_sync(~0u, x, 3)", lambda t: t ^ 3),
        ("__shfl_up_sync(~0u, x, 3, 8)", lambda t: np.where(t % 8 >= 3, t - 3, t)),
        ("__shfl_down_sync(~0u, x, 3, 8)", lambda t: np.where(t % 8 < 5, t + 3, t)),
        ("__shfl_sync(~0u, x, 2, 16)", lambda t: t // 16 * 16 + 2),
        ("(int)__ballot_sync(~0u, x % 32 < 3)", lambda t: np.full(64, 7)),
        ("__any_sync(~0u, x == 40)", lambda t: t // 32),
        ("__all_sync(~0u, x < 40)", lambda t: 1 - t // 32),
        ("__popc(x) + __clz(x) + __ffs(x)", lambda t: [_bits(int(i)) for i in t]),
    ],
)
def test_functions_of_a_warp(call: str, expected: Callable[[Any], Any]) -> None:
    out = zeros(64)
    run(f'extern "C" __global__ void f(int* out) {{ int x = threadIdx.x; out[x] = {call}; }}', "f", 64, out)
    np.testing.assert_array_equal(out.get(), expected(np.arange(64)))


def _bits(i: int) -> int:
    return i.bit_count() + 32 - i.bit_length() + ((i & -i).bit_length())


@installed
def test_shared_memory_is_garbage_first_and_of_the_size_that_the_launch_says() -> None:
    source = """extern "C" __global__ void f(unsigned* out) {
      __shared__ unsigned fixed[8];
      extern __shared__ unsigned dynamic[];
      if (threadIdx.x == blockDim.x) fixed[0] = 1;
      __syncthreads();
      out[threadIdx.x] = fixed[threadIdx.x] & dynamic[threadIdx.x];
    }"""
    out = zeros(8, "uint32")
    run(source, "f", 8, out, shared=32)
    assert (out.get() == 0xA5A5A5A5).all()
    with pytest.raises(Exception, match="cudaErrorInvalidValue"):
        run(source, "f", 8, out, shared=(48 << 10) + 1)


@installed
def test_a_barrier_that_not_all_reach_is_an_error() -> None:
    source = """extern "C" __global__ void f(int* out) {
      if (threadIdx.x == 40) __syncwarp();
      else __syncthreads();
    }"""
    with pytest.raises(Exception, match="cudaErrorLaunchFailure"):
        run(source, "f", 64, zeros(1))


@installed
def test_a_block_too_large_is_an_error() -> None:
    with pytest.raises(Exception, match="cudaErrorInvalidValue"):
        run('extern "C" __global__ void f(int* out) {}', "f", 1025, zeros(1))


@installed
def test_kernels_of_one_name_in_two_modules_are_two() -> None:
    out = zeros(1, "float64")
    for kind in ("int", "double"):
        text = f'extern "C" __global__ void f(double* out, {kind} a, {kind} b) {{ out[0] += a * b; }}'
        run(text, "f", 1, out, np.dtype(kind).type(2), np.dtype(kind).type(3))
    assert out.get().tolist() == [12.0]


@installed
def test_an_error_in_a_text_is_a_compile_error() -> None:
    from cupy.cuda.compiler import CompileException

    with pytest.raises(CompileException, match="missing"):
        run('extern "C" __global__ void f(int* out) { out[0] = missing; }', "f", 1, zeros(1))


# -- streams, capture and counts -----------------------------------------------------------------------------


@installed
def test_counts() -> None:
    import cupy

    x = cupy.asarray(np.ones((4, 4)))
    z = x @ x
    with counted() as counts:
        y = x @ x + 1
        cupy.copyto(z, y)
        cupy.asarray(np.ones(3))
        y.get()
    assert (counts.launches, counts.gemms, counts.copies_on_device) == (1, 1, 1)
    assert (counts.copies_in, counts.copies_out, counts.graph_launches) == (1, 1, 0)
    assert counts.waits >= 1


@installed
def test_captured_work_is_done_at_each_launch_and_only_then() -> None:
    import cupy

    x = cupy.zeros(3)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        cupy.add(x, 1, out=x)
        stream.begin_capture()
        cupy.add(x, 1, out=x)
        graph = stream.end_capture()
    assert x.get().tolist() == [1.0] * 3
    with counted() as counts:
        for _ in range(2):
            graph.launch(stream)
    assert x.get().tolist() == [3.0] * 3
    assert (counts.graph_launches, counts.launches) == (2, 0)


@installed
def test_a_wait_spoils_a_capture() -> None:
    import cupy

    x = cupy.zeros(3)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(Exception, match="cudaErrorStreamCaptureUnsupported"):
            stream.synchronize()
        with pytest.raises(Exception, match="cudaErrorStreamCaptureInvalidated"):
            stream.end_capture()
        assert cupy.add(x, 1).get().tolist() == [1.0] * 3  # done at once again


@installed
def test_two_devices() -> None:
    import cupy

    with cupy.cuda.Device(1):
        x = cupy.arange(3)
        assert x.device.id == 1
    y = cupy.asarray(x)
    assert y.device.id == 0
    assert y.get().tolist() == [0, 1, 2]
    with pytest.raises(Exception, match="cudaErrorInvalidDevice"):
        cupy.cuda.Device(2).use()


# -- faults --------------------------------------------------------------------------------------------------


@installed
def test_memory_runs_out() -> None:
    import cupy

    with simulated(memory_limit=1 << 20), pytest.raises(cupy.cuda.memory.OutOfMemoryError):
        cupy.zeros(1 << 20)
    assert cupy.zeros(1 << 20).size


@installed
def test_a_device_goes_away() -> None:
    import cupy

    x = cupy.ones(3)
    calls: list[Callable[[], Any]] = [lambda: x + 1, x.get, lambda: cupy.cuda.Device().synchronize()]
    for call in calls:
        with simulated(fault=46), pytest.raises(Exception, match="cudaErrorDevicesUnavailable"):
            call()
    assert x.get().tolist() == [1.0] * 3


# -- requirements --------------------------------------------------------------------------------------------

CASES: list[tuple[tuple[Any, str, Any], str]] = [
    ((platform, "machine", lambda: "arm64"), "x86-64 Linux, not on arm64 linux"),
    ((sys, "platform", "darwin"), "x86-64 Linux, not on x86_64 darwin"),
    ((shutil, "which", lambda name: None), r"g\+\+ is not installed: .*apt-get install g\+\+"),
    ((importlib.util, "find_spec", lambda name: None), r"CuPy is not installed: pip install 'tapegrad\["),
    ((requirements, "_header_folders", list), r"CUDA's headers are not installed.*: pip install 'tapegrad\["),
]


def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all that is asked for, except CUDA's headers."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)


@pytest.mark.parametrize(("what", "message"), CASES)
def test_what_is_missing_is_said(what: tuple[Any, str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    monkeypatch.setattr(*what)
    with pytest.raises(Unavailable, match=f"the stand-in for CUDA cannot run: .*{message}"):
        requirements.check()


def test_cupy_imported_before_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    monkeypatch.setitem(sys.modules, "cupy", requirements)
    with pytest.raises(Unavailable, match="CuPy is imported already: install the stand-in first"):
        requirements.check()


@pytest.mark.parametrize("compiler", [None, "#!/bin/sh\necho 'unknown option' >&2\nexit 1"])
def test_the_plugin_ends_pytest_with_the_reason(compiler: str | None, tmp_path: Path) -> None:
    """A machine with no compiler, or with one that cannot do it."""
    if compiler is not None:
        (tmp_path / "g++").write_text(compiler)
        (tmp_path / "g++").chmod(0o755)
    command = [sys.executable, "-m", "pytest", "-p", "cuda_stand_in", str(TESTS / "test_cuda_stand_in.py")]
    environment = {"PATH": str(tmp_path), "PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "the stand-in for CUDA cannot run: " in done.stderr
    if compiler is not None and importlib.util.find_spec("cupy") is not None:
        assert re.search(r"g\+\+ fails.*unknown option|CUDA's headers are not", done.stderr)


def test_tests_that_are_skipped_name_the_plugin() -> None:
    code = "import places; print(places.why_not('cuda'))"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(TESTS.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=TESTS, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith("python -m pytest -p cuda_stand_in"), done.stderr


def test_counting_without_it_names_the_plugin() -> None:
    code = "import cuda_stand_in; cuda_stand_in.counters()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=TESTS, capture_output=True, text=True, check=False, timeout=600
    )
    assert "RuntimeError: CUDA is not replaced: run the tests with `python -m pytest -p cuda_stand_in`" in done.stderr


@installed
def test_a_function_that_is_not_there_is_named() -> None:
    code = "import cuda_stand_in as c; c.install(); import cupy; cupy.cuda.runtime.deviceGetDefaultMemPool(0)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=TESTS, capture_output=True, text=True, check=False, timeout=600
    )
    assert "[cuda_stand_in] cudaDeviceGetDefaultMemPool is not there" in done.stderr
    assert "cudaErrorNotSupported" in done.stderr
