"""Completion of reductions over blocks: kernels leave partial results, which later launches combine, many at once.

A kernel whose sums go over several blocks writes one partial result for each block. They are combined

- before the first group that reads such a sum, or the memory that it lies in;
- when the sum itself has its last use, or at the end of the program;
- when partial results take too much memory.

Until then they wait, so that one launch completes those of many kernels:

    flat  a, partial sum s          flat  a, partial sum s
    flat  b, partial sum t    ->    flat  b, partial sum t
    call  c = f(s)                  complete s, t
                                    call  c = f(s)
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from tapegrad._program.ir import Value
from tapegrad.backends._array import Array
from tapegrad.backends._cupy.codegen import final_reductions
from tapegrad.backends._cupy.codegen.final_reductions import Finish
from tapegrad.backends._cupy.executor.kernel_groups import KernelGroup, reads_of
from tapegrad.backends._cupy.executor.liveness import Liveness
from tapegrad.backends._cupy.executor.placement import Placement
from tapegrad.backends._cupy.executor.steps import Steps

HELD = 32 << 20  # bytes of partial results that wait to be completed together


class Pending(NamedTuple):
    """A reduction to complete, the array of its result, and that of its partial results."""

    finish: Finish
    result: Array
    partials: Array


class PendingReductions:
    """Reductions that wait to be completed; guarded: results that are state, written only if no call was refused."""

    def __init__(self, steps: Steps, placement: Placement, liveness: Liveness, guarded: Container[Value]) -> None:
        self._steps, self._placement, self._liveness, self._guarded = steps, placement, liveness, guarded
        self._pending: list[Pending] = []
        self._buffers: list[Array] = []

    def add(self, finishes: list[Finish], partials: list[Array], buffers: list[Array]) -> None:
        """Have reductions wait, whose partial results lie in arrays of some buffers."""
        self._buffers += buffers
        target = self._placement.target
        self._pending += [Pending(f, target(f.out), p) for f, p in zip(finishes, partials, strict=True)]
        # Waiting costs memory: a limit keeps the peak of a program with many large sums low.
        if sum(b.nbytes for b in self._buffers) > HELD:
            self.complete()

    def complete(self) -> None:
        """Complete the reductions of the kernels so far, by one launch for each size of blocks."""
        pending, self._pending = self._pending, []
        # Reductions of few rows take small blocks, those of many large ones: one launch has one size.
        for block in dict.fromkeys(p.finish.block for p in pending):
            alike = [p for p in pending if p.finish.block == block]
            for n in range(0, len(alike), final_reductions.MOST):
                part = alike[n : n + final_reductions.MOST]
                args = tuple(a for p in part for a in (p.result, p.partials))
                guarded = any(p.finish.out in self._guarded for p in part)
                text, grid = final_reductions.kernel("@", [p.finish for p in part])
                self._steps.launch("partial results", text, (grid,), block, args, guarded)
        self._placement.give(self._buffers)
        self._buffers = []

    def before(self, group: KernelGroup) -> None:
        """Complete the reductions if a group reads one of them."""
        # Roots, since a group may read a sum by a view, or write into memory that it shares.
        waited = {self._liveness.root(p.finish.out) for p in self._pending}
        if waited and any(self._liveness.root(v) in waited for v in reads_of(group)):
            self.complete()

    def after(self, i: int) -> None:
        """Complete the reductions if one of them has its last use in group number `i`, or none."""
        # Its buffer is free from here on: it must be written before another value takes it.
        last = self._liveness.last
        if any(last.get(self._liveness.root(p.finish.out), i) <= i for p in self._pending):
            self.complete()
