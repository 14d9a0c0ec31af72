"""Special functions by SciPy's names: the gamma function's family, modified Bessel functions, sinc."""

from __future__ import annotations

from functools import partial
from math import factorial, inf, pi
from operator import index
from typing import Any

from tapegrad._engine.coercion import as_tensors
from tapegrad._engine.elementwise import unary
from tapegrad._engine.primitive import primitive
from tapegrad._engine.tensor import Tensor
from tapegrad.ops._slopes import slope
from tapegrad.ops._text import BROADCAST, SCIPY, SPECIAL, documented, of_one, of_two
from tapegrad.ops.conversion import as_floats, as_indices
from tapegrad.ops.special import special_binary
from tapegrad.typing import ArrayLike

special = partial(unary, extension="special", module=__name__)


def _series(x: Any, coefficients: tuple[float, ...]) -> Any:
    """Return the polynomial with these coefficients, of x^0 first."""
    *rest, out = coefficients
    for c in reversed(rest):
        out = out * x + c
    return out


# -- gamma ------------------------------------------------------------------------------------------------


def _psi(xp: Any, t: Any, x: Any, n: int) -> Any:
    """Return t times the n-th derivative of digamma, and 0 at its poles: 0, -1, -2 ..."""
    pole = (x <= 0) & (x == xp.floor(x))
    return xp.where(pole, 0, t * xp.special.polygamma(n, xp.where(pole, 1, x)))


gammaln = special(
    "gammaln",
    lambda xp, t, x: _psi(xp, t, x, 0),
    of_one(
        "Logarithm of abs(gamma(x)), DLMF 5.2.1: inf at its poles 0, -1, -2 and so on.",
        "Derivative: t digamma(x), 0 at the poles.",
        "tg.special.gammaln(tg.asarray(1.0))",
        "Tensor(0.)",
        SPECIAL,
    ),
)

digamma = special(
    "digamma",
    lambda xp, t, x: _psi(xp, t, x, 1),
    of_one(
        "Derivative of gammaln, DLMF 5.2.2; also known as psi.",
        "Derivative: t polygamma(1, x), 0 at the poles 0, -1, -2 ...",
        "tg.special.digamma(tg.asarray(1.0))",
        "Tensor(-0.57721566)",
        SPECIAL,
    ),
)

_polygamma = primitive(
    "polygamma",
    lambda xp, x, n: xp.special.polygamma(n, x),
    lambda xp, t, x, n: _psi(xp, t, x, n + 1),
    elementwise=True,
)


_polygamma_of_orders = primitive(
    "polygamma",
    lambda xp, n, x: xp.special.polygamma(n, x),
    None,
    lambda xp, t, n, x: _psi(xp, t, x, n + 1),
    broadcasts=True,
    elementwise=True,
    variant="orders",
)


@documented(
    f"The shape is the one that the operands broadcast to. {SPECIAL.result}",
    "TypeError: `n` is not of integers.",
    SCIPY,
    BROADCAST,
    "ValueError: `n` is a negative integer; in an array, such a one gives NaN.",
    n="The order: an integer from 0 on, or an array of them that broadcasts against `x`.",
    x=SPECIAL.operands,
)
def polygamma(n: ArrayLike, x: ArrayLike, /) -> Tensor:
    """The n-th derivative of digamma, elementwise: DLMF 25.11.12.

    Derivative: t polygamma(n + 1, x), 0 at the poles 0, -1, -2 and so on.

    >>> import tapegrad as tg
    >>> tg.special.polygamma(1, tg.asarray(1.0))
    Tensor(1.64493407)
    """
    if isinstance(n, Tensor) or (hasattr(n, "shape") and n.shape):
        n, x = as_tensors("polygamma", n, x)
        if "integer" not in n.dtype.kind:
            raise TypeError(f"polygamma: n is made of integers, not {n.dtype.name}: convert it with tapegrad.astype")
        return _polygamma_of_orders(as_indices(n), as_floats(x))
    try:
        order = index(n)  # type: ignore[arg-type]
    except TypeError as error:
        raise TypeError(
            f"polygamma: n is an integer, such as 1, or an array of them, not {type(n).__name__}"
        ) from error
    if order < 0:
        raise ValueError(f"polygamma: n is an integer from 0 on, not {order}")
    return _polygamma(as_floats(x), order)


