"""Vertical fusion: operations on large arrays run together, block by block, while their values are in the cache.

A run works on rows: its arrays have the same leading axes (`lead`), and each operation gives a row of its result from
rows of its operands. That is so of elementwise operations, of reductions over the other axes, and of a reshape of
those. A sum over the leading axes may end a run.

    before, for x of shape (1000, 500)      after
    a = exp x                               run along (1000,): a = exp x, b = multiply a 2, s = sum b over axis 1,
    b = multiply a 2                                           t = sum s
    s = sum b over axis 1
    t = sum s

Each block of rows of x is read once, and nobody stores all of a, b or s.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from tapegrad._compile.plan.schedule import Schedule
from tapegrad._program.ir import Item, Node, Run, Value
from tapegrad._program.queries import is_total, reduction_axes

SMALLEST = 65536  # elements below which arrays stay in the cache anyway
FEWEST_ROWS = 8
LONGEST = 128  # nodes of a run: with more, planning costs more and the gain is the same


def fuse(schedule: Schedule, smallest: int = SMALLEST, kernels: bool = False) -> None:
    """Put nodes that can be run together into runs.

    kernels: whether a run becomes a kernel. A kernel reads any element of an operand from outside, so that it may
    broadcast along some of the leading axes only.
    """
    _Fusion(schedule, smallest, kernels).fuse(smallest)


class _Fusion:
    """A greedy fusion: each node, in order, joins a run of its operands, or begins one.

    readers: the runs that read a value made elsewhere. Two readers of one large value share the pass over it.
    """

    def __init__(self, schedule: Schedule, smallest: int, kernels: bool) -> None:
        self.schedule, self.kernels = schedule, kernels
        self.place_of = schedule.place
        self.run_of: dict[Node, Run] = {}
        self.readers: dict[Value, list[Run]] = {}

    def fuse(self, smallest: int) -> None:
        """Go through the nodes, and keep the runs of two operations or more."""
        for node in self.schedule.nodes:
            if node.kind in ("elementwise", "reduction", "view", "pick"):
                large = max([v.size for v in (*node.outs, *node.reads)]) >= smallest
                if large or self.run_of:
                    self.place(node, large)
        for run in dict.fromkeys(self.run_of.values()):
            if sum(n.kind != "view" for n in run.nodes) < 2:  # a single pass: nothing is gained
                for node in run.nodes:
                    self.leave(node)

    def place(self, node: Node, large: bool) -> None:
        """Put a node into a run that makes or, if it is large, reads one of its operands, or into a new one."""
        # Candidates: runs that make an operand; for a large node also those that read the same operand.
        near = [self.run_of[v.node] for v in node.reads if v.node in self.run_of]
        if large:
            near = [*(r for v in node.reads for r in self.readers.get(v, ())), *near]
        if not near and not large:
            return
        home: Run | None = None
        for run in dict.fromkeys(reversed(near)):
            lead = common_lead(node, run.lead, self.kernels)
            if lead is None or len(run.nodes) >= LONGEST or self.reads_whole(node, run, lead) or self.delays(node, run):
                continue
            if home is not None:
                self.merge(home, run)  # the node reads from both: they become one
            elif not self.schedule.reaches(self.schedule.outside(node.reads, run), run):
                home = run
                self.add(node, run, lead)
        # None would take it: a large node begins a run of its own.
        if home is None and large and (node.kind == "elementwise" or self.begins(node)):
            whole = node.args[0].shape if node.kind == "reduction" else node.out.shape
            lead = common_lead(node, whole, self.kernels)
            if lead is not None:
                self.add(node, Run(lead), lead)

    def begins(self, node: Node) -> bool:
        """Say whether a node is a reduction within rows, which begins a run: that saves a pass over its operand."""
        return node.kind == "reduction" and type(node.args[0]) is Value and not is_total(node)

    def reads_whole(self, node: Node, run: Run, lead: tuple[int, ...]) -> bool:
        """Say whether a node reads all of something that a run makes row by row, or that is there when it has ended."""
        for v in node.reads:
            if v.node is not None and self.run_of.get(v.node) is run:
                if is_total(v.node):
                    return True
                if node.kind == "elementwise" and not row_operand(v, node.out.shape, len(lead), lead):
                    return True
        return False

    def delays(self, node: Node, run: Run) -> bool:
        """Say whether a run with this node had to wait for something of another kind, while its values leave the cache.

        It is so of sums of many products: each is best added when it has just been made.
        """
        last = self.place_of[run.nodes[-1]]
        return any(
            v.node is not None and v.node.kind in ("", "matmul") and self.place_of[v.node] > last for v in node.reads
        )

    def add(self, node: Node, run: Run, lead: tuple[int, ...]) -> None:
        """Put a node at the end of a run, which then goes along `lead`."""
        run.lead = lead
        run.nodes.append(node)
        self.join(node, run)
        for v in node.reads:
            if v.size >= node.out.size and (v.node is None or self.run_of.get(v.node) is not run):
                readers = self.readers.setdefault(v, [])
                if run not in readers:
                    readers.append(run)

    def join(self, node: Node, run: Run) -> None:
        self.run_of[node] = self.schedule.group_of[node] = run

    def leave(self, node: Node) -> None:
        del self.run_of[node], self.schedule.group_of[node]

    def merge(self, run: Run, other: Run) -> None:
        """Take in another run, if nothing between the two keeps them apart."""
        # 1. Both must go along common leading axes, and neither may end with a sum over these.
        n = min(len(run.lead), len(other.lead))
        lead = run.lead[:n]
        if lead != other.lead[:n] or prod(lead) < FEWEST_ROWS or any(is_total(x) for x in (*run.nodes, *other.nodes)):
            return
        if len(run.nodes) + len(other.nodes) > LONGEST:
            return
        # 2. No path may go from one to the other through nodes outside, which would have to run in between.
        for a, b in ((run, other), (other, run)):
            if any(self.reads_whole(node, b, lead) for node in a.nodes):
                return
            outside = [v for x in a.nodes for v in self.schedule.outside(x.reads, a) if v.node not in b.nodes]
            if self.schedule.reaches(outside, b):
                return
        # 3. The nodes of both in their order of calls.
        for node in other.nodes:
            self.join(node, run)
        run.nodes = sorted((*run.nodes, *other.nodes), key=self.place_of.__getitem__)
        run.lead = lead
        for readers in self.readers.values():
            if other in readers:
                readers.remove(other)
                if run not in readers:
                    readers.append(run)


def note_boundaries(items: Iterable[Item], outputs: list[Value]) -> None:
    """Note for each run the values it reads from elsewhere, and its results that others read.

    This is liveness at the boundary of a run: results that only the run itself reads are never stored as a whole.
    """
    read = set(outputs)
    for item in reversed(list(items)):
        if isinstance(item, Run):
            item.outs = tuple(v for node in item.nodes for v in node.outs if v in read)
            item.note_reads()
        read.update(item.values())


def common_lead(node: Node, lead: tuple[int, ...], kernels: bool = False) -> tuple[int, ...] | None:
    """Return as many of the leading axes as a node can be run along, None if that gives too few rows."""
    for n in range(len(lead), 0, -1):
        if prod(lead[:n]) < FEWEST_ROWS:
            return None
        if _goes_along(node, lead[:n], kernels):
            return lead[:n]
    return None


def _goes_along(node: Node, lead: tuple[int, ...], kernels: bool) -> bool:
    """Say whether a node gives a row of its result from rows of its operands, for the rows of some leading axes."""
    k = len(lead)
    out = node.out.shape
    if node.kind == "reduction":
        x = node.args[0]
        if type(x) is not Value or x.shape[:k] != lead:
            return False
        axes = reduction_axes(node)
        if min(axes, default=0) >= k:  # within rows
            return True
        # Over the rows themselves: blocks are reduced one after the other, where the order does not matter too much.
        total = set(range(k)) <= set(axes) and (kernels or node.op in ("sum", "max", "min"))
        return total and (node.op != "sum" or x.dtype == node.out.dtype)
    if out[:k] != lead or node.many:
        return False
    if node.kind == "view":
        x = node.args[0]
        return node.op == "reshape" and bool(x.shape[:k] == lead)
    if node.kind == "pick":
        return all(v.shape[:k] == lead for v in node.args)
    return kernels or all(row_operand(v, out, k, lead) is not None for v in node.args if type(v) is Value)


def row_operand(v: Value, out: tuple[int, ...], k: int, lead: tuple[int, ...]) -> bool | None:
    """Say whether an operand of an elementwise node goes by rows (True), is the same for all (False), or neither."""
    inner = len(out) - k
    # With all leading axes: its rows. Without any, or with ones in their places: broadcast along all rows.
    if len(v.shape) == len(out) and v.shape[:k] == lead:
        return True
    if len(v.shape) <= inner or all(n == 1 for n in v.shape[: len(v.shape) - inner]):
        return False
    return None
