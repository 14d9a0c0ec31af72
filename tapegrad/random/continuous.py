"""Continuous distributions as functions of uniform and normal numbers, so that gradients flow to their parameters."""

from __future__ import annotations

from math import erfc, sqrt
from typing import Any

from tapegrad._engine.tensor import Tensor
from tapegrad.ops.binary import clip, maximum, minimum, where
from tapegrad.ops.conversion import astype
from tapegrad.ops.elementwise import log, log1p, negative
from tapegrad.ops.elementwise import sqrt as sqrt_of
from tapegrad.random.parameters import Source, cast, check, float_dtype, given, shape_of


def affine(x: Tensor, offset: Any, scale: Any) -> Tensor:
    """Return offset + scale * x."""
    if not (type(scale) in (int, float) and scale == 1):
        x = x * scale
    return x if type(offset) in (int, float) and offset == 0 else x + offset


def uniform(rng: Source, shape: Any, low: Any, high: Any, dtype: Any) -> Tensor:
    low, high = given("uniform", rng, low, high)
    name = float_dtype("uniform", rng, dtype, low, high)
    low, high = cast(name, low, high)
    sizes = shape_of("uniform", shape, low, high)
    if not isinstance(low, Tensor) and not isinstance(high, Tensor):
        check("uniform", "low is less than high", lambda a, b: a < b, low, high)
    return affine(rng.numbers("uniform", sizes, name), low, high - low)


def normal(rng: Source, shape: Any, mean: Any, std: Any, dtype: Any) -> Tensor:
    mean, std = given("normal", rng, mean, std)
    name = float_dtype("normal", rng, dtype, mean, std)
    mean, std = cast(name, mean, std)
    sizes = shape_of("normal", shape, mean, std)
    if not isinstance(std, Tensor):
        check("normal", "std is 0 or more", lambda s: s >= 0, std)
    return affine(rng.numbers("normal", sizes, name), mean, std)


def exponential(rng: Source, shape: Any, rate: Any, dtype: Any) -> Tensor:
    (rate,) = given("exponential", rng, rate)
    name = float_dtype("exponential", rng, dtype, rate)
    (rate,) = cast(name, rate)
    sizes = shape_of("exponential", shape, rate)
    check("exponential", "rate is positive", lambda r: r > 0, rate)
    x = 0.0 - log(rng.numbers("open", sizes, name))  # no -0
    return x if type(rate) in (int, float) and rate == 1 else x / rate


def gumbel(rng: Source, shape: Any, loc: Any, scale: Any, dtype: Any) -> Tensor:
    loc, scale = given("gumbel", rng, loc, scale)
    name = float_dtype("gumbel", rng, dtype, loc, scale)
    loc, scale = cast(name, loc, scale)
    sizes = shape_of("gumbel", shape, loc, scale)
    if not isinstance(scale, Tensor):
        check("gumbel", "scale is 0 or more", lambda s: s >= 0, scale)
    return affine(standard_gumbel(rng, sizes, name), loc, scale)


def standard_gumbel(rng: Source, shape: tuple[int, ...], dtype: str) -> Tensor:
    """Return -log(-log(u)) with u = 1 - v of open numbers v: small v, of many digits, give the large numbers."""
    most = {"float64": 1 - 2.0**-53, "float32": 1 - 2.0**-24}
    working = dtype if dtype in most else "float32"
    v = minimum(rng.numbers("open", shape, working), most[working])  # 1 would give an infinite number
    return astype(negative(log(negative(log1p(negative(v))))), dtype, copy=False)


def truncated_normal(rng: Source, shape: Any, mean: Any, std: Any, low: Any, high: Any, dtype: Any) -> Tensor:
    """Return normal numbers between low and high standard deviations, by the inverse of the distribution function."""
    mean, std = given("truncated_normal", rng, mean, std)
    for bound in (low, high):
        if isinstance(bound, bool) or not isinstance(bound, (int, float)):
            raise TypeError(f"truncated_normal: low and high are numbers, not {type(bound).__name__}")
    name = float_dtype("truncated_normal", rng, dtype, mean, std)
    mean, std = cast(name, mean, std)
    sizes = shape_of("truncated_normal", shape, mean, std)
    check("truncated_normal", "low is less than high", lambda a, b: a < b, low, high)
    if not isinstance(std, Tensor):
        check("truncated_normal", "std is 0 or more", lambda s: s >= 0, std)
    working = name if name == "float64" else "float32"
    u = rng.numbers("open", sizes, working)
    below, above = 0.5 * erfc(-low / sqrt(2)), 0.5 * erfc(high / sqrt(2))  # outside on either side
    near, far = (low, high) if low > 0 else (-high, -low)  # differences of small probabilities keep their digits
    inside = 0.5 * (erfc(near / sqrt(2)) - erfc(far / sqrt(2)))
    # From the nearer end, where the probability has its digits.
    left, right = below + u * inside, above + (1 - u) * inside
    x = lower_quantile(minimum(left, right))
    x = clip(where(left < right, x, negative(x)), float(low), float(high))
    return affine(astype(x, name, copy=False), mean, std)


# Coefficients of Wichura's algorithm AS 241, PPND16, Applied Statistics 37 (1988): numerators and denominators, from
# the highest power.
_CENTRE = (
    (2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457)
    + (13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608),
    (5226.495278852854561, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867)
    + (5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1.0),
)
_MIDDLE = (
    (7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258)
    + (3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734),
    (1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459)
    + (0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1.0),
)
_TAIL = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 0.0012426609473880784386, 0.026532189526576123093)
    + (0.29656057182850489123, 1.7848265399172913358, 5.4637849111641143699, 6.6579046435011037772),
    (2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5, 7.868691311456132591e-4)
    + (0.0148753612908506148525, 0.13692988092273580531, 0.59983220655588793769, 1.0),
)


def lower_quantile(p: Tensor) -> Tensor:
    """Return the quantile of the standard normal distribution for probabilities of at most 1/2."""
    q = p - 0.5
    centre = q * _quotient(_CENTRE, 0.180625 - q * q)
    r = sqrt_of(negative(log(maximum(p, 1e-37))))
    tail = where(r <= 5.0, _quotient(_MIDDLE, r - 1.6), _quotient(_TAIL, r - 5.0))
    return where(p > 0.075, centre, negative(tail))


def _quotient(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Tensor) -> Tensor:
    above, below = [_polynomial(c, x) for c in coefficients]
    return above / below


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    first, *rest = coefficients
    out = x * first
    for c in rest[:-1]:
        out = (out + c) * x
    return out + rest[-1]
