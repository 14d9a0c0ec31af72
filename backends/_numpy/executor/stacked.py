"""Emitters of groups of small operations, which are one call on the rows of an array: stacks, folds and scans.

The rows are values of the program (`Value.row`)::

    stack   %0 = sin(x0); %1 = sin(x1); ...        sin(rows of x, rows of %)
    fold    s1 = s0 + x0; s2 = s1 + x1; ...        add.reduce(rows of s0 and x, out)
    scan    s1 = s0 * x0; s2 = s1 * x1; ...        multiply.accumulate(rows of s0 and x, rows of s)

Values that could not be given a row, such as outputs, are copied to and from rows. A group that is run alone, to time
it, has no rows at all: then its operands are copied.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tapegrad._program.ir import Fold, Rows, Scan, Stack, Value
from tapegrad.backends._numpy.executor import kernels
from tapegrad.backends._numpy.executor.emitter import Emitter
from tapegrad.backends._numpy.executor.references import NDArray, Operand

_ACCUMULATE = {"multiply": np.multiply.accumulate, "add": np.add.accumulate}


def emit_stack(emitter: Emitter, stack: Stack) -> None:
    """Append the call that does the operation of a stack on rows."""
    placement, writer = emitter.placement, emitter.writer
    first, n = stack.nodes[0], len(stack.nodes)
    ndim = len(first.out.shape)
    # An operand is a number, one value for all nodes, or a row for each.
    operands: list[object] = []
    for i, x in enumerate(first.args):
        if not isinstance(x, Value):
            operands.append(x)
        elif stack.nodes[1].args[i] is x:
            operands.append(placement.array(x))
        else:
            rows = _rows_of(emitter, [node.args[i] for node in stack.nodes])
            operands.append(rows.reshape((n, *(1,) * (ndim - len(x.shape)), *x.shape)))
    for v in stack.outs:
        placement.target(v)
    out = _rows_of(emitter, stack.outs, results=True)
    calls = kernels.of_node(first, operands, out)
    if calls is None:
        for node in stack.nodes:
            emitter.emit_node(node, writer.code)
        return
    writer.emit_all(writer.code, calls)
    for i, v in enumerate(stack.outs):
        if placement.changes(v):
            writer.emit(writer.code, np.copyto, (placement.array(v), out[i, ...]))


def _rows_of(emitter: Emitter, values: list[Value] | tuple[Value, ...], results: bool = False) -> NDArray:
    """Return the rows of one array that values are, in their order; where they lie elsewhere, copies of them."""
    placement, writer = emitter.placement, emitter.writer
    (rows, start), (_, second) = _row_of(values[0]), _row_of(values[1])
    if any(placement.changes(v) for v in values):
        array = placement.reserve((len(values), *values[0].shape), values[0].dtype)
        for i, v in enumerate(() if results else values):
            writer.emit(writer.code, np.copyto, (array[i, ...], placement.array(v)))
        return array
    array = placement.rows(rows)
    if second > start:
        return array[start : start + len(values)]
    return array[start - len(values) + 1 : start + 1][::-1]


def _row_of(v: Value) -> tuple[Rows, int]:
    assert v.row is not None
    return v.row


def emit_fold(emitter: Emitter, fold: Fold) -> None:
    """Append a sum over rows, which adds them one after the other, as the chain of additions would."""
    placement, writer = emitter.placement, emitter.writer
    x, second = fold.nodes[0].args
    rows, at = _row_of(second)
    array = placement.rows_from(rows, at - 1, len(fold.nodes) + 1)  # the row before holds the first addend
    if array is None:
        values = [x, *[node.args[1] for node in fold.nodes]]
        array = placement.reserve((len(values), *second.shape), second.dtype)
        for i, v in enumerate(values):
            writer.emit(writer.code, np.copyto, (array[i, ...], placement.array(v)))
    elif x.row != (rows, at - 1):
        writer.emit(writer.code, np.copyto, (array[0, ...], placement.array(x)))  # into the row to spare
    out = placement.target(fold.outs[0])
    if second.size != 1:
        # `initial` is None, so that the sum begins with the first row: 0 + -0 is 0.
        writer.emit(writer.code, np.add.reduce, (array, 0, None, out, False, None))
        return
    # NumPy sums single numbers in pairs, in another order: all sums so far are in this one.
    sums = placement.reserve(array.shape, second.dtype)
    writer.emit(writer.code, np.add.accumulate, (array, 0, None, sums))
    writer.emit(writer.code, np.copyto, (out, sums[-1, ...]))


def emit_scan(emitter: Emitter, scan: Scan) -> None:
    """Append an accumulation over rows, with the moves of operands into them and of results to the rows of others."""
    placement, writer = emitter.placement, emitter.writer
    shape, dtype = (len(scan.nodes) + 1, *scan.outs[0].shape), scan.outs[0].dtype
    given, found = placement.reserve(shape, dtype), placement.reserve(shape, dtype)
    # 1. Operands go into the rows that are given, the first one before them.
    writer.emit(writer.code, np.copyto, (given[0, ...], placement.array(scan.first)))
    for places, values in scan.moves_in:
        for to, x in _moves(emitter, given[1:], places, values):
            writer.emit(writer.code, np.copyto, (to, x))
    # 2. All results so far.
    writer.emit(writer.code, _ACCUMULATE[scan.nodes[0].op], (given, 0, None, found))
    # 3. Results lie in the rows that are found, except outputs and rows of other groups, which are copied there.
    elsewhere = {v for v in scan.outs if v in placement or v.row is not None}
    for i, v in enumerate(scan.outs):
        if v in elsewhere:
            placement.target(v)
        else:
            placement.put(v, found[i + 1, ...])
    for places, values in scan.moves_out:
        if values[0] in elsewhere:
            for result, row in _moves(emitter, found[1:], places, values):
                writer.emit(writer.code, np.copyto, (row, result))


def _moves(
    emitter: Emitter, array: NDArray, places: list[int], values: list[Value]
) -> Iterator[tuple[NDArray, Operand]]:
    """Go through pairs of parts of an array and the arrays of the values at these places, as few as can be."""
    placement, first = emitter.placement, values[0]
    if len(values) > 1:
        part = array[places[0] :: places[1] - places[0]][: len(places)]
        if first is values[1]:  # one value at all places
            yield part, placement.array(first)
            return
        if not any(placement.changes(v) for v in values):  # rows at equal distances
            (rows, start), (_, second) = _row_of(first), _row_of(values[1])
            yield part, placement.rows(rows)[start :: second - start][: len(places)]
            return
    for i, v in zip(places, values, strict=True):
        yield array[i, ...], placement.array(v)
