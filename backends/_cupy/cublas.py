"""Products of matrices as cuBLAS calls: the call that a product is, from shapes and strides, made by ctypes.

CuPy copies transposed operands of batched products, has none in bfloat16, computes those in float16 slowly, and refuses
its own calls of cuBLAS while a stream is captured. Here every product of row-major arrays is one call, eager or
captured, and operands are read in place where cuBLAS can: it sees a row-major matrix as the transpose of a column-major
one. Eager and captured products are the same calls, so that they give the same bits.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import cache, lru_cache
from itertools import product as every
from typing import Any, NamedTuple

import numpy as np

from tapegrad.backends._cupy.codegen.cuda_types import result_type
from tapegrad.backends._settings import TF32

Ints = tuple[int, ...]


class Product(NamedTuple):
    """One call of cuBLAS: C = op(A) op(B) in column-major terms, where A is our right operand.

    m, n, k: of the call; transposed, ld, stride: of its A and B; ldc, stride_c: of C; batch: matrices one stride apart;
    places: where (A, B, C) of each such batch start, in elements.
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
    places: tuple[tuple[int, ...], ...]


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
    right, left = readable(b), readable(a)
    if right is None or left is None:
        return None
    # Steps of the leading axes of both operands, as axes of the result: zero where they broadcast.
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
    # The innermost of the merged axes is the batch of one call; each index of the others starts one at its place.
    if len(axes) == 1 and axes[0][2] == 0:  # all by one matrix: a product with more rows, if these are evenly apart
        length, apart = axes[0][:2]
        if m == 1 and not left[0] and apart >= max(k, 1):
            m, left, axes = length, (False, apart), []
        elif apart == m * (1 if left[0] else left[1]) and (not left[0] or left[1] >= m * length):
            m, axes = m * length, []
    batch, *inner = axes.pop() if axes else (1, 0, 0, m * n)
    places = tuple(
        tuple(sum(i * axis[j] for i, axis in zip(at, axes, strict=True)) for j in (2, 1, 3))
        for at in every(*[range(length) for length, *_ in axes])
    )
    return Product(n, m, k, (right[0], left[0]), (right[1], left[1]), (inner[1], inner[0]), n, inner[2], batch, places)


def readable(x: Matrix) -> tuple[bool, int] | None:
    """Return how cuBLAS reads a matrix in place: whether transposed, and by which ld; None if it must be copied."""
    if len(x.shape) == 1:
        return (False, x.strides[0]) if x.strides[0] > 0 else None
    # Rows that are contiguous, at any distance; or columns that are, which cuBLAS reads as the transpose.
    (rows, columns), (s0, s1) = x.shape[-2:], x.strides[-2:]
    if (s1 == 1 or columns == 1) and (s0 >= max(columns, 1) or rows == 1):
        return False, max(s0 if rows > 1 else columns, columns, 1)
    if (s0 == 1 or rows == 1) and (s1 >= max(rows, 1) or columns == 1):
        return True, max(s1 if columns > 1 else rows, rows, 1)
    return None


# Of each dtype: cudaDataType_t, cublasComputeType_t, and the type in which scale factors are passed.
# Half precision is added up in float32.
_FLOAT, _DOUBLE = 68, 70
_TYPES: dict[str, tuple[int, int, Any]] = {
    "float16": (2, _FLOAT, ctypes.c_float),
    "bfloat16": (14, _FLOAT, ctypes.c_float),
    "float32": (0, _FLOAT, ctypes.c_float),
    "float64": (1, _DOUBLE, ctypes.c_double),
    "complex64": (4, _FLOAT, ctypes.c_float * 2),
    "complex128": (5, _DOUBLE, ctypes.c_double * 2),
}
_FLOAT32, _FAST_TF32 = 0, 77
_DEFAULT_ALGORITHM = -1


class _Numbers(NamedTuple):
    """The arguments of a cuBLAS call that follow from the dtype."""

    type: int
    compute: int
    one: Any
    zero: Any
    itemsize: int


@cache
def _numbers(dtype: Any) -> _Numbers | None:
    if dtype.name not in _TYPES:
        return None
    kind, compute, number = _TYPES[dtype.name]
    one = number(1) if number in (ctypes.c_float, ctypes.c_double) else number(1, 0)
    return _Numbers(kind, compute, one, number(), dtype.itemsize)


def can_multiply(dtype: Any) -> bool:
    """Say whether there is a cuBLAS call for a dtype."""
    return getattr(dtype, "name", "") in _TYPES


