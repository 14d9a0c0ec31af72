"""The rates of predator and prey, fitted to observations through a Runge-Kutta solver."""

from typing import Any

import numpy as np

import tapegrad as tg


def change(y: Any, rates: Any) -> Any:
    a, b, c, d = rates
    prey, predators = y[..., 0], y[..., 1]
    return tg.stack([a * prey - b * prey * predators, c * prey * predators - d * predators], axis=-1)


def solution(rates: Any, start: Any, times: Any) -> Any:
    states = [tg.asarray(start)]
    for step in np.diff(times):
        y = states[-1]
        k1 = change(y, rates)
        k2 = change(y + step / 2 * k1, rates)
        k3 = change(y + step / 2 * k2, rates)
        k4 = change(y + step * k3, rates)
        states.append(y + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
    return tg.stack(states)


def run() -> dict[str, Any]:
    times, start = np.linspace(0.0, 2.0, 6), np.array([[1.0, 0.5], [0.8, 0.9]])
    weights = np.array([1.0, 2.0])
    observed = np.asarray(solution(np.array([1.1, 0.4, 0.4, 0.9]), start, times))

    def misfit(rates: Any) -> Any:
        return tg.mean(weights * (solution(rates, start, times)[1:] - observed[1:]) ** 2)

    rates, misfits = np.array([1.0, 0.5, 0.5, 1.0]), []
    for _ in range(2):
        value, gradient = tg.value_and_grad(misfit)(rates)
        rates = rates - 0.02 * gradient
        misfits.append(value)
    path = solution(rates, start, times)
    return {"misfits": np.array(misfits), "rates": rates, "end": path[-1].tolist(), "device": path.device}
