"""Structural zeros: the support of a cotangent or tangent, the entries that a gradient reaches.

"No gradient" differs from "a gradient of zero". `where`, clip, maximum and an index select entries. The other entries
get no gradient, even if a factor of the rule is infinite there.

A walk carries the support of a cotangent beside it, as a boolean array. Operations that keep the place of each entry
pass it on by reference. Before a rule reads values, those outside the support are replaced by a safe number, so that
the zeros stay zeros. (Users write this as a `where` inside a `where`.) All other zeros are numbers: times infinity they
are NaN.

Outside its support a cotangent is exactly zero. A cotangent without a support may be nonzero everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite, prod
from typing import Any

import numpy as np

from tapegrad._engine.coercion import SCALARS
from tapegrad._engine.dispatch import namespace_of
from tapegrad._engine.dtypes import as_dtype
from tapegrad._engine.tensor import Tensor, wrap

_DEEPEST = 16  # length of a chain of lazy supports; the next one is computed at once


class Support:
    """The entries that a gradient reaches, as a raw boolean array that is computed at its first use.

    make: returns the array, which may broadcast to the shape of the record, or None if a gradient reaches all entries;
    after: the supports that `make` reads.
    """

    __slots__ = ("_array", "_depth", "_made", "_make")

    _depth: int

    def __init__(self, make: Callable[[], Any] | None, *after: Support) -> None:
        self._array: Any = None
        self._make, self._made = make, False
        self._depth = 1 + max([a._depth for a in after]) if after else 1
        if self._depth > _DEEPEST:
            self.array()

    def array(self) -> Any:
        """Return the boolean array, None if a gradient reaches all entries."""
        if not self._made:
            self._array = self._compute()
            self._made = True
            self._make = None
            self._depth = 0
        return self._array

    def _compute(self) -> Any:
        assert self._make is not None
        return self._make()


class Marks(Support):
    """The support that consists of the entries at several keys, or of all other entries.

    Attributes
    ----------
    keys : list
        The keys; supports made by `add` share the list.
    inside : bool
        Whether a gradient reaches the entries at the keys; else it reaches all others.
    growing : bool
        Whether keys may still be appended, as nobody else has the support yet.
    """

    __slots__ = ("_count", "_device", "_shape", "_start", "_xp", "growing", "inside", "keys")

    def __init__(self, xp: Any, device: Any, shape: Any, key: Any, inside: bool, earlier: Marks | None = None) -> None:
        super().__init__(None)
        self._xp, self._device, self._shape, self.inside = xp, device, shape, inside
        self._start: Any = None
        self.growing = inside
        self._count = 0  # the number of own keys, if the list is shared
        self.keys: list[Any] = []
        if earlier is not None and earlier._made:
            self._start = earlier._array
        elif earlier is not None:
            self._start, n = earlier._start, earlier._count or len(earlier.keys)
            earlier._count = n
            self.keys = earlier.keys if len(earlier.keys) == n else earlier.keys[:n]
        self.keys.append(key)

    def add(self, key: Any) -> Marks:
        """Return the support with one more key."""
        return Marks(self._xp, self._device, self._shape, key, self.inside, self)

    def _compute(self) -> Any:
        xp, keys, shape = self._xp, self.keys[: self._count or None], tuple(self._shape)
        if self._start is not None:
            out = xp.astype(self._start, xp.bool, copy=True)
        elif self.inside and _cover(shape, keys):
            return None
        else:
            out = (xp.zeros if self.inside else xp.ones)(shape, dtype=xp.bool, device=self._device)
        value = xp.asarray(self.inside, dtype=xp.bool, device=self._device)
        for key in keys:
            out = xp.index_set(out, key, value)
        return out


def _cover(shape: tuple[int, ...], keys: Sequence[Any]) -> bool:
    """Return whether keys of integers and slices together cover all entries; False for other keys."""
    if not all(type(i) in (int, slice) for key in keys for i in key):
        return False
    if len(keys) == 1:
        lengths = [1 if type(i) is int else len(range(*i.indices(n))) for i, n in zip(keys[0], shape, strict=False)]
        return prod(lengths) == prod(shape[: len(lengths)])
    held = np.zeros(shape, dtype=bool)
    for key in keys:
        held[key] = True
    return bool(held.all())


# -- combining ---------------------------------------------------------------------------------------------


def intersection(xp: Any, a: Support | None, b: Support | None) -> Support | None:
    """Return the intersection of two supports."""
    if a is None or b is None:
        return b if a is None else a
    return Support(lambda: _all_of(xp, a.array(), b.array()), a, b)


def union(xp: Any, a: Support | None, b: Support | None) -> Support | None:
    """Return the union of two supports."""
    if a is None or b is None:
        return None
    return a if a is b else Support(lambda: _any_of(xp, a.array(), b.array()), a, b)


def _all_of(xp: Any, a: Any, b: Any) -> Any:
    if a is None or b is None:
        return b if a is None else a
    return xp.logical_and(a, b)


def _any_of(xp: Any, a: Any, b: Any) -> Any:
    return None if a is None or b is None else xp.logical_or(a, b)


def summed_support(xp: Any, support: Support | None, from_shape: Any, to_shape: Any) -> Support | None:
    """Return the support of a cotangent after it is summed to an operand's shape."""
    if support is None or tuple(from_shape) == tuple(to_shape):
        return support
    return Support(lambda: _summed(xp, support.array(), tuple(from_shape), tuple(to_shape)), support)


