"""Launches of the generated kernels of groups: flat kernels, row kernels, and one kernel for a batch of updates.

A flat group is one launch, with a thread for each pack of elements. A row group is one launch, with threads that share
a row. The updates of all parameters that have one form are a batch: their arrays go in a table::

    groups                                            launches
    flat: a = exp x; b = multiply a 2; t = sum b      flat_0(x, b, partial sums), then final_0(partial sums, t)
    rows: softmax of b along the last axis            rows_1(b, p)
    batch: w1 -= r g1; w2 -= r g2; w3 -= r g3         updates_2(r, table of (w, g), sizes)
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import cupy

from tapegrad._program.ir import Value
from tapegrad.backends._cupy.codegen import flat_kernels, row_kernels
from tapegrad.backends._cupy.codegen.flat_kernels import Group, Kernel, Places
from tapegrad.backends._cupy.executor.kernel_groups import FlatGroup, RowGroup, UpdateBatch
from tapegrad.backends._cupy.executor.pending_reductions import PendingReductions
from tapegrad.backends._cupy.executor.placement import Placement
from tapegrad.backends._cupy.executor.steps import Steps


class FusedKernels:
    """Adds the launches of groups to the steps.

    number, counts: facts about constants, see `Places`; overwritten: new state -> the state that it is written over.
    """

    def __init__(
        self,
        steps: Steps,
        placement: Placement,
        pending: PendingReductions,
        overwritten: dict[Value, Value],
        number: Callable[[Value], Any],
        counts: Callable[[Value], bool],
    ) -> None:
        self._steps, self._placement, self._pending, self._overwritten = steps, placement, pending, overwritten
        self._places = Places(placement.layout, number, counts)

    def add(self, group: FlatGroup | RowGroup | UpdateBatch) -> None:
        """Add the launches of a group."""
        for v in group.outs:
            self._placement.target(v)  # the text of a kernel depends on where its results lie
        if isinstance(group, FlatGroup):
            self._flat(group)
        elif isinstance(group, UpdateBatch):
            self._batch(group)
        else:
            kernel = row_kernels.kernel("@", group.rows, self._places, self._early(group.outs))
            self._launch(_operations(group), kernel)

    def _early(self, outs: Collection[Value]) -> set[Value]:
        """Return the state that results are written over: a thread reads it before it writes."""
        return {self._overwritten[v] for v in outs if v in self._overwritten}

    def _flat(self, group: FlatGroup) -> None:
        # Results of reductions are written when they are completed, not by this kernel.
        ends = {n.out for n in group.totals}
        outs = [v for v in group.outs if v not in ends]
        early = self._early(outs)
        kernel = flat_kernels.flat("@", group.shape, group.nodes, outs, self._places, group.totals, early)
        self._launch(_operations(group), kernel)

    def _batch(self, batch: UpdateBatch) -> None:
        """Add one launch for all groups of one form, whatever their sizes; a group without a form goes alone."""
        # A form is the text for one element: groups with the same text differ in sizes and addresses alone.
        forms: dict[str, list[FlatGroup]] = {}
        for flat in batch.flats:
            form = flat_kernels.form(_elements(flat), self._places)
            if form is None:
                self._flat(flat)
            else:
                forms.setdefault(form, []).append(flat)
        for flats in forms.values():
            if len(flats) == 1:
                self._flat(flats[0])
                continue
            many = flat_kernels.multi("@", [_elements(flat) for flat in flats], self._places)
            # The addresses of all arrays are in a table on the device, which is the only argument.
            table = cupy.asarray(many.table(lambda v: self._placement.array(v).data.ptr))
            kernel = many.kernel
            name = f"{len(flats)} times {_operations(flats[0])}"
            self._steps.launch(name, kernel.source, (kernel.grid,), kernel.block, (table,), True)

    def _launch(self, name: str, kernel: Kernel) -> None:
        """Add the launch of a kernel; its partial results wait to be completed."""
        # Partial results first: their buffers must not be those of results, which may die earlier.
        taken = [self._placement.take(f.shape, f.dtype) for f in kernel.unfinished]
        partials, buffers = [array for array, _ in taken], [buffer for _, buffer in taken]
        reads = [self._placement.array(v) for v in kernel.reads]
        writes = [self._placement.target(v) for v in kernel.writes]
        # A kernel that writes over state asks whether the call was refused.
        guarded = not self._overwritten.keys().isdisjoint(kernel.writes)
        args = (*reads, *writes, *partials)
        self._steps.launch(name, kernel.source, (kernel.grid,), kernel.block, args, guarded)
        self._pending.add(kernel.unfinished, partials, buffers)


def _operations(group: FlatGroup | RowGroup) -> str:
    """Return the names of the operations of a group."""
    return " ".join(n.op for n in group.all() if n.kind != "view")


def _elements(flat: FlatGroup) -> Group:
    return Group(flat.shape, flat.nodes, flat.outs)
