"""Equality of values that two calls read or computed, to the bit or within rounding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tapegrad._engine.tensor import host, wrap
from tapegrad.backends import as_key

_PLAIN = (int, float, complex, str, bytes, bool, type(None))


def same_constant(x: Any, y: Any) -> bool:
    """Say whether two Python values, or raw arrays, are the same for good: equal, and nobody can change them."""
    if x is y:
        return True
    if type(x) is float and type(y) is float and x == y != 0.0:
        return True
    if isinstance(x, slice) and isinstance(y, slice):
        return all(map(same_constant, (x.start, x.stop, x.step), (y.start, y.stop, y.step)))
    if type(x) is not type(y):
        return False
    if isinstance(x, (float, complex)):
        return repr(x) == repr(y)  # tells -0.0 from 0.0, and NaN is NaN
    if isinstance(x, _PLAIN):
        return bool(x == y)
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return equal(x, y)
    try:
        x, y = as_key(x), as_key(y)
        return hash(x) == hash(y) and bool(x == y)
    except Exception:
        return False


def equal(a: Any, b: Any) -> bool:
    """Say whether two raw arrays hold the same, to the bit."""
    if tuple(a.shape) != tuple(b.shape) or a.dtype != b.dtype:
        return False
    x, y = host(wrap(a)), host(wrap(b))
    return bool((x == y).all()) if x.dtype.hasobject else x.tobytes() == y.tobytes()


def gap(a: Any, b: Any, units: int) -> float | None:
    """Return None if two raw arrays agree, else their largest difference: infinite for other shapes and dtypes.

    units: by how many units in the last place of the greatest value they may differ; NaN agrees with NaN.
    """
    if tuple(a.shape) != tuple(b.shape) or a.dtype != b.dtype:
        return math.inf
    x, y = (np.asarray(host(wrap(v))) for v in (a, b))
    if x.tobytes() == y.tobytes():
        return None
    if x.dtype.kind not in "fc":
        wide = np.abs(x.astype(np.float64) - y.astype(np.float64))
        return float(wide.max())
    with np.errstate(all="ignore"):
        apart = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0, np.abs(x - y))
        finite = np.where(np.isfinite(y), np.abs(y), 0)
    if not (apart > units * np.finfo(x.dtype).eps * finite.max()).any() and not np.isnan(apart).any():
        return None
    return math.inf if np.isnan(apart).any() else float(apart.max())
