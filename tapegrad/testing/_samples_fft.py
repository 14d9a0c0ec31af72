"""Samples of Fourier transforms: real and complex values, odd and even lengths, cut and padded, all norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import tapegrad as tg
from tapegrad.testing._sample import Sample, complexes, normal, reseed

# Arguments of the transforms along one axis, and over many.
ONE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("", {}),
    ("ortho", {"norm": "ortho"}),
    ("forward axis", {"axis": 0, "norm": "forward"}),
    ("cut", {"n": 3}),
    ("cut even", {"n": 4, "axis": -1, "norm": "forward"}),
    ("padded", {"n": 8}),
    ("padded odd", {"n": 9, "axis": -2, "norm": "ortho"}),
    ("length-1", {"n": 1}),
)
MANY: tuple[tuple[str, dict[str, Any]], ...] = (
    ("", {}),
    ("ortho", {"axes": (0, 2), "norm": "ortho"}),
    ("forward reversed", {"axes": (-1, 0), "norm": "forward"}),
    ("cut and padded", {"s": (3, 2), "axes": (1, 2)}),
    ("padded and cut", {"s": (5, 2, 2), "axes": (2, 0, 1), "norm": "ortho"}),
    ("one axis", {"s": (5,), "axes": (0,)}),
)


def _both(name: str, options: dict[str, Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    f, reference = getattr(tg.fft, name), getattr(np.fft, name)
    return lambda x: f(x, **options), lambda x: reference(x, **options)


def samples() -> list[Sample]:
    """Return the rows of this family."""
    reseed(3)
    vector, matrix, cube = complexes(7), complexes(5, 6), complexes(2, 3, 4)
    rows = []
    for name in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft"):
        wants_real = name in ("rfft", "ihfft")
        for note, options in ONE:
            x = matrix.real if wants_real else matrix
            rows.append(Sample(f"{name} {note}".strip(), *_both(name, options), (x,)))
        rows.append(Sample(f"{name} odd", *_both(name, {}), (vector.real if wants_real else vector,)))
        if not wants_real:
            rows.append(Sample(f"{name} real", *_both(name, {"n": 5, "axis": 1}), (matrix.real,)))
    for name in ("fftn", "ifftn", "rfftn", "irfftn"):
        for note, options in MANY:
            x = cube.real if name == "rfftn" else cube
            rows.append(Sample(f"{name} {note}".strip(), *_both(name, options), (x,)))
    for name in ("fftshift", "ifftshift"):
        rows += [
            Sample(name, *_both(name, {}), (matrix,)),
            Sample(f"{name} axis", *_both(name, {"axes": 0}), (matrix.real,)),
            Sample(f"{name} axes", *_both(name, {"axes": (-1, 0)}), (normal(2, 3, 5),)),
        ]
    return rows
