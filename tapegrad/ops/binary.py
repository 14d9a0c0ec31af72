"""Elementwise functions of two or more operands, declared by their differential in each.

Subgradients, decided once: ties in maximum and minimum share equally; clip passes the gradient at its bounds; hypot and
atan2 have 0 at the origin.
"""

from __future__ import annotations

from functools import partial
from math import inf, nan
from typing import Any

from tapegrad._engine.coercion import SCALARS, as_tensor, as_tensors, not_an_operand, operand, placed
from tapegrad._engine.dtypes import is_complex
from tapegrad._engine.elementwise import binary as _declare
from tapegrad._engine.primitive import primitive
from tapegrad._engine.rules import BROADCASTING, identity, with_operators
from tapegrad._engine.tensor import Tensor
from tapegrad.ops._kinks import unit
from tapegrad.ops._slopes import share
from tapegrad.ops._text import (
    BROADCAST,
    COMPARED,
    INTEGERS,
    LOGICAL,
    NUMERIC,
    ORDERED,
    REAL,
    REAL_FLOATING,
    SHIFTED,
    documented,
    of_two,
)
from tapegrad.ops.creation import asarray
from tapegrad.ops.shaping import broadcast_to
from tapegrad.typing import ArrayLike

binary = partial(_declare, module=__name__)


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
        return t * (x2 * (_complex_power if is_complex(t.dtype) else _power)(xp, x1, x2 - 1))
    # 0^0: the derivative is 0, so that the exponent must not be -1. Elsewhere it must be, for mixed second derivatives.
    return t * (x2 * x1 ** xp.where((x1 == 0) & (x2 == 0), 1, x2 - 1))


def _power(xp: Any, x: Any, n: Any) -> Any:
    """Return x ** n for a number n; CuPy's operator makes float64 of bfloat16 for 2.0 and 0.5."""
    return xp.square(x) if n == 2 else xp.sqrt(x) if n == 0.5 else x**n


def _complex_power(xp: Any, x: Any, n: Any) -> Any:
    """Return x ** n for complex x and a number n, where libraries overflow on the way to a negative power."""
    if n == -0.5:
        return 1 / xp.sqrt(x)
    return (1 / x) ** -n if isinstance(n, (int, float)) and n < 0 and n % 1 == 0 else x**n


def _pow_2(xp: Any, t: Any, x1: Any, x2: Any, out: Any) -> Any:
    if type(x1) in SCALARS:
        x1 = xp.full_like(out, x1)
    if is_complex(t.dtype):
        return t * out * xp.log(xp.where(x1 == 0, 1, xp.astype(x1, t.dtype)))
    # 0^y is constant for y > 0; a negative base has no derivative in y.
    return t * out * xp.where(x1 < 0, xp.nan, xp.log(xp.where(x1 > 0, x1, 1)))


def _atan2(xp: Any, t: Any, x: Any, x1: Any, x2: Any) -> Any:
    """Return t x / (x1^2 + x2^2), where no square overflows."""
    r = xp.hypot(x1, x2)
    return t * unit(xp, x, r) / xp.where(r == 0, 1, r)


def _finite(xp: Any, size: Any) -> Any:
    """Return a norm, NaN where it has overflown: a quotient by infinity would be 0, which is no slope of it."""
    return xp.where(size == inf, nan, size)


def _logaddexp(xp: Any, t: Any, x: Any, other: Any) -> Any:
    """Return t by the share of exp(x): from the difference of the two, which is precise where the result is not."""
    alike = (x == other) & xp.isinf(x)
    return t * share(xp, xp.where(alike, 0, xp.where(alike, 0, x) - other))


add, operator_add = binary(
    "add",
    identity,
    identity,
    of_two("Sum x1 + x2.", "Derivatives: t; t.", "tg.add(tg.asarray([1.0]), 2.0)", "Tensor([3.])", NUMERIC),
)

atan2, _ = binary(
    "atan2",
    lambda xp, t, x1, x2: _atan2(xp, t, x2, x1, x2),
    lambda xp, t, x1, x2: -_atan2(xp, t, x1, x1, x2),
    of_two(
        "Angle of the point (x2, x1), in radians.",
        "Derivatives: t x2 / (x1^2 + x2^2); -t x1 / (x1^2 + x2^2).",
        "tg.atan2(tg.asarray([0.0]), 1.0)",
        "Tensor([0.])",
        REAL_FLOATING,
    ),
)

