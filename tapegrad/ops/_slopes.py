"""Slopes of elementwise functions whose own derivative keeps its digits only in a form of its own.

A rule that computes a slope is differentiated as it is written. Where that cancels or overflows, the slope is an
operation: on raw arrays the plain formula, as quick as before, and on Tensors one record with a derivative by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt
from typing import Any

from tapegrad._engine.dtypes import as_dtype, is_complex
from tapegrad._engine.elementwise import unary
from tapegrad._engine.rules import Rule
from tapegrad._engine.tensor import Tensor

Slope = Callable[[Any, Any], Any]


def slope(name: str, value: Slope, differential: Rule, safe: float = 0.5, extension: str = "") -> Slope:
    """Return the slope of a function as `f(xp, x)`, for rules on raw arrays and on Tensors.

    value: the same on raw arrays; differential: as that of an operation, see `unary`, which has `safe` and `extension`.
    """
    on_tensors = unary(
        f"{name} slope", differential, f"The slope of {name}.", forward=value, safe=safe, extension=extension
    )

    def call(xp: Any, x: Any) -> Any:
        return on_tensors(x) if type(x) is Tensor else value(xp, x)

    return call


# -- inverse trigonometric and hyperbolic functions --------------------------------------------------------
# Products of factors in place of 1 - x^2 lose no digits beside its zeros. Roots of complex factors do not overflow, and
# have the right branch.


def _asin(xp: Any, x: Any) -> Any:
    if is_complex(x.dtype):
        return 1 / (xp.sqrt(1 - x) * xp.sqrt(1 + x))
    return 1 / xp.sqrt((1 - x) * (1 + x))


def _acosh(xp: Any, x: Any) -> Any:
    return 1 / (xp.sqrt(x - 1) * xp.sqrt(x + 1))  # sqrt(x^2 - 1) has other branch cuts


def _asinh(xp: Any, x: Any) -> Any:
    if is_complex(x.dtype):
        return 1 / (xp.sqrt(1 - 1j * x) * xp.sqrt(1 + 1j * x))
    return 1 / xp.hypot(x, 1.0)


def _atan(xp: Any, x: Any) -> Any:
    if is_complex(x.dtype):
        return 1 / (x - 1j) / (x + 1j)
    return 1 / (1 + x * x)


def _atanh(xp: Any, x: Any) -> Any:
    if is_complex(x.dtype):
        return 1 / (1 - x) / (1 + x)
    return 1 / ((1 - x) * (1 + x))


asin = slope("asin", _asin, lambda xp, t, x, out: t * (x * out) / (1 - x) / (1 + x))
acosh = slope("acosh", _acosh, lambda xp, t, x, out: -t * (x * out) / (x - 1) / (x + 1), safe=2.0)
asinh = slope("asinh", _asinh, lambda xp, t, x, out: -t * (x * out) * out * out)
atan = slope("atan", _atan, lambda xp, t, x, out: -2 * t * (x * out) * out)
atanh = slope("atanh", _atanh, lambda xp, t, x, out: 2 * t * (x * out) * out)


# -- tangents and the logistic distribution ------------------------------------------------------------------
# 1 - sigmoid(x) is sigmoid(-x), which keeps its digits where sigmoid(x) is nearly 1. The slopes of tanh and sigmoid are
# functions of the libraries' namespaces, and these are theirs on Tensors, for derivatives of any order.


def _library(name: str, differential: Rule) -> Callable[[Any], Tensor]:
    """Declare a slope that libraries have; its forward function is traced where calls are launches."""
    return unary(name, differential, name, forward=lambda xp, x: getattr(xp, name)(x), module=__name__)


tanh_slope = _library("tanh_slope", lambda xp, t, x, out: -2 * t * out * xp.tanh(x))
sigmoid_slope = _library("sigmoid_slope", lambda xp, t, x, out: -t * out * xp.tanh(0.5 * x))


def _tan(xp: Any, x: Any) -> Any:
    if is_complex(x.dtype):
        return xp.tanh_slope(1j * x)
    sec = 1 / xp.cos(x)
    return sec * sec


tan = slope("tan", _tan, lambda xp, t, x, out: 2 * t * out * xp.tan(x))

share = slope("logaddexp", lambda xp, x: xp.sigmoid(x), lambda xp, t, x: t * xp.sigmoid_slope(x))
log_expit = slope("log_expit", lambda xp, x: xp.sigmoid(-x), lambda xp, t, x: -t * xp.sigmoid_slope(x))
logit = slope("logit", lambda xp, x: 1 / (x * (1 - x)), lambda xp, t, x, out: t * (2 * x - 1) * out * out)


def silu_of(xp: Any, x: Any, share: Any) -> Any:
    """Return the slope of silu, given the logistic function."""
    return share + _logistic(xp, x) * xp.sigmoid_slope(x)


def _logistic(xp: Any, x: Any) -> Any:
    """Return x limited to where the slope of sigmoid is not 0, so that its multiples have no 0 * inf."""
    return x if is_complex(x.dtype) else xp.minimum(xp.maximum(x, -800.0), 800.0)


def _silu_differential(xp: Any, t: Any, x: Any) -> Any:
    return t * xp.sigmoid_slope(x) * (2 - _logistic(xp, x) * xp.tanh(0.5 * x))


silu = slope("silu", lambda xp, x: silu_of(xp, x, xp.sigmoid(x)), _silu_differential)


# -- the normal distribution ---------------------------------------------------------------------------------

NORMAL = 1 / sqrt(2 * pi)  # the density at 0


def within(xp: Any, x: Any) -> Any:
    """Return x limited to where a Gaussian is not 0, so that its derivatives have no 0 * inf."""
    return xp.minimum(xp.maximum(x, -40.0), 40.0)


def gaussian(xp: Any, x: Any, c: float) -> Any:
    """Return exp(-c x^2), from the exact square of x rounded to half its digits and the remainder.

    The rounding of x^2 itself, which exp makes a relative error, would cost three digits at 25. c: 1 or 1/2.
    """
    z = within(xp, x)
    steps = {4: 2.0**6, 8: 2.0**20}.get(as_dtype(z.dtype).itemsize, 1.0)
    head = xp.round(z * steps) / steps
    return xp.exp(-c * (head * head)) * xp.exp(-c * ((z - head) * (z + head)))


normal = slope(
    "ndtr",
    lambda xp, x: NORMAL * gaussian(xp, x, 0.5),
    lambda xp, t, x, out: -t * (within(xp, x) * out),
    extension="special",
)


def _gelu(xp: Any, x: Any) -> Any:
    share = 0.5 * xp.special.erfc(x * -sqrt(0.5))
    return gelu_of(xp, x, share if share.dtype == x.dtype else xp.astype(share, x.dtype))


def gelu_of(xp: Any, x: Any, share: Any) -> Any:
    """Return the slope of gelu, given the distribution function.

    The density is not that of `gaussian`, which would make gelu and its gradient take half as long again.
    """
    z = within(xp, x)
    return share + z * (NORMAL * xp.exp(-0.5 * (z * z)))


def _gelu_differential(xp: Any, t: Any, x: Any) -> Any:
    z = within(xp, x)
    return t * ((2 - z * z) * normal(xp, z))


gelu = slope("gelu", _gelu, _gelu_differential)
