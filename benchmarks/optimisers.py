"""A step of AdamW on 50 parameters of 100,000 elements in all, in float32, with gradients that are there.

PyTorch's is torch.optim.AdamW(foreach=True). The hand-written column updates one parameter after the other, in place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import tapegrad as tg
from benchmarks._case import COMPILED, Case, Program, Step, Target

RATE, DECAY, BETA1, BETA2, EPS = 1e-3, 1e-2, 0.9, 0.999, 1e-8


class Task(NamedTuple):
    """The parameters and their gradients."""

    weights: list[Any]
    gradients: list[Any]


def by_hand(task: Task, xp: Any) -> Step:
    weights, gradients = [xp.array(w) for w in task.weights], [xp.asarray(g) for g in task.gradients]
    means, squares = [xp.zeros_like(w) for w in weights], [xp.zeros_like(w) for w in weights]
    count = 0

    def step() -> Any:
        nonlocal count
        count += 1
        root = (1 - BETA2**count) ** 0.5
        size = RATE * root / (1 - BETA1**count)
        for w, g, m, v in zip(weights, gradients, means, squares, strict=True):
            m *= BETA1
            m += (1 - BETA1) * g
            v *= BETA2
            v += (1 - BETA2) * (g * g)
            w *= 1 - RATE * DECAY
            w -= size * (m / (xp.sqrt(v) + EPS * root))
        return weights[0].copy(), weights[-1].copy()

    return step


def on_tapegrad(task: Task, device: str) -> Step:
    weights = [tg.tensor(w, device=device, requires_grad=True) for w in task.weights]
    gradients = [tg.tensor(g, device=device) for g in task.gradients]
    opt = tg.optim.AdamW(weights, RATE, betas=(BETA1, BETA2), eps=EPS, weight_decay=DECAY)

    def step() -> Any:
        for w, g in zip(weights, gradients, strict=True):
            w.grad = g
        opt.step()
        return +weights[0].detach(), +weights[-1].detach()

    return step


def on_torch(task: Task, device: str) -> Step:
    import torch

    weights = [torch.tensor(w, device=device, requires_grad=True) for w in task.weights]
    gradients = [torch.tensor(g, device=device) for g in task.gradients]
    opt = torch.optim.AdamW(weights, RATE, betas=(BETA1, BETA2), eps=EPS, weight_decay=DECAY, foreach=True)

    def step() -> Any:
        for w, g in zip(weights, gradients, strict=True):
            w.grad = g
        opt.step()
        return weights[0].detach().clone(), weights[-1].detach().clone()

    return step


def on_jax(task: Task, device: Any) -> Step:
    import jax
    import jax.numpy as jnp

    weights, gradients = [jax.device_put(list(part), device) for part in (task.weights, task.gradients)]
    state = weights, [w * 0 for w in weights], [w * 0 for w in weights], jnp.zeros((), jnp.int32)

    def update(state: Any, gradients: Any) -> Any:
        weights, means, squares, count = state
        count = count + 1
        root = jnp.sqrt(1 - BETA2**count)
        size = RATE * root / (1 - BETA1**count)
        means = [BETA1 * m + (1 - BETA1) * g for m, g in zip(means, gradients, strict=True)]
        squares = [BETA2 * v + (1 - BETA2) * (g * g) for v, g in zip(squares, gradients, strict=True)]
        weights = [
            w * (1 - RATE * DECAY) - size * (m / (jnp.sqrt(v) + EPS * root))
            for w, m, v in zip(weights, means, squares, strict=True)
        ]
        return weights, means, squares, count

    jitted = jax.jit(update)

    def step() -> Any:
        nonlocal state
        state = jitted(state, gradients)
        return state[0][0], state[0][-1]

    return step


PROGRAMS: dict[str, Program] = {"hand": by_hand, "tapegrad": on_tapegrad, "torch": on_torch, "jax": on_jax}


def task(n: int, size: int) -> Task:
    """Make n parameters of some elements, and their gradients."""
    rng = np.random.default_rng(0)
    weights, gradients = rng.standard_normal((2, n, size), dtype=np.float32)
    return Task(list(weights), list(gradients))


def cases(tiny: bool) -> list[Case]:
    """Return the rows of this benchmark."""
    n, size = (3, 20) if tiny else (50, 2000)
    return [
        Case(
            "optimisers",
            f"AdamW, {n} of {size}",
            task(n, size),
            PROGRAMS,
            uncompiled={"torch": "foreach is its fast way; the step of an optimiser is compiled apart"},
            targets=(Target(1.5, against="torch"), Target(1.0, COMPILED, "torch")),
        )
    ]
