"""Warnings for in-place updates of a slice, reshape or transpose: NumPy would change the base too, tapegrad does not.

Such a Tensor holds its base in `_base`. The base is read only if the Tensor is updated in place while its buffer is
shared.
"""

from __future__ import annotations

import dis
import sys
import warnings
from types import CodeType, FrameType
from typing import Any

from tapegrad._engine.dispatch import backend_of
from tapegrad._engine.mode import mode
from tapegrad._engine.source_line import inside
from tapegrad._engine.tensor import Tensor, new

_base_of: Any = Tensor.__dict__["_base"].__get__  # not by Tensor.__getattr__, which makes up a message
_STORES = ("STORE_SUBSCR", "STORE_SLICE")
_BETWEEN = ("CACHE", "SWAP", "ROT_TWO", "ROT_THREE", "EXTENDED_ARG", "BUILD_SLICE", "NOP")


def updated(x: Tensor, what: str, caller: FrameType | None = None, held: int = 0) -> None:
    """Warn, once a line, of an in-place update that the base will not see; raise under `debug()`.

    what: the update, for the message; caller: the frame that runs an in-place operator, whose result may be written
    back to the base, as in `a[i] += v`; held: the reference count of `x` in that operator.
    """
    if not _has_base(x):
        return
    if (caller is not None and _is_stored_back(caller, held)) or not _seen_elsewhere(x):
        x._base = None
        return
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and inside(frame):
        frame = frame.f_back
    message = (
        f"{what} on a slice, reshape or transpose of another Tensor: NumPy would change that one too, but here it "
        "keeps its values, as a Tensor is a value. Write to that one, as in a[i] += v, or copy first: row = +a[i]"
    )
    if mode().debug:
        raise RuntimeError(message)
    x._base = None
    if frame is None:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    module = frame.f_globals.get("__name__", "<unknown>")
    warnings.warn_explicit(message, RuntimeWarning, frame.f_code.co_filename, frame.f_lineno, module, registry)


def _has_base(x: Tensor) -> bool:
    """Return whether a Tensor has a base."""
    try:
        return _base_of(x) is not None
    except AttributeError:
        return False


def _memory(x: Any) -> int | None:
    return backend_of[type(x._array)].memory(x._array)


def _seen_elsewhere(x: Any) -> bool:
    """Return whether a base shares the memory of a Tensor and is held by others than its slices."""
    memory = _memory(x)
    while _has_base(x) and _memory(x._base) == memory:
        if sys.getrefcount(x._base) > _ALONE:
            return True
        x = x._base
    return False


def _held_alone() -> int:
    """Return the reference count of a Tensor that only the `_base` of another Tensor holds."""
    x = new(Tensor)
    x._base = new(Tensor)
    return sys.getrefcount(x._base)


_ALONE = _held_alone()


def _is_stored_back(frame: FrameType, count: int) -> bool:
    """Return whether a frame writes the result of its current update back to an index, as `a[i] += v` does.

    count: the reference count of the updated Tensor. In `rows[i] += v` with a list of rows, the list holds it too.
    """
    code, at = frame.f_code, frame.f_lasti
    known = _found.get((id(code), at))
    if known is None:
        if len(_found) > 4096:
            _found.clear()
        known = _found[id(code), at] = (code, *_after(code, at))
    _, stores, augmented = known
    return stores and (count <= _TEMPORARY or not augmented)


_found: dict[tuple[int, int], tuple[CodeType, bool, bool]] = {}  # holds the code, so that its identity stays its own


def _after(code: CodeType, at: int) -> tuple[bool, bool]:
    """Return whether the result of an instruction is stored at an index, and whether it is an operator's."""
    augmented, name = False, ""
    for step in dis.get_instructions(code):
        before, name = name, step.opname
        if step.offset == at:
            augmented = name.startswith(("BINARY_OP", "INPLACE_"))
        elif before == "PRECALL":  # with which Python 3.11 makes one instruction of a call
            continue
        elif step.offset > at and name not in _BETWEEN and not name.startswith("LOAD_"):
            return name in _STORES, augmented
    return False, augmented


def _held_as_temporary() -> int:
    """Return the reference count of `a[i]` inside the in-place operator that `a[i] += v` calls."""
    counts = []

    class Item:
        def __iadd__(self, other: int) -> Item:
            counts.append(sys.getrefcount(self))
            return self

    class Items:
        def __getitem__(self, i: int) -> Item:
            return Item()

        def __setitem__(self, i: int, value: Item) -> None:
            pass

    items = Items()
    items[0] += 1
    return counts[0]


_TEMPORARY = _held_as_temporary()
