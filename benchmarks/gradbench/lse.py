"""lse: the logarithm of a sum of exponentials."""

from __future__ import annotations

from typing import Any

import tapegrad as tg
from benchmarks.gradbench._function import Function, floats


def prepare(given: Any, device: str) -> tg.Tensor:
    return floats(given["x"], device)


FUNCTIONS = {"primal": Function(prepare, tg.logsumexp), "gradient": Function(prepare, tg.grad(tg.logsumexp))}
