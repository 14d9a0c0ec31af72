"""Counters of random numbers, which a second computation of a function begins where the first began.

A generator of random numbers asks here for the Tensor with its counter. That is its own one, except inside of a second
computation, as of a checkpoint, which has copies from the beginning of the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from tapegrad._engine.mode import notify_use
from tapegrad._engine.tensor import Tensor, wrap

Counts = dict[Any, Any]  # generator -> the raw array of its counter


class Counted(Protocol):
    """A generator: an object with a counter."""

    @property
    def count(self) -> Tensor:
        """The counter."""


class _Scope:
    """A computation whose draws are noted, or which draws again."""

    def __init__(self, outer: _Scope | None) -> None:
        self.outer = outer
        self.first: Counts = {}  # the counts at the start of a first computation
        self.again: dict[Any, Tensor] = {}  # the counters of a second one

    def counter(self, generator: Counted) -> Tensor:
        if generator in self.again:
            return self.again[generator]
        found = generator.count if self.outer is None else self.outer.counter(generator)
        if generator not in self.first:
            notify_use(found)
            self.first[generator] = found._array
        return found


_scope: ContextVar[_Scope | None] = ContextVar("tapegrad.counters", default=None)


def counter_of(generator: Counted) -> Tensor:
    """Return the Tensor with the counter from which a generator draws now."""
    scope = _scope.get()
    return generator.count if scope is None else scope.counter(generator)


@contextmanager
def noted_counts() -> Iterator[Counts]:
    """A context that gives the counters with which generators began inside of it."""
    scope = _Scope(_scope.get())
    token = _scope.set(scope)
    try:
        yield scope.first
    finally:
        _scope.reset(token)


@contextmanager
def counts_put_back(counts: Counts) -> Iterator[None]:
    """A context in which generators draw from counters that were noted, and their own ones stay."""
    scope = _Scope(_scope.get())
    scope.again = {generator: wrap(array) for generator, array in counts.items()}
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)
