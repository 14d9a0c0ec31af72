"""Kinks: points with a subgradient and without a second derivative, such as the origin of a norm."""

from __future__ import annotations

from math import nan
from typing import Any

from tapegrad._engine.primitive import primitive
from tapegrad._engine.rules import identity
from tapegrad._engine.tensor import Tensor

_kink = primitive(
    "kink",
    lambda xp, factor, x, at: factor,
    identity,
    lambda xp, t, at: xp.where(at, nan, 0 * t),
    None,
    elementwise=True,
    broadcasts=True,
)


def kink(xp: Any, factor: Any, x: Any, at: Any) -> Any:
    """Return a factor of a rule whose derivative by `x` is NaN where `at` is true.

    The factor is the chosen subgradient there. A finite derivative of it would give wrong second derivatives: that of
    norm(x)^2 at the origin is 2, and no product of the chain rule finds it.
    """
    return _kink(factor, x, at) if type(factor) is Tensor else factor


def unit(xp: Any, x: Any, size: Any) -> Any:
    """Return x / size, and 0 where the size is 0: the derivative of a norm in each of its operands."""
    at = size == 0
    return kink(xp, x / xp.where(at, 1, size), x, at)


def ratio(xp: Any, x1: Any, x2: Any) -> Any:
    """Return x1 / x2, and 0 where both are 0."""
    at = (x1 == 0) & (x2 == 0)
    return kink(xp, x1 / xp.where(at, 1, x2), x1, at)
