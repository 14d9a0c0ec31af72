"""Finding the Tensors from outside that a call uses; it is told of operations as an open Tape is."""

from __future__ import annotations

from typing import Any
from weakref import ref

from tapegrad._compile._program import Value
from tapegrad._compile._trace import Traced, stranger
from tapegrad._cuts import user_line
from tapegrad._record import Operation
from tapegrad._tensor import Tensor


class Found:
    """The Tensors that a first call used and did not compute itself; more than are needed do no harm."""

    def __init__(self) -> None:
        self.tensors: dict[int, Tensor] = {}
        self._made: dict[int, ref[Tensor]] = {}

    def __call__(self, operation: Operation, operands: Any, static: Any, result: Any) -> None:
        for x in operands:
            if isinstance(x, Tensor):
                self.add(x)
        for y in result if isinstance(result, tuple) else (result,):
            self._made[id(y)] = ref(y)

    def add(self, x: Tensor) -> None:
        """Note a Tensor, unless it was computed inside."""
        made = self._made.get(id(x))
        if made is None or made() is not x:
            self.tensors[id(x)] = x

    def all(self) -> list[Tensor]:
        """Return all that were noted, and the results that somebody still holds: they may be state."""
        return [*self.tensors.values(), *[x for r in self._made.values() if (x := r()) is not None]]


class Used:
    """The values of Tensors that a traced call used; raises CaptureError for a Tensor that holds no traced array."""

    def __init__(self) -> None:
        self.values: set[Value] = set()
        self.lines: dict[int, tuple[str, ref[Tensor]]] = {}  # of results

    def __call__(self, operation: Operation, operands: Any, static: Any, result: Any) -> None:
        for x in operands:
            if isinstance(x, Tensor):
                if not isinstance(x._array, Traced):
                    raise stranger()
                self.values.add(x._array.value)
        line = user_line()
        for y in result if isinstance(result, tuple) else (result,):
            self.lines[id(y)] = line, ref(y)

    def line_of(self, x: Tensor) -> str:
        """Return " at file:line" of the operation that gave a Tensor its value, "" if none did."""
        line, made = self.lines.get(id(x), ("", None))
        return f" at {line}" if made is not None and made() is x else ""
