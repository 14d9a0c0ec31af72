"""The passes of NumPy's executor, one at a time, on small programs made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tapegrad._program.ir import Item, Node, Program, Run, Value
from tapegrad._program.op_kinds import kind_of
from tapegrad.backends._numpy.executor.aliasing import Aliases
from tapegrad.backends._numpy.executor.buffers import ALIGN, Pool
from tapegrad.backends._numpy.executor.checks import Checks
from tapegrad.backends._numpy.executor.code import Writer
from tapegrad.backends._numpy.executor.donation import donate
from tapegrad.backends._numpy.executor.executor import Executor
from tapegrad.backends._numpy.executor.liveness import Liveness
from tapegrad.backends._numpy.executor.plan import plan_of
from tapegrad.backends._numpy.executor.references import Ref, actual
from tapegrad.backends._numpy.executor.tiling import RunLiveness, Tiling

FLOAT = np.dtype(np.float64)
FUNCTIONS: dict[str, Any] = {
    "reshape": lambda x, shape: x.reshape(shape),
    "permute_dims": np.transpose,
    "index_get": lambda x, key: x[key],
    "unstack": lambda x, axis=0: list(np.moveaxis(x, axis, 0)),
}


def value(*shape: int) -> Value:
    """Return an input."""
    return Value(shape, FLOAT)


def call(op: str, *args: Any, shape: tuple[int, ...] | None = None, many: int = 0) -> Node:
    """Return a node with its results, of the shape of the first argument if no other is given."""
    function: Any = FUNCTIONS[op] if op in FUNCTIONS else getattr(np, op, None)
    node = Node(op, function, args, {})
    node.kind, node.many = kind_of(op, args), many > 0
    shape = args[0].shape if shape is None else shape
    node.outs = tuple([Value(shape, FLOAT, node) for _ in range(many or 1)])
    return node


def check(x: Value) -> Node:
    """Return a node that raises an error for some values."""

    def refuse(a: Any) -> None:
        if a.any():
            raise ValueError("refused")

    return Node("refuse", refuse, (x,), {}, effect=True)


def analysed(program: Program) -> tuple[Aliases, Liveness]:
    aliases = Aliases(program)
    return aliases, Liveness(program, aliases)


# -- aliasing -----------------------------------------------------------------------------------------


def test_views_of_views_have_the_root_of_the_first() -> None:
    x = value(2, 3)
    made = call("exp", x)
    turned = call("permute_dims", made.out, (1, 0), shape=(3, 2))
    part = call("index_get", turned.out, (slice(1, None),), shape=(2, 2))
    copied = call("reshape", turned.out, (6,), shape=(6,))
    aliases = Aliases(Program([x], [made, turned, part, copied], [part.out, copied.out]))
    assert [aliases.root_of(n.out) for n in (made, turned, part)] == [made.out] * 3
    assert aliases.views == {turned.out, part.out}
    assert aliases.root_of(copied.out) is copied.out  # its elements do not lie in order
    assert not aliases.shares(made.out)


def test_small_parts_are_views_and_large_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    x = value(2, 5)
    parts = call("unstack", x, shape=(5,), many=2)
    program = Program([x], [parts], list(parts.outs))
    assert Aliases(program).views == set(parts.outs)
    monkeypatch.setattr("tapegrad.backends._numpy.executor.aliasing.SMALL_PART", 4)
    assert Aliases(program).views == set()


def test_an_alias_beside_an_operand_is_seen() -> None:
    x = value(4)
    made = call("exp", x)
    view = call("reshape", made.out, (4,), shape=(4,))
    both, alone = call("add", made.out, view.out), call("add", made.out, made.out)
    aliases = Aliases(Program([x], [made, view, both, alone], [both.out, alone.out]))
    assert not aliases.only_alias(made.out, both)
    assert aliases.only_alias(made.out, alone)


# -- liveness -----------------------------------------------------------------------------------------


def test_last_uses_are_those_of_roots() -> None:
    x = value(2, 3)
    first = call("exp", x)
    view = call("reshape", first.out, (6,), shape=(6,))
    second = call("sin", view.out)
    parts = call("unstack", second.out, shape=(), many=6)
    items: list[Item] = [first, view, second, parts]
    _, liveness = analysed(Program([x], items, [parts.outs[0]]))
    assert liveness.last == {x: 0, first.out: 2, second.out: 4}  # a part of it is an output
    assert liveness.dead_after(items) == [[x], [view.out], [first.out], list(parts.outs)]


def test_outputs_live_on_and_what_nobody_reads_dies_at_once() -> None:
    x = value(3)
    kept, dropped = call("exp", x), call("sin", x)
    items: list[Item] = [kept, dropped]
    _, liveness = analysed(Program([x], items, [kept.out]))
    assert liveness.last[kept.out] == liveness.end == 2
    assert liveness.dead_after(items) == [[], [x, dropped.out]]


# -- donation and checks ------------------------------------------------------------------------------


def donated(inputs: list[Value], items: list[Item], outputs: list[Value]) -> bool:
    """Say whether the first output is donated the array of the first input, which it replaces."""
    program = Program(inputs, items, outputs, [0] + [None] * (len(outputs) - 1))
    found = donate(program, *analysed(program))
    assert found in ({}, {inputs[0]: outputs[0]})
    return bool(found)


def test_an_update_is_donated_the_array_of_its_state() -> None:
    w, g = value(3), value(3)
    step = call("multiply", g, 0.1)
    new = call("subtract", w, step.out)
    assert donated([w, g], [step, new], [new.out])
    aliases, liveness = analysed(program := Program([w, g], [step, new], [new.out], [0]))
    donate(program, aliases, liveness)
    assert aliases.root_of(new.out) is w
    assert liveness.last[w] == liveness.end


def test_state_that_is_read_later_is_not_donated() -> None:
    w, g = value(3), value(3)
    new = call("subtract", w, g)
    later, viewed = call("exp", w), call("reshape", w, (3,), shape=(3,))
    through = call("exp", viewed.out)
    assert donated([w, g], [later, new], [new.out, later.out])
    assert not donated([w, g], [new, later], [new.out, later.out])
    assert not donated([w, g], [viewed, new, through], [new.out, through.out])
    assert not donated([w, g], [new, viewed], [new.out, viewed.out])  # an output is a view of it


def test_state_is_not_donated_where_an_item_may_raise_later() -> None:
    w, g = value(3), value(3)
    new = call("subtract", w, g)
    assert donated([w, g], [check(g), new], [new.out])
    assert not donated([w, g], [new, check(g)], [new.out])
    assert not donated([w, g], [new, call("linalg.inv", g)], [new.out])


def test_an_item_that_reads_state_elsewhere_than_it_writes_is_given_none() -> None:
    w, mask = value(3, 3), value(3, 3)
    turned = call("permute_dims", w, (1, 0), shape=(3, 3))
    over = call("add", w, turned.out)
    assert not donated([w], [turned, over], [over.out])
    assert not donated([w], [product := call("matmul", w, w)], [product.out])
    first, last = call("where", mask, w, 0.0, shape=(3, 3)), call("where", mask, 0.0, w, shape=(3, 3))
    assert donated([w, mask], [first], [first.out])
    assert not donated([w, mask], [last], [last.out])  # read again once the result is written
    added = call("index_add", w, (slice(None),), mask)
    itself = call("index_add", w, (slice(None),), w)
    assert donated([w, mask], [added], [added.out])
    assert not donated([w], [itself], [itself.out])


def test_a_run_writes_over_state_that_no_later_node_of_it_reads() -> None:
    def run_of(*nodes: Node) -> Run:
        run = Run((3,))
        run.nodes, run.outs = list(nodes), (nodes[-1].out,) if nodes[-1].op == "subtract" else (nodes[0].out,)
        run.note_reads()
        return run

    w, g = value(3, 2), value(3, 2)
    step = call("multiply", g, 0.1)
    new = call("subtract", w, step.out)
    assert donated([w, g], [run_of(step, new)], [new.out])
    early = call("add", w, g)
    assert not donated([w, g], [run_of(early, call("exp", w))], [early.out])


def test_checks_come_first_or_not() -> None:
    x = value(3)
    made, checked = call("exp", x), check(x)
    for items, first in (([checked, made], True), ([made, checked], False), ([made], True)):
        program = Program([x], items, [made.out])
        checks = Checks(program, {made.out}, Aliases(program))
        assert checks.come_first is first
        assert checks.absent is (checked not in items)


# -- buffers ------------------------------------------------------------------------------------------


def test_the_pool_takes_the_best_fit() -> None:
    pool = Pool()
    small, large = pool.take(10_000), pool.take(40_000)
    pool.give(large)
    pool.give(small)
    assert pool.take(9_000) is small
    assert pool.take(39_000) is large
    pool.give(large)
    assert pool.take(10_000) is not large  # more than half of it would lie idle
    assert pool.nbytes == 60_000


def test_arrays_of_buffers_are_aligned_and_the_same_each_time() -> None:
    pool = Pool()
    buffer = pool.take(100)
    array = pool.array(buffer, (3, 4), FLOAT)
    assert array.ctypes.data % ALIGN == 0
    assert pool.array(buffer, (3, 4), FLOAT) is array
    assert np.may_share_memory(pool.array(buffer, (12,), FLOAT), array)


def targets(program: Program) -> list[Any]:
    """Return the array that each item of a program of ufuncs writes to."""
    return [args[-1] for _, args in plan_of(program, 1).writer.code]


def test_chains_run_in_place_and_dead_buffers_are_taken_again() -> None:
    x = value(4)
    a = call("exp", x)
    b = call("sin", a.out)
    c = call("cos", a.out)  # the last to read it
    d = call("add", b.out, c.out)
    e = call("tanh", d.out)
    out_a, out_b, out_c, out_d, out_e = targets(Program([x], [a, b, c, d, e], [e.out]))
    assert out_b is not out_a
    assert out_c is out_a
    assert out_d is out_b
    assert isinstance(out_e, Ref)
    assert out_e.root is e.out


def test_a_view_does_not_own_the_buffer_that_it_lies_in() -> None:
    """The example of placement."""
    x = value(2, 3)
    first = call("exp", x)
    view = call("reshape", first.out, (6,), shape=(6,))
    second = call("sin", view.out)
    third = call("cos", second.out)
    last = call("add", third.out, 1)
    items: list[Item] = [first, view, second, third, last]
    a, b, again, out = targets(Program([x], items, [last.out]))
    assert not np.may_share_memory(a, b)
    assert again is b
    assert out.root is last.out


# -- code ---------------------------------------------------------------------------------------------


def test_calls_are_patched_where_their_arrays_change() -> None:
    x, fixed = value(3), np.zeros(3)
    ref = Ref(x)
    view = Ref(x, ref, lambda a: a[:1])
    writer = Writer()
    writer.emit(writer.code, np.exp, (fixed, fixed))
    writer.emit(writer.code, np.concatenate, ([ref, view], 0))
    assert [(i, f) for _, i, f, _ in writer.patches[x]] == [(1, np.concatenate)]
    ref.array = np.ones(3)
    view.array = view.function(ref.array)
    ((first, second), axis) = actual(writer.patches[x][0][3])
    assert first is ref.array
    assert second is view.array
    assert axis == 0


# -- tiling -------------------------------------------------------------------------------------------


def test_tiles_are_of_about_equal_length_and_cover_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    x = value(100, 8)
    a = call("exp", x)
    b = call("sin", a.out)
    run = Run((100,))
    run.nodes, run.outs = [a, b], (b.out,)
    run.note_reads()
    monkeypatch.setattr("tapegrad.backends._numpy.executor.tiling.TILE", 8 * 30)
    monkeypatch.setattr("tapegrad.backends._numpy.executor.tiling.CACHE", 1)
    monkeypatch.setattr("tapegrad.backends._numpy.executor.tiling.PARALLEL", 1)
    liveness = RunLiveness(run)
    tiling = Tiling(run, liveness, threads=3)
    assert (tiling.size, tiling.starts) == (25, [0, 25, 50, 75])
    assert [tiling.bounds(b) for b in (0, 3)] == [(0, 25), (75, 100)]
    assert [list(part) for part in tiling.shares()] == [[0, 1], [2, 3], []]
    assert liveness.dies(a.out, 1)
    assert not liveness.dies(a.out, 0)


def test_arrays_are_lent_where_checks_come_first() -> None:
    x, fine = value(3), np.zeros(3)
    made = call("exp", x)
    for items, first in (([check(x), made], True), ([made, check(x)], False)):
        executor = Executor(Program([x], items, [made.out]), threads=1)
        executor.run([fine])
        assert executor.refused() is False
        with pytest.raises(ValueError, match="refused"):
            executor.run([np.ones(3)])
        assert executor.refused() is True
        assert executor.lends is first


# -- the executor -------------------------------------------------------------------------------------


def test_a_copy_that_replaces_state_is_written_in_its_place() -> None:
    """A reshape of elements that do not lie in order is a copy, also where its result is donated an array."""
    w, x = value(6), value(3, 2)
    turned = call("permute_dims", x, (1, 0), shape=(2, 3))
    new = call("reshape", turned.out, (6,), shape=(6,))
    executor = Executor(Program([w, x], [turned, new], [new.out], [0]), threads=1)
    data = np.arange(6.0).reshape(3, 2)
    (out,) = executor.run([np.zeros(6), data])
    np.testing.assert_array_equal(out, data.T.reshape(6))
    assert executor.bound[0] is out


def test_a_part_that_replaces_state_is_written_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapegrad.backends._numpy.executor.aliasing.SMALL_PART", 2)
    w, x = value(3), value(2, 3)
    parts = call("unstack", x, shape=(3,), many=2)
    executor = Executor(Program([w, x], [parts], [parts.outs[0]], [0]), threads=1)
    data = np.arange(6.0).reshape(2, 3)
    (out,) = executor.run([np.zeros(3), data])
    np.testing.assert_array_equal(out, data[0])
    assert not np.may_share_memory(out, data)
    assert executor.bound[0] is out


def test_state_is_copied_once_and_outputs_that_are_held_stay() -> None:
    w, g = value(3), value(3)
    step = call("multiply", g, 0.5)
    new = call("subtract", w, step.out)
    executor = Executor(Program([w, g], [step, new], [new.out, step.out], [0, None]), threads=1)
    users = np.ones(3)
    state, first = executor.run([users, np.full(3, 2.0)])
    np.testing.assert_array_equal(users, 1)  # the array of the user is not written to
    again, second = executor.run([state, np.full(3, 4.0)])
    assert again is state
    np.testing.assert_array_equal(state, 1 - 1 - 2)
    np.testing.assert_array_equal(first, 1)
    address = second.ctypes.data
    del first, second
    _, third = executor.run([state, np.full(3, 8.0)])
    assert third.ctypes.data == address  # nobody held the latest one
