"""Running a compiled program on NumPy: a list of calls into buffers that are planned once.

Arrays that stay the same objects are in the calls from the start; for those that may change from call to call (inputs,
outputs, which are fresh each time) the calls that read them are made anew when they do. A state array that the program
updates is written in place, in a buffer that this executor owns and nobody else can see.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from tapegrad.backends._base import Array
from tapegrad.backends._numpy_plan import Planner
from tapegrad.backends._numpy_storage import Ref, actual
from tapegrad.backends._numpy_threads import blas_held, run_code, thread_count


def _references() -> int:
    arrays = [np.empty(1)]
    return sys.getrefcount(arrays[0])


UNHELD = _references()  # of an array that is in one list only


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
        self.spares: dict[Any, list[Array]] = {}  # outputs of the last two calls, the latest last
        self.nbytes = plan.pool.nbytes  # of the planned buffers: what a run needs beyond inputs and outputs

    def run(self, arrays: list[Array]) -> list[Array]:
        """Return the outputs for these inputs; updated state is written where it is, if nobody else can see it."""
        bound = self.bound
        for k, count in self.owned.items():
            if arrays[k] is not bound[k] or sys.getrefcount(arrays[k]) != count:
                arrays[k] = self._own(k, arrays[k])
        for k, a in enumerate(arrays):
            if a is not bound[k] or k in self.volatile:
                self._bind(self.inputs[k], a, k)
                bound[k] = a
        for v in self.plan.fresh:
            self._bind(v, self._fresh(v))
        if self.plan.threaded and self.plan.splits:
            with blas_held():
                run_code(self.code)
        else:
            run_code(self.code)
        return [out.array if type(out) is Ref else out for out in self.outputs]

    def _fresh(self, v: Any) -> Array:
        """Return an array for an output that nobody else holds: a new one, or that of the call before the last.

        Those are let go by most users, and pages of memory that are new cost more than what is computed into them.
        """
        spares = self.spares.setdefault(v, [])
        if len(spares) == 2:
            if sys.getrefcount(spares[0]) == UNHELD:
                spares.reverse()
                return spares[1]
            del spares[0]
        spares.append(np.empty(v.shape, v.dtype))
        return spares[-1]

    def _own(self, k: int, array: Array) -> Array:
        """Return a copy of a state array that only this executor and the Tensor will hold."""
        copy = np.array(array, order="C")
        holder = [copy]
        self._bind(self.inputs[k], copy, k)
        self.bound[k] = copy
        del copy
        self.owned[k] = sys.getrefcount(holder[0]) + 1  # the Tensor's
        return holder[0]

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
