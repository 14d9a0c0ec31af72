"""Replaying a captured call: reading state, running the program, and leaving behind what an eager call leaves."""

from __future__ import annotations

from typing import Any

from tapegrad._compile._capture import Capture, Cell, Fresh, program_of
from tapegrad._compile._plan import planned
from tapegrad._compile._program import Value
from tapegrad._namespace import backend_of
from tapegrad._record import RELEASED, Operation, Record, next_seq
from tapegrad._rules import new
from tapegrad._tensor import Tensor, wrap
from tapegrad.backends._replay import PlainExecutor

COMPILED = Operation("compiled")


class Replay:
    """A program with the cells it reads and updates; called with the leaves of the arguments."""

    def __init__(self, capture: Capture, leaves: list[Any], threads: int | None = None) -> None:
        self.capture = capture
        self.program, self.cells, self.raw, places = program_of(capture)
        self._guards = [
            (c, x.grad is None, x._record is None, x._array.shape, x._array.dtype, type(x._array))
            for c in dict.fromkeys((*self.cells, *(c for c, _ in capture.grads)))
            if (x := self._tensor(c, leaves)) is not None
        ]
        self._updated = [(c, places[c.after]) for c in self.cells if c.after is not c.before]
        self._grads = [(c, places[v.value] if isinstance(v, Fresh) else v, v) for c, v in capture.grads]
        self._outputs = [
            (y, places[y.value if isinstance(y, Fresh) else y] if isinstance(y, (Fresh, Value)) else -1)
            for y in capture.outputs
        ]
        self.view: Any = None  # how the user sees the program, once asked for
        self.executor = _executor(self, leaves, threads)
        self.run = self.executor.run

    def _tensor(self, cell: Cell, leaves: list[Any]) -> Any:
        if cell.argument is not None:
            return leaves[cell.argument]
        if cell.owner is not None:
            return self._tensor(cell.owner, leaves).grad
        return cell.tensor

    def fits(self, leaves: list[Any]) -> bool:
        """Say whether state is as it was when the call was captured: shapes, dtypes, which gradients are None."""
        for cell, no_grad, no_record, shape, dtype, kind in self._guards:
            x = self._tensor(cell, leaves)
            if x is None:
                return False
            a = x._array
            if (
                type(a) is not kind
                or a.shape != shape
                or a.dtype != dtype
                or (x._record is None) is not no_record
                or (x.grad is None) is not no_grad
            ):
                return False
        return True

    def arrays(self, leaves: list[Any]) -> list[Any]:
        """Return the raw arrays that the program reads now."""
        arrays = [self._tensor(c, leaves)._array for c in self.cells]
        return arrays + [leaves[i] for i in self.raw] if self.raw else arrays

    def __call__(self, leaves: list[Any]) -> Any:
        return self.leave(leaves, self.run(self.arrays(leaves)))

    def leave(self, leaves: list[Any], outs: list[Any]) -> Any:
        """Update state and gradients with what a run of the program gave; return the result of the call."""
        tensors = [self._tensor(c, leaves) for c, _ in self._updated]
        for x, (_, place) in zip(tensors, self._updated, strict=True):
            x._array = outs[place]
        made: dict[int, Tensor] = {}
        for cell, place, after in self._grads:
            owner = self._tensor(cell, leaves)
            if after is None:
                owner._grad = None
            elif isinstance(after, Cell):
                owner._grad = self._tensor(after, leaves)
            else:
                owner._grad = made[id(after)] = _fresh(after, outs[place])
        results: list[Any] = []
        for y, place in self._outputs:
            if isinstance(y, Fresh):
                if id(y) not in made:
                    made[id(y)] = _fresh(y, outs[place])
                results.append(made[id(y)])
            elif isinstance(y, Cell):
                results.append(self._tensor(y, leaves))
            else:
                results.append(outs[place] if place >= 0 else y)
        return self.capture.rebuild(results)


def _fresh(made: Fresh, array: Any) -> Tensor:
    x = wrap(array)
    if made.tracked:  # as after a backward pass: what it was computed from is gone
        r: Record = new(Record)
        r.seq, r.op, r.parents, r.saved, r.tensor = next_seq(), COMPILED, (), RELEASED, None
        r.shape, r.dtype = array.shape, array.dtype
        x._record = r
    return x


def _executor(replay: Replay, leaves: list[Any], threads: int | None) -> Any:
    """Return what runs the program: the adapter's own executor, if all arrays are of one library."""
    found = {backend_of[type(a)] for a in replay.arrays(leaves)}
    if len(found) == 1 and not any(n.op == "to_device" for n in replay.program.nodes):
        backend = found.pop()
        return backend.executor(planned(replay.program, backend.as_array) if backend.plans else replay.program, threads)
    return PlainExecutor(replay.program, lambda result: backend_of[type(result)].as_array(result))
