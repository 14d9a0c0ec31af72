"""Functions that CuPy lacks, or computes otherwise than NumPy and the generated kernels do.

Each is one kernel that reads no value on the host, so that it may be part of a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import array_api_compat.cupy as compat
import cupy
import cupyx.scipy.special
import numpy as np

from tapegrad.backends._cupy.codegen.cuda_types import HELPERS

Array = Any

# -- elementwise functions of the standard -------------------------------------------------------------------

# NumPy's rules for infinities; the sign of 0 is 0.
_complex_sign = cupy.ElementwiseKernel(
    "T x",
    "T y",
    """
    auto re = x.real(), im = x.imag(), size = hypot(re, im);
    if (isinf(size)) {
        if (isinf(re) && isinf(im)) y = T(CUDART_NAN, CUDART_NAN);
        else y = isinf(re) ? T(copysign(decltype(re)(1), re), 0) : T(0, copysign(decltype(re)(1), im));
    } else {
        y = size == 0 ? T(0, 0) : T(re / size, im / size);
    }
    """,
    "tg_complex_sign",
)


def sign(x: Array, /) -> Array:
    """Return the sign of real numbers and x / abs(x) of complex ones; that of a NaN is NaN."""
    return _complex_sign(x) if x.dtype.kind == "c" else cupy.sign(x)


def power(x1: Any, x2: Any, /) -> Array:
    """Return x1 ** x2; ValueError for integers to one negative power, which NumPy refuses and CuPy rounds to 0."""
    if type(x2) is int and x2 < 0 and x1.dtype.kind in "iub":
        raise ValueError("Integers to negative integer powers are not allowed.")
    return cupy.power(x1, x2)


def _like_numpy(name: str, of_floats: str, of_integers: str) -> Callable[[Any, Any], Array]:
    """Return a function of two real operands that rounds as NumPy's does, by helpers of the generated kernels."""

    @cache
    def kernel(dtype: np.dtype[Any]) -> Any:
        value = "float" if dtype == np.float16 else "T"
        text = f"z = (T){of_floats if dtype.kind == 'f' else of_integers}<{value}>(({value})x, ({value})y)"
        return cupy.ElementwiseKernel("T x, T y", "T z", text, f"tg_{name}_{dtype.name}", preamble=HELPERS)

    def call(x1: Any, x2: Any, /) -> Array:
        dtype = np.result_type(*[getattr(x, "dtype", x) for x in (x1, x2)])
        dtype = np.dtype(np.int8) if dtype.kind == "b" else dtype
        return kernel(dtype)(*[x.astype(dtype, copy=False) if hasattr(x, "dtype") else x for x in (x1, x2)])

    return call


# CuPy's are floor(x1 / x2), whose quotient is rounded first, and x1 - x2 * floor(x1 / x2).
floor_divide = _like_numpy("floor_divide", "tg_fdiv", "tg_idiv")
remainder = _like_numpy("remainder", "tg_fmod", "tg_imod")
# C++ leaves shifts by the width of the type or more undefined; NumPy shifts all bits out.
left_shift = _like_numpy("bitwise_left_shift", "", "tg_shl")
right_shift = _like_numpy("bitwise_right_shift", "", "tg_shr")


_sigmoid = cupy.ElementwiseKernel("T x", "T y", "y = T(1) / (T(1) + exp(-x))", "tg_sigmoid")
_sigmoid_of_half = cupy.ElementwiseKernel("T x", "T y", "y = 1.0f / (1.0f + exp(-(float)x))", "tg_sigmoid_of_half")


def sigmoid(x: Array, /) -> Array:
    """Return 1 / (1 + exp(-x)); where exp(-x) is infinite that is 0, as it should be."""
    kind = x.dtype.char
    if kind in "eE":  # float16 and bfloat16
        return _sigmoid_of_half(x)
    return _sigmoid(x if kind in "fdFD" else x.astype(np.float64))


