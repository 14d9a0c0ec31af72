"""A captured call: the recorded graph, its inputs, effects, results."""

from __future__ import annotations

from typing import Any, NamedTuple

from tapegrad._compile.capture.graph import Graph
from tapegrad._compile.capture.guards import Guards
from tapegrad._compile.capture.slots import Slot, SlotGuard
from tapegrad._engine.tree import Rebuild
from tapegrad._program.ir import Value


class Capture(NamedTuple):
    """A captured call.

    slots: all Tensors used or updated; raw: the values of the argument leaves that are raw arrays; grads: slots whose
    `.grad` changes, with the Slot or NewTensor that it becomes, or None; outputs: leaves of the result (a Slot, a
    NewTensor, a Value for a raw array, or a constant), which `rebuild` puts together; guards: of slots; found: guards
    of all else that was found outside.
    """

    graph: Graph
    slots: list[Slot]
    raw: dict[int, Value]
    grads: list[tuple[Slot, Any]]
    outputs: list[Any]
    rebuild: Rebuild
    guards: list[SlotGuard]
    found: Guards
