"""Products and quotients that are 0 where a cotangent is zero and its factor is not finite.

A `where` whose unselected branch is NaN or inf then has a finite gradient. The factor is selected before anything is
computed from it: testing the cotangent alone would lose second derivatives.
"""

from __future__ import annotations

from typing import Any

from tapegrad._dtypes import is_complex
from tapegrad._operands import SCALARS


def over(xp: Any, t: Any, x: Any) -> Any:
    """Return t / x, and 0 where t is zero and x is zero or NaN."""
    if type(x) in SCALARS:
        return t / x
    return t / xp.where((t == 0) & ~(xp.abs(x) > 0), 1, x)


def over_root(xp: Any, t: Any, x: Any) -> Any:
    """Return t / sqrt(x), and 0 where t is zero and x is zero, NaN or a negative real number."""
    if is_complex(x.dtype):
        return over(xp, t, xp.sqrt(x))
    return t / xp.sqrt(xp.where((t == 0) & ~(x > 0), 1, x))


def times(xp: Any, t: Any, factor: Any) -> Any:
    """Return t * factor, and 0 where t is zero and the factor is not finite."""
    return t * xp.where((t == 0) & ~xp.isfinite(factor), 0, factor)
