"""Placement: the array that each value of a program lies in.

A value lies in one of these, decided when the item that makes it is emitted:

1. its own constant;
2. a reference: it is an input, an output, donated the array of an input, or a view of one of those;
3. a view of the array of its root, if that lies in a buffer;
4. a row of an array of rows, if the planner gave it one, so that a stack can compute all rows at once;
5. the buffer of an operand that dies, in place;
6. a buffer of the pool, given back after its last use.

For example, with letters for buffers::

    inputs: x0                  reference to the array of x0
    %0 = exp(x0)                A, a buffer of the pool
    %1 = reshape(%0, (6,))      view of A
    %2 = sin(%1)                B, not A in place, which its operand, a view, does not own
    %3 = cos(%2)                B, in place
    %4 = add(%3, 1)             reference to the array of %4, which is an output
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tapegrad._program.ir import Rows, Value
from tapegrad.backends._numpy.executor.aliasing import Aliases
from tapegrad.backends._numpy.executor.buffers import Pool
from tapegrad.backends._numpy.executor.liveness import Liveness
from tapegrad.backends._numpy.executor.references import NDArray, Operand, Ref, View


class Placement:
    """The arrays of values, as items are emitted one after the other.

    refs: the references of each root, parents first; now: the number of the item that is being emitted.
    """

    def __init__(self, aliases: Aliases, liveness: Liveness) -> None:
        self.aliases, self.liveness = aliases, liveness
        self.pool = Pool()
        self.refs: dict[Value, list[Ref]] = {}
        self.now = 0
        self._place: dict[Value, Operand] = {}
        self._rows: dict[Rows, NDArray] = {}
        self._buffer: dict[Value, NDArray] = {}  # root -> the buffer of the pool that it has now

    def __contains__(self, v: object) -> bool:
        """Say whether a value has a place: a result has one before it is computed if it is an output."""
        return v in self._place

    def add_reference(self, v: Value) -> None:
        """Place a root whose array changes from call to call."""
        ref = Ref(v)
        ref.array = np.empty(v.shape, v.dtype)  # while planning: it tells views from copies
        self.refs[v] = [ref]
        self._place[v] = ref

    def put(self, v: Value, array: Operand) -> None:
        """Place a value in an array."""
        self._place[v] = array

    def array(self, v: Value) -> Operand:
        """Return the array that a value lies in."""
        return v.constant if v.constant is not None else self._place[v]

    def changes(self, v: Value) -> bool:
        """Say whether the array of a placed value changes from call to call."""
        return type(self._place[v]) is Ref

    def target(self, v: Value, reuse: Value | None = None) -> Operand:
        """Return the array that a result is to be written to; reuse: an operand whose buffer it takes over."""
        # An output has its place from the start, the result of a donation too.
        if v in self._place:
            return self._place[v]
        if v.row is not None:
            array = self._row(v, *v.row)
        else:
            # In place: the buffer changes its owner, so that the operand no longer gives it back.
            if reuse is not None:
                buffer = self._buffer.pop(self.aliases.root_of(reuse))
            else:
                buffer = self.pool.take(max(v.size, 1) * v.dtype.itemsize)
            self._buffer[v] = buffer
            array = self.pool.array(buffer, v.shape, v.dtype)
        self._place[v] = array
        return array

    def _row(self, v: Value, rows: Rows, i: int) -> NDArray:
        if rows not in self._rows:
            self._rows[rows] = self.reserve((rows.count + 1, *v.shape), v.dtype)
        # Row 0 is the one to spare: a fold puts there the start of its chain.
        array: NDArray = self._rows[rows][i + 1, ...]
        return array

    def rows(self, rows: Rows) -> NDArray:
        """Return an array of rows, after the one to spare."""
        return self._rows[rows][1:]

    def rows_from(self, rows: Rows, start: int, count: int) -> NDArray | None:
        """Return so many rows from one on, -1 for the one to spare; None if nothing lies in these rows."""
        return self._rows[rows][start + 1 :][:count] if rows in self._rows else None

    def reserve(self, shape: tuple[int, ...], dtype: Any) -> NDArray:
        """Return an array that nothing else uses at any time."""
        array: NDArray = np.empty(shape, dtype)
        self.pool.nbytes += array.nbytes
        return array

    def view(self, x: Operand, function: View) -> Operand | None:
        """Return a view of an array, None if the function gives a copy; of a reference, a reference."""
        # 1. Try the function on the present array: only the result tells a view from a copy.
        source = x.array if isinstance(x, Ref) else x
        array: NDArray = function(source)
        if array.size and not np.may_share_memory(array, source):
            return None
        if not isinstance(x, Ref):
            return array
        # 2. The array of a reference changes, so that its views are made anew after it, in the order of this list.
        ref = Ref(x.root, x, function)
        ref.array = array
        self.refs[x.root].append(ref)
        return ref

    def must_view(self, x: Operand, function: View) -> Operand:
        """Return a view of an array, by a function that gives no copy of it."""
        view = self.view(x, function)
        assert view is not None
        return view

    def dies(self, v: Value) -> bool:
        """Say whether a value owns a buffer that nobody reads after the present item, so that it may be reused."""
        return v in self._buffer and self.liveness.last[v] == self.now

    def release(self, values: Iterable[Value]) -> None:
        """Give back the buffers of values that have one."""
        for v in values:
            if v in self._buffer:  # no output, no view, and not taken over by a result
                self.pool.give(self._buffer.pop(v))

    def forget_shown(self) -> None:
        """Drop the arrays that told views from copies, once all items are emitted."""
        for refs in self.refs.values():
            for ref in refs:
                ref.array = None
