"""Derivatives of elementwise functions against mpmath, over the whole domain: as many digits as the dtype has.

Each is measured in units in the last place (ulp) of the true derivative, rounded. Where more than 8 are lost, a row of
EXCEPTIONS says why. `TAPEGRAD_PRECISION=all` goes through many more points, and through forward mode.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import special as sp
from tapegrad._engine.rules import OPERATIONS

mpmath: Any = pytest.importorskip("mpmath")
mp: Any = mpmath.mp
pytest.importorskip("scipy.special")

ALL = os.environ.get("TAPEGRAD_PRECISION") == "all"
ULP = 8.0
DIGITS = 40
Function = Callable[..., Any]
REAL = ("float64", "float32")
COMPLEX = ("complex128", "complex64")


# -- the derivatives ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A function of one operand: its first and second derivative in mpmath's numbers.

    low, high: the domain; beside: points near which something happens; most: how large an operand may be;
    directions: of complex operands, as multiples of i, None if the function takes none.
    """

    f: Function
    first: Function
    second: Function
    low: float = -np.inf
    high: float = np.inf
    beside: tuple[float, ...] = (0.0, 1.0, -1.0)
    most: float = np.inf
    holomorphic: bool = False
    corners: tuple[complex, ...] = ()
    most_complex: float = np.inf
    poles: bool = False  # at 0, -1, -2 ...
    digits: bool = True  # whether mpmath needs more of them far out


def _sech2(x: Any) -> Any:
    e = mp.exp(-2 * (x if mp.re(x) >= 0 else -x))
    return 4 * e / (1 + e) ** 2


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + mp.exp(-x))


def _dsigmoid(x: Any) -> Any:
    return _sech2(x / 2) / 4


def _bell(x: Any) -> Any:
    return 2 / mp.sqrt(mp.pi) * mp.exp(-x * x)


def _density(x: Any) -> Any:
    return mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi)


def _gelu(x: Any, order: int) -> Any:
    c, k = mp.sqrt(2 / mp.pi), mp.mpf("0.044715")
    u, du, ddu = c * (x + k * x**3), c * (1 + 3 * k * x * x), c * 6 * k * x
    s, th = _sech2(u), mp.tanh(u)
    below = 2 / (1 + mp.exp(-2 * u))  # 1 + tanh(u)
    if order == 1:
        return (below + x * s * du) / 2
    return s * du + x / 2 * (s * ddu - 2 * th * s * du * du)


def _mills(x: Any) -> Any:
    """The density over ndtr."""
    return mp.sqrt(2 / mp.pi) * mp.exp(-x * x / 2) / mp.erfc(-x / mp.sqrt(2))


def _log_ndtr_2(x: Any) -> Any:
    z = -x
    if z > 1e4:  # by the asymptotic series of Mills' ratio, DLMF 7.12.1: x and the slope cancel
        return -(z + 1 / z - 2 / z**3 + 10 / z**5) * (1 / z - 2 / z**3 + 10 / z**5 - 74 / z**7)
    return -_mills(x) * (x + _mills(x))


def _erfcx_n(x: Any, order: int) -> Any:
    if x > 1e4:  # by the asymptotic series, DLMF 7.12.1
        first = 1 / (2 * x**2) - 3 / (4 * x**4) + 15 / (8 * x**6) - 105 / (16 * x**8)
        second = 1 / x**3 - 3 / x**5 + 45 / (4 * x**7)
        return 2 / mp.sqrt(mp.pi) * (-first if order == 1 else second)
    e = _erfcx(x)
    first = 2 * x * e - 2 / mp.sqrt(mp.pi)
    return first if order == 1 else 2 * e + 2 * x * first


def _erfcx(x: Any) -> Any:
    return mp.exp(x * x) * mp.erfc(x)


def _erfinv(x: Any) -> Any:
    # From the side where no digit is lost: erf(y) = x, erfc(y) = 1 - x.
    return mp.sign(x) * _erfcinv(1 - abs(x))


def _erfcinv(q: Any) -> Any:
    """Return y >= 0 with erfc(y) = q in (0, 1], by Newton's method on the logarithm."""
    if q == 1:
        return mp.mpf(0)
    y = mp.sqrt(-mp.log(q)) if q < 0.5 else (1 - q) * mp.sqrt(mp.pi) / 2
    for _ in range(60):
        e = mp.erfc(y)
        step = (mp.log(e) - mp.log(q)) * e / _bell(y)
        y += step
        if abs(step) <= abs(y) * mp.mpf(10) ** (-mp.dps + 8):
            break
    return y


def _ndtri(p: Any) -> Any:
    r = mp.sqrt(2)
    return -r * _erfcinv(2 * p) if p < 0.5 else r * _erfcinv(2 * (1 - p))


def _erfinv_1(x: Any) -> Any:
    return 1 / _bell(_erfinv(x))


def _ndtri_1(x: Any) -> Any:
    return 1 / _density(_ndtri(x))


