"""Samples of functions without a derivative: their values are checked like all others."""

from __future__ import annotations

from typing import Any

import numpy as np

import tapegrad as tg
from tapegrad.testing._sample import Sample, apart, integers, normal, reseed

_KINDS: dict[str, tuple[str, tuple[np.ndarray[Any, Any], ...]]] = {
    "real": ("ceil floor isfinite isinf isnan round signbit trunc", (apart(3, 4),)),
    "bits": ("bitwise_invert", (integers(8, 3, 4),)),
    "truth": ("logical_not", (normal(3, 4) > 0,)),
    "any": ("all any argmax argmin argsort count_nonzero", (apart(7),)),
    "order": ("equal greater greater_equal less less_equal not_equal", (integers(3, 3, 4) / 2, integers(3, 4) / 2)),
    "pair": ("floor_divide nextafter", (apart(3, 4), apart(4))),
    "pair of bits": (
        "bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor",
        (integers(8, 3, 4), integers(4, 4)),
    ),
    "pair of truths": ("logical_and logical_or logical_xor", (normal(3, 4) > 0, normal(4) > 0)),
}


def samples() -> list[Sample]:
    """Return the rows of this family."""
    reseed(2)
    rows = [
        Sample(name, getattr(tg, name), getattr(np, name), args, order=0)
        for names, args in _KINDS.values()
        for name in names.split()
    ]
    shape = (2, 3)
    made: dict[str, Any] = {
        "arange": lambda m: m.arange(1.0, 4.0, 0.5),
        "empty": lambda m: m.zeros_like(m.empty(shape)),
        "eye": lambda m: m.eye(2, 3, k=1),
        "ones": lambda m: m.ones(shape),
        "zeros": lambda m: m.zeros(shape),
    }
    like: dict[str, Any] = {
        "empty_like": lambda m, x: m.zeros_like(m.empty_like(x)),
        "nonzero": lambda m, x: m.nonzero(x > 0)[1],
        "ones_like": lambda m, x: m.ones_like(x),
        "zeros_like": lambda m, x: m.zeros_like(x),
    }
    rows += [Sample(n, lambda f=f: f(tg), lambda f=f: f(np), (), order=0) for n, f in made.items()]
    rows += [
        Sample(n, lambda x, f=f: f(tg, x), lambda x, f=f: f(np, x), (normal(*shape),), order=0) for n, f in like.items()
    ]
    labels = np.asarray([2, 0, 1])
    rows.append(Sample("one_hot", lambda i: tg.one_hot(i, 4), lambda i: np.eye(4)[i], (labels,), order=0))
    return rows
