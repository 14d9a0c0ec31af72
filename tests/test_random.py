"""Random numbers: their bits, their distributions, their state, under every transform."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.random import Generator, bits

# Random123's kat_vectors for philox4x64 with 10 rounds: counter, key and block.
ONES = 2**64 - 1
KNOWN = [
    ([0] * 4, [0] * 2, ["16554d9eca36314c", "db20fe9d672d0fdc", "d7e772cee186176b", "7e68b68aec7ba23b"]),
    ([ONES] * 4, [ONES] * 2, ["87b092c3013fe90b", "438c3c67be8d0224", "9cc7d7c69cd777b6", "a09caebf594f0ba0"]),
    (
        [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89],
        [0x452821E638D01377, 0xBE5466CF34E90C6C],
        ["a528f45403e61d95", "38c72dbd566e9788", "a5a1610e72fd18b5", "57bd43b5e52b7fe6"],
    ),
]


def as_words(numbers: list[int]) -> np.ndarray[Any, Any]:
    """Return numbers of 64 bits as words of 32, the lowest first."""
    return np.asarray([(x >> s) & 0xFFFFFFFF for x in numbers for s in (0, 32)], np.uint32)


def before(counter: list[int]) -> list[int]:
    """Return the counter before one: a draw begins with the block after its counter."""
    n = (sum(x << 64 * i for i, x in enumerate(counter)) - 1) % 2**256
    return [(n >> 64 * i) & ONES for i in range(4)]


@pytest.mark.parametrize("case", range(3))
def test_known_answers(xp: Any, case: int) -> None:
    counter, key, block = KNOWN[case]
    words = [tg.asarray(as_words(x), device=xp.device) for x in (key, before(counter))]
    found = bits(words[0], words[1], 8)
    assert found.dtype is tg.uint32
    assert np.asarray(found.tolist(), np.uint32).tolist() == as_words([int(x, 16) for x in block]).tolist()


def test_first_numbers_are_those_of_numpy(xp: Any) -> None:
    theirs = np.random.Generator(np.random.Philox(2026)).random(11, dtype=np.float32)
    assert Generator(2026, device=xp.device).uniform((11,), dtype="float32").tolist() == theirs.tolist()
