"""Matrix products in captured work: which cuBLAS calls a product is, from shapes and strides, and the calls by ctypes.

CuPy refuses its own cuBLAS calls while a stream is captured, copies transposed operands of batched products, and
computes batched half precision slowly. Here every product of row-major arrays is one strided batched call (or a few),
read in place where cuBLAS can: it sees a row-major matrix as the transpose of a column-major one.

`product_of` is tested without a GPU; that `Cublas` calls what it means has never run on a device.
"""

from __future__ import annotations

import ctypes
import os
from itertools import product as every
from typing import Any, NamedTuple

Ints = tuple[int, ...]
WORKSPACE = 32 << 20  # bytes that cuBLAS asks for on Hopper


class Product(NamedTuple):
    """One cublasGemmStridedBatchedEx: C = op(A) op(B) in column-major terms, where A is our right operand.

    m, n, k: of the call; transposed, ld, stride: of its A and B; ldc, stride_c: of C; places: where (A, B, C) of each
    call start, in elements.
    """

    m: int
    n: int
    k: int
    transposed: tuple[bool, bool]
    ld: tuple[int, int]
    stride: tuple[int, int]
    ldc: int
    stride_c: int
    batch: int
    places: list[tuple[int, int, int]]


class Matrix(NamedTuple):
    """Shape and strides (in elements) of an operand."""

    shape: Ints
    strides: Ints


def product_of(a: Matrix, b: Matrix, out: Ints) -> Product | None:
    """Return the call that computes `a @ b` into a row-major array, None if an operand must be copied first."""
    if len(a.shape) == 1:
        a = Matrix((1, *a.shape), (a.shape[0], *a.strides))
        out = (*out[: len(b.shape) - 2], 1, *out[len(b.shape) - 2 :])
    if len(b.shape) == 1:
        b = Matrix((*b.shape, 1), (*b.strides, 1))
        out = (*out, 1)
    (m, k), n = a.shape[-2:], b.shape[-1]
    lead = out[:-2]
    right, left = _readable(b), _readable(a)
    if right is None or left is None:
        return None
    pads = [(0,) * (len(lead) - len(x.shape) + 2) for x in (a, b)]
    steps = [
        (*pad, *(0 if d == 1 else s for d, s in zip(x.shape[:-2], x.strides[:-2], strict=True)))
        for pad, x in zip(pads, (a, b), strict=True)
    ]
    axes: list[list[int]] = []  # (length, steps in a, b and out), outer axes first, merged where steps allow
    step = m * n
    for i in reversed(range(len(lead))):
        if lead[i] != 1:
            now = [lead[i], steps[0][i], steps[1][i], step]
            if axes and all(now[j] == axes[0][j] * axes[0][0] for j in (1, 2, 3)):
                axes[0][0] *= lead[i]
            else:
                axes.insert(0, now)
        step *= lead[i]
    if len(axes) == 1 and axes[0][2] == 0 and not left[0] and axes[0][1] == m * left[1] and m > 1:
        m, axes = m * axes[0][0], []  # one product with more rows
    batch, *inner = axes.pop() if axes else (1, 0, 0, m * n)
    places = [(0, 0, 0)]
    if axes:
        spots = every(*[range(length) for length, *_ in axes])
        places = [
            (sum(i * x[2] for i, x in zip(at, axes, strict=True)),
             sum(i * x[1] for i, x in zip(at, axes, strict=True)),
             sum(i * x[3] for i, x in zip(at, axes, strict=True)))
            for at in spots
        ]  # fmt: skip
    return Product(n, m, k, (right[0], left[0]), (right[1], left[1]), (inner[1], inner[0]), n, inner[2], batch, places)


