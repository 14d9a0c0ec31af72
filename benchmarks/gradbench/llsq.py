"""llsq: least squares of a polynomial against the sign function, at n points in [-1, 1]."""

from __future__ import annotations

from math import ceil, isqrt
from typing import Any, NamedTuple

import tapegrad as tg
from benchmarks.gradbench._function import Function, floats


class Task(NamedTuple):
    """x: the m coefficients, lowest first; n: how many points."""

    x: tg.Tensor
    n: int


def prepare(given: Any, device: str) -> Task:
    return Task(floats(given["x"], device), given["n"])


def objective(x: tg.Tensor, n: int) -> tg.Tensor:
    """Return half the sum of squares of `sign(t) - (x[0] + x[1] t + x[2] t^2 + ...)`.

    In baby steps and giant steps: with q about the root of m, the coefficients are an (m / q, q) matrix, times the
    first q powers of t it gives m / q polynomials, and these are summed with the powers of t^q.
    """
    t = tg.linspace(-1.0, 1.0, n, dtype=x.dtype, device=x.device)
    m = x.shape[0]
    q = isqrt(m)
    rows = ceil(m / q)
    if rows * q > m:
        x = tg.concat([x, tg.zeros(rows * q - m, dtype=x.dtype, device=x.device)])
    baby = powers(t, q)
    giant = powers(baby[-1, :] * t, rows)
    values = tg.sum(giant * (tg.reshape(x, (rows, q)) @ baby), axis=0)
    error = tg.sign(t) - values
    return 0.5 * tg.sum(error * error)


def powers(t: tg.Tensor, count: int) -> tg.Tensor:
    """Return the first powers of t as rows, from 1 on."""
    repeated = tg.broadcast_to(t, (count - 1, t.shape[0]))
    return tg.cumulative_prod(repeated, axis=0, include_initial=True)


FUNCTIONS = {
    "primal": Function(prepare, lambda task: objective(*task)),
    "gradient": Function(prepare, lambda task: tg.grad(objective)(*task)),
}
