"""Liveness analysis: the item of a program that reads each array for the last time.

One pass forwards over the items notes each read. A read of a view counts for the root, whose array it reads. Outputs
live beyond the end::

                                       last use
    0  %0 = exp(x0)                    x0: 0
    1  %1 = reshape(%0, (6,))          a view of %0
    2  %2 = sin(%1)                    %0: 2, through its view
    3  %3, %4 = unstack(%2)            %2: 3
    outputs: %3                        %3: the end; %4 is dead once it is made

So the arrays that are free after item 2 are those of %0, after item 3 those of %2 and %4.
"""

from __future__ import annotations

from tapegrad._program.ir import Item, Program, Value
from tapegrad.backends._numpy.executor.aliasing import Aliases


class Liveness:
    """The last uses and the readers of each array, by its root.

    last: the number of the item that reads it last, or `end`; readers: the items that read it, with their numbers.
    """

    def __init__(self, program: Program, aliases: Aliases) -> None:
        self.end = len(program.items)  # the number of no item: after all of them
        self.last: dict[Value, int] = {}
        self.readers: dict[Value, list[tuple[int, Item]]] = {}
        # The last assignment stands: items are gone through in order.
        for i, item in enumerate(program.items):
            for v in item.values():
                root = aliases.root_of(v)
                self.last[root] = i
                self.readers.setdefault(root, []).append((i, item))
        for v in program.outputs:
            self.keep(aliases.root_of(v))

    def keep(self, v: Value) -> None:
        """Have a value live beyond the end."""
        self.last[v] = self.end

    def dead_after(self, items: list[Item]) -> list[list[Value]]:
        """Return for each item the values whose arrays nobody reads after it: results that nobody reads come last."""
        dead: list[list[Value]] = [[] for _ in items]
        for v, i in self.last.items():
            if i != self.end:
                dead[i].append(v)
        # A result that nobody reads, such as a part of an array that is unstacked, is dead at once.
        for values, item in zip(dead, items, strict=True):
            values += [v for v in item.outs if v not in self.last]
        return dead
