"""Accumulation (a scan): a chain of products, or of sums, of small arrays is one call.

Each link takes the result before it and another value. A backward pass makes such a chain of a loop: the cotangent
times one slope after the other. NumPy accumulates it in the same order, if the other values lie side by side. Moving
them there must cost less than the calls that it saves.

    before, where a stack has made all d    after
    c1 = multiply g d1                      scan: c1 ... c8 = multiply accumulated over g, d1 ... d8
    c2 = multiply c1 d2
    ...
    c8 = multiply c7 d8
"""

from __future__ import annotations

from collections.abc import Iterable

from tapegrad._compile.plan.schedule import Schedule
from tapegrad._compile.plan.stacking import LARGEST
from tapegrad._program.ir import Node, Rows, Scan, Value

OPERATIONS = ("multiply", "add")
FEWEST = 8


def scan(schedule: Schedule) -> None:
    """Put chains of nodes that are in no group yet into scans."""
    # 1. The links: nodes that may stand in a chain, by the values that they read.
    readers: dict[Value, list[Node]] = {}
    for node in schedule.nodes:
        if _is_link(node) and node not in schedule.group_of:
            for v in dict.fromkeys(node.args):
                readers.setdefault(v, []).append(node)
    # 2. Chains, each from its first link on as far as it goes.
    seen: set[Node] = set()
    for node in schedule.nodes:
        if node in schedule.group_of or node in seen or not _is_link(node):
            continue
        chain = _chain(node, readers, seen)
        if len(chain) >= FEWEST:
            _make(schedule, chain)


def _is_link(node: Node) -> bool:
    """Say whether a node combines two small values of one shape and dtype by one of the operations."""
    if node.op not in OPERATIONS or node.kind != "elementwise" or len(node.args) != 2 or node.kwargs:
        return False
    x, y = node.args
    return (
        type(x) is type(y) is Value
        and x is not y
        and x.shape == y.shape == node.out.shape
        and x.dtype == y.dtype == node.out.dtype
        and node.out.size <= LARGEST
    )


def _chain(node: Node, readers: dict[Value, list[Node]], seen: set[Node]) -> list[Node]:
    """Return the chain that begins with a node: each next one of its operation reads the result before it."""
    chain = [node]
    while True:
        seen.add(node)
        after = next((n for n in readers.get(node.out, ()) if n.op == node.op and n not in seen), None)
        if after is None:
            return chain
        chain.append(after)
        node = after


def _make(schedule: Schedule, chain: list[Node]) -> None:
    """Make a chain a scan if that pays, and if nothing between two links depends on the first."""
    group = Scan(chain)
    for node in chain:
        schedule.group_of[node] = group
    # The cost: one call for each part of the operands, and of the results that are read as rows, that has to be moved.
    # The gain: one call for each link but one. Twice as much is asked for, as a moving call is not cheaper.
    group.moves_in, group.moves_out = rows_at_once(group.others), rows_at_once(group.outs)
    moves = len(group.moves_in) + sum(vs[0].row is not None for _, vs in group.moves_out)
    own = set(group.outs)
    if 2 * moves > len(chain) or any(v in own for v in group.others) or schedule.reaches(group.values(), group):
        for node in chain:
            del schedule.group_of[node]


def rows_at_once(values: Iterable[Value]) -> list[tuple[list[int], list[Value]]]:
    """Return which of some values can be moved by one call, with their places: one value again and again, or rows.

    The places, and the numbers of the rows, are in arithmetic progression; a value that is in no rows has no number.
    """
    # 1. Values by the array that they lie in, with their places and the numbers of their rows.
    alike: dict[Value | Rows, list[tuple[int, int, Value]]] = {}
    for i, v in enumerate(values):
        key: Value | Rows = v if v.row is None else v.row[0]
        number = 0 if v.row is None else v.row[1]
        alike.setdefault(key, []).append((i, number, v))
    # 2. In each array, as many as are in arithmetic progression: a slice with a step can take them.
    found: list[tuple[list[int], list[Value]]] = []
    for members in alike.values():
        step = None
        for n, (i, number, v) in enumerate(members):
            if n and step in (None, (i - members[n - 1][0], number - members[n - 1][1])):
                step = i - members[n - 1][0], number - members[n - 1][1]
                found[-1][0].append(i)
                found[-1][1].append(v)
            else:
                step = None
                found.append(([i], [v]))
    return found
