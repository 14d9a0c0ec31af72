"""Integers between bounds, as products of random numbers and the number of integers.

Of 64 random bits x and n integers, the result is floor(x n / 2^64). Its probabilities differ from 1 / n by less than
2^-64, which is at most a share of n / 2^64, below 2^-32. Where there are more than 2^32 integers, or the bounds are
Tensors, 128 bits are taken in place of 64.
"""

from __future__ import annotations

from typing import Any

from tapegrad._engine.bound import bound
from tapegrad._engine.dispatch import backend_of, checked_dtype, native_device
from tapegrad._engine.dtypes import DTYPES, DType, as_dtype, isdtype
from tapegrad._engine.tensor import Tensor
from tapegrad.backends._philox import MASK, Pair, Words
from tapegrad.ops.conversion import astype, index_dtype
from tapegrad.ops.dtypes import iinfo
from tapegrad.random.parameters import Source, check, given, shape_of


def integers(rng: Source, shape: Any, low: Any, high: Any, dtype: Any) -> Tensor:
    """Return integers from low up to and without high."""
    low, high = given("integers", rng, low, high)
    to = _dtype(rng, dtype, low, high)
    for p in (low, high):
        if type(p) is not int and not (isinstance(p, Tensor) and isdtype(p.dtype, "integral")):
            kind = p.dtype.name if isinstance(p, Tensor) else type(p).__name__
            raise TypeError(f"integers: low and high are integers, not {kind}")
    sizes = shape_of("integers", shape, low, high)
    check("integers", "low is less than high", lambda a, b: a < b, low, high)
    info = iinfo(to)
    if (type(low) is int and low < info.min) or (type(high) is int and high - 1 > info.max):
        raise ValueError(f"integers: {low} to {high} do not fit in {to.name}: pass another dtype")
    like = rng.key._array
    a = Words(bound.tensor_namespace, DTYPES.__getitem__, backend_of[type(like)].philox_dtype(native_device(like)))
    if type(low) is int and type(high) is int:
        number = _below(a, rng, sizes, high - low)
    else:
        number = _below_pair(a, rng, sizes, _difference(a, rng, low, high))
    return _moved(a, number, low, to)


def _dtype(rng: Source, dtype: Any, low: Any, high: Any) -> DType:
    like = rng.key._array
    if dtype is None:
        return as_dtype(index_dtype(like))
    found = as_dtype(dtype)
    if not isdtype(found, "integral"):
        raise TypeError(f"integers: dtype is an integer one, not {found.name}")
    checked_dtype(backend_of[type(like)], found, native_device(like))
    return found


def _words(a: Words, rng: Source, shape: tuple[int, ...], each: int) -> list[Any]:
    """Return each word of random numbers as an array, the lowest first."""
    words = rng.numbers("bits", (*shape, each), "uint32")
    return [a.of(words[..., i]) for i in range(each)]


def _below(a: Words, rng: Source, shape: tuple[int, ...], n: int) -> Pair:
    """Return numbers below a number."""
    if n > MASK + 1:
        words = _words(a, rng, shape, 4)
        high = (words[3], words[2])
        if n == 1 << 64:
            return high
        return _high_half(a, high, (words[1], words[0]), a.long((n >> 32, n & MASK), words[0]))
    low, high_word = _words(a, rng, shape, 2)
    if n == MASK + 1:
        return a.constant(0, low), high_word
    span = a.constant(n, low)
    (whole, rest), (carried, _) = a.multiply(high_word, span), a.multiply(low, span)
    carry, _ = a.add(rest, carried)
    return a.constant(0, low), whole + carry


def _below_pair(a: Words, rng: Source, shape: tuple[int, ...], n: Pair) -> Pair:
    """Return numbers below numbers of 64 bits."""
    words = _words(a, rng, shape, 4)
    return _high_half(a, (words[3], words[2]), (words[1], words[0]), n)


def _high_half(a: Words, high: Pair, low: Pair, n: Pair) -> Pair:
    """Return floor(x n / 2^128) of 128 bits x."""
    (whole, rest), (carried, _) = a.multiply_long(high, n), a.multiply_long(low, n)
    carry, middle = a.add(rest[1], carried[1])
    carry, _ = a.add(rest[0], carried[0], carry)
    return a.add_long(whole, (a.constant(0, middle), carry))


def _difference(a: Words, rng: Source, low: Any, high: Any) -> Pair:
    """Return high - low, of which one is a Tensor."""
    x, y = (a.of(p) if isinstance(p, Tensor) else _constant(a, p, rng.key) for p in (low, high))
    n = y - x
    return (n >> 32 & MASK, n & MASK) if a.wide else (a.constant(0, n), n)


def _constant(a: Words, value: int, like: Tensor) -> Any:
    """Return an integer, which may be negative, in the working dtype: modulo its range."""
    bits = 64 if a.wide else 32
    value %= 1 << bits
    signed = a.wide and iinfo(as_dtype(a.dtype)).min < 0
    return a.constant(value - (1 << bits) if signed and value >> bits - 1 else value, like)


def _moved(a: Words, number: Pair, low: Any, to: DType) -> Tensor:
    """Return low + a number in a dtype: sums and conversions are modulo the range, so that the result is right."""
    high, out = number
    if a.wide:
        out = (high << 32) | out
    if isinstance(low, Tensor):
        return astype(out + a.of(low), to)
    if low:
        out = out + _constant(a, low, out)
    return astype(out, to)
