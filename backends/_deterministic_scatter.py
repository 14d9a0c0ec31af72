"""Deterministic scatter: additions and writes at repeated indices in a fixed order.

Threads of a GPU add at one place in any order, and a sum of floats depends on the order. Here a stable sort puts values
of the same place side by side, and neighbours are added pairwise, in log2(most repeats) rounds. The result has the same
bits each time and on each library. The code is plain standard code, so that it is tested without a GPU.
"""

from __future__ import annotations

from math import prod
from typing import Any, Protocol

from tapegrad.backends._array import Array
from tapegrad.backends._settings import DETERMINISTIC

Key = tuple[Any, ...]


class Indexing(Protocol):
    """The part of an adapter that reads, writes and adds at indices."""

    xp: Any

    def races(self, array: Array) -> bool: ...
    def has_integer_arrays(self, key: Key) -> bool: ...
    def index_get(self, array: Array, key: Key) -> Array: ...
    def index_set(self, array: Array, key: Key, value: Array) -> Array: ...
    def index_add(self, array: Array, key: Key, value: Array) -> Array: ...


def index_add(backend: Indexing, array: Array, key: Key, value: Array) -> Array:
    """Add values at an index into a private array and return it, in a fixed order under `deterministic`."""
    if DETERMINISTIC.get() and backend.races(array) and backend.has_integer_arrays(key):
        return add_in_order(backend, array, key, value)
    return backend.index_add(array, key, value)


def index_set(backend: Indexing, array: Array, key: Key, value: Array) -> Array:
    """Write values at an index into a private array and return it, in a fixed order under `deterministic`."""
    if DETERMINISTIC.get() and backend.races(array) and backend.has_integer_arrays(key):
        return set_in_order(backend, array, key, value)
    return backend.index_set(array, key, value)


def add_in_order(backend: Indexing, array: Array, key: Key, value: Array) -> Array:
    """Add as `np.add.at` does, at a key that holds integer arrays.

    Values of one place are added pairwise in their order in `value`, ((1 + 2) + (3 + 4)) + 5. The sum is added to the
    old value.
    """
    xp = backend.xp
    table, index, rows = _rows(backend, array, key, value)
    index, rows, rank = _sorted(backend, index, rows)
    while bool(xp.any(rank > 0)):
        left = xp.nonzero(rank % 2 == 0)[0]
        right = xp.where(left + 1 < rank.shape[0], left + 1, left)
        paired = xp.reshape(xp.take(rank, right) % 2 == 1, (-1, 1))  # the next place starts with rank 0
        alone = xp.take(rows, left, axis=0)
        rows = xp.where(paired, alone + xp.take(rows, right, axis=0), alone)
        index, rank = xp.take(index, left), xp.take(rank, left) // 2
    at = (index, slice(None))
    return xp.reshape(backend.index_set(table, at, backend.index_get(table, at) + rows), array.shape)


def set_in_order(backend: Indexing, array: Array, key: Key, value: Array) -> Array:
    """Write at a key that holds integer arrays; if a place repeats, the last value stays."""
    xp = backend.xp
    value = xp.broadcast_to(value, backend.index_get(array, key).shape)
    table, index, rows = _rows(backend, array, key, value)
    index, rows, rank = _sorted(backend, index, rows)
    last = xp.nonzero(xp.roll(rank, -1) == 0)[0]  # the next place starts with rank 0
    at = (xp.take(index, last), slice(None))
    return xp.reshape(backend.index_set(table, at, xp.take(rows, last, axis=0)), array.shape)


def _rows(backend: Indexing, array: Array, key: Key, value: Array) -> tuple[Array, Array, Array]:
    """Return the array as a table of rows, the row index of each part of the value, and the value as rows."""
    xp = backend.xp
    whole = 0  # the number of last axes that the key takes whole
    while isinstance(key[-1 - whole], slice) and key[-1 - whole] == slice(None):
        whole += 1
    shape = tuple(array.shape[: array.ndim - whole])
    length = prod(array.shape[array.ndim - whole :])
    numbers = xp.reshape(xp.arange(prod(shape), device=array.device), shape)
    index = backend.index_get(numbers, key[: len(key) - whole])
    index = xp.reshape(index, (prod(index.shape),))
    return xp.reshape(array, (prod(shape), length)), index, xp.reshape(value, (index.shape[0], length))


def _sorted(backend: Indexing, index: Array, rows: Array) -> tuple[Array, Array, Array]:
    """Return indices and rows sorted by index, and for each the number of equal indices before it."""
    xp = backend.xp
    order = xp.argsort(index, stable=True)
    index = xp.take(index, order)
    rank = xp.arange(index.shape[0], device=index.device) - xp.searchsorted(index, index)
    return index, xp.take(rows, order, axis=0), rank
