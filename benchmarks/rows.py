"""Reading and writing the rows of an array one by one, forward and backward.

read: `total = total + x[i]`, and the gradient of `sum(total * total)` in x. write: `y[i] = w`, and the
gradient of `sum(y * x)` in w. Each with half the rows too: linear in the rows that are touched makes a factor of 2, a
copy of the whole array for each row one of 4.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import tapegrad as tg
from benchmarks._case import Case, Program, Skip, Step, Target


class Task(NamedTuple):
    """One row: whether to write or to read, and the arrays: x of n rows to read or weigh by, w one row."""

    write: bool
    x: Any
    w: Any


def by_hand(task: Task, xp: Any) -> Step:
    x, w = xp.asarray(task.x), xp.asarray(task.w)
    n = x.shape[0]

    def read() -> Any:
        total = xp.zeros_like(w)
        for i in range(n):
            total = total + x[i]
        loss = (total * total).sum()
        g = 2 * total
        gx = xp.zeros_like(x)
        for i in range(n):
            gx[i] += g
        return loss, gx

    def write() -> Any:
        y = xp.zeros_like(x)
        for i in range(n):
            y[i] = w
        loss = (y * x).sum()
        gw = xp.zeros_like(w)
        for i in range(n):
            gw += x[i]
        return loss, gw

    return write if task.write else read


def on_tapegrad(task: Task, device: str) -> Step:
    x = tg.tensor(task.x, device=device, requires_grad=not task.write)
    w = tg.tensor(task.w, device=device, requires_grad=task.write)
    n = x.shape[0]

    def read() -> Any:
        x.grad = None
        total = tg.zeros_like(w)
        for i in range(n):
            total = total + x[i]
        loss = tg.sum(total * total)
        loss.backward()
        return loss, x.grad

    def write() -> Any:
        w.grad = None
        y = tg.zeros_like(x)
        for i in range(n):
            y[i] = w
        loss = tg.sum(y * x)
        loss.backward()
        return loss, w.grad

    return write if task.write else read


def on_torch(task: Task, device: str) -> Step:
    import torch

    x = torch.tensor(task.x, device=device, requires_grad=not task.write)
    w = torch.tensor(task.w, device=device, requires_grad=task.write)
    n = x.shape[0]

    def read() -> Any:
        x.grad = None
        total = torch.zeros_like(w)
        for i in range(n):
            total = total + x[i]
        loss = torch.sum(total * total)
        loss.backward()
        return loss, x.grad

    def write() -> Any:
        w.grad = None
        y = torch.zeros_like(x)
        for i in range(n):
            y[i] = w
        loss = torch.sum(y * x)
        loss.backward()
        return loss, w.grad

    return write if task.write else read


def on_jax(task: Task, device: Any) -> Step:
    import jax
    import jax.numpy as jnp

    x, w = jax.device_put(task.x, device), jax.device_put(task.w, device)

    def read(x: Any) -> Any:
        total = jax.lax.scan(lambda total, row: (total + row, None), jnp.zeros_like(w), x)[0]
        return jnp.sum(total * total)

    def write(w: Any, x: Any) -> Any:
        y = jax.lax.fori_loop(0, x.shape[0], lambda i, y: y.at[i].set(w), jnp.zeros_like(x))
        return jnp.sum(y * x)

    gradient = jax.jit(jax.value_and_grad(write if task.write else read))
    return (lambda: gradient(w, x)) if task.write else (lambda: gradient(x))


def on_autograd(task: Task, _: None) -> Step:
    import autograd
    import autograd.numpy as anp

    if task.write:
        raise Skip("it has no writing in place")

    def read(x: Any) -> Any:
        total = anp.zeros_like(task.w)
        for i in range(x.shape[0]):
            total = total + x[i]
        return anp.sum(total * total)

    gradient = autograd.value_and_grad(read)
    return lambda: gradient(task.x)


def on_mygrad(task: Task, _: None) -> Step:
    import mygrad

    if task.write:
        raise Skip("it copies the array for each write: 20 seconds for 2,000")
    x = mygrad.tensor(task.x)
    w = mygrad.tensor(task.w, constant=True)
    n = x.shape[0]

    def read() -> Any:
        total = mygrad.zeros_like(w)
        for i in range(n):
            total = total + x[i]
        loss = mygrad.sum(total * total)
        loss.backward()
        return loss.data, x.grad

    return read


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
    n, length = (10, 8) if tiny else (2000, 256)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, length), dtype=np.float32)
    w = rng.standard_normal(length, dtype=np.float32)
    found = []
    for write in (False, True):
        for rows in (n, n // 2):
            targets = (
                Target(1.0, against="torch"),
                Target(2.5, against="tapegrad cpu", row=f"{_verb(write)} {n // 2} rows"),
            )
            found.append(
                Case(
                    "rows",
                    f"{_verb(write)} {rows} rows",
                    Task(write, x[:rows].copy(), w),
                    PROGRAMS,
                    one_thread=True,
                    uncompiled={}
                    if tiny
                    else dict.fromkeys(("torch", "jax"), "it unrolls the loop, and compiles for minutes"),
                    targets=targets if rows == n else (),
                )
            )
    return found


def _verb(write: bool) -> str:
    return "write" if write else "read"
