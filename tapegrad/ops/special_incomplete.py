"""Regularised incomplete gamma functions, by SciPy's names."""

from __future__ import annotations

from math import inf
from typing import Any

from tapegrad._engine.dtypes import as_dtype
from tapegrad.ops._text import SPECIAL, of_two
from tapegrad.ops.draws import FINE, gamma_slope
from tapegrad.ops.special import special_binary


def _inside(xp: Any, a: Any, x: Any) -> tuple[Any, Any, Any]:
    """Return where both derivatives are regular, and operands that are 1 elsewhere."""
    inside = (a > 0) & (a < inf) & (x > 0) & (x < inf)
    return inside, xp.where(inside, a, 1), xp.where(inside, x, 1)


def _density(xp: Any, a: Any, x: Any) -> Any:
    """Return the density of the gamma distribution x^(a - 1) exp(-x) / gamma(a)."""
    return xp.exp((a - 1) * xp.log(x) - x - xp.special.gammaln(a))


def _by_x(xp: Any, t: Any, x1: Any, x2: Any) -> Any:
    """Return t times the density; at 0 it is inf, 1 or 0, as a is below 1, 1 or above."""
    inside, a, x = _inside(xp, x1, x2)
    nothing = 0 * a
    at_zero = xp.where(x1 < 1, inf, xp.where(x1 == 1, 1, nothing))
    return t * xp.where(inside, _density(xp, a, x), xp.where((x2 == 0) & (x1 > 0), at_zero, nothing))


def _by_a(xp: Any, t: Any, x1: Any, x2: Any) -> Any:
    """Return t times the derivative in a: less the density times the slope of a quantile (see `gamma_slope`)."""
    inside, a, x = _inside(xp, x1, x2)
    half = as_dtype(a.dtype).itemsize == 2
    if half:  # in which terms of the series overflow
        wide = xp.astype(a, xp.float32), xp.astype(x, xp.float32)
        slope = xp.astype(gamma_slope(xp, *wide, FINE) * _density(xp, *wide), a.dtype)
    else:
        slope = gamma_slope(xp, a, x, FINE) * _density(xp, a, x)
    return t * xp.where(inside, -slope, 0)


_X = "t x2^(x1 - 1) exp(-x2) / gamma(x1)"
_A = (
    "in x1 by the series in x2, or by an integral of 80 nodes (Takahasi and Mori, 1974), to about 10 digits; both are "
    "differentiated again as they stand."
)

gammainc = special_binary(
    "gammainc",
    _by_a,
    _by_x,
    of_two(
        "Regularised lower incomplete gamma function P(x1, x2), the gamma distribution function: DLMF 8.2.4.",
        f"Derivatives: in x2, {_X}; {_A}",
        "tg.special.gammainc(tg.asarray(1.0), 1.0)",
        "Tensor(0.63212056)",
        SPECIAL,
    ),
    __name__,
)

gammaincc = special_binary(
    "gammaincc",
    lambda xp, t, x1, x2: -_by_a(xp, t, x1, x2),
    lambda xp, t, x1, x2: -_by_x(xp, t, x1, x2),
    of_two(
        "Regularised upper incomplete gamma function Q(x1, x2) = 1 - P(x1, x2), without cancellation: DLMF 8.2.4.",
        f"Derivatives: in x2, -{_X}; {_A}",
        "tg.special.gammaincc(tg.asarray(1.0), 1.0)",
        "Tensor(0.36787944)",
        SPECIAL,
    ),
    __name__,
)
