"""Which operations on small arrays are done at once: the same one, on values that can lie side by side.

A loop in the user's program leaves many operations of one kind that do not depend on each other, and what they cost is
the call. Their operands are computed into the rows of one array, so that one call computes all results, again as rows;
and a chain of additions of rows is one sum over them, in the same order.
"""

from __future__ import annotations

from typing import Any

from tapegrad._compile._groups import Groups
from tapegrad._compile._program import Fold, Node, Rows, Stack, Value

LARGEST = 1024  # elements above which the arithmetic costs more than the call
FEWEST = 8


def stack(groups: Groups, outputs: list[Value]) -> None:
    """Put nodes that can be done at once into stacks, and chains of additions into folds."""
    _Stacking(groups, set(outputs))


class _Stacking:
    def __init__(self, groups: Groups, outputs: set[Value]) -> None:
        self.groups, self.outputs = groups, outputs
        self.users: dict[Value, int] = {}
        for node in groups.nodes:
            for v in node.values():
                self.users[v] = self.users.get(v, 0) + 1
        for node in groups.nodes:
            if node.op == "rows":
                values = list(node.args[0])
                if len(set(values)) == len(values) and all(self.free(v, any_size=True) for v in values):
                    _as_rows(values)
        for alike in self.independent():
            self.place(alike)
        self.fold()

    def independent(self) -> list[list[Node]]:
        """Return lists of nodes of one kind, on operands of one origin, none of which depends on another."""
        kinds: dict[Any, list[Node]] = {}
        before: dict[Node, int] = {}  # the kinds that a node depends on, as bits
        bits: dict[Any, int] = {}
        for node in self.groups.nodes:
            reach = 0
            for v in node.reads:
                if v.node is not None:
                    reach |= before[v.node]
            if node.kind == "elementwise" and node.out.size <= LARGEST and node not in self.groups.home:
                kind = _kind(node)
                bit = bits.setdefault(kind, 1 << len(bits))
                if not reach & bit:
                    kinds.setdefault(kind, []).append(node)
                reach |= bit
            before[node] = reach
        return [nodes for nodes in kinds.values() if len(nodes) >= FEWEST]

    def place(self, nodes: list[Node]) -> None:
        """Make stacks of the longest stretches of nodes whose operands are, or can be, rows in their order."""
        start = 0
        while start < len(nodes):
            n = self.stretch(nodes[start:])
            if n >= FEWEST:
                self.make(nodes[start : start + n])
            start += max(n, 1)

    def stretch(self, nodes: list[Node]) -> int:
        """Return how many of the first nodes can be stacked."""
        first = nodes[0]
        n = len(nodes)
        for i, x in enumerate(first.args):
            if type(x) is Value:
                n = min(n, self.rows_along([node.args[i] for node in nodes[:n]]))
        for j, node in enumerate(nodes[:n]):
            if not self.free(node.out):
                return j
        return n

    def rows_along(self, values: list[Value]) -> int:
        """Return how many of the first values are the same one, rows in order, or free to become rows."""
        if not values:
            return 0
        first = values[0]
        if len(values) > 1 and values[1] is first:
            return next((i for i, v in enumerate(values) if v is not first), len(values))
        if first.row is None:
            seen: set[Value] = set()
            for i, v in enumerate(values):
                if v in seen or not self.free(v):
                    return i
                seen.add(v)
            return len(values)
        rows, at = first.row
        for i, v in enumerate(values):
            if v.row is None or v.row[0] is not rows or v.row[1] != at + i * self.step(values):
                return i
        return len(values)

    def step(self, values: list[Value]) -> int:
        """Return whether rows are taken forwards or backwards."""
        a, b = values[0].row, values[1].row if len(values) > 1 else None
        return -1 if a is not None and b is not None and b[1] < a[1] else 1

    def free(self, v: Value, any_size: bool = False) -> bool:
        """Say whether a value can be computed into a row."""
        node = v.node
        return (
            v.row is None
            and node is not None
            and (node.kind in ("elementwise", "matmul", "reduction") or node.op in ("index_add", "index_set"))
            and v not in self.outputs
            and (any_size or v.size <= LARGEST)
            and node not in self.groups.home
        )

    def make(self, nodes: list[Node]) -> None:
        group = Stack(nodes)
        for node in nodes:
            self.groups.home[node] = group
        if self.groups.reaches([v for n in nodes for v in self.groups.outside(n.values(), group)], group):
            for node in nodes:  # something between two of them
                del self.groups.home[node]
            return
        for i, x in enumerate(nodes[0].args):
            if type(x) is Value:
                operands = [node.args[i] for node in nodes]
                if operands[1] is not x and x.row is None:
                    _as_rows(operands)
        _as_rows([node.out for node in nodes])

    def fold(self) -> None:
        """Make folds of chains of additions whose addends are rows in order."""
        for node in self.groups.nodes:
            if self.adds(node) and node not in self.groups.home and self.starts(node):
                chain = [node]
                while True:
                    after = self.follower(chain[-1])
                    if after is None:
                        break
                    chain.append(after)
                if len(chain) >= FEWEST:
                    fold = Fold(chain)
                    for link in chain:
                        self.groups.home[link] = fold

    def adds(self, node: Node) -> bool:
        """Say whether a node adds a row that nobody else reads to something of its shape."""
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
        x, row = node.args
        rows, at = row.row
        return bool(at == 0 or x.row == (rows, at - 1))

    def follower(self, node: Node) -> Node | None:
        """Return the addition that alone reads the result of another, of the row after its row."""
        out = node.out
        if self.users.get(out) != 1 or out in self.outputs:
            return None
        after = self.reader.get(out)
        if after is None or after in self.groups.home or not self.adds(after) or after.args[0] is not out:
            return None
        rows, at = node.args[1].row
        next_rows, next_at = after.args[1].row
        return after if rows is next_rows and next_at == at + 1 else None

    @property
    def reader(self) -> dict[Value, Node]:
        """Return the last node that reads each value."""
        found = self.__dict__.get("_reader")
        if found is None:
            found = self.__dict__["_reader"] = {v: node for node in self.groups.nodes for v in node.values()}
        return found


def _kind(node: Node) -> Any:
    """Return what nodes that may be stacked have in common: operation, shapes, and where operands come from."""
    return (
        node.op,
        node.line,
        tuple(node.out.shape),
        node.out.dtype,
        tuple(_origin(x) for x in node.args),
        len({id(x) for x in node.args}),
        repr(node.kwargs) if node.kwargs else "",
    )


def _origin(x: Any) -> Any:
    if type(x) is not Value:
        return (type(x), repr(x))
    made = x.node
    if made is None:
        return id(x)
    return (made.op, made.line, tuple(x.shape), x.dtype, len(made.reads))


def _as_rows(values: list[Value]) -> None:
    rows = Rows(len(values))
    for i, v in enumerate(values):
        v.row = rows, i
