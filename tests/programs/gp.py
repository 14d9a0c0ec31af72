"""A Gaussian process: its scales by the gradient of the marginal likelihood, then its predictions."""

from typing import Any

import numpy as np

import tapegrad as tg


def kernel(log_scales: Any, x1: Any, x2: Any) -> Any:
    return tg.exp(log_scales[0]) * tg.exp(-0.5 * (x1[:, None] - x2[None, :]) ** 2 / tg.exp(2 * log_scales[1]))


def run() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    x = np.sort(rng.uniform(-3, 3, 10))
    y = np.sin(x) + rng.normal(scale=0.1, size=10)

    def negative_log_likelihood(log_scales: Any) -> Any:
        k = kernel(log_scales, x, x) + tg.exp(log_scales[2]) * np.eye(10)
        lower = tg.linalg.cholesky(k)
        half = tg.linalg.solve(lower, y)
        return 0.5 * tg.sum(half**2) + tg.sum(tg.log(tg.linalg.diagonal(lower))) + 5 * np.log(2 * np.pi)

    log_scales = tg.asarray(np.log([1.0, 1.0, 0.05]))
    values = []
    for _ in range(2):
        value, gradient = tg.value_and_grad(negative_log_likelihood)(log_scales)
        log_scales = log_scales - np.array([0.05, 0.05, 0.1]) * gradient
        values.append(value)
    new = np.array([-1.0, 0.0, 2.0])
    k = kernel(log_scales, x, x) + tg.exp(log_scales[2]) * np.eye(10)
    predicted = kernel(log_scales, new, x) @ tg.linalg.solve(k, y)
    return {"values": np.asarray(values), "predicted": np.asarray(predicted), "device": predicted.device}
