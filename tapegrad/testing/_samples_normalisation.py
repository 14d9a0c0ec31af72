"""Samples of normalisation by mean and variance."""

from __future__ import annotations

from typing import Any

import numpy as np

import tapegrad as tg
from tapegrad.testing._sample import Sample, between, normal, reseed


def _normalised(x: Any, axis: Any, eps: float = 1e-5) -> Any:
    return (x - x.mean(axis=axis, keepdims=True)) / np.sqrt(x.var(axis=axis, keepdims=True) + eps)


def _group_norm(x: Any, w: Any, b: Any) -> Any:
    rows = _normalised(x.reshape(x.shape[0], 2, -1), -1)
    return rows.reshape(x.shape) * w[:, None] + b[:, None]


def _batch_norm_training(x: Any, w: Any) -> Any:
    mean, var = x.mean(axis=(0, 2), keepdims=True), x.var(axis=(0, 2), keepdims=True)
    return _normalised(x, (0, 2)) * w[:, None] + mean + var * var


def _all_of_training(x: Any, w: Any) -> Any:
    out, mean, var = tg.batch_norm_training(x, w)
    return out + tg.astype(tg.reshape(mean + var * var, (-1, 1)), out.dtype)


def samples() -> list[Sample]:
    """Return the rows of this family."""
    reseed(31)
    x, images = normal(3, 5), normal(2, 4, 3)
    w, b, channels = between(0.5, 2, 5), normal(5), between(0.5, 2, 4)
    return [
        Sample("layer_norm", tg.layer_norm, lambda x, w, b: _normalised(x, -1) * w + b, (x, w, b)),
        Sample("layer_norm axes", lambda x: tg.layer_norm(x, axis=(1, 2)), lambda x: _normalised(x, (1, 2)), (images,)),
        Sample(
            "rms_norm",
            lambda x, w: tg.rms_norm(x, w, eps=1e-3),
            lambda x, w: x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-3) * w,
            (x, w),
        ),
        Sample("group_norm", lambda x, w, b: tg.group_norm(x, 2, w, b), _group_norm, (images, channels, normal(4))),
        Sample(
            "batch_norm",
            tg.batch_norm,
            lambda x, mean, var, w: (x - mean[:, None]) / np.sqrt(var[:, None] + 1e-5) * w[:, None],
            (images, normal(4), between(0.5, 2, 4), channels),
        ),
        Sample("batch_norm_training", _all_of_training, _batch_norm_training, (images, channels)),
    ]
