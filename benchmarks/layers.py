"""Parts of models, forward and backward: layer_norm and softmax of rows, attention of 8 heads.

The hand-written columns are the formulas in NumPy, softmax and attention with their scores kept. The last row is peak
memory of attention over four times as many places, in MB above the inputs, where all scores would take 134 MB a copy.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import tapegrad as tg
from benchmarks._case import COMPILED, Case, Program, Step, Target

EPS = 1e-5


class Task(NamedTuple):
    """A part by its name, with its operands and the cotangent of its result."""

    part: str
    operands: tuple[Any, ...]
    t: Any


def by_hand(task: Task, xp: Any) -> Step:
    t = xp.asarray(task.t)
    operands = tuple([xp.asarray(a) for a in task.operands])

    def layer_norm() -> Any:
        x, w, b = operands
        d = x - x.mean(axis=-1, keepdims=True)
        r = 1 / xp.sqrt((d * d).mean(axis=-1, keepdims=True) + EPS)
        z = d * r
        y = z * w + b
        g = t * w
        gx = r * (g - g.mean(axis=-1, keepdims=True) - z * (g * z).mean(axis=-1, keepdims=True))
        return y, gx, (t * z).sum(axis=0), t.sum(axis=0)

    def softmax() -> Any:
        (x,) = operands
        e = xp.exp(x - x.max(axis=-1, keepdims=True))
        p = e / e.sum(axis=-1, keepdims=True)
        return p, p * (t - (t * p).sum(axis=-1, keepdims=True))

    def attention() -> Any:
        q, k, v = operands
        scale = q.shape[-1] ** -0.5
        s = scale * (q @ k.swapaxes(-1, -2))
        e = xp.exp(s - s.max(axis=-1, keepdims=True))
        p = e / e.sum(axis=-1, keepdims=True)
        gp = t @ v.swapaxes(-1, -2)
        gs = scale * (p * (gp - (gp * p).sum(axis=-1, keepdims=True)))
        return p @ v, gs @ k, gs.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ t

    return {"layer_norm": layer_norm, "softmax": softmax, "attention": attention}[task.part]


def on_tapegrad(task: Task, device: str) -> Step:
    operands = [tg.tensor(a, device=device, requires_grad=True) for a in task.operands]
    t = tg.tensor(task.t, device=device)
    f: Any = {"layer_norm": tg.layer_norm, "softmax": tg.softmax, "attention": tg.attention}[task.part]

    def step() -> Any:
        for x in operands:
            x.grad = None
        y = f(*operands)
        y.backward(t)
        return y, *[x.grad for x in operands]

    return step


def on_torch(task: Task, device: str) -> Step:
    import torch
    import torch.nn.functional as F

    operands = [torch.tensor(a, device=device, requires_grad=True) for a in task.operands]
    t = torch.tensor(task.t, device=device)
    f: Any = {
        "layer_norm": lambda x, w, b: F.layer_norm(x, w.shape, w, b, EPS),
        "softmax": lambda x: torch.softmax(x, -1),
        "attention": lambda q, k, v: F.scaled_dot_product_attention(q[None], k[None], v[None])[0],
    }[task.part]

    def step() -> Any:
        for x in operands:
            x.grad = None
        y = f(*operands)
        y.backward(t)
        return y, *[x.grad for x in operands]

    return step


def on_jax(task: Task, device: Any) -> Step:
    import jax
    import jax.numpy as jnp

    operands = [jax.device_put(a, device) for a in task.operands]
    t = jax.device_put(task.t, device)

    def layer_norm(x: Any, w: Any, b: Any) -> Any:
        d = x - jnp.mean(x, axis=-1, keepdims=True)
        return d / jnp.sqrt(jnp.mean(d * d, axis=-1, keepdims=True) + EPS) * w + b

    def attention(q: Any, k: Any, v: Any) -> Any:
        return jax.nn.softmax(q @ jnp.swapaxes(k, -1, -2) * q.shape[-1] ** -0.5) @ v

    f: Any = {"layer_norm": layer_norm, "softmax": jax.nn.softmax, "attention": attention}[task.part]

    def both(t: Any, *operands: Any) -> Any:
        y, pull = jax.vjp(f, *operands)
        return y, *pull(t)

    step = jax.jit(both)
    return lambda: step(t, *operands)


PROGRAMS: dict[str, Program] = {"hand": by_hand, "tapegrad": on_tapegrad, "torch": on_torch, "jax": on_jax}


def task(of: tuple[Any, ...]) -> Task:
    """Make operands of normal numbers and a cotangent; of: the part, and the shape of rows or heads."""
    part, *sizes = of
    shape = tuple(sizes)
    rng = np.random.default_rng(0)
    shapes = {"layer_norm": [shape, shape[-1:], shape[-1:]], "softmax": [shape], "attention": [shape] * 3}[part]
    return Task(part, tuple([rng.standard_normal(s, dtype=np.float32) for s in shapes]), rng.random(shape, np.float32))


def cases(tiny: bool) -> list[Case]:
    """Return the rows of this benchmark."""
    rows, heads, size = ((8, 16), (2, 8, 4), "tiny") if tiny else ((512, 768), (8, 512, 64), "")
    targets = (Target(1.0), Target(1.0, COMPILED, "jax.jit"))
    named = {
        "layer_norm": f"layer_norm {'x'.join(map(str, rows))}",
        "softmax": f"softmax {'x'.join(map(str, rows))}",
        "attention": f"attention, {heads[0]} heads, T = {heads[1]}, width {heads[2]}",
    }
    on_host = {library: PROGRAMS[library] for library in ("hand", "tapegrad", "torch")}
    long = (heads[0], 64 if size else 2048, heads[2])
    return [
        *[
            Case(
                "layers",
                named[part],
                task((part, *(heads if part == "attention" else rows))),
                PROGRAMS,
                targets=targets,
            )
            for part in named
        ],
        Case(
            "layers",
            f"peak memory, attention, T = {long[1]}",
            ("attention", *long),
            on_host,
            unit="MB",
            memory=True,
        ),
    ]
