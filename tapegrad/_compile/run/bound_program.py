"""A program bound to the state that it reads and updates: checks its guards, reads its inputs, and runs."""

from __future__ import annotations

from functools import partial
from sys import getrefcount
from typing import Any, NamedTuple, TypeVar, cast

from tapegrad._compile.capture.captured_call import Capture
from tapegrad._compile.capture.graph import Held
from tapegrad._compile.capture.guard_code import Check
from tapegrad._compile.capture.guards import Guards
from tapegrad._compile.capture.host_partition import split_by_host
from tapegrad._compile.capture.lowering import program_of
from tapegrad._compile.capture.slots import ALONE, Slot, SlotGuard, StateBox, record_kind, state_of
from tapegrad._compile.capture.trace_equivalence import Equivalence
from tapegrad._compile.plan.pipeline import planned
from tapegrad._compile.run.effects import Effects
from tapegrad._compile.states import State
from tapegrad._engine.dispatch import as_array, backend_of, computed
from tapegrad._engine.host_constants import HOST
from tapegrad._engine.record import LEAF
from tapegrad._engine.tensor import Hooks, Tensor, new
from tapegrad._program.executor import Executor, PlanningExecutor
from tapegrad._program.interpreter import PlainExecutor
from tapegrad._program.ir import Node, Program
from tapegrad._transforms.typed import ProgramView
from tapegrad.backends import Backend

ALTERNATIVES = 4  # sets of guards, for one program


class StateGuard(NamedTuple):
    """A guard of a Tensor of state, in its box; none: whether it has no gradient; the rest as in `SlotGuard`."""

    box: StateBox
    none: bool
    record: Any
    shape: tuple[int, ...]
    dtype: Any
    type: Any


class OtherGuard(NamedTuple):
    """A guard of an argument, or of a gradient, of which box is None unless it is state as well.

    argument: its number among the leaves, or -1; owner: the number of the Tensor whose gradient it is, or -1.
    """

    argument: int
    owner: int
    box: StateBox | None
    none: bool
    record: Any
    shape: tuple[int, ...]
    dtype: Any
    type: Any


GuardT = TypeVar("GuardT", StateGuard, OtherGuard)


def _plain(guards: list[GuardT]) -> list[GuardT]:
    """Return guards as plain tuples: each call unpacks all of them, which takes three times as long for named ones."""
    return cast("list[GuardT]", [tuple(g) for g in guards])


def _state_guard(g: SlotGuard) -> StateGuard:
    return StateGuard(g.slot.tensor, g.grad is None, g.record, g.shape, g.dtype, g.type)


def _other_guard(g: SlotGuard, number: dict[Slot, int]) -> OtherGuard:
    slot = g.slot
    argument = slot.arguments[0] if slot.arguments else -1
    owner = -1 if slot.arguments else number[slot.owners[0]]
    return OtherGuard(argument, owner, slot.tensor, g.grad is None, g.record, g.shape, g.dtype, g.type)


def _unseen() -> int:
    """Return the references to a gradient that only its Tensor knows, read as a replay reads them."""
    x: Any = new(Tensor)
    x._grad = new(Tensor)
    g = getattr(x, "_grad", None)
    return getrefcount(g)


UNSEEN = _unseen()


