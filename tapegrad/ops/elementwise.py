"""Elementwise functions of the standard, each declared by its differential applied to a tangent `t`.

Subgradients, decided once: abs'(0) = 0; ties in maximum and minimum share equally; clip passes the gradient at
its bounds; sqrt'(0) = inf; hypot and atan2 have 0 at the origin. A zero cotangent times a factor that is not finite
is 0, so a `where` whose unselected branch is NaN or inf has a finite gradient. The helpers below select the
factor before anything is computed from it; testing the cotangent alone would lose second derivatives.
"""

from __future__ import annotations

from typing import Any

from tapegrad._operands import SCALARS, as_tensors
from tapegrad._rules import binary, composed, primitive, unary
from tapegrad._tensor import Tensor

_LN2 = 0.6931471805599453
_LN10 = 2.302585092994046


def over(xp: Any, t: Any, x: Any) -> Any:
    """Return t / x, and 0 where t is zero and x is zero or NaN."""
    if type(x) in SCALARS:
        return t / x
    return t / xp.where((t == 0) & ~(xp.abs(x) > 0), 1, x)


def over_root(xp: Any, t: Any, x: Any) -> Any:
    """Return t / sqrt(x), and 0 where t is zero and x is not positive."""
    return t / xp.sqrt(xp.where((t == 0) & ~(x > 0), 1, x))


def times(xp: Any, t: Any, factor: Any) -> Any:
    """Return t * factor, and 0 where t is zero and the factor is not finite."""
    return t * xp.where((t == 0) & ~xp.isfinite(factor), 0, factor)


def text(summary: str, derivative: str, call: str, result: str) -> str:
    """Return the docstring of an elementwise function."""
    return f"""{summary}

    Takes Tensors, arrays of one library and numbers, of any shapes that broadcast; gives their broadcast shape and
    promoted dtype. Raises ValueError for shapes that do not broadcast, TypeError for mixed devices. {derivative}

    >>> import tapegrad as tg
    >>> {call}
    {result}
    """


def _share(xp: Any, t: Any, wins: Any, tie: Any) -> Any:
    return xp.where(tie, 0.5 * t, xp.where(wins, t, 0))


def _pow_1(xp: Any, t: Any, x1: Any, x2: Any) -> Any:
    if type(x2) in SCALARS:
        if x2 == 0:
            return xp.zeros_like(t)
        if x2 == 1:
            return t
        if x2 == 2:
            return 2 * t * x1
        whole = x2 == int(x2)
        if whole and x2 > 1:
            return t * (x2 * x1 ** (x2 - 1))
        bad = x1 == 0 if whole else (x1 < 0 if x2 > 1 else x1 <= 0)
        return t * (x2 * xp.where((t == 0) & bad, 1, x1) ** (x2 - 1))
    bad = ((x1 == 0) & (x2 < 1)) | ((x1 < 0) & (x2 != xp.floor(x2)))
    # At x2 = 0 the exponent must not be -1: the derivative is 0, for x1 = 0 as well.
    return t * (x2 * xp.where((t == 0) & bad, 1, x1) ** xp.where(x2 == 0, 1, x2 - 1))


def _pow_2(xp: Any, t: Any, x1: Any, x2: Any, out: Any) -> Any:
    if type(x1) in SCALARS:
        x1 = xp.full_like(out, x1)
    # 0^y is constant for y > 0; a negative base has no derivative in y (NaN, unless nobody asks).
    log = xp.log(xp.where(x1 > 0, x1, 1))
    return t * out * xp.where((x1 < 0) & (t != 0), xp.nan, log)


def _logaddexp(xp: Any, t: Any, x: Any, out: Any) -> Any:
    finite = xp.where(xp.isfinite(out), out, 0)
    return t * xp.exp(xp.where(x == out, 0, x - finite))


# -- of one operand ------------------------------------------------------------------------------------

abs = unary(
    "abs",
    lambda xp, t, x: t * xp.sign(x),
    text('Absolute value.', 'Derivative: t sign(x), 0 at 0.', 'tg.abs(tg.asarray(-2.0))', 'Tensor(2.)'),
)

