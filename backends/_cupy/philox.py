"""Random numbers of a key and a counter on CuPy: Philox4x64-10 and numbers of its bits, in one kernel each.

See `tapegrad.backends._philox`, whose numbers these are. A thread computes a block of 8 words, or for normal numbers 8
pairs of words.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import cupy
import numpy as np

from tapegrad.backends._array import Array
from tapegrad.backends._cupy.codegen.cuda_types import BFLOAT16
from tapegrad.backends._philox import BLOCK, DIGITS, MASK

_PREAMBLE = r"""
__device__ inline void tg_advance(unsigned long long* c, unsigned long long n) {
    c[0] += n;
    if (c[0] < n) for (int i = 1; i < 4 && !++c[i]; ++i);
}
__device__ inline void tg_philox(const unsigned long long* count, const unsigned long long* key, long long place,
                                 unsigned int* words) {
    unsigned long long c[4] = {count[0], count[1], count[2], count[3]}, k0 = key[0], k1 = key[1];
    tg_advance(c, (unsigned long long)place + 1);
    for (int round = 0; round < 10; ++round) {
        unsigned long long high0 = __umul64hi(0xD2E7470EE14C6C93ull, c[0]), low0 = 0xD2E7470EE14C6C93ull * c[0];
        unsigned long long high1 = __umul64hi(0xCA5A826395121157ull, c[2]), low1 = 0xCA5A826395121157ull * c[2];
        c[0] = high1 ^ c[1] ^ k0;
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ k1;
        c[3] = low0;
        k0 += 0x9E3779B97F4A7C15ull;
        k1 += 0xBB67AE8584CAA73Bull;
    }
    for (int i = 0; i < 4; ++i) {
        words[2 * i] = (unsigned int)c[i];
        words[2 * i + 1] = (unsigned int)(c[i] >> 32);
    }
}
__device__ inline double tg_joined(unsigned int low, unsigned int high) {
    return (double)(((unsigned long long)high << 21) | (low >> 11));
}
"""
# The number `lead` of several counters, and the number `b` of a block among those of one.
_BEGIN = r"""
    long long lead = i / units, b = i - lead * units;
    unsigned long long k[2], c[4];
    for (int j = 0; j < 2; ++j)
        k[j] = key[lead * key_step + 2 * j] | (unsigned long long)key[lead * key_step + 2 * j + 1] << 32;
    for (int j = 0; j < 4; ++j)
        c[j] = count[lead * count_step + 2 * j] | (unsigned long long)count[lead * count_step + 2 * j + 1] << 32;
"""
_WORDS = r"""
    unsigned int w[8];
    tg_philox(c, k, b, w);
    for (long long j = 0; j < PER; ++j) {
        long long at = b * PER + j;
        if (at < n) out[lead * n + at] = VALUE;
    }
"""
# Words of the radius are those of block b; words of the angle begin half of all words later, at any place of a block.
_NORMAL = r"""
    long long half = (n + 1) / 2, first = half * (8 / PER) + b * 8;
    unsigned int w[8], v[16];
    tg_philox(c, k, b, w);
    tg_philox(c, k, first / 8, v);
    if (first % 8) tg_philox(c, k, first / 8 + 1, v + 8);
    const unsigned int* a = v + first % 8;
    for (long long j = 0; j < PER; ++j) {
        long long at = b * PER + j;
        if (at >= half) break;
        REAL radius = sqrt((REAL)-2 * log(OPEN));
        REAL angle = ANGLE;
        REAL x = radius * cos(angle), y = radius * sin(angle);
        unsigned int octant = OCTANT;
        REAL p = octant & 1 ? y : x, q = octant & 1 ? x : y;
        out[lead * n + at] = (T)(octant & 2 ? -p : p);
        if (half + at < n) out[lead * n + half + at] = (T)(octant & 4 ? -q : q);
    }
