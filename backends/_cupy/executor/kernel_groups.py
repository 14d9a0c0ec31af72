"""Partition of a program into jobs: elementwise groups, rows, batches of updates, and calls of the library.

1. A chain of additions to parts of zeros that together are the whole, as the gradient of slices, becomes one node.
2. Each item of the program becomes a job; nodes that no generated kernel can compute become calls.
3. Jobs that only compute new values of state are put off to the end: there nothing can fail any more.
4. Elementwise jobs of one size are merged, vertically (one reads the other) and horizontally (they share operands).
5. Those updates are batched: one launch computes all that have one form, whatever the sizes of their arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from tapegrad._program.ir import Run, Value
from tapegrad._program.queries import axes_of, is_total
from tapegrad.backends._cupy.codegen import flat_kernels as kernels
from tapegrad.backends._cupy.codegen.row_kernels import Rows
from tapegrad.backends._cupy.cublas import can_multiply

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


class Join:
    """A node in the place of additions to parts of zeros: the parts side by side."""

    op, kind, many, effect = "concat", "", False, False

    def __init__(self, last: Any, axis: int, parts: list[Any]) -> None:
        self.args = (parts,)
        self.kwargs = {"axis": axis}
        self.outs, self.function, self.line = last.outs, last.function, last.line

    def values(self) -> Any:
        """Go through the values that are read."""
        return iter(self.args[0])


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
    joins = _joins(program, number)
    for item in program.nodes:
        if isinstance(item, Run):
            jobs += _of_run(item, number)
        elif item in joins:
            jobs += joins[item]
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


# -- parts of a whole ----------------------------------------------------------------------------------------


def _joins(program: Any, number: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    """Return jobs in place of additions to zeros, part after part, where the parts are the whole.

    The sum of zero and a number is that number (but for the sign of zero), so that the parts need only be put together.
    """
    reads: dict[Any, list[Any]] = {v: [None] for v in program.outputs}  # None: a reader outside
    for item in program.nodes:
        for v in item.values():
            reads.setdefault(v, []).append(item)
    found: dict[Any, list[Any]] = {}
    for first in program.nodes:
        if first in found or getattr(first, "op", "") != "index_add" or number(first.args[0]) != 0:
            continue
        chain = [first]
        while True:
            after = reads.get(chain[-1].outs[0], [])
            if (
                len(after) != 1
                or getattr(after[0], "op", "") != "index_add"
                or after[0].args[0] is not chain[-1].outs[0]
            ):
                break
            chain.append(after[0])
        join = _joined(chain)
        if join is not None:
            found.update((node, []) for node in chain[:-1])
            found[chain[-1]] = [Call(join)]
    return found


def _joined(chain: list[Any]) -> Join | None:
    """Return the node that puts parts together; None if they overlap, or leave something out."""
    out = chain[-1].outs[0]
    spans = sorted([(*span, n.args[2]) for n in chain if (span := _span(n, out)) is not None], key=lambda s: s[:2])
    if len(spans) < len(chain) or len({axis for axis, *_ in spans}) > 1:
        return None
    edges = [0, *[stop for _, _, stop, _ in spans]]
    axis = spans[0][0]
    if [start for _, start, _, _ in spans] != edges[:-1] or edges[-1] != out.shape[axis]:
        return None
    return Join(chain[-1], axis, [value for *_, value in spans])


def _span(node: Any, out: Any) -> tuple[int, int, int] | None:
    """Return (axis, start, stop) of what a node adds to; None if that is no slice of one axis, or of another dtype."""
    _, key, value = node.args
    if Ellipsis in key:
        at = key.index(Ellipsis)
        key = (*key[:at], *[slice(None)] * (len(out.shape) - len(key) + 1), *key[at + 1 :])
    if not isinstance(value, Value) or value.dtype != out.dtype or not all(isinstance(i, slice) for i in key):
        return None
    spans = [s.indices(n) for s, n in zip(key, out.shape, strict=False)]
    spans += [(0, n, 1) for n in out.shape[len(key) :]]
    parts = [axis for axis, (span, n) in enumerate(zip(spans, out.shape, strict=True)) if span != (0, n, 1)]
    if len(parts) != 1 or spans[parts[0]][2] != 1:
        return None
    start, stop, _ = spans[parts[0]]
    shape = tuple(stop - start if axis == parts[0] else n for axis, n in enumerate(out.shape))
    return (parts[0], start, stop) if start < stop and value.shape == shape else None


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
    columns = [n for n in rest if is_total(n) and n.outs[0].size > 1]
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
    if node.kind == "reduction" and isinstance(node.args[0], Value) and node.args[0].size:
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


def is_transpose(node: Any) -> bool:
    """Say whether a node exchanges the last two axes."""
    return node.op == "matrix_transpose" or (node.op == "T" and len(node.outs[0].shape) == 2)


def is_concatenation(node: Any) -> bool:
    """Say whether a node puts its operands side by side."""
    if node.op == "concat":
        return node.kwargs.get("axis", 0) is not None and bool(node.outs[0].size)
    return node.op in ("stack", "rows")


def pieces_of(node: Any) -> list[Any]:
    """Return the operands that a node puts one after the other in memory; none if it does something else."""
    if not is_concatenation(node) or node.kwargs.get("axis", 0) % len(node.outs[0].shape):
        return []
    return list(node.args[0]) if all(isinstance(v, Value) for v in node.args[0]) else []


def is_write(node: Any) -> bool:
    """Say whether a node writes or adds to a part of an array that slices and numbers select."""
    return node.op in ("index_set", "index_add") and all(
        i is None or i is Ellipsis or isinstance(i, (int, slice)) for i in node.args[1]
    )


def gathered(node: Any) -> tuple[Any, Any, int] | None:
    """Return (array, indices, axis) of a node that takes items by one array of integers; None if it does not."""
    if node.op == "take" and isinstance(node.args[0], Value) and isinstance(node.args[1], Value):
        found = (*node.args[:2], node.kwargs.get("axis", 0) % max(len(node.args[0].shape), 1))
    elif node.op == "index_get":
        first, *rest = node.args[1]
        whole = all(i is Ellipsis or (isinstance(i, slice) and i == slice(None)) for i in rest)
        if not isinstance(first, Value) or not whole:
            return None
        found = node.args[0], first, 0
    else:
        return None
    return found if getattr(found[1].dtype, "kind", "") in "iu" else None


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
    return whole and isinstance(value, Value) and isinstance(x, Value) and len(value.shape) <= len(x.shape)