acos = unary(
    "acos",
    lambda xp, t, x: -over_root(xp, t, 1 - x * x),
    text('Inverse cosine, in radians.', 'Derivative: -t / sqrt(1 - x^2).', 'tg.acos(tg.asarray(1.0))', 'Tensor(0.)'),
)

acosh = unary(
    "acosh",
    lambda xp, t, x: over_root(xp, t, x * x - 1),
    text('Inverse hyperbolic cosine.', 'Derivative: t / sqrt(x^2 - 1).', 'tg.acosh(tg.asarray(1.0))', 'Tensor(0.)'),
)

asin = unary(
    "asin",
    lambda xp, t, x: over_root(xp, t, 1 - x * x),
    text('Inverse sine, in radians.', 'Derivative: t / sqrt(1 - x^2).', 'tg.asin(tg.asarray(0.0))', 'Tensor(0.)'),
)

asinh = unary(
    "asinh",
    lambda xp, t, x: t / xp.sqrt(x * x + 1),
    text('Inverse hyperbolic sine.', 'Derivative: t / sqrt(x^2 + 1).', 'tg.asinh(tg.asarray(0.0))', 'Tensor(0.)'),
)

atan = unary(
    "atan",
    lambda xp, t, x: t / (1 + x * x),
    text('Inverse tangent, in radians.', 'Derivative: t / (1 + x^2).', 'tg.atan(tg.asarray(0.0))', 'Tensor(0.)'),
)

atanh = unary(
    "atanh",
    lambda xp, t, x: over(xp, t, 1 - x * x),
    text('Inverse hyperbolic tangent.', 'Derivative: t / (1 - x^2).', 'tg.atanh(tg.asarray(0.0))', 'Tensor(0.)'),
)

bitwise_invert = unary(
    "bitwise_invert",
    None,
    text('Invert the bits.', 'Not differentiable.', 'tg.bitwise_invert(tg.asarray(1))', 'Tensor(-2)'),
)

ceil = unary(
    "ceil",
    None,
    text('Round up.', 'Derivative: zero, so it is not recorded.', 'tg.ceil(tg.asarray(0.5))', 'Tensor(1.)'),
)

conj = unary(
    "conj",
    lambda xp, t: t,
    text('Complex conjugate; the same values for real ones.', 'Derivative: t, for real values.', 'tg.conj(tg.asarray(1.0))', 'Tensor(1.)'),
)

cos = unary(
    "cos",
    lambda xp, t, x: -t * xp.sin(x),
    text('Cosine of radians.', 'Derivative: -t sin(x).', 'tg.cos(tg.asarray(0.0))', 'Tensor(1.)'),
)

cosh = unary(
    "cosh",
    lambda xp, t, x: t * xp.sinh(x),
    text('Hyperbolic cosine.', 'Derivative: t sinh(x).', 'tg.cosh(tg.asarray(0.0))', 'Tensor(1.)'),
)

exp = unary(
    "exp",
    lambda xp, t, out: t * out,
    text('Exponential function.', 'Derivative: t exp(x).', 'tg.exp(tg.asarray(0.0))', 'Tensor(1.)'),
)

expm1 = unary(
    "expm1",
    lambda xp, t, out: t * (out + 1),
    text('exp(x) - 1, precise near 0.', 'Derivative: t exp(x).', 'tg.expm1(tg.asarray(0.0))', 'Tensor(0.)'),
)

floor = unary(
    "floor",
    None,
    text('Round down.', 'Derivative: zero, so it is not recorded.', 'tg.floor(tg.asarray(0.5))', 'Tensor(0.)'),
)

imag = unary(
    "imag",
    None,
    text('Imaginary part of complex values.', 'Complex values are not differentiated.', 'tg.imag(tg.asarray([1j]))', 'Tensor([1.])'),
)

isfinite = unary(
    "isfinite",
    None,
    text('Whether values are neither infinite nor NaN.', 'Not differentiable.', 'tg.isfinite(tg.asarray(1.0))', 'Tensor(True)'),
)