_PSI = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)  # digamma's series, DLMF 5.11.2
_STEPS = 10


_gap_of_reciprocals = primitive(
    "gap of reciprocals",
    lambda xp, a, b: b / (a + b) / a,
    lambda xp, t, a, b: -t * _gap(xp, a, b) * (1 / a + 1 / (a + b)),
    lambda xp, t, a, b: t / (a + b) / (a + b),
    elementwise=True,
    broadcasts=True,
)


def _gap(xp: Any, a: Any, b: Any) -> Any:
    """Return 1 / a - 1 / (a + b) for positive a and b: no digit cancels, nor in its derivatives of any order."""
    return _gap_of_reciprocals(a, b) if type(a) is Tensor else b / (a + b) / a


def _psi_rise(xp: Any, a: Any, b: Any) -> Any:
    """Return digamma(a + b) - digamma(a) for positive a and b, as a sum of positive terms: no digit cancels.

    By the recurrence (DLMF 5.5.2) up to a + 10, and from there by differences of terms of the asymptotic series.
    """
    total = _gap(xp, a, b)
    for k in range(1, _STEPS):
        total = total + _gap(xp, a + k, b)
    low, high = a + _STEPS, a + b + _STEPS
    step = _gap(xp, low, b)  # 1 / low - 1 / high
    rise = xp.log1p(b / low) + 0.5 * step
    p, q = 1 / (low * low), 1 / (high * high)
    rising = step * (1 / low + 1 / high)  # p - q
    # p^k - q^k = (p - q) (p^(k-1) + ... + q^(k-1)), summed by Horner's rule for the divided difference.
    slope, value = 0.0 * p, 0.0 * p
    for c in reversed(_PSI):
        slope = slope * q + value
        value = value * p + c
    return total + rise + rising * (slope * q + value)


def _betaln(xp: Any, t: Any, x1: Any, x2: Any) -> Any:
    regular = (x1 > 0) & (x2 > 0) & (x1 < inf) & (x2 < inf)
    rise = _psi_rise(xp, xp.where(regular, x1, 1), xp.where(regular, x2, 1))
    other = _psi(xp, t, xp.where(regular, 1, x1), 0) - _psi(xp, t, xp.where(regular, 1, x1 + x2), 0)
    return xp.where(regular, -t * rise, other)


betaln = special_binary(
    "betaln",
    _betaln,
    lambda xp, t, x1, x2: _betaln(xp, t, x2, x1),
    of_two(
        "Logarithm of the beta function, gammaln(x1) + gammaln(x2) - gammaln(x1 + x2): DLMF 5.12.1.",
        "Derivatives: t (digamma(x1) - digamma(x1 + x2)); t (digamma(x2) - digamma(x1 + x2)).",
        "tg.special.betaln(tg.asarray(1.0), 1.0)",
        "Tensor(0.)",
        SPECIAL,
    ),
    __name__,
)


# -- modified Bessel functions of the first kind ------------------------------------------------------------

_I1 = tuple(1 / (2 ** (2 * k + 1) * factorial(k) * factorial(k + 1)) for k in range(7))  # i1(x) / x, DLMF 10.25.2


def _over_x(xp: Any, x: Any, out: Any, scale: Any) -> Any:
    """Return i1(x) / x, or i1e(x) / x with its scale, by a power series near 0; 0 where i1 has overflown."""
    near = xp.abs(x) < 0.5
    small = xp.where(near, x, 0)
    far = xp.where(xp.isfinite(out), out, 0) / xp.where(near, 1, x)
    return xp.where(near, scale(small) * _series(small * small, _I1), far)


def _i1(xp: Any, t: Any, x: Any, out: Any) -> Any:
    return t * (xp.special.i0(x) - _over_x(xp, x, out, lambda small: 1))


def _i1e(xp: Any, t: Any, x: Any, out: Any) -> Any:
    ratio = _over_x(xp, x, out, lambda small: xp.exp(-xp.abs(small)))
    return t * (xp.special.i0e(x) - xp.sign(x) * out - ratio)


