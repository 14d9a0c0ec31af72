"""Liveness and aliasing of values: which memory each value lies in, and from when to when that memory is needed.

A value may lie in the memory of another one, so that nothing is copied:
- a view, in that of its operand;
- a product that only its transpose's readers need, in that of the transpose, as which it is computed;
- an operand of a concatenation, in its part of the result;
- an array that is permuted and then copied by a reshape, in the copy, if its kernel writes with any strides.

The value in whose memory another lies is its root. A root lives from the first group that writes a part of it to the
last one that reads a part.

    0  a = exp(x)                 root   at   last
    1  b = reshape(a)       a     a      0    2
    2  c = matmul(b, w)     b     a
    3  d = concat([c, y])   c     d      2    end      c is computed in its part of d
       output d             d     d
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from math import prod
from operator import itemgetter, methodcaller
from typing import NamedTuple

from tapegrad._program.ir import Node, Program, Value
from tapegrad.backends._array import Array
from tapegrad.backends._cupy.executor.kernel_groups import CallGroup, KernelGroup, reads_of, results_of
from tapegrad.backends._cupy.executor.nodes import WritesInto, is_product, is_transpose, is_view, pieces_of

ALIGNED = 16  # bytes: vector loads need the start of an array at a multiple of them


class Part(NamedTuple):
    """A place in the memory of another value; array: the function from that value's array to the part."""

    whole: Value
    array: Callable[[Array], Array]


class Liveness:
    """Lifetimes of values, in numbers of groups.

    readers: groups that read the memory of a root; last: the last of them, or the number of groups for memory that is
    read after all of them; at: the group that makes a value; transpose: for a product the transpose that is computed in
    its place; part: for a value that is computed in the memory of another one, its place there.
    """

    def __init__(self, program: Program, groups: list[KernelGroup]) -> None:
        self._root: dict[Value, Value] = {}
        self.transpose: dict[Value, Value] = {}
        self.part: dict[Value, Part] = {}
        self.at = {v: i for i, group in enumerate(groups) for v in results_of(group)}
        # Aliasing first, as a lifetime is that of all values in one memory. Views before the others, which build on
        # them; pieces last, as those that were placed with a permuted whole must not move again.
        self._place_views(program, groups)
        self._place_permuted(program, groups)
        self._place_pieces(program, groups)
        # Last uses: one pass over the groups in order, so that later readers overwrite earlier ones.
        self.readers: dict[Value, list[int]] = {}
        self.last: dict[Value, int] = {}
        for i, group in enumerate(groups):
            for n in group.all():
                for v in n.reads:
                    self.readers.setdefault(self.root(v), []).append(i)
                    self.last[self.root(v)] = i
                if n.effect:  # all conditions are evaluated together, by one kernel
                    self.last[self.root(n.args[0])] = len(groups)
        for v in program.outputs:
            self.last[self.root(v)] = len(groups)

    def root(self, v: Value) -> Value:
        """Return the value in whose memory a value lies."""
        while v in self._root:
            v = self._root[v]
        return v

    def is_part(self, v: Value) -> bool:
        """Say whether a value lies in the memory of another one."""
        return v in self._root

    def is_in(self, v: Value, whole: Value) -> bool:
        """Say whether a value is computed where a concatenation puts it."""
        return v in self.part and self.part[v].whole is whole

    def separate(self, v: Value, end: int) -> None:
        """Give a value memory of its own to the end, where a view turned out to need a copy."""
        self._root.pop(v, None)
        self.last.setdefault(v, end)

    def _place_views(self, program: Program, groups: list[KernelGroup]) -> None:
        """Place views in the memory of their operands, and products in that of their transposes."""
        readers = Counter(v for group in groups for v in reads_of(group))
        readers.update(program.outputs)
        calls = [group.node for group in groups if isinstance(group, CallGroup)]
        products = {n.out for n in calls if is_product(n) and all(len(x.shape) > 1 for x in n.args)}
        for n in calls:
            if is_view(n) and is_transpose(n) and n.args[0] in products and readers[n.args[0]] == 1:
                product, out = n.args[0], n.out
                self.transpose[product] = self._root[product] = out
                self.at[out] = self.at[product]
            elif is_view(n):
                self._root.update((v, n.args[0]) for v in n.outs)

    def _place_pieces(self, program: Program, groups: list[KernelGroup]) -> None:
        """Place operands where a concatenation along the first axis puts them, if they are made for it alone."""
        nodes = [group.node for group in groups if isinstance(group, CallGroup) and pieces_of(group.node)]
        uses = Counter(v for n in nodes for v in pieces_of(n))
        state = {v for v, number in zip(program.outputs, program.replaces, strict=True) if number is not None}
        for n in nodes:
            pieces, out = pieces_of(n), n.out
            starts = accumulate((prod(v.shape) for v in pieces), initial=0)
            for v, start in zip(pieces, starts, strict=False):
                # Not state, which has its own buffer; not if it lies elsewhere already, or in two results.
                free = v in self.at and v not in self._root and v not in state and uses[v] == 1
                if free and v.dtype == out.dtype and start * v.dtype.itemsize % ALIGNED == 0:
                    self._put(v, out, partial(_slice, start=start, shape=v.shape))

    def _place_permuted(self, program: Program, groups: list[KernelGroup]) -> None:
        """Place an array that is permuted and then reshaped, by a copy, where the copy would put its elements."""
        nodes = {v: group.node for group in groups if isinstance(group, CallGroup) for v in group.node.outs}
        readers: dict[Value, list[Node | None]] = {v: [None] for v in program.outputs}  # None: a reader outside
        for group in groups:
            for n in group.all():
                for v in n.reads:
                    readers.setdefault(v, []).append(n)

        def free(v: Value, but: Node) -> bool:
            """Say whether a value may lie anywhere: its maker and its readers take any strides."""
            others = [n for n in readers[v] if n is not but]
            return all(n is not None and isinstance(n.function, WritesInto) for n in (nodes.get(v), *others))

        for copy, n in nodes.items():
            turned = nodes.get(n.args[0]) if n.op == "reshape" else None
            if turned is None or turned.op != "permute_dims" or len(readers[turned.out]) > 1 or not copy.size:
                continue
            x, axes = turned.args[0], [i % len(turned.args[1]) for i in turned.args[1]]
            # A stack may be skipped too: then its operands lie in the copy.
            pieces = pieces_of(nodes[x]) if x in nodes and nodes[x].op == "stack" and len(readers[x]) == 1 else []
            apart = pieces and len({*pieces}) == len(pieces) and all(free(v, nodes[x]) for v in pieces)
            if not (apart or free(x, turned)):
                continue
            # Backwards through the chain: the copy's memory, as the permuted array, as the array, as its parts.
            del self._root[copy]
            self._put(turned.out, copy, methodcaller("reshape", turned.out.shape))
            self._put(x, turned.out, methodcaller("transpose", [axes.index(i) for i in range(len(axes))]))
            for i, v in enumerate(pieces):
                self._put(v, x, itemgetter(i))
            self.at[copy] = self.at[x]

    def _put(self, v: Value, whole: Value, array: Callable[[Array], Array]) -> None:
        """Have a value computed in the memory of another one."""
        self._root[v] = whole
        self.part[v] = Part(whole, array)


def _slice(whole: Array, start: int, shape: tuple[int, ...]) -> Array:
    return whole.reshape(-1)[start : start + prod(shape)].reshape(shape)