class BoundProgram:
    """A program with the slots that it reads and updates.

    run: from the raw arrays it reads to those it leaves; state: `REPLAYING`, or `ABANDONED` once a Tensor that it has
    as state is held by nobody else.
    """

    def __init__(
        self, capture: Capture, leaves: list[Any], threads: int | None = None, reassociate: bool = False
    ) -> None:
        self.capture = capture
        program, slots, self.raw, held, places = program_of(capture)
        self.held: Any = [h.array for h in held]  # of the call that was looked at last
        given = self._given(leaves)
        on_host = [n for n, a in enumerate(given) if backend_of[type(a)].prefix == HOST]
        self.program, self._stay, self._sent = split_by_host(program, len(slots), on_host)
        self._inputs = program.inputs  # before those of the host were sent to the device
        self.slots = slots
        self.view: ProgramView | None = None  # how the user sees the program, once asked for
        capture.graph.handed.clear()
        capture.graph.held = {v: h._replace(copy=h.array) for v, h in capture.graph.held.items()}  # no copies any more
        for c in capture.slots:
            if c.tensor is not None:
                c.tensor = state_of(c.tensor)
        # The place of a slot's Tensor: its box; else the first that holds of an argument, a gradient of another.
        order = sorted(capture.slots, key=lambda c: 1 if c.arguments else 2 if c.owners else 0)
        number = {c: n for n, c in enumerate(order)}
        guards = {g.slot: g for g in capture.guards}
        self._states = _plain([_state_guard(guards[c]) for c in order if not c.arguments and not c.owners])
        self._boxes = _boxes(capture)
        self._found: list[tuple[Guards, list[Held], Check]] = [
            (capture.found, held, capture.found.function(held, self._boxes))
        ]
        self.missed = ""  # a description of the guard that failed at the last call
        self._ids = frozenset([id(box.tensor) for box, *_ in self._states])
        self._others = _plain([_other_guard(guards[c], number) for c in order[len(self._states) :]])
        for box, *_ in self._states:
            box.tensor._grad = box.tensor.grad  # so that there is one to look at
        grads = [(n, guards[c].grad) for c, n in number.items()]
        self._grads_are = [(n, number[g]) for n, g in grads if g is not None and g in number]
        self._again = [(i, number[c]) for c in order for i in c.arguments[1:]]
        self.state = State.REPLAYING
        self._reads = [number[c] for c in slots]
        self.leave = Effects(capture, number, places)
        kinds = [guards[order[n]].type for n in self._reads] + [type(given[n]) for n in self._stay]
        found = {backend_of[kind] for kind in kinds} | (self._sent.backends if self._sent else set())
        made = partial(_executor, self.program, found, threads, reassociate)
        tensors = [x for x in leaves if isinstance(x, Tensor)] + [box.tensor for box, *_ in self._states]
        arrays = [x._array for x in tensors] + [leaves[i] for i in self.raw]
        self.executor: Executor = computed(lambda *_: made(), arrays[:1], {})  # planned on their device
        self.run = self.executor.run
        # Gradients that a call replaces, whose memory its own may lie in if nobody else can see it.
        guarded = {n for n, _ in self._grads_are}
        self._lender = self.executor if isinstance(self.executor, PlanningExecutor) and self.executor.lends else None
        self._passing = [n for n in self.leave.renewed if n not in guarded] if self._lender is not None else []

    def tensors(self, leaves: list[Any]) -> list[Tensor] | None:
        """Return the Tensors that the slots stand for now; None if state or arguments are not as they were captured.

        Guarded are shapes, dtypes, which Tensors require a gradient and which gradients are None, and which of these
        Tensors are the same one.
        """
        if not self._finds(leaves):
            return None
        xs: list[Any] = []
        add = xs.append
        for box, none, record, shape, dtype, kind in self._states:
            if getrefcount(box.tensor) <= ALONE:
                self.state = State.ABANDONED
                return None
            x = box.tensor
            a: Any = x._array
            r = x._record
            if (x._grad is None) is not none or type(a) is not kind or a.shape != shape:
                return None
            if a.dtype is not dtype and a.dtype != dtype:
                return None
            if r is not None and record is True:  # a leaf, as most are
                if r.op is not LEAF or type(r.tensor) is Hooks:
                    return None
            elif record_kind(r) != record:
                return None
            add(x)
        return self._with_others(leaves, xs) if self._others else xs

    def _finds(self, leaves: list[Any]) -> bool:
        """Say whether all guards hold; note the first that does not, or the raw arrays that are read."""
        for _, _, check in self._found:
            held = check(leaves)
            if type(held) is tuple:
                self.held, self.missed = held, ""
                return True
        guards, _, check = self._found[0]
        self.missed = guards.changed(check(leaves), leaves)
        abandoned = any([getrefcount(box.tensor) <= ALONE for box, *_ in self._states])
        self.state = State.ABANDONED if abandoned else State.REPLAYING
        return False

    def also_after(self, capture: Capture) -> bool:
        """Take the guards of another call as an alternative, if it did the same; say whether it did."""
        match = Equivalence(self.capture, capture)
        if outlived(self.capture) or match.difference() is not None:
            return False
        held = [capture.graph.held[match.same.get(v, v)] for v in self._inputs if v in self.capture.graph.held]
        found = capture.found, held, capture.found.function(held, self._boxes)
        self._found = [found, *self._found[: ALTERNATIVES - 1]]
        return True

    def _with_others(self, leaves: list[Any], xs: list[Any]) -> list[Tensor] | None:
        """Go on with slots that are not only state: arguments and gradients."""
        for argument, owner, box, none, record, shape, dtype, kind in self._others:
            x = leaves[argument] if argument >= 0 else xs[owner].grad
            if box is not None:
                if getrefcount(box.tensor) <= ALONE:
                    self.state = State.ABANDONED
                    return None
                if x is not box.tensor:
                    return None
            if x is None:
                return None
            a: Any = x._array
            if type(a) is not kind or a.shape != shape or a.dtype != dtype or record_kind(x._record) != record:
                return None
            if (x.grad is None) is not none:
                return None
            xs.append(x)
        for n, g in self._grads_are:
            if xs[n].grad is not xs[g]:
                return None
        for i, n in self._again:
            if leaves[i] is not xs[n]:
                return None
        others = {id(x) for x in xs[len(self._states) :]}
        return xs if len(others) == len(self._others) and others.isdisjoint(self._ids) else None

    def arrays(self, leaves: list[Any], xs: list[Tensor]) -> list[Any]:
        """Return the raw arrays that the program reads now."""
        arrays = [xs[n]._array for n in self._reads]
        if not self.raw and not self.held:
            return arrays
        given = self._given(leaves)
        arrays += [given[n] for n in self._stay]
        if self._sent is not None:
            host = self._sent.compute([given[n] for n in self._sent.reads])
            arrays += [copy(a) for copy, a in zip(self._sent.copies, host, strict=True)]
        return arrays

    def _given(self, leaves: list[Any]) -> list[Any]:
        """Return the arrays that no Tensor holds: arguments, and those from outside."""
        return [*[leaves[i] for i in self.raw], *self.held]

    def replay(self, leaves: list[Any], xs: list[Tensor], arrays: list[Any]) -> Any:
        """Run the program on the arrays that it reads; return the result of the call."""
        lender = self._lender
        if lender is None or not self._passing:
            return self.leave(leaves, xs, self.run(arrays))
        lent = []
        for n in self._passing:
            g = getattr(xs[n], "_grad", None)  # an argument may have none yet
            if g is not None and getrefcount(g) == UNSEEN:
                lent.append(n)
        g = None
        lender.lent = {id(xs[n]._grad._array) for n in lent}  # type: ignore[union-attr]
        try:
            outs = self.run(arrays)
        except BaseException:
            if not lender.refused():
                for n in lent:  # half of it may be written over
                    xs[n]._grad = None
            raise
        finally:
            lender.lent = ()
        return self.leave(leaves, xs, outs)