def _readable(x: Matrix) -> tuple[bool, int] | None:
    """Return how cuBLAS reads a row-major matrix in place of its transpose: whether transposed, and by which ld."""
    (rows, columns), (s0, s1) = x.shape[-2:], x.strides[-2:]
    if (s1 == 1 or columns == 1) and (s0 >= max(columns, 1) or rows == 1):
        return False, max(s0 if rows > 1 else columns, columns, 1)
    if (s0 == 1 or rows == 1) and (s1 >= max(rows, 1) or columns == 1):
        return True, max(s1 if columns > 1 else rows, rows, 1)
    return None


# cudaDataType_t of operands and cublasComputeType_t; half precision is added up in float32.
_TYPES = {"float16": (2, 68), "bfloat16": (14, 68), "float32": (0, 68), "float64": (1, 70)}
_FAST_TF32 = 77
_DEFAULT_ALGORITHM = -1


def can_multiply(dtype: Any) -> bool:
    """Say whether there is a cuBLAS call for a dtype."""
    return getattr(dtype, "name", "") in _TYPES


class Cublas:
    """cuBLAS by ctypes, on a CuPy device's own handle; never run on a device."""

    def __init__(self, cupy: Any, path: str | None = None) -> None:
        self.cupy = cupy
        self.library = ctypes.CDLL(path or _path())
        self.workspace = cupy.cuda.alloc(WORKSPACE)
        call = self.library.cublasGemmStridedBatchedEx
        p, i, n = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
        call.argtypes = [p, i, i, i, i, i, p, p, i, i, n, p, i, i, n, p, p, i, i, n, i, i, i]
        self.library.cublasSetStream_v2.argtypes = [p, p]
        self.library.cublasSetWorkspace_v2.argtypes = [p, p, ctypes.c_size_t]
        self.tf32 = os.environ.get("CUPY_TF32") == "1"  # as CuPy's own products

    def begin(self) -> None:
        """Have the calls that follow run on CuPy's current stream, in memory of ours: once a stream."""
        handle = self.cupy.cuda.device.get_cublas_handle()
        stream = self.cupy.cuda.get_current_stream().ptr
        _check(self.library.cublasSetStream_v2(handle, stream), "cublasSetStream")
        _check(self.library.cublasSetWorkspace_v2(handle, self.workspace.ptr, WORKSPACE), "cublasSetWorkspace")

    def multiply(self, plan: Product, a: Any, b: Any, out: Any) -> None:
        """Write the product of two arrays, as planned from their strides, into a third, on CuPy's current stream."""
        self.begin()  # CuPy's own calls in between change both
        kind, compute = _TYPES[a.dtype.name]
        if kind == 0 and self.tf32:
            compute = _FAST_TF32
        number = ctypes.c_double if compute == 70 else ctypes.c_float
        one, zero = number(1), number(0)
        handle = self.cupy.cuda.device.get_cublas_handle()
        size = a.dtype.itemsize
        for first, second, to in plan.places:
            status = self.library.cublasGemmStridedBatchedEx(
                handle, int(plan.transposed[0]), int(plan.transposed[1]), plan.m, plan.n, plan.k, ctypes.byref(one),
                b.data.ptr + first * size, kind, plan.ld[0], plan.stride[0],
                a.data.ptr + second * size, kind, plan.ld[1], plan.stride[1], ctypes.byref(zero),
                out.data.ptr + to * size, kind, plan.ldc, plan.stride_c, plan.batch, compute, _DEFAULT_ALGORITHM,
            )  # fmt: skip
            _check(status, "cublasGemmStridedBatchedEx")


def _check(status: int, name: str) -> None:
    if status:
        raise RuntimeError(f"{name} failed with cuBLAS status {status}")


def _path() -> str:
    """Return the path of cuBLAS: that which CuPy found, or else what the system's loader finds."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        found = load_nvidia_dynamic_lib("cublas").abs_path
        if found:
            return str(found)
    except (ImportError, RuntimeError):
        pass
    import ctypes.util

    found = ctypes.util.find_library("cublas")
    if found is None:
        raise RuntimeError("cuBLAS is not found: install CuPy with its CUDA libraries, pip install 'tapegrad[cuda13]'")
    return found
