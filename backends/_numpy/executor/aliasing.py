"""Alias analysis: the array that each value of a program lies in.

A view lies in the array of its operand. The value that owns an array is the root of all its views. Whether a function
gives a view or a copy depends on the layout of its operand, so that it is tried on arrays that are laid out as those of
a call will be::

    %0 = exp(x0)                    an array of its own
    %1 = permute_dims(%0, (1, 0))   a view:  root %0
    %2 = %1[1:]                     a view:  root %0
    %3 = reshape(%1, (6,))          a copy, as the elements of %1 do not lie in order: an array of its own

The numbers in these arrays are never read: `numpy.empty` reserves addresses, hardly any memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad._program.ir import Node, Program, Value
from tapegrad.backends._numpy.executor.references import NDArray

SMALL_PART = 4096  # elements of a part that is read where it lies: a larger one is better laid out in order


class Aliases:
    """The root of each value, and the values that are views.

    views: values that lie in the array of an operand, without donation.
    """

    def __init__(self, program: Program) -> None:
        self.views: set[Value] = set()
        self._root: dict[Value, Value] = {}
        self._shown: dict[Value, NDArray] = {}  # arrays that show the layout of views
        # Groups hold views of their own, which nothing outside them reads: only single nodes matter.
        for item in program.items:
            if isinstance(item, Node):
                if item.kind == "view":
                    self._try(item)
                elif item.op == "unstack" and item.out.size <= SMALL_PART:
                    array = self._array_of(item.args[0])
                    for v, key in zip(item.outs, part_keys(item), strict=True):
                        self._add(v, item.args[0], array[key])
        self._shown.clear()

    def root_of(self, v: Value) -> Value:
        """Return the value that owns the array of another."""
        return self._root.get(v, v)

    def shares(self, v: Value) -> bool:
        """Say whether a value lies in the array of another one."""
        return v in self._root

    def only_alias(self, x: Value, node: Node) -> bool:
        """Say whether no operand of a node but `x` lies in the array of `x`."""
        root = self.root_of(x)
        return all([y is x or self.root_of(y) is not root for y in node.reads])

    def donate(self, x: Value, v: Value) -> None:
        """Lay a result into the array of an input."""
        self._root[v] = x

    def _try(self, node: Node) -> None:
        x, v = node.args[0], node.out
        array = self._array_of(x)
        result = node.function(array, *node.args[1:], **node.kwargs)
        # An array without elements has no memory to share: it is taken for a view.
        if type(result) is np.ndarray and (v.size == 0 or np.may_share_memory(result, array)):
            self._add(v, x, result)

    def _array_of(self, x: Value) -> NDArray:
        return self._shown[x] if x in self._shown else np.empty(x.shape, x.dtype)

    def _add(self, v: Value, x: Value, array: NDArray) -> None:
        self._root[v], self._shown[v] = self.root_of(x), array
        self.views.add(v)


def part_keys(unstack: Node) -> list[tuple[Any, ...]]:
    """Return the key of each part of an array that is unstacked; the dots keep a part of no axes an array."""
    before = (slice(None),) * (unstack.kwargs.get("axis", 0) % len(unstack.args[0].shape))
    return [(*before, i, ...) for i in range(len(unstack.outs))]
