"""Each pass of the planner on a small program by hand: the worked example of its module's docstring."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest

import tapegrad as tg
from tapegrad._compile.plan.accumulate import scan
from tapegrad._compile.plan.dead_code import without_dead_code
from tapegrad._compile.plan.fusion import fuse, note_boundaries
from tapegrad._compile.plan.merge_matmuls import merged
from tapegrad._compile.plan.pipeline import planned
from tapegrad._compile.plan.reassociate import reassociate
from tapegrad._compile.plan.schedule import Schedule
from tapegrad._compile.plan.simplify import simplified
from tapegrad._compile.plan.stacking import stack
from tapegrad._engine.dispatch import backend_of
from tapegrad._program.interpreter import PlainExecutor
from tapegrad._program.ir import Item, Node, Program, Run, Value, put_in
from tapegrad._program.op_kinds import kind_of

NUMPY = backend_of[np.ndarray]


class Written:
    """A program that is written by hand: inputs, and nodes in order."""

    def __init__(self) -> None:
        self.inputs: list[Value] = []
        self.nodes: list[Node] = []

    def input(self, *shape: int) -> Value:
        v = Value(shape, np.dtype("float64"))
        self.inputs.append(v)
        return v

    def call(self, op: str, *args: Any, **kwargs: Any) -> Value:
        """Append a call of NumPy's function of the same name; return its result."""
        known: dict[str, Any] = {"index_get": operator.getitem, "T": operator.attrgetter("T")}
        function = known.get(op) or getattr(NUMPY.xp, op)
        node = Node(op, function, args, kwargs)
        like = function(*put_in(args, lambda v: np.zeros(v.shape, v.dtype)), **kwargs)
        node.outs = (Value(like.shape, like.dtype, node),)
        node.kind = kind_of(op, args)
        self.nodes.append(node)
        return node.out

    def program(self, *outputs: Value) -> Program[Node]:
        return Program(self.inputs, self.nodes, list(outputs))


def shown(items: list[Item] | list[Node]) -> list[str]:
    """Return the operations of items: those of a group in one text, after its name."""
    return [
        item.op if isinstance(item, Node) else " ".join([type(item).__name__, *[n.op for n in item.nodes]])
        for item in items
    ]


