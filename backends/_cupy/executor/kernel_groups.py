"""Kernel groups: nodes that are computed by one launch, or by one call of a library.

A group lists its nodes in order. Its `outs` are the results that are written to memory; the others stay in registers.

    a = exp x                  FlatGroup: one element of each, by one thread
    b = multiply a 2
    m = max b, along rows      RowGroup: nodes that need whole rows
    s = exp (b - m)
    c = matmul s v             CallGroup: a call of cuBLAS
    w' = w - 0.1 g             UpdateBatch: new state of many parameters, in one launch
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from tapegrad._program.ir import Node, Value
from tapegrad.backends._cupy.codegen.row_schedule import RowSchedule
from tapegrad.backends._cupy.executor.nodes import is_concatenation, is_constant, is_product, is_view, is_write


class FlatGroup:
    """Elementwise nodes whose results have the same number of elements, and reductions of all of it at the end."""

    def __init__(self, nodes: list[Node], totals: list[Node]) -> None:
        self.nodes, self.totals = nodes, totals
        # All results have the size of the first; a reduction alone goes over its operand.
        first = nodes[0].out if nodes else totals[0].args[0]
        self.shape = tuple(first.shape)
        self.size = prod(self.shape)
        self.outs: list[Value] = []  # known when all groups are: the results that later ones read

    def all(self) -> list[Node]:
        """Return every node."""
        return self.nodes + self.totals


class UpdateBatch:
    """Elementwise groups that do not depend on each other, over arrays of any sizes: updates of state."""

    def __init__(self, flats: list[FlatGroup]) -> None:
        self.flats = flats
        self.outs: list[Value] = []

    def all(self) -> list[Node]:
        """Return every node."""
        return [n for flat in self.flats for n in flat.all()]


class RowGroup:
    """Nodes over rows, with reductions within them or over them."""

    def __init__(self, rows: RowSchedule) -> None:
        self.rows = rows
        self.outs = rows.outs

    def all(self) -> list[Node]:
        """Return every node."""
        return self.rows.nodes


class CallGroup:
    """A node by itself: a view, a matrix product, a copy, a function of the library."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.outs = list(node.outs)

    def all(self) -> list[Node]:
        """Return the node."""
        return [self.node]


# Code that branches on the class of a group has a branch for each of these.
KernelGroup = FlatGroup | RowGroup | UpdateBatch | CallGroup


def reads_of(group: KernelGroup) -> Iterator[Value]:
    """Go through the values that the nodes of a group read, as often as each is read."""
    for node in group.all():
        yield from node.reads


def results_of(group: KernelGroup) -> Iterator[Value]:
    """Go through the results of the nodes of a group."""
    for node in group.all():
        yield from node.outs


def may_raise(group: KernelGroup) -> bool:
    """Say whether an exception may leave a group: a library's function may need memory, or refuse values."""
    if not isinstance(group, CallGroup):
        return False
    # Launches of kernels and of cuBLAS over memory that is there: they cannot fail for a reason that a caller may mend.
    ways = (is_view, is_constant, is_product, is_concatenation, is_write)
    return not any(way(group.node) for way in ways)
