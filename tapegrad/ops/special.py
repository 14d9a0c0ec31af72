"""Special functions by SciPy's names: error functions, the normal and the logistic distribution, entropies.

Where there is a slope from one side only it is that one, perhaps infinite; where there is none, though the function has
a value, it is 0. A rule moves an argument out of harm before it computes from it, so that its own derivative is finite
as well.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf, pi, sqrt
from typing import Any

from tapegrad._engine.coercion import as_tensors
from tapegrad._engine.elementwise import binary, unary
from tapegrad._engine.rules import Rule, composed, publish
from tapegrad._engine.tensor import Tensor
from tapegrad.ops import _slopes
from tapegrad.ops._kinks import ratio
from tapegrad.ops._slopes import NORMAL, gaussian, normal, slope, within
from tapegrad.ops._text import FLOATING, SPECIAL, documented, of_one, of_two
from tapegrad.ops.activations import sigmoid
from tapegrad.typing import ArrayLike

_BELL = 2 / sqrt(pi)  # the slope of erf at 0

_OWN: Any = {"extension": "special"}

special = partial(unary, extension="special", module=__name__)


def special_binary(
    name: str, differential1: Rule, differential2: Rule, doc: str, module: str = __name__
) -> Callable[[ArrayLike, ArrayLike], Tensor]:
    """Declare a special function of two operands by its differential in each."""
    function, _ = binary(name, differential1, differential2, doc, extension="special", module=module)

    def call(x1: ArrayLike, x2: ArrayLike, /) -> Tensor:
        if type(x1) is not Tensor or type(x2) is not Tensor:
            x1, x2 = as_tensors(name, x1, x2)  # SciPy and rules do not take a number for weak
        return function(x1, x2)

    return publish(call, name, doc, module)  # type: ignore[no-any-return]


_bell_of = slope(
    "erf", lambda xp, x: _BELL * gaussian(xp, x, 1.0), lambda xp, t, x, out: -2 * t * (within(xp, x) * out), **_OWN
)


def _bell(xp: Any, t: Any, x: Any) -> Any:
    return t * _bell_of(xp, x)


def _normal(xp: Any, t: Any, x: Any) -> Any:
    return t * normal(xp, x)


# Coefficients of Chebyshev polynomials in (z - 3) / (z + 3), fitted with mpmath for z >= 0 to
# (1 - sqrt(pi) z erfcx(z)) (1 + 2 z^2): the error is below 1e-17.
_REMAINDER = (
    *(0.8983020427745623, 0.11262785225761364, 0.03571305852948175, -0.08726578763158488),
    *(0.059453479214879104, -0.02438560091618397, 0.006522770600882268, -0.001005650624929731),
    *(1.2794620962747412e-05, 2.978488482221082e-05, -4.347826728577626e-06, -6.093356111432701e-07),
    *(2.10743212981155e-07, 1.1652759571892747e-08, -9.038074775178108e-09, -3.030761419449976e-10),
    *(3.982604818145382e-10, 1.7577574077580366e-11, -1.8236389678792617e-11, -1.5040092032031944e-12),
    *(8.316356698523843e-13, 1.2574718318109538e-13, -3.4581066655988014e-14, -9.476313500734717e-15),
    *(1.0395855246885352e-15, 6.309879635822399e-16, 8.575482470432927e-18, -3.562663873637638e-17),
)


def _remainder(xp: Any, z: Any) -> Any:
    """Return (1 - sqrt(pi) z erfcx(z)) (1 + 2 z^2) for z >= 0, where the difference has lost its digits."""
    return _chebyshev(1 - 6 / (z + 3), _REMAINDER)


def _chebyshev(w: Any, coefficients: tuple[float, ...]) -> Any:
    """Return the sum of Chebyshev polynomials with these coefficients at w, by Clenshaw's recurrence."""
    first, *rest = coefficients
    b, after = 0.0 * w, 0.0 * w
    for c in reversed(rest):
        b, after = 2 * w * b - after + c, b
    return w * b - after + first


# -- error functions -----------------------------------------------------------------------------------


def _erfinv_of(xp: Any, x: Any, y: Any) -> Any:
    """Return the slope of erfinv at x, given its value: near the ends from 1 - x, which has more digits than that."""
    rest = 1 - xp.abs(x)
    end = rest == 0
    tail = xp.where(end, inf, xp.special.erfcx(xp.abs(y)) / xp.where(end, 1, rest))
    return xp.where(rest > 0.5, xp.exp(y * y), tail) / _BELL


_erfinv_slope = slope(
    "erfinv",
    lambda xp, x: _erfinv_of(xp, x, xp.special.erfinv(x)),
    lambda xp, t, x, out: 2 * t * xp.special.erfinv(x) * out * out,
    **_OWN,
)


def _erfinv(xp: Any, t: Any, x: Any, out: Any) -> Any:
    return t * (_erfinv_slope(xp, x) if type(x) is Tensor else _erfinv_of(xp, x, out))


