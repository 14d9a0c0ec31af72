"""Partition of a program: the part that the host computes runs first, and its results are copied to the device.

A step `loss(w, np.log(batch))` on a GPU has one operation of the host. It is cut at the copy::

    before                                    after, on the host             after, on the device
    inputs w (device), batch (host)           inputs batch                   inputs w, h
    a = log batch           on the host       a = log batch                  c = multiply w h
    b = to_device a         a copy            outputs a: copied as h         outputs c
    c = multiply w b        on the device

The program is left whole where the device's part reads an array of the host's in another way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tapegrad._compile.plan.dead_code import needed
from tapegrad._engine.dispatch import as_array, backend_of
from tapegrad._engine.host_constants import HOST, copied_by
from tapegrad._program.interpreter import PlainExecutor
from tapegrad._program.ir import Node, Program, Value, put_in
from tapegrad.backends import Array, Backend


class HostPart(NamedTuple):
    """The part of a program that the host computes, and copies to a device, before the rest runs there.

    reads: numbers of the inputs that are no Tensors'; compute: from these to the arrays to copy, each by one of
    `copies`; backends: of the libraries that they go to.
    """

    reads: list[int]
    compute: Callable[[list[Array]], list[Array]]
    copies: list[Callable[[Array], Array]]
    backends: set[Backend]


def split_by_host(
    program: Program[Node], first: int, host: list[int]
) -> tuple[Program[Node], list[int], HostPart | None]:
    """Return a program whose arrays of the host arrive on the device, which are constants beside Tensors there.

    Else it would be of two libraries, and could only be replayed call by call. first: the number of the first input
    that is no Tensor's; host: the numbers from there on of those of the host. Returns also the numbers of the inputs
    that stay, and how the new ones behind them are made, None if there are none.
    """
    given = program.inputs[first:]
    values = {given[n] for n in host}  # on the host
    new: dict[Value, Value] = {}
    sources: list[Value] = []
    copies: list[Callable[[Array], Array]] = []
    backends: set[Backend] = set()
    before: list[Node] = []
    nodes: list[Node] = []
    for node in program.nodes:
        copy = copied_by(node.function, node.args) if node.op == "to_device" and node.args[0] in values else None
        if copy is not None:
            new[node.out] = Value(node.out.shape, node.out.dtype)
            sources.append(node.args[0])
            copies.append(copy)
            backends.add(node.args[1])
        elif not node.effect and not values.isdisjoint(node.reads) and all(_of_host(v, values) for v in node.reads):
            before.append(node)
            values.update(node.outs)
        else:
            nodes.append(node if new.keys().isdisjoint(node.reads) else _renamed(node, new))
    outputs = [new.get(v, v) for v in program.outputs]
    read = {v for node in nodes for v in node.reads} | set(outputs)
    if not copies or not read.isdisjoint([v for node in before for v in node.outs]):
        return program, list(range(len(given))), None
    _, before = needed(before, sources)
    stay = [n for n, v in enumerate(given) if v in read]
    inputs = [*program.inputs[:first], *[given[n] for n in stay], *new.values()]
    passed = frozenset([*[n for n in program.arguments if n < first], *range(first, len(inputs))])
    on_host = Program([given[n] for n in host], before, sources)
    rest = Program(inputs, nodes, outputs, program.replaces, passed, program.gradients)
    return rest, stay, HostPart(host, PlainExecutor(on_host, as_array).run, copies, backends)


def _of_host(v: Value, values: set[Value]) -> bool:
    return v in values or (v.constant is not None and backend_of[type(v.constant)].prefix == HOST)


def _renamed(node: Node, new: dict[Value, Value]) -> Node:
    """Return a node that reads other values."""
    put: Callable[[Value], Any] = lambda v: new.get(v, v)  # noqa: E731
    renamed = Node(
        node.op,
        node.function,
        put_in(node.args, put),
        {k: put_in(v, put) for k, v in node.kwargs.items()},
        node.line,
        node.effect,
    )
    renamed.outs, renamed.many = node.outs, node.many
    return renamed
