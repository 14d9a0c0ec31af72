"""A variational autoencoder of points on a noisy circle; the noise of each step is NumPy's."""

from typing import Any

import numpy as np

import tapegrad as tg


def dense(params: dict[str, Any], name: str, x: Any) -> Any:
    return x @ params[f"{name}.w"] + params[f"{name}.b"]


def negative_elbo(params: dict[str, Any], x: Any, noise: Any) -> Any:
    hidden = tg.tanh(dense(params, "encoder", x))
    mean, log_var = dense(params, "mean", hidden), dense(params, "log_var", hidden)
    z = mean + tg.exp(0.5 * log_var) * noise
    back = tg.tanh(dense(params, "out", z))
    likelihood = tg.sum((back - x) ** 2, axis=-1) / np.array(0.1)
    divergence = -0.5 * tg.sum(1.0 + log_var - mean**2 - tg.exp(log_var), axis=-1)
    return tg.mean(likelihood + divergence)


def run() -> dict[str, Any]:
    rng = np.random.default_rng(2)
    angle = rng.uniform(0, 2 * np.pi, 16)
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1) + rng.normal(scale=0.05, size=(16, 2))
    params: dict[str, Any] = {}
    for name, n, m in (("encoder", 2, 6), ("mean", 6, 1), ("log_var", 6, 1), ("out", 1, 2)):
        params[f"{name}.w"] = tg.tensor(rng.normal(size=(n, m)) / np.sqrt(n))
        params[f"{name}.b"] = tg.tensor(np.zeros(m))
    losses = []
    for _ in range(2):
        loss, gradient = tg.value_and_grad(negative_elbo)(params, x, rng.standard_normal((16, 1)))
        params = {name: p - 0.01 * gradient[name] for name, p in params.items()}
        losses.append(loss)
    return {"losses": np.asarray(losses), "w": np.asarray(params["encoder.w"]), "device": loss.device}
