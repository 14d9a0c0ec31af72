"""Emitter of runs: the calls of a run, tile by tile, into scratch that stays in the cache.

Each tile has calls of its own, on slices of the arrays that enter and leave the run. A result that does not leave it
goes to scratch, which all tiles share. A sum over all rows is computed tile by tile, and the partial sums are added
at the end::

    run along (1000,), in: x0, out: %1, %2        tile 0                    tile 1
    %0 = exp(x0)                                  exp(x0[:125], S)          exp(x0[125:250], S)
    %1 = sin(%0)                                  sin(S, %1[:125])          sin(S, %1[125:250])
    %2 = sum(%0, axis=0)                          add.reduce(S, P[0])       add.reduce(S, P[1])
                                                  after all tiles: add.reduce(P, %2)
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tapegrad._program.ir import Node, Run, Value
from tapegrad._program.queries import is_total
from tapegrad.backends._numpy.executor import kernels
from tapegrad.backends._numpy.executor.buffers import Pool
from tapegrad.backends._numpy.executor.emitter import Emitter
from tapegrad.backends._numpy.executor.kernels import can_take_over
from tapegrad.backends._numpy.executor.nodes import reshape_to
from tapegrad.backends._numpy.executor.references import NDArray, Operand
from tapegrad.backends._numpy.executor.threads import Code, run_code
from tapegrad.backends._numpy.executor.tiling import RunLiveness, Tiling


class TiledRun:
    """The calls of a run.

    outs: the arrays of results that leave the run row by row; partials: for each total, an array with its value for
    each tile; dots: products that are only summed; dense: copies of operands whose rows are no view.
    """

    def __init__(self, emitter: Emitter, run: Run) -> None:
        self.emitter, self.run = emitter, run
        self.liveness = RunLiveness(run)
        self.tiling = tiling = Tiling(run, self.liveness, emitter.sharing.threads)
        totals = [n for n in run.nodes if is_total(n)]
        made = {n.out for n in totals}
        self.outs = {v: emitter.placement.target(v) for v in run.outs if v not in made}
        self.partials = {
            n.out: emitter.placement.reserve((len(tiling.starts), *tiling.kept(n)), n.out.dtype) for n in totals
        }
        self.dots: set[Value] = {n.args[0] for n in totals if self._is_dot(n)}
        self.dense: dict[Value, NDArray] = {}

    def emit(self) -> None:
        """Append the run to the code of the program."""
        writer, pool = self.emitter.writer, self.emitter.placement.pool
        totals = [n for n in self.run.nodes if n.out in self.partials]
        # A dot product reads its factors where the sum stands.
        for i, n in enumerate(self.run.nodes):
            if n.out in self.partials and n.args[0] in self.dots:
                for x in _factors(n.args[0]):
                    self.liveness.keep_until(i, x)
        self._lay_out()
        # Neighbouring tiles go to one thread, whose cache holds the elements that they share.
        codes: list[Code] = []
        for tiles in self.tiling.shares():
            code: Code = []
            scratch = Pool()  # of one thread
            for b in tiles:
                Tile(self, b, code, scratch).emit()
            pool.nbytes += scratch.nbytes
            codes.append(code)
        if len(codes) == 1:
            writer.emit(writer.code, run_code, (codes[0],))
        else:
            writer.emit_threads(writer.code, codes)
        # The partial results of all threads are there: the totals need no lock.
        for n in totals:
            self._finish(n)

    def _lay_out(self) -> None:
        """Append copies of operands that have several leading axes which cannot be taken as one by a view."""
        placement, writer, tiling = self.emitter.placement, self.emitter.writer, self.tiling
        for v in self.run.ins:
            array = placement.array(v)
            # A reshape of a transposed array is a copy: it is made once, not for each tile.
            rows = (tiling.rows, *tiling.inner(v))
            if tiling.by_rows(v) and tiling.ndim > 1 and placement.view(array, reshape_to(rows)) is None:
                self.dense[v] = placement.reserve(v.shape, v.dtype)
                writer.emit(writer.code, np.copyto, (self.dense[v], array))

    def _is_dot(self, node: Node) -> bool:
        """Say whether a total is of a product that nobody else reads: one pass of BLAS."""
        x = node.args[0]
        made = x.node
        return (
            node.op == "sum"
            and made is not None
            and made in self.run.nodes
            and made.op == "multiply"
            and x not in self.run.outs
            and self.liveness.readers[x] == 1
            and self.tiling.ndim == len(x.shape)
            and x.dtype.kind == "f"
            and x.dtype.itemsize >= 4
            and all(isinstance(a, Value) and a.dtype == x.dtype and a.shape == x.shape for a in made.args)
        )

    def operand(self, v: Value) -> Operand:
        """Return the array of a value that enters the run."""
        return self.dense[v] if v in self.dense else self.emitter.placement.array(v)

    def cut(self, array: Operand, v: Value, b: int) -> Operand:
        """Return the rows of a tile of an array that has them all."""
        # The leading axes become one, then a slice of it is taken.
        start, stop = self.tiling.bounds(b)
        shape = (self.tiling.rows, *self.tiling.inner(v))
        return self.emitter.placement.must_view(array, lambda a: a.reshape(shape)[start:stop])

    def _finish(self, total: Node) -> None:
        """Append the reduction of the values that a total has for each tile."""
        placement, writer, v = self.emitter.placement, self.emitter.writer, total.out
        kept = self.tiling.kept(total)
        spot = placement.must_view(placement.target(v), reshape_to(kept))
        writer.emit(writer.code, kernels.REDUCES[total.op], (self.partials[v], 0, None, spot, False))


class Tile:
    """The calls of one tile.

    place: the tile's part of each value; buffers: the scratch buffers of values that are alive.
    """

    def __init__(self, tiled: TiledRun, b: int, code: Code, scratch: Pool) -> None:
        self.tiled, self.b, self.code, self.scratch = tiled, b, code, scratch
        start, stop = tiled.tiling.bounds(b)
        self.rows = stop - start
        self.place: dict[Value, Operand] = {}
        self.buffers: dict[Value, NDArray] = {}

    def emit(self) -> None:
        """Append the calls of the nodes in order."""
        tiled = self.tiled
        for i, node in enumerate(tiled.run.nodes):
            if node.out in tiled.dots:
                continue  # computed by the total that reads it
            if node.kind == "view":
                self._view(node)
            elif node.out in tiled.partials:
                self._total(node)
            else:
                self._compute(i, node)
        for buffer in self.buffers.values():
            self.scratch.give(buffer)

    def _view(self, node: Node) -> None:
        """Place a reshape of rows; append a copy of it if it leaves the run."""
        tiled, v = self.tiled, node.out
        view = tiled.emitter.placement.view(self._rows_of(node.args[0]), reshape_to(self._shape(v)))
        assert view is not None
        # A view that leaves the run is copied to its place, and read there by the nodes that follow.
        self.place[v] = view
        if v in tiled.outs:
            self.place[v] = tiled.cut(tiled.outs[v], v, self.b)
            tiled.emitter.writer.emit(self.code, np.copyto, (self.place[v], view))

    def _total(self, node: Node) -> None:
        """Append the reduction of a tile, into its place among the partial results."""
        tiled, x, v = self.tiled, node.args[0], node.out
        into = tiled.partials[v][self.b, ...]
        writer = tiled.emitter.writer
        # The product is not computed: BLAS multiplies and adds in one pass.
        if x in tiled.dots:
            a, c = (self._operand(y, x) for y in _factors(x))
            writer.emit(self.code, np.dot, (a, c, into))
            return
        # Nothing is kept of a tile but one partial result, in a row of its own.
        dtype = v.dtype if node.op == "sum" else None
        args = (self._rows_of(x), tiled.tiling.axes(node), dtype, into, False)
        writer.emit(self.code, kernels.REDUCES[node.op], args)

    def _compute(self, i: int, node: Node) -> None:
        """Append the calls of an elementwise node, or of a reduction within rows; give back the scratch of the dead."""
        tiled, writer, v = self.tiled, self.tiled.emitter.writer, node.out
        # 1. The place of the result: the array that leaves the run, or scratch.
        out = tiled.cut(tiled.outs[v], v, self.b) if v in tiled.outs else self._scratch(i, node)
        # 2. The calls, as for whole arrays.
        if node.kind == "reduction":
            x, keepdims = node.args[0], bool(node.kwargs.get("keepdims", False))
            count = x.size // max(v.size, 1)
            axes = tiled.tiling.axes(node)
            calls: Any = kernels.reduction(node.op, self._rows_of(x), axes, keepdims, out, count, v.dtype)
        else:
            operands = [self._operand(x, v) if isinstance(x, Value) else x for x in node.args]
            calls = kernels.of_node(node, operands, out)
            if calls is None:
                calls = [(kernels.store, (out, node.function, tuple(operands), node.kwargs))]
        self.place[v] = out
        writer.emit_all(self.code, calls)
        # 3. Scratch of arrays that no later node of the tile reads.
        for x in [x for x in self.buffers if tiled.liveness.dies(x, i) and x is not v]:
            self.scratch.give(self.buffers.pop(x))

    def _scratch(self, i: int, node: Node) -> NDArray:
        """Return scratch for a result: that of an operand which dies here, or a buffer of the pool."""
        # In place, as for whole arrays, so that a tile needs less of the cache.
        tiled, v = self.tiled, node.out
        for x in kernels.overwritable(node) if node.kind == "elementwise" else ():
            if (
                isinstance(x, Value)
                and x in self.buffers
                and tiled.liveness.last[x] == i
                and can_take_over(v, x)
                and tiled.liveness.only_alias(x, node)
            ):
                buffer = self.buffers.pop(x)
                break
        else:
            # The last tile may be shorter: it takes the buffers of the others.
            size = prod((tiled.tiling.size, *tiled.tiling.inner(v)))
            buffer = self.scratch.take(max(1, size) * v.dtype.itemsize)
        self.buffers[v] = buffer
        return self.scratch.array(buffer, self._shape(v), v.dtype)

    def _shape(self, v: Value) -> tuple[int, ...]:
        return (self.rows, *self.tiled.tiling.inner(v))

    def _rows_of(self, v: Value) -> Operand:
        """Return the tile's rows of a value that has a row for each row of the run."""
        if v not in self.place:
            self.place[v] = self.tiled.cut(self.tiled.operand(v), v, self.b)
        return self.place[v]

    def _operand(self, v: Value, out: Value) -> Operand:
        """Return an operand of an elementwise node: by rows, or the same for all of them.

        One that is the same for all rows loses the leading axes, of length one, that it has beyond those of a row.
        """
        tiling, placement = self.tiled.tiling, self.tiled.emitter.placement
        if v.constant is not None and not v.shape:
            return self.tiled.operand(v)
        if len(v.shape) == len(out.shape) and tiling.by_rows(v):
            return self._rows_of(v)
        array = self.tiled.operand(v)
        inner = len(out.shape) - tiling.ndim
        if len(v.shape) > inner:
            return placement.must_view(array, reshape_to(v.shape[len(v.shape) - inner :]))
        return array


def _factors(product: Value) -> tuple[Value, ...]:
    assert product.node is not None
    return product.node.args
