"""Partition of a program into jobs: elementwise groups, rows, batches of updates, and calls of the library.

1. Each item of the program becomes a job; nodes that no generated kernel can compute become calls.
2. Jobs that only compute new values of state are put off to the end: there nothing can fail any more.
3. Elementwise jobs of one size are merged, vertically (one reads the other) and horizontally (they share operands).
4. Those updates are batched: one launch computes all that have one form, whatever the sizes of their arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from tapegrad.backends import _cupy_kernels as kernels
from tapegrad.backends._cupy_gemm import can_multiply
from tapegrad.backends._cupy_rows import Rows
from tapegrad.backends._items import axes_of, is_total, is_value

WIDEST = 40  # values of one kernel
NEAR = 8  # kernels that are asked whether an operation may join them


class Copy:
    """A node in the place of one that writes a whole array: the values written, as they are in it."""

    op, kind, many, effect = "astype", "elementwise", False, False

    def __init__(self, node: Any) -> None:
        self.args = (node.args[2],)
        self.kwargs: dict[str, Any] = {}
        self.outs, self.function = node.outs, node.function

    def values(self) -> Any:
        """Go through the values that are read."""
        return iter(self.args)


class Flat:
    """Elementwise nodes whose results have the same number of elements, and reductions of all of it at the end."""

    def __init__(self, nodes: list[Any], totals: list[Any]) -> None:
        self.nodes, self.totals = nodes, totals
        first = nodes[0].outs[0] if nodes else totals[0].args[0]
        self.shape = tuple(first.shape)
        self.size = prod(self.shape)
        self.outs: list[Any] = []

    def all(self) -> list[Any]:
        """Return every node."""
        return self.nodes + self.totals


class Batch:
    """Elementwise jobs that do not depend on each other, over arrays of any sizes."""

    def __init__(self, flats: list[Flat]) -> None:
        self.flats = flats
        self.outs: list[Any] = []

    def all(self) -> list[Any]:
        """Return every node."""
        return [n for flat in self.flats for n in flat.all()]


class InRows:
    """A run over rows."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.outs: list[Any] = rows.outs

    def all(self) -> list[Any]:
        """Return every node."""
        return self.rows.nodes


