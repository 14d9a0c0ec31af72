"""What of a program becomes which kernel: elementwise groups, rows, and calls that stay calls."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from tapegrad.backends import _cupy_kernels as kernels
from tapegrad.backends._cupy_rows import Rows
from tapegrad.backends._items import axes_of, is_value

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


Job = Flat | InRows | Call


def jobs_of(program: Any, number: Callable[[Any], Any]) -> list[Any]:
    """Return the jobs of a program in order; number: what a constant is everywhere, or None."""
    jobs: list[Any] = []
    for item in program.nodes:
        if hasattr(item, "lead"):
            jobs += _of_run(item, number)
        else:
            jobs += [_of_node(n, number) for n in getattr(item, "nodes", (item,))]
    jobs = [job for job in _Merging(jobs).done if job is not None]
    read = set(program.outputs)
    for job in reversed(jobs):
        if isinstance(job, (Flat, InRows)):
            made = {v for n in job.all() for v in n.outs}
            outs = [v for n in job.all() for v in n.outs if v in read]
            job.outs[:] = outs
            read.update(v for n in job.all() for v in n.values() if v not in made)
        else:
            read.update(job.node.values())
    return jobs


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
    rows = Rows(run.lead, rest, [])
    if rest and rows.fits(number):
        return [*before, _job(rows)]
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


def _small(a: Flat, b: Flat) -> bool:
    return len({v for n in (*a.all(), *b.all()) for v in (*n.values(), *n.outs)}) <= WIDEST


def _is_whole(node: Any) -> bool:
    x, key, value = node.args
    whole = all(i is Ellipsis or (type(i) is slice and i == slice(None)) for i in key)
    return whole and is_value(value) and is_value(x) and len(value.shape) <= len(x.shape)