def _sinc(x: Any, order: int) -> Any:
    if abs(x) < 1e-3:
        u = (mp.pi * x) ** 2
        terms = range(1, 14)
        if order == 1:
            return sum((-1) ** k * 2 * k * u**k / mp.factorial(2 * k + 1) for k in terms) / x
        return sum((-1) ** k * 2 * k * (2 * k - 1) * u**k / mp.factorial(2 * k + 1) for k in terms) / x**2
    s, c = mp.sinpi(x), mp.cospi(x)
    if order == 1:
        return c / x - s / (mp.pi * x * x)
    return -mp.pi * s / x - 2 * c / x**2 + 2 * s / (mp.pi * x**3)


def _i(n: int, x: Any) -> Any:
    return mp.besseli(n, x)


def _i_derivative(n: int, k: int, x: Any) -> Any:
    """Return the k-th derivative of besseli(n, x), n of 0 and 1, by DLMF 10.29.5."""
    mean, three = {0: 0.5, 2: 0.5}, {1: 0.75, 3: 0.25}
    terms: list[list[dict[int, float]]] = [[{0: 1.0}, {1: 1.0}, mean], [{1: 1.0}, mean, three]]
    return sum(c * mp.besseli(m, x) for m, c in terms[n][k].items())


def _ie(order: int, n: int, x: Any) -> Any:
    """Return derivatives of exp(-abs(x)) besseli(n, x)."""
    s, e = mp.sign(x), mp.exp(-abs(x))
    f = [_i_derivative(n, k, x) for k in range(order + 1)]
    return e * (f[1] - s * f[0] if order == 1 else f[2] - 2 * s * f[1] + f[0])


