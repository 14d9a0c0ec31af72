"""Where the user's code cut the chain inside a transform, so that a message can say it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextvars import ContextVar
from types import FrameType
from typing import Any

MOST = 4  # of cuts that a message names
# (the sequence number that the transform's first record got, what cut the chain since and where)
cuts: ContextVar[tuple[int, list[str]] | None] = ContextVar("tapegrad.cuts", default=None)
_HERE = os.path.dirname(os.path.abspath(__file__))
_INSIDE = (_HERE + os.sep, os.path.join(os.path.dirname(_HERE), "backends") + os.sep)


_names: dict[str, str] = {}  # of files, without their folders; "" for one of tapegrad's


def _name(file: str) -> str:
    name = _names.get(file)
    if name is None:
        name = _names[file] = "" if file.startswith(_INSIDE) else os.path.basename(file)
    return name


def inside(frame: FrameType) -> bool:
    """Say whether a frame runs code of tapegrad."""
    return not _name(frame.f_code.co_filename)


def user_line(ours: int = 1, apart: str = "") -> str:
    """Return "file:line" of the innermost frame outside tapegrad.

    ours: how many of the innermost need no look; apart: what is in the names of further files that are passed over, if
    that leaves any.
    """
    frame: FrameType | None = sys._getframe(ours)
    while apart and frame is not None and (inside(frame) or apart in frame.f_code.co_filename):
        frame = frame.f_back
    frame = frame or sys._getframe(ours)
    while frame is not None:
        name = _names.get(frame.f_code.co_filename)
        if name is None:
            name = _name(frame.f_code.co_filename)
        if name:
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def cut(how: str, seq: int) -> None:
    """Note that a chain was cut, if that is of a record the transform made: one numbered from its first on."""
    open_ = cuts.get()
    if open_ is not None and seq <= open_[0]:
        _note(open_[1], how)


def _note(lines: list[str], how: str) -> None:
    if len(lines) < MOST:
        line = f"{how} at {user_line()}"
        if line not in lines:
            lines.append(line)


def cut_by_use(how: str) -> Callable[..., None] | None:
    """Return who watches a block in which a transform's records are lost as they are used; None outside of any."""
    open_ = cuts.get()
    if open_ is None:
        return None
    first, lines = open_

    def watch(operation: Any, operands: Any, static: Any, result: Any) -> None:
        if len(lines) < MOST and any([_seq(x, first + 1) <= first for x in operands]):
            _note(lines, how)

    watch.passive = True  # type: ignore[attr-defined]  # what is used matters to it, not how that is computed
    return watch


def _seq(x: Any, otherwise: int) -> int:
    record = getattr(x, "_record", None)
    return otherwise if record is None else record.seq