bitwise_and, operator_bitwise_and = binary(
    "bitwise_and",
    None,
    None,
    of_two("Bitwise and.", "Not differentiable.", "tg.bitwise_and(tg.asarray([3]), 1)", "Tensor([1])", INTEGERS),
)

bitwise_left_shift, operator_bitwise_left_shift = binary(
    "bitwise_left_shift",
    None,
    None,
    of_two(
        "Shift bits to the left.",
        "Not differentiable.",
        "tg.bitwise_left_shift(tg.asarray([3]), 1)",
        "Tensor([6])",
        SHIFTED,
    ),
)

bitwise_or, operator_bitwise_or = binary(
    "bitwise_or",
    None,
    None,
    of_two("Bitwise or.", "Not differentiable.", "tg.bitwise_or(tg.asarray([2]), 1)", "Tensor([3])", INTEGERS),
)

bitwise_right_shift, operator_bitwise_right_shift = binary(
    "bitwise_right_shift",
    None,
    None,
    of_two(
        "Shift bits to the right.",
        "Not differentiable.",
        "tg.bitwise_right_shift(tg.asarray([2]), 1)",
        "Tensor([1])",
        SHIFTED,
    ),
)

bitwise_xor, operator_bitwise_xor = binary(
    "bitwise_xor",
    None,
    None,
    of_two(
        "Bitwise exclusive or.", "Not differentiable.", "tg.bitwise_xor(tg.asarray([3]), 1)", "Tensor([2])", INTEGERS
    ),
)

divide, operator_divide = binary(
    "divide",
    lambda xp, t, x2: t / x2,
    lambda xp, t, x2, out: -t * out / x2,
    of_two(
        "Quotient x1 / x2.", "Derivatives: t / x2; -t out / x2.", "tg.divide(tg.asarray([1.0]), 2.0)", "Tensor([0.5])"
    ),
)

equal, operator_equal = binary(
    "equal",
    None,
    None,
    of_two("Whether x1 == x2.", "Not differentiable.", "tg.equal(tg.asarray([1.0]), 2.0)", "Tensor([False])", COMPARED),
)

floor_divide, operator_floor_divide = binary(
    "floor_divide",
    None,
    None,
    of_two(
        "Quotient x1 / x2, rounded down.",
        "Derivative: zero, so it is not recorded.",
        "tg.floor_divide(tg.asarray([5.0]), 2.0)",
        "Tensor([2.])",
        REAL,
    ),
)

greater, operator_greater = binary(
    "greater",
    None,
    None,
    of_two("Whether x1 > x2.", "Not differentiable.", "tg.greater(tg.asarray([1.0]), 2.0)", "Tensor([False])", ORDERED),
)

greater_equal, operator_greater_equal = binary(
    "greater_equal",
    None,
    None,
    of_two(
        "Whether x1 >= x2.",
        "Not differentiable.",
        "tg.greater_equal(tg.asarray([1.0]), 2.0)",
        "Tensor([False])",
        ORDERED,
    ),
)

hypot, _ = binary(
    "hypot",
    lambda xp, t, x1, out: t * unit(xp, x1, _finite(xp, out)),
    lambda xp, t, x2, out: t * unit(xp, x2, _finite(xp, out)),
    of_two(
        "Length sqrt(x1^2 + x2^2) of a vector (x1, x2), without overflow.",
        "Derivatives: t x1 / out; t x2 / out; 0 at the origin.",
        "tg.hypot(tg.asarray([3.0]), 4.0)",
        "Tensor([5.])",
        REAL_FLOATING,
    ),
)

less, operator_less = binary(
    "less",
    None,
    None,
    of_two("Whether x1 < x2.", "Not differentiable.", "tg.less(tg.asarray([1.0]), 2.0)", "Tensor([ True])", ORDERED),
)

less_equal, operator_less_equal = binary(
    "less_equal",
    None,
    None,
    of_two(
        "Whether x1 <= x2.", "Not differentiable.", "tg.less_equal(tg.asarray([1.0]), 2.0)", "Tensor([ True])", ORDERED
    ),
)

logaddexp, _ = binary(
    "logaddexp",
    lambda xp, t, x1, x2: _logaddexp(xp, t, x1, x2),
    lambda xp, t, x1, x2: _logaddexp(xp, t, x2, x1),
    of_two(
        "Logarithm of exp(x1) + exp(x2), without overflow.",
        "Derivatives: t sigmoid(x1 - x2); t sigmoid(x2 - x1).",
        "tg.logaddexp(tg.asarray([0.0]), -1000.0)",
        "Tensor([0.])",
        REAL_FLOATING,
    ),
)