sixth = 1 / 6
TURNS = (0.0, 1.5, 3.0, 100.0)
CASES: dict[str, Case] = {
    "abs": Case(tg.abs, lambda x: mp.sign(x), lambda x: mp.mpf(0)),
    "acos": Case(
        tg.acos,
        lambda x: -1 / (mp.sqrt(1 - x) * mp.sqrt(1 + x)),
        lambda x: -x / (mp.sqrt(1 - x) * mp.sqrt(1 + x)) ** 3,
        -1,
        1,
        holomorphic=True,
        corners=(1, -1),
    ),
    "acosh": Case(
        tg.acosh,
        lambda x: 1 / (mp.sqrt(x - 1) * mp.sqrt(x + 1)),
        lambda x: -x / (mp.sqrt(x - 1) * mp.sqrt(x + 1)) ** 3,
        1,
        holomorphic=True,
        corners=(1, -1),
    ),
    "asin": Case(
        tg.asin,
        lambda x: 1 / (mp.sqrt(1 - x) * mp.sqrt(1 + x)),
        lambda x: x / (mp.sqrt(1 - x) * mp.sqrt(1 + x)) ** 3,
        -1,
        1,
        holomorphic=True,
        corners=(1, -1),
    ),
    "asinh": Case(
        tg.asinh,
        lambda x: 1 / mp.sqrt(1 + x * x),
        lambda x: -x / mp.sqrt(1 + x * x) ** 3,
        holomorphic=True,
        corners=(1j, -1j),
    ),
    "atan": Case(
        tg.atan, lambda x: 1 / (1 + x * x), lambda x: -2 * x / (1 + x * x) ** 2, holomorphic=True, corners=(1j, -1j)
    ),
    "atanh": Case(
        tg.atanh,
        lambda x: 1 / (1 - x * x),
        lambda x: 2 * x / (1 - x * x) ** 2,
        -1,
        1,
        holomorphic=True,
        corners=(1, -1),
    ),
    "conj": Case(tg.conj, lambda x: mp.mpf(1), lambda x: mp.mpf(0)),
    "cos": Case(
        tg.cos,
        lambda x: -mp.sin(x),
        lambda x: -mp.cos(x),
        beside=TURNS,
        most_complex=1e3,
        holomorphic=True,
    ),
    "cosh": Case(tg.cosh, mp.sinh, mp.cosh, most=715, holomorphic=True),
    "exp": Case(tg.exp, mp.exp, mp.exp, most=750, holomorphic=True),
    "expm1": Case(tg.expm1, mp.exp, mp.exp, most=750, holomorphic=True),
    "log": Case(tg.log, lambda x: 1 / x, lambda x: -1 / x**2, 0, holomorphic=True),
    "log10": Case(tg.log10, lambda x: 1 / (x * mp.log(10)), lambda x: -1 / (x**2 * mp.log(10)), 0, holomorphic=True),
    "log1p": Case(tg.log1p, lambda x: 1 / (1 + x), lambda x: -1 / (1 + x) ** 2, -1, holomorphic=True, corners=(-1,)),
    "log2": Case(tg.log2, lambda x: 1 / (x * mp.log(2)), lambda x: -1 / (x**2 * mp.log(2)), 0, holomorphic=True),
    "negative": Case(tg.negative, lambda x: mp.mpf(-1), lambda x: mp.mpf(0), holomorphic=True),
    "reciprocal": Case(tg.reciprocal, lambda x: -1 / x**2, lambda x: 2 / x**3, holomorphic=True),
    "sin": Case(tg.sin, mp.cos, lambda x: -mp.sin(x), beside=TURNS, most_complex=1e3, holomorphic=True),
    "sinh": Case(tg.sinh, mp.cosh, mp.sinh, most=715, holomorphic=True),
    "sqrt": Case(tg.sqrt, lambda x: 1 / (2 * mp.sqrt(x)), lambda x: -1 / (4 * mp.sqrt(x) * x), 0, holomorphic=True),
    "square": Case(tg.square, lambda x: 2 * x, lambda x: mp.mpf(2), holomorphic=True),
    "tan": Case(
        tg.tan,
        lambda x: 1 + mp.tan(x) ** 2 if mp.im(x) == 0 else _sech2(mp.j * x),
        lambda x: 2 * mp.tan(x) * (1 + mp.tan(x) ** 2 if mp.im(x) == 0 else _sech2(mp.j * x)),
        beside=TURNS,
        most_complex=1e3,
        holomorphic=True,
        corners=(1.5, -1.5),
    ),
    "tanh": Case(
        tg.tanh,
        _sech2,
        lambda x: -2 * mp.tanh(x) * _sech2(x),
        beside=(0.0, 1.0, 5.0, -20.0, 200.0),
        holomorphic=True,
        corners=(1.5j, -1.5j),
    ),
    "sigmoid": Case(
        tg.sigmoid, _dsigmoid, lambda x: -mp.tanh(x / 2) * _dsigmoid(x), beside=(0.0, 1.0, 5.0, -20.0, 40.0, -500.0)
    ),
    "silu": Case(
        tg.silu,
        lambda x: _sigmoid(x) + x * _dsigmoid(x),
        lambda x: _dsigmoid(x) * (2 - x * mp.tanh(x / 2)),
        beside=(0.0, 1.0, 5.0, -20.0, 40.0, -500.0),
    ),
    "gelu": Case(
        tg.gelu,
        lambda x: mp.erfc(-x / mp.sqrt(2)) / 2 + x * _density(x),
        lambda x: (2 - x * x) * _density(x),
        beside=(0.0, 0.5, 2.5, -3.0, 5.0, -8.0),
    ),
    "gelu by tanh": Case(
        partial(tg.gelu, approximate="tanh"),
        lambda x: _gelu(x, 1),
        lambda x: _gelu(x, 2),
        beside=(0.0, 0.5, 2.5, -3.0, 5.0, -8.0),
    ),
    "erf": Case(sp.erf, _bell, lambda x: -2 * x * _bell(x), beside=(0.0, 1.0, -5.0, 26.0)),
    "erfc": Case(sp.erfc, lambda x: -_bell(x), lambda x: 2 * x * _bell(x), beside=(0.0, 1.0, -5.0, 26.0)),
    "erfcx": Case(
        sp.erfcx,
        lambda x: _erfcx_n(x, 1),
        lambda x: _erfcx_n(x, 2),
        -26.5,
        digits=False,
        beside=(0.0, 1.0, -5.0, 3.0, 10.0, 60.0),
    ),
    "erfinv": Case(sp.erfinv, _erfinv_1, lambda x: 2 * _erfinv(x) * _erfinv_1(x) ** 2, -1, 1),
    "ndtr": Case(sp.ndtr, _density, lambda x: -x * _density(x), beside=(0.0, 1.0, -5.0, 26.0, -37.0)),
    "log_ndtr": Case(
        sp.log_ndtr,
        lambda x: _mills(x) if x > -1e4 else -x - 1 / x + 2 / x**3 - 10 / x**5,
        _log_ndtr_2,
        digits=False,
        beside=(0.0, 1.0, -5.0, 26.0, -37.0),
    ),
    "ndtri": Case(
        sp.ndtri, _ndtri_1, lambda x: _ndtri(x) * _ndtri_1(x) ** 2, 0, 1, digits=False, beside=(0.0, 0.5, 1.0)
    ),
    "expit": Case(sp.expit, _dsigmoid, lambda x: -mp.tanh(x / 2) * _dsigmoid(x)),
    "log_expit": Case(
        sp.log_expit, lambda x: _sigmoid(-x), lambda x: -_dsigmoid(x), beside=(0.0, 1.0, 5.0, -20.0, 40.0, -500.0)
    ),
    "logit": Case(sp.logit, lambda x: 1 / (x * (1 - x)), lambda x: (2 * x - 1) / (x * (1 - x)) ** 2, 0, 1),
    "entr": Case(sp.entr, lambda x: -1 - mp.log(x), lambda x: -1 / x, 0),
    "gammaln": Case(
        sp.gammaln,
        mp.digamma,
        lambda x: mp.polygamma(1, x),
        poles=True,
        digits=False,
        beside=(0.0, 1.0, 2.0, -0.5, -5.5),
    ),
    "digamma": Case(
        sp.digamma,
        lambda x: mp.polygamma(1, x),
        lambda x: mp.polygamma(2, x),
        poles=True,
        digits=False,
        beside=(0.0, 1.0, 2.0, -0.5, -5.5),
    ),
    "polygamma 1": Case(
        lambda x: sp.polygamma(1, x),
        lambda x: mp.polygamma(2, x),
        lambda x: mp.polygamma(3, x),
        poles=True,
        digits=False,
        beside=(0.0, 1.0, 2.0),
    ),
    "polygamma 2": Case(
        lambda x: sp.polygamma(2, x),
        lambda x: mp.polygamma(3, x),
        lambda x: mp.polygamma(4, x),
        poles=True,
        digits=False,
        beside=(0.0, 1.0, 2.0),
    ),
    "i0": Case(sp.i0, lambda x: _i(1, x), lambda x: (_i(0, x) + _i(2, x)) / 2, most=710, beside=(0.0, 1.0, -8.0, 30.0)),
    "i1": Case(
        sp.i1,
        lambda x: (_i(0, x) + _i(2, x)) / 2,
        lambda x: (3 * _i(1, x) + _i(3, x)) / 4,
        most=710,
        beside=(0.0, 1.0, -8.0, 30.0),
    ),
    "i0e": Case(
        sp.i0e,
        lambda x: _ie(1, 0, x),
        lambda x: _ie(2, 0, x),
        most=3e3,
        digits=False,
        beside=(0.0, 1.0, -8.0, 30.0, 1e3),
    ),
    "i1e": Case(
        sp.i1e,
        lambda x: _ie(1, 1, x),
        lambda x: _ie(2, 1, x),
        most=3e3,
        digits=False,
        beside=(0.0, 1.0, -8.0, 30.0, 1e3),
    ),
    "sinc": Case(sp.sinc, lambda x: _sinc(x, 1), lambda x: _sinc(x, 2), beside=(0.0, 1.0, 0.25, 3.5, 100.0)),
    "pow by 2": Case(lambda x: x**2, lambda x: 2 * x, lambda x: mp.mpf(2), holomorphic=True),
    "pow by 3": Case(lambda x: x**3, lambda x: 3 * x**2, lambda x: 6 * x, holomorphic=True),
    "pow by 0.5": Case(
        lambda x: x**0.5, lambda x: 1 / (2 * mp.sqrt(x)), lambda x: -1 / (4 * mp.sqrt(x) * x), 0, holomorphic=True
    ),
    "pow by -2": Case(lambda x: x**-2.0, lambda x: -2 / x**3, lambda x: 6 / x**4, holomorphic=True),
    "pow by 1/6": Case(
        lambda x: x**sixth,
        lambda x: sixth * x ** (mp.mpf(sixth) - 1),
        lambda x: sixth * (mp.mpf(sixth) - 1) * x ** (mp.mpf(sixth) - 2),
        0,
    ),
    "pow of 3": Case(
        lambda x: 3.0**x, lambda x: mp.log(3) * mp.mpf(3) ** x, lambda x: mp.log(3) ** 2 * mp.mpf(3) ** x, most=700
    ),
    "divide by": Case(lambda x: 3.0 / x, lambda x: -3 / x**2, lambda x: 6 / x**3, holomorphic=True),
    "logaddexp 0": Case(
        lambda x: tg.logaddexp(x, 0.0), _sigmoid, _dsigmoid, beside=(0.0, 1.0, 5.0, -20.0, 40.0, -500.0)
    ),
}

