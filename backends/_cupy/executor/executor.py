"""Running a compiled program on CuPy: generated kernels over planned buffers, replayed as CUDA graphs.

The first calls launch the steps one by one, on a stream and from a memory pool of their own, which loads kernels and
fills caches. Then the steps are captured, in as few graphs as the calls that cannot be captured leave between them.

Some buffers of the plan are handed out: updated state stays in its buffer, which the Tensor then holds, and so do
gradients that the next call replaces. Reference counts tell whether anybody else can see such a buffer. If so, it is
left to them and the program is planned anew, with copies in its place.

No GPU has run this. The tests run it with CuPy on a stand-in for CUDA, which cannot show speed and races.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from contextlib import suppress
from functools import cache
from typing import Any

import cupy

from tapegrad._program.ir import Program
from tapegrad.backends._array import Array
from tapegrad.backends._cupy.cublas import Cublas
from tapegrad.backends._cupy.error_advice import remedy
from tapegrad.backends._cupy.executor.liveness import ALIGNED
from tapegrad.backends._cupy.executor.plan import Analysis, Plan
from tapegrad.backends._cupy.executor.reference_counts import HandedOut
from tapegrad.backends._cupy.executor.refusals import Refusals
from tapegrad.backends._cupy.executor.steps import Step

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
        self._graphs: list[Any] = []  # of each segment, None where it is not captured
        self._segments: list[list[Step]] = []
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
        """How the program is run, in words."""
        graphs = sum(graph is not None for graph in self._graphs)
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
        self._plan, self._graphs, self._segments, self._calls = None, [], [], 0
        self._states, self._gradients, self._copied, self._bound = HandedOut({}), HandedOut({}), [], {}
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._pool = cupy.cuda.MemoryPool()
        # Another array over the same memory, so that the state's own array has no holder more for it.
        self._bound = {
            k: (a.data.ptr, cupy.ndarray(a.shape, a.dtype, memptr=a.data))
            for k, a in enumerate(arrays)
            if k not in self._moving and _lies_at(a, a.data.ptr) and a.data.ptr % ALIGNED == 0
        }
        bound = {k: alias for k, (_, alias) in self._bound.items()}
        with cupy.cuda.using_allocator(self._pool.malloc):
            plan = Plan(self._analysis, self._cublas, self._refusals, self._shared, self._kept, bound)
        self._segments = segments(plan.steps)
        self._copied = [(k, mine) for k, mine in enumerate(plan.inputs) if k not in bound]
        self._plan = plan
        self._states = HandedOut({k: plan.inputs[k] for k in plan.donated})
        self._gradients = HandedOut(plan.outputs.lent)

    def _compute(self, stream: Any) -> None:
        self._calls += 1
        if self._calls > WARM_UPS and not self._graphs:
            self._states.holding(lambda: self._gradients.holding(self._capture))
        self._accepted = True
        if self._calls <= WARM_UPS:
            self._aside(stream)
            return
        for segment, graph in zip(self._segments, self._graphs, strict=True):
            if graph is not None:
                graph.launch(stream)
            else:
                _run(segment)

    def _aside(self, stream: Any) -> None:
        """Launch all steps one by one on the stream that is captured later."""
        self._stream.wait_event(stream.record())
        with self._stream, cupy.cuda.using_allocator(self._pool.malloc):
            for segment in self._segments:
                _run(segment)
        stream.wait_event(self._stream.record())

    def _capture(self) -> None:
        """Capture the segments; a step that cannot be captured is launched between the graphs from then on."""
        with self._stream, cupy.cuda.using_allocator(self._pool.malloc):
            while True:
                try:
                    self._graphs = [self._captured(s) if s[0].captured else None for s in self._segments]
                    break
                except _NotCaptured as error:
                    warnings.warn(
                        f"compile: {error.name} could not be captured in a CUDA graph and is launched by itself "
                        f"({error.__cause__})",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                    self._segments = segments(error.without(self._segments))

    def _captured(self, segment: list[Step]) -> Any:
        self._stream.begin_capture()
        step = segment[0]
        try:
            for step in segment:
                step.function(*step.args)
        except BaseException as error:
            with suppress(Exception):
                self._stream.end_capture()  # the stream must be left as it was
            if isinstance(error, cupy.cuda.memory.OutOfMemoryError) or not isinstance(error, Exception):
                raise  # nothing has been computed: the next call captures
            raise _NotCaptured(segment, step) from error
        try:
            return self._stream.end_capture()
        except Exception as error:
            raise _NotCaptured(segment, None) from error


class _NotCaptured(Exception):
    """A step of a segment cannot be captured; step: None where CUDA does not say which."""

    def __init__(self, segment: list[Step], step: Step | None) -> None:
        self.segment, self.step = segment, step
        self.name = "a step" if step is None else step.name

    def without(self, pieces: list[list[Step]]) -> list[Step]:
        """Return all steps, with those that failed marked as not to be captured."""
        failed = self.segment if self.step is None else [self.step]
        marked = {id(step) for step in failed}
        return [step._replace(captured=False) if id(step) in marked else step for piece in pieces for step in piece]


def _lies_at(array: Array, address: int) -> bool:
    """Say whether an array lies at an address, its elements in row-major order."""
    return bool(array.data.ptr == address and array.flags.c_contiguous)


def segments(steps: list[Step]) -> list[list[Step]]:
    """Return steps in pieces that are captured, or not, as a whole."""
    pieces: list[list[Step]] = []
    for step in steps:
        if pieces and pieces[-1][0].captured is step.captured:
            pieces[-1].append(step)
        else:
            pieces.append([step])
    return pieces


def _run(segment: list[Step]) -> None:
    for step in segment:
        step.function(*step.args)
