"""Where the user's code cut the chain inside a transform, so that a message can say it."""

from __future__ import annotations

import os
import sys
from contextvars import ContextVar
from types import FrameType

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


def user_line(ours: int = 1) -> str:
    """Return "file:line" of the innermost frame outside tapegrad; ours: how many of the innermost need no look."""
    frame: FrameType | None = sys._getframe(ours)
    while frame is not None:
        name = _names.get(frame.f_code.co_filename)
        if name is None:
            name = _name(frame.f_code.co_filename)
        if name:
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def cut(how: str, seq: int | None = None) -> None:
    """Note that a chain was cut, if that is of a record the transform made: one numbered from its first on."""
    open_ = cuts.get()
    if open_ is not None and (seq is None or seq <= open_[0]):
        open_[1].append(f"{how} at {user_line()}")
