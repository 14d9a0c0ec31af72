"""NumPy's reductions that skip NaN, which xarray uses by default; a skipped element gets no gradient."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from typing import Any

from tapegrad._engine.tensor import Tensor
from tapegrad.ops.binary import divide, where
from tapegrad.ops.conversion import as_floats, astype
from tapegrad.ops.elementwise import abs, isnan, sqrt, square
from tapegrad.ops.reductions import all, any, cumulative_prod, cumulative_sum, max, min, prod, sum
from tapegrad.ops.shaping import reshape
from tapegrad.ops.sorting import argmax, argmin


def _without(a: Tensor, instead: float) -> Tensor:
    """Return a Tensor with a number in place of NaN; integers stay as they are."""
    return where(isnan(a), instead, a) if "floating" in a.dtype.kind else a


def _summed(reduce: Callable[..., Tensor], instead: float) -> Callable[..., Tensor]:
    return lambda a, axis=None, dtype=None, keepdims=False: reduce(
        _without(a, instead), axis=axis, dtype=dtype, keepdims=keepdims
    )


def _accumulated(accumulate: Callable[..., Tensor], instead: float) -> Callable[..., Tensor]:
    def call(a: Tensor, axis: int | None = None, dtype: Any = None) -> Tensor:
        a = _without(a, instead)
        return accumulate(reshape(a, (-1,)) if axis is None else a, axis=axis or 0, dtype=dtype)

    return call


def _extreme(reduce: Callable[..., Tensor], instead: float) -> Callable[..., Tensor]:
    def call(a: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
        if "floating" not in a.dtype.kind:
            return reduce(a, axis=axis, keepdims=keepdims)
        out = reduce(_without(a, instead), axis=axis, keepdims=keepdims)
        return where(all(isnan(a), axis=axis, keepdims=keepdims), nan, out)

    return call


def _place(find: Callable[..., Tensor], instead: float) -> Callable[..., Tensor]:
    def call(a: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
        if "floating" in a.dtype.kind and any(all(isnan(a), axis=axis)):
            raise ValueError("All-NaN slice encountered")
        return find(_without(a, instead), axis=axis, keepdims=keepdims)

    return call


def _mean(a: Tensor, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
    a = as_floats(a) if dtype is None else astype(a, dtype)
    count = sum(~isnan(a), axis=axis, dtype=a.dtype, keepdims=keepdims)
    return divide(sum(_without(a, 0.0), axis=axis, keepdims=keepdims), count)


def _var(a: Tensor, axis: Any = None, dtype: Any = None, ddof: float = 0, keepdims: bool = False) -> Tensor:
    a = as_floats(a) if dtype is None else astype(a, dtype)
    less = where(isnan(a), 0.0, a - _mean(a, axis=axis, keepdims=True))
    real = abs(less) if a.dtype.kind == "complex floating" else less
    count = sum(~isnan(a), axis=axis, dtype=real.dtype, keepdims=keepdims) - ddof
    return divide(sum(square(real), axis=axis, keepdims=keepdims), where(count > 0, count, nan))


def _std(a: Tensor, **options: Any) -> Tensor:
    v = _var(a, **options)
    return where(v > 0, sqrt(v), v)  # no gradient where all are equal, as in `std`


NAN_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "nanargmax": _place(argmax, -inf),
    "nanargmin": _place(argmin, inf),
    "nancumprod": _accumulated(cumulative_prod, 1.0),
    "nancumsum": _accumulated(cumulative_sum, 0.0),
    "nanmax": _extreme(max, -inf),
    "nanmean": _mean,
    "nanmin": _extreme(min, inf),
    "nanprod": _summed(prod, 1.0),
    "nanstd": _std,
    "nansum": _summed(sum, 0.0),
    "nanvar": _var,
}