"""
_SINGLE = {
    "open": "((float)w[j] + 0.5f) * 2.3283064365386963e-10f",
    "angle": "((float)(a[j] >> 3) + 0.5f) * 1.4629180792671596e-09f",
    "octant": "a[j]",
}
_DOUBLE = {
    "open": "(tg_joined(w[2 * j], w[2 * j + 1]) + 0.5) * 1.1102230246251565e-16",
    "angle": "(tg_joined(a[2 * j], a[2 * j + 1]) + 0.5) * 8.71967124502158e-17",
    "octant": "a[2 * j]",
}


@cache
def _kernel(form: str, dtype: str) -> Any:
    """Return the kernel of a form and a dtype."""
    double = dtype == "float64" and form in ("uniform", "open", "normal")
    texts, per = (_DOUBLE, 4) if double else (_SINGLE, 8)
    if form == "normal":
        body = _NORMAL.replace("OPEN", texts["open"]).replace("ANGLE", texts["angle"])
        body = body.replace("OCTANT", texts["octant"]).replace("REAL", "double" if double else "float")
    else:
        digits = DIGITS.get(dtype, 0)
        values = {
            "bits": "w[j]",
            "at least": "w[j] >= least",
            "open": f"(T)({texts['open']})",
            "uniform": "tg_joined(w[2 * j], w[2 * j + 1]) * 1.1102230246251565e-16"
            if double
            else f"(T)((float)(w[j] >> {32 - digits}) * {2.0**-digits!r}f)",
        }
        body = _WORDS.replace("VALUE", values[form])
    return cupy.ElementwiseKernel(
        "raw uint32 key, raw uint32 count, int64 key_step, int64 count_step, int64 units, int64 n, uint32 least",
        "raw T out",
        _BEGIN + body.replace("PER", str(per)),
        f"tg_{form.replace(' ', '_')}_{dtype}",
        preamble=_PREAMBLE,
    )


_skip = cupy.ElementwiseKernel(
    "raw uint32 count, int64 each, uint64 start, uint64 step",
    "raw uint32 out",
    r"""
    long long lead = i / each, b = i - lead * each;
    unsigned long long c[4];
    for (int j = 0; j < 4; ++j) c[j] = count[lead * 8 + 2 * j] | (unsigned long long)count[lead * 8 + 2 * j + 1] << 32;
    tg_advance(c, start + step * (unsigned long long)b);
    for (int j = 0; j < 8; ++j) out[i * 8 + j] = (unsigned int)(c[j / 2] >> 32 * (j % 2));
    """,
    "tg_skip",
    preamble=_PREAMBLE,
)
_dropped = cupy.ElementwiseKernel(
    "raw uint32 key, raw uint32 count, int64 key_step, int64 count_step, int64 units, int64 n, uint32 least, raw T x, "
    "float64 scale",
    "raw T out",
    _BEGIN
    + r"""
    unsigned int w[8];
    tg_philox(c, k, b, w);
    for (long long j = 0; j < 8; ++j) {
        long long at = lead * n + b * 8 + j;
        if (b * 8 + j < n) out[at] = w[j] >= least ? x[at] * (T)scale : (T)0;
    }
    """,
    "tg_dropped",
    preamble=_PREAMBLE,
)


def _lead_of(key: Array, count: Array) -> tuple[int, ...]:
    return np.broadcast_shapes(key.shape[:-1], count.shape[:-1])


def _words(array: Array, lead: tuple[int, ...]) -> tuple[Array, int]:
    """Return keys or counters, one after the other, and the step from one to the next, 0 where all share one."""
    if array.ndim == 1:
        return cupy.ascontiguousarray(array), 0
    return cupy.ascontiguousarray(cupy.broadcast_to(array, (*lead, array.shape[-1]))), array.shape[-1]


class Draw:
    """The function `draw` of the namespace, which a compiled program has write into memory of its own."""

    def __call__(
        self, key: Array, count: Array, form: str, shape: tuple[int, ...], dtype: str, least: int = 0
    ) -> Array:
        """Return random numbers of a form, see `tapegrad.backends._philox.draw`."""
        narrow = dtype == "bfloat16"
        native = np.dtype(np.float32 if narrow else dtype)
        out = cupy.empty((*_lead_of(key, count), *shape), native)
        self._fill(out, key, count, form, shape, native.name, least, DIGITS[dtype] if narrow else 0)
        return out.astype(BFLOAT16) if narrow else out

    def into(
        self,
        outs: list[Array],
        key: Array,
        count: Array,
        form: str,
        shape: tuple[int, ...],
        dtype: str,
        least: int = 0,
    ) -> None:
        """Write the numbers into an array."""
        (out,) = outs
        if out.flags.c_contiguous and dtype != "bfloat16":
            self._fill(out, key, count, form, shape, dtype, least)
        else:
            cupy.copyto(out, self(key, count, form, shape, dtype, least))

    @staticmethod
    def _fill(
        out: Array, key: Array, count: Array, form: str, shape: tuple[int, ...], dtype: str, least: int, digits: int = 0
    ) -> None:
        lead, n = _lead_of(key, count), prod(shape)
        key, key_step = _words(key, lead)
        count, count_step = _words(count, lead)
        per = 4 if dtype == "float64" and form in ("uniform", "open", "normal") else BLOCK
        units = -(-(-(-n // 2) if form == "normal" else n) // per)
        if units and prod(lead):
            kernel = _kernel(form, dtype)
            kernel(key, count, key_step, count_step, units, n, least, out, size=prod(lead) * units)
        if digits and form == "uniform":  # of float32: cut to those of bfloat16
            cupy.floor(out * 2.0**digits, out)
            out *= 2.0**-digits


def skip(count: Array, shape: tuple[int, ...], start: int, step: int) -> Array:
    """Return counters in a shape, advanced, see `tapegrad.backends._philox.skip`."""
    lead, each = count.shape[:-1], prod(shape)
    out = cupy.empty((*lead, *shape, BLOCK), np.uint32)
    size = prod(lead) * each
    if size:
        _skip(cupy.ascontiguousarray(count), each, start, step, out, size=size)
    return out


def dropped(x: Array, key: Array, count: Array, shape: tuple[int, ...], least: int, scale: float) -> Array | None:
    """Return the result of `Backend.dropped` for real numbers of the mask's shape; None for others."""
    lead, n = _lead_of(key, count), prod(shape)
    if x.shape != (*lead, *shape) or x.dtype.kind != "f" or least > MASK:
        return None
    key, key_step = _words(key, lead)
    count, count_step = _words(count, lead)
    out = cupy.empty(x.shape, x.dtype)
    units = -(-n // BLOCK)
    if x.size:
        x = cupy.ascontiguousarray(x)
        _dropped(key, count, key_step, count_step, units, n, least, x, scale, out, size=prod(lead) * units)
    return out
