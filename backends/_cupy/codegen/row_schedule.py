"""Schedule of a row kernel: passes over a row, and the threads and registers that they take.

1. Passes: a reduction within a row ends a pass. Values that depend on its result are computed in a later one.
2. Form: rows that fit stay in registers from pass to pass (`Form.REGISTERS`). A run without reductions within a row is
   cut into tiles of columns (`Form.TILES`). Else each pass reads the row from memory and computes again the values it
   needs (`Form.STREAM`), for rows of any length.
3. Threads: the widest loads and the fewest idle threads for which the registers of a multiprocessor are enough.

Softmax, and the first pass in which each value is known. A stream finds maximum and sum online, in one pass: it
rescales the sum whenever the maximum grows.

                          256 columns, REGISTERS    40000 columns, STREAM
    m = max(x, axis=1)    1                         1
    e = exp(x - m)        1                         1
    s = sum(e, axis=1)    2                         1
    p = e / s             2                         1
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

from tapegrad._program.ir import Node, Value
from tapegrad._program.queries import is_total
from tapegrad.backends._cupy.codegen import flat_kernels as k
from tapegrad.backends._cupy.codegen.cuda_types import ctype
from tapegrad.backends._cupy.codegen.memory_access import Shape, width_of
from tapegrad.backends._cupy.codegen.reductions import WARP, accumulator, can_reduce

SHARED = 40 << 10  # bytes of static shared memory at most; CUDA has 48 KiB
MOST = 1024  # threads of a block
FILE = 65536  # registers of a multiprocessor
SPARE = 28  # registers of a thread for indices, accumulators and temporaries
OCCUPIED = 160  # registers at most of a thread
USUAL = 8  # elements of a row that a thread computes, where it can; half as many of 8 bytes


class Form(Enum):
    """The ways in which a kernel goes over rows."""

    REGISTERS = 1
    TILES = 2
    STREAM = 3


class Grid(NamedTuple):
    """Threads of a kernel over rows.

    lanes: threads of a row; each: times that a thread takes `width` neighbouring elements, of the row or, in a stream,
    of a part of it; block: threads; tiles: parts of a row that are blocks of their own.
    """

    form: Form
    lanes: int
    each: int
    width: int
    block: int
    tiles: int = 1

    @property
    def groups(self) -> int:
        """Number of rows that a block computes at once."""
        return self.block // self.lanes

    @property
    def span(self) -> int:
        """Elements of a row that are computed at once."""
        return self.lanes * self.each * self.width


class Passes(NamedTuple):
    """Passes over a row.

    level: the pass in which a value can be computed; results of reductions can where the pass before has ended; online:
    for a sum of exponentials that is found together with a maximum, the node of that.
    """

    level: dict[Value, int]
    online: dict[Node, Node]

    @property
    def turns(self) -> int:
        """The number of passes over a row."""
        return max(self.level.values(), default=0) + 1


class RowSchedule:
    """A run in terms of rows: made of nodes that `fits` accepted."""

    def __init__(self, lead: Shape, nodes: list[Node], outs: list[Value]) -> None:
        self.lead, self.nodes, self.outs = lead, nodes, outs
        self.rows = prod(lead)
        self.made = {v: node for node in nodes for v in node.outs}
        self.totals = [n for n in nodes if is_total(n)]
        self.ends = {n.outs[0] for n in self.totals}
        inside = [v for v in self.made if v not in self.ends]
        inside += [n.args[0] for n in nodes if n.kind in ("reduction", "pick")]
        self.length = max([self.size(v) for v in inside], default=1)
        self.columns = any(map(is_column, self.totals))  # whether there are sums of columns

    # -- values ------------------------------------------------------------------------------------------

    def size(self, v: Value) -> int:
        """Return how many elements of a value are in a row."""
        return prod(v.shape[len(self.lead) :])

    def inner(self, v: Value) -> Shape:
        """Return the shape of a row of a value."""
        return tuple(v.shape[len(self.lead) :])

    def wide(self, v: Value) -> bool:
        """Say whether a value has an element for each of a row, and not one a row."""
        return self.length > 1 and self.size(v) == self.length

    def crosses(self, node: Node) -> bool:
        """Say whether a node combines the elements of a row."""
        return node.kind == "reduction" and not is_total(node) and self.size(node.args[0]) > 1

    @cached_property
    def crossing(self) -> bool:
        """True if any node combines the elements of a row."""
        return any(self.crosses(n) for n in self.nodes)

    # -- passes ------------------------------------------------------------------------------------------

    @cached_property
    def passes(self) -> Passes:
        """The passes of the kernel."""
        if self.grid.form is not Form.STREAM:
            return self._separate
        online = dict(pair for n in self.nodes if (pair := self._online(n)) is not None)
        return Passes(self._levels(online), online)

    @cached_property
    def _separate(self) -> Passes:
        return Passes(self._levels({}), {})

    def _levels(self, online: dict[Node, Node]) -> dict[Value, int]:
        level: dict[Value, int] = {}
        for n in self.nodes:
            # One pass more than the operands' if the node reduces a row: its result is known when that pass ends.
            below = max([level.get(v, 0) for v in n.values()], default=0)
            level[n.outs[0]] = level[online[n].outs[0]] if n in online else below + self.crosses(n)
        return level

    def _online(self, n: Node) -> tuple[Node, Node] | None:
        """Return (sum, maximum) if a node is sum(exp(x - max(x))) of floats."""
        if n.op != "sum" or not self.crosses(n) or accumulator("sum", n.outs[0].dtype)[1].kind not in "fd":
            return None
        # Go back from the sum: exp, then subtract, then the maximum of the same row, maybe by views of it.
        power = self.made.get(n.args[0])
        less = self.made.get(power.args[0]) if power is not None and power.op == "exp" else None
        if less is None or less.op != "subtract":
            return None
        x, top = less.args
        node = self.made.get(top) if isinstance(top, Value) else None
        while node is not None and node.kind == "view":
            node = self.made.get(node.args[0])
        if node is None or node.op != "max" or not self.crosses(node) or node.args[0] is not x:
            return None
        return (n, node) if x.dtype == n.args[0].dtype == n.outs[0].dtype else None

    def sinks(self, passes: Passes, at: int) -> list[tuple[Node | None, Value]]:
        """Return (node, value): values of which a pass computes every element, and the reduction of each, or None."""
        found: list[tuple[Node | None, Value]] = []
        for n in self.nodes:
            v, level = n.outs[0], passes.level[n.outs[0]]
            if self.crosses(n):
                if level == at + 1 and n not in passes.online:
                    found.append((n, n.args[0]))
            elif n in self.totals:
                if level == at and self.wide(n.args[0]):
                    found.append((n, n.args[0]))
            elif v in self.outs and self.wide(v) and level == at:
                found.append((None, v))
        return found

    def needed(self, passes: Passes, at: int, kept: dict[Value, int]) -> dict[Value, int]:
        """Return the wide values that a pass needs, with the pass in which each is made; kept: those made before."""
        # A search from the pass's sinks back to values that are read from memory or kept from an earlier pass.
        found: dict[Value, int] = {}
        waiting = [v for _, v in self.sinks(passes, at)]
        while waiting:
            v = waiting.pop()
            if v not in found:
                found[v] = kept.get(v, at)
                if found[v] == at and v in self.made:
                    waiting += self._wide_operands(self.made[v])
        return found

    def _wide_operands(self, node: Node) -> list[Value]:
        """Return the operands of an elementwise node or a view that differ within a row."""
        inner = len(node.outs[0].shape) - len(self.lead)
        return [
            v
            for v in node.values()
            if (self.wide(v) if v in self.made else inner > 0 and self.length > 1 and prod(v.shape[-inner:]) > 1)
        ]

    # -- threads -----------------------------------------------------------------------------------------

    @cached_property
    def grid(self) -> Grid:
        """The threads of the kernel."""
        # In order of speed: no combination of threads, one read of each element, any number of reads.
        tiles = None if self.crossing else self._tiles()
        return tiles or self._registers() or self._stream()

    @cached_property
    def width(self) -> int:
        """Neighbouring elements that a thread takes at most."""
        passes = self._separate
        values = {v for at in range(passes.turns) for v in self.needed(passes, at, {})}
        return width_of(self.length, [v.dtype.itemsize for v in values if v not in self.made or v in self.outs])

    @cached_property
    def usual(self) -> int:
        """Elements of a row that a thread computes, where it can."""
        values = (v for n in self.nodes for v in (*n.values(), *n.outs))
        return USUAL // max([_words(v.dtype) for v in values if v.dtype.kind in "fV"], default=1)

    def _tiles(self) -> Grid | None:
        chunks = self.length // self.width
        if chunks <= WARP:
            return None
        lanes = min(128, -(-chunks // WARP) * WARP)
        return Grid(Form.TILES, lanes, 1, self.width, lanes, -(-chunks // lanes))

    def _registers(self) -> Grid | None:
        """Return threads that keep a row in registers, None if there are too few registers."""
        pressure = self._pressure()
        ways = [grid for shift in range(self.width.bit_length()) for grid in self._ways(self.width >> shift)]
        # The best way whose values fit: a thread's registers less those for indices and accumulators.
        for grid in ways:
            room = min(OCCUPIED, FILE // max(grid.block, 128)) - SPARE
            if pressure * grid.each * grid.width <= room:
                return grid
        if self.columns and self.outs:  # `fits` found registers for all except some results
            return min(ways, key=lambda g: g.each * g.width)
        return None

    def _ways(self, width: int) -> list[Grid]:
        """Return ways to distribute a row over threads, best first."""
        chunks = -(-self.length // width)
        # Short rows: a power of two of lanes each, so that shuffles combine them, and many rows in a block.
        if chunks <= WARP:
            lanes = 1
            while lanes < chunks:
                lanes *= 2
            return [Grid(Form.REGISTERS, lanes, 1, width, 128)]
        # Long rows: one block each, of whole warps; a thread takes `each` chunks.
        found = []
        for each in range(1, max(2 * self.usual // width, 1) + 1):
            lanes = -(-chunks // (each * WARP)) * WARP
            if lanes <= MOST:
                found.append(Grid(Form.REGISTERS, lanes, each, width, lanes))
        return sorted(found, key=lambda g: (g.span > 1.13 * self.length, abs(g.each * width - self.usual), g.span))

    def _stream(self) -> Grid:
        passes = self._separate
        # Nothing is kept from pass to pass: the loads of the widest pass decide.
        loads = max(
            sum(_words(v.dtype) for v in self.needed(passes, at, {}) if v not in self.made or v in self.outs)
            for at in range(passes.turns)
        )
        lanes = min(512, -(-self.length // (self.width * WARP)) * WARP)
        each = max(1, self.usual // self.width)
        while each > 1 and loads * each * self.width > FILE // lanes - SPARE:
            each //= 2
        return Grid(Form.STREAM, lanes, each, self.width, lanes)

    def _pressure(self) -> int:
        """Return the registers that an element takes at most: operands, results, and values that later passes need."""
        passes = self._separate
        # Live ranges in passes: from the pass that makes a value to the last one that needs it.
        made: dict[Value, int] = {}
        last: dict[Value, int] = {}
        for at in range(passes.turns):
            for v, first in self.needed(passes, at, made).items():
                made.setdefault(v, first)
                last[v] = at
        # The peak over passes. A value that only its own pass needs takes registers one element at a time.
        peak = 0
        for at in range(passes.turns):
            stays = (
                v
                for v, first in made.items()
                if first <= at <= last[v] and (first < last[v] or v not in self.made or v in self.outs)
            )
            peak = max(peak, sum(_words(v.dtype) for v in stays))
        return peak + sum(_words(accumulator(n.op, n.outs[0].dtype)[0]) for n in self.totals if is_column(n))

    def shared_bytes(self) -> int:
        """Return the bytes of shared memory of the kernel."""
        grid = self.grid
        level = self._separate.level
        within = [
            sum(self.crosses(n) and level[n.outs[0]] == at for n in self.nodes) for at in range(self._separate.turns)
        ]
        warps = grid.lanes // WARP if grid.lanes > WARP else 0
        everything = sum(not is_column(n) for n in self.totals)
        columns = grid.groups * self.length * 8 if self.columns and grid.groups > 1 else 0
        return 8 * (2 * warps * max(within) + grid.block // WARP * everything) + columns

    # -- questions of the planner ------------------------------------------------------------------------

    def fits(self, number: Callable[[Value], Any]) -> bool:
        """Say whether there is a kernel for these nodes."""
        if self.rows == 0 or self.length == 0 or not self.nodes:
            return False
        if not all(self._fits(n, number) for n in self.nodes):
            return False
        trial = RowSchedule(self.lead, self.nodes, [])  # which results are written is not known yet
        if trial.columns and trial.grid.form is Form.STREAM:
            return False  # a thread would need a register for each of its columns
        return trial.shared_bytes() <= SHARED

    def _fits(self, n: Node, number: Callable[[Value], Any]) -> bool:
        v, sizes = n.outs[0], {1, self.length}
        if any(x in self.ends for x in n.values()):
            return False
        if v in self.ends:
            x = n.args[0]
            if self.size(x) not in sizes or prod(v.shape) not in (1, self.size(x)) or not self.reads(x):
                return False
        elif self.size(v) not in sizes:
            return False
        if n.kind == "reduction":
            x = n.args[0]
            whole = n in self.totals or self.size(v) == 1
            return self.size(x) in sizes and whole and can_reduce(n.op, x.dtype, v.dtype)
        if n.kind == "view":
            return n.args[0] in self.made
        if n.kind == "pick":
            x, index = n.args
            alone = self.size(index) == self.size(v) == 1
            return alone and self.inner(x) == (self.length,) and ctype(x.dtype) is not None
        return k.can_compute(n, number) and all(self.reads(x, self.size(v)) for x in n.values())

    def reads(self, x: Value, size: int = 0) -> bool:
        """Say whether an operand made here has one element a row, or as many as its reader."""
        return x not in self.made or self.size(x) == 1 or not size or self.size(x) == size

    def single(self) -> bool:
        """Say whether the run is elementwise, all of one size, except for reductions of everything at its end."""
        inner = [n for n in self.nodes if n not in self.totals]
        whole = all(prod(n.outs[0].shape) == 1 and self.size(n.args[0]) == self.length for n in self.totals)
        return whole and all(n.kind not in ("reduction", "pick") and self.size(n.outs[0]) == self.length for n in inner)

    def overwrites(self, x: Value, v: Value) -> bool:
        """Say whether a result may be written over an operand of its shape: threads read only elements they write."""
        if v in self.ends or self.size(x) != self.length or x.shape[: len(self.lead)] != self.lead:
            return False
        if any(n.kind == "pick" for n in self.nodes):
            return False  # all threads of a row read the element that is picked
        if self.grid.form is not Form.STREAM:
            return True
        # A stream reads its operands again in later passes, after the result was written.
        later = range(self.passes.level[v] + 1, self.passes.turns)
        return not any(x in self.needed(self.passes, at, {}) for at in later)


def is_column(total: Node) -> bool:
    """Say whether a reduction over the rows keeps the elements of a row apart."""
    return bool(total.outs[0].size > 1)


def _words(dtype: Any) -> int:
    """Return the registers that an element of a dtype takes."""
    return -(-int(dtype.itemsize) // 4)
