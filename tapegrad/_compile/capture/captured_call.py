"""A captured call: the program that was recorded, its inputs, effects and results."""

from __future__ import annotations

from typing import Any, NamedTuple

from tapegrad._compile.capture.guards import Guards
from tapegrad._compile.capture.slots import Cell, SlotGuard
from tapegrad._compile.capture.tracer import Graph
from tapegrad._engine.tree import Rebuild
from tapegrad._program.ir import Value


class Capture(NamedTuple):
    """A captured call.

    cells: all Tensors used or updated; raw: the values of the argument leaves that are raw arrays; grads: (cell, what
    its `.grad` becomes: a Cell, Fresh or None), where that changes; outputs: leaves of the result (a Cell, Fresh, a
    Value for a raw array, or a constant), which `rebuild` puts together; guards: what cells must be like at a call;
    found: what else was found outside.
    """

    graph: Graph
    cells: list[Cell]
    raw: dict[int, Value]
    grads: list[tuple[Cell, Any]]
    outputs: list[Any]
    rebuild: Rebuild
    guards: list[SlotGuard]
    found: Guards
