"""Indices of additions at rows, looked up once for all additions at the same rows.

The gradient of an embedding adds to the rows of a table, `table[rows] += value`. NumPy adds faster at the numbers of
single elements. Several additions at the same rows of tables of one shape share these numbers::

    %1 = index_add(%0, (rows, :), g)        numbers = numbers_of(rows, shape)
    %3 = index_add(%2, (rows, :), h)        add_rows(%1, numbers, g)
                                            add_rows(%3, numbers, h)
"""

from __future__ import annotations

from math import prod

import numpy as np

from tapegrad._program.ir import Node, Program, Value
from tapegrad.backends._numpy.executor import kernels
from tapegrad.backends._numpy.executor.code import Writer
from tapegrad.backends._numpy.executor.placement import Placement
from tapegrad.backends._numpy.executor.references import NDArray
from tapegrad.backends._numpy.functions import numbers_of, picks_rows

Where = tuple[Value, tuple[int, ...]]  # rows, and the shape of the array that has them


class RowNumbers:
    """The numbers of elements at rows that several nodes of a program add to."""

    def __init__(self, program: Program) -> None:
        seen: dict[Where, list[Node]] = {}
        for item in program.items:
            if isinstance(item, Node) and item.op == "index_add":
                where = _rows_of(item)
                if where is not None:
                    seen.setdefault(where, []).append(item)
        # Rows that a single node adds at are not kept: computing the numbers costs as much as it saves.
        self._where = {node: where for where, nodes in seen.items() if len(nodes) > 1 for node in nodes}
        self._numbers: dict[Where, NDArray] = {}

    def find(self, node: Node, placement: Placement, writer: Writer) -> NDArray | None:
        """Return the array of numbers for a node, None if it has its rows alone; the first node emits the look-up."""
        where = self._where.get(node)
        if where is None:
            return None
        # The first addition in the order of the program looks them up: later ones find them in the same array.
        numbers = self._numbers.get(where)
        if numbers is None:
            rows, shape = where
            numbers = self._numbers[where] = placement.reserve((*rows.shape, prod(shape[1:])), np.intp)
            writer.emit(writer.code, kernels.store, (numbers, numbers_of, (placement.array(rows), shape), {}))
        return numbers


def _rows_of(node: Node) -> Where | None:
    """Return the rows that a node adds to, None if it adds elsewhere."""
    x, key, value = node.args
    rows = key[0] if key else None
    if not isinstance(rows, Value) or not isinstance(value, Value) or rows.dtype.kind not in "iu":
        return None
    return (rows, x.shape) if picks_rows(key, rows.shape, x.shape, value.shape) else None