class Call:
    """A node by itself: a view, a product, a function of the library."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self.outs = list(node.outs)

    def all(self) -> list[Any]:
        """Return the node."""
        return [self.node]


Job = Flat | InRows | Batch | Call


def jobs_of(program: Any, number: Callable[[Any], Any]) -> list[Any]:
    """Return the jobs of a program in order; number: what a constant is everywhere, or None."""
    jobs: list[Any] = []
    for item in program.nodes:
        if hasattr(item, "lead"):
            jobs += _of_run(item, number)
        else:
            jobs += [_of_node(n, number) for n in getattr(item, "nodes", (item,))]
    jobs, updates = _parted(program, jobs)
    jobs = [*_merged(jobs), *([Batch(updates)] if len(updates) > 1 else updates)]
    _note_outs(jobs, program.outputs)
    return jobs


def _merged(jobs: list[Any]) -> list[Any]:
    return [job for job in _Merging(jobs).done if job is not None]


def _note_outs(jobs: list[Any], outputs: list[Any]) -> None:
    """Note which values of each job others read."""
    read = set(outputs)
    for job in reversed(jobs):
        if isinstance(job, Call):
            read.update(job.node.values())
            continue
        for flat in job.flats if isinstance(job, Batch) else (job,):
            flat.outs[:] = [v for n in flat.all() for v in n.outs if v in read]
        if isinstance(job, Batch):
            job.outs[:] = [v for flat in job.flats for v in flat.outs]
        made = {v for n in job.all() for v in n.outs}
        read.update(v for n in job.all() for v in n.values() if v not in made)


# -- updates of state --------------------------------------------------------------------------------------


def _parted(program: Any, jobs: list[Any]) -> tuple[list[Any], list[Any]]:
    """Part jobs in those that others wait for and elementwise ones that only compute new values of state."""
    state = {v for v, number in zip(program.outputs, program.replaces, strict=True) if number is not None}
    made = [{v for n in job.all() for v in n.outs} for job in jobs]
    read = {v for job, own in zip(jobs, made, strict=True) for n in job.all() for v in n.values() if v not in own}
    parts: tuple[list[Any], list[Any]] = [], []
    for job, own in zip(jobs, made, strict=True):
        update = isinstance(job, Flat) and not job.totals and not own.isdisjoint(state) and own.isdisjoint(read)
        parts[update].append(job)
    return parts


# -- items --------------------------------------------------------------------------------------------------


def _of_run(run: Any, number: Callable[[Any], Any]) -> list[Any]:
    made = {v for n in run.nodes for v in n.outs}
    before: list[Any] = []
    rest: list[Any] = []
    for n in run.nodes:
        if n.kind == "view" and n.args[0] not in made:
            made -= set(n.outs)
            before.append(Call(n))
        else:
            rest.append(n)
    columns = [n for n in rest if is_total(n)]
    inner = [n for n in rest if n not in columns]
    for nodes, others in ((rest, []), (inner, columns)):  # sums of long rows' columns are kernels of their own
        rows = Rows(run.lead, nodes, [])
        if nodes and rows.fits(number):
            return [*before, _job(rows), *[_of_node(n, number) for n in others]]
    if len(rest) == 1 and not before:
        return [Call(rest[0])]
    return before + [_of_node(n, number) for n in rest]


def _job(rows: Rows) -> Flat | InRows:
    if rows.single():
        return Flat([n for n in rows.nodes if n not in rows.totals], rows.totals)
    return InRows(rows)


def _of_node(node: Any, number: Callable[[Any], Any]) -> Any:
    if node.op == "index_set" and _is_whole(node):
        node = Copy(node)
    if node.kind == "elementwise" and node.outs[0].size and kernels.can_compute(node, number):
        return Flat([node], [])
    if node.kind == "reduction" and is_value(node.args[0]) and node.args[0].size:
        ndim, axes = len(node.args[0].shape), sorted(axes_of(node))
        shape = tuple(node.args[0].shape)
        lead: tuple[int, ...] | None = None
        if axes and axes == list(range(len(axes))):
            lead = shape[: len(axes)]
        elif axes and axes == list(range(ndim - len(axes), ndim)):
            lead = shape[: ndim - len(axes)]
        if lead is not None:
            rows = Rows(lead, [node], [])
            if rows.fits(number):
                return _job(rows)
    return Call(node)


class _Merging:
    """Puts elementwise jobs of one size into one kernel: where operands are made, or where they are read."""

    def __init__(self, jobs: list[Any]) -> None:
        self.done: list[Any] = []
        self.made: dict[Any, int] = {}  # value -> place of the job that makes it
        self.read: dict[Any, int] = {}  # value -> last place of a job that reads it
        self.open: dict[int, list[int]] = {}  # size -> places of jobs that others may join
        for job in jobs:
            if isinstance(job, Flat) and job.nodes:
                self.place(job)
            else:
                self.append(job)

    def append(self, job: Any) -> None:
        self.note(job, len(self.done))
        self.done.append(job)

    def note(self, job: Any, place: int) -> None:
        for n in job.all():
            self.made.update(dict.fromkeys(n.outs, place))
            for v in n.values():
                self.read[v] = max(place, self.read.get(v, place))

    def place(self, job: Flat) -> None:
        after = max([self.made.get(v, -1) for n in job.all() for v in n.values()], default=-1)
        places = self.open.setdefault(job.size, [])
        for at in reversed(places[-NEAR:]):
            group = self.done[at]
            if not _small(group, job):
                continue
            both = Flat(group.nodes + job.nodes, job.totals)
            if at >= after and not job.totals:
                self.done[at] = both
                self.note(both, at)
                return
            if all(self.read.get(v, at) <= at for n in group.nodes for v in n.outs):
                self.done[at] = None
                places.remove(at)
                job = both
                break
        if not job.totals:
            places.append(len(self.done))
        self.append(job)


# -- calls --------------------------------------------------------------------------------------------------


def is_view(node: Any) -> bool:
    """Say whether a node's results lie in the memory of its first argument."""
    return bool(node.kind == "view" or node.op == "unstack")


def is_constant(node: Any) -> bool:
    """Say whether a node gives the same at each call."""
    return not node.effect and not any(True for _ in node.values())


def is_product(node: Any) -> bool:
    """Say whether a node is a matrix product that cuBLAS computes."""
    if node.op != "matmul":
        return False
    (a, b), dtype = node.args, node.outs[0].dtype
    return bool(can_multiply(dtype) and a.dtype == b.dtype == dtype and a.size and b.size)


def is_concatenation(node: Any) -> bool:
    """Say whether a node puts its operands side by side."""
    if node.op == "concat":
        return node.kwargs.get("axis", 0) is not None and bool(node.outs[0].size)
    return node.op in ("stack", "rows")


def pieces_of(node: Any) -> list[Any]:
    """Return the operands that a node puts one after the other in memory; none if it does something else."""
    first = is_concatenation(node) and node.kwargs.get("axis", 0) == 0
    return list(node.args[0]) if first and all(is_value(v) for v in node.args[0]) else []


def is_write(node: Any) -> bool:
    """Say whether a node writes or adds to a part of an array that slices and numbers select."""
    return node.op in ("index_set", "index_add") and all(
        i is None or i is Ellipsis or isinstance(i, (int, slice)) for i in node.args[1]
    )


def may_raise(job: Job) -> bool:
    """Say whether an exception may leave a job, as of a library's function, which may need memory or refuse values."""
    if not isinstance(job, Call):
        return False
    ways = (is_view, is_constant, is_product, is_concatenation, is_write)
    return not any(way(job.node) for way in ways)


def _small(a: Flat, b: Flat) -> bool:
    return len({v for n in (*a.all(), *b.all()) for v in (*n.values(), *n.outs)}) <= WIDEST


def _is_whole(node: Any) -> bool:
    x, key, value = node.args
    whole = all(i is Ellipsis or (type(i) is slice and i == slice(None)) for i in key)
    return whole and is_value(value) and is_value(x) and len(value.shape) <= len(x.shape)
