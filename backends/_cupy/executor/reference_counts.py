"""Reference counts of arrays that a plan hands out: they tell whether somebody else can see one of them.

State stays in a buffer of the plan, and gradients are lent to the caller. The plan may write over such an array only if
its own references are the only ones. It notes their number when it hands the array out, and compares later.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import add, sub
from sys import getrefcount

from tapegrad.backends._array import Array


class HandedOut:
    """Arrays by number, with the count of the plan's own references to each, and to the array under a view."""

    def __init__(self, arrays: dict[int, Array]) -> None:
        self.arrays = arrays
        # Somebody may hold a view, which refers to the base and not to the array: both are counted.
        views = {k: a for k, a in arrays.items() if a.base is not None}
        self._numbers = [*arrays, *views]
        self._watched = [*arrays.values(), *[a.base for a in views.values()]]
        del views  # it holds some
        self._own = self._counts()

    def _counts(self) -> list[int]:
        return list(map(getrefcount, self._watched))

    def holding(self, take: Callable[[], None]) -> None:
        """Do something that may hold arrays for good: those references are the plan's own from then on."""
        # A capture, for one, makes the graph hold its arguments.
        before = self._counts()
        take()
        self._own = list(map(add, self._own, map(sub, self._counts(), before)))

    def seen(self, held: list[int]) -> set[int]:
        """Return the numbers of arrays with more references than the plan's own and, in order, so many others."""
        # One comparison of lists where all is as expected, as it nearly always is.
        now, expected = self._counts(), [*map(add, self._own, held), *self._own[len(held) :]]
        if now == expected:
            return set()
        return {k for k, n, m in zip(self._numbers, now, expected, strict=True) if n != m}