isinf = unary(
    "isinf",
    None,
    text('Whether values are infinite.', 'Not differentiable.', 'tg.isinf(tg.asarray(1.0))', 'Tensor(False)'),
)

isnan = unary(
    "isnan",
    None,
    text('Whether values are NaN.', 'Not differentiable.', 'tg.isnan(tg.asarray(1.0))', 'Tensor(False)'),
)

log = unary(
    "log",
    lambda xp, t, x: over(xp, t, x),
    text('Natural logarithm.', 'Derivative: t / x.', 'tg.log(tg.asarray(1.0))', 'Tensor(0.)'),
)

log10 = unary(
    "log10",
    lambda xp, t, x: over(xp, t, x * _LN10),
    text('Logarithm to base 10.', 'Derivative: t / (x log 10).', 'tg.log10(tg.asarray(10.0))', 'Tensor(1.)'),
)

log1p = unary(
    "log1p",
    lambda xp, t, x: over(xp, t, 1 + x),
    text('log(1 + x), precise near 0.', 'Derivative: t / (1 + x).', 'tg.log1p(tg.asarray(0.0))', 'Tensor(0.)'),
)

log2 = unary(
    "log2",
    lambda xp, t, x: over(xp, t, x * _LN2),
    text('Logarithm to base 2.', 'Derivative: t / (x log 2).', 'tg.log2(tg.asarray(8.0))', 'Tensor(3.)'),
)

logical_not = unary(
    "logical_not",
    None,
    text('Logical not.', 'Not differentiable.', 'tg.logical_not(tg.asarray(True))', 'Tensor(False)'),
)

negative = unary(
    "negative",
    lambda xp, t: -t,
    text('Negative value.', 'Derivative: -t.', 'tg.negative(tg.asarray(1.0))', 'Tensor(-1.)'),
)

positive = unary(
    "positive",
    lambda xp, t: t,
    text('The same value.', 'Derivative: t.', 'tg.positive(tg.asarray(1.0))', 'Tensor(1.)'),
)

real = unary(
    "real",
    lambda xp, t: t,
    text('Real part of complex values; the same values for real ones.', 'Derivative: t, for real values.', 'tg.real(tg.asarray(1.0))', 'Tensor(1.)'),
)

reciprocal = unary(
    "reciprocal",
    lambda xp, t, out: -times(xp, t, out * out),
    text('1 / x.', 'Derivative: -t / x^2.', 'tg.reciprocal(tg.asarray(2.0))', 'Tensor(0.5)'),
)

round = unary(
    "round",
    None,
    text('Round to the nearest whole number, ties to even.', 'Derivative: zero, so it is not recorded.', 'tg.round(tg.asarray(1.6))', 'Tensor(2.)'),
)

sign = unary(
    "sign",
    None,
    text('Sign: -1, 0 or 1.', 'Derivative: zero, so it is not recorded.', 'tg.sign(tg.asarray(-3.0))', 'Tensor(-1.)'),
)

signbit = unary(
    "signbit",
    None,
    text('Whether the sign bit is set.', 'Not differentiable.', 'tg.signbit(tg.asarray(-3.0))', 'Tensor(True)'),
)

sin = unary(
    "sin",
    lambda xp, t, x: t * xp.cos(x),
    text('Sine of radians.', 'Derivative: t cos(x).', 'tg.sin(tg.asarray(0.0))', 'Tensor(0.)'),
)

sinh = unary(
    "sinh",
    lambda xp, t, x: t * xp.cosh(x),
    text('Hyperbolic sine.', 'Derivative: t cosh(x).', 'tg.sinh(tg.asarray(0.0))', 'Tensor(0.)'),
)

sqrt = unary(
    "sqrt",
    lambda xp, t, out: over(xp, t, 2 * out),
    text('Square root.', 'Derivative: t / (2 sqrt(x)), inf at 0.', 'tg.sqrt(tg.asarray(4.0))', 'Tensor(2.)'),
)

square = unary(
    "square",
    lambda xp, t, x: 2 * t * x,
    text('x * x.', 'Derivative: 2 t x.', 'tg.square(tg.asarray(3.0))', 'Tensor(9.)'),
)

