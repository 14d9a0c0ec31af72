"""Random numbers of a key and a counter, as operations on Tensors.

Keys hold 4 words of uint32 and counters 8, the lowest first, along their last axis. Leading axes hold several, and
stand before the shape of the numbers.
"""

from __future__ import annotations

from math import exp
from typing import Any

from tapegrad._engine.primitive import primitive
from tapegrad.backends._philox import blocks_of

__all__ = ["blocks_of", "draw", "gamma_sample", "skip"]

# draw(key, count, form, shape, dtype, least): numbers of a form, see `tapegrad.backends._philox.FORMS`.
draw = primitive(
    "draw",
    lambda xp, key, count, form, shape, dtype, least: xp.draw(key, count, form, shape, dtype, least),
    None,
    None,
)
# skip(count, shape, start, step): counters in a shape, the i-th one advanced by start + step * i.
skip = primitive("skip", lambda xp, count, shape, start, step: xp.skip(count, shape, start, step), None)


# -- the derivative of gamma numbers ---------------------------------------------------------------------
# With t = x exp(-+y), dF/da / (dF/dx), the integral over t < x, or t > x, of (t / x)^(a - 1) exp(x - t) (log t -
# digamma(a)), becomes one over y > 0 of a smooth function. Its exponent is -|a - x| y - x h(+-y) with
# h(z) = exp(-z) - 1 + z.

Quadrature = list[tuple[float, float]]  # nodes with their weights


def _quadrature(count: int) -> Quadrature:
    """Return the quadrature of Takahasi and Mori (1974) for exponential decay: exp(u - exp(-u)) for equidistant u."""
    step = 7.6 / (count - 1)
    nodes = [-3.5 + step * k for k in range(count)]
    return [(exp(u - exp(-u)), step * exp(u - exp(-u)) * (1 + exp(-u))) for u in nodes]


_RULE = _quadrature(40)  # to 7 digits
FINE = _quadrature(80)  # to 13
_TERMS = 20


def _by_concentration(xp: Any, t: Any, a: Any, out: Any) -> Any:
    return t * gamma_slope(xp, a, out)


def gamma_slope(xp: Any, a: Any, x: Any, rule: Quadrature = _RULE) -> Any:
    """Return the derivative of a number x of the gamma distribution in its concentration a; 0 where x is 0."""
    positive = x > 0
    x = xp.where(positive, x, 1.0)
    small = (a < 1) & (x < 1)
    by_series = _slope_by_series(xp, xp.where(small, a, 0.5), xp.where(small, x, 0.5))
    by_integral = _slope_by_integral(xp, xp.where(small, 1.0, a), xp.where(small, 1.0, x), rule)
    return xp.where(positive, xp.where(small, by_series, by_integral), 0.0)


def _slope_by_integral(xp: Any, a: Any, x: Any, rule: Quadrature) -> Any:
    """Return the slope by the integral on the side of x where there is less; a little beyond a still the left one."""
    left = x <= a + xp.sqrt(a)
    sign = xp.where(left, xp.ones_like(x), -1.0)
    ratio = x / a
    near = ratio > 0.5
    logarithm = xp.where(near, xp.log1p((xp.where(near, x, a) - a) / a), xp.log(xp.where(near, 1.0, ratio)))
    logarithm = logarithm + _log_less_digamma(xp, a)
    gap = sign * (a - x)
    scale = 1.0 / (xp.abs(gap) + xp.sqrt(x))
    gap, signed = gap * scale, sign * scale
    total = 0.0
    for node, weight in rule:
        y = signed * node
        total = total + weight * xp.exp(-node * gap - x * _h(xp, y)) * (logarithm - y)
    return -signed * x * total


def _slope_by_series(xp: Any, a: Any, x: Any) -> Any:
    """Return the slope for x and a below 1 by F = x^a exp(-x) / gamma(a) sum of x^n / (a (a + 1) ... (a + n))."""
    term = 1.0 / a
    harmonic = total = term
    slope = term * harmonic  # less the derivative of the sum in a
    for n in range(1, _TERMS):
        term, harmonic = term * x / (a + n), harmonic + 1.0 / (a + n)
        total, slope = total + term, slope + term * harmonic
    return x * (slope - total * (xp.log(x / a) + _log_less_digamma(xp, a)))


def _h(xp: Any, z: Any) -> Any:
    """Return exp(-z) - 1 + z, by its series where that cancels."""
    near = xp.abs(z) < 0.3
    s = xp.where(near, z, 0.0)
    total = 1.0 / 10
    for n in range(9, 2, -1):
        total = (1.0 - s * total) / n
    return xp.where(near, s * s * (0.5 - 0.5 * s * total), z + xp.expm1(-z))


def _log_less_digamma(xp: Any, a: Any) -> Any:
    """Return log(a) - digamma(a), by the asymptotic series at a, or at a + 10 and the recurrence."""
    low = a < 10
    b = xp.where(low, a + 10.0, a)
    r = 1.0 / (b * b)
    series = 0.5 / b + r * (1 / 12 - r * (1 / 120 - r * (1 / 252 - r * (1 / 240 - r / 132))))
    steps = 0.0
    for k in range(10):
        steps = steps + 1.0 / (a + k)
    return xp.where(low, series + steps - xp.log1p(10.0 / a), series)


# gamma_sample(a, x): a number x of the gamma distribution, as a function of its concentration.
gamma_sample = primitive(
    "gamma_sample", lambda xp, a, x: xp.gamma_sample(a, x), _by_concentration, None, broadcasts=True
)
