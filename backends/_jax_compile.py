"""Captured programs on JAX: one function that XLA compiles.

XLA fuses and reorders: results agree with eager calls up to rounding, not to the bit. No buffer is donated, not even of
state that is replaced: JAX deletes a donated array, and another Tensor, or the user, may hold the same one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from tapegrad.backends._handed_over import HandedOver


class Executor(HandedOver):
    """Runs a program by `jax.jit` of its replay."""

    def __init__(self, program: Any) -> None:
        super().__init__(program, "jax.jit", _jit)


def _jit(replay: Callable[..., Any], *_: Any) -> Callable[..., Any]:
    function: Callable[..., Any] = jax.jit(replay)  # which compiles on the first run
    return function
