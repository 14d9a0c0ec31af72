"""Samples of convolution, windows and resampling; their references are sums over windows, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

import tapegrad as tg
from tapegrad.testing._sample import Sample

HostArray = np.ndarray[Any, Any]


def _windows(x: HostArray, size: tuple[int, ...], stride: int, padding: int, value: float = 0.0) -> HostArray:
    """Return the windows over the last axes: (..., *places, *size)."""
    d = len(size)
    x = np.pad(x, [(0, 0)] * (x.ndim - d) + [(padding, padding)] * d, constant_values=value)
    places = [(n - k) // stride + 1 for n, k in zip(x.shape[-d:], size, strict=True)]
    out = np.empty((*x.shape[:-d], *places, *size), x.dtype)
    for at in product(*map(range, places)):
        key: Any = tuple([slice(i * stride, i * stride + k) for i, k in zip(at, size, strict=True)])
        place: Any = (..., *at, *(slice(None),) * d)
        out[place] = x[(..., *key)]
    return out


def _conv(x: HostArray, w: HostArray, b: HostArray, stride: int, padding: int, groups: int) -> HostArray:
    c = _windows(x, w.shape[2:], stride, padding)
    outs = []
    for o, weights in enumerate(w):
        first = o // (len(w) // groups) * w.shape[1]
        outs.append(np.einsum("nchwij,cij->nhw", c[:, first : first + w.shape[1]], weights) + b[o])
    return np.stack(outs, 1) if outs else np.empty((len(x), 0, *c.shape[2:4]))


def _conv_transpose(x: HostArray, w: HostArray, stride: int) -> HostArray:
    out = np.zeros((x.shape[0], w.shape[1], (x.shape[2] - 1) * stride + w.shape[2]), x.dtype)
    for i in range(x.shape[2]):
        out[:, :, i * stride : i * stride + w.shape[2]] += np.einsum("nc,cok->nok", x[:, :, i], w)
    return out


def _fold(x: HostArray) -> HostArray:
    """Fold columns of windows of 2 into an axis of 4."""
    c = x.reshape(*x.shape[:-2], x.shape[-2] // 2, 2, 3)
    out = np.zeros((*c.shape[:-2], 4), x.dtype)
    out[..., :3] += c[..., 0, :]
    out[..., 1:] += c[..., 1, :]
    return out


def _unfold(x: HostArray) -> HostArray:
    c = _windows(x, (2, 2), 2, 1)
    n, channels, h, w = c.shape[:4]
    return np.moveaxis(c, (4, 5), (2, 3)).reshape(n, channels * 4, h * w)


def _linear(x: HostArray) -> HostArray:
    """Resample an axis of 3 to 5."""
    at = np.clip((np.arange(5) + 0.5) * 0.6 - 0.5, 0, 2)
    first = np.minimum(np.floor(at).astype(int), 1)
    return np.asarray(x[..., first] * (first + 1 - at) + x[..., first + 1] * (at - first))


def samples() -> list[Sample]:
    """Return the samples, with a generator of their own."""
    rng = np.random.default_rng(31)
    normal: Callable[..., HostArray] = lambda *shape: np.asarray(rng.standard_normal(shape))  # noqa: E731
    distinct = rng.permutation(np.arange(40) * 0.3 - 5.9).reshape(2, 2, 2, 5)
    return [
        Sample(
            "conv",
            lambda x, w, b: tg.conv(x, w, b, stride=2, padding=1, groups=2),
            lambda x, w, b: _conv(x, w, b, 2, 1, 2),
            (normal(2, 2, 4, 3), normal(4, 1, 3, 2), normal(4)),
        ),
        Sample(
            "conv_transpose",
            lambda x, w: tg.conv_transpose(x, w, stride=2),
            lambda x, w: _conv_transpose(x, w, 2),
            (normal(2, 2, 3), normal(2, 3, 3)),
        ),
        Sample("unfold", lambda x: tg.unfold(x, 2, stride=2, padding=1), _unfold, (normal(1, 2, 3, 4),)),
        Sample("fold", lambda x: tg.fold(x, (4,), 2), _fold, (normal(2, 4, 3),)),
        Sample(
            "max_pool",
            lambda x: tg.max_pool(x, (2, 2), stride=1, padding=1),
            lambda x: _windows(x, (2, 2), 1, 1, -np.inf).max((-2, -1)),
            (distinct,),
        ),
        Sample(
            "mean_pool",
            lambda x: tg.mean_pool(x, (2, 3), stride=1),
            lambda x: _windows(x, (2, 3), 1, 0).mean((-2, -1)),
            (normal(2, 3, 4),),
        ),
        Sample(
            "adaptive_max_pool",
            lambda x: tg.adaptive_max_pool(x, (3,)),
            lambda x: np.stack([x[..., :2].max(-1), x[..., 1:4].max(-1), x[..., 3:].max(-1)], -1),
            (distinct,),
        ),
        Sample(
            "adaptive_mean_pool",
            lambda x: tg.adaptive_mean_pool(x, (3,)),
            lambda x: np.stack([x[..., i].mean(-1) for i in ([0, 1], [1, 2, 3], [3, 4])], -1),
            (normal(2, 5),),
        ),
        Sample("pad", lambda x: tg.pad(x, ((1, 0), (2, 1))), lambda x: np.pad(x, ((1, 0), (2, 1))), (normal(2, 3),)),
        Sample(
            "pad reflect",
            lambda x: tg.pad(x, ((1, 0), (2, 1)), mode="reflect"),
            lambda x: np.pad(x, ((1, 0), (2, 1)), mode="reflect"),
            (normal(2, 3),),
        ),
        Sample("resize", lambda x: tg.resize(x, (5,), mode="linear"), _linear, (normal(2, 3),)),
    ]
