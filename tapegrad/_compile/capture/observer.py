"""Observers of a captured call: they note the Tensors that it uses, and are told of operations as a Tape is."""

from __future__ import annotations

from typing import Any
from weakref import ref

from tapegrad._compile.capture.errors import unknown_tensor
from tapegrad._compile.capture.graph import Graph, Tracer
from tapegrad._engine.primitive import PICK
from tapegrad._engine.record import RELEASED, Operation, Record
from tapegrad._engine.tensor import Tensor
from tapegrad._program.ir import Value


class Observer:
    """The values of Tensors that a call used; raises CaptureError for a Tensor that holds no tracer."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.values: set[Value] = set()

    def __call__(self, operation: Operation, operands: Any, static: Any, result: Any) -> None:
        if not self.graph.ended:
            self.note(operands, result)

    def note(self, operands: Any, result: Any) -> None:
        """Note an operation."""
        for x in operands:
            if type(x) is Tensor:
                if not isinstance(x._array, Tracer):
                    self.unknown(x)
                self.values.add(x._array.value)

    def unknown(self, x: Tensor) -> None:
        """Raise for a Tensor that nobody knew of."""
        raise unknown_tensor()


class TentativeObserver(Observer):
    """The same for a tentative call: Tensors that nobody knew of are lifted when they are seen.

    What is computed with them before they are lifted holds raw arrays, and is lifted after. tensors: all operands and
    results by identity, held weakly; unknown_tensors: the identities of those that nobody knew of.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.tensors: dict[int, ref[Tensor]] = {}
        self.unknown_tensors: list[int] = []

    def note(self, operands: Any, result: Any) -> None:
        """Note an operation, and lift the raw arrays that it used or made."""
        before = len(self.unknown_tensors)
        super().note(operands, result)
        for y in result if type(result) is tuple else (result,):
            if not isinstance(y._array, Tracer):
                y._array = self.graph.input(y._array)
            if len(self.unknown_tensors) > before and y._record is not None:
                self.saved_by(y._record)
            self.tensors[id(y)] = ref(y)
        for x in operands:
            if type(x) is Tensor:
                self.tensors[id(x)] = ref(x)

    def alive(self) -> list[Tensor]:
        """Return the Tensors that are still there."""
        return [x for r in self.tensors.values() if (x := r()) is not None]

    def saved_by(self, record: Record) -> None:
        """Lift the arrays that a record saved, so that its rules compute with tracers only."""
        for r in (record, *record.parents[:1]) if record.op is PICK else (record,):
            if r is not None and r.saved is not RELEASED:
                r.saved = self.graph.lifted(r.saved)

    def unknown(self, x: Tensor) -> None:
        """Lift a Tensor that nobody knew of."""
        self.graph.give_up(unknown_tensor)
        x._array = self.graph.input(x._array)
        self.unknown_tensors.append(id(x))
