"""Operations on many small arrays at once on NumPy: calls on rows of one array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad._program.ir import Value
from tapegrad.backends._array import Array
from tapegrad.backends._numpy.executor import kernels as calls
from tapegrad.backends._numpy.executor.buffers import Ref

_ACCUMULATE = {"multiply": np.multiply.accumulate, "add": np.add.accumulate}


def _stack(planner: Any, stack: Any) -> None:
    """Append the one call that does a stack's operation on rows."""
    first, n = stack.nodes[0], len(stack.nodes)
    ndim = len(first.outs[0].shape)
    operands = []
    for i, x in enumerate(first.args):
        if not isinstance(x, Value):
            operands.append(x)
        elif stack.nodes[1].args[i] is x:
            operands.append(planner.array(x))
        else:
            rows = _rows_of(planner, [node.args[i] for node in stack.nodes])
            operands.append(rows.reshape((n, *(1,) * (ndim - len(x.shape)), *x.shape)))
    for v in stack.outs:
        planner.target(v)
    out = _rows_of(planner, stack.outs, results=True)
    made = calls.of_node(first, operands, out)
    if made is None:
        for node in stack.nodes:
            planner.emit_node(node, planner.code)
        return
    planner.emit_all(planner.code, made)
    for i, v in enumerate(stack.outs):
        if isinstance(planner.place[v], Ref):
            planner.emit(planner.code, np.copyto, (planner.place[v], out[i, ...]))


def _rows_of(planner: Any, values: Any, results: bool = False) -> Array:
    """Return the rows of one array that values are, in their order; where they lie elsewhere, copies of them."""
    (rows, start), (_, second) = values[0].row, values[1].row
    if any(isinstance(planner.place[v], Ref) for v in values):  # of a stack that is run alone, to time it
        array = np.empty((len(values), *values[0].shape), values[0].dtype)
        for i, v in enumerate(() if results else values):
            planner.emit(planner.code, np.copyto, (array[i, ...], planner.array(v)))
        return array
    array = planner.rows[rows][1:]
    if second > start:
        return array[start : start + len(values)]
    return array[start - len(values) + 1 : start + 1][::-1]


def _fold(planner: Any, fold: Any) -> None:
    """Append a sum over rows, which adds them one after the other, as the chain of additions would."""
    x, row = fold.nodes[0].args
    rows, at = row.row
    if rows not in planner.rows:  # of a fold that is run alone
        values = [x, *[node.args[1] for node in fold.nodes]]
        array = np.empty((len(values), *row.shape), row.dtype)
        for i, v in enumerate(values):
            planner.emit(planner.code, np.copyto, (array[i, ...], planner.array(v)))
    else:
        array = planner.rows[rows][at : at + len(fold.nodes) + 1]  # from the row before the first
        if x.row != (rows, at - 1):
            planner.emit(planner.code, np.copyto, (array[0, ...], planner.array(x)))  # the one to spare
    out = planner.target(fold.outs[0])
    if row.size != 1:
        planner.emit(planner.code, np.add.reduce, (array, 0, None, out, False, None))  # from the first: 0 + -0 is 0
        return
    sums = np.empty(array.shape, row.dtype)  # NumPy's sum of single numbers has another order
    planner.emit(planner.code, np.add.accumulate, (array, 0, None, sums))
    planner.emit(planner.code, np.copyto, (out, sums[-1, ...]))


def _scan(planner: Any, scan: Any) -> None:
    """Append an accumulation over rows, and what moves operands into them, and results to the rows of others."""
    v = scan.outs[0]
    given, found = (np.empty((len(scan.nodes) + 1, *v.shape), v.dtype) for _ in range(2))
    planner.pool.nbytes += given.nbytes + found.nbytes
    planner.emit(planner.code, np.copyto, (given[0, ...], planner.array(scan.first)))
    for places, values in scan.moves_in:
        for to, x in _moves(planner, given[1:], places, values):
            planner.emit(planner.code, np.copyto, (to, x))
    planner.emit(planner.code, _ACCUMULATE[scan.nodes[0].op], (given, 0, None, found))
    elsewhere = {v for v in scan.outs if v in planner.place or v.row is not None}
    for i, v in enumerate(scan.outs):
        if v in elsewhere:
            planner.target(v)
        else:
            planner.place[v] = found[i + 1, ...]
    for places, values in scan.moves_out:
        if values[0] in elsewhere:
            for x, to in _moves(planner, found[1:], places, values):
                planner.emit(planner.code, np.copyto, (to, x))


def _moves(planner: Any, array: Array, places: list[int], values: list[Any]) -> list[tuple[Any, Any]]:
    """Return pairs of parts of an array and where the values of these places lie, as few as can be."""
    rows = values[0].row
    if len(values) > 1 and values[0] is values[1]:
        return [(array[places[0] :: places[1] - places[0]][: len(places)], planner.array(values[0]))]
    if len(values) == 1 or any(isinstance(planner.place[v], Ref) for v in values):
        return [(array[i, ...], planner.array(v)) for i, v in zip(places, values, strict=True)]
    part = array[places[0] :: places[1] - places[0]][: len(places)]
    stride = values[1].row[1] - rows[1]
    return [(part, planner.rows[rows[0]][1:][rows[1] :: stride][: len(places)])]


EMIT: dict[str, Callable[[Any, Any], None]] = {"stack": _stack, "fold": _fold, "scan": _scan}
