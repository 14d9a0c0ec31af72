"""The line of the user's code that called tapegrad, for messages."""

from __future__ import annotations

import os
import sys
from types import FrameType

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # the package
_INSIDE = (_HERE + os.sep, os.path.join(os.path.dirname(_HERE), "backends") + os.sep)


# File -> its name without folders; "" for files of tapegrad. `_lines` has "" for files of the standard library too.
_names: dict[str, str] = {}
_lines: dict[str, str] = {}
_STANDARD = os.path.dirname(os.__file__) + os.sep


def _name(file: str) -> str:
    name = _names.get(file)
    if name is None:
        name = _names[file] = "" if file.startswith(_INSIDE) else os.path.basename(file)
    return name


def _line(file: str) -> str:
    standard = file.startswith(_STANDARD) and "-packages" + os.sep not in file
    name = _lines[file] = "" if standard else _name(file)
    return name


def inside(frame: FrameType) -> bool:
    """Return whether a frame runs code of tapegrad."""
    return not _name(frame.f_code.co_filename)


def user_line(ours: int = 1, apart: str = "") -> str:
    """Return "file:line" of the innermost frame of neither tapegrad nor the standard library.

    ours: the number of innermost frames to skip; apart: a part of the names of further files to skip, if any other
    frame is left.
    """
    frame: FrameType | None = sys._getframe(ours)
    while apart and frame is not None and (inside(frame) or apart in frame.f_code.co_filename):
        frame = frame.f_back
    frame = frame or sys._getframe(ours)
    while frame is not None:
        name = _lines.get(frame.f_code.co_filename)
        if name is None:
            name = _line(frame.f_code.co_filename)
        if name:
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
