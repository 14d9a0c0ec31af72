"""From a captured call to its program: what it computes from what it reads to what it leaves, and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tapegrad._compile._cells import Capture, Cell, Fresh
from tapegrad._compile._program import Node, Program, Value, put_in
from tapegrad._host_constants import copied_by
from tapegrad.backends import Array, Backend


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


class Sent(NamedTuple):
    """An input that is copied from the host at each call: the number of the host's array, how, and to which library."""

    number: int
    copy: Callable[[Array], Array]
    backend: Backend


def sent(program: Program, first: int) -> tuple[Program, list[int], list[Sent]]:
    """Return a program whose arrays of the host arrive on the device, which are constants beside Tensors there.

    Else it would be of two libraries, and could only be replayed call by call. first: the number of the first input
    that is no Tensor's. Returns also the numbers from there on of the inputs that stay, and what new ones follow them.
    """
    number = {v: n for n, v in enumerate(program.inputs[first:])}
    new: dict[Value, Value] = {}
    copies: list[Sent] = []
    nodes: list[Node] = []
    for node in program.nodes:
        copy = copied_by(node.function, node.args) if node.op == "to_device" and node.args[0] in number else None
        if copy is not None:
            new[node.out] = Value(node.out.shape, node.out.dtype)
            copies.append(Sent(number[node.args[0]], copy, node.args[1]))
            continue
        if not new.keys().isdisjoint(node.reads):
            args = put_in(node.args, lambda v: new.get(v, v))
            kwargs = {k: put_in(v, lambda v: new.get(v, v)) for k, v in node.kwargs.items()}
            renamed = Node(node.op, node.function, args, kwargs, node.line, node.effect)
            renamed.outs, renamed.many = node.outs, node.many
            node = renamed
        nodes.append(node)
    if not copies:
        return program, list(number.values()), []
    outputs = [new.get(v, v) for v in program.outputs]
    read = {v for node in nodes for v in node.reads} | set(outputs)
    stay = [n for v, n in number.items() if v in read]
    inputs = [*program.inputs[:first], *[program.inputs[first + n] for n in stay], *new.values()]
    passed = frozenset([*[n for n in program.arguments if n < first], *range(first, len(inputs))])
    return Program(inputs, nodes, outputs, program.replaces, passed, program.gradients), stay, copies
