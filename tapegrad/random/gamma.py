"""The gamma distribution, whose numbers have a derivative in the concentration.

Numbers: Marsaglia and Tsang, "A simple method for generating gamma variables", ACM TOMS 26 (2000). Derivative: that of
the number x at which the distribution function F(x; a) stays as it is, -(dF/da) / (dF/dx): Figurnov, Mohamed and Mnih,
"Implicit reparameterization gradients", arXiv:1805.08498.
"""

from __future__ import annotations

from math import prod
from typing import Any

from tapegrad._engine.dispatch import backend_of, holds
from tapegrad._engine.levels import capturing
from tapegrad._engine.tensor import Tensor
from tapegrad.ops.binary import where
from tapegrad.ops.conversion import astype
from tapegrad.ops.creation import full
from tapegrad.ops.draws import blocks_of, draw, gamma_sample, skip
from tapegrad.ops.elementwise import exp, log, logical_not, sqrt
from tapegrad.ops.reductions import any as any_of
from tapegrad.random.parameters import Source, cast, check, float_dtype, given, shape_of

ROUNDS = 8  # each accepts at least 95 %; of numbers that none accepted, 1 in 2e10, the last proposal is taken


def gamma(rng: Source, shape: Any, concentration: Any, rate: Any, dtype: Any) -> Tensor:
    """Return numbers whose density is proportional to x^(concentration - 1) exp(-rate x)."""
    concentration, rate = given("gamma", rng, concentration, rate)
    name = float_dtype("gamma", rng, dtype, concentration, rate)
    working = name if name == "float64" else "float32"
    sizes = shape_of("gamma", shape, concentration, rate)
    check("gamma", "concentration is positive", lambda a: a > 0, concentration)
    check("gamma", "rate is positive", lambda r: r > 0, rate)
    a, rate = cast(working, concentration, rate)
    fixed = a.detach() if isinstance(a, Tensor) else full((), a, dtype=working, device=rng.key.device)
    x = _standard(rng, fixed, sizes, working)
    if isinstance(a, Tensor):
        x = gamma_sample(a, x)
    x = x if type(rate) in (int, float) and rate == 1 else x / rate
    return astype(x, name, copy=False)


def _standard(rng: Source, a: Tensor, shape: tuple[int, ...], dtype: str) -> Tensor:
    """Return numbers of rate 1: d v for v = (1 + c z)^3 of a normal z, if a uniform number accepts v.

    Below a = 1 they are those of a + 1, times a uniform number to the power 1 / a.
    """
    n = prod(shape)
    normals, uniforms = (blocks_of(form, n, dtype) for form in ("normal", "open"))
    step = max(normals, uniforms)
    key, count = rng.advance((2 * ROUNDS + 1) * step)
    counts = skip(count, (2 * ROUNDS + 1,), 0, step)

    small = a < 1.0
    d = where(small, a + 1.0, a) - 1.0 / 3.0
    c = 1.0 / (3.0 * sqrt(d))
    looks = _may_look(a)
    if not looks:  # all rounds by one draw of each kind
        zs = draw(key, counts[0 : 2 * ROUNDS : 2, :], "normal", shape, dtype, 0)
        us = draw(key, counts[1 : 2 * ROUNDS : 2, :], "open", shape, dtype, 0)
    x: Any = None
    done: Any = None
    for k in range(ROUNDS):
        if looks:
            z = draw(key, counts[2 * k, :], "normal", shape, dtype, 0)
            u = draw(key, counts[2 * k + 1, :], "open", shape, dtype, 0)
        else:
            z, u = zs[k, ...], us[k, ...]
        v = 1.0 + c * z
        positive = v > 0.0
        v = where(positive, v * v * v, 1.0)
        accepted = positive & (log(u) < 0.5 * z * z + d * (1.0 - v + log(v)))
        x = v if x is None else where(done, x, v)
        done = accepted if done is None else done | accepted
        if looks and not holds(any_of(logical_not(done))._array):
            break
    last = draw(key, counts[2 * ROUNDS, :], "open", shape, dtype, 0)
    power = exp(log(last) / where(small, a, 1.0))
    return where(small, d * x * power, d * x)


def _may_look(x: Tensor) -> bool:
    """Return whether values may be looked at: neither in a program nor where the host would have to wait."""
    backend = backend_of[type(x._array)]
    return capturing.get() is None and not backend.root.fuses and not backend.is_symbolic(x._array)