tan = unary(
    "tan",
    lambda xp, t, out: t * (1 + out * out),
    text('Tangent of radians.', 'Derivative: t (1 + tan(x)^2).', 'tg.tan(tg.asarray(0.0))', 'Tensor(0.)'),
)

tanh = unary(
    "tanh",
    lambda xp, t, out: t * (1 - out * out),
    text('Hyperbolic tangent.', 'Derivative: t (1 - tanh(x)^2).', 'tg.tanh(tg.asarray(0.0))', 'Tensor(0.)'),
)

trunc = unary(
    "trunc",
    None,
    text('Round towards zero.', 'Derivative: zero, so it is not recorded.', 'tg.trunc(tg.asarray(-0.5))', 'Tensor(-0.)'),
)


# -- of two operands -----------------------------------------------------------------------------------

add, operator_add = binary(
    "add",
    lambda xp, t: t,
    lambda xp, t: t,
    text('x1 + x2.', 'Derivatives: t; t.', 'tg.add(tg.asarray([1.0]), 2.0)', "Tensor([3.])"),
)

atan2, _ = binary(
    "atan2",
    lambda xp, t, x1, x2: over(xp, t * x2, x1 * x1 + x2 * x2),
    lambda xp, t, x1, x2: -over(xp, t * x1, x1 * x1 + x2 * x2),
    text('Angle of the point (x2, x1), in radians.', 'Derivatives: t x2 / (x1^2 + x2^2); -t x1 / (x1^2 + x2^2).', 'tg.atan2(tg.asarray([0.0]), 1.0)', "Tensor([0.])"),
)

bitwise_and, operator_bitwise_and = binary(
    "bitwise_and",
    None,
    None,
    text('Bitwise and.', 'Not differentiable.', 'tg.bitwise_and(tg.asarray([3]), 1)', "Tensor([1])"),
)

bitwise_left_shift, operator_bitwise_left_shift = binary(
    "bitwise_left_shift",
    None,
    None,
    text('Shift bits to the left.', 'Not differentiable.', 'tg.bitwise_left_shift(tg.asarray([3]), 1)', "Tensor([6])"),
)

bitwise_or, operator_bitwise_or = binary(
    "bitwise_or",
    None,
    None,
    text('Bitwise or.', 'Not differentiable.', 'tg.bitwise_or(tg.asarray([2]), 1)', "Tensor([3])"),
)

bitwise_right_shift, operator_bitwise_right_shift = binary(
    "bitwise_right_shift",
    None,
    None,
    text('Shift bits to the right.', 'Not differentiable.', 'tg.bitwise_right_shift(tg.asarray([2]), 1)', "Tensor([1])"),
)

bitwise_xor, operator_bitwise_xor = binary(
    "bitwise_xor",
    None,
    None,
    text('Bitwise exclusive or.', 'Not differentiable.', 'tg.bitwise_xor(tg.asarray([3]), 1)', "Tensor([2])"),
)

divide, operator_divide = binary(
    "divide",
    lambda xp, t, x2: over(xp, t, x2),
    lambda xp, t, x2, out: -over(xp, times(xp, t, out), x2),
    text('x1 / x2.', 'Derivatives: t / x2; -t out / x2.', 'tg.divide(tg.asarray([1.0]), 2.0)', "Tensor([0.5])"),
)

equal, operator_equal = binary(
    "equal",
    None,
    None,
    text('x1 == x2.', 'Not differentiable.', 'tg.equal(tg.asarray([1.0]), 2.0)', "Tensor([False])"),
)

floor_divide, operator_floor_divide = binary(
    "floor_divide",
    None,
    None,
    text('x1 / x2 rounded down.', 'Derivative: zero, so it is not recorded.', 'tg.floor_divide(tg.asarray([5.0]), 2.0)', "Tensor([2.])"),
)

greater, operator_greater = binary(
    "greater",
    None,
    None,
    text('x1 > x2.', 'Not differentiable.', 'tg.greater(tg.asarray([1.0]), 2.0)', "Tensor([False])"),
)

