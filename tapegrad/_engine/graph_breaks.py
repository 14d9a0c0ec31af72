"""Graph breaks: the lines of user code that cut the tape inside a transform."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from tapegrad._engine.source_line import user_line

MOST = 4  # graph breaks that a message names
_HELD = 16  # graph breaks that a transform keeps


class Record(Protocol):
    """The part of a record that this module needs: its sequence number."""

    seq: int


class Cuts:
    """The graph breaks inside a transform.

    Attributes
    ----------
    first : int
        The sequence number of the transform's first record.
    outermost : int
        The same of the outermost transform; a record of any running transform is not older.
    found : dict of str to list
        For each cause with its line, the first and the latest record that was cut there.
    outer : Cuts or None
        The graph breaks of the enclosing transform.
    """

    __slots__ = ("first", "found", "outer", "outermost")

    def __init__(self, first: int, outer: Cuts | None) -> None:
        self.first, self.outer = first, outer
        self.outermost: int = first if outer is None else max(first, outer.outermost)
        self.found: dict[str, list[Any]] = {}

    def note(self, how: str, r: Record) -> None:
        """Add a graph break at a record with the user's line, unless the record precedes all running transforms."""
        if r.seq <= self.outermost:
            self.add(f"{how} at {user_line()}", r)

    def add(self, text: str, r: Record) -> None:
        """Add a graph break whose text names its line already."""
        held = self.found.get(text)
        if held is not None:
            if held[0] is not r:
                held[1:] = [r]
        elif len(self.found) < _HELD:
            self.found[text] = [r]


cuts: ContextVar[Cuts | None] = ContextVar("tapegrad.cuts", default=None)


def cut(how: str, r: Record) -> None:
    """Note a graph break at a record, for the running transforms."""
    open_ = cuts.get()
    if open_ is not None:
        open_.note(how, r)


@contextmanager
def unnoticed() -> Iterator[None]:
    """A context without notes of graph breaks, for a second run whose first run was noted."""
    inner = Cuts(0, None)
    inner.outermost = -sys.maxsize  # every record is older
    token = cuts.set(inner)
    try:
        yield
    finally:
        cuts.reset(token)


def cut_by_use(how: str) -> Callable[..., None] | None:
    """Return a watcher that notes each use of a recorded Tensor as a graph break; None outside of transforms."""
    open_ = cuts.get()
    if open_ is None:
        return None

    def watch(operation: Any, operands: Any, static: Any, result: Any) -> None:
        for x in operands:
            r = getattr(x, "_record", None)
            if r is not None:
                open_.note(how, r)

    watch.passive = True  # type: ignore[attr-defined]  # see `mode.is_passive`
    return watch
