"""Extremes of prefixes and of segments, for libraries that have no function for them.

Both are prefix scans by doubling (Hillis and Steele, "Data parallel algorithms", 1986): after step k, an element holds
the extreme of the 2^k elements up to it. No value is read on the host.
"""

from __future__ import annotations

from typing import Any

Array = Any


def cumulative_extreme(xp: Any, name: str, x: Array, /, *, axis: int) -> Array:
    """Return the extreme of the elements up to each one; name: "maximum" or "minimum"."""
    pick, n, step = getattr(xp, name), x.shape[axis], 1
    while step < n:
        later = pick(x[_part(step, None, axis)], x[_part(None, n - step, axis)])
        x = xp.concat([x[_part(None, step, axis)], later], axis=axis)
        step *= 2
    return x


def segment_extreme(xp: Any, largest: bool, x: Array, ids: Array, n: int, /) -> Array:
    """Return the extremes (n, ...) of rows (m, ...) that have one of n numbers; no row gives `least`."""
    m, device = x.shape[0], getattr(x, "device", None)
    out = xp.full((n, *x.shape[1:]), least(xp, x.dtype, largest), dtype=x.dtype, device=device)
    if not out.shape[0] or not m:
        return out
    pick = xp.maximum if largest else xp.minimum
    order = xp.argsort(ids, stable=True)
    ids, x = xp.take(ids, order, axis=0), xp.take(x, order, axis=0)
    wide, step = (1,) * (x.ndim - 1), 1
    while step < m:  # a scan that stops where another segment begins
        same = xp.reshape(ids[step:] == ids[:-step], (m - step, *wide))
        later = xp.where(same, pick(x[step:, ...], x[:-step, ...]), x[step:, ...])
        x = xp.concat([x[:step, ...], later], axis=0)
        step *= 2
    numbers = xp.arange(n, dtype=ids.dtype, device=device)
    last = xp.searchsorted(ids, numbers, side="right") - 1
    last = xp.where(last < 0, 0, last)
    there = xp.reshape(xp.take(ids, last, axis=0) == numbers, (n, *wide))
    return xp.where(there, xp.take(x, last, axis=0), out)


def least(xp: Any, dtype: Any, largest: bool) -> float | int:
    """Return the extreme of no elements, which no element is beyond."""
    if xp.isdtype(dtype, "real floating"):
        return -float("inf") if largest else float("inf")
    info = xp.iinfo(dtype)
    return int(info.min if largest else info.max)


def _part(start: int | None, stop: int | None, axis: int) -> tuple[Any, ...]:
    """Return the index that cuts one axis."""
    return (..., slice(start, stop), *(slice(None),) * (-axis - 1))