def matrix_of(array: Any) -> Matrix:
    """Return shape and strides of an array."""
    size = array.itemsize
    return Matrix(array.shape, tuple([s // size for s in array.strides]))


class Cublas:
    """cuBLAS by ctypes, on CuPy's handle of the current device.

    captured: for calls that are captured. They need memory of their own, since graphs may run side by side, and fixed
    arrays of pointers. It has the size that cuBLAS takes by itself, so that it chooses the algorithms of eager calls.
    """

    def __init__(self, cupy: Any, path: str | None = None, captured: bool = True) -> None:
        self.cupy = cupy
        self.library = ctypes.CDLL(path or _path())
        p, i, n = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
        strided, by_pointers = self.library.cublasGemmStridedBatchedEx, self.library.cublasGemmBatchedEx
        strided.argtypes = [p, i, i, i, i, i, p, p, i, i, n, p, i, i, n, p, p, i, i, n, i, i, i]
        by_pointers.argtypes = [p, i, i, i, i, i, p, p, i, i, p, i, i, p, p, i, i, i, i, i]
        self.library.cublasSetStream_v2.argtypes = [p, p]
        self.library.cublasSetWorkspace_v2.argtypes = [p, p, ctypes.c_size_t]
        self.nbytes = _workspace(cupy) if captured else 0
        self.workspace = cupy.cuda.alloc(self.nbytes) if captured else None
        self._pointers: dict[Any, Any] | None = {} if captured else None

    def begin(self) -> int:
        """Have the calls that follow run on CuPy's current stream, in memory of ours; return the handle."""
        handle: int = self.cupy.cuda.device.get_cublas_handle()
        stream = self.cupy.cuda.get_current_stream().ptr
        _check(self.library.cublasSetStream_v2(handle, stream), "cublasSetStream")  # and cuBLAS's own memory
        if self.workspace is not None:
            status = self.library.cublasSetWorkspace_v2(handle, self.workspace.ptr, self.nbytes)
            _check(status, "cublasSetWorkspace")
        return handle

    def multiply(self, plan: Product, a: Any, b: Any, out: Any) -> None:
        """Write the product of two arrays, as planned from their strides, into a third, on CuPy's current stream."""
        if plan.m == plan.n == 1:
            self._dot(a, b, out)
            return
        pointers = self._pointers_of(plan, a, b, out) if len(plan.places) > 1 else None
        handle = self.begin()  # CuPy's own calls in between change stream and memory
        kind, compute, one, zero, _ = _numbers(a.dtype)  # type: ignore[misc]
        if kind == _FLOAT32 and TF32.get():
            compute = _FAST_TF32
        sizes = (handle, plan.transposed[0], plan.transposed[1], plan.m, plan.n, plan.k, ctypes.addressof(one))
        (ld_a, ld_b), (stride_a, stride_b), beta = plan.ld, plan.stride, ctypes.addressof(zero)
        if pointers is None:
            status = self.library.cublasGemmStridedBatchedEx(
                *sizes, b.data.ptr, kind, ld_a, stride_a, a.data.ptr, kind, ld_b, stride_b, beta,
                out.data.ptr, kind, plan.ldc, plan.stride_c, plan.batch, compute, _DEFAULT_ALGORITHM,
            )  # fmt: skip
            _check(status, "cublasGemmStridedBatchedEx")
            return
        row, count = pointers.strides[0], pointers.shape[1]
        first, second, third = (pointers.data.ptr + i * row for i in range(3))
        status = self.library.cublasGemmBatchedEx(
            *sizes, first, kind, ld_a, second, kind, ld_b, beta, third, kind, plan.ldc, count, compute,
            _DEFAULT_ALGORITHM,
        )  # fmt: skip
        _check(status, "cublasGemmBatchedEx")

    def _dot(self, a: Any, b: Any, out: Any) -> None:
        """Write products of a row and a column: sums that cuBLAS would leave to a single block of threads."""
        rows = a if a.ndim == 1 else a[..., 0, :]
        columns = b if b.ndim == 1 else b[..., 0]
        lead = out.shape[: out.ndim - (a.ndim > 1) - (b.ndim > 1)]
        _sum_of_products(self.cupy, a.dtype)(rows, columns, out.reshape(lead), axis=-1)

    def _pointers_of(self, plan: Product, a: Any, b: Any, out: Any) -> Any:
        """Return where each matrix lies, as an array on the device with a row for each operand."""
        starts = (b.data.ptr, a.data.ptr, out.data.ptr)
        known = None if self._pointers is None else self._pointers.get((plan, starts))
        if known is None:
            offsets = _offsets(self.cupy, plan, a.dtype.itemsize, self.cupy.cuda.runtime.getDevice())
            known = _addresses(self.cupy)(offsets, *starts, offsets.shape[1])
            if self._pointers is not None:
                self._pointers[plan, starts] = known
        return known


@lru_cache(maxsize=256)
def _offsets(cupy: Any, plan: Product, itemsize: int, device: int) -> Any:
    """Return how far from the start of its operand each matrix lies, in bytes, in an array on a device."""
    steps = np.arange(plan.batch)[:, None] * np.array([*plan.stride, plan.stride_c])
    offsets = (np.array(plan.places)[:, None] + steps).reshape(-1, 3).T * itemsize
    array = cupy.asarray(np.ascontiguousarray(offsets, np.int64))
    cupy.cuda.get_current_stream().synchronize()  # other streams read it later
    return array


@lru_cache(maxsize=1)
def _addresses(cupy: Any) -> Any:
    return cupy.ElementwiseKernel(
        "int64 offset, int64 first, int64 second, int64 third, int64 count",
        "int64 address",
        "address = offset + (i < count ? first : i < 2 * count ? second : third)",
        "tg_addresses",
    )


@cache
def _sum_of_products(cupy: Any, dtype: Any) -> Any:
    wide = "float" if dtype.itemsize == 2 else "T"
    return cupy.ReductionKernel(
        "T x, T y", "T z", f"({wide})x * ({wide})y", "a + b", "z = (T)a", "0", "tg_dot", reduce_type=wide
    )


class Matmul:
    """The product of CuPy arrays, as the standard has it."""

    def __init__(self, cupy: Any) -> None:
        self.cupy = cupy
        self._cublas: Cublas | None = None

    def __call__(self, x1: Any, x2: Any, /) -> Any:
        """Return the product of matrices, stacks of them, or vectors."""
        dtype = x1.dtype
        if dtype != x2.dtype:
            dtype = result_type(dtype, x2.dtype)
            x1, x2 = x1.astype(dtype, copy=False), x2.astype(dtype, copy=False)
        shape = _shape(x1.shape, x2.shape)
        if shape is None or _numbers(dtype) is None:
            return self.cupy.matmul(x1, x2)  # of integers; of shapes that do not fit, it says so
        out = self.cupy.empty(shape, dtype)
        if not out.size or not x1.size:
            out.fill(0)
            return out
        plan = _planned(matrix_of(x1), matrix_of(x2), shape)
        if plan is None:
            x1, x2 = (x if readable(matrix_of(x)) else self.cupy.array(x, order="C") for x in (x1, x2))
            plan = _planned(matrix_of(x1), matrix_of(x2), shape)
            assert plan is not None
        if self._cublas is None:
            self._cublas = Cublas(self.cupy, captured=False)
        self._cublas.multiply(plan, x1, x2, out)
        return out


def vecdot(matmul: Matmul, x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    """Return the dot products of vectors along an axis, counted from the end; complex x1 is conjugated."""
    cupy = matmul.cupy
    x1, x2 = cupy.moveaxis(x1, axis, -1), cupy.moveaxis(x2, axis, -1)
    x1 = cupy.conj(x1) if x1.dtype.kind == "c" else x1
    return matmul(x1[..., None, :], x2[..., None])[..., 0, 0]


_planned = lru_cache(maxsize=4096)(product_of)


@lru_cache(maxsize=4096)
def _shape(a: Ints, b: Ints) -> Ints | None:
    """Return the shape of a product, None where the operands do not fit."""
    if not a or not b or a[-1] != b[-2 if len(b) > 1 else 0]:
        return None
    try:
        lead = np.broadcast_shapes(a[:-2], b[:-2])
    except ValueError:
        return None
    return (*lead, *a[-2:-1], *(b[-1:] if len(b) > 1 else ()))


def _workspace(cupy: Any) -> int:
    """Return how many bytes cuBLAS takes by itself on the current device."""
    return (32 if int(cupy.cuda.Device().compute_capability) >= 90 else 4) << 20


def _check(status: int, name: str) -> None:
    if status:
        raise RuntimeError(f"{name} failed with cuBLAS status {status}")


def _path() -> str:
    """Return the path of cuBLAS: CuPy's, or else that of the system's loader."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        found = load_nvidia_dynamic_lib("cublas").abs_path
        if found:
            return str(found)
    except (ImportError, RuntimeError):
        pass
    found = ctypes.util.find_library("cublas")
    if found is None:
        raise RuntimeError("cuBLAS is not found: install CuPy with its CUDA libraries, pip install 'tapegrad[cuda13]'")
    return found
