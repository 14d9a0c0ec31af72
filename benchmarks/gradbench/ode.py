"""ode: `y' = (x[0], x[1] y[0], x[2] y[1], ...)` from 0 over two units of time, by Runge-Kutta."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tapegrad as tg
from benchmarks.gradbench._function import Function, floats


class Task(NamedTuple):
    """x: the coefficients; s: how many steps."""

    x: tg.Tensor
    s: int


def prepare(given: Any, device: str) -> Task:
    return Task(floats(given["x"], device), given["s"])


def solve(x: tg.Tensor, s: int) -> tg.Tensor:
    """Return y at time 2.

    A row ahead of y, which is always 1, makes all equations alike: `y[i]' = x[i] y[i - 1]`, and that row's own is 0.
    """
    zero, one = tg.zeros(1, dtype=x.dtype, device=x.device), tg.ones(1, dtype=x.dtype, device=x.device)
    rate = tg.concat([zero, x])
    y = tg.concat([one, tg.zeros_like(x)])
    return runge_kutta(lambda y: rate * tg.roll(y, 1), y, 2.0, s)[1:]


def runge_kutta(f: Callable[[tg.Tensor], tg.Tensor], y: tg.Tensor, time: float, steps: int) -> tg.Tensor:
    """Return the solution of `y' = f(y)` after some time, by so many steps of the fourth-order method."""
    h = time / steps
    for _ in range(steps):
        k1 = f(y)
        k2 = f(y + (h / 2) * k1)
        k3 = f(y + (h / 2) * k2)
        k4 = f(y + h * k3)
        y = y + (h / 6) * (k1 + 2 * (k2 + k3) + k4)
    return y


def last(x: tg.Tensor, s: int) -> tg.Tensor:
    return solve(x, s)[-1]


FUNCTIONS = {
    "primal": Function(prepare, lambda task: solve(*task)),
    "gradient": Function(prepare, lambda task: tg.grad(last)(*task)),
}