def _erfcx(xp: Any, t: Any, x: Any, out: Any) -> Any:
    left = x < 0.25
    z = xp.where(left, 0, x)
    q = xp.hypot(z, sqrt(0.5))
    right = -0.5 * _BELL * (_remainder(xp, z) / q / q)
    return t * xp.where(left, 2 * xp.where(left, x, 0) * xp.where(left, out, 0) - _BELL, right)


erf = special(
    "erf",
    _bell,
    of_one(
        "Error function, DLMF 7.2.1.",
        "Derivative: t 2 exp(-x^2) / sqrt(pi).",
        "tg.special.erf(tg.asarray(0.0))",
        "Tensor(0.)",
        SPECIAL,
    ),
)

erfc = special(
    "erfc",
    lambda xp, t, x: -_bell(xp, t, x),
    of_one(
        "Complementary error function 1 - erf(x), precise where that is near 0: DLMF 7.2.2.",
        "Derivative: -t 2 exp(-x^2) / sqrt(pi).",
        "tg.special.erfc(tg.asarray(0.0))",
        "Tensor(1.)",
        SPECIAL,
    ),
)

erfcx = special(
    "erfcx",
    _erfcx,
    of_one(
        "Scaled error function exp(x^2) erfc(x), without overflow for positive x: DLMF 7.2.3 at i x.",
        "Derivative: t (2 x out - 2 / sqrt(pi)), by its asymptotic series for large x.",
        "tg.special.erfcx(tg.asarray(0.0))",
        "Tensor(1.)",
        SPECIAL,
    ),
)

erfinv = special(
    "erfinv",
    _erfinv,
    of_one(
        "Inverse of erf, DLMF 7.17.1: infinite at -1 and 1, NaN beyond.",
        "Derivative: t exp(out^2) sqrt(pi) / 2, inf at -1 and 1.",
        "tg.special.erfinv(tg.asarray(0.0))",
        "Tensor(0.)",
        SPECIAL,
    ),
)


# -- the normal distribution ------------------------------------------------------------------------------


def _log_ndtr_of(xp: Any, x: Any, out: Any) -> Any:
    """Return the density over ndtr: by erfcx on the left, where the logarithms of both are large and nearly equal."""
    left = x < 0
    z = xp.where(left, x * -sqrt(0.5), 0)
    right = NORMAL * gaussian(xp, xp.where(left, 0, x), 0.5) * xp.exp(-xp.where(left, 0, out))
    return xp.where(left, 2 * NORMAL / xp.special.erfcx(z), right)


def _log_ndtr_differential(xp: Any, t: Any, x: Any, out: Any) -> Any:
    # -out (x + out), where x + out is out (1 - sqrt(pi) z erfcx(z)) on the left.
    left = x < 0
    z = xp.where(left, x * -sqrt(0.5), 0)
    ratio = xp.where(left, out, 0) / xp.hypot(xp.where(left, x, 0), 1.0)
    right = xp.where(left, 0, out) * (within(xp, xp.where(left, 0, x)) + xp.where(left, 0, out))
    return -t * xp.where(left, ratio * ratio * _remainder(xp, z), right)


_log_ndtr_slope = slope(
    "log_ndtr", lambda xp, x: _log_ndtr_of(xp, x, xp.special.log_ndtr(x)), _log_ndtr_differential, **_OWN
)


def _log_ndtr(xp: Any, t: Any, x: Any, out: Any) -> Any:
    return t * (_log_ndtr_slope(xp, x) if type(x) is Tensor else _log_ndtr_of(xp, x, out))


def _ndtri_of(xp: Any, x: Any, z: Any) -> Any:
    """Return the slope of ndtri at x, given its value: from x or 1 - x, whichever is less."""
    rest = xp.minimum(x, 1 - x)
    end = rest == 0
    return xp.where(end, inf, xp.special.erfcx(xp.abs(z) * sqrt(0.5)) / xp.where(end, 1, rest)) / (2 * NORMAL)


_ndtri_slope = slope(
    "ndtri",
    lambda xp, x: _ndtri_of(xp, x, xp.special.ndtri(x)),
    lambda xp, t, x, out: t * xp.special.ndtri(x) * out * out,
    **_OWN,
)


def _ndtri(xp: Any, t: Any, x: Any, out: Any) -> Any:
    return t * (_ndtri_slope(xp, x) if type(x) is Tensor else _ndtri_of(xp, x, out))


ndtr = special(
    "ndtr",
    _normal,
    of_one(
        "Distribution function of the standard normal distribution: erfc(-x / sqrt(2)) / 2.",
        "Derivative: t exp(-x^2 / 2) / sqrt(2 pi).",
        "tg.special.ndtr(tg.asarray(0.0))",
        "Tensor(0.5)",
        SPECIAL,
    ),
)

log_ndtr = special(
    "log_ndtr",
    _log_ndtr,
    of_one(
        "Logarithm of ndtr, without underflow for negative x.",
        "Derivative: t exp(-x^2 / 2 - out) / sqrt(2 pi), for negative x as t sqrt(2 / pi) / erfcx(-x / sqrt(2)) (DLMF "
        "7.8.1).",
        "tg.special.log_ndtr(tg.asarray(0.0))",
        "Tensor(-0.69314718)",
        SPECIAL,
    ),
)

