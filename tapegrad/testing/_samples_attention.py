"""Samples of attention and of rotary positions."""

from __future__ import annotations

from typing import Any

import numpy as np

import tapegrad as tg
from tapegrad.testing._sample import Sample, normal, reseed


def _attention(q: Any, k: Any, v: Any, mask: Any = 0.0) -> Any:
    s = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]) + mask
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True) @ v


def _causal(q: Any, k: Any, v: Any) -> Any:
    rows, columns = np.arange(q.shape[-2])[:, None], np.arange(k.shape[-2])
    hidden = (columns > rows) | (rows - columns >= 2)
    return _attention(q, np.repeat(k, 2, axis=-3), np.repeat(v, 2, axis=-3), np.where(hidden, -np.inf, 0.0))


def _rope(x: Any) -> Any:
    c = x[..., :2] + 1j * x[..., 2:]
    c = c * np.exp(1j * np.arange(x.shape[-2])[:, None] * 10000.0 ** (-np.arange(2) / 2))
    return np.concatenate([c.real, c.imag], axis=-1)


def samples() -> list[Sample]:
    """Return the rows of this family."""
    reseed(32)
    q, k, v = normal(2, 3, 4), normal(2, 5, 4), normal(2, 5, 3)
    return [
        Sample("attention", lambda q, k, v, m: tg.attention(q, k, v, mask=m), _attention, (q, k, v, normal(3, 5))),
        Sample(
            "attention causal",
            lambda q, k, v: tg.attention(q, k, v, causal=True, window=2),
            _causal,
            (normal(4, 3, 2), normal(2, 3, 2), normal(2, 3, 2)),
        ),
        Sample("rope", tg.rope, _rope, (normal(2, 3, 4),)),
    ]