greater_equal, operator_greater_equal = binary(
    "greater_equal",
    None,
    None,
    text('x1 >= x2.', 'Not differentiable.', 'tg.greater_equal(tg.asarray([1.0]), 2.0)', "Tensor([False])"),
)

hypot, _ = binary(
    "hypot",
    lambda xp, t, x1, out: over(xp, t * x1, out),
    lambda xp, t, x2, out: over(xp, t * x2, out),
    text('sqrt(x1^2 + x2^2) without overflow.', 'Derivatives: t x1 / out; t x2 / out; 0 at the origin.', 'tg.hypot(tg.asarray([3.0]), 4.0)', "Tensor([5.])"),
)

less, operator_less = binary(
    "less",
    None,
    None,
    text('x1 < x2.', 'Not differentiable.', 'tg.less(tg.asarray([1.0]), 2.0)', "Tensor([ True])"),
)

less_equal, operator_less_equal = binary(
    "less_equal",
    None,
    None,
    text('x1 <= x2.', 'Not differentiable.', 'tg.less_equal(tg.asarray([1.0]), 2.0)', "Tensor([ True])"),
)

logaddexp, _ = binary(
    "logaddexp",
    lambda xp, t, x1, out: _logaddexp(xp, t, x1, out),
    lambda xp, t, x2, out: _logaddexp(xp, t, x2, out),
    text('log(exp(x1) + exp(x2)) without overflow.', 'Derivatives: t exp(x1 - out); t exp(x2 - out).', 'tg.logaddexp(tg.asarray([0.0]), -1000.0)', "Tensor([0.])"),
)

logical_and, _ = binary(
    "logical_and",
    None,
    None,
    text('Logical and.', 'Not differentiable.', 'tg.logical_and(tg.asarray([True]), False)', "Tensor([False])"),
)

logical_or, _ = binary(
    "logical_or",
    None,
    None,
    text('Logical or.', 'Not differentiable.', 'tg.logical_or(tg.asarray([True]), False)', "Tensor([ True])"),
)

logical_xor, _ = binary(
    "logical_xor",
    None,
    None,
    text('Logical exclusive or.', 'Not differentiable.', 'tg.logical_xor(tg.asarray([True]), True)', "Tensor([False])"),
)

maximum, _ = binary(
    "maximum",
    lambda xp, t, x1, x2: _share(xp, t, x1 > x2, x1 == x2),
    lambda xp, t, x1, x2: _share(xp, t, x2 > x1, x1 == x2),
    text('The greater of two.', 'Derivatives: t to the greater, t / 2 to each in a tie.', 'tg.maximum(tg.asarray([1.0]), 2.0)', "Tensor([2.])"),
)

minimum, _ = binary(
    "minimum",
    lambda xp, t, x1, x2: _share(xp, t, x1 < x2, x1 == x2),
    lambda xp, t, x1, x2: _share(xp, t, x2 < x1, x1 == x2),
    text('The lesser of two.', 'Derivatives: t to the lesser, t / 2 to each in a tie.', 'tg.minimum(tg.asarray([1.0]), 2.0)', "Tensor([1.])"),
)

multiply, operator_multiply = binary(
    "multiply",
    lambda xp, t, x2: t * x2,
    lambda xp, t, x1: t * x1,
    text('x1 * x2.', 'Derivatives: t x2; t x1.', 'tg.multiply(tg.asarray([3.0]), 2.0)', "Tensor([6.])"),
)

nextafter, _ = binary(
    "nextafter",
    None,
    None,
    text('The next number after x1 in the direction of x2.', 'Not differentiable.', 'tg.nextafter(tg.asarray([0.0]), 0.0)', "Tensor([0.])"),
)

not_equal, operator_not_equal = binary(
    "not_equal",
    None,
    None,
    text('x1 != x2.', 'Not differentiable.', 'tg.not_equal(tg.asarray([1.0]), 2.0)', "Tensor([ True])"),
)

