"""Overhead of an operation beyond its arithmetic: a chain of `tanh(x * w + b)` on 8 elements, in us each.

Three operations a link. "backward" walks a tape that is kept; freeing it is in "forward and backward" only.
"nothing recorded" asks for no gradient; there the hand-written column is the bare calls.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import tapegrad as tg
from benchmarks._case import COMPILED, Case, Program, Skip, Step, Target

BOTH, FORWARD, BACKWARD, BARE = "forward and backward", "forward", "backward", "nothing recorded"


class Task(NamedTuple):
    """One row: the work, and its operands."""

    what: str
    links: int
    x: Any
    w: Any
    b: Any


def by_hand(task: Task, xp: Any) -> Step:
    x0, w, b = xp.asarray(task.x), xp.asarray(task.w), xp.asarray(task.b)

    def bare() -> Any:
        x = x0
        for _ in range(task.links):
            x = xp.tanh(x * w + b)
        return (x,)

    def forward() -> Any:
        x, saved = x0, []
        for _ in range(task.links):
            y = xp.tanh(x * w + b)
            saved.append((x, y))
            x = y
        return x, saved

    def backward(x: Any, saved: Any) -> Any:
        g = xp.ones_like(x)
        gw, gb = xp.zeros_like(w), xp.zeros_like(b)
        for x, y in reversed(saved):
            g = g * (1 - y * y)
            gb = gb + g
            gw = gw + g * x
            g = g * w
        return gw, gb

    def both() -> Any:
        x, saved = forward()
        return (x.sum(), *backward(x, saved))

    kept = forward()
    steps = {BOTH: both, FORWARD: lambda: forward()[:1], BACKWARD: lambda: backward(*kept), BARE: bare}
    return steps[task.what]


def on_tapegrad(task: Task, device: str) -> Step:
    recorded = task.what != BARE
    x0 = tg.tensor(task.x, device=device)
    w = tg.tensor(task.w, device=device, requires_grad=recorded)
    b = tg.tensor(task.b, device=device, requires_grad=recorded)

    def forward() -> Any:
        x = x0
        for _ in range(task.links):
            x = tg.tanh(x * w + b)
        return (x,)

    def both() -> Any:
        w.grad = b.grad = None
        loss = tg.sum(*forward())
        loss.backward()
        return loss, w.grad, b.grad

    kept = tg.sum(*forward())

    def backward() -> Any:
        w.grad = b.grad = None
        kept.backward(retain_graph=True)
        return w.grad, b.grad

    return {BOTH: both, FORWARD: forward, BACKWARD: backward, BARE: forward}[task.what]


def on_torch(task: Task, device: str) -> Step:
    import torch

    recorded = task.what != BARE
    x0 = torch.tensor(task.x, device=device)
    w = torch.tensor(task.w, device=device, requires_grad=recorded)
    b = torch.tensor(task.b, device=device, requires_grad=recorded)

    def forward() -> Any:
        x = x0
        for _ in range(task.links):
            x = torch.tanh(x * w + b)
        return (x,)

    def both() -> Any:
        w.grad = b.grad = None
        loss = torch.sum(*forward())
        loss.backward()
        return loss, w.grad, b.grad

    kept = torch.sum(*forward())

    def backward() -> Any:
        w.grad = b.grad = None
        kept.backward(retain_graph=True)
        return w.grad, b.grad

    return {BOTH: both, FORWARD: forward, BACKWARD: backward, BARE: forward}[task.what]


def on_jax(task: Task, device: Any) -> Step:
    import jax
    import jax.numpy as jnp

    if task.what in (FORWARD, BACKWARD):
        raise Skip("jit compiles forward and backward into one")
    x0, w, b = (jax.device_put(a, device) for a in (task.x, task.w, task.b))

    def chain(w: Any, b: Any, x: Any) -> Any:
        return jax.lax.scan(lambda x, _: (jnp.tanh(x * w + b), None), x, length=task.links)[0]

    gradient = jax.jit(jax.value_and_grad(lambda w, b, x: jnp.sum(chain(w, b, x)), (0, 1)))

    def both() -> Any:
        loss, grads = gradient(w, b, x0)
        return (loss, *grads)

    compiled = jax.jit(chain)
    return both if task.what == BOTH else lambda: (compiled(w, b, x0),)


def on_autograd(task: Task, _: None) -> Step:
    import autograd
    import autograd.numpy as anp

    x0, w, b = task.x, task.w, task.b

    def chain(p: Any) -> Any:
        x = x0
        for _ in range(task.links):
            x = anp.tanh(x * p[0] + p[1])
        return x

    if task.what == FORWARD:
        raise Skip("it records only on the way to a gradient")
    if task.what == BARE:
        return lambda: (chain((w, b)),)
    gradient = autograd.value_and_grad(lambda p: anp.sum(chain(p)))

    def both() -> Any:
        loss, grads = gradient((w, b))
        return (loss, *grads)

    pull, kept = autograd.make_vjp(lambda p: anp.sum(chain(p)))((w, b))
    return both if task.what == BOTH else lambda: pull(np.ones_like(kept))


def on_mygrad(task: Task, _: None) -> Step:
    import mygrad

    constant = task.what == BARE
    x0 = mygrad.tensor(task.x, constant=True)
    w, b = mygrad.tensor(task.w, constant=constant), mygrad.tensor(task.b, constant=constant)

    def forward() -> Any:
        x = x0
        for _ in range(task.links):
            x = mygrad.tanh(x * w + b)
        return x

    def both() -> Any:
        loss = mygrad.sum(forward())
        loss.backward()  # a later use of w and b clears their gradients
        return loss.data, w.grad, b.grad

    if task.what == BACKWARD:
        raise Skip("it walks a tape only once")
    return both if task.what == BOTH else lambda: (forward().data,)


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
    links = 5 if tiny else 300
    values = [np.full(8, v, dtype=np.float32) for v in (0.5, 0.9, 0.1)]
    targets = {
        BOTH: (
            Target(0.55, against="torch"),
            Target(2.75),
            Target(0.35 / 1.04, COMPILED),  # 0.35 ms in all where the hand-written one takes 1.04
        ),
        BARE: (Target(0.5, difference=True),),
    }
    halves = dict.fromkeys(("tapegrad", "torch"), "compiled columns have forward and backward in one")
    return [
        Case(
            "overhead",
            what,
            Task(what, links, *values),
            PROGRAMS,
            unit="us/op",
            per=3 * links,
            one_thread=True,
            uncompiled=halves if what in (FORWARD, BACKWARD) else {},
            targets=targets.get(what, ()),
        )
        for what in (BOTH, FORWARD, BACKWARD, BARE)
    ]
