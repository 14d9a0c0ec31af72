"""Plan of a program: its kernel groups as steps over buffers, made once and run many times.

1. Partition the nodes into kernel groups (`partition`).
2. Find which memory each value lies in, and how long that is needed (`liveness`).
3. Find the outputs that are written over state (`donation`).
4. Go through the groups in order: place their results (`placement`), add their launches (`fused_kernels`,
   `library_calls`), complete reductions over blocks when they are wanted (`pending_reductions`), free dead buffers.
5. Copy new state that could not be written in place, and sort the outputs (`outputs`).
6. Compile all kernels as one module (`steps`).

A program that updates the state `w`, and the steps that it becomes:

    h = matmul(x, w)            matmul               by cuBLAS, into buffer A
    p = exp(h)                  exp sum              one kernel: p into B, partial sums of t into C
    t = sum(p)
    x2 = matrix_transpose(x)                         no step: a view
    g = matmul(x2, p)           matmul               into A, as h is dead
    w_new = w - 0.1 * g         multiply subtract    over w, as nothing that may fail comes after
                                partial results      completes t
"""

from __future__ import annotations

from collections.abc import Callable

import cupy

from tapegrad._program.ir import Program, Value
from tapegrad.backends._array import Array
from tapegrad.backends._cupy.codegen.flat_kernels import Numbers
from tapegrad.backends._cupy.cublas import Cublas
from tapegrad.backends._cupy.executor.donation import donations
from tapegrad.backends._cupy.executor.fused_kernels import FusedKernels
from tapegrad.backends._cupy.executor.kernel_groups import CallGroup
from tapegrad.backends._cupy.executor.library_calls import LibraryCalls
from tapegrad.backends._cupy.executor.liveness import Liveness
from tapegrad.backends._cupy.executor.outputs import Outputs, commit
from tapegrad.backends._cupy.executor.partition import groups_of
from tapegrad.backends._cupy.executor.pending_reductions import PendingReductions
from tapegrad.backends._cupy.executor.placement import Placement, is_contiguous
from tapegrad.backends._cupy.executor.refusals import Refusals
from tapegrad.backends._cupy.executor.steps import Step, Steps


class Analysis:
    """A program in kernel groups, and facts about its constants: all that stays the same when it is planned anew."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.number = Numbers()
        self._counts: dict[Value, bool] = {}
        self.groups = groups_of(program, self.number)
        # Refusals are numbered in the order of the program: the first one that holds is raised.
        refused = [n for group in self.groups for n in group.all() if n.effect]
        self.errors: list[Callable[[], Exception]] = [n.args[1] for n in refused]

    def counts(self, v: Value) -> bool:
        """Say whether a value is the constant 0, 1, 2 and so on."""
        if v.constant is None or len(v.shape) != 1 or v.dtype.kind not in "iu":
            return False
        # A kernel computes such a constant from the number of the element instead of loading it.
        if v not in self._counts:
            self._counts[v] = bool((v.constant == cupy.arange(v.size)).all())
        return self._counts[v]


class Plan:
    """The steps of a program, and the arrays that go in and out.

    cublas: makes cuBLAS at first use; refused: the refusals of the program, if it has any; shared: numbers of inputs
    that may not be updated in place; kept: places of gradients that somebody keeps; bound: inputs that are read where
    they are. donated: number of an input -> place of the output that replaces it; overwritten: new state -> the state
    that it is written over.
    """

    def __init__(
        self,
        analysis: Analysis,
        cublas: Callable[[], Cublas],
        refused: Refusals | None,
        shared: frozenset[int],
        kept: frozenset[int],
        bound: dict[int, Array],
    ) -> None:
        self.program = program = analysis.program
        self.groups = groups = analysis.groups
        # Analysis: which memory, how long, and which of it may be the state's own.
        liveness = Liveness(program, groups)
        self._steps = steps = Steps(refused)
        self._placement = placement = Placement(program, liveness, bound)
        self.inputs = placement.inputs
        # State first: its new values have their places before any group asks for one.
        in_place, committed = donations(program, groups, liveness, shared)
        self.donated = {**in_place, **committed}
        self.overwritten = {program.outputs[place]: program.inputs[k] for k, place in in_place.items()}
        for k, place in in_place.items():
            placement.set(program.outputs[place], self.inputs[k])
        # Emission: each of these adds its steps, in the order of the groups.
        pending = PendingReductions(steps, placement, liveness, self.overwritten)
        fused = FusedKernels(steps, placement, pending, self.overwritten, analysis.number, analysis.counts)
        calls = LibraryCalls(steps, placement, liveness, analysis.number, cublas)
        # A group's operands are complete before it, and buffers are freed behind it: never while it runs.
        for i, group in enumerate(groups):
            pending.before(group)
            if isinstance(group, CallGroup):
                calls.add(group.node, len(groups))
            else:
                fused.add(group)
            pending.after(i)
            placement.release(i)
        pending.complete()
        # Outputs: state that could not be written in place is copied last, when nothing can fail any more.
        arrays = [self._in_order(v) for v in program.outputs]
        commit(steps, [(self.inputs[k], arrays[place]) for k, place in committed.items()])
        # An output that shares its buffer with no other one may be handed out as it is.
        roots = [liveness.root(v) for v in program.outputs]
        alone = {p for p, root in enumerate(roots) if roots.count(root) == 1 and placement.has_buffer(root)}
        state = set(self.donated.values())
        self.outputs = Outputs(program, steps, self.inputs, arrays, state, alone, kept)
        steps.load()

    @property
    def steps(self) -> list[Step]:
        """The steps in order."""
        return self._steps.steps

    @property
    def source(self) -> str:
        """The text of all kernels."""
        return self._steps.source

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers for results."""
        return self._placement.nbytes

    def _in_order(self, v: Value) -> Array:
        """Return the array of an output, with its elements in row-major order."""
        a = self._placement.array(v)
        if is_contiguous(a):
            return a
        copy = cupy.empty(a.shape, a.dtype)
        self._steps.copy(copy, a)
        return copy
