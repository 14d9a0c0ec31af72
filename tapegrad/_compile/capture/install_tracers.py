"""Installation of tracers: the Tensors of a captured call hold them while it runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tapegrad._compile.capture.graph import Graph, Tracer
from tapegrad._compile.capture.remove_tracers import remove_tracer
from tapegrad._compile.capture.slots import Slot, SlotGuard, record_kind
from tapegrad._engine.dispatch import CaptureError, find_backend
from tapegrad._engine.record import LEAF, RELEASED
from tapegrad._engine.tensor import Tensor
from tapegrad._program.ir import Value


class Tracers:
    """The Tensors and raw arguments of a call that tracers stand for, in a graph.

    slots: (Tensor, its slot) by identity; guards: conditions on these at a call, by the same; raw: the values of
    the leaves of the arguments that are raw arrays, by number.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.slots: dict[int, tuple[Tensor, Slot]] = {}
        self.guards: dict[int, SlotGuard] = {}
        self.raw: dict[int, Value] = {}

    def arguments(self, leaves: list[Any]) -> list[Any]:
        """Lift the leaves of the arguments; return those for the function, raw ones as they are if tentative."""
        given = list(leaves)
        for i, x in enumerate(leaves):
            if isinstance(x, Tensor):
                if not self.graph.tentative or can_be_lifted(x):
                    self.add(x).arguments += (i,)
                continue
            backend = find_backend(x)
            if backend is None or backend.as_scalar(x) is not None:
                continue
            if self.graph.tentative:
                self.raw[i] = self.graph.keep_apart(x)
            else:
                given[i] = self.graph.input(x)
                self.raw[i] = given[i].value
                self.graph.foreign.add(self.raw[i])
        return given

    def add(self, x: Tensor) -> Slot:
        """Lift a Tensor, and its gradient; return its slot."""
        if id(x) in self.slots:
            return self.slots[id(x)][1]
        if not can_be_lifted(x):
            assert x._record is not None
            raise CaptureError(
                f"a Tensor from outside, a result of {x._record.op.name}, is recorded: a compiled function walks no "
                "tape that began outside; pass it detached, as in x.detach(), or compute it inside"
            )
        a = x._array
        held = self.graph.input(a)
        slot = Slot(x, held.value)
        self.slots[id(x)] = x, slot
        x._array = held
        g = None if x.grad is None or (self.graph.tentative and not can_be_lifted(x.grad)) else self.add(x.grad)
        if g is not None:
            g.owners += (slot,)
        self.guards[id(x)] = SlotGuard(slot, g, record_kind(x._record), a.shape, a.dtype, type(a))
        return slot

    def reached(self, tensors: Iterable[Tensor]) -> None:
        """Lift Tensors that a function may use, except those that cannot be lifted."""
        for x in tensors:
            if can_be_lifted(x):
                self.add(x)

    def remove(self) -> None:
        """Give the Tensors their contents, as an eager call would leave them."""
        for x, slot in self.slots.values():
            slot.after = remove_tracer(x) or slot.before

    def line_of(self, x: Tensor) -> str:
        """Return " at file:line" of the operation that gave a Tensor its value, "" if none did."""
        node = x._array.value.node if isinstance(x._array, Tracer) else None
        return "" if node is None else f" at {node.line}"

    def value_of(self, y: Any) -> Value | None:
        """Return the value that a raw result stands for, None for any other object."""
        if isinstance(y, Tracer):
            return y.value
        found = self.graph.apart.get(id(y))
        return None if found is None else found[1]


def can_be_lifted(x: Tensor) -> bool:
    """Say whether a Tensor from outside begins no tape that the function could walk on."""
    r = x._record
    return r is None or r.op is LEAF or r.saved is RELEASED
