"""saddle: the x that minimises the maximum over y of a function, by descent within descent, and that y."""

from __future__ import annotations

from typing import Any

import tapegrad as tg
from benchmarks.gradbench._descent import MODES, Mode, argmax, argmin
from benchmarks.gradbench._function import Function, floats


def prepare(given: Any, device: str) -> tg.Tensor:
    return floats(given["start"], device)


def f(x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
    return tg.sum(x * x) - tg.sum(y * y)


def solve(start: tg.Tensor, outer: Mode, inner: Mode) -> tg.Tensor:
    """Return x and y, concatenated; `outer` also finds the last y."""

    def highest(x: tg.Tensor) -> tg.Tensor:
        return f(x, argmax(lambda y: f(x, y), start, inner))

    x = argmin(highest, start, outer)
    return tg.concat([x, argmax(lambda y: f(x, y), start, outer)])


def _function(outer: str, inner: str) -> Function:
    return Function(prepare, lambda start: solve(start, MODES[outer], MODES[inner]))


FUNCTIONS = {outer + inner: _function(outer, inner) for outer in "fr" for inner in "fr"}