for _name in (
    "tanh",
    "sigmoid",
    "silu",
    "gelu",
    "gelu by tanh",
    "erf",
    "erfc",
    "ndtr",
    "expit",
    "log_expit",
    "logaddexp 0",
):
    CASES[_name] = replace(CASES[_name], most=800.0)  # where the slope is a constant, beyond all numbers of a dtype


@dataclass(frozen=True)
class Exception_:
    """Loss of digits: at most `ulp` are lost, or the error is `absolute` ulp of the largest slope."""

    why: str
    ulp: float = ULP
    dtypes: tuple[str, ...] = (*REAL, *COMPLEX)
    orders: tuple[int, ...] = (1, 2)
    where: Callable[[Any], bool] = lambda x: True
    absolute: float = 0.0


_READS_RESULT = "the rule reads the result alone, for speed and memory: 1 less that has no digits left in the tail"
_ROOT = "beside a root, where terms that are each larger cancel"
EXCEPTIONS: dict[str, list[Exception_]] = {
    "tanh": [Exception_(_READS_RESULT, absolute=4.0)],
    "sigmoid": [Exception_(_READS_RESULT, absolute=16.0)],
    "expit": [Exception_(_READS_RESULT, absolute=16.0)],
    "gelu": [
        Exception_(
            "the density from the square of x, rounded, costs x^2 / 2 ulp; all digits would cost half of gelu's time",
            400.0,
            orders=(1,),
            where=lambda x: x < -5,
        ),
        Exception_(_ROOT, orders=(1,), absolute=4.0, where=lambda x: -1 < x < -0.5),
    ],
    "gelu by tanh": [Exception_("1 + tanh left of 0, as the value has it; exact is gelu itself", absolute=200.0)],
    "erfcx": [
        Exception_("exp(x^2) of the library has lost x^2 ulp there, in the value too", 500.0, where=lambda x: x < -1)
    ],
    "log_ndtr": [Exception_("the square of a quotient by erfcx of the library", 12.0, orders=(2,))],
    "ndtri": [Exception_("the square of a quotient by erfcx of the library", 12.0, orders=(2,))],
    "sinc": [
        Exception_("x pi overflows in the library's", np.inf, where=lambda x: abs(x) > np.finfo(x.dtype).max / 4),
        Exception_(_ROOT, 40.0, orders=(2,), absolute=4.0, where=lambda x: abs(x) > 0.6),
    ],
    "gammaln": [Exception_("of the library's digamma left of 0", absolute=4.0, where=lambda x: x < 0)],
    "digamma": [Exception_("of the library's zeta left of 0", absolute=4.0, where=lambda x: x < 0)],
    "polygamma 1": [Exception_("of the library's zeta left of 0", absolute=4.0, where=lambda x: x < 0)],
    "polygamma 2": [Exception_("of the library's zeta left of 0", absolute=4.0, where=lambda x: x < 0)],
    "i0": [Exception_("of the library's i1", 12.0)],
    "i0e": [Exception_("a difference of the library's i0e and i1e", absolute=4.0)],
    "i1e": [Exception_("a difference of the library's i0e and i1e", absolute=4.0)],
    "i1": [Exception_("a sum of terms of which two are each larger", 20.0, orders=(2,))],
    "pow by 1/6": [Exception_("the exponent less 1 is rounded, which costs log(x) / 2 ulp", 400.0)],
    "pow by 0.5": [
        Exception_("complex powers of the library are exp(y log(x)), which costs log(x) ulp", 800.0, COMPLEX, (2,))
    ],
}