ndtri = special(
    "ndtri",
    _ndtri,
    of_one(
        "Inverse of ndtr: infinite at 0 and 1, NaN beyond.",
        "Derivative: t sqrt(2 pi) exp(out^2 / 2), inf at 0 and 1.",
        "tg.special.ndtri(tg.asarray(0.5))",
        "Tensor(0.)",
        SPECIAL,
    ),
)


# -- the logistic distribution ----------------------------------------------------------------------------


@composed
@documented(f"The shape is that of `x`. {FLOATING.result}", x=FLOATING.operands)
def expit(x: ArrayLike, /) -> Tensor:
    """Logistic function 1 / (1 + exp(-x)): `tapegrad.sigmoid` under SciPy's name.

    Derivative: t out (1 - out).

    >>> import tapegrad as tg
    >>> tg.special.expit(tg.asarray(0.0))
    Tensor(0.5)
    """
    return sigmoid(x)


log_expit = special(
    "log_expit",
    lambda xp, t, x: t * _slopes.log_expit(xp, x),
    of_one(
        "Logarithm of expit, without underflow.",
        "Derivative: t expit(-x).",
        "tg.special.log_expit(tg.asarray(-1000.0))",
        "Tensor(-1000.)",
        SPECIAL,
    ),
)

logit = special(
    "logit",
    lambda xp, t, x: t * _slopes.logit(xp, x),
    of_one(
        "Log-odds log(x / (1 - x)), the inverse of expit: infinite at 0 and 1, NaN beyond.",
        "Derivative: t / (x (1 - x)), inf at 0 and 1.",
        "tg.special.logit(tg.asarray(0.5))",
        "Tensor(0.)",
        SPECIAL,
    ),
)


# -- entropies --------------------------------------------------------------------------------------------


def _entr(xp: Any, t: Any, x: Any) -> Any:
    outside = x < 0
    return xp.where(outside, 0, -t * (1 + xp.log(xp.where(outside, 1, x))))


def _rel_entr_1(xp: Any, t: Any, x1: Any, x2: Any) -> Any:
    dead = (x1 < 0) | (x2 < 0) | ((x1 == 0) & (x2 == 0))
    a, b = xp.where(dead, 1, x1), xp.where(dead, 1, x2)
    near = (a > 1e-30 * b) & (b > 1e-30 * a)  # the difference of two large logarithms has lost digits
    log = xp.where(near, xp.log(xp.where(near, a / b, 1)), xp.log(a) - xp.log(b))
    return xp.where(dead, 0, t * (1 + log))


def _rel_entr_2(xp: Any, t: Any, x1: Any, x2: Any) -> Any:
    dead = (x1 < 0) | (x2 < 0)
    return -t * ratio(xp, xp.where(dead, 0, x1), xp.where(dead, 1, x2))


entr = special(
    "entr",
    _entr,
    of_one(
        "Entropy -x log(x), 0 at 0 and -inf for negative x.",
        "Derivative: -t (1 + log(x)), inf at 0 and 0 for negative x.",
        "tg.special.entr(tg.asarray(1.0))",
        "Tensor(-0.)",
        SPECIAL,
    ),
)

rel_entr = special_binary(
    "rel_entr",
    _rel_entr_1,
    _rel_entr_2,
    of_two(
        "Relative entropy x1 log(x1 / x2) of positive operands; 0 for x1 = 0 <= x2, else inf.",
        "Derivatives: t (1 + log(x1 / x2)), -inf at x1 = 0; -t x1 / x2; both 0 for negative operands and at (0, 0).",
        "tg.special.rel_entr(tg.asarray(1.0), 1.0)",
        "Tensor(0.)",
        SPECIAL,
    ),
)

xlogy = special_binary(
    "xlogy",
    lambda xp, t, x2: t * xp.log(x2),
    lambda xp, t, x1, x2: t * ratio(xp, x1, x2),
    of_two(
        "Product x1 log(x2), 0 for x1 = 0.",
        "Derivatives: t log(x2), -inf at x2 = 0 and NaN below; t x1 / x2, 0 at (0, 0).",
        "tg.special.xlogy(tg.asarray(0.0), 0.0)",
        "Tensor(0.)",
        SPECIAL,
    ),
)

xlog1py = special_binary(
    "xlog1py",
    lambda xp, t, x2: t * xp.log1p(x2),
    lambda xp, t, x1, x2: t * ratio(xp, x1, 1 + x2),
    of_two(
        "Product x1 log(1 + x2), precise for small x2, 0 for x1 = 0.",
        "Derivatives: t log(1 + x2), -inf at x2 = -1 and NaN below; t x1 / (1 + x2), 0 at (0, -1).",
        "tg.special.xlog1py(tg.asarray(0.0), -1.0)",
        "Tensor(0.)",
        SPECIAL,
    ),
)
