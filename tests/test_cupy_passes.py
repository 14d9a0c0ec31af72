"""The passes of the planner on CuPy, one at a time, on the small programs of their docstrings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from places import why_not

if why := why_not("cuda"):
    pytest.skip(why, allow_module_level=True)

import cupy

from tapegrad._program.ir import Node, Program, Value
from tapegrad._program.op_kinds import kind_of
from tapegrad.backends._cupy.codegen.flat_kernels import Numbers
from tapegrad.backends._cupy.executor.donation import donations
from tapegrad.backends._cupy.executor.graphs import segments
from tapegrad.backends._cupy.executor.kernel_groups import CallGroup, FlatGroup, KernelGroup, UpdateBatch
from tapegrad.backends._cupy.executor.liveness import Liveness
from tapegrad.backends._cupy.executor.nodes import WritesCopy, WritesInto
from tapegrad.backends._cupy.executor.partition import groups_of
from tapegrad.backends._cupy.executor.slice_joins import joins_of
from tapegrad.backends._cupy.executor.steps import Step
from tapegrad.backends._pool import SPARE, Pool

FLOAT = np.dtype("float32")


def value(*shape: int) -> Value:
    return Value(shape, FLOAT)


def zeros(*shape: int) -> Value:
    v = value(*shape)
    v.uniform = Value((), FLOAT, constant=np.zeros((), FLOAT))
    return v


def call(
    op: str, args: tuple[Any, ...], shape: tuple[int, ...], function: Callable[..., Any] = print, **kw: Any
) -> Node:
    node = Node(op, function, args, kw)
    node.kind = kind_of(op, args)
    node.outs = (Value(shape, FLOAT, node),)
    return node


def shape_of(groups: list[KernelGroup]) -> list[tuple[str, list[str]]]:
    return [(type(group).__name__, [n.op for n in group.all()]) for group in groups]


def step_of_descent() -> tuple[Program, list[Node]]:
    x, w = value(8, 4), value(4, 4)
    h = call("matmul", (x, w), (8, 4))
    a = call("multiply", (h.out, h.out), (8, 4))
    b = call("add", (a.out, 1.0), (8, 4))
    new = call("subtract", (w, w), (4, 4))
    t = call("matrix_transpose", (x,), (4, 8))
    g = call("matmul", (t.out, b.out), (4, 4))
    nodes = [h, a, b, new, t, g]
    return Program([x, w], nodes, [new.out, g.out], [1, None]), nodes


def test_partition_fuses_elementwise_nodes_and_puts_updates_last() -> None:
    program, (_, _, b, new, _, g) = step_of_descent()
    groups = groups_of(program, Numbers())
    assert shape_of(groups) == [
        ("CallGroup", ["matmul"]),
        ("FlatGroup", ["multiply", "add"]),
        ("CallGroup", ["matrix_transpose"]),
        ("CallGroup", ["matmul"]),
        ("FlatGroup", ["subtract"]),
    ]
    assert groups[1].outs == [b.out]  # a stays in a register
    assert groups[-1].outs == [new.out]
    assert groups[3].outs == [g.out]


def test_updates_of_several_states_are_one_batch() -> None:
    states = [value(3), value(5)]
    new = [call("multiply", (v, 2.0), v.shape) for v in states]
    program = Program(states, new, [n.out for n in new], [0, 1])
    (batch,) = groups_of(program, Numbers())
    assert isinstance(batch, UpdateBatch)
    assert shape_of([*batch.flats]) == [("FlatGroup", ["multiply"])] * 2


def slices(*parts: slice, reader: bool = False) -> tuple[Program, list[Node]]:
    """Return a program that adds values to slices of zeros, one after the other."""
    nodes: list[Node] = []
    into = zeros(5, 2)
    for part in parts:
        x = value(len(range(*part.indices(5))), 2)
        nodes.append(call("index_add", (into, (part,), x), (5, 2)))
        into = nodes[-1].out
    outputs = [nodes[0].out, into] if reader else [into]
    return Program([n.args[2] for n in nodes], [*nodes], outputs), nodes


def test_slices_that_are_the_whole_become_a_concatenation() -> None:
    program, (first, last) = slices(slice(2, 5), slice(0, 2))
    joins = joins_of(program, lambda v: 0 if v.uniform is not None else None)
    assert list(joins) == [first, last]
    join = joins[last]
    assert joins[first] is None
    assert join is not None
    assert (join.op, join.kwargs, join.outs) == ("concat", {"axis": 0}, last.outs)
    assert join.args == ([last.args[2], first.args[2]],)
    assert join.function is cupy.concatenate


@pytest.mark.parametrize(
    ("parts", "reader"),
    [
        ((slice(0, 2), slice(3, 5)), False),  # a gap
        ((slice(0, 3), slice(2, 5)), False),  # an overlap
        ((slice(0, 2), slice(2, 5)), True),  # somebody reads the first sum
    ],
)
def test_other_slices_are_added(parts: tuple[slice, ...], reader: bool) -> None:
    program, _ = slices(*parts, reader=reader)
    assert joins_of(program, lambda v: 0 if v.uniform is not None else None) == {}


def test_views_and_pieces_lie_in_the_memory_of_their_roots() -> None:
    x, w, y = value(16), value(4, 4), value(4, 4)
    a = call("exp", (x,), (16,))
    b = call("reshape", (a.out, (4, 4)), (4, 4))
    c = call("matmul", (b.out, w), (4, 4))
    d = call("concat", ([c.out, y],), (8, 4), axis=0)
    program = Program([x, w, y], [a, b, c, d], [d.out])
    groups: list[KernelGroup] = [FlatGroup([a], []), CallGroup(b), CallGroup(c), CallGroup(d)]
    liveness = Liveness(program, groups)
    assert [liveness.root(n.out) for n in (a, b, c, d)] == [a.out, a.out, d.out, d.out]
    assert (liveness.last[a.out], liveness.last[d.out]) == (2, 4)
    assert (liveness.at[a.out], liveness.at[c.out]) == (0, 2)
    assert liveness.is_in(c.out, d.out)
    assert not liveness.is_in(y, d.out)
    whole = np.zeros((8, 4), FLOAT)
    liveness.part[c.out].array(whole)[...] = 1
    assert whole.sum() == 16
    assert whole[:4].all()


def test_state_is_written_in_place_by_its_last_reader() -> None:
    program, _ = step_of_descent()
    groups = groups_of(program, Numbers())
    assert donations(program, groups, Liveness(program, groups), frozenset()) == ({1: 0}, {})
    assert donations(program, groups, Liveness(program, groups), frozenset([1])) == ({}, {})  # others see it


def test_state_whose_elements_move_is_committed_at_the_end() -> None:
    c, x = value(4, 2), value(1, 2)
    rest = call("index_get", (c, (slice(1, None),)), (3, 2))
    new = call("concat", ([rest.out, x],), (4, 2), axis=0)
    program = Program([c, x], [rest, new], [new.out], [0])
    groups = groups_of(program, Numbers())
    assert donations(program, groups, Liveness(program, groups), frozenset()) == ({}, {0: 0})


def test_steps_that_are_not_captured_part_the_segments() -> None:
    steps = [Step(name, print, (), name != "d") for name in "abcdef"]
    assert [[s.name for s in piece] for piece in segments(steps)] == [["a", "b", "c"], ["d"], ["e", "f"]]


def test_the_pool_gives_the_free_buffer_that_fits_best() -> None:
    pool = Pool(lambda nbytes: np.empty(nbytes, np.uint8))
    small, large = pool.take(100), pool.take(1000)
    pool.give(large)
    pool.give(small)
    assert pool.take(90) is small
    assert pool.take(90) is large
    assert pool.nbytes == 1100
    wide = pool.take(3 * SPARE)
    pool.give(wide)
    assert pool.take(SPARE - 1) is not wide  # more than half of it, and of a page, would lie idle
    assert pool.take(SPARE) is wide


class Writer:
    def into(self, outs: Any, *arrays: Any) -> None: ...


class Copier:
    in_place = print


def test_functions_say_by_their_methods_how_they_write() -> None:
    assert isinstance(Writer(), WritesInto)
    assert isinstance(Copier(), WritesCopy)
    for function in (print, cupy.add, cupy.copyto):
        assert not isinstance(function, WritesInto | WritesCopy)
