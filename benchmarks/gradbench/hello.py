"""hello: the square of a number, and its derivative."""

from __future__ import annotations

import tapegrad as tg
from benchmarks.gradbench._function import Function, floats


def square(x: tg.Tensor) -> tg.Tensor:
    return x * x


FUNCTIONS = {"square": Function(floats, square), "double": Function(floats, tg.grad(square))}
