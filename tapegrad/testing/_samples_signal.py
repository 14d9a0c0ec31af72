"""Samples of signal processing: convolutions by products and by transforms, short-time Fourier transforms."""

from __future__ import annotations

from typing import Any

import numpy as np

import tapegrad as tg
from tapegrad.testing._sample import Sample, complexes, normal, reseed


def _full(x: Any, y: Any) -> Any:
    """Return the full convolution of two arrays, term by term."""
    shape = tuple(m + n - 1 for m, n in zip(x.shape, y.shape, strict=True))
    out = np.zeros(shape, np.result_type(x, y))
    for place in np.ndindex(y.shape):
        out[tuple(slice(i, i + n) for i, n in zip(place, x.shape, strict=True))] += x * y[place]
    return out


def _frames(x: Any, size: int, hop: int, window: Any) -> Any:
    """Return the transforms of frames, one by one."""
    starts = range(0, x.shape[-1] - size + 1, hop)
    transform = np.fft.fft if x.dtype.kind == "c" else np.fft.rfft
    return np.stack([transform(x[..., i : i + size] * window) for i in starts], axis=-1)


def samples() -> list[Sample]:
    """Return the rows of this family."""
    reseed(43)
    window = np.hanning(7)[1:-1]
    tall, wide = normal(3, 5), normal(2, 2)
    return [
        Sample("convolve", tg.signal.convolve, np.convolve, (normal(6), normal(3))),
        Sample(
            "convolve same complex",
            lambda x, y: tg.signal.convolve(x, y, mode="same"),
            lambda x, y: _full(x, y)[:3, :5],
            (tall + 1j * normal(3, 5), wide),
        ),
        Sample(
            "correlate valid",
            lambda x, y: tg.signal.correlate(x, y, mode="valid"),
            lambda x, y: _full(x, np.flip(y))[1:3, 1:5],
            (tall, wide),
        ),
        Sample("fftconvolve", tg.signal.fftconvolve, np.convolve, (normal(6), normal(3))),
        Sample(
            "fftconvolve complex valid",
            lambda x, y: tg.signal.fftconvolve(x, y, mode="valid"),
            lambda x, y: _full(x, y)[1:3, 1:5],
            (complexes(3, 5), complexes(2, 2)),
        ),
        Sample(
            "stft",
            lambda x, w: tg.signal.stft(x, 5, hop=2, window=w, center=False),
            lambda x, w: _frames(x, 5, 2, w),
            (normal(2, 9), window),
        ),
        Sample(
            "istft",
            lambda z: tg.signal.istft(z, 4, hop=2),
            lambda z: _inverse(z, 4, 2),
            (complexes(2, 3, 4),),
        ),
    ]


def _inverse(z: Any, size: int, hop: int) -> Any:
    """Return the mean of the overlapping frames of transforms, without the halves at the ends."""
    frames = np.fft.irfft(z, n=size, axis=-2)
    n = (z.shape[-1] - 1) * hop + size
    total, count = np.zeros((*z.shape[:-2], n)), np.zeros(n)
    for i in range(z.shape[-1]):
        total[..., i * hop : i * hop + size] += frames[..., i]
        count[i * hop : i * hop + size] += 1
    return (total / count)[..., size // 2 : n - size // 2]
