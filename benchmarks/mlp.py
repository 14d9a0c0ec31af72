"""A step of stochastic gradient descent on a perceptron of 784-256-128-10 units, at three batch sizes.

The last row is the first four calls of a new step, in which a compiled one is compiled.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

import tapegrad as tg
from benchmarks._case import COMPILED, EAGER, Case, Program, Step, Target

RATE = 0.05


class Task(NamedTuple):
    """One row: a batch and its labels, and the parameters to start from: a weight and a bias a layer."""

    x: Any
    labels: Any
    parameters: list[Any]


def by_hand(task: Task, xp: Any) -> Step:
    x, labels = xp.asarray(task.x), xp.asarray(task.labels)
    parameters = w1, b1, w2, b2, w3, b3 = [xp.array(p) for p in task.parameters]
    n = x.shape[0]
    each = xp.arange(n)

    def step() -> Any:
        h1 = xp.maximum(x @ w1 + b1, 0)
        h2 = xp.maximum(h1 @ w2 + b2, 0)
        z = h2 @ w3 + b3
        z = z - z.max(axis=1, keepdims=True)
        e = xp.exp(z)
        total = e.sum(axis=1, keepdims=True)
        loss = (xp.log(total[:, 0]) - z[each, labels]).mean()
        g = e / total
        g[each, labels] -= 1
        g /= n
        gw3, gb3 = h2.T @ g, g.sum(axis=0)
        g = (g @ w3.T) * (h2 > 0)
        gw2, gb2 = h1.T @ g, g.sum(axis=0)
        g = (g @ w2.T) * (h1 > 0)
        gw1, gb1 = x.T @ g, g.sum(axis=0)
        grads = (gw1, gb1, gw2, gb2, gw3, gb3)
        for p, gp in zip(parameters, grads, strict=True):
            p -= RATE * gp
        return (loss, *grads)

    return step


def on_tapegrad(task: Task, device: str) -> Step:
    x = tg.tensor(task.x, device=device)
    labels = tg.tensor(task.labels.tolist(), device=device)  # in the device's own integers
    parameters = [tg.tensor(p, device=device, requires_grad=True) for p in task.parameters]
    w1, b1, w2, b2, w3, b3 = parameters

    def step() -> Any:
        for p in parameters:
            p.grad = None
        h = tg.relu(x @ w1 + b1)
        h = tg.relu(h @ w2 + b2)
        loss = tg.cross_entropy(h @ w3 + b3, labels)
        loss.backward()
        with tg.no_grad():
            for p in parameters:
                p -= RATE * p.grad  # type: ignore[operator]
        return (loss, *[p.grad for p in parameters])

    return step


def on_torch(task: Task, device: str) -> Step:
    import torch

    x = torch.tensor(task.x, device=device)
    labels = torch.tensor(task.labels, device=device)
    parameters = [torch.tensor(p, device=device, requires_grad=True) for p in task.parameters]
    w1, b1, w2, b2, w3, b3 = parameters

    def step() -> Any:
        for p in parameters:
            p.grad = None
        h = torch.relu(x @ w1 + b1)
        h = torch.relu(h @ w2 + b2)
        loss = torch.nn.functional.cross_entropy(h @ w3 + b3, labels)
        loss.backward()
        with torch.no_grad():
            for p in parameters:
                p -= RATE * p.grad
        return (loss, *[p.grad for p in parameters])

    return step


def on_jax(task: Task, device: Any) -> Step:
    import jax
    import jax.numpy as jnp

    x, labels = jax.device_put(task.x, device), jax.device_put(task.labels, device)
    parameters = [jax.device_put(p, device) for p in task.parameters]

    def loss_of(parameters: Any, x: Any, labels: Any) -> Any:
        w1, b1, w2, b2, w3, b3 = parameters
        h = jax.nn.relu(x @ w1 + b1)
        h = jax.nn.relu(h @ w2 + b2)
        z = jax.nn.log_softmax(h @ w3 + b3)
        return -jnp.mean(jnp.take_along_axis(z, labels[:, None], axis=1))

    def update(parameters: Any, x: Any, labels: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(parameters, x, labels)
        return loss, grads, [p - RATE * g for p, g in zip(parameters, grads, strict=True)]

    compiled = jax.jit(update)

    def step() -> Any:
        nonlocal parameters
        loss, grads, parameters = compiled(parameters, x, labels)
        return (loss, *grads)

    return step


def on_autograd(task: Task, _: None) -> Step:
    import autograd
    import autograd.numpy as anp

    x, labels = task.x, task.labels
    parameters = [p.copy() for p in task.parameters]
    each = np.arange(x.shape[0])

    def loss_of(parameters: Any) -> Any:
        w1, b1, w2, b2, w3, b3 = parameters
        h = anp.maximum(anp.dot(x, w1) + b1, 0)
        h = anp.maximum(anp.dot(h, w2) + b2, 0)
        z = anp.dot(h, w3) + b3
        z = z - anp.max(z, axis=1, keepdims=True)
        return anp.mean(anp.log(anp.sum(anp.exp(z), axis=1)) - z[each, labels])

    gradient = autograd.value_and_grad(loss_of)

    def step() -> Any:
        loss, grads = gradient(parameters)
        for p, g in zip(parameters, grads, strict=True):
            p -= RATE * g
        return (loss, *grads)

    return step


def on_mygrad(task: Task, _: None) -> Step:
    import mygrad
    from mygrad.nnet.activations import relu
    from mygrad.nnet.losses import softmax_crossentropy

    x, labels = mygrad.tensor(task.x, constant=True), task.labels
    parameters = [mygrad.tensor(p) for p in task.parameters]
    w1, b1, w2, b2, w3, b3 = parameters

    def step() -> Any:
        h = relu(x @ w1 + b1)
        h = relu(h @ w2 + b2)
        loss = softmax_crossentropy(h @ w3 + b3, labels)
        loss.backward()
        grads = [p.grad for p in parameters]
        for p in parameters:
            p.data -= RATE * p.grad
        return (loss.data, *grads)

    return step


PROGRAMS: dict[str, Program] = {
    "hand": by_hand,
    "tapegrad": on_tapegrad,
    "torch": on_torch,
    "jax": on_jax,
    "autograd": on_autograd,
    "mygrad": on_mygrad,
}


def task(batch: int, units: tuple[int, ...] = (784, 256, 128, 10)) -> Task:
    """Make a batch of noise, its labels and the first parameters."""
    rng = np.random.default_rng(0)
    parameters: list[Any] = []
    for n, m in pairwise(units):
        parameters += [rng.standard_normal((n, m), dtype=np.float32) * np.float32((2 / n) ** 0.5)]
        parameters += [np.zeros(m, dtype=np.float32)]
    x = rng.standard_normal((batch, units[0]), dtype=np.float32)
    return Task(x, rng.integers(units[-1], size=batch), parameters)


def cases(tiny: bool) -> list[Case]:
    """Return the rows of this benchmark."""
    targets = {128: (Target(1.15),), 1024: (Target(1.05, COMPILED, "jax.jit"),)}
    tasks = {4: task(4, (16, 8, 8, 3))} if tiny else {batch: task(batch) for batch in (32, 128, 1024)}
    found = [Case("mlp", f"batch {n}", each, PROGRAMS, targets=targets.get(n, ())) for n, each in tasks.items()]
    n = min(tasks)
    # XLA adds a multiple of a gradient with one rounding as well.
    beside_xla = (Target(0.8, COMPILED, "jax.jit"),)
    once = (Target(30, COMPILED, EAGER, difference=True),)
    return [
        *found,
        Case("mlp", f"batch {n}, reassociated", tasks[n], PROGRAMS, reassociate=True, targets=beside_xla),
        Case("mlp", f"first four calls, batch {n}", tasks[n], PROGRAMS, first=True, targets=once),
    ]
