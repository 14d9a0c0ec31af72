"""Samples with complex arguments, away from branch cuts."""

from __future__ import annotations

import numpy as np

import tapegrad as tg
from tapegrad.testing._sample import Sample, between, complexes, normal, reseed

_UNARY = (
    "abs acos acosh asin asinh atan atanh conj cos cosh exp expm1 imag log log10 log1p negative positive real "
    "reciprocal sin sinh sqrt square tan tanh sum mean prod cumulative_sum cumulative_prod"
)
_NUMPY = {
    "acos": "arccos",
    "acosh": "arccosh",
    "asin": "arcsin",
    "asinh": "arcsinh",
    "atan": "arctan",
    "atanh": "arctanh",
    "cumulative_sum": "cumsum",
    "cumulative_prod": "cumprod",
}


def _as_complex(x: tg.Tensor) -> tg.Tensor:
    return tg.astype(x, tg.complex128 if x.dtype is tg.float64 else tg.complex64) * 2j


def samples() -> list[Sample]:
    """Return the rows of this family."""
    reseed(2)
    z = np.asarray([0.6 + 0.8j, -0.7 + 1.1j, 1.5 - 0.9j, -1.2 - 0.6j, 0.4 - 1.3j])
    rows = [Sample(f"{n} complex", getattr(tg, n), getattr(np, _NUMPY.get(n, n)), (z,)) for n in _UNARY.split()]
    rows += [
        Sample(f"{n} complex", getattr(tg, n), getattr(np, {"pow": "power"}.get(n, n)), (complexes(5), complexes(5)))
        for n in ("add", "subtract", "multiply", "divide", "pow")
    ]
    # A real operand sees the real part of the cotangent.
    rows += [
        Sample(f"{n} complex and real", getattr(tg, n), getattr(np, {"pow": "power"}.get(n, n)), (complexes(5), b))
        for n, b in (("add", normal(5)), ("multiply", normal(5)), ("divide", between(0.5, 2, 5)), ("pow", normal(5)))
    ]
    return [
        *rows,
        Sample("sign complex", tg.sign, lambda z: z / np.abs(z), (z,)),
        Sample("pow complex 3", lambda z: z**3, lambda z: z**3, (z,)),
        Sample("pow complex 0.5", lambda z: z**0.5, lambda z: z**0.5, (z,)),
        Sample("astype complex", _as_complex, lambda x: x * 2j, (normal(5),)),
        Sample("matmul complex", tg.matmul, np.matmul, (complexes(2, 3), complexes(3, 4))),
        Sample("matmul complex vector", tg.matmul, np.matmul, (complexes(2, 3), complexes(3))),
        Sample("vecdot complex", tg.vecdot, np.vecdot, (complexes(2, 3), complexes(2, 3))),
        Sample("tensordot complex", tg.tensordot, np.tensordot, (complexes(2, 3, 4), complexes(3, 4, 2))),
        Sample("where complex", tg.where, np.where, (normal(5) > 0, complexes(5), complexes(5))),
        Sample("getitem complex", lambda z: z[1:, None], lambda z: z[1:, None], (z,)),
        Sample("take complex", lambda z, i: tg.take(z, i), np.take, (z, np.asarray([0, 3, 3]))),
        Sample("concat complex", lambda a, b: tg.concat([a, b]), lambda a, b: np.concat([a, b]), (z, complexes(2))),
    ]
