"""The gradient descent that saddle and particle share, in the steps that the suite prescribes."""

from __future__ import annotations

from collections.abc import Callable
from math import hypot

import tapegrad as tg
from benchmarks.gradbench._function import to_json

Scalar = Callable[[tg.Tensor], tg.Tensor]
Both = Callable[[tg.Tensor], tuple[tg.Tensor, tg.Tensor]]
Mode = Callable[[Scalar], Both]


def reverse(f: Scalar) -> Both:
    """Return a function that gives the value and the gradient of f in reverse mode."""
    return tg.value_and_grad(f)


def forward(f: Scalar) -> Both:
    """Return a function that gives the value and the gradient of f in forward mode."""

    def twice(x: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        y = f(x)
        return y, y

    slope = tg.jacobian(twice, mode="forward", has_aux=True)

    def both(x: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        g, y = slope(x)
        return y, g

    return both


MODES: dict[str, Mode] = {"f": forward, "r": reverse}


def argmin(f: Scalar, start: tg.Tensor, mode: Mode) -> tg.Tensor:
    """Return where descent from `start` ends: with steps that double after ten good ones and halve after a bad one."""
    both = mode(f)
    x = start
    fx, gx = both(x)
    eta, good = 1e-5, 0
    while True:
        if length(gx) <= 1e-5:
            return x
        if good == 10:
            eta, good = 2 * eta, 0
            continue
        step = eta * gx
        if length(step) <= 1e-5:
            return x
        y = x - step
        fy, gy = both(y)
        if fy < fx:
            x, fx, gx, good = y, fy, gy, good + 1
        else:
            eta, good = eta / 2, 0


def argmax(f: Scalar, start: tg.Tensor, mode: Mode) -> tg.Tensor:
    """Return where ascent from `start` ends."""
    return argmin(lambda x: -f(x), start, mode)


def length(x: tg.Tensor) -> float:
    """Return the length of a vector, only to look at it."""
    return hypot(*to_json(x)) if x.ndim else abs(x.item())