# -- points ---------------------------------------------------------------------------------------------------


def _exponents(dtype: str) -> np.ndarray[Any, Any]:
    info = np.finfo(dtype)
    low, high = np.log10(float(info.smallest_normal)), np.log10(float(info.max))
    n = (61 if info.bits == 64 else 41) * (4 if ALL else 1)
    return np.linspace(low + 0.01, high - 0.01, n)


def points(case: Case, dtype: str) -> np.ndarray[Any, Any]:
    """Return real operands: log-spaced to both ends, and to points where something happens."""
    info = np.finfo(dtype)
    far = 10.0 ** _exponents(dtype)
    close = 2.0 ** -np.linspace(0.7, info.nmant, 30 if ALL else 12)
    xs = [far, -far, np.linspace(0.3, 30.0, 67 if ALL else 23), -np.linspace(0.3, 30.0, 67 if ALL else 23)]
    for center in case.beside:
        size = abs(center) or 1.0
        xs += [center + size * close, center - size * close]
    for end in (case.low, case.high):
        if np.isfinite(end):
            xs += [end + close, end - close]
    x = np.unique(np.concatenate(xs).astype(dtype))
    limit = min(case.most, float(info.max))
    inside = (x > case.low) & (x < case.high) & (np.abs(x) <= limit) & (np.abs(x) >= info.smallest_normal)
    if case.poles:
        inside &= (x > 0) | ((x != np.round(x)) & (x > -50))
    return np.asarray(x[inside])


def complex_points(case: Case, dtype: str) -> np.ndarray[Any, Any]:
    """Return complex operands in several directions, from the smallest to the largest and to the corners."""
    info = np.finfo(dtype)
    real = np.float64 if dtype == "complex128" else np.float32
    ways = np.exp(1j * np.pi * np.asarray([0.03, 0.25, 0.4, 0.6, 0.75, 0.97]))
    ways = np.concatenate([ways, ways.conj()])
    far = 10.0 ** _exponents(dtype)[:: 1 if ALL else 3]
    near = np.asarray([0.2, 0.4, 0.7, 1.3, 2.5, 6.0, 15.0, 40.0])
    close = 2.0 ** -np.linspace(1, info.nmant - 2, 20 if ALL else 6)
    z = [np.outer(np.concatenate([far, near]), ways).ravel()]
    z += [(corner + np.outer(close, ways)).ravel() for corner in case.corners]
    out = np.concatenate(z).astype(dtype)
    small = np.minimum(np.abs(out.real), np.abs(out.imag)) < info.smallest_normal
    size = np.maximum(np.abs(out.real), np.abs(out.imag)).astype(real)
    return np.asarray(out[(size <= min(case.most, case.most_complex, float(info.max) / 2)) & ~small])


def exact(x: Any) -> Any:
    """Return a number of NumPy as one of mpmath."""
    return mp.mpc(float(x.real), float(x.imag)) if np.iscomplexobj(x) else mp.mpf(float(x))


@cache
def truth(name: str, dtype: str) -> tuple[np.ndarray[Any, Any], list[list[Any]]]:
    """Return operands and the true derivatives there, both orders."""
    case = CASES[name]
    x = complex_points(case, dtype) if dtype in COMPLEX else points(case, dtype)
    values: list[list[Any]] = [[], []]
    for v in x:
        size = abs(np.log10(float(np.abs(v)))) if case.digits else 0.0
        with mp.workdps(DIGITS + int(3 * size)):
            z = exact(v)
            for order, f in enumerate((case.first, case.second)):
                values[order].append(f(z))
    return x, values


