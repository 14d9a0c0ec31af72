"""Special functions that a library lacks, or has with less precision, composed of its other functions."""

from __future__ import annotations

from collections.abc import Callable
from math import factorial, inf, nan, sqrt
from typing import Any

Array = Any


def polygamma(xp: Any, n: Any, x: Array) -> Array:
    """Return the n-th derivative of digamma by the Hurwitz zeta function, DLMF 25.11.12: in the dtype of x.

    n: a number, or an array of them; NaN where it is negative.
    """
    if hasattr(n, "shape"):
        order = xp.astype(n, x.dtype)
        derivative = _signed_factorial(xp, n, x) * xp.special.zeta(order + 1, x)
        return xp.where(n < 0, nan, xp.where(n == 0, xp.special.digamma(x), derivative))
    if n == 0:
        return xp.special.digamma(x)
    scale = float(factorial(n)) if n < 171 else inf
    return (-scale if n % 2 == 0 else scale) * xp.special.zeta(n + 1.0, x)


def _signed_factorial(xp: Any, n: Array, x: Array) -> Array:
    """Return (-1)^(n + 1) n! in the dtype of x, from a table: infinite where that is out of its range."""
    most = xp.finfo(x.dtype).max
    values = [(-1.0) ** (k + 1) * (factorial(k) if k < 171 and factorial(k) <= most else inf) for k in range(173)]
    table = xp.asarray(values, dtype=x.dtype, device=n.device)
    places = xp.where(n > 170, 172 - n % 2, xp.where(n < 0, 0, n))
    return xp.reshape(xp.take(table, xp.reshape(places, (-1,)), axis=0), n.shape)


def ndtr(xp: Any, x: Array) -> Array:
    """Return the normal distribution function by erfc, which is precise where it is near 0."""
    return 0.5 * xp.special.erfc(x * -sqrt(0.5))


def rel_entr(xp: Any, x: Array, y: Array) -> Array:
    """Return x log(x / y), by log1p where x is near y; 0 for x = 0 <= y, inf outside."""
    x, y = _as_floats(xp, x), _as_floats(xp, y)
    inside = (x > 0) & (y > 0)
    x1, y1 = xp.where(inside, x, 1), xp.where(inside, y, 1)
    near = xp.abs(x1 - y1) < 0.5 * y1
    log = xp.where(near, xp.log1p(xp.where(near, x1 - y1, 0) / y1), xp.log(x1) - xp.log(y1))
    out = xp.where(inside, x1 * log, xp.where((x == 0) & (y >= 0), 0, inf))
    return xp.where(xp.isnan(x) | xp.isnan(y), x + y, out)


def betaln(xp: Any, a: Array, b: Array) -> Array:
    """Return log(gamma(a) gamma(b) / gamma(a + b)), by Stirling's series (DLMF 5.11.1) where one of both is large."""
    a, b = _as_floats(xp, a), _as_floats(xp, b)
    small, large = xp.minimum(a, b), xp.maximum(a, b)
    stirling = (large >= 10) & (small > 0)
    c = xp.where(stirling, large, 10)
    d = xp.where(stirling, small, 1)
    tail = d - (c - 0.5) * xp.log1p(d / c) - d * xp.log(c + d) + _stirling(c) - _stirling(c + d)
    lgamma = xp.special.gammaln
    return lgamma(small) + xp.where(stirling, tail, lgamma(large) - lgamma(xp.where(stirling, 1, a + b)))


def _stirling(x: Array) -> Array:
    """Return gammaln(x) - ((x - 1/2) log(x) - x + log(2 pi) / 2), for x >= 10."""
    s = 1 / (x * x)
    return (1 / 12 - s * (1 / 360 - s * (1 / 1260 - s * (1 / 1680 - s * (1 / 1188 - s * (691 / 360360)))))) / x


def _as_floats(xp: Any, x: Array) -> Array:
    """Convert integers and booleans to floats: their sums and differences would wrap around."""
    return x if xp.isdtype(x.dtype, "real floating") else x * 1.0


COMPOSED: dict[str, Callable[..., Array]] = {
    "betaln": betaln,
    "ndtr": ndtr,
    "polygamma": polygamma,
    "rel_entr": rel_entr,
}
