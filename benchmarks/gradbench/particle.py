"""particle: the position of a charge that steers a particle into the origin, by descent over an Euler integration."""

from __future__ import annotations

from typing import Any

import tapegrad as tg
from benchmarks.gradbench._descent import MODES, Mode, argmin
from benchmarks.gradbench._function import Function, floats

STEP = 0.1


def prepare(given: Any, device: str) -> tg.Tensor:
    return floats(given["w"], device)


def landing(w: tg.Tensor, mode: Mode) -> tg.Tensor:
    """Return the square of where the particle crosses the x axis; `mode` gives its acceleration."""

    def vector(*values: float) -> tg.Tensor:
        return floats(values, w.device)

    # Two charges, at (10, 10 - w) and (10, 0).
    charges = floats([[10.0, 10.0], [10.0, 0.0]], w.device) - floats([[0.0, 1.0], [0.0, 0.0]], w.device) * w

    def potential(x: tg.Tensor) -> tg.Tensor:
        apart = x - charges
        return tg.sum(1 / tg.sqrt(tg.sum(apart * apart, axis=1)))

    both = mode(potential)
    x, speed = vector(0.0, 8.0), vector(0.75, 0.0)
    while True:
        moved = x + STEP * speed
        if moved[1] <= 0:
            break
        speed = speed - STEP * both(x)[1]
        x = moved
    crossing = x[0] - x[1] / speed[1] * speed[0]
    return crossing * crossing


def solve(w: tg.Tensor, outer: Mode, inner: Mode) -> tg.Tensor:
    """Return the w of the landing nearest to the origin."""
    return argmin(lambda w: landing(w, inner), w, outer)


def _function(outer: str, inner: str) -> Function:
    return Function(prepare, lambda w: solve(w, MODES[outer], MODES[inner]))


FUNCTIONS = {outer + inner: _function(outer, inner) for outer in "fr" for inner in "fr"}
