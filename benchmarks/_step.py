"""Setting a case up in a column: the step to call, compiled where the column is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import tapegrad as tg
from benchmarks._arrays import wait
from benchmarks._case import Case, Skip, Step
from benchmarks._columns import Column

FIRST = 4  # calls after which every library is done compiling


def step_of(case: Case, column: Column, threads: int) -> Step:
    """Set a case up in a column; return its step. Raises Skip if it cannot be done there."""
    if column.compiled:
        own = str(column.place).partition(":")[0] if column.library == "tapegrad" else ""  # whose compiler gets it
        for library in (column.library, own):
            if library in case.uncompiled:
                raise Skip(case.uncompiled[library])

    def make() -> Step:
        step = case.programs[column.library](case.task, column.place)
        return _compiled(step, case, column.library, threads) if column.compiled else step

    if not case.first:
        return make()

    def first_calls() -> Sequence[Any]:
        with _no_cache(column):
            step = make()
            for _ in range(FIRST - 1):
                wait(step())
            return step()

    return first_calls


def _compiled(step: Step, case: Case, library: str, threads: int) -> Step:
    """Return a step through the `compile` of its library."""
    if library == "tapegrad":
        return tg.compile(step, threads=threads, reassociate=case.reassociate)
    import torch

    # A program has one code for all its tasks, and PyTorch would generalise over their shapes, or give up.
    torch._dynamo.reset()
    return torch.compile(step)  # type: ignore[no-any-return]


def _no_cache(column: Column) -> AbstractContextManager[Any]:
    """Return a context in which PyTorch does not find code compiled before on disk; no other library looks there."""
    if column.library != "torch" or not column.compiled:
        return nullcontext()
    from torch._inductor.utils import fresh_inductor_cache

    return fresh_inductor_cache()  # type: ignore[no-any-return]
