"""Special functions by SciPy's names: error functions, the normal and the logistic distribution, entropies.

Where there is a slope from one side only it is that one, perhaps infinite; where there is none, though the function has
a value, it is 0. A rule moves an argument out of harm before it computes from it, so that its own derivative is finite
as well.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import pi, sqrt
from typing import Any

from tapegrad._elementwise import binary, unary
from tapegrad._operands import as_tensors
from tapegrad._rules import Rule, composed, publish
from tapegrad._tensor import Tensor
from tapegrad.ops._kinks import ratio
from tapegrad.ops._text import text
from tapegrad.ops.training import sigmoid

_BELL = 2 / sqrt(pi)  # the slope of erf at 0
_NORMAL = 1 / sqrt(2 * pi)  # the slope of ndtr at 0

special = partial(unary, extension="special", module=__name__)


def special_binary(
    name: str, differential1: Rule, differential2: Rule, doc: str, module: str = __name__
) -> Callable[[Any, Any], Tensor]:
    """Declare a special function of two operands by its differential in each."""
    function, _ = binary(name, differential1, differential2, doc, extension="special", module=module)

    def call(x1: Any, x2: Any, /) -> Tensor:
        if type(x1) is not Tensor or type(x2) is not Tensor:
            x1, x2 = as_tensors(name, x1, x2)  # SciPy and rules do not take a number for weak
        return function(x1, x2)

    return publish(call, name, doc, module)  # type: ignore[no-any-return]


def _within(xp: Any, x: Any) -> Any:
    """Return x limited to where a Gaussian is not 0, so that its derivatives have no 0 * inf."""
    return xp.minimum(xp.maximum(x, -40.0), 40.0)


def _bell(xp: Any, t: Any, x: Any) -> Any:
    z = _within(xp, x)
    return t * (_BELL * xp.exp(-(z * z)))


def _normal(xp: Any, t: Any, x: Any) -> Any:
    z = _within(xp, x)
    return t * (_NORMAL * xp.exp(-0.5 * (z * z)))


# -- error functions -----------------------------------------------------------------------------------


def _erfinv(xp: Any, t: Any, out: Any) -> Any:
    return t * (xp.exp(out * out) / _BELL)


def _erfcx(xp: Any, t: Any, x: Any, out: Any) -> Any:
    far = x > 100  # 2 x out comes near 2 / sqrt(pi) there: DLMF 7.12.1 instead
    s = xp.where(far, 1 / xp.where(far, x, 1), 0) ** 2
    tail = (-0.5 * _BELL) * s * (1 - s * (1.5 - s * (3.75 - 13.125 * s)))
    near = 2 * xp.where(far, 0, x) * xp.where(far, 0, out) - _BELL
    return t * xp.where(far, tail, near)


erf = special(
    "erf",
    _bell,
    text(
        "Error function, DLMF 7.2.1.",
        "Derivative: t 2 exp(-x^2) / sqrt(pi).",
        "tg.special.erf(tg.asarray(0.0))",
        "Tensor(0.)",
    ),
)

erfc = special(
    "erfc",
    lambda xp, t, x: -_bell(xp, t, x),
    text(
        "1 - erf(x), precise where that is near 0: DLMF 7.2.2.",
        "Derivative: -t 2 exp(-x^2) / sqrt(pi).",
        "tg.special.erfc(tg.asarray(0.0))",
        "Tensor(1.)",
    ),
)

erfcx = special(
    "erfcx",
    _erfcx,
    text(
        "exp(x^2) erfc(x), without overflow for positive x: DLMF 7.2.3 at i x.",
        "Derivative: t (2 x out - 2 / sqrt(pi)), by its asymptotic series for large x.",
        "tg.special.erfcx(tg.asarray(0.0))",
        "Tensor(1.)",
    ),
)

erfinv = special(
    "erfinv",
    _erfinv,
    text(
        "Inverse of erf, DLMF 7.17.1: infinite at -1 and 1, NaN beyond.",
        "Derivative: t exp(out^2) sqrt(pi) / 2, inf at -1 and 1.",
        "tg.special.erfinv(tg.asarray(0.0))",
        "Tensor(0.)",
    ),
)


# -- the normal distribution ------------------------------------------------------------------------------


def _log_ndtr(xp: Any, t: Any, x: Any, out: Any) -> Any:
    # The density over ndtr: by erfcx on the left, where the logarithms of both are large and nearly the same.
    left = x < 0
    z = xp.where(left, x * -sqrt(0.5), 0)
    right = xp.exp(-0.5 * _within(xp, xp.where(left, 0, x)) ** 2 - xp.where(left, 0, out))
    return xp.where(left, t * (2 * _NORMAL) / xp.special.erfcx(z), t * (_NORMAL * right))


def _ndtri(xp: Any, t: Any, out: Any) -> Any:
    return t * (xp.exp(0.5 * (out * out)) / _NORMAL)


ndtr = special(
    "ndtr",
    _normal,
    text(
        "Distribution function of the standard normal distribution: erfc(-x / sqrt(2)) / 2.",
        "Derivative: t exp(-x^2 / 2) / sqrt(2 pi).",
        "tg.special.ndtr(tg.asarray(0.0))",
        "Tensor(0.5)",
    ),
)

log_ndtr = special(
    "log_ndtr",
    _log_ndtr,
    text(
        "Logarithm of ndtr, without underflow for negative x.",
        "Derivative: t exp(-x^2 / 2 - out) / sqrt(2 pi), for negative x as t sqrt(2 / pi) / erfcx(-x / sqrt(2)) (DLMF "
        "7.8.1).",
        "tg.special.log_ndtr(tg.asarray(0.0))",
        "Tensor(-0.69314718)",
    ),
)

ndtri = special(
    "ndtri",
    _ndtri,
    text(
        "Inverse of ndtr: infinite at 0 and 1, NaN beyond.",
        "Derivative: t sqrt(2 pi) exp(out^2 / 2), inf at 0 and 1.",
        "tg.special.ndtri(tg.asarray(0.5))",
        "Tensor(0.)",
    ),
)


# -- the logistic distribution ----------------------------------------------------------------------------


@composed
def expit(x: Any, /) -> Tensor:
    """1 / (1 + exp(-x)): `tapegrad.sigmoid` under SciPy's name.

    Derivative: t out (1 - out).

    >>> import tapegrad as tg
    >>> tg.special.expit(tg.asarray(0.0))
    Tensor(0.5)
    """
    return sigmoid(x)


log_expit = special(
    "log_expit",
    lambda xp, t, x: t * xp.sigmoid(-x),
    text(
        "Logarithm of expit, without underflow.",
        "Derivative: t expit(-x).",
        "tg.special.log_expit(tg.asarray(-1000.0))",
        "Tensor(-1000.)",
    ),
)

logit = special(
    "logit",
    lambda xp, t, x: t / (x * (1 - x)),
    text(
        "log(x / (1 - x)), the inverse of expit: infinite at 0 and 1, NaN beyond.",
        "Derivative: t / (x (1 - x)), inf at 0 and 1.",
        "tg.special.logit(tg.asarray(0.5))",
        "Tensor(0.)",
    ),
)


# -- entropies --------------------------------------------------------------------------------------------


def _entr(xp: Any, t: Any, x: Any) -> Any:
    outside = x < 0
    return xp.where(outside, 0, -t * (1 + xp.log(xp.where(outside, 1, x))))


def _rel_entr_1(xp: Any, t: Any, x1: Any, x2: Any) -> Any:
    dead = (x1 < 0) | (x2 < 0) | ((x1 == 0) & (x2 == 0))
    a, b = xp.where(dead, 1, x1), xp.where(dead, 1, x2)
    return xp.where(dead, 0, t * (1 + xp.log(a) - xp.log(b)))


def _rel_entr_2(xp: Any, t: Any, x1: Any, x2: Any) -> Any:
    dead = (x1 < 0) | (x2 < 0)
    return -t * ratio(xp, xp.where(dead, 0, x1), xp.where(dead, 1, x2))


entr = special(
    "entr",
    _entr,
    text(
        "-x log(x), 0 at 0 and -inf for negative x.",
        "Derivative: -t (1 + log(x)), inf at 0 and 0 for negative x.",
        "tg.special.entr(tg.asarray(1.0))",
        "Tensor(-0.)",
    ),
)

rel_entr = special_binary(
    "rel_entr",
    _rel_entr_1,
    _rel_entr_2,
    text(
        "x1 log(x1 / x2) for positive operands, 0 for x1 = 0 <= x2, else inf.",
        "Derivatives: t (1 + log(x1 / x2)), -inf at x1 = 0; -t x1 / x2; both 0 for negative operands and at (0, 0).",
        "tg.special.rel_entr(tg.asarray(1.0), 1.0)",
        "Tensor(0.)",
    ),
)

xlogy = special_binary(
    "xlogy",
    lambda xp, t, x2: t * xp.log(x2),
    lambda xp, t, x1, x2: t * ratio(xp, x1, x2),
    text(
        "x1 log(x2), 0 for x1 = 0.",
        "Derivatives: t log(x2), -inf at x2 = 0 and NaN below; t x1 / x2, 0 at (0, 0).",
        "tg.special.xlogy(tg.asarray(0.0), 0.0)",
        "Tensor(0.)",
    ),
)

xlog1py = special_binary(
    "xlog1py",
    lambda xp, t, x2: t * xp.log1p(x2),
    lambda xp, t, x1, x2: t * ratio(xp, x1, 1 + x2),
    text(
        "x1 log(1 + x2), precise for small x2, 0 for x1 = 0.",
        "Derivatives: t log(1 + x2), -inf at x2 = -1 and NaN below; t x1 / (1 + x2), 0 at (0, -1).",
        "tg.special.xlog1py(tg.asarray(0.0), -1.0)",
        "Tensor(0.)",
    ),
)
