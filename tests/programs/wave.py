"""Waves in a medium: its speed from records of receivers, through the steps of a finite-difference scheme."""

from typing import Any

import numpy as np

import tapegrad as tg

SOURCE, RECEIVERS = 3, np.array([8, 13])


def heard(speed: Any, pulse: Any) -> Any:
    now = before = tg.zeros(16)
    traces = []
    for strength in pulse:
        laplace = now[2:] - 2 * now[1:-1] + now[:-2]
        after = tg.zeros(16)
        after[1:-1] = 2 * now[1:-1] - before[1:-1] + speed**2 * laplace
        after[SOURCE] += strength
        before, now = now, after
        traces.append(now[RECEIVERS])
    return tg.stack(traces)


def run() -> dict[str, Any]:
    pulse = np.exp(-((np.arange(12) - 3.0) ** 2) / 2)
    truth = np.where(np.arange(14) < 7, 0.5, 0.7)
    observed = np.asarray(heard(truth, pulse))
    speed: Any = tg.tensor(np.full(14, 0.6), requires_grad=True)
    misfits = []
    for _ in range(2):
        speed.grad = None
        misfit = tg.sum((heard(speed, pulse) - observed) ** 2)
        misfit.backward()
        misfits.append(misfit)
        with tg.no_grad():
            speed -= 0.05 * speed.grad * np.hanning(14)
    return {"misfits": np.asarray(misfits), "speed": speed.tolist(), "device": misfit.device}
