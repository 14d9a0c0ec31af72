"""Samples of activations and losses."""

from __future__ import annotations

from typing import Any

import numpy as np

import tapegrad as tg
from tapegrad.testing._sample import Sample, apart, between, integers, normal, reseed


def _softplus(x: Any) -> Any:
    return np.log1p(np.exp(x))


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _elu(x: Any, alpha: float = 1.0) -> Any:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _sparsemax(x: Any) -> Any:
    low, high = x.min(axis=-1, keepdims=True) - 1, x.max(axis=-1, keepdims=True)
    for _ in range(100):  # bisection for the number that makes the sum 1
        tau = (low + high) / 2
        large = np.maximum(x - tau, 0).sum(axis=-1, keepdims=True) > 1
        low, high = np.where(large, tau, low), np.where(large, high, tau)
    return np.maximum(x - tau, 0)


def _log_softmax(x: Any) -> Any:
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def _huber(x: Any, y: Any, delta: float) -> Any:
    d = np.abs(x - y)
    return np.where(d < delta, d * d / 2, delta * (d - delta / 2))


def _ctc(x: Any, labels: Any) -> Any:
    """Sum the probabilities of all paths, one after the other."""
    times, batch, classes = x.shape
    losses = []
    for n in range(batch):
        total = 0.0
        for path in np.ndindex(*(classes,) * times):
            kept = [c for i, c in enumerate(path) if c != 0 and (i == 0 or path[i - 1] != c)]
            if kept == labels[n].tolist():
                total += np.exp(sum(x[i, n, c] for i, c in enumerate(path)))
        losses.append(-np.log(total))
    return np.asarray(losses)


def _unit(x: Any) -> Any:
    return x / np.sqrt((x * x).sum(axis=-1, keepdims=True))


def _relu6(x: Any) -> Any:
    return np.clip(x, 0, 6)


def _silu(x: Any) -> Any:
    return x * _sigmoid(x)


def _gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _gated(f: Any) -> Any:
    return lambda x: f(x[..., :2]) * x[..., 2:]


def _activations() -> list[Sample]:
    x, w = apart(3, 4), between(0.1, 0.5, 4)
    return [
        Sample("elu", lambda x: tg.elu(x, alpha=0.5), lambda x: _elu(x, 0.5), (x,)),
        Sample("celu", lambda x: tg.celu(x, alpha=2.0), lambda x: _elu(x / 2) * 2, (x,)),
        Sample("selu", tg.selu, lambda x: 1.0507009873554805 * _elu(x, 1.6732632423543772), (x,)),
        Sample("softplus", lambda x: tg.softplus(x, beta=2.0), lambda x: _softplus(2 * x) / 2, (x,)),
        Sample("log_sigmoid", tg.log_sigmoid, lambda x: -_softplus(-x), (x,)),
        Sample("softsign", tg.softsign, lambda x: x / (1 + np.abs(x)), (x,)),
        Sample("mish", tg.mish, lambda x: x * np.tanh(_softplus(x)), (x,)),
        Sample("relu6", tg.relu6, _relu6, (4 * x,)),
        Sample("hard_tanh", tg.hard_tanh, lambda x: np.clip(x, -1, 1), (x * 1.01,)),
        Sample("hard_sigmoid", tg.hard_sigmoid, lambda x: _relu6(x + 3) / 6, (1.9 * x,)),
        Sample("hard_swish", tg.hard_swish, lambda x: x * _relu6(x + 3) / 6, (1.9 * x,)),
        Sample("leaky_relu", tg.leaky_relu, lambda x: np.where(x > 0, x, 0.01 * x), (x,)),
        Sample("prelu", tg.prelu, lambda x, w: np.where(x > 0, x, w * x), (x, w)),
        Sample("glu", tg.glu, lambda x: x[..., :2] * _sigmoid(x[..., 2:]), (x,)),
        Sample("swiglu", tg.swiglu, _gated(_silu), (x,)),
        Sample("geglu", lambda x: tg.geglu(x, approximate="tanh"), _gated(_gelu), (x,)),
        Sample("sparsemax", tg.sparsemax, _sparsemax, (x,)),
    ]


