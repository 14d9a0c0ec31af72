"""Which operations on large arrays are run together, block by block, while their values are in the cache.

A run works on rows: its arrays have the same leading axes (`lead`), and each operation gives a row of its result from
rows of its operands. That is so of elementwise operations, of reductions over the other axes, and of a reshape of
those; a sum over the leading axes may end a run.
"""

from __future__ import annotations

from collections.abc import Iterable

from tapegrad._compile._program import Node, Program, Run, Value

SMALLEST = 65536  # elements below which arrays stay in the cache anyway
FEWEST_ROWS = 8


def fused(program: Program, smallest: int = SMALLEST) -> Program:
    """Return a program with runs in the place of nodes that can be run together."""
    return Program(program.inputs, _Fusion(program, smallest).items(), program.outputs, program.replaces)


class _Fusion:
    def __init__(self, program: Program, smallest: int) -> None:
        self.program = program
        self.run_of: dict[Node, Run] = {}
        self.readers: dict[Value, list[Run]] = {}  # runs that read a value made elsewhere
        for node in program.nodes:
            if node.kind in ("elementwise", "reduction", "view") and _size(node) >= smallest:
                self.place(node)
        for run in dict.fromkeys(self.run_of.values()):
            if sum(n.kind != "view" for n in run.nodes) < 2:  # nothing is gained
                for node in run.nodes:
                    del self.run_of[node]

    def place(self, node: Node) -> None:
        """Put a node into a run that makes or reads one of its operands, or into a new one."""
        near = [self.run_of[v.node] for v in node.values() if v.node in self.run_of]
        home = None
        for run in dict.fromkeys((*reversed(near), *(r for v in node.values() for r in self.readers.get(v, ())))):
            lead = common_lead(node, run.lead)
            if lead is None or self.reaches(self.outside(node.values(), run), run):
                continue
            if home is None:
                home = run
                self.add(node, run, lead)
            else:
                self.merge(home, run)
        if home is None and node.kind == "elementwise":
            lead = common_lead(node, node.out.shape)
            if lead is not None:
                self.add(node, Run(lead), lead)

    def add(self, node: Node, run: Run, lead: tuple[int, ...]) -> None:
        run.lead = lead
        run.nodes.append(node)
        self.run_of[node] = run
        for v in node.values():
            if v.node is None or self.run_of.get(v.node) is not run:
                readers = self.readers.setdefault(v, [])
                if run not in readers:
                    readers.append(run)

    def merge(self, run: Run, other: Run) -> None:
        """Take in another run, if nothing between the two keeps them apart."""
        n = min(len(run.lead), len(other.lead))
        lead = run.lead[:n]
        if lead != other.lead[:n] or _rows(lead) < FEWEST_ROWS or any(is_total(x) for x in (*run.nodes, *other.nodes)):
            return
        for a, b in ((run, other), (other, run)):
            if self.reaches([v for x in a.nodes for v in self.outside(x.values(), a) if v.node not in b.nodes], b):
                return
        order = {node: i for i, node in enumerate(self.program.nodes)}
        for node in other.nodes:
            self.run_of[node] = run
        run.nodes = sorted((*run.nodes, *other.nodes), key=order.__getitem__)
        run.lead = lead
        for readers in self.readers.values():
            if other in readers:
                readers.remove(other)
                if run not in readers:
                    readers.append(run)

    def outside(self, values: Iterable[Value], run: Run) -> list[Value]:
        return [v for v in values if v.node is not None and self.run_of.get(v.node) is not run]

    def reaches(self, values: list[Value], run: Run) -> bool:
        """Say whether values made outside a run depend on it."""
        stack = [v.node for v in values if v.node is not None]
        seen: set[Node] = set()
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            home = self.run_of.get(node)
            if home is run:
                return True
            for member in (node,) if home is None else home.nodes:
                seen.add(member)
                stack += [v.node for v in member.values() if v.node is not None and v.node not in seen]
        return False

    def items(self) -> list[Node | Run]:
        """Return nodes and runs in an order in which they can be run."""
        items: list[Node | Run] = []
        done: set[Node | Run] = set()
        for start in self.program.nodes:
            stack: list[tuple[Node | Run, bool]] = [(self.run_of.get(start, start), False)]
            while stack:
                item, ready = stack.pop()
                if item in done:
                    continue
                if ready:
                    done.add(item)
                    items.append(item)
                    continue
                if isinstance(item, Run) and item.nodes[-1] is not start and len(stack) == 0:
                    continue  # as late as its last node
                stack.append((item, True))
                for node in item.nodes if isinstance(item, Run) else (item,):
                    for v in node.values():
                        if v.node is not None:
                            before = self.run_of.get(v.node, v.node)
                            if before is not item and before not in done:
                                stack.append((before, False))
        self.finish(items)
        return items

    def finish(self, items: list[Node | Run]) -> None:
        """Note for each run what it reads from elsewhere and which results others read."""
        read = set(self.program.outputs)
        for item in reversed(items):
            if isinstance(item, Run):
                own = {v for node in item.nodes for v in node.outs}
                item.outs = tuple(v for node in item.nodes for v in node.outs if v in read)
                item.ins = tuple(dict.fromkeys(v for n in item.nodes for v in n.values() if v not in own))
                read.update(item.ins)
            else:
                read.update(item.values())


def _size(node: Node) -> int:
    return max([node.out.size, *(v.size for v in node.values())])


def _rows(lead: tuple[int, ...]) -> int:
    n = 1
    for length in lead:
        n *= length
    return n


def axes_of(node: Node) -> tuple[int, ...]:
    """Return the axes that a reduction reduces, counted from the start."""
    x = node.args[0]
    axis = node.kwargs.get("axis")
    ndim = len(x.shape)
    axes = range(ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return tuple(i % ndim for i in axes) if ndim else ()


def is_total(node: Node) -> bool:
    """Say whether a node of a run is a reduction over the rows, which ends the run."""
    return node.kind == "reduction" and 0 in axes_of(node)


def common_lead(node: Node, lead: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return as many of the leading axes as a node can be run along, None if that gives too few rows."""
    for n in range(len(lead), 0, -1):
        if _rows(lead[:n]) < FEWEST_ROWS:
            return None
        if _along(node, lead[:n]):
            return lead[:n]
    return None


def _along(node: Node, lead: tuple[int, ...]) -> bool:
    k = len(lead)
    out = node.out.shape
    if node.kind == "reduction":
        x = node.args[0]
        if type(x) is not Value or x.shape[:k] != lead:
            return False
        axes = axes_of(node)
        if min(axes, default=0) >= k:
            return True
        total = set(range(k)) <= set(axes) and node.op in ("sum", "max", "min")
        return total and (node.op != "sum" or x.dtype == node.out.dtype)
    if out[:k] != lead or node.many:
        return False
    if node.kind == "view":
        x = node.args[0]
        return node.op == "reshape" and x.shape[:k] == lead
    return all(row_operand(v, out, k, lead) is not None for v in node.args if type(v) is Value)


def row_operand(v: Value, out: tuple[int, ...], k: int, lead: tuple[int, ...]) -> bool | None:
    """Say whether an operand of an elementwise node goes by rows (True), is the same for all (False), or neither."""
    inner = len(out) - k
    if len(v.shape) == len(out) and v.shape[:k] == lead:
        return True
    if len(v.shape) <= inner or all(n == 1 for n in v.shape[: len(v.shape) - inner]):
        return False
    return None
