"""Checks: items that raise an error for some values, and their order among the writes to outputs.

The memory of a gradient may be lent to a call, which writes the next gradient there. A call that raises must leave it
as it was. So memory is lent only where each check comes before the first output is written::

    0  check(x0)         raises for some values
    1  %0 = log(x0)
    2  %1 = exp(%0)      the first write to an output: checks come first
"""

from __future__ import annotations

from collections.abc import Collection

from tapegrad._program.interpreter import LOOKING
from tapegrad._program.ir import Item, Node, Program, Value
from tapegrad.backends._numpy.executor.aliasing import Aliases


class Checks:
    """The checks of a program, and how far a call has come with them.

    last: the number of the last item with a check, -1 if there is none; absent: whether there is none; come_first:
    whether all come before the first write to an output; passed: whether those of the present call have passed.
    """

    def __init__(self, program: Program, fresh: Collection[Value], aliases: Aliases) -> None:
        # Writes to outputs that are fresh at each call: a donated one comes after all that may raise anyway.
        items = program.items
        self.last = max([i for i, item in enumerate(items) if _checks(item)], default=-1)
        writes = [i for i, item in enumerate(items) if any(aliases.root_of(v) in fresh for v in item.outs)]
        self.come_first = not writes or self.last < writes[0]
        self.absent = self.last < 0
        self.passed = True  # set to `absent` as a call begins

    def pass_all(self) -> None:
        """Note that all checks of a call have passed: this is called after the last."""
        self.passed = True


def _checks(item: Item) -> bool:
    """Say whether an item is there to raise an error for some values, or may do so in its own code."""
    return isinstance(item, Node) and (item.effect or item.op in LOOKING)


def may_raise(item: Item) -> bool:
    """Say whether an item may raise an error for some values."""
    return _checks(item) or (isinstance(item, Node) and item.op.startswith("linalg."))
