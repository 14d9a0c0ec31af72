"""Donation: state that a program updates stays in one buffer, so that nothing is copied in or out.

In place: the group that computes the new value writes it over the old one. That is right if no other group still needs
the old value, and if nothing can fail any more: an exception, or a refused argument, leaves state as it was.
Committed: any other new value is computed beside the old one and copied over it when all groups have been launched.

    w_new = w - g                  w_new in place of w: the last reader of w, each thread reads the element it writes
    c_new = concat([c[1:], x])     c_new beside c, copied at the end: its elements move
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from tapegrad._program.ir import Program, Value
from tapegrad.backends._cupy.executor.kernel_groups import (
    CallGroup,
    FlatGroup,
    KernelGroup,
    RowGroup,
    UpdateBatch,
    may_raise,
    reads_of,
)
from tapegrad.backends._cupy.executor.liveness import Liveness
from tapegrad.backends._cupy.executor.nodes import is_product

Readers = dict[Value, list[FlatGroup]]  # a root -> the groups of a batch that read its memory


class Donated(NamedTuple):
    """Numbers of inputs -> places of the outputs that are written over them: in place, or when all is done."""

    in_place: dict[int, int]
    committed: dict[int, int]


def donations(program: Program, groups: list[KernelGroup], liveness: Liveness, shared: frozenset[int]) -> Donated:
    """Return which outputs are written over the inputs that they replace; shared: inputs that others can see."""
    outputs, inputs = program.outputs, program.inputs
    roots = [liveness.root(v) for v in outputs]
    # The last group that may raise: nothing before it may write over state.
    risky = max((i for i, group in enumerate(groups) if may_raise(group)), default=-1)
    refused = any(n.effect for group in groups for n in group.all())
    readers = [_readers(group, liveness) for group in groups]
    found = Donated({}, {})
    for place, (v, number) in enumerate(zip(outputs, program.replaces, strict=True)):
        if number is None or number in shared:
            continue
        # Only memory of the same size that this program computes, and that is no other output's too.
        x = inputs[number]
        if x.shape != v.shape or x.dtype != v.dtype or x in roots or roots[place] not in liveness.at or not v.size:
            continue
        i = liveness.at[v]
        group = groups[i]
        alone = not liveness.is_part(v) and roots.count(v) == 1 and i > risky
        if alone and isinstance(group, CallGroup):  # a launch that cannot be told not to write after a refusal
            alone = not refused and is_product(group.node)
        reads = liveness.readers.get(x, [])
        if alone and all(r < i or (r == i and _overwrites(group, x, v, liveness, readers[i])) for r in reads):
            found.in_place[number] = place
        else:
            found.committed[number] = place
    return found


def _readers(group: KernelGroup, liveness: Liveness) -> Readers:
    """Return the elementwise groups of a batch that read the memory of a root, as a whole or by views."""
    found: Readers = {}
    for flat in group.flats if isinstance(group, UpdateBatch) else ():
        for root in dict.fromkeys(map(liveness.root, reads_of(flat))):
            found.setdefault(root, []).append(flat)
    return found


def _overwrites(group: KernelGroup, x: Value, v: Value, liveness: Liveness, readers: Readers) -> bool:
    """Say whether a group that reads `x` may write `v` over it: each thread reads only the elements it will write.

    readers: for a batch, its groups by the memory they read.
    """
    if isinstance(group, UpdateBatch):  # blocks of one array run beside those of another
        reading = readers[x]
        return len(reading) == 1 and v in reading[0].outs and _overwrites(reading[0], x, v, liveness, readers)
    # A view of x has its elements at other places.
    views = any(liveness.root(y) is x and y is not x for y in reads_of(group))
    if views or isinstance(group, CallGroup):
        return False
    if isinstance(group, RowGroup):
        return group.rows.overwrites(x, v)
    return v not in {n.out for n in group.totals} and prod(x.shape) == group.size
