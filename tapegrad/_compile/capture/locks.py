"""Locks of captured calls, which survive a fork of the process.

A fork copies the memory of all threads but only the one that forks. Locks that others hold then stay taken for good,
and Tensors that they have lifted into a program hold tracers. So a fork waits for calls to end. Where one takes
too long, as it may wait for the thread that forks, the child makes new locks, and removes the tracers from the Tensors.
"""

from __future__ import annotations

import os
from threading import RLock, local
from time import monotonic
from typing import Any
from weakref import WeakValueDictionary

from tapegrad._compile.capture.graph import Graph
from tapegrad._compile.capture.install_tracers import Tracers
from tapegrad._compile.capture.remove_tracers import remove_all_tracers

PATIENCE = 5.0  # seconds that a fork waits


class Tracing:
    """The lock for calls that are captured, whichever the function: Tensors hold tracers meanwhile.

    begun, ended: how many such calls there were; running: the tracers that they have installed.
    """

    def __init__(self) -> None:
        self.running: list[Tracers] = []
        self.reset()

    def reset(self) -> None:
        """Begin anew, after calls that will never end."""
        self.lock = RLock()
        self.begun = self.ended = 0
        lost, self.running = self.running, []
        Graph.everywhere = None
        for lifted in lost:
            lifted.graph.ended = True
            lifted.remove()
            remove_all_tracers(lifted.graph)


tracing = Tracing()
functions: WeakValueDictionary[int, Any] = WeakValueDictionary()  # the compiled ones of this process, by identity


def _holders() -> list[Any]:
    """Return all that has a lock, in the order in which calls take them; other threads may make more meanwhile."""
    return [*[f for r in functions.valuerefs() if (f := r()) is not None], tracing]


class _Held(local):
    """The holders of locks that this thread took before a fork."""

    def __init__(self) -> None:
        self.holders: list[Any] = []


_held = _Held()


def _before() -> None:
    """Wait for calls that run in other threads, which may be inside BLAS: its locks would stay locked as well."""
    until = monotonic() + PATIENCE
    for holder in _holders():
        if holder.lock.acquire(timeout=max(0.0, until - monotonic())):
            _held.holders.append(holder)


def _in_parent() -> None:
    while _held.holders:
        _held.holders.pop().lock.release()


def _in_child() -> None:
    """Reset all that threads hold which are not in this process."""
    ours = set(_held.holders)
    _in_parent()
    for holder in _holders():
        if holder not in ours:
            holder.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
