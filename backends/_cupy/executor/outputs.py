"""Outputs of a plan: updated state, gradients that are lent, and arrays that are copied to their owner at each call.

output            its array after a call
w' (state)        the buffer of w, which the Tensor holds already: nothing to do
w.grad            a buffer of the plan that is lent, as the next call replaces the gradient
loss (result)     a new array, copied from a buffer of the plan; one launch copies all of them
"""

from __future__ import annotations

from typing import NamedTuple

import cupy

from tapegrad._program.ir import Program
from tapegrad.backends._array import Array
from tapegrad.backends._cupy.codegen import copy_kernels
from tapegrad.backends._cupy.executor.steps import Steps


class Copies(NamedTuple):
    """A kernel that copies outputs to their owners.

    places: those of the outputs; sources: for each its array and, for state that a refused call leaves as it was, the
    old one.
    """

    kernel: str
    grid: tuple[int, ...]
    places: list[int]
    sources: list[list[Array]]


class Outputs:
    """The outputs of a plan, in three parts: those in `state`, `lent` and `fresh`.

    state: places of outputs that are written over inputs; alone: places of outputs whose buffer nothing else uses;
    kept: places of gradients that somebody keeps. lent: gradients that are handed out as they are, by place, since the
    next call may write over them; fresh: (place, array) of outputs that are copied.
    """

    def __init__(
        self,
        program: Program,
        steps: Steps,
        inputs: list[Array],
        arrays: list[Array],
        state: set[int],
        alone: set[int],
        kept: frozenset[int],
    ) -> None:
        self._steps = steps
        if any(not step.captured for step in steps.steps):  # which may raise when earlier gradients are written over
            alone = set()
        # A gradient is lent if its buffer is its own, and if nobody kept an earlier one.
        self.lent = {p: arrays[p] for p in sorted(program.gradients & alone - kept - state)}
        # The others are copied after the graph: a graph's pointers cannot change from call to call.
        self.fresh = [(p, a) for p, a in enumerate(arrays) if p not in self.lent and p not in state]
        old = {p: inputs[k] for p, k in enumerate(program.replaces) if k is not None}
        # One kernel for up to 32 outputs, whatever their sizes.
        filled = [(p, a) for p, a in self.fresh if a.size]
        widest = copy_kernels.WIDEST
        self._copies = [self._copied(filled[n : n + widest], old) for n in range(0, len(filled), widest)]

    def _copied(self, part: list[tuple[int, Array]], old: dict[int, Array]) -> Copies:
        """Return the kernel that copies some outputs; old: the state that an output replaces."""
        forms: list[copy_kernels.Copy] = []
        arrays: list[list[Array]] = []
        # State that is not donated: after a refusal its owner gets the old elements.
        for p, a in part:
            guarded = self._steps.refused is not None and p in old
            sources = [a, old[p]] if guarded else [a]
            word = copy_kernels.word(a.nbytes, *(s.data.ptr for s in sources))
            forms.append(copy_kernels.Copy(a.nbytes, word, guarded))
            arrays.append(sources)
        refused = any(form.guarded for form in forms)
        source, grid = copy_kernels.kernel("@", forms, refused)
        return Copies(self._steps.kernel(source), grid, [p for p, _ in part], arrays)

    def new(self) -> dict[int, Array]:
        """Return arrays for the outputs that belong to the caller, by place; made before anything is computed."""
        return {p: cupy.empty(a.shape, a.dtype) for p, a in self.fresh}

    def copy(self, new: dict[int, Array]) -> None:
        """Copy the outputs to the arrays of `new`."""
        for name, grid, places, arrays in self._copies:
            args = [a for p, sources in zip(places, arrays, strict=True) for a in (new[p], *sources)]
            if any(len(sources) > 1 for sources in arrays):
                assert self._steps.refused is not None
                args.append(self._steps.refused.stop)
            self._steps.functions[name](grid, (copy_kernels.THREADS,), tuple(args))


def commit(steps: Steps, pairs: list[tuple[Array, Array]]) -> None:
    """Copy arrays (to, from) at the end of the graph, unless the call has been refused."""
    for n in range(0, len(pairs), copy_kernels.WIDEST):
        part = pairs[n : n + copy_kernels.WIDEST]
        forms = [copy_kernels.Copy(a.nbytes, copy_kernels.word(a.nbytes, a.data.ptr, b.data.ptr)) for a, b in part]
        source, grid = copy_kernels.kernel("@", forms, False)
        steps.launch("commit", source, grid, copy_kernels.THREADS, tuple(a for pair in part for a in pair), True)
