"""Dead code elimination: nodes whose results nobody needs are left out.

Going backwards, a node is needed if it is called for its effect, or if an output or a needed node reads a result of it.

    before, with the output c               after
    a = exp x                               a = exp x
    b = sin a                               c = add a 1
    c = add a 1
"""

from __future__ import annotations

from collections.abc import Iterable

from tapegrad._program.ir import Node, Program, Value


def needed(nodes: list[Node], wanted: Iterable[Value]) -> tuple[set[Value], list[Node]]:
    """Return the values that some values and all effects are computed from, and the nodes that compute these."""
    # Liveness: a value is live if a later node that is kept reads it.
    read = set(wanted)
    kept = []
    for node in reversed(nodes):  # readers come after their operands, so that one pass backwards is enough
        if node.effect or not read.isdisjoint(node.outs):
            read.update(node.reads)
            kept.append(node)
    return read, kept[::-1]


def without_dead_code(program: Program[Node]) -> Program[Node]:
    """Return a program without the nodes whose results nobody reads."""
    return program.with_nodes(needed(program.nodes, program.outputs)[1])
