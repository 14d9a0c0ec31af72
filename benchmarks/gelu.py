"""gelu of 4M float32 elements, `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`: sum it, and its gradient.

Composed of elementary operations (compiled to the bit, and with sums and products reassociated, which makes fewer
passes), and as the libraries' own function; in these rows the hand-written column is
the formula and its derivative. The last row is peak memory, in MB above the input.
"""

from __future__ import annotations

from functools import partial
from math import pi, sqrt
from typing import Any, NamedTuple

import numpy as np

import tapegrad as tg
from benchmarks._case import COMPILED, Case, Program, Skip, Step, Target

SCALE, CUBE = sqrt(2 / pi), 0.044715


class Task(NamedTuple):
    """The input, and whether to call the library's own gelu."""

    x: Any
    own: bool = False


def by_hand(task: Task, xp: Any) -> Step:
    x = xp.asarray(task.x)

    def step() -> Any:
        th = xp.tanh(SCALE * (x + CUBE * (x * x * x)))
        loss = (0.5 * x * (1 + th)).sum()
        slope = SCALE * (1 + 3 * CUBE * (x * x))
        gx = 0.5 * (1 + th) + 0.5 * x * (1 - th * th) * slope
        return loss, gx

    return step


def on_tapegrad(task: Task, device: str) -> Step:
    x = tg.tensor(task.x, device=device, requires_grad=True)

    def step() -> Any:
        x.grad = None
        y = tg.gelu(x, approximate="tanh") if task.own else 0.5 * x * (1 + tg.tanh(SCALE * (x + CUBE * (x * x * x))))
        loss = tg.sum(y)
        loss.backward()
        return loss, x.grad

    return step


def on_torch(task: Task, device: str) -> Step:
    import torch

    x = torch.tensor(task.x, device=device, requires_grad=True)
    gelu = partial(torch.nn.functional.gelu, approximate="tanh")

    def step() -> Any:
        x.grad = None
        y = gelu(x) if task.own else 0.5 * x * (1 + torch.tanh(SCALE * (x + CUBE * (x * x * x))))
        loss = torch.sum(y)
        loss.backward()
        return loss, x.grad

    return step


def on_jax(task: Task, device: Any) -> Step:
    import jax
    import jax.numpy as jnp

    x = jax.device_put(task.x, device)

    def loss_of(x: Any) -> Any:
        if task.own:
            return jnp.sum(jax.nn.gelu(x, approximate=True))
        return jnp.sum(0.5 * x * (1 + jnp.tanh(SCALE * (x + CUBE * (x * x * x)))))

    gradient = jax.jit(jax.value_and_grad(loss_of))
    return lambda: gradient(x)


def on_autograd(task: Task, _: None) -> Step:
    import autograd
    import autograd.numpy as anp

    if task.own:
        raise Skip("it has none")
    gradient = autograd.value_and_grad(lambda x: anp.sum(0.5 * x * (1 + anp.tanh(SCALE * (x + CUBE * (x * x * x))))))
    return lambda: gradient(task.x)


def on_mygrad(task: Task, _: None) -> Step:
    import mygrad

    if task.own:
        raise Skip("it has none")
    x = mygrad.tensor(task.x)
    half, one, scale, cube = np.asarray([0.5, 1, SCALE, CUBE], dtype=np.float32)  # Python's would make float64

    def step() -> Any:
        loss = mygrad.sum(half * x * (one + mygrad.tanh(scale * (x + cube * (x * x * x)))))
        loss.backward()
        return loss.data, x.grad

    return step


PROGRAMS: dict[str, Program] = {
    "hand": by_hand,
    "tapegrad": on_tapegrad,
    "torch": on_torch,
    "jax": on_jax,
    "autograd": on_autograd,
    "mygrad": on_mygrad,
}


def task(n: int, own: bool = False) -> Task:
    """Make an input of n normal numbers."""
    return Task(np.random.default_rng(0).standard_normal(n, dtype=np.float32), own)


def cases(tiny: bool) -> list[Case]:
    """Return the rows of this benchmark."""
    n = 1000 if tiny else 4_000_000
    size = "1k" if tiny else "4M"
    on_host = {library: PROGRAMS[library] for library in ("hand", "tapegrad", "torch")}
    return [
        # No eager target: a tape of elementary operations cannot make as few passes as a derivative simplified by hand.
        Case("gelu", f"composed, {size}", task(n), PROGRAMS),
        Case(
            "gelu",
            f"composed, reassociated, {size}",
            task(n),
            PROGRAMS,
            reassociate=True,
            targets=(Target(1.2, COMPILED, "jax.jit"),),
        ),
        Case("gelu", f"own function, {size}", task(n, own=True), PROGRAMS, targets=(Target(1.1),)),
        Case(
            "gelu",
            f"peak memory, composed, {'1M' if tiny else size}",
            max(n, 1_000_000),  # fewer would be hidden in free memory of the process
            on_host,
            unit="MB",
            memory=True,
            targets=(Target(1.01, against="torch"),),  # allocators differ by some pages
        ),
    ]
