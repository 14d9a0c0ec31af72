"""Captured programs on JAX: one function that XLA compiles.

XLA fuses and reorders: results agree with eager calls up to rounding, not to the bit. No buffer is donated, not even of
state that is replaced: JAX deletes a donated array, and another Tensor, or the user, may hold the same one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from tapegrad._program.interpreter import replay_of
from tapegrad._program.ir import Node, Program
from tapegrad._program.loops import LoopNode
from tapegrad.backends._array import Array
from tapegrad.backends._external_compiler import CompiledExecutor


class JitExecutor(CompiledExecutor):
    """Runs a program by `jax.jit` of its replay."""

    def __init__(self, program: Program[Node], to_host: Callable[[Array], Any]) -> None:
        super().__init__(program, "jax.jit", _jit, to_host, _loop)


def _jit(replay: Callable[..., Any], *_: Any) -> Callable[..., Any]:
    function: Callable[..., Any] = jax.jit(replay)  # compiles on the first run
    return function


def _loop(loop: LoopNode, x: Array, *outer: Array) -> tuple[Array, Array]:
    """Run a loop on the device; return its result, and the last change if it did not converge, else 0."""
    jnp, until = jax.numpy, loop.until
    step = replay_of(loop.program)

    def again(carry: tuple[Array, ...]) -> Array:
        _, n, change, size = carry
        return (n < until.limit) & ~settled(change, size) & ((n == 0) | jnp.isfinite(change))

    def settled(change: Array, size: Array) -> Array:
        return jnp.isfinite(change) & (change <= until.scale * jnp.where(size > 1, size, 1))

    def once(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        y, *measures = step([carry[0], *outer])
        return jax.lax.convert_element_type(y, x.dtype), carry[1] + 1, *[jnp.asarray(m, x.dtype) for m in measures]

    y, _, change, size = jax.lax.while_loop(again, once, (x, 0, jnp.asarray(jnp.inf, x.dtype), jnp.ones((), x.dtype)))
    return y, jnp.where(settled(change, size), 0, change)
