"""Equivalence of traces: whether two captured calls did the same, by roles that hold in both."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from tapegrad._compile.capture.captured_call import Capture
from tapegrad._compile.capture.equality import equal, same_constant
from tapegrad._compile.capture.slots import NewTensor, Slot, StateBox
from tapegrad._program.ir import Node, Value
from tapegrad._program.loops import LoopNode

_STATE = "keep changing values in a Tensor that is updated in place (x *= ..., x[...] = ...), or pass it as an argument"


class Difference(NamedTuple):
    """The difference between two calls; again: whether the next may still agree with the second (state made late).

    aliased: an argument is state at the same time in one of them, which says nothing against the function.
    """

    message: str
    again: bool
    aliased: bool


class _Differ(Exception):
    """The difference between values, in words; the rest as in `Difference`."""

    def __init__(self, message: str, again: bool = False, aliased: bool = False) -> None:
        super().__init__(message)
        self.again, self.aliased = again, aliased


def difference(a: Capture, b: Capture) -> Difference | None:
    """Say how two calls differ, None if they do the same; then the slots of `b` have the roles that hold in both."""
    return Equivalence(a, b).difference()


def rounds_differ(graph: Any, x: LoopNode, y: LoopNode) -> str | None:
    """Say how two rounds of a loop differ, None if they do the same."""
    nothing = Capture(graph, [], {}, [], [], None, [], None)  # type: ignore[arg-type]
    try:
        Equivalence(nothing, nothing, held_apart).loop(x, y)
    except _Differ as differ:
        return str(differ)
    return None


class Equivalence:
    """The correspondence of two captures: of their values, and of their slots.

    equal_held: of two raw arrays from outside, as `Held`, that were not found at the same place.
    """

    def __init__(self, a: Capture, b: Capture, equal_held: Callable[[Any, Any], bool] | None = None) -> None:
        self.a, self.b = a, b
        self.equal_held = equal_held or (lambda x, y: equal(x.copy, y.copy))
        self.same: dict[Value, Value] = {}
        self.slots_a = {c.before: c for c in a.slots}
        self.slots_b = {c.before: c for c in b.slots}
        self.raw_a = {v: i for i, v in a.raw.items()}
        self.raw_b = {v: i for i, v in b.raw.items()}
        self.arguments = {i: c for c in a.slots for i in c.arguments}
        self.tensors = {id(_tensor(c.tensor)): c for c in a.slots if c.tensor is not None}
        self.roles: dict[Slot, tuple[Any, frozenset[int], list[Slot]]] = {}

    def difference(self) -> Difference | None:
        """Say how the calls differ, None if they do the same."""
        try:
            self.run()
        except _Differ as differ:
            return Difference(str(differ), differ.again, differ.aliased)
        return None

    def run(self) -> None:
        """Go through all that the calls did; raise where they differ."""
        self.nodes(self.a.graph.nodes, self.b.graph.nodes)
        self.updates()
        self.results()
        for slot, (tensor, arguments, owners) in self.roles.items():
            slot.tensor, slot.arguments, slot.owners = tensor, tuple(sorted(arguments)), tuple(owners)

    def nodes(self, one: list[Node], other: list[Node]) -> None:
        """Compare nodes, in order."""
        for m, n in zip(one, other, strict=False):
            self.node(m, n)
        if len(one) != len(other):
            node = max(one, other, key=len)[min(len(one), len(other))]
            raise _Differ(f"{node.op} at {node.line} is done in only one of the calls", True)

    def node(self, m: Node, n: Node) -> None:
        if m.op != n.op or m.many is not n.many or len(m.outs) != len(n.outs) or len(m.args) != len(n.args):
            raise _Differ(f"{n.op} at {n.line}, where the call before did {m.op} at {m.line}", True)
        for v, w in zip(m.outs, n.outs, strict=True):
            if v.shape != w.shape or v.dtype != w.dtype:
                raise _Differ(f"{n.op} at {n.line}: the shape {m.out.shape} became {n.out.shape}", True)
        same = self.same
        try:
            for x, y in zip(m.args, n.args, strict=True):
                if type(x) is not Value or same.get(x) is not y:
                    self.tree(x, y)
            if m.kwargs or n.kwargs:
                self.tree(tuple(sorted(m.kwargs.items())), tuple(sorted(n.kwargs.items())))
        except _Differ as differ:
            raise _Differ(f"{n.op} at {n.line}: {differ}", differ.again, differ.aliased) from None
        for v, w in zip(m.outs, n.outs, strict=True):
            same[v] = w

    def tree(self, x: Any, y: Any) -> None:
        """Raise unless two arguments are the same; note the roles of slots among them."""
        if isinstance(x, Value) and isinstance(y, Value):
            self.value(x, y)
        elif isinstance(x, (tuple, list)) and type(x) is type(y) and len(x) == len(y):
            for i, j in zip(x, y, strict=True):
                self.tree(i, j)
        elif hasattr(x, "until") and hasattr(y, "until"):
            self.loop(x, y)
        elif isinstance(x, partial) and isinstance(y, partial):
            self.tree((x.func, x.args), (y.func, y.args))
        elif not same_constant(x, y):
            what = "number" if isinstance(y, (int, float, complex)) else "argument"
            raise _Differ(f"the {what} {x!r} became {y!r}: {_STATE}")

    def loop(self, x: LoopNode, y: LoopNode) -> None:
        """Compare two loops."""
        self.tree(x.until, y.until)
        self.same[x.state] = y.state
        self.nodes(x.nodes, y.nodes)
        self.tree(x.outs, y.outs)

    def value(self, x: Value, y: Value) -> None:
        if x is y or self.same.get(x) is y:
            return
        if y.node is not None or x.node is not None:
            raise _Differ(f"an operand came from elsewhere in the call before: {_STATE}", True)
        if x in self.slots_a and y in self.slots_b:
            if not self.slot(self.slots_a[x], self.slots_b[y]):
                aliased = bool(self.slots_a[x].arguments or self.slots_b[y].arguments)
                raise _Differ(f"an operand is another Tensor than in the call before: {_STATE}", aliased, aliased)
            return
        if x in self.raw_a and y in self.raw_b:
            if self.raw_a[x] != self.raw_b[y]:
                raise _Differ("an operand is another argument than in the call before", True)
            return
        held_a, held_b = self.a.graph.held.get(x), self.b.graph.held.get(y)
        if held_a is not None and held_b is not None:
            same = held_a.found_like(held_b) or self.equal_held(held_a, held_b)
            self.same[x] = y
        elif x.constant is not None and y.constant is not None:
            same = equal(x.constant, y.constant)
        else:
            raise _Differ(f"an operand came from elsewhere in the call before: {_STATE}", True)
        if not same:
            held = "an array that is no Tensor" if y.constant is None else "a constant made inside"
            raise _Differ(f"{held} is another one in each call: {_STATE}")

    def slot(self, x: Slot, y: Slot) -> bool:
        """Say whether two slots can be the same; that narrows down the roles of the second one's Tensor."""
        tensor, arguments, owners = self.roles.get(y) or (_tensor(y.tensor), frozenset(y.arguments), list(y.owners))
        tensor = tensor if _tensor(x.tensor) is tensor else None
        arguments = arguments & frozenset(x.arguments)
        owners = [o for o in owners if any(self.slot(p, o) for p in x.owners)]
        if tensor is None and not arguments and not owners:
            return False
        self.roles[y] = tensor, arguments, owners
        return True

    def updates(self) -> None:
        """Compare the new values of slots and gradients."""
        for what, one, other in (
            ("the new value of a Tensor", _changed(self.a), _changed(self.b)),
            ("a gradient", dict(self.a.grads), dict(self.b.grads)),
        ):
            if len(one) != len(other):
                raise _Differ(f"{what} is set in only one of the calls: {_STATE}", True)
            for d, after in other.items():
                c = self.partner(d)
                if c is None or c not in one or not self.slot(c, d):
                    raise _Differ(f"{what} is set in only one of the calls: {_STATE}", True)
                self.left(what, one[c], after)
        for d in self.b.slots:  # slots used without their values: by the same way as in the call before
            c = self.partner(d)
            if d not in self.roles and (c is None or not self.slot(c, d)):
                raise _Differ(f"a Tensor is used in only one of the calls: {_STATE}", True)

    def partner(self, d: Slot) -> Slot | None:
        """Return the slot of the call before that is known by the same."""
        for i in d.arguments:
            if i in self.arguments:
                return self.arguments[i]
        if d.tensor is not None and id(_tensor(d.tensor)) in self.tensors:
            return self.tensors[id(_tensor(d.tensor))]
        above = [self.partner(o) for o in d.owners]
        return next((c for c in self.a.slots for o in c.owners if o in above), None)

    def results(self) -> None:
        if len(self.a.outputs) != len(self.b.outputs):
            raise _Differ(f"the results have {len(self.a.outputs)} and {len(self.b.outputs)} leaves", True)
        for x, y in zip(self.a.outputs, self.b.outputs, strict=True):
            self.left("a result", x, y)

    def left(self, what: str, x: Any, y: Any) -> None:
        """Compare two things that the calls leave behind."""
        try:
            if isinstance(x, NewTensor) and isinstance(y, NewTensor):
                if x.tracked is not y.tracked:
                    raise _Differ("it is recorded in only one of the calls", True)
                self.value(x.value, y.value)
            elif isinstance(x, Slot) and isinstance(y, Slot):
                self.value(x.before, y.before)
            else:
                self.tree(x, y)
        except _Differ as differ:
            raise _Differ(f"{what}: {differ}", differ.again, differ.aliased) from None


def _tensor(held: Any) -> Any:
    return held.tensor if isinstance(held, StateBox) else held


def _changed(capture: Capture) -> dict[Slot, Value]:
    return {c: c.after for c in capture.slots if c.after is not c.before}


def held_apart(x: Any, y: Any) -> bool:
    """Say whether two arrays from outside are the same one, or hold the same: such an array is read at each call."""
    return x.array is y.array or equal(x.copy, y.copy)
