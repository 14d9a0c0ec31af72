"""Donation: state that a program updates stays in one buffer, so that nothing is copied in or out.

In place: the job that computes the new value writes it over the old one. That is right where no other job still needs
the old value, and where nothing can fail any more: an exception, or a refused argument, leaves state as it was.
Committed: any other new value is computed beside the old one and copied over it when all jobs have been done.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

from tapegrad.backends._cupy.executor.kernel_groups import Batch, Call, InRows, is_product, may_raise
from tapegrad.backends._cupy.executor.liveness import Liveness


class Donated(NamedTuple):
    """Numbers of inputs -> places of the outputs that are written over them: in place, or when all is done."""

    in_place: dict[int, int]
    committed: dict[int, int]


def donations(program: Any, jobs: list[Any], liveness: Liveness, shared: frozenset[int]) -> Donated:
    """Return which outputs are written over the inputs that they replace; shared: inputs that others can see."""
    outputs, inputs = program.outputs, program.inputs
    roots = [liveness.root(v) for v in outputs]
    risky = max((i for i, job in enumerate(jobs) if may_raise(job)), default=-1)
    refused = any(n.effect for job in jobs for n in job.all())
    flats = [_readers(job, liveness) for job in jobs]
    found = Donated({}, {})
    for place, (v, number) in enumerate(zip(outputs, program.replaces, strict=True)):
        if number is None or number in shared:
            continue
        x = inputs[number]
        if x.shape != v.shape or x.dtype != v.dtype or x in roots or roots[place] not in liveness.at or not v.size:
            continue
        i = liveness.at[v]
        alone = not liveness.is_part(v) and roots.count(v) == 1 and i > risky
        if alone and isinstance(jobs[i], Call):  # which cannot be told not to write
            alone = not refused and is_product(jobs[i].node)
        reads = liveness.readers.get(x, [])
        if alone and all(r < i or (r == i and _overwrites(jobs[i], x, v, liveness, flats[i])) for r in reads):
            found.in_place[number] = place
        else:
            found.committed[number] = place
    return found


def _readers(job: Any, liveness: Liveness) -> dict[Any, list[Any]]:
    """Return the elementwise jobs of a batch that read the memory of a root, as a whole or by views."""
    found: dict[Any, list[Any]] = {}
    for flat in job.flats if isinstance(job, Batch) else ():
        for root in dict.fromkeys(liveness.root(v) for n in flat.all() for v in n.values()):
            found.setdefault(root, []).append(flat)
    return found


def _overwrites(job: Any, x: Any, v: Any, liveness: Liveness, flats: dict[Any, list[Any]]) -> bool:
    """Say whether a job that reads `x` may write `v` over it: each thread reads only what it will write.

    flats: for a batch, its jobs by what they read.
    """
    if isinstance(job, Batch):  # blocks of one array run beside those of another
        reading = flats[x]
        return len(reading) == 1 and v in reading[0].outs and _overwrites(reading[0], x, v, liveness, flats)
    views = any(liveness.root(y) is x and y is not x for n in job.all() for y in n.values())
    if views or isinstance(job, Call):
        return False
    if isinstance(job, InRows):
        return bool(job.rows.overwrites(x, v))
    return v not in {n.outs[0] for n in job.totals} and prod(x.shape) == job.size