def _executor(program: Program[Node], found: set[Backend], threads: int | None, reassociate: bool) -> Executor:
    """Return the executor of a program: the adapter's own, if all arrays are of one library."""
    if len(found) == 1 and not any(n.op == "to_device" for n in program.nodes):
        backend = found.pop()
        return backend.executor(planned(program, backend, reassociate) if backend.plans else program, threads)
    return PlainExecutor(program, as_array)


def fits(capture: Capture, leaves: list[Any]) -> bool:
    """Say whether arguments and state are as at a captured call that has no program yet."""
    for guard in capture.guards:
        x = _known(guard.slot, leaves)
        if x is None:
            return False
        a = x._array
        found = type(a), tuple(a.shape), a.dtype, record_kind(x._record)
        if found != (guard.type, tuple(guard.shape), guard.dtype, guard.record):
            return False
        if (x.grad is None) is not (guard.grad is None):
            return False
    return True


def _known(slot: Slot, leaves: list[Any]) -> Any:
    if slot.arguments:
        return leaves[slot.arguments[0]]
    owner = _known(slot.owners[0], leaves) if slot.owners else None
    if owner is not None:
        return owner.grad
    return None if slot.tensor is None else slot.tensor.tensor


def elsewhere(capture: Capture, leaves: list[Any]) -> str:
    """Describe the change outside since a captured call, "" if there is none."""
    found = capture.found.function([], _boxes(capture))(leaves)
    return "" if type(found) is tuple else capture.found.changed(found, leaves)


def grown(capture: Capture, leaves: list[Any]) -> set[str] | None:
    """Return where containers are that have got further items, None if more than that is not as a call found it."""
    return capture.found.grown(leaves, _boxes(capture))


def _boxes(capture: Capture) -> dict[int, StateBox]:
    boxes = [
        c.tensor if type(c.tensor) is StateBox else state_of(c.tensor) for c in capture.slots if c.tensor is not None
    ]
    return {id(box.tensor): box for box in boxes}


def outlived(capture: Capture) -> bool:
    """Say whether the user has put another Tensor in the place of one that a call used."""
    for c in capture.slots:
        if c.tensor is not None and c.tensor.count() <= ALONE:
            if not c.arguments and not c.owners:
                return True
            c.tensor = None
    return False
