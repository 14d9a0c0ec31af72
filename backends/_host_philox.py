"""Random numbers of a key and a counter on the host, by NumPy's own Philox4x64-10."""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import prod
from threading import local
from typing import Any

import numpy as np

from tapegrad.backends import _philox
from tapegrad.backends._array import Array

# NumPy lacks bfloat16, whose numbers are then given in float32.
_NUMPY = _philox.Words(np, lambda name: np.dtype("float32" if name == "bfloat16" else name), "uint32")
_LITTLE = sys.byteorder == "little"
_LONG = np.dtype("<u8")
_CHUNK = 1 << 14
_MOST = (1 << 64) - 1
_UNUSED = np.zeros(4, np.uint64)


class _Own(local):
    """A bit generator of each thread, whose key and counter are set for each draw."""

    def __init__(self) -> None:
        self.bits = np.random.Philox(0)
        self.numbers = np.random.Generator(self.bits)


_own = _Own()


def _as_longs(words: Array) -> Array:
    """Return words, the lowest first, as integers of 64 bits."""
    if not words.flags.c_contiguous or not _LITTLE:
        words = np.ascontiguousarray(words, "<u4")
    return words.view(_LONG) if _LITTLE else words.view(_LONG).astype(np.uint64)


def _set(key: Array, count: Array) -> _Own:
    """Set this thread's generator to a key and a counter."""
    own = _own
    own.bits.state = {
        "bit_generator": "Philox",
        "state": {"counter": count, "key": key},
        "buffer": _UNUSED,
        "buffer_pos": 4,
        "has_uint32": 0,
        "uinteger": 0,
    }
    return own


def _words(key: Array, count: Array, n: int) -> Array:
    """Return n words of one key and counter."""
    found = _set(key, count).bits.random_raw(-(-n // 2))
    return found.astype("<u8", copy=False).view("<u4")[:n].astype(np.uint32, copy=False)


def draw(key: Array, count: Array, form: str, shape: tuple[int, ...], dtype: str, least: int = 0) -> Array:
    """Return random numbers of a form in a shape, behind the leading axes of key and counter; see `_philox.draw`."""
    n = prod(shape)
    key, count = _as_longs(key), _as_longs(count)
    if key.ndim == count.ndim == 1:
        if form == "uniform" and dtype in ("float32", "float64"):
            return _set(key, count).numbers.random(shape, np.dtype(dtype))
        found = _words(key, count, _philox.words_of(form, n, dtype))
    else:
        found = _of_several(key, count, _philox.words_of(form, n, dtype))
    if form == "normal" and n > _CHUNK and found.ndim == 1:
        return _normals(found, n, dtype).reshape(shape)
    out = _philox.numbers_of(_NUMPY, found, form, n, dtype, least)
    return out.reshape((*out.shape[:-1], *shape))


def _normals(found: Array, n: int, dtype: str) -> Array:
    """Return words as n normal numbers, a part at a time, which stays in the cache."""
    out = np.empty(n, _NUMPY.native(dtype))
    half = len(found) // 2
    words = half // ((n + 1) // 2)  # for a number
    for start in range(0, half, _CHUNK * words):
        parts = [found[at : at + _CHUNK * words] for at in (start, half + start)]
        pair = _philox.pair_of_normals(_NUMPY, parts[0][: half - start], parts[1], dtype)
        for at, x in zip((start // words, half // words + start // words), pair, strict=True):
            out[at : at + len(x)] = x[: n - at]
    return out


def _of_several(key: Array, count: Array, n: int) -> Array:
    """Return n words of each of several keys and counters: by one call, where each counter follows the one before."""
    lead = np.broadcast_shapes(key.shape[:-1], count.shape[:-1])
    blocks = -(-n // _philox.BLOCK)
    if key.ndim == 1 and count.size and blocks:
        counts = count.reshape(-1, 4)
        low = counts[:, 0]
        if low[-1] >= low[0] and (counts[:, 1:] == counts[0, 1:]).all() and (low[1:] - low[:-1] == blocks).all():
            found = _words(key, counts[0], len(counts) * blocks * _philox.BLOCK)
            return found.reshape(*lead, blocks * _philox.BLOCK)[..., :n]
    keys = np.broadcast_to(key, (*lead, 2)).reshape(-1, 2)
    counts = np.broadcast_to(count, (*lead, 4)).reshape(-1, 4)
    out = np.empty((len(keys), n), np.uint32)
    for row, k, c in zip(out, keys, counts, strict=True):
        row[:] = _words(k, c, n)
    return out.reshape(*lead, n)


def skip(count: Array, shape: tuple[int, ...], start: int, step: int) -> Array:
    """Return counters in a shape behind the leading axes of the given one; see `_philox.skip`."""
    longs = _as_longs(count)
    if not shape and longs.ndim == 1 and (low := int(longs[0]) + start) <= _MOST:  # the frequent case
        out = longs.copy()
        out[0] = low
        return out.astype(_LONG, copy=False).view("<u4").astype(np.uint32, copy=False)
    more = np.arange(prod(shape), dtype=np.uint64) * np.uint64(step) + np.uint64(start)
    out = np.repeat(longs[..., None, :], len(more), axis=-2)
    out[..., 0] += more
    carry = out[..., 0] < more
    for i in (1, 2, 3):
        if not carry.any():
            break
        out[..., i] += carry
        carry &= out[..., i] == 0
    return (
        out.astype("<u8", copy=False).view("<u4").astype(np.uint32, copy=False).reshape((*count.shape[:-1], *shape, 8))
    )


def through_host(backend: Any, function: Callable[..., Array], arrays: tuple[Array, ...], *static: Any) -> Array:
    """Return the result of a function here for arrays of another library, on the device of the first one."""
    out = function(*map(backend.to_host, arrays), *static)
    return backend.from_host(out, arrays[0].device)