def ulps(got: np.ndarray[Any, Any], true: Sequence[Any], dtype: str) -> np.ndarray[Any, Any]:
    """Return the errors in units in the last place of the true values; of complex ones by their absolute value.

    What is below the smallest normal number, or above the largest, may be given as anything else there.
    """
    info = np.finfo(dtype)
    errors = []
    tiny, most = mp.mpf(float(info.smallest_normal)), mp.mpf(float(info.max))
    eps = mp.mpf(float(info.eps))
    for g, t in zip(got, true, strict=True):
        size = abs(t)
        finite = bool(np.isfinite(g))
        if size > most * (1 - 16 * eps):
            huge = not finite or abs(exact(g)) > most * (1 - 64 * eps)
            nan = bool(np.isnan(g)) and not np.iscomplexobj(got)
            errors.append(0.0 if huge and not nan else np.inf)
        elif not finite:
            errors.append(np.inf)
        else:
            unit = eps * mp.mpf(2) ** mp.floor(mp.log(size, 2)) if size > 0 else tiny
            error = abs(exact(g) - t)
            errors.append(0.0 if error <= 2 * tiny else float(min(error / unit, mp.mpf("1e300"))))
    return np.asarray(errors)


# -- the derivatives that are tested -----------------------------------------------------------------------------


def derivative(f: Function, x: Any, order: int, forward: bool) -> Any:
    """Return the derivative of an elementwise function at all elements."""

    def once(f: Function) -> Function:
        if forward:
            return lambda x: tg.jvp(f, (x,), (tg.ones_like(x),))[1]

        def pull(x: Any) -> Any:
            y, back = tg.vjp(f, x)
            return tg.conj(back(tg.ones_like(y))[0])

        return pull

    for _ in range(order):
        f = once(f)
    with np.errstate(all="ignore"):
        return f(x)


def failures(name: str, dtype: str, device: str = "cpu", modes: Sequence[bool] = (False,)) -> Iterator[str]:
    x, true = truth(name, dtype)
    arg = tg.asarray(x).to_device(device)
    for forward in modes:
        for order in (1, 2):
            got = np.asarray(derivative(CASES[name].f, arg, order, forward).to_device("cpu"))
            assert got.dtype == x.dtype
            errors = ulps(got, true[order - 1], dtype)
            largest = max((abs(v) for v in true[order - 1]), default=0)
            for v, g, t, e in zip(x, got, true[order - 1], errors, strict=True):
                if e <= ULP or excepted(name, dtype, order, v, g, t, e, largest):
                    continue
                mode = "forward" if forward else "reverse"
                yield f"{name} {dtype} order {order} {mode} at {v!r}: {g!r}, not {mp.nstr(t, 18)} ({e:.3g} ulp)"


def excepted(name: str, dtype: str, order: int, x: Any, got: Any, true: Any, error: float, largest: Any) -> bool:
    for row in EXCEPTIONS.get(name, []):
        if dtype in row.dtypes and order in row.orders and row.where(x):
            if error <= row.ulp:
                return True
            unit = float(np.finfo(dtype).eps) * largest
            if row.absolute and bool(np.isfinite(got)) and abs(exact(got) - true) <= row.absolute * unit:
                return True
    return False


SWEEP = [(n, d) for n, c in CASES.items() for d in (*REAL, *(COMPLEX if c.holomorphic else ()))]


@pytest.mark.parametrize(("name", "dtype"), SWEEP)
def test_derivatives_have_all_digits(name: str, dtype: str) -> None:
    found = list(failures(name, dtype, modes=(False, True) if ALL else (False,)))
    assert not found, "\n".join([f"{len(found)} points", *found[:20]])


