"""From what was captured to what is run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapegrad._compile._fuse import finish, fuse
from tapegrad._compile._groups import Groups
from tapegrad._compile._program import Program
from tapegrad._compile._simplify import simplified
from tapegrad._compile._stack import stack


def planned(program: Program, as_array: Callable[[Any], Any]) -> Program:
    """Return a program that gives the same outputs, in fewer operations, grouped."""
    simple = simplified(program, as_array)
    groups = Groups(simple.nodes)
    fuse(groups)
    stack(groups, simple.outputs)
    items = groups.ordered()
    finish(items, simple.outputs)
    return Program(simple.inputs, items, simple.outputs, simple.replaces)
