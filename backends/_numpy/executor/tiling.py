"""Tiling of a run: its rows, cut into tiles whose values stay in the cache (loop blocking).

A run computes elementwise operations, and reductions within rows, along the leading axes of large arrays. Operation by
operation, each array would travel to memory and back. Tile by tile, only operands and results of the run do::

    run along (1000,):  %0 = exp(x0)  (1000, 512)      tiles of 128 rows: 65536 elements
                        %1 = sin(%0)  (1000, 512)      of about equal length: 8 tiles of 125 rows

Within a tile, arrays live as the passes over a whole program say: a scratch buffer is given back after its last use.
"""

from __future__ import annotations

from math import prod

from tapegrad._program.ir import Node, Run, Value
from tapegrad._program.queries import is_total, reduction_axes

TILE = 65536  # elements of the largest array of a tile, or more if all arrays of a tile fit into a core's cache
CACHE = 7 << 18  # bytes of that
MANY = 32  # tiles that a run has at least, if larger ones would do
PARALLEL = 16 * TILE  # elements times operations from which a run is worth two threads


class RunLiveness:
    """Aliases and last uses within a run.

    last: the number of the node that reads the array of a value last; readers: how many times the nodes read a result.
    """

    def __init__(self, run: Run) -> None:
        self._root: dict[Value, Value] = {}
        for n in run.nodes:
            if n.kind == "view":
                self._root[n.out] = self.root_of(n.args[0])
        self.last = {self.root_of(v): i for i, n in enumerate(run.nodes) for v in n.reads}
        self.readers = {v: sum(x is v for n in run.nodes for x in n.reads) for n in run.nodes for v in n.outs}

    def root_of(self, v: Value) -> Value:
        """Return the value whose array a value lies in."""
        return self._root.get(v, v)

    def keep_until(self, i: int, v: Value) -> None:
        """Have the array of a value live until a node, or longer."""
        root = self.root_of(v)
        self.last[root] = max(i, self.last[root])

    def dies(self, v: Value, i: int) -> bool:
        """Say whether nothing reads a value after a node."""
        return self.last.get(v, -1) <= i

    def only_alias(self, x: Value, node: Node) -> bool:
        """Say whether no other operand is a view of `x`."""
        return all(y is x or self._root.get(y) is not x for y in node.reads)


class Tiling:
    """The tiles of a run: the leading axes are taken as one, the rows.

    ndim: the number of leading axes; rows: how many rows there are; size: rows of a tile; starts: the first row of each
    tile; threads: on how many the tiles are run.
    """

    def __init__(self, run: Run, liveness: RunLiveness, threads: int) -> None:
        self.lead, self.ndim, self.rows = run.lead, len(run.lead), prod(run.lead)
        widest = max(prod(self.inner(v)) for n in run.nodes for v in n.outs)
        size = max(1, TILE // max(widest, 1), min(CACHE // self._row_bytes(run, liveness), self.rows // MANY))
        count = -(-self.rows // size)
        self.size = -(-self.rows // count)  # of about equal length
        self.starts = list(range(0, self.rows, self.size))
        work = self.rows * widest * len(run.nodes)
        self.threads = min(threads, len(self.starts)) if work >= PARALLEL else 1

    def _row_bytes(self, run: Run, liveness: RunLiveness) -> int:
        """Return the bytes of a row of all arrays that live at once, at the node where that is most."""
        # The walk of liveness analysis: results are born, the maximum is taken, the dead leave.
        alive = dict.fromkeys(v for v in run.ins if self.by_rows(v))
        most = 1
        for i, n in enumerate(run.nodes):
            alive |= dict.fromkeys(n.outs if n.kind != "view" and not is_total(n) else ())
            most = max(most, sum(prod(self.inner(v)) * v.dtype.itemsize for v in alive))
            for v in [v for v in alive if liveness.dies(v, i)]:
                del alive[v]
        return most

    def inner(self, v: Value) -> tuple[int, ...]:
        """Return the shape of a row."""
        return v.shape[self.ndim :]

    def by_rows(self, v: Value) -> bool:
        """Say whether a value has a row for each row of the run."""
        return v.shape[: self.ndim] == self.lead

    def bounds(self, b: int) -> tuple[int, int]:
        """Return the first row of a tile, and the row after its last."""
        return self.starts[b], min(self.starts[b] + self.size, self.rows)

    def shares(self) -> list[range]:
        """Return the tiles of each thread."""
        n, count = -(-len(self.starts) // self.threads), len(self.starts)
        return [range(t * n, min((t + 1) * n, count)) for t in range(self.threads)]

    def axes(self, reduction: Node) -> tuple[int, ...]:
        """Return the axes of a tile that a reduction reduces: the rows are axis 0, of a total too."""
        inner = tuple(i - self.ndim + 1 for i in reduction_axes(reduction) if i >= self.ndim)
        return (0, *inner) if is_total(reduction) else inner

    def kept(self, reduction: Node) -> tuple[int, ...]:
        """Return the shape that a reduction leaves of a row."""
        axes = self.axes(reduction)
        return tuple(n for i, n in enumerate(self.inner(reduction.args[0]), 1) if i not in axes)
