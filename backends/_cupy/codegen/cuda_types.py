"""Dtypes in generated CUDA: their types in memory and in arithmetic, and their literals.

float16 and bfloat16 are computed in float and rounded after each operation, as NumPy does. The text uses no header, so
that it compiles quickly.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np

try:
    import ml_dtypes
except ImportError:
    BFLOAT16: Any = None  # no array has it
else:
    BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class CType(NamedTuple):
    """memory: the type of an element in an array; value: the type to compute with; kind: "f", "d", "i", "u" or "b".

    load, store, rounded: how a value is made of an element, an element of a value, and a value to be one that an
    element can hold ("{}" stands for the text of the first).
    """

    memory: str
    value: str
    kind: str
    load: str = "{}"
    store: str = "{}"
    rounded: str = "{}"


# Halves are kept as their bits, and computed as floats; booleans are bytes in memory.
TYPES: dict[str, CType] = {
    "float16": CType("unsigned short", "float", "f", "tg_h2f({})", "tg_f2h({})", "tg_h2f(tg_f2h({}))"),
    "bfloat16": CType("unsigned short", "float", "f", "tg_b2f({})", "tg_f2b({})", "tg_b2f(tg_f2b({}))"),
    "float32": CType("float", "float", "f"),
    "float64": CType("double", "double", "d"),
    "bool": CType("unsigned char", "bool", "b", "({} != 0)", "(unsigned char)({})"),
    "int8": CType("signed char", "signed char", "i"),
    "int16": CType("short", "short", "i"),
    "int32": CType("int", "int", "i"),
    "int64": CType("long long", "long long", "i"),
    "uint8": CType("unsigned char", "unsigned char", "u"),
    "uint16": CType("unsigned short", "unsigned short", "u"),
    "uint32": CType("unsigned int", "unsigned int", "u"),
    "uint64": CType("unsigned long long", "unsigned long long", "u"),
}

# No contraction to fused multiply-adds: a fused kernel rounds as its operations do one by one.
OPTIONS = ("-std=c++17", "--fmad=false")

# Functions of the text, in this order:
# - conversions of halves by the hardware's instructions, and of bfloat16 by a rounding to even of the upper 16 bits;
# - infinities and NaN by their bits, as NVRTC has no <math.h>;
# - packs of elements for accesses of up to 16 bytes;
# - maximum and minimum that pass NaN on, as NumPy's do;
# - integers: powers by squaring, division towards minus infinity, and 0 where C leaves the result open;
# - floats: `%` and `//` with the sign of the divisor, as Python has them;
# - shuffles among the threads of a warp, and one step of an online softmax (Milakov and Gimelshein, arXiv:1805.02867).
HELPERS = r"""
#define TG_FN __device__ __forceinline__
TG_FN float tg_h2f(unsigned short b) { float f; asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(b)); return f; }
TG_FN unsigned short tg_f2h(float f) { unsigned short b; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(b) : "f"(f)); return b; }
TG_FN unsigned short tg_d2h(double f) { unsigned short b; asm("cvt.rn.f16.f64 %0, %1;" : "=h"(b) : "d"(f)); return b; }
TG_FN float tg_bits2f(unsigned int b) { return __uint_as_float(b); }
TG_FN unsigned int tg_f2bits(float f) { return __float_as_uint(f); }
TG_FN double tg_bits2d(unsigned long long b) { return __longlong_as_double((long long)b); }
#define TG_INF_f tg_bits2f(0x7f800000u)
#define TG_NAN_f tg_bits2f(0x7fc00000u)
#define TG_INF_d tg_bits2d(0x7ff0000000000000ull)
#define TG_NAN_d tg_bits2d(0x7ff8000000000000ull)
TG_FN float tg_b2f(unsigned short b) { return tg_bits2f((unsigned int)b << 16); }
TG_FN unsigned short tg_f2b(float f) {
  if (f != f) return 0x7fc0;
  unsigned int b = tg_f2bits(f);
  return (unsigned short)((b + 0x7fffu + ((b >> 16) & 1u)) >> 16);
}
#define TG_EACH(w, n) _Pragma("unroll") for (int w = 0; w < n; ++w)
template <class T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) tg_pack { T v[N]; };
template <class T> TG_FN T tg_max(T a, T b) { return (a >= b || a != a) ? a : b; }
template <class T> TG_FN T tg_min(T a, T b) { return (a <= b || a != a) ? a : b; }
TG_FN bool tg_max(bool a, bool b) { return a || b; }
TG_FN bool tg_min(bool a, bool b) { return a && b; }
template <class T> TG_FN T tg_sign(T a) { return a != a ? a : (T)((a > (T)0) - (a < (T)0)); }
template <class T> TG_FN T tg_ipow(T a, T b) {
  if (b < (T)0) return a == (T)1 ? (T)1 : a == (T)-1 ? ((b & 1) ? a : (T)1) : (T)0;
  T r = 1;
  for (; b > (T)0; b >>= 1) { if (b & 1) r *= a; a *= a; }
  return r;
}
template <class T> TG_FN T tg_idiv(T a, T b) {
  if (b == (T)0) return 0;
  if (b == (T)-1 && (T)-1 < (T)0) return (T)(0 - a);
  T q = a / b;
  return (T)(q - ((a % b != 0) && ((a < (T)0) != (b < (T)0))));
}
template <class T> TG_FN T tg_imod(T a, T b) {
  if (b == (T)0 || (b == (T)-1 && (T)-1 < (T)0)) return 0;
  T r = a % b;
  return (r != 0 && ((r < (T)0) != (b < (T)0))) ? (T)(r + b) : r;
}
template <class T> TG_FN T tg_fmod(T a, T b) {
  T r = fmod(a, b);
  if (b == (T)0 || r != r) return r;
  if (r == (T)0) return copysign((T)0, b);
  return ((b < (T)0) != (r < (T)0)) ? r + b : r;
}
template <class T> TG_FN T tg_fdiv(T a, T b) {
  if (b == (T)0) return a / b;
  T r = fmod(a, b);
  T q = (a - r) / b;
  if (r != (T)0 && ((b < (T)0) != (r < (T)0))) q -= (T)1;
  if (q == (T)0) return copysign((T)0, a / b);
  T f = floor(q);
  return (q - f > (T)0.5) ? f + (T)1 : f;
}
template <class T> TG_FN T tg_square(T a) { return a * a; }
template <class T> TG_FN T tg_logaddexp(T a, T b) {
  if (a == b) return a + (T)0.693147180559945309417232121458176568;
  T t = a - b;
  if (t > (T)0) return a + log1p(exp(-t));
  return t <= (T)0 ? b + log1p(exp(t)) : t;
}
template <class T> TG_FN T tg_shl(T a, T b) { return (unsigned long long)b < 8 * sizeof(T) ? (T)(a << b) : (T)0; }
template <class T> TG_FN T tg_shr(T a, T b) {
  return (unsigned long long)b < 8 * sizeof(T) ? (T)(a >> b) : (T)(a < (T)0 ? -1 : 0);
}
template <class T> TG_FN T tg_shfl(T a, int lanes, int width) { return __shfl_xor_sync(0xffffffffu, a, lanes, width); }
template <class T> TG_FN T tg_rescale(T m, T top) { return m == top ? (T)1 : exp(m - top); }
template <class T> TG_FN void tg_online(T& m, T& s, T n, T t) {
  T top = tg_max<T>(m, n);
  s = s * tg_rescale<T>(m, top) + t * tg_rescale<T>(n, top);
  m = top;
}
TG_FN bool tg_shfl(bool a, int lanes, int width) { return __shfl_xor_sync(0xffffffffu, (int)a, lanes, width) != 0; }
"""


def result_type(*operands: Any) -> Any:
    """Return the dtype of arrays, dtypes and Python numbers together.

    bfloat16 holds integers of 8 bits, and beside float16 and integers of 16 bits it gives float32.
    """
    dtypes = [getattr(x, "dtype", x) for x in operands]
    others = [x for x in dtypes if x is not BFLOAT16]
    if len(others) == len(dtypes):
        return np.result_type(*dtypes)
    dtype = np.result_type(np.float16, *others)  # which gives way to the others as bfloat16 does, but for itself
    if dtype != np.float16:
        return dtype
    return np.dtype(np.float32) if any(x == np.float16 for x in others) else BFLOAT16


@cache  # NumPy makes the name of a dtype anew each time
def ctype(dtype: Any) -> CType | None:
    """Return how a dtype looks in CUDA, None for those that no kernel is generated for."""
    return TYPES.get(np.dtype(dtype).name)


def c_type(dtype: Any) -> CType:
    """Return how a dtype that kernels are generated for looks in CUDA."""
    kind = ctype(dtype)
    assert kind is not None, dtype
    return kind


def literal(value: Any, dtype: Any) -> str:
    """Return a Python number as a C literal that has, exactly, the value it has in a dtype; raises OverflowError."""
    kind = TYPES[np.dtype(dtype).name]
    if kind.kind == "b":
        return "true" if value else "false"
    if kind.kind in "iu":
        n = int(np.asarray(value, dtype))
        if n == -(2**63):
            return "(-9223372036854775807ll - 1)"
        return f"(({kind.value}){n}{'ull' if kind.kind == 'u' else 'll'})"
    # `repr` of the rounded number has the shortest digits that give it back.
    with np.errstate(over="ignore"):
        x = float(np.asarray(value, dtype))
    if math.isnan(x):
        return f"TG_NAN_{kind.kind}"
    if math.isinf(x):
        return f"TG_INF_{kind.kind}" if x > 0 else f"(-TG_INF_{kind.kind})"
    text = repr(x) + ("f" if kind.kind == "f" else "")
    return f"({text})" if text.startswith("-") else text


def converted(text: str, source: Any, target: Any) -> str:
    """Return a value of one dtype as one of another, as `astype` does."""
    source, target = np.dtype(source), np.dtype(target)
    if source == target:
        return text
    a, b = ctype(source), ctype(target)
    assert a is not None
    assert b is not None
    # C leaves conversions of floats out of range open: through a wider integer they wrap, as on NumPy's machines.
    if b.kind == "b":
        return f"({text} != ({a.value})0)"
    if target.name == "float16" and a.kind != "f":
        return f"tg_h2f(tg_d2h((double)({text})))"
    if b.kind == "u" and a.kind in "fd" and b.memory != "unsigned long long":
        return f"(({b.value})(long long)({text}))"  # a negative float wraps, as on NumPy
    if b.kind == "i" and a.kind in "fd" and b.memory in ("signed char", "short"):
        return f"(({b.value})(int)({text}))"
    cast = f"(({b.value})({text}))"
    return b.rounded.format(cast)