def _losses() -> list[Sample]:
    x, y, labels = apart(3, 4), normal(3, 4), integers(4, 3)
    p, unlike = between(0.1, 0.9, 3, 4), apart(3, 4) * 0.7 + 0.05
    signs, vectors = np.asarray([1, -1, 1]), normal(3, 4)
    weight = between(0.5, 2, 4)
    places = np.arange(3)

    def smoothed(x: Any, labels: Any, w: Any) -> Any:
        z = _log_softmax(x) * w
        total = -0.8 * z[places, labels].sum() - 0.2 / 4 * z.sum()
        return total / w[labels].sum()

    def triplet(a: Any, b: Any, c: Any) -> Any:
        def norm(v: Any) -> Any:
            return np.sqrt(((v + 1e-6) ** 2).sum(-1))

        return np.maximum(2.0 + norm(a - b) - norm(a - c), 0).mean()

    def cosine(a: Any, b: Any, y: Any) -> Any:
        cos = (_unit(a) * _unit(b)).sum(-1)
        return np.where(y == 1, 1 - cos, np.maximum(cos + 0.9, 0)).mean()

    return [
        Sample(
            "cross_entropy options",
            lambda x, labels, w: tg.cross_entropy(x, labels, weight=w, label_smoothing=0.2),
            smoothed,
            (x, labels, weight),
        ),
        Sample("mse_loss", tg.mse_loss, lambda x, y: ((x - y) ** 2).mean(), (x, y)),
        Sample("mae_loss", tg.mae_loss, lambda x, y: np.abs(x - y).mean(), (x, unlike), order=1),
        Sample(
            "huber_loss", lambda x, y: tg.huber_loss(x, y, delta=0.7), lambda x, y: _huber(x, y, 0.7).mean(), (x, y)
        ),
        Sample(
            "smooth_l1_loss",
            lambda x, y: tg.smooth_l1_loss(x, y, beta=0.7, reduction="sum"),
            lambda x, y: _huber(x, y, 0.7).sum() / 0.7,
            (x, y),
        ),
        Sample(
            "bce_with_logits_loss",
            lambda x, y, w: tg.bce_with_logits_loss(x, y, pos_weight=w),
            lambda x, y, w: (w * y * _softplus(-x) + (1 - y) * _softplus(x)).mean(),
            (x, p, weight),
        ),
        Sample("nll_loss", tg.nll_loss, lambda x, i: -x[places, i].mean(), (x, labels), order=1),
        Sample("kl_div_loss", tg.kl_div_loss, lambda x, p: (p * (np.log(p) - x)).mean(), (x, p)),
        Sample("hinge_loss", tg.hinge_loss, lambda x, y: np.maximum(1 - x * y, 0).mean(), (x * 1.03, np.sign(y))),
        Sample(
            "triplet_margin_loss",
            lambda a, b, c: tg.triplet_margin_loss(a, b, c, margin=2.0),
            triplet,
            (vectors, normal(3, 4), normal(3, 4)),
        ),
        Sample(
            "cosine_embedding_loss",
            lambda a, b, y: tg.cosine_embedding_loss(a, b, y, margin=-0.9),
            cosine,
            (vectors, normal(3, 4), signs),
        ),
        Sample(
            "info_nce_loss",
            lambda a, b: tg.info_nce_loss(a, b, temperature=0.5),
            lambda a, b: -np.diag(_log_softmax(2 * _unit(a) @ _unit(b).T)).mean(),
            (vectors, normal(3, 4)),
        ),
        Sample(
            "ctc_loss",
            lambda x, labels: tg.ctc_loss(x, labels, reduction="none"),
            _ctc,
            (_log_softmax(normal(4, 2, 3)), np.asarray([[1, 2], [2, 2]])),
        ),
    ]


def samples() -> list[Sample]:
    """Return the rows of this family."""
    reseed(33)
    return [*_activations(), *_losses()]
