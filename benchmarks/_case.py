"""Declaration of a benchmark: its cases, each a row of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Step = Callable[[], Sequence[Any]]
"""The work to time. Returns the results to wait for and compare: the loss and the gradients."""

Program = Callable[[Any, Any], Step]
"""`program(task, place)` sets a task up in one library, at a place (see `Column`), and returns its step."""


class Skip(Exception):
    """Raised by a program that cannot do this task; the message, which says why, goes below the table."""


EAGER, COMPILED = "tapegrad cpu", "tapegrad cpu compiled"


@dataclass(frozen=True)
class Target:
    """`column` takes at most `limit` times as much as another column in the same row.

    against: None if the limit is on the column itself, in the row's unit. row: compare with this other row of
    the benchmark instead. difference: the limit is on the difference, in the row's unit, not on the ratio.
    """

    limit: float
    column: str = EAGER
    against: str | None = "hand numpy"
    row: str | None = None
    difference: bool = False


@dataclass(frozen=True)
class Case:
    """A row of the table: one task, and the programs that do it.

    programs: library ("hand", "tapegrad", "torch", ...) -> its program. per: how many operations the time is
    shared among. one_thread: whether libraries may use only one thread. first: time the first four calls of a
    new step each, so that compiling it is included. uncompiled: library -> why its step is not compiled.
    reassociate: compile tapegrad's step with `reassociate=True`.
    memory: measure peak memory, not time, in a fresh process for each column; there `task` is the argument
    of the function `task` of the benchmark's module.
    """

    benchmark: str
    name: str
    task: Any
    programs: Mapping[str, Program]
    unit: str = "ms"
    per: int = 1
    one_thread: bool = False
    first: bool = False
    uncompiled: Mapping[str, str] = field(default_factory=dict)
    reassociate: bool = False
    memory: bool = False
    targets: tuple[Target, ...] = ()
