"""The gradient descent that saddle and particle share, in the steps that the suite prescribes."""

from __future__ import annotations

from collections.abc import Callable

import tapegrad as tg

Scalar = Callable[[tg.Tensor], tg.Tensor]
Gradient = Callable[[Scalar], Scalar]


def reverse(f: Scalar) -> Scalar:
    """Return the gradient of f in reverse mode."""
    return tg.grad(f)


def forward(f: Scalar) -> Scalar:
    """Return the gradient of f in forward mode."""
    return tg.jacobian(f, mode="forward")


MODES: dict[str, Gradient] = {"f": forward, "r": reverse}


def argmin(f: Scalar, start: tg.Tensor, gradient: Gradient) -> tg.Tensor:
    """Return where descent from `start` ends: with steps that double after ten good ones and halve after a bad one."""
    slope = gradient(f)
    x, fx, gx = start, f(start), slope(start)
    eta, good = 1e-5, 0
    while True:
        if length(gx) <= 1e-5:
            return x
        if good == 10:
            eta, good = 2 * eta, 0
            continue
        y = x - eta * gx
        if length(y - x) <= 1e-5:
            return x
        fy = f(y)
        if fy < fx:
            x, fx, gx, good = y, fy, slope(y), good + 1
        else:
            eta, good = eta / 2, 0


def argmax(f: Scalar, start: tg.Tensor, gradient: Gradient) -> tg.Tensor:
    """Return where ascent from `start` ends."""
    return argmin(lambda x: -f(x), start, gradient)


def length(x: tg.Tensor) -> float:
    """Return the length of a vector, only to look at it."""
    with tg.no_grad():
        return tg.sqrt(tg.sum(x * x)).item()
