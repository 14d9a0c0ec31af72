"""Liveness and aliasing of the values of a program: which memory each lies in, and how long that is needed.

A value may lie in the memory of another one, so that nothing is copied:
- a view, in that of what it is a view of;
- a product of which only the transpose is read, as it is computed as that;
- an operand of a concatenation, in that of the result;
- what is permuted and then copied by a reshape, in that of the copy, if its kernel writes with any strides.

The value in whose memory another lies is its root. A root lives from its first part's job to the last job that reads
any of its parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from math import prod
from operator import itemgetter, methodcaller
from typing import Any

from tapegrad.backends._cupy.executor.kernel_groups import Call, is_product, is_transpose, is_view, pieces_of

ALIGNED = 16  # bytes: what vector loads ask of the start of an array


class Liveness:
    """Lifetimes of values, in numbers of jobs.

    readers: jobs that read the memory of a root; last: the last of them, or the number of jobs for what is read after
    all of them; at: the job that makes a value; transpose: for a product the transpose that is computed in its place;
    part: for a value that is computed in the memory of another one that value, and the function that gives its array.
    """

    def __init__(self, program: Any, jobs: list[Any]) -> None:
        self._root: dict[Any, Any] = {}
        self.transpose: dict[Any, Any] = {}
        self.part: dict[Any, tuple[Any, Callable[[Any], Any]]] = {}
        self.at = {v: i for i, job in enumerate(jobs) for n in job.all() for v in n.outs}
        self._place_views(program, jobs)
        self._place_permuted(program, jobs)
        self._place_pieces(program, jobs)
        self.readers: dict[Any, list[int]] = {}
        self.last: dict[Any, int] = {}
        for i, job in enumerate(jobs):
            for n in job.all():
                for v in n.values():
                    self.readers.setdefault(self.root(v), []).append(i)
                    self.last[self.root(v)] = i
                if n.effect:  # conditions are looked at together
                    self.last[self.root(n.args[0])] = len(jobs)
        for v in program.outputs:
            self.last[self.root(v)] = len(jobs)

    def root(self, v: Any) -> Any:
        """Return the value in whose memory a value lies."""
        while v in self._root:
            v = self._root[v]
        return v

    def is_part(self, v: Any) -> bool:
        """Say whether a value lies in the memory of another one."""
        return v in self._root

    def is_in(self, v: Any, whole: Any) -> bool:
        """Say whether a value is computed where a concatenation puts it."""
        return v in self.part and self.part[v][0] is whole

    def separate(self, v: Any, end: int) -> None:
        """Give a value memory of its own to the end: what looked like a view needs a copy."""
        self._root.pop(v, None)
        self.last.setdefault(v, end)

    def _place_views(self, program: Any, jobs: list[Any]) -> None:
        readers = Counter(v for job in jobs for n in job.all() for v in n.values())
        readers.update(program.outputs)
        calls = [job.node for job in jobs if isinstance(job, Call)]
        products = {n.outs[0] for n in calls if is_product(n) and all(len(x.shape) > 1 for x in n.args)}
        for n in calls:
            if is_view(n) and is_transpose(n) and n.args[0] in products and readers[n.args[0]] == 1:
                product, out = n.args[0], n.outs[0]
                self.transpose[product] = self._root[product] = out
                self.at[out] = self.at[product]
            elif is_view(n):
                self._root.update((v, n.args[0]) for v in n.outs)

    def _place_pieces(self, program: Any, jobs: list[Any]) -> None:
        """Place operands where a concatenation along the first axis puts them, if they are made for it alone."""
        nodes = [job.node for job in jobs if isinstance(job, Call) and pieces_of(job.node)]
        uses = Counter(v for n in nodes for v in pieces_of(n))
        state = {v for v, number in zip(program.outputs, program.replaces, strict=True) if number is not None}
        for n in nodes:
            pieces, out = pieces_of(n), n.outs[0]
            starts = accumulate((prod(v.shape) for v in pieces), initial=0)
            for v, start in zip(pieces, starts, strict=False):
                made = v in self.at and v not in self._root and v not in state
                if made and uses[v] == 1 and v.dtype == out.dtype and start * v.dtype.itemsize % ALIGNED == 0:
                    self._put(v, out, partial(_slice, start=start, shape=v.shape))

    def _place_permuted(self, program: Any, jobs: list[Any]) -> None:
        """Place what is permuted and then reshaped, by a copy, where the copy would put it."""
        nodes = {v: job.node for job in jobs if isinstance(job, Call) for v in job.node.outs}
        readers: dict[Any, list[Any]] = {v: [None] for v in program.outputs}
        for job in jobs:
            for n in job.all():
                for v in n.values():
                    readers.setdefault(v, []).append(n)

        def free(v: Any, but: Any) -> bool:
            """Say whether a value may lie anywhere: all who write or read it take any strides."""
            others = [n for n in readers[v] if n is not but]
            return all(hasattr(getattr(n, "function", None), "into") for n in (nodes.get(v), *others))

        for copy, n in nodes.items():
            turned = nodes.get(n.args[0]) if n.op == "reshape" else None
            if turned is None or turned.op != "permute_dims" or len(readers[turned.outs[0]]) > 1 or not copy.size:
                continue
            x, axes = turned.args[0], [i % len(turned.args[1]) for i in turned.args[1]]
            pieces = pieces_of(nodes[x]) if x in nodes and nodes[x].op == "stack" and len(readers[x]) == 1 else []
            apart = pieces and len({*pieces}) == len(pieces) and all(free(v, nodes[x]) for v in pieces)
            if not (apart or free(x, turned)):
                continue
            del self._root[copy]
            self._put(turned.outs[0], copy, methodcaller("reshape", turned.outs[0].shape))
            self._put(x, turned.outs[0], methodcaller("transpose", [axes.index(i) for i in range(len(axes))]))
            for i, v in enumerate(pieces):
                self._put(v, x, itemgetter(i))
            self.at[copy] = self.at[x]

    def _put(self, v: Any, whole: Any, array: Callable[[Any], Any]) -> None:
        """Have a value computed in the memory of another one."""
        self._root[v] = whole
        self.part[v] = whole, array


def _slice(whole: Any, start: int, shape: tuple[int, ...]) -> Any:
    return whole.reshape(-1)[start : start + prod(shape)].reshape(shape)
