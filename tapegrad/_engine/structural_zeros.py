"""Structural zeros: which entries of a cotangent, or of a tangent, a gradient reaches.

"No gradient" and "a gradient that is zero" are two things. `where`, clip, maximum and an index select: what they leave
out gets no gradient, and a rule whose factor is infinite there has nothing to multiply. A walk carries the support, a
boolean array of the entries that a gradient reaches, beside the cotangent: by reference, through operations that keep
the place of each entry. Where a rule reads values, those outside the support are replaced by a harmless one, so that
the zeros stay zeros (what users write as a `where` inside a `where`). All other zeros are numbers: times infinity they
are NaN.

Outside its support a cotangent is exactly zero. No support means that a gradient may reach all entries.
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

_DEEPEST = 16  # supports that hang on supports: the next is computed at once, so that no chain gets long


class Support:
    """The entries that a gradient reaches, as a raw boolean array that is made when it is first asked for.

    make: returns the array, which may broadcast to the shape of the record, or None if a gradient reaches all entries;
    after: what `make` asks for the array of.
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
    """The entries of an array that are at any of several keys, or those that are at none.

    inside: whether those at the keys are the ones that a gradient reaches; growing: whether the list of keys may still
    grow, as nobody else has the support yet.
    """

    __slots__ = ("_count", "_device", "_shape", "_start", "_xp", "growing", "inside", "keys")

    def __init__(self, xp: Any, device: Any, shape: Any, key: Any, inside: bool, earlier: Marks | None = None) -> None:
        super().__init__(None)
        self._xp, self._device, self._shape, self.inside = xp, device, shape, inside
        self._start: Any = None
        self.growing = inside
        self._count = 0  # of the keys that are this one's, if the list is shared
        self.keys: list[Any] = []
        if earlier is not None and earlier._made:
            self._start = earlier._array
        elif earlier is not None:
            self._start, n = earlier._start, earlier._count or len(earlier.keys)
            earlier._count = n
            self.keys = earlier.keys if len(earlier.keys) == n else earlier.keys[:n]
        self.keys.append(key)

    def add(self, key: Any) -> Marks:
        """Return the entries that are at one more key, or at none of the keys and not at this one either."""
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
    """Say whether plain keys, of numbers and slices alone, hold all entries between them."""
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
    """Return the entries that are in both of two supports."""
    if a is None or b is None:
        return b if a is None else a
    return Support(lambda: _all_of(xp, a.array(), b.array()), a, b)


def union(xp: Any, a: Support | None, b: Support | None) -> Support | None:
    """Return the entries that are in one of two supports, or in both."""
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
    """Return the support of a cotangent once it is summed down to an operand's shape."""
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
    """Return the support through a linear map: where it does not make zero of ones on the support.

    here: the namespace to compute in. The map has no negative factors, so that nothing cancels; what it returns may be
    of a shape that broadcast.
    """

    def make() -> Any:
        inside = None if support is None else support.array()
        if inside is None:
            ones = here.ones(tuple(from_shape), dtype=here.float32, device=device)
        else:
            ones = here.astype(here.broadcast_to(inside, tuple(from_shape)), here.float32)
        out = move(ones)
        xp = namespace_of[type(out)]  # which may be of another device
        return _summed(xp, xp.not_equal(out, xp.zeros_like(out)), tuple(out.shape), tuple(to_shape))

    return Support(make, *([] if support is None else [support]))


def row_support(
    xp: Any, support: Support, from_axes: Sequence[int], from_shape: Any, to_axes: Sequence[int], to_shape: Any
) -> Support:
    """Return the support through an operation on whole rows, or matrices: all of one, or nothing.

    from_axes, to_axes: the axes, counted from the end, that make up a row on either side.
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
    """Return what a rule reads with values outside the support replaced by a harmless one.

    Nothing that an elementwise rule computes from these is infinite, so that its zeros stay zeros, to any order.
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