i0 = special(
    "i0",
    lambda xp, t, x: t * xp.special.i1(x),
    of_one(
        "Modified Bessel function of the first kind and order 0, DLMF 10.25.2.",
        "Derivative: t i1(x) (DLMF 10.29.3).",
        "tg.special.i0(tg.asarray(0.0))",
        "Tensor(1.)",
        SPECIAL,
    ),
)

i0e = special(
    "i0e",
    lambda xp, t, x, out: t * (xp.special.i1e(x) - xp.sign(x) * out),
    of_one(
        "Scaled Bessel function exp(-abs(x)) i0(x), without overflow.",
        "Derivative: t (i1e(x) - sign(x) out), 0 at 0.",
        "tg.special.i0e(tg.asarray(0.0))",
        "Tensor(1.)",
        SPECIAL,
    ),
)

i1 = special(
    "i1",
    _i1,
    of_one(
        "Modified Bessel function of the first kind and order 1, DLMF 10.25.2.",
        "Derivative: t (i0(x) - i1(x) / x), 1/2 at 0 (DLMF 10.29.2).",
        "tg.special.i1(tg.asarray(0.0))",
        "Tensor(0.)",
        SPECIAL,
    ),
)

i1e = special(
    "i1e",
    _i1e,
    of_one(
        "Scaled Bessel function exp(-abs(x)) i1(x), without overflow.",
        "Derivative: t (i0e(x) - (sign(x) + 1 / x) out), 1/2 at 0.",
        "tg.special.i1e(tg.asarray(0.0))",
        "Tensor(0.)",
        SPECIAL,
    ),
)


# -- sinc -------------------------------------------------------------------------------------------------

# Of sinc'(x) / x and sinc''(x), by DLMF 4.19.1, in powers of (pi x)^2.
_SINC = tuple(2 * pi**2 * (-1) ** k * k / factorial(2 * k + 1) for k in range(1, 17))
_SINC_2 = tuple(c * (2 * k - 1) for k, c in enumerate(_SINC, 1))


def _cos(xp: Any, x: Any) -> Any:
    """Return cos(pi x) from an exact part of a turn: x pi is rounded."""
    turn = x - 2 * xp.round(0.5 * x)
    up = xp.abs(turn) < 0.25
    return xp.where(up, xp.cos(xp.where(up, turn, 0) * pi), xp.sin((0.5 - xp.abs(turn)) * pi))


def _sin(xp: Any, x: Any) -> Any:
    """Return sin(pi x) so as well."""
    turn = x - 2 * xp.round(0.5 * x)
    return xp.sin(xp.where(xp.abs(turn) > 0.5, xp.sign(turn) - turn, turn) * pi)


def _sinc_of(xp: Any, x: Any, out: Any) -> Any:
    """Return the slope of sinc at x, given its value."""
    near = xp.abs(x) < 0.25  # where cos(pi x) - sinc(x) cancels
    small = xp.where(near, x, 0)
    series = small * _series((small * pi) ** 2, _SINC[:8])
    return xp.where(near, series, (_cos(xp, x) - out) / xp.where(near, 1, x))


def _sinc_differential(xp: Any, t: Any, x: Any, out: Any) -> Any:
    near = xp.abs(x) < 0.75  # where the two terms cancel
    small = xp.where(near, x, 0)
    far = (pi * _sin(xp, x) + 2 * out) / xp.where(near, 1, x)  # -sinc''(x)
    return t * xp.where(near, _series((small * pi) ** 2, _SINC_2), -far)


_sinc_slope = slope("sinc", lambda xp, x: _sinc_of(xp, x, xp.special.sinc(x)), _sinc_differential, extension="special")


def _sinc(xp: Any, t: Any, x: Any, out: Any) -> Any:
    return t * (_sinc_slope(xp, x) if type(x) is Tensor else _sinc_of(xp, x, out))


sinc = special(
    "sinc",
    _sinc,
    of_one(
        "Normalised sinc function sin(pi x) / (pi x), 1 at 0.",
        "Derivative: t (cos(pi x) - out) / x, by its power series near 0.",
        "tg.special.sinc(tg.asarray(0.0))",
        "Tensor(1.)",
        SPECIAL,
    ),
)
