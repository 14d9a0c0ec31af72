"""Horizontal fusion: one operation on many small arrays is one call, on values that lie side by side.

A loop in the user's program leaves many operations of one kind that do not depend on each other, and their cost is the
call. Their operands are computed into the rows of one array, so that one call computes all results, again as rows. A
chain of additions of rows is one sum over them, in the same order.

    before, for nine small x                after
    y0 = matmul x0 w ... y8 = matmul x8 w   y0 ... y8 as before, each into its row of one array
    a0 = tanh y0     ... a8 = tanh y8       stack: a0 ... a8 = tanh of the rows y0 ... y8
    s1 = add a0 a1                          fold: s8 = a0 + a1 + ... + a8, over the rows
    ...
    s8 = add s7 a8
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from functools import cached_property

from tapegrad._compile.plan.schedule import Schedule
from tapegrad._program.ir import Fold, Node, Rows, Stack, Value

LARGEST = 1024  # elements above which the arithmetic costs more than the call
FEWEST = 8


def stack(schedule: Schedule, outputs: list[Value]) -> None:
    """Put nodes that can be done at once into stacks, and chains of additions into folds."""
    stacking = _Stacking(schedule, {seen for v in outputs for seen in _with_viewed(v)})
    # 1. Factors that one product of matrices reads one below the other lie in rows before anything else does.
    stacking.lay_out_factors()
    # 2. Stacks, whose results lie in rows as well: so that the next operation on these can be stacked, too.
    for alike in stacking.independent():
        stacking.place(alike)
    # 3. Folds of rows that are there now.
    stacking.fold()


def _with_viewed(v: Value | None) -> Iterator[Value]:
    """Go through a value and the values it may be a view of: whoever gets it sees these too."""
    while v is not None:
        yield v
        node = v.node
        v = node.args[0] if node is not None and (node.kind == "view" or node.op == "unstack") else None


class _Stacking:
    """The steps of horizontal fusion; outputs: values that are handed out, and so lie in no rows of others."""

    def __init__(self, schedule: Schedule, outputs: set[Value]) -> None:
        self.schedule, self.outputs = schedule, outputs
        self.group_of = schedule.group_of
        self.users = Counter(v for node in schedule.nodes for v in node.reads)

    def lay_out_factors(self) -> None:
        """Have the operands of each node "rows" computed into the rows of one array."""
        for node in self.schedule.nodes:
            if node.op == "rows":
                values = list(node.args[0])
                if len(set(values)) == len(values) and all(self.free(v, any_size=True) for v in values):
                    _as_rows(values)

    def independent(self) -> list[list[Node]]:
        """Return lists of nodes of one kind, on operands of one origin, none of which depends on another.

        One pass forwards: each node has the set of kinds that it depends on, as the bits of a number. A node that
        depends on its own kind, as the next link of a chain does, is left out.
        """
        kinds: dict[Hashable, tuple[int, list[Node]]] = {}  # a bit for each, and its nodes
        before: dict[Node, int] = {}  # the kinds that a node depends on, as bits
        for node in self.schedule.nodes:
            # All kinds that its operands depend on.
            reach = 0
            for v in node.reads:
                if v.node is not None:
                    reach |= before[v.node]
            if node.kind == "elementwise" and node.out.size <= LARGEST and node not in self.group_of:
                bit, nodes = kinds.setdefault(_kind(node), (1 << len(kinds), []))
                if not reach & bit:
                    nodes.append(node)
                reach |= bit
            before[node] = reach
        return [nodes for _, nodes in kinds.values() if len(nodes) >= FEWEST]

    def place(self, nodes: list[Node]) -> None:
        """Make stacks of the longest stretches of nodes whose operands are, or can be, rows in their order."""
        # Greedy: as many as can be from here on; after a break, on from the node that did not fit.
        start = 0
        while start < len(nodes):
            n = self.stretch(nodes, start)
            if n >= FEWEST:
                self.make(nodes[start : start + n])
            start += max(n, 1)

    def stretch(self, nodes: list[Node], start: int) -> int:
        """Return how many nodes from a place on can be stacked."""
        # The shortest stretch that all operands allow, up to the first result that can be in no row.
        n = len(nodes) - start
        number: dict[Value, int] = {}
        for i, x in enumerate(nodes[start].args):
            if type(x) is Value:
                n = self.along(nodes, i, start, n, number)
        return next((j for j in range(n) if not self.free(nodes[start + j].out)), n)

    def along(self, nodes: list[Node], i: int, start: int, n: int, number: dict[Value, int]) -> int:
        """Return how many operands number i, of at most n, are the same one, rows in order, or free to become rows.

        number: of the nodes from `start` on whose operands are to become rows, one row each.
        """
        # The first two operands tell which of the three it is, and whether rows go up or down.
        if n < FEWEST:
            return 0
        first, second = nodes[start].args[i], nodes[start + 1].args[i]
        step = -1 if first.row is not None and second.row is not None and second.row[1] < first.row[1] else 1
        for j in range(n):
            v = nodes[start + j].args[i]
            if second is first:
                fits = v is first
            elif first.row is None:
                fits = number.setdefault(v, j) == j and self.free(v)
            else:
                fits = v.row == (first.row[0], first.row[1] + j * step)
            if not fits:
                return j
        return n

    def free(self, v: Value, any_size: bool = False) -> bool:
        """Say whether a value can be computed into a row."""
        node = v.node
        return (
            v.row is None
            and node is not None
            and (node.kind in ("elementwise", "matmul", "reduction") or node.op in ("index_add", "index_set"))
            and v not in self.outputs
            and (any_size or v.size <= LARGEST)
            and node not in self.group_of
        )

    def make(self, nodes: list[Node]) -> None:
        """Make a stack of some nodes, unless something outside lies between two of them."""
        group = Stack(nodes)
        for node in nodes:
            self.group_of[node] = group
        if self.schedule.reaches([v for n in nodes for v in self.schedule.outside(n.reads, group)], group):
            for node in nodes:
                del self.group_of[node]
            return
        # Results become rows, and so do operands that are neither one for all nor rows already.
        for i, x in enumerate(nodes[0].args):
            if type(x) is Value:
                operands = [node.args[i] for node in nodes]
                if operands[1] is not x and x.row is None:
                    _as_rows(operands)
        _as_rows([node.out for node in nodes])

    def fold(self) -> None:
        """Make folds of chains of additions whose addends are rows in order."""
        for node in self.schedule.nodes:
            if self.adds(node) and node not in self.group_of and self.starts(node):
                chain = [node]
                while True:
                    after = self.follower(chain[-1])
                    if after is None:
                        break
                    chain.append(after)
                # A shorter chain is not worth a call on rows.
                if len(chain) >= FEWEST:
                    fold = Fold(chain)
                    for link in chain:
                        self.group_of[link] = fold

    def adds(self, node: Node) -> bool:
        """Say whether a node adds a row to something of its shape."""
        if node.op != "add" or not all(type(x) is Value for x in node.args):
            return False
        x, row = node.args
        return (
            row.row is not None
            and x.shape == row.shape == node.out.shape
            and x.dtype == row.dtype
            and node.out.size <= LARGEST
        )

    def starts(self, node: Node) -> bool:
        """Say whether an addition can begin a fold: of two rows in order, or of the first row to anything."""
        # A fold takes the rows from the first one on, so that it reads them with a single call.
        x, row = node.args
        rows, at = row.row
        return bool(at == 0 or x.row == (rows, at - 1))

    def follower(self, node: Node) -> Node | None:
        """Return the addition that alone reads the result of another, of the row after its row."""
        # Nobody else may read a sum on the way: only the last one is computed.
        out = node.out
        if self.users.get(out) != 1 or out in self.outputs:
            return None
        after = self.reader.get(out)
        if after is None or after in self.group_of or not self.adds(after) or after.args[0] is not out:
            return None
        rows, at = node.args[1].row
        next_rows, next_at = after.args[1].row
        return after if rows is next_rows and next_at == at + 1 else None

    @cached_property
    def reader(self) -> dict[Value, Node]:
        """The last node that reads each value."""
        return {v: node for node in self.schedule.nodes for v in node.reads}


def _kind(node: Node) -> Hashable:
    """Return the key of nodes that may be stacked: operation, shapes, and the origins of operands."""
    return (
        node.op,
        node.line,
        node.out.shape,
        node.out.dtype,
        *map(_origin, node.args),
        len(set(map(id, node.args))),
        repr(node.kwargs) if node.kwargs else "",
    )


def _origin(x: object) -> Hashable:
    """Return the key of operands of one origin: the operation and the line that made them."""
    if type(x) is not Value:
        return (type(x), repr(x))
    made = x.node
    if made is None:
        return id(x)
    return (made.op, made.line, x.shape, x.dtype, len(made.reads))


def _as_rows(values: list[Value]) -> None:
    """Have values computed into the rows of one array, in their order."""
    rows = Rows(len(values))
    for i, v in enumerate(values):
        v.row = rows, i