# By cosh beside its zeros; further out, where it overflows, by e = exp(-2 abs(x)).
tanh_slope_of_complex = cupy.ElementwiseKernel(
    "T x",
    "T y",
    """
    T z = x.real() < 0 ? -x : x;
    if (z.real() < 1) {
      T sech = T(1) / cosh(z);
      y = sech * sech;
    } else {
      T e = exp(T(-2) * z);
      y = T(4) * e / (T(1) + e) / (T(1) + e);
    }
    """,
    "tg_tanh_slope",
)


def reshape(x: Array, /, shape: tuple[int, ...], *, copy: bool | None = None) -> Array:
    """Return an array in another shape, without the frames that array_api_compat puts around it."""
    return x.reshape(shape) if copy is None else compat.reshape(x, shape, copy=copy)


def permute_dims(x: Array, /, axes: tuple[int, ...]) -> Array:
    """Return an array with its axes in another order, without these frames."""
    return x.transpose(axes)


def full(shape: Any, fill_value: Any, *, dtype: Any = None) -> Array:
    """Return an array of one value; zeros are set without a kernel."""
    if dtype is not None and type(fill_value) in (bool, int, float) and repr(fill_value) in ("False", "0", "0.0"):
        return cupy.zeros(shape, dtype)
    return cupy.full(shape, fill_value, dtype)


def asarray(obj: Any, /, **options: Any) -> Array:
    """Return an array of an object; a zero keeps its sign, which CuPy loses where it clears memory."""
    if type(obj) in (float, complex) and not obj:
        return full((), obj, dtype=options.get("dtype"))
    return compat.asarray(obj, **options)


def in_place(function: Callable[[Array, Any], Array]) -> Callable[[Array, Any], Array]:
    """Return a function as one that updates its first operand; TypeError if the result has another dtype."""

    def update(x: Array, other: Any) -> Array:
        out = function(x, other)
        if out.dtype != x.dtype:
            raise TypeError(f"{out.dtype} does not fit {x.dtype}")
        return out

    return update


def linspace(start: Any, stop: Any, /, num: int, *, dtype: Any = None, endpoint: bool = True, **options: Any) -> Array:
    """Return evenly spaced numbers, between complex ends as well."""
    if not (isinstance(start, complex) or isinstance(stop, complex)):
        return cupy.linspace(start, stop, num, dtype=dtype, endpoint=endpoint, **options)
    start, stop = complex(start), complex(stop)
    out = cupy.empty((num,), dtype)
    for part, first, last in ((out.real, start.real, stop.real), (out.imag, start.imag, stop.imag)):
        part[...] = cupy.linspace(first, last, num, endpoint=endpoint)
    return out


# -- special functions ---------------------------------------------------------------------------------------

_BESSEL = r"""
template <class T> __device__ T tg_scaled_bessel(T x, int order, T near) {
    T a = fabs(x);
    if (a < 50) return exp(-a) * near;
    // DLMF 10.40.1: the series in 1 / x of exp(-x) I(x) sqrt(2 pi x), whose terms fall below 1e-16 here.
    T term = 1, total = 1;
    for (int k = 1; k < 12; ++k) {
        term *= ((2 * k - 1) * (2 * k - 1) - 4 * order) / (8 * k * a);
        total += term;
    }
    T out = total * (T)0.398942280401432677939946059934381868 / sqrt(a);
    return order && x < 0 ? -out : out;
}
"""
_LOGARITHMS = r"""
template <class T> __device__ T tg_logit(T x) {
    if (x < (T)0.3 || x > (T)0.65) return log(x / (1 - x));
    T s = 2 * (x - (T)0.5);  // near its zero
    return log1p(s) - log1p(-s);
}
template <class T> __device__ T tg_xlog1py(T x, T y) { return x == 0 && y == y ? (T)0 : x * log1p(y); }
template <class T> __device__ T tg_rel_entr(T x, T y) {
    if (x != x || y != y) return x + y;
    if (x == 0 && y >= 0) return 0;
    if (!(x > 0 && y > 0)) return (T)CUDART_INF;
    if (fabs(x - y) < (T)0.5 * y) return x * log1p((x - y) / y);
    return x * (log(x) - log(y));
}
"""
_SINC = r"""
template <class T> __device__ T tg_sinc(T x) {
    x *= (T)3.14159265358979323846264338327950288;
    return x == 0 ? (T)1 : sin(x) / x;
}
"""