def _summed(xp: Any, a: Any, from_shape: tuple[int, ...], to_shape: tuple[int, ...]) -> Any:
    if a is None or from_shape == to_shape:
        return a
    a = xp.broadcast_to(a, from_shape)
    extra = len(from_shape) - len(to_shape)
    axes = tuple([i for i in range(-len(to_shape), 0) if to_shape[i] == 1 and from_shape[i] != 1])
    if axes:
        a = xp.any(a, axis=axes, keepdims=True)
    return xp.any(a, axis=tuple(range(extra))) if extra else a


def mapped_support(
    here: Any, device: Any, move: Callable[[Any], Any], support: Support | None, from_shape: Any, to_shape: Any
) -> Support:
    """Return the image of a support under a linear map: the nonzero entries of the map's result for ones.

    here: the namespace to compute in; move: the map, without negative factors, so that nothing cancels. Its result may
    have to be summed over broadcast axes.
    """

    def make() -> Any:
        inside = None if support is None else support.array()
        if inside is None:
            ones = here.ones(tuple(from_shape), dtype=here.float32, device=device)
        else:
            ones = here.astype(here.broadcast_to(inside, tuple(from_shape)), here.float32)
        out = move(ones)
        xp = namespace_of[type(out)]  # the map may change the device
        return _summed(xp, xp.not_equal(out, xp.zeros_like(out)), tuple(out.shape), tuple(to_shape))

    return Support(make, *([] if support is None else [support]))


def row_support(
    xp: Any, support: Support, from_axes: Sequence[int], from_shape: Any, to_axes: Sequence[int], to_shape: Any
) -> Support:
    """Return the support after an operation on whole rows or matrices: all of a row, or nothing.

    from_axes, to_axes: the axes of a row on either side, counted from the end.
    """

    def make() -> Any:
        a = support.array()
        if a is None:
            return None
        a = xp.broadcast_to(a, tuple(from_shape))
        if from_axes:
            a = xp.any(a, axis=tuple(from_axes))
        ndim = len(to_shape)
        return xp.reshape(a, tuple([1 if i - ndim in to_axes else to_shape[i] for i in range(ndim)]))

    return Support(make, support)


# -- applying ----------------------------------------------------------------------------------------------


def safe_values(xp: Any, support: Support, saved: Sequence[Any], safe: float) -> Sequence[Any]:
    """Return saved values with a safe number outside the support.

    An elementwise rule is finite there, so that zeros stay zeros, to any order of derivative.
    """
    inside: Any = None
    out = list(saved)
    for i, v in enumerate(saved):
        number = type(v) in SCALARS
        if (type(v) is complex or isfinite(v)) if number else not hasattr(v, "shape"):
            continue
        if inside is None:
            inside = support.array()
            if inside is None:
                return saved
        before = next((n for n in range(i) if saved[n] is v), None)  # x * x
        out[i] = masked(xp, inside, v, safe) if before is None else out[before]
    return out


def masked(xp: Any, inside: Any, v: Any, other: float) -> Any:
    """Return `v` on a support and another number elsewhere, in the dtype of `v`; on raw arrays or Tensors."""
    if type(v) is Tensor:
        inside = wrap(inside)
    kind = "floating" if type(v) in SCALARS else as_dtype(v.dtype).kind
    return xp.where(inside, v, other if kind.endswith("floating") else False if kind == "bool" else 1)
