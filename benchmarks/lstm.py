"""An LSTM of hidden size 128 over 64 steps, forward and backward through time.

Gates in the order input, forget, output, candidate. The hand-written program makes the same products, step by
step, as the others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import tapegrad as tg
from benchmarks._case import COMPILED, Case, Program, Step, Target


class Task(NamedTuple):
    """x: (steps, batch, features); the weights of x and of the hidden state, gates side by side; the bias."""

    x: Any
    wx: Any
    wh: Any
    b: Any


def by_hand(task: Task, xp: Any) -> Step:
    x, wx, wh, b = (xp.asarray(a) for a in task)
    steps, batch, _ = x.shape
    n = wh.shape[0]

    def sigmoid(x: Any) -> Any:
        return 1 / (1 + xp.exp(-x))

    def step() -> Any:
        h = c = xp.zeros((batch, n), dtype=x.dtype)
        saved = []
        for t in range(steps):
            z = x[t] @ wx + h @ wh + b
            i, f, o = sigmoid(z[:, :n]), sigmoid(z[:, n : 2 * n]), sigmoid(z[:, 2 * n : 3 * n])
            g = xp.tanh(z[:, 3 * n :])
            before = h, c
            c = f * c + i * g
            tc = xp.tanh(c)
            h = o * tc
            saved.append((*before, i, f, o, g, tc))
        loss = (h * h).mean()

        gwx, gwh, gb = xp.zeros_like(wx), xp.zeros_like(wh), xp.zeros_like(b)
        gh = h * (2 / h.size)
        gc = xp.zeros_like(c)
        for t in reversed(range(steps)):
            h, c, i, f, o, g, tc = saved[t]
            gc = gc + gh * o * (1 - tc * tc)
            gz = xp.empty((batch, 4 * n), dtype=x.dtype)
            gz[:, :n] = gc * g * i * (1 - i)
            gz[:, n : 2 * n] = gc * c * f * (1 - f)
            gz[:, 2 * n : 3 * n] = gh * tc * o * (1 - o)
            gz[:, 3 * n :] = gc * i * (1 - g * g)
            gwx += x[t].T @ gz
            gwh += h.T @ gz
            gb += gz.sum(axis=0)
            gh = gz @ wh.T
            gc = gc * f
        return loss, gwx, gwh, gb

    return step


def on_tapegrad(task: Task, device: str) -> Step:
    x = tg.tensor(task.x, device=device)
    wx, wh, b = weights = [tg.tensor(a, device=device, requires_grad=True) for a in task[1:]]
    steps, batch, _ = x.shape
    n = wh.shape[0]

    def step() -> Any:
        for w in weights:
            w.grad = None
        h = c = tg.zeros((batch, n), dtype=x.dtype, device=device)
        for t in range(steps):
            z = x[t] @ wx + h @ wh + b
            i, f, o = tg.sigmoid(z[:, :n]), tg.sigmoid(z[:, n : 2 * n]), tg.sigmoid(z[:, 2 * n : 3 * n])
            c = f * c + i * tg.tanh(z[:, 3 * n :])
            h = o * tg.tanh(c)
        loss = tg.mean(h * h)
        loss.backward()
        return (loss, *[w.grad for w in weights])

    return step


def on_torch(task: Task, device: str) -> Step:
    import torch

    x = torch.tensor(task.x, device=device)
    wx, wh, b = weights = [torch.tensor(a, device=device, requires_grad=True) for a in task[1:]]
    steps, batch, _ = x.shape
    n = wh.shape[0]

    def step() -> Any:
        for w in weights:
            w.grad = None
        h = c = torch.zeros((batch, n), dtype=x.dtype, device=device)
        for t in range(steps):
            z = x[t] @ wx + h @ wh + b
            i, f, o = (
                torch.sigmoid(z[:, :n]),
                torch.sigmoid(z[:, n : 2 * n]),
                torch.sigmoid(z[:, 2 * n : 3 * n]),
            )
            c = f * c + i * torch.tanh(z[:, 3 * n :])
            h = o * torch.tanh(c)
        loss = torch.mean(h * h)
        loss.backward()
        return (loss, *[w.grad for w in weights])

    return step


def on_jax(task: Task, device: Any) -> Step:
    import jax
    import jax.numpy as jnp

    x, *weights = (jax.device_put(a, device) for a in task)
    n = task.wh.shape[0]

    def loss_of(weights: Any, x: Any) -> Any:
        wx, wh, b = weights

        def cell(state: Any, row: Any) -> Any:
            h, c = state
            z = row @ wx + h @ wh + b
            i, f, o = jnp.split(jax.nn.sigmoid(z[:, : 3 * n]), 3, axis=1)
            c = f * c + i * jnp.tanh(z[:, 3 * n :])
            return (o * jnp.tanh(c), c), None

        start = jnp.zeros((x.shape[1], n), dtype=x.dtype)
        (h, _), _ = jax.lax.scan(cell, (start, start), x)
        return jnp.mean(h * h)

    gradient = jax.jit(jax.value_and_grad(loss_of))

    def step() -> Any:
        loss, grads = gradient(weights, x)
        return (loss, *grads)

    return step


def on_autograd(task: Task, _: None) -> Step:
    import autograd
    import autograd.numpy as anp

    x, *weights = task
    steps, batch, _ = x.shape
    n = task.wh.shape[0]

    def sigmoid(x: Any) -> Any:
        return 1 / (1 + anp.exp(-x))

    def loss_of(weights: Any) -> Any:
        wx, wh, b = weights
        h = c = np.zeros((batch, n), dtype=x.dtype)
        for t in range(steps):
            z = anp.dot(x[t], wx) + anp.dot(h, wh) + b
            i, f, o = sigmoid(z[:, :n]), sigmoid(z[:, n : 2 * n]), sigmoid(z[:, 2 * n : 3 * n])
            c = f * c + i * anp.tanh(z[:, 3 * n :])
            h = o * anp.tanh(c)
        return anp.mean(h * h)

    gradient = autograd.value_and_grad(loss_of)

    def step() -> Any:
        loss, grads = gradient(weights)
        return (loss, *grads)

    return step


def on_mygrad(task: Task, _: None) -> Step:
    import mygrad
    from mygrad.nnet.activations import sigmoid

    x = mygrad.tensor(task.x, constant=True)
    wx, wh, b = weights = [mygrad.tensor(a) for a in task[1:]]
    steps, batch, _ = x.shape
    n = wh.shape[0]

    def step() -> Any:
        h = c = mygrad.zeros((batch, n), dtype=x.dtype, constant=True)
        for t in range(steps):
            z = x[t] @ wx + h @ wh + b
            i, f, o = sigmoid(z[:, :n]), sigmoid(z[:, n : 2 * n]), sigmoid(z[:, 2 * n : 3 * n])
            c = f * c + i * mygrad.tanh(z[:, 3 * n :])
            h = o * mygrad.tanh(c)
        loss = mygrad.mean(h * h)
        loss.backward()
        return (loss.data, *[w.grad for w in weights])

    return step


PROGRAMS: dict[str, Program] = {
    "hand": by_hand,
    "tapegrad": on_tapegrad,
    "torch": on_torch,
    "jax": on_jax,
    "autograd": on_autograd,
    "mygrad": on_mygrad,
}


def cases(tiny: bool) -> list[Case]:
    """Return the rows of this benchmark."""
    steps, batch, features, n = (3, 2, 5, 4) if tiny else (64, 32, 128, 128)
    rng = np.random.default_rng(0)
    x, wx, wh = (
        rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
        for shape, scale in (
            ((steps, batch, features), 1),
            ((features, 4 * n), features**-0.5),
            ((n, 4 * n), n**-0.5),
        )
    )
    task = Task(x, wx, wh, np.zeros(4 * n, dtype=np.float32))
    name = f"{steps} steps, hidden {n}, batch {batch}"
    return [Case("lstm", name, task, PROGRAMS, targets=(Target(1.3), Target(1.0, COMPILED, "jax.jit")))]
