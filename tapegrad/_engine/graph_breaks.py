"""Graph breaks: the lines at which a user cut the chain inside a transform."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from tapegrad._engine.source_line import user_line

MOST = 4  # of cuts that a message names
_HELD = 16  # that a transform looks at


class Record(Protocol):
    """A record, as far as it matters here: its sequence number."""

    seq: int


class Cuts:
    """What cut the chain inside a transform.

    first: the sequence number of the transform's first record; outermost: that of the outermost transform, which no
    record of theirs is older than; found: what cut the chain and where, and the first and the latest record that was
    cut there; outer: those of the transform around it.
    """

    __slots__ = ("first", "found", "outer", "outermost")

    def __init__(self, first: int, outer: Cuts | None) -> None:
        self.first, self.outer = first, outer
        self.outermost: int = first if outer is None else max(first, outer.outermost)
        self.found: dict[str, list[Any]] = {}

    def note(self, how: str, r: Record) -> None:
        """Keep what cut the chain at a record, unless that is older than any transform that runs."""
        if r.seq <= self.outermost:
            self.add(f"{how} at {user_line()}", r)

    def add(self, text: str, r: Record) -> None:
        """Keep a cut that is known with its line."""
        held = self.found.get(text)
        if held is not None:
            if held[0] is not r:
                held[1:] = [r]
        elif len(self.found) < _HELD:
            self.found[text] = [r]


cuts: ContextVar[Cuts | None] = ContextVar("tapegrad.cuts", default=None)


def cut(how: str, r: Record) -> None:
    """Note that a chain was cut at a record, for the transforms that run."""
    open_ = cuts.get()
    if open_ is not None:
        open_.note(how, r)


@contextmanager
def unnoticed() -> Iterator[None]:
    """Let nothing be noted: what runs here is a part of a derivative, and its first run was noted."""
    inner = Cuts(0, None)
    inner.outermost = -sys.maxsize  # every record is older
    token = cuts.set(inner)
    try:
        yield
    finally:
        cuts.reset(token)


def cut_by_use(how: str) -> Callable[..., None] | None:
    """Return who watches a block in which a transform's records are lost as they are used; None outside of any."""
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
