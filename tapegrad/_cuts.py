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


def inside(frame: FrameType) -> bool:
    """Say whether a frame runs code of tapegrad."""
    return frame.f_code.co_filename.startswith(_INSIDE)


def user_line() -> str:
    """Return "file:line" of the innermost frame outside tapegrad."""
    frame = sys._getframe(1)
    while frame.f_back is not None and inside(frame):
        frame = frame.f_back
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


def cut(how: str, seq: int | None = None) -> None:
    """Note that a chain was cut, if that is of a record the transform made: one numbered from its first on."""
    open_ = cuts.get()
    if open_ is not None and (seq is None or seq <= open_[0]):
        open_[1].append(f"{how} at {user_line()}")
