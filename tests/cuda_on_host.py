"""Generated CUDA run on the CPU: g++ compiles it behind a few lines that stand for what CUDA has built in.

The threads of a block are fibers that take turns at each barrier and shuffle, so that kernels with shared memory run as
on a GPU, one thread at a time. What this cannot show is how fast they are, and what a GPU's own libm gives.
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

SHIM = r"""
#include <cmath>
#include <cstring>
#include <cstdio>
#include <cstdlib>
#include <ucontext.h>
#include <utility>
#include <vector>
using std::copysign; using std::fabs; using std::floor; using std::fmod; using std::exp; using std::log1p;
#define TG_HOST
#define TG_FN static inline
#define __global__
#define __shared__ static
#define __launch_bounds__(n)
static struct { int x; } threadIdx, blockIdx;
static float tg_h2f(unsigned short b) { _Float16 h; std::memcpy(&h, &b, 2); return (float)h; }
static unsigned short tg_f2h(float f) { _Float16 h = (_Float16)f; unsigned short b; std::memcpy(&b, &h, 2); return b; }
static unsigned short tg_d2h(double f) { _Float16 h = (_Float16)f; unsigned short b; std::memcpy(&b, &h, 2); return b; }
static float tg_bits2f(unsigned int b) { float f; std::memcpy(&f, &b, 4); return f; }
static unsigned int tg_f2bits(float f) { unsigned int b; std::memcpy(&b, &f, 4); return b; }
static double tg_bits2d(unsigned long long b) { double f; std::memcpy(&f, &b, 8); return f; }
static ucontext_t scheduler, fibers[1024];
static std::vector<char> stacks[1024];
static bool done[1024];
static int current;
static double exchange[1024];
static void yield_() { int t = current; swapcontext(&fibers[t], &scheduler); current = t; threadIdx.x = t; }
static void __syncthreads() { yield_(); }
template <class T> static T __shfl_xor_sync(unsigned int, T a, int lanes, int) {
  std::memcpy(&exchange[current], &a, sizeof(T)); yield_();
  T b; std::memcpy(&b, &exchange[current ^ lanes], sizeof(T)); yield_();
  return b;
}
static void (*function)(void**, void*);
template <size_t... I> static void call_(void* f, void** a, std::index_sequence<I...>) {
  ((void (*)(decltype((void)I, (void*)0)...))f)(a[I]...);
}
template <int N> static void call_n(void* f, int n, void** a) {
  if (n == N) call_(f, a, std::make_index_sequence<N>());
  else if constexpr (N > 0) call_n<N - 1>(f, n, a);
}
static void* f_; static int n_; static void** a_;
static void fiber() { int t = current; call_n<60>(f_, n_, a_); done[t] = true; }
extern "C" int launch(void* f, int n, void** a, int grid, int block, int barriers) {
  for (int b = 0; b < grid; ++b) {
    blockIdx.x = b;
    if (!barriers) {
      for (int t = 0; t < block; ++t) { threadIdx.x = t; call_n<60>(f, n, a); }
      continue;
    }
    f_ = f; n_ = n; a_ = a;
    for (int t = 0; t < block; ++t) {
      if (stacks[t].empty()) stacks[t].resize(65536);
      getcontext(&fibers[t]);
      fibers[t].uc_stack.ss_sp = stacks[t].data(); fibers[t].uc_stack.ss_size = stacks[t].size();
      fibers[t].uc_link = &scheduler; done[t] = false;
      makecontext(&fibers[t], fiber, 0);
    }
    for (bool more = true; more;) {
      int ended = 0;
      for (int t = 0; t < block; ++t) {
        current = t; threadIdx.x = t;
        swapcontext(&scheduler, &fibers[t]);
        ended += done[t];
      }
      if (ended && ended != block) return 1;  /* some wait at a barrier that others do not reach */
      more = !ended;
    }
  }
  return 0;
}
"""


def compiler() -> str | None:
    """Return the path of g++, None where there is none."""
    return shutil.which("g++")


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="tapegrad-cuda-"))


_lock = Lock()


def compiled(source: str) -> ctypes.CDLL:
    """Return the library of a text of kernels."""
    with _lock:
        return _compiled(source)


@cache
def _compiled(source: str) -> ctypes.CDLL:
    name = _folder() / hashlib.sha1(source.encode()).hexdigest()
    name.with_suffix(".cpp").write_text(SHIM + source)
    options = ["-std=c++17", "-O0", "-w", "-fwrapv", "-ffp-contract=off", "-shared", "-fPIC"]
    command = ["g++", *options, str(name.with_suffix(".cpp")), "-o", str(name.with_suffix(".so"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000] + source
    return ctypes.CDLL(str(name.with_suffix(".so")))


class HostKernel:
    """A kernel, called as a `cupy.RawKernel` is, with NumPy arrays."""

    def __init__(self, source: str, name: str) -> None:
        self.library, self.name = compiled(source), name
        text = source[source.index(f" {name}(") :]
        text = text[: text.find('extern "C"')] if 'extern "C"' in text else text
        self.barriers = "__syncthreads" in text or "tg_shfl" in text

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
        pointers = (ctypes.c_void_p * len(args))(*[a.ctypes.data for a in args])
        f = ctypes.cast(getattr(self.library, self.name), ctypes.c_void_p)
        assert all(isinstance(a, np.ndarray) for a in args)
        assert self.library.launch(f, len(args), pointers, grid[0], block[0], int(self.barriers)) == 0
