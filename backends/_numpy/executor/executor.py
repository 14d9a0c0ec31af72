"""Running a compiled program on NumPy: a list of calls into buffers that are planned once.

Arrays that stay the same objects are in the calls from the start; for those that may change from call to call (inputs,
outputs, which are fresh each time) the calls that read them are made anew when they do. A state array that the program
updates is written in place, in a buffer that this executor owns and nobody else can see.
"""

from __future__ import annotations

from sys import getrefcount
from typing import Any

import numpy as np

from tapegrad.backends._array import Array
from tapegrad.backends._numpy.executor import blas
from tapegrad.backends._numpy.executor.buffers import Ref, actual, empty
from tapegrad.backends._numpy.executor.emit import Planner
from tapegrad.backends._numpy.executor.threads import run_code, thread_count


class _Output:
    """An output that gets an array that nobody else holds at each call.

    latest, before: its arrays of the last call and the one before; count: references to the latest that are ours.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        self.latest: Any = None
        self.before: Any = None
        self.count = 0

    def references(self) -> int:
        """Return how many references there are to the latest array, or a view of it."""
        a = self.latest
        return getrefcount(a) + getrefcount(a.base)


def _unheld() -> int:
    out = _Output(None)
    out.latest = empty((), np.dtype(bool))
    return out.references()


UNHELD = _unheld()  # references to an array that nobody else holds


class Executor:
    """Runs a program; called with the arrays of its inputs."""

    how = "calls into planned buffers"

    def __init__(self, program: Any, threads: int | None = None) -> None:
        self.program = program
        self.plan = plan = Planner(program, thread_count(threads))
        self.code = plan.code
        self.inputs = program.inputs
        self.bound: list[Any] = [None] * len(self.inputs)
        self.owned: dict[int, int] = {k: -1 for k, v in enumerate(self.inputs) if v in plan.donated}
        self.volatile: set[int] = set()
        self.outputs = [plan.array(v) for v in program.outputs]
        self.lends = plan.refuses_first  # whether it may write over `lent`
        self.lent: Any = ()  # identities of earlier outputs that one more holds, who lets go of them with this call
        self.fresh = [_Output(v) for v in plan.fresh]
        for out in self.fresh:
            self._renew(out)
        self.nbytes = plan.pool.nbytes  # of the planned buffers: what a run needs beyond inputs and outputs

    def run(self, arrays: list[Array]) -> list[Array]:
        """Return the outputs for these inputs; updated state is written where it is, if nobody else can see it."""
        bound = self.bound
        for k, count in self.owned.items():
            a: Any = arrays[k]
            if a is not bound[k] or getrefcount(a) + getrefcount(a.base) != count:
                arrays[k] = self._own(k, arrays[k])
        for k, a in enumerate(arrays):
            if a is not bound[k] or k in self.volatile:
                self._bind(self.inputs[k], a, k)
                bound[k] = a
        for out in self.fresh:
            a = out.latest
            if getrefcount(a) + getrefcount(a.base) - (id(a) in self.lent) != out.count:
                self._renew(out)
        a = None
        self.plan.accepted = not self.plan.effects
        if self.plan.threaded and self.plan.splits:
            with blas.held():
                run_code(self.code)
        else:
            run_code(self.code)
        return [_handed_out(out) if type(out) is Ref else out for out in self.outputs]

    def refused(self) -> bool:
        """Say whether a run that raised an error did so before it wrote to an output."""
        return not self.plan.accepted

    def _renew(self, out: _Output) -> None:
        """Have an output go into another array, as somebody holds the latest: the one before, or a new one.

        Most users let go of those, and what was computed into last is in the cache; pages of memory that are new cost
        more than what is computed into them.
        """
        out.latest, out.before = out.before, out.latest
        if out.latest is None or out.references() - (id(out.latest) in self.lent) != UNHELD:
            out.latest = empty(out.value.shape, out.value.dtype)
        self._bind(out.value, out.latest)
        out.count = out.references()

    def _own(self, k: int, array: Array) -> Array:
        """Return a copy of a state array that only this executor and the Tensor will hold."""
        copy = empty(array.shape, array.dtype)
        np.copyto(copy, array)
        self._bind(self.inputs[k], copy, k)
        self.bound[k] = copy
        self.owned[k] = getrefcount(copy) + getrefcount(copy.base) + 2  # the Tensor, and a list of what it is run with
        return copy

    def _bind(self, root: Any, array: Array, k: int = -1) -> None:
        plan = self.plan
        for ref in plan.refs[root]:
            if ref.parent is None:
                ref.array = array
            else:
                ref.array = ref.function(ref.parent.array)
                if k >= 0 and ref.array.size and not np.may_share_memory(ref.array, array):
                    self.volatile.add(k)  # a copy, not a view: stale when the array is written
        for code, i, function, args in plan.uses.get(root, ()):
            code[i] = function, actual(args)


def _handed_out(out: Ref) -> Array:
    """Return an output; of a view a new one, which holds on to what it is a view of as long as somebody has it."""
    return out.array if out.parent is None else out.array[...]
