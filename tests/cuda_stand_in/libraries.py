"""Libraries that are replaced by NumPy and SciPy, behind CuPy's own checks of arguments: cuSOLVER, cuFFT, sorting."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

LINALG = ("solve", "inv", "det", "slogdet", "svd", "eigh", "eigvalsh", "qr", "cholesky", "eig", "eigvals")
SQUARE = frozenset(LINALG) - {"svd", "qr"}
FFT = ("fft", "ifft", "fft2", "ifft2", "fftn", "ifftn", "rfft", "irfft", "rfftn", "irfftn", "hfft", "ihfft")


def replace() -> None:
    """Put these functions in the place of CuPy's."""
    import cupy
    from cupy.cuda import thrust
    from cupy.linalg import _decomposition

    for name in LINALG:
        if hasattr(cupy.linalg, name):
            setattr(cupy.linalg, name, _linalg(name))
    _decomposition.svd = cupy.linalg.svd  # pinv and matrix_rank call it there
    for name in FFT:
        setattr(cupy.fft, name, _on_host(getattr(np.fft, name)))
    thrust.sort, thrust.argsort, thrust.lexsort = _sort, _argsort, _lexsort


def host_view(x: Any) -> Any:
    """Return the values of a CuPy array, read where they are (device memory is host memory); others as they are."""
    import cupy

    if not isinstance(x, cupy.ndarray):
        return x
    out = np.empty(x.shape, x.dtype)
    if x.size:
        base = _memory(x.data.mem.ptr, (x.data.mem.size,), np.dtype(np.uint8))
        out[...] = np.ndarray(x.shape, x.dtype, base, x.data.ptr - x.data.mem.ptr, x.strides)
    return out


def on_device(x: Any) -> Any:
    """Return a value of NumPy's as a new CuPy array."""
    import cupy

    out = cupy.empty(np.shape(x), np.asarray(x).dtype)
    if out.size:
        _memory(out.data.ptr, out.shape, out.dtype)[...] = x
    return out


def _memory(pointer: int, shape: Sequence[int], dtype: Any) -> np.ndarray[Any, Any]:
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64))
    return np.frombuffer((ctypes.c_char * (count * dtype.itemsize)).from_address(pointer), dtype).reshape(shape)


def _on_host(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        out = function(*map(host_view, args), **{k: host_view(v) for k, v in kwargs.items()})
        return tuple(map(on_device, out)) if isinstance(out, tuple) else on_device(out)

    return call


# -- linear algebra ----------------------------------------------------------------------------------------


def _linalg(name: str) -> Callable[..., Any]:
    function = _on_host(_FUNCTIONS.get(name, getattr(np.linalg, name)))

    def call(*args: Any, **kwargs: Any) -> Any:
        import cupy

        stream = cupy.cuda.get_current_stream()
        if stream.ptr and stream.is_capturing():
            raise NotImplementedError("calling cuSOLVER API during stream capture is currently unsupported")
        _check(name, args)
        return function(*args, **kwargs)

    return call


def _check(name: str, args: Sequence[Any]) -> None:
    """Check operands as cupy.linalg does before it calls cuSOLVER."""
    import cupy
    from cupy.linalg import _util

    a, *rest = args
    _util._assert_cupy_array(*[x for x in args if isinstance(x, cupy.ndarray)])
    _util._assert_stacked_2d(a)
    if name in SQUARE:
        _util._assert_stacked_square(a)
    if name == "solve":
        (b,) = rest
        if b.ndim == 1 and a.shape[-1] != b.size:
            raise ValueError("a must have (..., M, M) shape and b must have (M,) for one-dimensional b")
        if b.ndim != 1 and a.shape[:-1] != b.shape[:-1]:
            raise ValueError("a must have (..., M, M) shape and b must have (..., M, K) for multidimensional b")
    arrays = [x for x in args if isinstance(x, cupy.ndarray)]
    _util.linalg_common_type(*arrays, reject_float16=name not in ("eigh", "eigvalsh"))


def _solve(a: Any, b: Any) -> Any:
    if b.ndim == 1:
        b = np.broadcast_to(b, a.shape[:-1])[..., None]
        return _solve(a, b)[..., 0]
    return _nan_if_singular(np.linalg.solve, a, b)


def _nan_if_singular(function: Callable[..., Any], a: Any, *b: Any) -> Any:
    """Return NaN where NumPy raises: CuPy does not look at cuSOLVER's status unless it is told to."""
    try:
        return function(a, *b)
    except np.linalg.LinAlgError:
        return np.full((b or (a,))[0].shape, np.nan, np.result_type(a, *b))


def _det(a: Any) -> Any:
    sign, log = np.linalg.slogdet(a)
    return sign * np.exp(log)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "solve": _solve,
    "det": _det,
    "inv": lambda a: _nan_if_singular(np.linalg.inv, a),
    "cholesky": lambda a: _nan_if_singular(np.linalg.cholesky, a),
}


# -- sorting, on raw pointers as CuPy calls Thrust -----------------------------------------------------------


def _sort(dtype: Any, data: int, keys: int, shape: Sequence[int]) -> None:
    _memory(data, shape, dtype).sort(axis=-1, kind="stable")


def _argsort(dtype: Any, indices: int, data: int, keys: int, shape: Sequence[int]) -> None:
    values = _memory(data, shape, dtype)
    _memory(indices, shape, np.int64)[...] = np.argsort(values, axis=-1, kind="stable")
    values.sort(axis=-1, kind="stable")


def _lexsort(dtype: Any, indices: int, keys: int, k: int, n: int) -> None:
    _memory(indices, (n,), np.int64)[...] = np.lexsort(_memory(keys, (k, n), dtype))


# -- functions of CUDA's math library -----------------------------------------------------------------------


def _special(which: int, x: float) -> float:
    """Compute the functions that device.h numbers."""
    from scipy import special as s

    with np.errstate(all="ignore"):
        return float((s.erfinv, s.erfcinv, s.ndtr, s.ndtri, s.erfcx, s.i0, s.i1)[which](x))


special = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int, ctypes.c_double)(_special)