pow, operator_pow = binary(
    "pow",
    _pow_1,
    _pow_2,
    text('x1 ** x2.', 'Derivatives: t x2 x1^(x2 - 1); t out log(x1), which is 0 at x1 = 0 and NaN for x1 < 0.', 'tg.pow(tg.asarray([3.0]), 2.0)', "Tensor([9.])"),
)

remainder, operator_remainder = binary(
    "remainder",
    lambda xp, t: t,
    lambda xp, t, x1, x2: -t * xp.floor(x1 / x2),
    text('x1 - floor(x1 / x2) * x2.', 'Derivatives: t; -t floor(x1 / x2).', 'tg.remainder(tg.asarray([5.0]), 3.0)', "Tensor([2.])"),
)

subtract, operator_subtract = binary(
    "subtract",
    lambda xp, t: t,
    lambda xp, t: -t,
    text('x1 - x2.', 'Derivatives: t; -t.', 'tg.subtract(tg.asarray([1.0]), 2.0)', "Tensor([-1.])"),
)



# -- the rest --------------------------------------------------------------------------------------------

_copysign = primitive(
    "copysign",
    lambda xp, x1, x2: xp.copysign(x1, x2),
    lambda xp, t, x1, out: t * xp.sign(x1) * xp.sign(out),
    None,
    broadcasts=True,
)


def copysign(x1: Any, x2: Any, /) -> Tensor:
    """The magnitude of x1 with the sign of x2; shapes broadcast.

    Derivatives: t sign(x1) sign(out), 0 at x1 = 0; zero in x2.

    >>> import tapegrad as tg
    >>> tg.copysign(tg.asarray([1.0]), -0.0)
    Tensor([-1.])
    """
    return _copysign(*as_tensors("copysign", x1, x2))


_where = primitive(
    "where",
    lambda xp, condition, x1, x2: xp.where(condition, x1, x2),
    None,
    lambda xp, t, condition: xp.where(condition, t, 0),
    lambda xp, t, condition: xp.where(condition, 0, t),
    broadcasts=True,
)


def where(condition: Any, x1: Any, x2: Any, /) -> Tensor:
    """Take elements of x1 where the condition is true, else of x2; all three broadcast.

    condition: boolean; x1, x2: Tensors, arrays or numbers. Derivatives: t where each was taken, exactly zero
    elsewhere, also if the other branch is NaN or inf there. Raises TypeError for mixed devices.

    >>> import tapegrad as tg
    >>> tg.where(tg.asarray([True, False]), 1.0, tg.asarray([0.0, 5.0]))
    Tensor([1., 5.])
    """
    if type(x1) in SCALARS and type(x2) in SCALARS:
        (condition,) = as_tensors("where", condition)
        (x1,) = _floats_like(condition, x1, x2)
    elif type(x1) in SCALARS:
        condition, x2 = as_tensors("where", condition, x2)
    elif type(x2) in SCALARS:
        condition, x1 = as_tensors("where", condition, x1)
    else:
        condition, x1, x2 = as_tensors("where", condition, x1, x2)
    return _where(condition, x1, x2)


def _floats_like(like: Tensor, x1: Any, x2: Any) -> tuple[Tensor]:
    """Return x1 as a Tensor beside `like`, of the dtype that new Tensors of both numbers get."""
    from tapegrad.ops.creation import asarray

    return (asarray(x1 if isinstance(x2, int) or isinstance(x1, (float, complex)) else type(x2)(x1), device=like.device),)


@composed
def clip(x: Any, /, min: Any = None, max: Any = None) -> Tensor:
    """Limit values to the range from min to max, either of which may be None, a number or an array.

    The result has the dtype of x. Derivative: t inside the range and at its bounds, else zero; arrays as bounds get
    the gradient where they apply.

    >>> import tapegrad as tg
    >>> tg.clip(tg.asarray([-1.0, 0.5, 2.0]), 0.0, 1.0)
    Tensor([0. , 0.5, 1. ])
    """
    (x,) = as_tensors("clip", x)
    if min is not None:
        x = where(x < min, min, x)
    if max is not None:
        x = where(x > max, max, x)
    return x
