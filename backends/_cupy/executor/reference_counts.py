"""Arrays of a plan that others hold: reference counts tell whether anybody holds one who should not."""

from __future__ import annotations

from collections.abc import Callable
from operator import add, sub
from sys import getrefcount
from typing import Any


class HandedOut:
    """Arrays by number, and how many references to each, or to what it is a view of, are the plan's own."""

    def __init__(self, arrays: dict[int, Any]) -> None:
        self.arrays = arrays
        views = {k: a for k, a in arrays.items() if a.base is not None}
        self._numbers = [*arrays, *views]
        self._watched = [*arrays.values(), *[a.base for a in views.values()]]
        del views  # it holds some
        self._own = self._counts()

    def _counts(self) -> list[int]:
        return list(map(getrefcount, self._watched))

    def holding(self, take: Callable[[], None]) -> None:
        """Do something that may hold arrays for good: those references are the plan's own from then on."""
        before = self._counts()
        take()
        self._own = list(map(add, self._own, map(sub, self._counts(), before)))

    def seen(self, held: list[int]) -> set[int]:
        """Return the numbers of arrays with more references than the plan's own and, in order, so many others."""
        now, expected = self._counts(), [*map(add, self._own, held), *self._own[len(held) :]]
        if now == expected:
            return set()
        return {k for k, n, m in zip(self._numbers, now, expected, strict=True) if n != m}
