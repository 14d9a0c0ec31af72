"""Elementwise functions of one operand, each declared by its differential applied to a tangent `t`.

Subgradients, decided once: abs'(0) = 0, sqrt'(0) = inf.
"""

from __future__ import annotations

from typing import Any

from tapegrad._engine.coercion import as_tensor
from tapegrad._engine.dtypes import is_complex
from tapegrad._engine.elementwise import unary
from tapegrad._engine.rules import composed, identity
from tapegrad._engine.tensor import Tensor
from tapegrad.ops import _slopes
from tapegrad.ops._kinks import kink
from tapegrad.ops._text import (
    INTEGERS,
    LOGICAL,
    NUMERIC,
    ORDERED,
    PARTS,
    PREDICATE,
    REAL,
    RECIPROCAL,
    documented,
    of_one,
)
from tapegrad.ops.binary import where
from tapegrad.typing import ArrayLike

_LN2 = 0.6931471805599453
_LN10 = 2.302585092994046


def _imag(xp: Any, t: Any) -> Any:
    return xp.astype(t, xp.complex128 if t.dtype == xp.float64 else xp.complex64) * 1j


def _conj(xp: Any, t: Any) -> Any:
    return xp.conj(t) if is_complex(t.dtype) else t


abs = unary(
    "abs",
    lambda xp, t, x: t * xp.sign(x),
    of_one("Absolute value.", "Derivative: t sign(x), 0 at 0.", "tg.abs(tg.asarray(-2.0))", "Tensor(2.)", PARTS),
    analytic=False,
)

acos = unary(
    "acos",
    lambda xp, t, x: -t * _slopes.asin(xp, x),
    of_one("Inverse cosine, in radians.", "Derivative: -t / sqrt(1 - x^2).", "tg.acos(tg.asarray(1.0))", "Tensor(0.)"),
)

acosh = unary(
    "acosh",
    lambda xp, t, x: t * _slopes.acosh(xp, x),
    of_one("Inverse hyperbolic cosine.", "Derivative: t / sqrt(x^2 - 1).", "tg.acosh(tg.asarray(1.0))", "Tensor(0.)"),
    safe=2.0,
)

asin = unary(
    "asin",
    lambda xp, t, x: t * _slopes.asin(xp, x),
    of_one("Inverse sine, in radians.", "Derivative: t / sqrt(1 - x^2).", "tg.asin(tg.asarray(0.0))", "Tensor(0.)"),
)

asinh = unary(
    "asinh",
    lambda xp, t, x: t * _slopes.asinh(xp, x),
    of_one("Inverse hyperbolic sine.", "Derivative: t / sqrt(x^2 + 1).", "tg.asinh(tg.asarray(0.0))", "Tensor(0.)"),
)

atan = unary(
    "atan",
    lambda xp, t, x: t * _slopes.atan(xp, x),
    of_one("Inverse tangent, in radians.", "Derivative: t / (1 + x^2).", "tg.atan(tg.asarray(0.0))", "Tensor(0.)"),
)

atanh = unary(
    "atanh",
    lambda xp, t, x: t * _slopes.atanh(xp, x),
    of_one("Inverse hyperbolic tangent.", "Derivative: t / (1 - x^2).", "tg.atanh(tg.asarray(0.0))", "Tensor(0.)"),
)

bitwise_invert = unary(
    "bitwise_invert",
    None,
    of_one("Invert the bits.", "Not differentiable.", "tg.bitwise_invert(tg.asarray(1))", "Tensor(-2)", INTEGERS),
)

ceil = unary(
    "ceil",
    None,
    of_one(
        "Round up to a whole number.",
        "Derivative: zero, so it is not recorded.",
        "tg.ceil(tg.asarray(0.5))",
        "Tensor(1.)",
        REAL,
    ),
)

conj = unary(
    "conj",
    _conj,
    of_one(
        "Complex conjugate; the same values for real ones.",
        "Derivative: conj(t).",
        "tg.conj(tg.asarray(1.0))",
        "Tensor(1.)",
        NUMERIC,
    ),
    analytic=False,
)

