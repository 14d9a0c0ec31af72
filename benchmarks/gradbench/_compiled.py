"""Evaluations that go through `tapegrad.compile`, and those that cannot, with the reason."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import tapegrad as tg

Compute = Callable[[Any], Any]


@dataclass(frozen=True)
class Eager:
    """Tasks of a module that are not compiled. when: which ones; why: in words for the notes under the table."""

    when: Callable[[Any], bool]
    why: str


NOT_COMPILED = {
    "saddle": Eager(
        lambda task: True, "values decide how many steps a descent takes, and an outer one records the inner"
    ),
    "particle": Eager(lambda task: True, "values decide how many steps a descent takes, and how many a fall"),
    "lstm": Eager(lambda task: task.text.shape[0] > 1024, "planning a program of so many steps takes minutes"),
    "ode": Eager(lambda task: task.s > 25, "planning a program of so many steps takes minutes"),
}


class Compiler:
    """Compiles the work of functions: one program for a function, the shapes and the static values of its task.

    threads: as in `tapegrad.compile`; kept: how many programs, with the memory they hold, are kept for tasks alike.
    """

    def __init__(self, threads: int | None = 1, kept: int = 4) -> None:
        self.threads = threads
        self.kept = kept
        self._made: dict[Hashable, Compute] = {}

    def __call__(self, module: str, compute: Compute, task: Any, refuse: type[Exception] | None = None) -> Compute:
        """Return `compute` compiled and ready to replay for this task, or as it is where it cannot be compiled.

        refuse: an error to raise there instead, with the reason.
        """
        known = NOT_COMPILED.get(module)
        if known is not None and known.when(task):
            return _eagerly(compute, known.why, refuse)
        key = compute, _alike(task)
        made = self._made.pop(key, None)
        if made is None:
            made = tg.compile(compute, threads=self.threads)
            try:
                for _ in range(3):
                    made(task)
            except tg.CaptureError as error:
                return _eagerly(compute, str(error), refuse, module)
        self._made[key] = made
        for oldest in list(self._made)[: -self.kept]:
            del self._made[oldest]
        return made


def _eagerly(compute: Compute, why: str, refuse: type[Exception] | None, surprised: str = "") -> Compute:
    if refuse is not None:
        raise refuse(why)
    if surprised:
        print(f"gradbench: {surprised} runs eagerly: {why}", file=sys.stderr)
    return compute


def _alike(tree: Any) -> Hashable:
    """Return a key that tasks have in common if one program serves them."""
    if isinstance(tree, tg.Tensor):
        return tree.shape
    return (type(tree), *map(_alike, tree)) if isinstance(tree, (tuple, list)) else tree
