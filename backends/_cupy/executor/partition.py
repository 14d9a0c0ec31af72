"""Partition of a program into kernel groups: the fusion of nodes into launches.

1. A chain of additions of slices to zeros becomes one concatenation (see `slice_joins`).
2. Each item of the program becomes a group. A run over rows is one row kernel if it can be; else its nodes stand alone.
   Nodes that no generated kernel can compute become calls.
3. Groups that only compute new values of state move to the end: there nothing can fail any more.
4. Elementwise groups of one size are fused, vertically (one reads the other) and horizontally (they share operands).
5. The updates of step 3 become one batch: one launch computes all that have one form, whatever their sizes.

A step of gradient descent, before and after; `w` is state, and the shapes differ:

    h = matmul(x, w)              call   h
    a = multiply(h, h)            flat   a, b        one kernel: a stays in a register
    b = add(a, 1)                 call   g
    g = matmul(x.T, b)            flat   w_new       moved behind all that may raise
    w_new = subtract(w, g)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapegrad._program.ir import Node, Program, Run, Value
from tapegrad._program.queries import is_total, reduction_axes
from tapegrad.backends._cupy.codegen import flat_kernels
from tapegrad.backends._cupy.codegen.row_schedule import RowSchedule
from tapegrad.backends._cupy.executor.kernel_groups import (
    CallGroup,
    FlatGroup,
    KernelGroup,
    RowGroup,
    UpdateBatch,
    reads_of,
    results_of,
)
from tapegrad.backends._cupy.executor.nodes import is_whole_write
from tapegrad.backends._cupy.executor.slice_joins import joins_of

WIDEST = 40  # values of one kernel
NEAR = 8  # kernels that are asked whether an operation may join them

NumberOf = Callable[[Value], Any]  # the Python number that a value is everywhere, or None


def groups_of(program: Program, number: NumberOf) -> list[KernelGroup]:
    """Return the kernel groups of a program, in an order in which they can be launched."""
    groups: list[KernelGroup] = []
    joins = joins_of(program, number)
    for item in program.items:
        if isinstance(item, Run):
            groups += _of_run(item, number)
        elif item in joins:
            join = joins[item]
            groups += [] if join is None else [CallGroup(join)]
        else:  # stacks, folds and scans are the NumPy executor's: here their nodes are launched one by one
            groups += [_of_node(n, number) for n in ([item] if isinstance(item, Node) else item.nodes)]
    waited, updates = _parted(program, groups)
    batch: list[KernelGroup] = [UpdateBatch(updates)] if len(updates) > 1 else [*updates]
    groups = [*_fused(waited), *batch]
    _note_outs(groups, program.outputs)
    return groups


def _note_outs(groups: list[KernelGroup], outputs: list[Value]) -> None:
    """Note which results of each group others read. Backwards: `read` holds the values that later groups read."""
    read = set(outputs)
    for group in reversed(groups):
        if isinstance(group, CallGroup):
            read.update(group.node.reads)
            continue
        for part in group.flats if isinstance(group, UpdateBatch) else (group,):
            part.outs[:] = [v for v in results_of(part) if v in read]
        if isinstance(group, UpdateBatch):
            group.outs[:] = [v for flat in group.flats for v in flat.outs]
        made = set(results_of(group))
        read.update(v for v in reads_of(group) if v not in made)


def _parted(program: Program, groups: list[KernelGroup]) -> tuple[list[KernelGroup], list[FlatGroup]]:
    """Return the groups that others wait for, and the elementwise ones that only compute new values of state."""
    state = {v for v, number in zip(program.outputs, program.replaces, strict=True) if number is not None}
    made = [set(results_of(group)) for group in groups]
    read = {v for group, own in zip(groups, made, strict=True) for v in reads_of(group) if v not in own}
    waited: list[KernelGroup] = []
    updates: list[FlatGroup] = []
    for group, own in zip(groups, made, strict=True):
        # Nobody reads an update, so that it may move behind everything else.
        last = not own.isdisjoint(state) and own.isdisjoint(read)
        if isinstance(group, FlatGroup) and not group.totals and last:
            updates.append(group)
        else:
            waited.append(group)
    return waited, updates


# -- items --------------------------------------------------------------------------------------------------


def _of_run(run: Run, number: NumberOf) -> list[KernelGroup]:
    """Return the groups of a run over rows: one kernel, or one and sums of columns, or each node by itself."""
    # Views of operands are no work of the kernel, which reads any strides: they come before it.
    made = {v for n in run.nodes for v in n.outs}
    before: list[KernelGroup] = []
    rest: list[Node] = []
    for n in run.nodes:
        if n.kind == "view" and n.args[0] not in made:
            made -= set(n.outs)
            before.append(CallGroup(n))
        else:
            rest.append(n)
    columns = [n for n in rest if is_total(n) and n.out.size > 1]
    inner = [n for n in rest if n not in columns]
    parts: tuple[tuple[list[Node], list[Node]], ...] = ((rest, []), (inner, columns))
    for nodes, others in parts:  # sums of long rows' columns are kernels of their own
        rows = RowSchedule(run.lead, nodes, [])
        if nodes and rows.fits(number):
            return [*before, _of_rows(rows), *[_of_node(n, number) for n in others]]
    if len(rest) == 1 and not before:
        return [CallGroup(rest[0])]
    return before + [_of_node(n, number) for n in rest]


def _of_rows(rows: RowSchedule) -> FlatGroup | RowGroup:
    """Return the group of a schedule: flat where no row needs its elements together."""
    if rows.single():
        return FlatGroup([n for n in rows.nodes if n not in rows.totals], rows.totals)
    return RowGroup(rows)


def _of_node(node: Node, number: NumberOf) -> KernelGroup:
    """Return the group of a node that stands alone."""
    if is_whole_write(node):
        copy = _copy_of(node)
        return _of_elementwise(copy, number) or CallGroup(node)
    if node.kind == "elementwise":
        return _of_elementwise(node, number) or CallGroup(node)
    if node.kind == "reduction" and isinstance(node.args[0], Value) and node.args[0].size:
        lead = _lead_of(node)
        if lead is not None:
            rows = RowSchedule(lead, [node], [])
            if rows.fits(number):
                return _of_rows(rows)
    return CallGroup(node)


def _of_elementwise(node: Node, number: NumberOf) -> FlatGroup | None:
    """Return the group of an elementwise node, None if there is no text for it."""
    return FlatGroup([node], []) if node.out.size and flat_kernels.can_compute(node, number) else None


def _copy_of(node: Node) -> Node:
    """Return the elementwise node that writes a value over all of an array, in place of an `index_set`."""
    copy = Node("astype", node.function, (node.args[2],), {}, node.line)
    copy.outs, copy.kind = node.outs, "elementwise"
    return copy


def _lead_of(node: Node) -> tuple[int, ...] | None:
    """Return the axes that number the rows of a reduction of first or of last axes, None for other axes."""
    shape, axes = tuple(node.args[0].shape), sorted(reduction_axes(node))
    if axes and axes == list(range(len(axes))):
        return shape[: len(axes)]
    if axes and axes == list(range(len(shape) - len(axes), len(shape))):
        return shape[: len(shape) - len(axes)]
    return None


# -- fusion -------------------------------------------------------------------------------------------------


def _fused(groups: list[KernelGroup]) -> list[KernelGroup]:
    """Return groups with elementwise ones of one size fused."""
    return [group for group in _Fusion(groups).done if group is not None]


class _Fusion:
    """Fusion of elementwise groups: each joins an earlier one of its size, or takes that one to its own place.

    Greedy, over the last few groups of the size. A group may move back to an earlier one if all its operands are made
    before that one, and an earlier one may move forward to it if nobody in between reads its results.
    """

    def __init__(self, groups: list[KernelGroup]) -> None:
        self.done: list[KernelGroup | None] = []  # None: moved into a later group
        self.made: dict[Value, int] = {}  # value -> place of the group that makes it
        self.read: dict[Value, int] = {}  # value -> last place of a group that reads it
        self.open: dict[int, list[int]] = {}  # size -> places of groups that others may join
        for group in groups:
            if isinstance(group, FlatGroup) and group.nodes:
                self.place(group)
            else:
                self.append(group)

    def append(self, group: KernelGroup) -> None:
        """Put a group behind all others."""
        self.note(group, len(self.done))
        self.done.append(group)

    def note(self, group: KernelGroup, place: int) -> None:
        """Note the results and the operands of a group at a place."""
        for n in group.all():
            self.made.update(dict.fromkeys(n.outs, place))
            for v in n.reads:
                self.read[v] = max(place, self.read.get(v, place))

    def place(self, group: FlatGroup) -> None:
        """Fuse a group with another one, or put it behind all others."""
        after = max([self.made.get(v, -1) for v in reads_of(group)], default=-1)  # the last of its operands
        places = self.open.setdefault(group.size, [])
        for at in reversed(places[-NEAR:]):
            other = self.done[at]
            assert isinstance(other, FlatGroup)
            if not _small(other, group):
                continue
            both = FlatGroup(other.nodes + group.nodes, group.totals)
            # Back to the other's place. Not with a reduction at the end, whose result may be wanted there early.
            if at >= after and not group.totals:
                self.done[at] = both
                self.note(both, at)
                return
            # Forward to this place.
            if all(self.read.get(v, at) <= at for n in other.nodes for v in n.outs):
                self.done[at] = None
                places.remove(at)
                group = both
                break
        if not group.totals:  # a reduction ends a kernel: nothing may join behind it
            places.append(len(self.done))
        self.append(group)


def _small(a: FlatGroup, b: FlatGroup) -> bool:
    """Say whether two groups together have few enough values for the registers of a thread."""
    return len({v for n in (*a.all(), *b.all()) for v in (*n.reads, *n.outs)}) <= WIDEST
