"""Integers between bounds: products of random words and the number of integers.

Of 64 random bits x and n integers, the result is floor(x n / 2^64). So the probability of each integer is 1 / n, but
for 2^-64 at most: a share of n / 2^64, which is 2^-32 at most. Beyond 2^32 integers 128 bits are taken.
"""

from __future__ import annotations

from typing import Any

from tapegrad._engine.bound import bound
from tapegrad._engine.dispatch import backend_of
from tapegrad._engine.dtypes import DTYPES, as_dtype
from tapegrad._engine.tensor import Tensor
from tapegrad.backends._philox import Words
from tapegrad.ops.conversion import astype, index_dtype


def between(rng: Any, shape: tuple[int, ...], low: Any, high: Any, dtype: Any) -> Tensor:
    to = as_dtype(dtype or index_dtype(rng.key._array))
    like = rng.key._array
    a = Words(bound.tensor_namespace, DTYPES.__getitem__, backend_of[type(like)].philox_dtype(like))
    words = rng._draw("bits", (*shape, 2), "uint32")
    high_word, low_word = a.of(words[..., 1]), a.of(words[..., 0])
    span = a.constant(high - low, words)
    (whole, rest), (carried, _) = a.multiply(high_word, span), a.multiply(low_word, span)
    carry, _ = a.add(rest, carried)
    out: Tensor = astype(whole + carry, to) + low
    return out
