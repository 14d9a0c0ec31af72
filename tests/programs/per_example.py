"""Private training: a gradient for each example, cut to a norm, with noise of NumPy added to their sum."""

from typing import Any

import numpy as np

import tapegrad as tg


def loss(params: dict[str, Any], x: Any, label: Any) -> Any:
    logits = tg.tanh(x @ params["w"] + params["b"])
    return tg.logsumexp(logits) - tg.sum(logits * label)


def run() -> dict[str, Any]:
    rng = np.random.default_rng(7)
    x, labels = rng.normal(size=(6, 4)), np.eye(3)[rng.integers(0, 3, 6)]
    params = {"w": tg.tensor(rng.normal(size=(4, 3))), "b": tg.tensor(np.zeros(3))}
    each = tg.vmap(tg.grad(loss), in_axes=(None, 0, 0))
    for _ in range(2):
        gradients = each(params, x, labels)
        norms = tg.sqrt(sum(tg.sum(tg.reshape(g, (6, -1)) ** 2, axis=-1) for g in gradients.values()))
        factors = np.minimum(1.0, 1.0 / norms)
        for name, g in gradients.items():
            total = tg.tensordot(factors, g, axes=1) + rng.normal(scale=0.1, size=g.shape[1:])
            params[name] = params[name] - 0.1 * total / 6
    losses = tg.vmap(loss, in_axes=(None, 0, 0))(params, x, labels)
    return {"norms": np.asarray(norms), "losses": np.asarray(losses), "device": losses.device}