cos = unary(
    "cos",
    lambda xp, t, x: -t * xp.sin(x),
    of_one("Cosine of radians.", "Derivative: -t sin(x).", "tg.cos(tg.asarray(0.0))", "Tensor(1.)"),
)

cosh = unary(
    "cosh",
    lambda xp, t, x: t * xp.sinh(x),
    of_one("Hyperbolic cosine.", "Derivative: t sinh(x).", "tg.cosh(tg.asarray(0.0))", "Tensor(1.)"),
)

exp = unary(
    "exp",
    lambda xp, t, out: t * out,
    of_one("Exponential function.", "Derivative: t exp(x).", "tg.exp(tg.asarray(0.0))", "Tensor(1.)"),
)

expm1 = unary(
    "expm1",
    lambda xp, t, x: t * xp.exp(x),  # out + 1 has lost its digits far to the left
    of_one(
        "Exponential function minus 1, precise near 0.",
        "Derivative: t exp(x).",
        "tg.expm1(tg.asarray(0.0))",
        "Tensor(0.)",
    ),
)

floor = unary(
    "floor",
    None,
    of_one(
        "Round down to a whole number.",
        "Derivative: zero, so it is not recorded.",
        "tg.floor(tg.asarray(0.5))",
        "Tensor(0.)",
        REAL,
    ),
)

_imag_of_complex = unary("imag", _imag, "The imaginary part of complex values.", analytic=False)
_imag_of_real = unary("imag_of_real", None, "Zeros, for real values.", forward=lambda xp, x: xp.zeros_like(x))


@documented("The shape is that of `x`. " + PARTS.result, x=PARTS.operands)
def imag(x: ArrayLike, /) -> Tensor:
    """Imaginary part of complex values; 0 for real ones.

    Derivative: imag(t); zero for real values, so it is not recorded.

    >>> import tapegrad as tg
    >>> tg.imag(tg.asarray([1j]))
    Tensor([1.])
    """
    x = as_tensor(x)
    return _imag_of_complex(x) if is_complex(x._array.dtype) else _imag_of_real(x)


isfinite = unary(
    "isfinite",
    None,
    of_one(
        "Whether values are neither infinite nor NaN.",
        "Not differentiable.",
        "tg.isfinite(tg.asarray(1.0))",
        "Tensor(True)",
        PREDICATE,
    ),
)

isinf = unary(
    "isinf",
    None,
    of_one(
        "Whether values are infinite.", "Not differentiable.", "tg.isinf(tg.asarray(1.0))", "Tensor(False)", PREDICATE
    ),
)

isnan = unary(
    "isnan",
    None,
    of_one("Whether values are NaN.", "Not differentiable.", "tg.isnan(tg.asarray(1.0))", "Tensor(False)", PREDICATE),
)

log = unary(
    "log",
    lambda xp, t, x: t / x,
    of_one("Natural logarithm.", "Derivative: t / x.", "tg.log(tg.asarray(1.0))", "Tensor(0.)"),
)

log10 = unary(
    "log10",
    lambda xp, t, x: t / (x * _LN10),
    of_one("Logarithm to base 10.", "Derivative: t / (x log 10).", "tg.log10(tg.asarray(10.0))", "Tensor(1.)"),
)

log1p = unary(
    "log1p",
    lambda xp, t, x: t / (1 + x),
    of_one(
        "Natural logarithm of 1 + x, precise near 0.",
        "Derivative: t / (1 + x).",
        "tg.log1p(tg.asarray(0.0))",
        "Tensor(0.)",
    ),
)

log2 = unary(
    "log2",
    lambda xp, t, x: t / (x * _LN2),
    of_one("Logarithm to base 2.", "Derivative: t / (x log 2).", "tg.log2(tg.asarray(8.0))", "Tensor(3.)"),
)

logical_not = unary(
    "logical_not",
    None,
    of_one("Logical not.", "Not differentiable.", "tg.logical_not(tg.asarray(True))", "Tensor(False)", LOGICAL),
)

negative = unary(
    "negative",
    lambda xp, t: -t,
    of_one("Negative value.", "Derivative: -t.", "tg.negative(tg.asarray(1.0))", "Tensor(-1.)", NUMERIC),
)