def same(before: Program[Node], after: Program[Node]) -> None:
    """Check that two programs compute the same, to rounding."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(v.shape) for v in before.inputs]
    found = [PlainExecutor(p, NUMPY.as_array).run(list(arrays)) for p in (before, after)]
    for x, y in zip(*found, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12)


def test_dead_code_elimination() -> None:
    w = Written()
    a = w.call("exp", w.input(3))
    w.call("sin", a)
    c = w.call("add", a, 1.0)
    assert shown(without_dead_code(w.program(c)).nodes) == ["exp", "add"]


def test_simplification() -> None:
    w = Written()
    x = w.input(3)
    z, o = w.call("zeros", ()), w.call("ones", (3,))
    b, c = w.call("exp", x), w.call("exp", x)
    d = w.call("multiply", b, o)
    w.call("add", x, z)
    before = w.program(w.call("add", d, c))
    after = simplified(before, NUMPY)
    assert shown(after.nodes) == ["exp", "add"]
    assert after.nodes[1].args == (b, b)
    same(before, after)


def test_vertical_fusion() -> None:
    w = Written()
    b = w.call("multiply", w.call("exp", w.input(1000, 500)), 2.0)
    s = w.call("sum", b, axis=1)
    t = w.call("sum", s)
    schedule = Schedule(w.nodes)
    fuse(schedule)
    items = schedule.ordered()
    note_boundaries(items, [t])
    assert shown(items) == ["Run exp multiply sum sum"]
    (run,) = items
    assert isinstance(run, Run)
    assert (run.lead, run.ins, run.outs) == ((1000,), (w.inputs[0],), (t,))


def test_small_arrays_are_in_no_run() -> None:
    w = Written()
    w.call("multiply", w.call("exp", w.input(10, 5)), 2.0)
    schedule = Schedule(w.nodes)
    fuse(schedule)
    assert shown(schedule.ordered()) == ["exp", "multiply"]


def test_horizontal_fusion() -> None:
    w = Written()
    weights = w.input(4, 4)
    xs = [w.input(4, 4) for _ in range(9)]
    ys = [w.call("matmul", x, weights) for x in xs]
    first, *rest = [w.call("tanh", y) for y in ys]
    for a in rest:
        first = w.call("add", first, a)
    schedule = Schedule(w.nodes)
    stack(schedule, [first])
    assert shown(schedule.ordered()) == ["matmul"] * 9 + ["Stack" + 9 * " tanh", "Fold" + 8 * " add"]


def test_accumulation() -> None:
    w = Written()
    c, weights = w.input(4, 4), w.input(4, 4)
    products = [w.call("matmul", w.input(4, 4), weights) for _ in range(8)]
    for d in [w.call("cos", p) for p in products]:
        c = w.call("multiply", c, d)
    schedule = Schedule(w.nodes)
    stack(schedule, [c])
    scan(schedule)
    assert shown(schedule.ordered()) == 8 * ["matmul"] + ["Stack" + 8 * " cos", "Scan" + 8 * " multiply"]


@pytest.mark.parametrize("n", [4, 3])
def test_products_of_parts_are_one(n: int) -> None:
    w = Written()
    x, weights = w.input(n, 3, 2), w.input(2, 5)
    parts = [w.call("index_get", x, (i, slice(None), slice(None))) for i in range(n)]
    before = w.program(*[w.call("matmul", part, weights) for part in parts])
    after = without_dead_code(merged(before, NUMPY.xp))
    one = ["reshape", "matmul", "reshape"] + n * ["index_get"]
    assert shown(after.nodes) == (one if n > 3 else n * ["index_get"] + n * ["matmul"])  # three are too few


def test_a_sum_of_products_is_one() -> None:
    w = Written()
    pairs = [(w.input(3, 2), w.input(3, 5)) for _ in range(4)]
    first, *rest = [w.call("matmul", w.call("T", x), g) for x, g in pairs]
    for p in rest:
        first = w.call("add", first, p)
    after = without_dead_code(merged(w.program(first), NUMPY.xp))
    assert shown(after.nodes) == ["rows", "rows", "T", "matmul"]
    assert after.nodes[-1].out is first


def test_reassociation() -> None:
    w = Written()
    x, y = w.input(100), w.input(100)
    a = w.call("multiply", x, 2.0)
    c = w.call("multiply", w.call("multiply", x, y), 6.0)
    d = w.call("add", a, c)
    run = Run((100,))
    run.nodes, run.outs = list(w.nodes), (d,)
    before = w.program(d)
    reassociate(run)
    assert shown(run.nodes) == ["multiply", "add", "multiply"]
    same(before, Program(before.inputs, run.nodes, [d]))


def test_scheduling() -> None:
    w = Written()
    x = w.input(3)
    a, b = w.call("exp", x), w.call("sum", x)
    c = w.call("multiply", a, 2.0)
    w.call("add", c, b)
    schedule = Schedule(w.nodes)
    run = Run((3,))
    run.nodes = [w.nodes[0], w.nodes[2]]
    schedule.group_of.update(dict.fromkeys(run.nodes, run))
    assert shown(schedule.ordered()) == ["sum", "Run exp multiply", "add"]
    assert not schedule.reaches([b], run)
    assert schedule.reaches([c], run)


def test_the_pipeline() -> None:
    w = Written()
    o = w.call("ones", (1000, 500))
    b = w.call("multiply", w.call("exp", w.input(1000, 500)), 2.0)
    assert shown(planned(w.program(w.call("multiply", b, o)), NUMPY).items) == ["Run exp multiply"]


def test_a_captured_program_is_planned_as_by_hand() -> None:
    step = tg.compile(lambda x: tg.exp(x) * 2.0 * tg.ones((1000, 500)))
    x = tg.ones((1000, 500))
    for _ in range(3):
        step(x)
    assert [item.name for item in step.program.items] == ["run"]
