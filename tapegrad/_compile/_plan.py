"""From what was captured to what is run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapegrad._compile._fuse import fused
from tapegrad._compile._program import Program
from tapegrad._compile._simplify import simplified


def planned(program: Program, as_array: Callable[[Any], Any]) -> Program:
    """Return a program that gives the same outputs, in fewer operations and in runs."""
    return fused(simplified(program, as_array))
