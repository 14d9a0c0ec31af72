"""gmm: the log posterior of a mixture of Gaussians under a Wishart prior, and its gradient."""

from __future__ import annotations

from math import lgamma, log, pi
from typing import Any, NamedTuple

import tapegrad as tg
from benchmarks.gradbench._function import Function, floats, integers


class Parameters(NamedTuple):
    """alpha: (k,); mu and q: (k, d); l: (k, d (d - 1) / 2)."""

    alpha: tg.Tensor
    mu: tg.Tensor
    q: tg.Tensor
    l: tg.Tensor  # noqa: E741 (the suite's name)


class Task(NamedTuple):
    """x: the observations, (n, d); places: see `_places`; m and gamma: of the Wishart prior."""

    parameters: Parameters
    x: tg.Tensor
    places: tg.Tensor
    m: int
    gamma: float


def prepare(given: Any, device: str) -> Task:
    parameters = Parameters(*[floats(given[name], device) for name in Parameters._fields])
    places = integers(_places(given["d"]), device)
    return Task(parameters, floats(given["x"], device), places, given["m"], given["gamma"])


def _places(d: int) -> list[int]:
    """Return the places of the elements of a (d, d) lower triangle in (0, diagonal, the rest column by column)."""
    places = [0] * (d * d)
    below = 1 + d
    for j in range(d):
        places[j * d + j] = 1 + j
        for i in range(j + 1, d):
            places[i * d + j] = below
            below += 1
    return places


def objective(parameters: Parameters, x: tg.Tensor, places: tg.Tensor, m: int, gamma: float) -> tg.Tensor:
    """Return the log posterior.

    With Q the lower triangles, `Q (x - mu)` is `Q x - Q mu`: one product of matrices for all components and
    observations, and nothing of size (n, k, d) before it.
    """
    alpha, mu, q, low = parameters
    (k, d), n = mu.shape, x.shape[0]
    diagonal = tg.exp(q)
    zero = tg.zeros((k, 1), dtype=x.dtype, device=x.device)
    triangles = tg.reshape(tg.take(tg.concat([zero, diagonal, low], axis=1), places, axis=1), (k * d, d))
    offsets = tg.vecdot(tg.reshape(triangles, (k, d, d)), mu[:, None, :])
    scaled = tg.reshape(triangles @ x.T, (k, d, n)) - offsets[:, :, None]
    logs = (alpha + tg.sum(q, axis=1))[:, None] - 0.5 * tg.sum(tg.square(scaled), axis=1)
    likelihood = tg.sum(tg.logsumexp(logs, axis=0)) - n * tg.logsumexp(alpha)
    squares = tg.sum(diagonal * diagonal) + tg.sum(low * low)
    prior = m * tg.sum(q) - 0.5 * gamma * gamma * squares
    return likelihood + prior + _constant(n, d, k, m, gamma)


def _constant(n: int, d: int, k: int, m: int, gamma: float) -> float:
    """Return the part of the posterior that depends on sizes only."""
    freedom = d + m + 1
    log_gamma = 0.25 * d * (d - 1) * log(pi) + sum(lgamma(0.5 * (freedom - i)) for i in range(d))
    return -0.5 * n * d * log(2 * pi) + k * (freedom * d * (log(gamma) - 0.5 * log(2)) - log_gamma)


FUNCTIONS = {
    "objective": Function(prepare, lambda task: objective(*task)),
    "jacobian": Function(prepare, lambda task: tg.grad(objective)(*task)._asdict()),
}
