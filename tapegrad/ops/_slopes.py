"""Slopes of elementwise functions whose own derivative keeps its digits only in a form of its own.

A rule that computes a slope is differentiated as it is written. Where that cancels or overflows, the slope is an
operation: on raw arrays the plain formula, as quick as before, and on Tensors one record with a derivative by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapegrad._engine.dtypes import is_complex
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


# -- the logistic distribution -------------------------------------------------------------------------------
# 1 - sigmoid(x) is sigmoid(-x), which keeps its digits where sigmoid(x) is nearly 1.

share = slope("logaddexp", lambda xp, x: xp.sigmoid(x), lambda xp, t, x, out: t * out * xp.sigmoid(-x))
log_expit = slope("log_expit", lambda xp, x: xp.sigmoid(-x), lambda xp, t, x, out: -t * out * xp.sigmoid(x))
logit = slope("logit", lambda xp, x: 1 / (x * (1 - x)), lambda xp, t, x, out: t * (2 * x - 1) * out * out)


def _silu(xp: Any, x: Any) -> Any:
    s = xp.sigmoid(x)
    return s + x * s * xp.sigmoid(-x)


def _silu_differential(xp: Any, t: Any, x: Any) -> Any:
    s, rest = xp.sigmoid(x), xp.sigmoid(-x)
    return t * (s * rest) * (2 + x * (rest - s))


silu = slope("silu", _silu, _silu_differential)
