"""Chains of products, or of sums, of small arrays as one call: each link takes the result before it and another value.

What a backward pass makes of a loop is such a chain: the cotangent times one slope after the other. NumPy accumulates
it in the same order, if the other values lie side by side. Moving them there must cost less than the calls that go.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tapegrad._compile.plan.schedule import Groups
from tapegrad._compile.plan.stacking import LARGEST
from tapegrad._program.ir import Node, Scan, Value

OPERATIONS = ("multiply", "add")
FEWEST = 8


def scan(groups: Groups) -> None:
    """Put chains of nodes that are in no group yet into scans."""
    readers: dict[Value, list[Node]] = {}
    for node in groups.nodes:
        if _is_link(node) and node not in groups.home:
            for v in dict.fromkeys(node.args):
                readers.setdefault(v, []).append(node)
    seen: set[Node] = set()
    for node in groups.nodes:
        if node in groups.home or node in seen or not _is_link(node):
            continue
        chain = _chain(node, readers, seen)
        if len(chain) >= FEWEST:
            _make(groups, chain)


def _is_link(node: Node) -> bool:
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


def _make(groups: Groups, chain: list[Node]) -> None:
    """Make a chain a scan, from where on it pays and if nothing between two links depends on the first."""
    group = Scan(chain)
    for node in chain:
        groups.home[node] = group
    group.moves_in, group.moves_out = segments(group.others), segments(group.outs)
    moves = len(group.moves_in) + sum(vs[0].row is not None for _, vs in group.moves_out)
    own = set(group.outs)
    if 2 * moves > len(chain) or any(v in own for v in group.others) or groups.reaches(group.values(), group):
        for node in chain:
            del groups.home[node]


def segments(values: Iterable[Value]) -> list[tuple[list[int], list[Value]]]:
    """Return which of some values can be moved by one call, with their places: one value again and again, or rows.

    The places, and the numbers of the rows, are in arithmetic progression; a value that is in no rows has no number.
    """
    alike: dict[Any, list[tuple[int, int, Value]]] = {}
    for i, v in enumerate(values):
        key, number = (v, 0) if v.row is None else v.row
        alike.setdefault(key, []).append((i, number, v))
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
