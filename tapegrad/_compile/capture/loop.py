"""Capture of a loop that ends when values say so: one round is recorded, as one operation of a program.

`fixed_point(lambda x: cos(x) * a, x0)` runs its rounds eagerly while it is captured. The first is recorded, the others
must do the same::

    round 1:  b = cos x; y = multiply b a; change = max |y - x|; size = max |y|        the program of the loop
    round 2:  the same nodes on other values                                          compared, and dropped
    program:  z = loop(round, criterion, x0, a)
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from tapegrad._compile.capture.errors import caught, escaped, rounds_unlike
from tapegrad._compile.capture.graph import Graph, Tracer
from tapegrad._compile.capture.trace_equivalence import rounds_differ
from tapegrad._compile.plan.dead_code import needed
from tapegrad._engine.dispatch import as_array
from tapegrad._engine.source_line import user_line
from tapegrad._program.interpreter import replay_of
from tapegrad._program.ir import Node, Program, Value
from tapegrad._program.loops import Criterion, Round
from tapegrad.backends import Array


class Loop:
    """The loop that a node runs.

    until: runs a step on an array again and again; state: the value that a round starts from; nodes: its calls;
    outs: the values that it gives: the next state, and the measures for `until`; outer: the values from outside that it
    reads.
    """

    def __init__(self, until: Criterion, state: Value, nodes: list[Node], outs: list[Value]) -> None:
        self.until, self.state, self.outs = until, state, outs
        self.nodes = needed(nodes, outs)[1]
        inside = {state, *(v for node in self.nodes for v in node.outs)}
        read = dict.fromkeys([*(v for node in self.nodes for v in node.reads), *outs])
        self.outer = [v for v in read if v not in inside and v.constant is None]

    def __call__(self, x: Array, *outer: Array) -> Array:
        return self.until(lambda x: self._round([x, *outer]), x)

    @property
    def program(self) -> Program[Node]:
        """The program of a round, from the state and the values from outside."""
        return Program([self.state, *self.outer], self.nodes, self.outs)

    @cached_property
    def _round(self) -> Round:
        return replay_of(self.program, as_array)

    def __repr__(self) -> str:
        return f"{self.until.name}: {len(self.nodes)} operations"


def _run_loop(loop: Loop, x: Array, *outer: Array) -> Array:
    return loop(x, *outer)


def captured(graph: Graph, until: Criterion, step: Round, x: Tracer) -> Tracer:
    """Run a loop and record it as one node; CaptureError if two rounds do not do the same."""
    nodes = graph.nodes
    rounds: list[Loop] = []  # the first

    def one(a: Tracer) -> tuple[Tracer, Array, Array]:
        graph.nodes = []
        y, change, size = [graph.alike(out, x) for out in step(a)]
        now = Loop(until, a.value, graph.nodes, [y.value, change.value, size.value])
        rounds.append(now) if not rounds else _check_round(graph, rounds[0], now)
        return y, change.raw, size.raw

    graph.loops = True
    try:
        y = until(one, graph.input(x.raw))
    except Exception:
        graph.flaw = caught(until.name)  # should the function go on
        raise
    finally:
        graph.nodes = nodes
    loop = rounds[0]
    node = Node("loop", _run_loop, (loop, x.value, *loop.outer), {}, "" if graph.tentative else user_line())
    graph.nodes.append(node)
    return graph.out(node, y.raw)


def _check_round(graph: Graph, first: Loop, now: Loop) -> None:
    differs = rounds_differ(graph, first, now)
    if differs is not None:
        graph.give_up(lambda: rounds_unlike(now.until.name, differs))


def check_loops(graph: Graph, values: Iterable[Value]) -> None:
    """Raise CaptureError if a loop was left by an error, or one of some values was made by a round of one."""
    if graph.flaw is not None:
        raise graph.flaw
    nodes = set(graph.nodes)
    for v in values:
        if v.node is not None and v.node not in nodes:
            raise escaped(v.node.line)
