"""Effects of a replayed call, the same as of an eager one: updated state, gradients, results."""

from __future__ import annotations

from typing import Any

from tapegrad._compile.capture.captured_call import Capture
from tapegrad._compile.capture.effects import own
from tapegrad._compile.capture.slots import NewTensor, Slot
from tapegrad._engine.record import RELEASED, Operation, Record, next_seq
from tapegrad._engine.rules import new
from tapegrad._engine.tensor import Tensor
from tapegrad._program.ir import Value

COMPILED = Operation("compiled")


class Effects:
    """Puts the outputs of a program where the captured call put them.

    number: of each slot among the Tensors of a call; places: of each value among the program's outputs; renewed: the
    numbers of those whose gradient is another Tensor after each call.
    """

    def __init__(self, capture: Capture, number: dict[Slot, int], places: dict[Value, int]) -> None:
        self._rebuild = capture.rebuild
        self._updated = [(n, places[c.after]) for c, n in number.items() if c.after is not c.before]
        self._made: list[tuple[int, bool]] = []  # of new Tensors: the places of their values, and whether recorded
        self._seen: dict[int, int] = {}
        self._cleared = [number[c] for c, g in capture.grads if g is None]
        self._moved = [(number[c], number[g]) for c, g in capture.grads if isinstance(g, Slot)]
        self._gradients = [(number[c], self._new(g, places)) for c, g in capture.grads if isinstance(g, NewTensor)]
        self.renewed = [n for n, _ in self._gradients]
        arguments = {v: i for i, v in capture.raw.items()}
        self._results = [self._result(y, number, places, arguments) for y in capture.outputs]

    def _new(self, y: NewTensor, places: dict[Value, int]) -> int:
        if id(y) not in self._seen:
            self._seen[id(y)] = len(self._made)
            self._made.append((places[y.value], y.tracked))
        return self._seen[id(y)]

    def _result(
        self, y: Any, number: dict[Slot, int], places: dict[Value, int], arguments: dict[Value, int]
    ) -> tuple[str, Any]:
        if isinstance(y, NewTensor):
            return "new", self._new(y, places)
        if isinstance(y, Slot):
            return "slot", number[y]
        if isinstance(y, Value):
            return ("argument", arguments[y]) if y in arguments else ("array", places[y])
        return "constant", y

    def __call__(self, leaves: list[Any], xs: list[Tensor], outs: list[Any]) -> Any:
        """Update state and gradients with the outputs of the program; return the result of the call."""
        for n, place in self._updated:
            xs[n]._array = outs[place]
        made = []
        for place, tracked in self._made:
            x: Tensor = new(Tensor)
            array = x._array = outs[place]
            if tracked:  # as after a backward pass: its graph is gone
                r: Record = new(Record)
                r.seq, r.op, r.parents, r.saved, r.tensor = next_seq(), COMPILED, (), RELEASED, None
                r.shape, r.dtype = array.shape, array.dtype
                x._record = r
            else:
                x._record = None
            made.append(x)
        for n in self._cleared:
            xs[n]._grad = None
        for n, m in self._moved:
            xs[n]._grad = xs[m]
        for n, k in self._gradients:
            xs[n]._grad = made[k]
        results: list[Any] = []
        for how, at in self._results:
            if how == "new":
                results.append(made[at])
            elif how == "slot":
                results.append(xs[at])
            elif how == "array":
                results.append(own(outs[at]))
            else:
                results.append(leaves[at] if how == "argument" else own(at))
        return self._rebuild(results)[0]
