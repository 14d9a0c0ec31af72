"""The executor of compiled programs on CuPy: generated kernels over planned buffers, replayed as CUDA graphs.

    call 1        plan; launch the steps one by one
    call 2        launch the steps one by one: kernels are loaded, caches are filled
    call 3        capture the steps; launch the graphs
    later calls   copy the arguments in, launch the graphs, copy the outputs out
    any call      if somebody else sees a buffer that was handed out, or an input lies elsewhere: as call 1

Some buffers of the plan are handed out: updated state stays in its buffer, which the Tensor then holds, and so do
gradients that the next call replaces. Reference counts tell whether anybody else can see such a buffer. If so, it is
left to them and the program is planned anew, with copies in its place.

No GPU has run this. The tests run it with CuPy on a stand-in for CUDA, which cannot show speed and races.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

import cupy

from tapegrad._program.ir import Program
from tapegrad.backends._array import Array
from tapegrad.backends._cupy.cublas import Cublas
from tapegrad.backends._cupy.error_advice import remedy
from tapegrad.backends._cupy.executor.graphs import Graphs
from tapegrad.backends._cupy.executor.liveness import ALIGNED
from tapegrad.backends._cupy.executor.plan import Analysis, Plan
from tapegrad.backends._cupy.executor.reference_counts import HandedOut
from tapegrad.backends._cupy.executor.refusals import Refusals

WARM_UPS = 2  # calls before the one that captures
HOLDERS = 2  # references to state that stays in its buffer: the Tensor's, and that of the list of inputs


class Executor:
    """Runs a program; called with the arrays of its inputs."""

    lends = True  # gradients of an earlier call may be written over, see `lent`

    def __init__(self, program: Program) -> None:
        self.program = program
        self.lent: Collection[int] = ()  # identities of earlier gradients with one more holder, who drops them now
        self._cublas = cache(lambda: Cublas(cupy))  # a workspace of its own: graphs may run side by side
        self._last: Any = None  # the stream of the call before
        self._analysis: Analysis | None = None
        self._refusals: Refusals | None = None
        self._accepted = False
        self._plan: Plan | None = None
        self._graphs: Graphs
        self._calls = 0  # of the plan
        self._states = HandedOut({})  # by number of an input: the buffers in which that state is updated
        self._gradients = HandedOut({})  # by place of an output: the buffers of gradients
        self._bound: dict[int, tuple[int, Any]] = {}  # number of an input -> the address where it is read, and an array
        self._copied: list[tuple[int, Any]] = []  # numbers of the other inputs, and the buffers they are copied into
        self._shared: frozenset[int] = frozenset()  # numbers of state that others have seen
        self._kept: frozenset[int] = frozenset()  # places of gradients that others have kept
        # Numbers of inputs that are other arrays from call to call, so that they are copied.
        self._moving = frozenset(program.arguments) | {k for k in program.replaces if k is not None}

    @property
    def how(self) -> str:
        """The way in which the program is run, in words."""
        graphs = 0 if self._plan is None else sum(graph is not None for graph in self._graphs.graphs)
        return f"{graphs} CUDA graphs" if graphs else "generated kernels, launched one by one"

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers for results, once planned."""
        return 0 if self._plan is None else self._plan.nbytes

    def run(self, arrays: list[Array]) -> list[Array]:
        """Return the outputs for these inputs; updated state is written where it is, if nobody else can see it."""
        with cupy.cuda.Device(arrays[0].device.id if arrays else None):
            try:
                return self._run(arrays)
            except Exception as error:
                advice = remedy(error)
                if advice:
                    error.add_note(advice)
                raise

    def refused(self) -> bool:
        """Say whether a run that raised an error did so before it wrote to a gradient of an earlier one."""
        return not (self._accepted and self._gradients.arrays)

    def _run(self, arrays: list[Array]) -> list[Array]:
        self._accepted = False
        if self._refusals is not None:
            try:
                self._refusals.raise_first()  # of an earlier call
            except Exception:
                arrays.clear()  # a traceback that is kept would hold state
                raise
        if self._plan is None or self._is_seen(arrays):
            self._plan_anew(arrays)
        plan = self._plan
        assert plan is not None
        stream = cupy.cuda.get_current_stream()
        if self._last is not None and stream.ptr != self._last.ptr:
            self._last.synchronize()  # the buffers are still in use there
        self._last = stream
        new = plan.outputs.new()  # memory may run out here, but not when state has been updated
        for k, mine in self._copied:
            if arrays[k] is not mine:
                cupy.copyto(mine, arrays[k])
        self._compute(stream)
        if self._refusals is not None:
            self._refusals.launched()
        plan.outputs.copy(new)
        new.update(self._gradients.arrays)
        new.update((plan.donated[k], array) for k, array in self._states.arrays.items())
        return [new[place] for place in range(len(self.program.outputs))]

    def _is_seen(self, arrays: list[Array]) -> bool:
        """Say whether a buffer that was handed out is in use elsewhere, or an input is no longer where it was."""
        states, gradients = self._states.arrays.items(), self._gradients.arrays.values()
        shared = self._states.seen([HOLDERS if arrays[k] is a else 0 for k, a in states])
        kept = self._gradients.seen([id(a) in self.lent for a in gradients])
        moved = [k for k, (address, _) in self._bound.items() if not _lies_at(arrays[k], address)]
        self._shared |= shared
        # A caller who keeps a second gradient may keep each of them: one more plan instead of one for each.
        self._kept |= self._gradients.arrays.keys() if kept and self._kept else kept
        self._moving |= set(moved)
        return bool(shared or kept or moved)

    def _plan_anew(self, arrays: list[Array]) -> None:
        """Plan the program. If others saw buffers of an earlier plan, these are left to them."""
        if self._analysis is None:
            self._analysis = Analysis(self.program)
            if self._analysis.errors:
                self._refusals = Refusals(self._analysis.errors)
        # Drop the old plan first: its memory may be needed.
        self._plan, self._graphs, self._calls = None, Graphs(), 0
        self._states, self._gradients, self._copied, self._bound = HandedOut({}), HandedOut({}), [], {}
        # Another array over the same memory, so that the state's own array has no holder more for it.
        self._bound = {
            k: (a.data.ptr, cupy.ndarray(a.shape, a.dtype, memptr=a.data))
            for k, a in enumerate(arrays)
            if k not in self._moving and _lies_at(a, a.data.ptr) and a.data.ptr % ALIGNED == 0
        }
        bound = {k: alias for k, (_, alias) in self._bound.items()}
        with self._graphs.allocator():
            plan = Plan(self._analysis, self._cublas, self._refusals, self._shared, self._kept, bound)
        self._graphs.set_steps(plan.steps)
        self._copied = [(k, mine) for k, mine in enumerate(plan.inputs) if k not in bound]
        self._plan = plan
        self._states = HandedOut({k: plan.inputs[k] for k in plan.donated})
        self._gradients = HandedOut(plan.outputs.lent)

    def _compute(self, stream: Any) -> None:
        """Launch the steps: one by one at first, then captured."""
        self._calls += 1
        graphs = self._graphs
        if self._calls > WARM_UPS and not graphs.graphs:
            # Graphs hold the arrays of their steps: those references are the plan's own.
            self._states.holding(lambda: self._gradients.holding(graphs.capture))
        self._accepted = True
        if self._calls <= WARM_UPS:
            graphs.launch_apart(stream)
        else:
            graphs.launch(stream)


def _lies_at(array: Array, address: int) -> bool:
    """Say whether an array lies at an address, its elements in row-major order."""
    return bool(array.data.ptr == address and array.flags.c_contiguous)
