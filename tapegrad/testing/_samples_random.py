"""Samples of operations that draw random numbers, from generators of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

import tapegrad as tg
from tapegrad.testing._sample import Sample, normal, reseed


def samples() -> list[Sample]:
    """Return the rows of this family."""
    reseed(11)
    return [
        Sample("dropout", lambda x: _dropout(x, 0.4), lambda x: _reference(x, 0.4), (normal(3, 4),)),
        Sample("dropout all", lambda x: _dropout(x, 1.0), np.zeros_like, (normal(3),)),
    ]


def _dropout(x: tg.Tensor, rate: float) -> tg.Tensor:
    return tg.dropout(x, rate, tg.random.Generator(5, device=x.device))


def _reference(x: np.ndarray[Any, Any], rate: float) -> np.ndarray[Any, Any]:
    words = np.random.Philox(5).random_raw(-(-x.size // 2)).view(np.uint32)[: x.size]
    return np.where(words.reshape(x.shape) >= round(rate * 2**32), x / (1 - rate), 0.0)