logical_and, _ = binary(
    "logical_and",
    None,
    None,
    of_two(
        "Logical and.", "Not differentiable.", "tg.logical_and(tg.asarray([True]), False)", "Tensor([False])", LOGICAL
    ),
)

logical_or, _ = binary(
    "logical_or",
    None,
    None,
    of_two(
        "Logical or.", "Not differentiable.", "tg.logical_or(tg.asarray([True]), False)", "Tensor([ True])", LOGICAL
    ),
)

logical_xor, _ = binary(
    "logical_xor",
    None,
    None,
    of_two(
        "Logical exclusive or.",
        "Not differentiable.",
        "tg.logical_xor(tg.asarray([True]), True)",
        "Tensor([False])",
        LOGICAL,
    ),
)

maximum, _ = binary(
    "maximum",
    lambda xp, t, x1, x2: _share(xp, t, x1 > x2, x1 == x2),
    lambda xp, t, x1, x2: _share(xp, t, x2 > x1, x1 == x2),
    selects=(lambda xp, _, x1, x2: x1 >= x2, lambda xp, _, x1, x2: x2 >= x1),
    doc=of_two(
        "The greater of two.",
        "Derivatives: t to the greater, t / 2 to each in a tie.",
        "tg.maximum(tg.asarray([1.0]), 2.0)",
        "Tensor([2.])",
        REAL,
    ),
)

minimum, _ = binary(
    "minimum",
    lambda xp, t, x1, x2: _share(xp, t, x1 < x2, x1 == x2),
    lambda xp, t, x1, x2: _share(xp, t, x2 < x1, x1 == x2),
    selects=(lambda xp, _, x1, x2: x1 <= x2, lambda xp, _, x1, x2: x2 <= x1),
    doc=of_two(
        "The lesser of two.",
        "Derivatives: t to the lesser, t / 2 to each in a tie.",
        "tg.minimum(tg.asarray([1.0]), 2.0)",
        "Tensor([1.])",
        REAL,
    ),
)

multiply, operator_multiply = binary(
    "multiply",
    lambda xp, t, x2: t * x2,
    lambda xp, t, x1: t * x1,
    of_two(
        "Product x1 * x2.", "Derivatives: t x2; t x1.", "tg.multiply(tg.asarray([3.0]), 2.0)", "Tensor([6.])", NUMERIC
    ),
)

nextafter, _ = binary(
    "nextafter",
    None,
    None,
    of_two(
        "The next number after x1 in the direction of x2.",
        "Not differentiable.",
        "tg.nextafter(tg.asarray([0.0]), 0.0)",
        "Tensor([0.])",
        REAL_FLOATING,
    ),
)

not_equal, operator_not_equal = binary(
    "not_equal",
    None,
    None,
    of_two(
        "Whether x1 != x2.", "Not differentiable.", "tg.not_equal(tg.asarray([1.0]), 2.0)", "Tensor([ True])", COMPARED
    ),
)

pow, operator_pow = binary(
    "pow",
    _pow_1,
    _pow_2,
    of_two(
        "Power x1 ** x2.",
        "Derivatives: t x2 x1^(x2 - 1); t out log(x1), which is 0 at x1 = 0 and NaN for x1 < 0. Integers to one "
        "negative power raise an error of the library; in an array of powers the libraries raise one or give 0.",
        "tg.pow(tg.asarray([3.0]), 2.0)",
        "Tensor([9.])",
        NUMERIC,
    ),
)

remainder, operator_remainder = binary(
    "remainder",
    identity,
    lambda xp, t, x1, x2, out: -t * xp.round((x1 - out) / x2),  # x1 / x2 may round up to a whole number
    of_two(
        "Remainder x1 - floor(x1 / x2) * x2.",
        "Derivatives: t; -t floor(x1 / x2).",
        "tg.remainder(tg.asarray([5.0]), 3.0)",
        "Tensor([2.])",
        REAL,
    ),
)

subtract, operator_subtract = binary(
    "subtract",
    identity,
    lambda xp, t: -t,
    of_two(
        "Difference x1 - x2.", "Derivatives: t; -t.", "tg.subtract(tg.asarray([1.0]), 2.0)", "Tensor([-1.])", NUMERIC
    ),
)


