"""From a captured call to its program: what it computes from what it reads to what it leaves, and no more."""

from __future__ import annotations

from typing import Any

from tapegrad._compile._cells import Capture, Cell, Fresh
from tapegrad._compile._program import Node, Program, Value


def program_of(capture: Capture) -> tuple[Program, list[Cell], list[int], list[Any], dict[Value, int]]:
    """Return the program of a capture; the cells, raw leaves and held arrays that are its inputs; where outputs are.

    Only what is read or updated is an input. Outputs are, for every value that stays, its number among the outputs.
    """
    places: dict[Value, int] = {}
    replaces: list[int | None] = []
    kept = [v for v in capture.outputs if isinstance(v, (Fresh, Value))]
    kept += [v for _, v in capture.grads if isinstance(v, Fresh)]
    wanted = [c.after for c in capture.cells if c.after is not c.before]
    wanted += [v.value if isinstance(v, Fresh) else v for v in kept]
    read, nodes = needed(capture.graph.nodes, wanted)
    cells = [c for c in capture.cells if c.before in read or c.after is not c.before]
    raw = [i for i, v in capture.raw.items() if v in read]
    held = [v for v in capture.graph.held if v in read]
    inputs = [*[c.before for c in cells], *[capture.raw[i] for i in raw], *held]
    for v in wanted:
        if v not in places:
            places[v] = len(places)
            replaces.append(None)
    for n, c in enumerate(cells):
        if c.after is not c.before and replaces[places[c.after]] is None:
            replaces[places[c.after]] = n
    passed = [n for n, c in enumerate(cells) if c.arguments or c.owners]
    passed += range(len(cells), len(cells) + len(raw))
    only = {v.value for _, v in capture.grads if isinstance(v, Fresh)}
    only -= {v.value if isinstance(v, Fresh) else v for v in capture.outputs if isinstance(v, (Fresh, Value))}
    gradients = frozenset(places[v] for v in only if replaces[places[v]] is None)
    program = Program(inputs, nodes, list(places), replaces, frozenset(passed), gradients)
    return program, cells, raw, [capture.graph.held[v] for v in held], places


def needed(nodes: list[Node], wanted: list[Value]) -> tuple[set[Value], list[Node]]:
    """Return the values that outputs and effects are computed from, and the nodes that do so."""
    needed = set(wanted)
    kept = []
    for node in reversed(nodes):
        if node.effect or not needed.isdisjoint(node.outs):
            needed.update(node.reads)
            kept.append(node)
    return needed, kept[::-1]