positive = unary(
    "positive",
    identity,
    of_one("The same value.", "Derivative: t.", "tg.positive(tg.asarray(1.0))", "Tensor(1.)", NUMERIC),
)

real = unary(
    "real",
    identity,
    of_one(
        "Real part of complex values; the same values for real ones.",
        "Derivative: real(t).",
        "tg.real(tg.asarray(1.0))",
        "Tensor(1.)",
        PARTS,
    ),
    analytic=False,
)

reciprocal = unary(
    "reciprocal",
    lambda xp, t, out: -t * out * out,
    of_one("Reciprocal 1 / x.", "Derivative: -t out^2.", "tg.reciprocal(tg.asarray(2.0))", "Tensor(0.5)", RECIPROCAL),
)

round = unary(
    "round",
    None,
    of_one(
        "Round to the nearest whole number, ties to even.",
        "Derivative: zero, so it is not recorded.",
        "tg.round(tg.asarray(1.6))",
        "Tensor(2.)",
        NUMERIC,
    ),
)

_constant_sign = unary(
    "constant_sign", None, "The sign, with no derivative: that of real values.", forward=lambda xp, x: xp.sign(x)
)


@composed
@documented("The shape and dtype are those of `x`.", x=NUMERIC.operands)
def sign(x: ArrayLike, /) -> Tensor:
    """Sign -1, 0 or 1; x / abs(x) for complex values.

    Derivative: zero for real values, so it is not recorded; that of x / abs(x) for complex ones, 0 at 0.

    >>> import tapegrad as tg
    >>> tg.sign(tg.asarray(-3.0))
    Tensor(-1.)
    """
    x = as_tensor(x)
    if x._record is None or not is_complex(x._array.dtype):
        return _constant_sign(x)
    size = abs(x)
    at_zero = size == 0
    out: Tensor = kink(None, x / where(at_zero, 1, size), x, at_zero)
    return out


signbit = unary(
    "signbit",
    None,
    of_one(
        "Whether the sign bit is set.", "Not differentiable.", "tg.signbit(tg.asarray(-3.0))", "Tensor(True)", ORDERED
    ),
)

sin = unary(
    "sin",
    lambda xp, t, x: t * xp.cos(x),
    of_one("Sine of radians.", "Derivative: t cos(x).", "tg.sin(tg.asarray(0.0))", "Tensor(0.)"),
)

sinh = unary(
    "sinh",
    lambda xp, t, x: t * xp.cosh(x),
    of_one("Hyperbolic sine.", "Derivative: t cosh(x).", "tg.sinh(tg.asarray(0.0))", "Tensor(0.)"),
)

sqrt = unary(
    "sqrt",
    lambda xp, t, out: t / (2 * out),
    of_one("Square root.", "Derivative: t / (2 sqrt(x)), inf at 0.", "tg.sqrt(tg.asarray(4.0))", "Tensor(2.)"),
)

square = unary(
    "square",
    lambda xp, t, x: 2 * t * x,
    of_one("Square x * x.", "Derivative: 2 t x.", "tg.square(tg.asarray(3.0))", "Tensor(9.)", NUMERIC),
)

tan = unary(
    "tan",
    lambda xp, t, x: t * _slopes.tan(xp, x),
    of_one("Tangent of radians.", "Derivative: t / cos(x)^2.", "tg.tan(tg.asarray(0.0))", "Tensor(0.)"),
)

tanh = unary(
    "tanh",
    # By the result alone, as 1 / cosh(x)^2 would cost a training step its speed and the memory of x.
    lambda xp, t, out: t * (1 - out * out),
    of_one("Hyperbolic tangent.", "Derivative: t (1 - tanh(x)^2).", "tg.tanh(tg.asarray(0.0))", "Tensor(0.)"),
)

trunc = unary(
    "trunc",
    None,
    of_one(
        "Round towards zero to a whole number.",
        "Derivative: zero, so it is not recorded.",
        "tg.trunc(tg.asarray(-0.5))",
        "Tensor(-0.)",
        REAL,
    ),
)