# -- the rest --------------------------------------------------------------------------------------------

_copysign = primitive(
    "copysign",
    lambda xp, x1, x2: xp.copysign(x1, x2),
    lambda xp, t, x1, out: t * xp.sign(x1) * xp.sign(out),
    None,
    broadcasts=True,
    elementwise=True,
)


@documented(
    f"The shape is the one that the operands broadcast to. {REAL_FLOATING.result}",
    BROADCAST,
    x1="The magnitudes, real floating.",
    x2="The signs, real floating.",
)
def copysign(x1: ArrayLike, x2: ArrayLike, /) -> Tensor:
    """Magnitude of x1 with the sign of x2.

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
    selects=(None, lambda xp, _, condition: condition, lambda xp, _, condition: xp.logical_not(condition)),
)


BROADCASTING.update(("clip", "copysign", "where"))


@documented(
    "The shape is the one that the three broadcast to. The dtype is that of `x1` and `x2`, promoted.",
    BROADCAST,
    condition="Booleans, which say where `x1` is taken.",
    x1="The elements where the condition is true, of any dtype.",
    x2="The elements where it is false, of any dtype.",
)
def where(condition: ArrayLike, x1: ArrayLike, x2: ArrayLike, /) -> Tensor:
    """Take elements of x1 where a condition is true, else of x2.

    Derivatives: t where each was taken, exactly zero elsewhere, also if the other branch is NaN or inf there.

    >>> import tapegrad as tg
    >>> tg.where(tg.asarray([True, False]), 1.0, tg.asarray([0.0, 5.0]))
    Tensor([1., 5.])
    """
    if type(condition) is not Tensor:
        there = x1 if type(x1) is Tensor else x2
        if type(there) is Tensor:
            condition = placed("where's condition", condition, there._array)
    if type(x1) in SCALARS and type(x2) in SCALARS:
        (condition,) = as_tensors("where", condition)
        (x1,) = _floats_like(condition, x1, x2)
    elif type(x1) in SCALARS:
        condition, x2 = as_tensors("where", condition, x2)
    elif type(x2) in SCALARS:
        condition, x1 = as_tensors("where", condition, x1)
    else:
        if (type(x1) is Tensor) is not (type(x2) is Tensor):
            x1, x2 = as_tensors("where", x1, x2)  # so that a constant gets a dtype beside the other one
        condition, x1, x2 = as_tensors("where", condition, x1, x2)
    return _where(condition, x1, x2)


def _floats_like(like: Tensor, x1: Any, x2: Any) -> tuple[Tensor]:
    """Return x1 as a Tensor beside `like`, of the dtype that new Tensors of both numbers get."""
    return (
        asarray(
            x1 if isinstance(x2, int) or isinstance(x1, (float, complex)) else type(x2)(x1),
            device=like.device,
        ),
    )


@with_operators
def _clip_forward(xp: Any, x: Any, low: float | None, high: float | None) -> Any:
    if low is not None:
        x = xp.where(x < low, low, x)
    return x if high is None else xp.where(x > high, high, x)


def _clip_vjp(xp: Any, t: Any, x: Any, low: float | None, high: float | None) -> Any:
    if low is not None:
        t = xp.where(x < low, 0, t)
    return t if high is None else xp.where(x > high, 0, t)


def _within(xp: Any, t: Any, x: Any, low: float | None, high: float | None) -> Any:
    """Return the entries that are not beyond a bound; NaN is not."""
    inside = x == x if low is None else xp.logical_not(x < low)
    return inside if high is None else xp.logical_and(inside, xp.logical_not(x > high))


_clip = primitive("clip", _clip_forward, _clip_vjp, fuses=True, selects=(_within,))


def _bounded(xp: Any, x: Any, low: Any, high: Any) -> tuple[Any, Any, Any]:
    """Return the limited x, and where the lower and the upper bound apply: as NaN, they do everywhere."""
    below = above = None
    if low is not None:
        low = _as_bound(xp, low, x)
        below = (x < low) | (low != low)
        x = xp.where(below, low, x)
    if high is not None:
        high = _as_bound(xp, high, x)
        above = (x > high) | (high != high)
        x = xp.where(above, high, x)
    return x, below, above


def _as_bound(xp: Any, bound: Any, x: Any) -> Any:
    """Return a bound in the dtype of the array that it limits."""
    return bound if type(bound) in SCALARS or bound.dtype == x.dtype else xp.astype(bound, x.dtype)


def _from_x(xp: Any, t: Any, x: Any, low: Any, high: Any) -> Any:
    """Return the entries that no bound applies to."""
    _, below, above = _bounded(xp, x, low, high)
    return xp.logical_not(above if below is None else below if above is None else below | above)


def _from_low(xp: Any, t: Any, x: Any, low: Any, high: Any) -> Any:
    _, below, above = _bounded(xp, x, low, high)
    return below if above is None else below & xp.logical_not(above)


def _from_high(xp: Any, t: Any, x: Any, low: Any, high: Any) -> Any:
    return _bounded(xp, x, low, high)[2]


_clip_arrays = primitive(
    "clip",
    with_operators(lambda xp, x, low, high: _bounded(xp, x, low, high)[0]),
    lambda xp, t, x, low, high: xp.where(_from_x(xp, t, x, low, high), t, 0),
    lambda xp, t, x, low, high: xp.where(_from_low(xp, t, x, low, high), t, 0),
    lambda xp, t, x, low, high: xp.where(_from_high(xp, t, x, low, high), t, 0),
    broadcasts=True,
    fuses=True,
    selects=(_from_x, _from_low, _from_high),
    variant="arrays",
)
_NUMBERS = frozenset((int, float))
_CLIPPED = frozenset(("real floating", "signed integer", "unsigned integer"))  # kinds of bounds of floating values


def _clipped(x: Any, *bounds: Any) -> Tensor:
    """Return the operand of clip as a Tensor on the device of its bounds, if one of these is one and it is not."""
    found = next((bound for bound in bounds if type(bound) is Tensor), None)
    return as_tensor(x) if found is None or type(x) is Tensor else placed("clip", x, found._array)


def _bound(bound: Any, x: Tensor) -> Any:
    """Return a bound as a Tensor or a number, so that an array of the host is copied once."""
    if type(bound) is Tensor or type(bound) in SCALARS:
        return bound
    found = operand("clip", bound, x._array)
    if found is NotImplemented:
        raise not_an_operand("clip", bound)
    return found


def _is_complex(x: Any) -> bool:
    return isinstance(x, complex) or (hasattr(x, "dtype") and is_complex(x.dtype))


@documented(
    "The shape is the one that the three broadcast to. The dtype is that of `x`.",
    BROADCAST,
    "TypeError: The values or a bound are complex.",
    x="The values, of any real dtype.",
    min="The lower bound; none for None.",
    max="The upper bound; none for None.",
)
def clip(x: ArrayLike, /, min: ArrayLike | None = None, max: ArrayLike | None = None) -> Tensor:
    """Limit values to a range.

    The result is max where min is greater than max, and NaN where a bound is NaN. Derivative: t
    inside the range and at its bounds, else zero; bounds that are arrays get t where they apply, as NaN does.

    >>> import tapegrad as tg
    >>> tg.clip(tg.asarray([-1.0, 0.5, 2.0]), 0.0, 1.0)
    Tensor([0. , 0.5, 1. ])
    """
    out = _clipped(x, min, max)
    bounds = {type(bound) for bound in (min, max) if bound is not None}
    if out.dtype.kind == "real floating" and bounds:
        if bounds <= _NUMBERS and min == min and max == max:  # None is equal to itself, NaN is not
            return _clip(out, min, max)
        min, max = (bound if bound is None else _bound(bound, out) for bound in (min, max))
        given = [b for b in (min, max) if b is not None and type(b) not in _NUMBERS]
        if given:
            out, *given = as_tensors("clip", out, *given)
        if all(b.dtype.kind in _CLIPPED for b in given):
            low, high = [b if b is None or type(b) in _NUMBERS else given.pop(0) for b in (min, max)]
            return _clip_arrays(out, low, high)
    min, max = (bound if bound is None else _bound(bound, out) for bound in (min, max))
    if any(_is_complex(v) for v in (out, min, max)):
        raise TypeError(
            "clip: complex numbers have no order: clip tapegrad.real(x), tapegrad.imag(x) or tapegrad.abs(x)"
        )
    if min is not None:
        out = where((out < min) | (min != min), min, out)
    if max is not None:
        out = where((out > max) | (max != max), max, out)
    return broadcast_to(out, out.shape) if out is x else out