def _floating(name: str, operands: str, form: str, preamble: str) -> Callable[..., Array]:
    """Return a special function of real operands, whose kernel computes `form` in single or double precision.

    As in SciPy, half precision is widened to single, integers to double.
    """
    kernel = cupy.ElementwiseKernel(operands, "T z", f"z = {form}", f"tg_special_{name}", preamble=preamble)

    def call(*args: Any) -> Array:
        dtype = np.result_type(*[getattr(x, "dtype", x) for x in args])
        if dtype.kind == "c":
            return getattr(cupyx.scipy.special, name)(*args)
        dtype = np.result_type(dtype, np.float32) if dtype.kind == "f" else np.dtype(np.float64)
        return kernel(*[x.astype(dtype, copy=False) if hasattr(x, "dtype") else x for x in args])

    return call


SPECIAL = {
    # CuPy's overflow beyond x = 713, in single precision 88.
    "i0e": _floating("i0e", "T x", "tg_scaled_bessel<T>(x, 0, fabs(x) < 50 ? cyl_bessel_i0(x) : (T)0)", _BESSEL),
    "i1e": _floating("i1e", "T x", "tg_scaled_bessel<T>(x, 1, fabs(x) < 50 ? cyl_bessel_i1(x) : (T)0)", _BESSEL),
    # CuPy's has 6 digits near 1/2.
    "logit": _floating("logit", "T x", "tg_logit<T>(x)", _LOGARITHMS),
    # CuPy's is x log(x / y), whose quotient overflows.
    "rel_entr": _floating("rel_entr", "T x, T y", "tg_rel_entr<T>(x, y)", _LOGARITHMS),
    # CuPy's are 1 and 0 for a NaN.
    "sinc": _floating("sinc", "T x", "tg_sinc<T>(x)", _SINC),
    "xlog1py": _floating("xlog1py", "T x, T y", "tg_xlog1py<T>(x, y)", _LOGARITHMS),
}

# -- linear algebra ------------------------------------------------------------------------------------------


def solve(a: Array, b: Array, /) -> Array:
    """Return x of a x = b; leading axes broadcast, as those of CuPy's do not."""
    if b.ndim > 1 and a.shape[:-2] != b.shape[:-2]:
        lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        a = cupy.broadcast_to(a, (*lead, *a.shape[-2:]))
        b = cupy.broadcast_to(b, (*lead, *b.shape[-2:]))
    return cupy.linalg.solve(a, b)


# -- writing at indices --------------------------------------------------------------------------------------

_ATOMIC = frozenset(("int32", "int64", "uint32", "uint64", "float16", "float32", "float64"))


def add_at(array: Array, key: tuple[Any, ...], value: Array) -> None:
    """Add at integer indices, repeated ones as often as they are there; complex numbers by their parts."""
    name = array.dtype.name
    if array.dtype.kind == "c":
        add_at(array.real, key, value.real)
        add_at(array.imag, key, value.imag)
    elif name in _ATOMIC:
        cupy.add.at(array, key, value)
    else:  # CUDA has no atomic addition for these; int32 wraps as they do when it is cast back
        wide = array.astype("int32")
        cupy.add.at(wide, key, value.astype("int32"))
        array[...] = wide.astype(array.dtype)


def put_where(array: Array, key: tuple[Any, ...], value: Array) -> None:
    """Write a value that broadcasts where a mask holds, the only array of a key."""
    before, mask = next((n, i) for n, i in enumerate(key) if hasattr(i, "shape"))
    rest = array.ndim - mask.ndim - before
    cupy.copyto(array, value, where=mask.reshape((1,) * before + mask.shape + (1,) * rest))