# -- functions of two operands ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """A function of two operands: derivatives in the first and the second one, then twice in each, then in both.

    positive: whether operands must be; ends: how far from the ends of the dtype they stay; at: other points, for a
    dtype; step: every which exponent is tried.
    For a function of fewer digits `why` says the reason: at most `ulp(x, y)` are lost, or the error counts against
    `sizes(x, y, operands)`, that of the terms whose sum it is. Where these overflow, the derivative may be NaN.
    """

    f: Function
    derivatives: tuple[Function, Function, Function, Function, Function]
    positive: bool = False
    ends: float = 1.0
    at: Callable[[str], Any] | None = None
    step: int = 5
    ulp: Function = lambda x, y: ULP
    why: str = ""
    sizes: Function | None = None
    holomorphic: bool = False


def _zero(x: Any, y: Any) -> Any:
    return mp.mpf(0)


def _one(x: Any, y: Any) -> Any:
    return mp.mpf(1)


def _greater(x: Any, y: Any) -> Any:
    return mp.mpf(1 if x > y else 0.5 if x == y else 0)


def _powers(dtype: str) -> tuple[Any, Any]:
    """Return bases and exponents whose power is a number, from the smallest to the largest."""
    bases = np.concatenate([10.0 ** _exponents(dtype)[:: 2 if ALL else 6], [0.3, 0.9, 1.1, 2.5, 7.0, 1.1]])
    most = 0.9 * np.log(float(np.finfo(dtype).max))
    sizes = np.asarray([-1, -0.6, -0.1, -0.01, -1e-9, 1e-12, 1e-3, 0.03, 0.2, 0.5, 0.9, 1]) * most
    x, size = (v.ravel() for v in np.meshgrid(bases, sizes))
    y = size / np.log(x)
    whole = np.asarray([-3.0, -1.0, 0.5, 1.0, 1.5, 2.0, 3.0])
    x, y = (np.concatenate([a, b.ravel()]) for a, b in zip((x, y), np.meshgrid(bases, whole), strict=True))
    keep = np.abs(np.log(x) * y) <= 1.001 * most
    return x[keep].astype(dtype), y[keep].astype(dtype)


def _neighbours(dtype: str) -> tuple[Any, Any]:
    """Return pairs of which neither is lost beside the other in a sum of exponentials."""
    most = 0.95 * np.log(float(np.finfo(dtype).max))
    far = np.concatenate([10.0 ** _exponents(dtype)[:: 2 if ALL else 6], [0.3, 2.5, 7.0, 40.0]])
    x, d = (
        v.ravel() for v in np.meshgrid(np.concatenate([far, -far]), np.asarray([-1, -0.2, -0.01, 1e-4, 0.03, 0.4, 1]))
    )
    x = x.astype(dtype)
    return x, (x.astype(np.float64) - d * most).astype(dtype)


PAIRS: dict[str, Pair] = {
    "add": Pair(tg.add, (_one, _one, _zero, _zero, _zero), holomorphic=True, step=20),
    "subtract": Pair(tg.subtract, (_one, lambda x, y: -_one(x, y), _zero, _zero, _zero), holomorphic=True, step=20),
    "multiply": Pair(tg.multiply, (lambda x, y: y, lambda x, y: x, _zero, _zero, _one), holomorphic=True),
    "divide": Pair(
        tg.divide,
        (lambda x, y: 1 / y, lambda x, y: -x / y**2, _zero, lambda x, y: 2 * x / y**3, lambda x, y: -1 / y**2),
        holomorphic=True,
    ),
    "pow": Pair(
        tg.pow,
        (
            lambda x, y: y * x ** (y - 1),
            lambda x, y: x**y * mp.log(x),
            lambda x, y: y * (y - 1) * x ** (y - 2),
            lambda x, y: x**y * mp.log(x) ** 2,
            lambda x, y: x ** (y - 1) * (1 + y * mp.log(x)),
        ),
        at=_powers,
        ends=1e3,
        ulp=lambda x, y: ULP + 4 * abs(mp.log(x)),
        why="the exponent less 1, or 2, is rounded, which costs 4 log(x) ulp; by both, a sum of terms of this size",
        sizes=lambda x, y, by: x ** (y - 1) * (1 + abs(y * mp.log(x))) if by in ((0, 1), (1, 0)) else 0,
    ),
    "remainder": Pair(tg.remainder, (_one, lambda x, y: -mp.floor(x / y), _zero, _zero, _zero)),
    "maximum": Pair(tg.maximum, (_greater, lambda x, y: _greater(y, x), _zero, _zero, _zero), step=12),
    "minimum": Pair(tg.minimum, (lambda x, y: _greater(y, x), _greater, _zero, _zero, _zero), step=12),
    "logaddexp": Pair(
        tg.logaddexp,
        (
            lambda x, y: _sigmoid(x - y),
            lambda x, y: _sigmoid(y - x),
            lambda x, y: _dsigmoid(x - y),
            lambda x, y: _dsigmoid(x - y),
            lambda x, y: -_dsigmoid(x - y),
        ),
        at=_neighbours,
        ulp=lambda x, y: ULP + abs(x - y),
        why="the difference of the operands is rounded, which costs as many ulp",
    ),
    "hypot": Pair(
        tg.hypot,
        (
            lambda x, y: x / mp.hypot(x, y),
            lambda x, y: y / mp.hypot(x, y),
            lambda x, y: y * y / mp.hypot(x, y) ** 3,
            lambda x, y: x * x / mp.hypot(x, y) ** 3,
            lambda x, y: -x * y / mp.hypot(x, y) ** 3,
        ),
        ends=4.0,
        why="a difference of terms of this size",
        sizes=lambda x, y, by: 1 / mp.hypot(x, y) if len(by) == 2 else 0,
    ),
    "atan2": Pair(
        tg.atan2,
        (
            lambda x, y: y / (x * x + y * y),
            lambda x, y: -x / (x * x + y * y),
            lambda x, y: -2 * x * y / (x * x + y * y) ** 2,
            lambda x, y: 2 * x * y / (x * x + y * y) ** 2,
            lambda x, y: (x - y) * (x + y) / (x * x + y * y) ** 2,
        ),
        ends=1e3,
        why="by both, a difference of terms of this size",
        sizes=lambda x, y, by: 1 / (x * x + y * y) if by in ((0, 1), (1, 0)) else 0,
    ),
    "copysign": Pair(tg.copysign, (lambda x, y: mp.sign(x) * mp.sign(y), _zero, _zero, _zero, _zero), step=12),
    "xlogy": Pair(
        sp.xlogy,
        (lambda x, y: mp.log(y), lambda x, y: x / y, _zero, lambda x, y: -x / y**2, lambda x, y: 1 / y),
        positive=True,
    ),
    "xlog1py": Pair(
        sp.xlog1py,
        (
            lambda x, y: mp.log1p(y),
            lambda x, y: x / (1 + y),
            _zero,
            lambda x, y: -x / (1 + y) ** 2,
            lambda x, y: 1 / (1 + y),
        ),
        positive=True,
    ),
    "rel_entr": Pair(
        sp.rel_entr,
        (
            lambda x, y: 1 + mp.log(x / y),
            lambda x, y: -x / y,
            lambda x, y: 1 / x,
            lambda x, y: x / y**2,
            lambda x, y: -1 / y,
        ),
        positive=True,
        why="1 plus a logarithm",
        sizes=lambda x, y, by: 1 if by == (0,) else 0,
    ),
    "betaln": Pair(
        sp.betaln,
        (
            lambda x, y: mp.digamma(x) - mp.digamma(x + y),
            lambda x, y: mp.digamma(y) - mp.digamma(x + y),
            lambda x, y: mp.polygamma(1, x) - mp.polygamma(1, x + y),
            lambda x, y: mp.polygamma(1, y) - mp.polygamma(1, x + y),
            lambda x, y: -mp.polygamma(1, x + y),
        ),
        positive=True,
        ulp=lambda x, y: 16.0,
        why="a sum of 18 positive terms",
        ends=4.0,
        step=20,
    ),
}


def pairs(pair: Pair, dtype: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    if pair.at is not None:
        x, y = pair.at(dtype)
    else:
        exponents = _exponents(dtype)[:: 2 if ALL else pair.step]
        values = np.concatenate([10.0**exponents, np.asarray([0.3, 0.9, 1.0, 1.1, 2.5, 7.0])])
        if dtype in COMPLEX:
            values = np.concatenate([values * (0.6 + 0.8j), values * (0.3 - 0.95j)]) / 2
        elif not pair.positive:
            values = np.concatenate([values, -values])
        x, y = (v.ravel() for v in np.meshgrid(values.astype(dtype), values.astype(dtype)))
    info = np.finfo(dtype)
    sizes = np.abs(np.stack([x, y]))
    keep = np.all((sizes <= float(info.max) / pair.ends) & (sizes >= float(info.smallest_normal) * pair.ends), axis=0)
    return x[keep], y[keep]


# The operands that derivatives are by, one after the other; both mixed ones are the same number.
ORDERS = ((0,), (1,), (0, 0), (1, 1), (0, 1), (1, 0))


def partial_derivative(f: Function, x: Any, y: Any, operands: Sequence[int]) -> Any:
    """Return a partial derivative of an elementwise function of two operands at all elements."""

    def by(g: Function, operand: int) -> Function:
        def slope(x: Any, y: Any) -> Any:
            out, back = tg.vjp(g, x, y)
            return tg.conj(back(tg.ones_like(out))[operand])

        return slope

    for operand in operands:
        f = by(f, operand)
    with np.errstate(all="ignore"):
        return f(x, y)


@pytest.mark.parametrize(
    ("name", "dtype"), [(n, d) for n, c in PAIRS.items() for d in (*REAL, *(COMPLEX if c.holomorphic else ()))]
)
def test_derivatives_in_two_operands_have_all_digits(name: str, dtype: str) -> None:
    pair = PAIRS[name]
    x, y = pairs(pair, dtype)
    found = []
    eps, most = float(np.finfo(dtype).eps), float(np.finfo(dtype).max)
    gaps = 2 * np.abs(np.log10(np.abs(x).astype(float)) - np.log10(np.abs(y).astype(float)))
    points = [(a, b, DIGITS + int(gap)) for a, b, gap in zip(x, y, gaps, strict=True)]
    true: list[Any] = []
    for f in pair.derivatives:
        true.append([])
        for a, b, digits in points:
            with mp.workdps(digits):
                true[-1].append(f(exact(a), exact(b)))
    for operands, values in zip(ORDERS, (*true, true[-1]), strict=True):
        got = np.asarray(partial_derivative(pair.f, tg.asarray(x), tg.asarray(y), operands))
        for a, b, g, t, e in zip(x, y, got, values, ulps(got, values, dtype), strict=True):
            if e > ULP and e > pair.ulp(exact(a), exact(b)):
                size = 0 if pair.sizes is None else pair.sizes(exact(a), exact(b), operands)
                if not (size > most or (np.isfinite(g) and abs(exact(g) - t) <= ULP * eps * size)):
                    found.append(f"{name} by {operands} at {a!r}, {b!r}: {g!r}, not {mp.nstr(t, 18)} ({e:.3g} ulp)")
    assert not found, "\n".join([f"{len(found)} points", *found[:30]])


def test_every_operation_on_two_operands_is_measured() -> None:
    public = {name: op for name, op in OPERATIONS.items() if hasattr(tg, name) or hasattr(sp, name)}
    two = {name for name, op in public.items() if op.elementwise and op.broadcasts and len(op.vjps) == 2}
    assert two == {*PAIRS, "gammainc", "gammaincc"}  # the latter in test_incomplete_gamma
