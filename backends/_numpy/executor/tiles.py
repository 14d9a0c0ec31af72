"""Runs of operations on large arrays on NumPy: calls for each block of rows, into scratch that stays in the cache."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tapegrad._program.ir import Value
from tapegrad._program.queries import axes_of, is_total
from tapegrad.backends._array import Array
from tapegrad.backends._numpy.executor import kernels as calls
from tapegrad.backends._numpy.executor.buffers import Pool, alike, reshaping
from tapegrad.backends._numpy.executor.threads import Code, run_code

BLOCK = 65536  # elements of a block of a run, or more if all its arrays fit into a core's cache
CACHE = 7 << 18  # bytes of that
MANY = 32  # blocks that a run has at least, if larger ones would do
PARALLEL = 64 * BLOCK  # elements times operations from which a run is worth two threads


class Blocks:
    """Code of a run: for each block of rows, calls into scratch that stays in the cache."""

    def __init__(self, planner: Any, run: Any) -> None:
        self.planner, self.run = planner, run
        self.k = len(run.lead)
        self.rows = prod(run.lead)
        inner = max(prod(v.shape[self.k :]) for n in run.nodes for v in n.outs)
        self.root: dict[Any, Any] = {}  # view -> the value whose buffer it is of
        for n in run.nodes:
            if n.kind == "view":
                self.root[n.outs[0]] = self.root.get(n.args[0], n.args[0])
        self.last = {self.root.get(v, v): i for i, n in enumerate(run.nodes) for v in n.values()}
        self.uses = {v: sum(x is v for n in run.nodes for x in n.values()) for n in run.nodes for v in n.outs}
        self.block = max(1, BLOCK // max(inner, 1), min(CACHE // self._row_bytes(), self.rows // MANY))
        count = -(-self.rows // self.block)
        self.block = -(-self.rows // count)  # of about equal length
        self.starts = list(range(0, self.rows, self.block))
        work = self.rows * inner * len(run.nodes)
        self.threads = min(planner.threads, len(self.starts)) if work >= PARALLEL else 1

    def emit(self) -> None:
        """Append the run to the program's code."""
        planner, run = self.planner, self.run
        totals = [n for n in run.nodes if is_total(n)]
        self.outs = {v: planner.target(v) for v in run.outs if v not in {n.outs[0] for n in totals}}
        self.totals = {n.outs[0]: np.empty((len(self.starts), *self._kept(n)), n.outs[0].dtype) for n in totals}
        self.dots = {n.args[0] for n in totals if self._is_dot(n)}
        for i, n in enumerate(run.nodes):
            if n in totals and n.args[0] in self.dots:
                self.last |= {self.root.get(x, x): i for x in n.args[0].node.args if self.last[self.root.get(x, x)] < i}
        self.dense: dict[Any, Any] = {}
        for v in run.ins:
            array = planner.array(v)
            rows = (self.rows, *self._inner(v))
            if self._by_rows(v) and self.k > 1 and planner.view(array, reshaping(rows), rows) is None:
                self.dense[v] = np.empty(v.shape, v.dtype)  # rows of it are no view
                planner.pool.nbytes += self.dense[v].nbytes
                planner.emit(planner.code, np.copyto, (self.dense[v], array))
        codes: list[Code] = []
        share = -(-len(self.starts) // self.threads)
        for t in range(self.threads):
            code: Code = []
            scratch = Pool()
            for b in range(t * share, min((t + 1) * share, len(self.starts))):
                self._block(b, code, scratch)
            planner.pool.nbytes += scratch.nbytes
            codes.append(code)
        if self.threads == 1:
            planner.emit(planner.code, run_code, (codes[0],))
        else:
            planner.share(planner.code, codes)
        for n in totals:
            self._finish(n)

    def _row_bytes(self) -> int:
        """Return how many bytes of the arrays that are needed at once a row has."""
        at_once = dict.fromkeys(v for v in self.run.ins if self._by_rows(v))
        most = 1
        for i, n in enumerate(self.run.nodes):
            at_once |= dict.fromkeys(n.outs if n.kind != "view" and not is_total(n) else ())
            most = max(most, sum(prod(self._inner(v)) * v.dtype.itemsize for v in at_once))
            for v in [v for v in at_once if self.last.get(v, -1) <= i]:
                del at_once[v]
        return most

    def _sole(self, x: Any, node: Any) -> bool:
        """Say whether no other operand is a view of the same buffer."""
        return all(y is x or self.root.get(y) is not x for y in node.values())

    def _axes(self, node: Any) -> tuple[int, ...]:
        """Return the axes of a block that a reduction reduces: the rows are one axis."""
        inner = tuple(i - self.k + 1 for i in axes_of(node) if i >= self.k)
        return (0, *inner) if is_total(node) else inner

    def _kept(self, node: Any) -> tuple[int, ...]:
        shape = self._inner(node.args[0])
        axes = self._axes(node)
        return tuple(n for i, n in enumerate(shape, 1) if i not in axes)

    def _inner(self, v: Any) -> tuple[int, ...]:
        return tuple(v.shape[self.k :])

    def _is_dot(self, node: Any) -> bool:
        """Say whether a total is of a product that nobody else reads: one pass of BLAS."""
        x = node.args[0]
        made = x.node
        return (
            node.op == "sum"
            and made in self.run.nodes
            and made.op == "multiply"
            and x not in self.run.outs
            and self.uses[x] == 1
            and self.k == len(x.shape)
            and x.dtype.kind == "f"
            and x.dtype.itemsize >= 4
            and all(isinstance(a, Value) and a.dtype == x.dtype and a.shape == x.shape for a in made.args)
        )

    def _by_rows(self, v: Any) -> bool:
        return bool(tuple(v.shape[: self.k]) == self.run.lead)

    def _rows(self, array: Any, v: Any, b: int) -> Any:
        """Return a block of rows of an array that has them all."""
        start = self.starts[b]
        stop = min(start + self.block, self.rows)
        shape = (self.rows, *self._inner(v))
        spot = self.planner.view(array, lambda a: a.reshape(shape)[start:stop], ())
        assert spot is not None
        return spot

    def _block(self, b: int, code: Code, scratch: Pool) -> None:
        planner = self.planner
        n = min(self.starts[b] + self.block, self.rows) - self.starts[b]
        place: dict[Any, Any] = {}
        held: dict[Any, Array] = {}

        def at(v: Any, out: Any) -> Any:
            if v.constant is not None:
                return v.constant if not v.shape else self._fixed(v.constant, out, b, v)
            by_rows = out is None or (len(v.shape) == len(out.shape) and self._by_rows(v))
            if by_rows and v in place:
                return place[v]
            array = self.dense[v] if v in self.dense else planner.array(v)
            if by_rows:
                place[v] = self._rows(array, v, b)
                return place[v]
            keep = len(out.shape) - self.k
            if len(v.shape) > keep:
                shape = tuple(v.shape[len(v.shape) - keep :])
                return planner.view(array, reshaping(shape), shape)
            return array

        for i, node in enumerate(self.run.nodes):
            v = node.outs[0]
            if v in self.dots:
                continue
            if node.kind == "view":
                place[v] = planner.view(at(node.args[0], None), reshaping((n, *self._inner(v))), ())
                if v in self.outs:
                    out = self._rows(self.outs[v], v, b)
                    planner.emit(code, np.copyto, (out, place[v]))
                    place[v] = out
                continue
            if v in self.totals:
                self._partial(node, b, code, at)
                continue
            out = None
            if v in self.outs:
                out = self._rows(self.outs[v], v, b)
            else:
                for x in calls.overwritable(node) if node.kind == "elementwise" else ():
                    if isinstance(x, Value) and x in held and self.last[x] == i and alike(x, v) and self._sole(x, node):
                        buffer = held.pop(x)
                        break
                else:
                    buffer = scratch.take(max(1, prod((self.block, *self._inner(v)))) * v.dtype.itemsize)
                held[v] = buffer
                out = scratch.array(buffer, (n, *self._inner(v)), v.dtype)
            if node.kind == "reduction":
                keepdims = bool(node.kwargs.get("keepdims", False))
                x = node.args[0]
                count = x.size // max(v.size, 1)
                made: Any = calls.reduction(node.op, at(x, None), self._axes(node), keepdims, out, count, v.dtype)
            else:
                operands = [at(x, v) if isinstance(x, Value) else x for x in node.args]
                made = calls.of_node(node, operands, out)
            place[v] = out
            if made is None:
                args = tuple(operands)
                planner.emit(code, calls.store, (out, node.function, args, node.kwargs))
            else:
                planner.emit_all(code, made)
            for x in [x for x in held if self.last.get(x, -1) <= i and x is not v]:
                scratch.give(held.pop(x))
        for buffer in held.values():
            scratch.give(buffer)

    def _fixed(self, array: Array, out: Any, b: int, v: Any) -> Any:
        if len(v.shape) == len(out.shape) and self._by_rows(v):
            return self._rows(array, v, b)
        keep = len(out.shape) - self.k
        return array.reshape(array.shape[array.ndim - keep :]) if array.ndim > keep else array

    def _partial(self, node: Any, b: int, code: Code, at: Any) -> None:
        x, v = node.args[0], node.outs[0]
        into = self.totals[v][b, ...]
        if x in self.dots:
            a, c = (at(y, x) for y in x.node.args)
            self.planner.emit(code, np.dot, (a, c, into))
            return
        reduce = calls.REDUCES[node.op]
        kind = v.dtype if node.op == "sum" else None
        self.planner.emit(code, reduce, (at(x, None), self._axes(node), kind, into, False))

    def _finish(self, node: Any) -> None:
        v = node.outs[0]
        out = self.planner.target(v)
        kept = self._kept(node)
        spot = self.planner.view(out, reshaping(kept), kept)
        self.planner.emit(self.planner.code, calls.REDUCES[node.op], (self.totals[v], 0, None, spot, False))
