"""Convolution, forward and backward, and a training step of a small convolutional network.

The convolution takes 32 pictures of 28 x 28 with 32 channels to 32 channels by windows of 3 x 3. The network, for
pictures of 8 x 8 as scikit-learn's digits are, has two convolutions with relu and pooling, and a linear layer. The
hand-written program copies windows side by side and makes one product of matrices, all pictures at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import tapegrad as tg
from benchmarks._case import COMPILED, EAGER, Case, Program, Step, Target


class Layer(NamedTuple):
    """x: (batch, channels, height, width); w: (outputs, channels, size, size); t: the cotangent of the result."""

    x: Any
    w: Any
    t: Any


class Network(NamedTuple):
    """x: (batch, 1, 8, 8); y: labels; weights and biases of two convolutions and a linear layer."""

    x: Any
    y: Any
    w1: Any
    b1: Any
    w2: Any
    b2: Any
    w3: Any
    b3: Any


# -- one convolution -----------------------------------------------------------------------------------------


def by_hand(task: Layer, xp: Any) -> Step:
    x, w, t = (xp.asarray(a) for a in task)
    n, c, height, _ = x.shape
    k, size = w.shape[0], w.shape[2]
    p = height - size + 1

    def step() -> Any:
        columns = _columns(x, size)
        y = (columns @ w.reshape(k, -1).T).reshape(n, p, p, k).transpose(0, 3, 1, 2)
        gw = (columns.T @ _rows(t)).T.reshape(w.shape)
        columns = _columns(_padded(t, size - 1, xp), size)
        gx = (columns @ _reversed(w).T).reshape(n, height, height, c).transpose(0, 3, 1, 2)
        return y, gx, gw

    return step


def _columns(x: Any, size: int) -> Any:
    """Return the windows of pictures as rows (places, channels * taps)."""
    found = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3)).transpose(0, 2, 3, 1, 4, 5)
    return found.reshape(-1, x.shape[1] * size * size)


def _rows(t: Any) -> Any:
    return t.transpose(0, 2, 3, 1).reshape(-1, t.shape[1])


def _padded(x: Any, n: int, xp: Any) -> Any:
    return xp.pad(x, ((0, 0), (0, 0), (n, n), (n, n)))


def _reversed(w: Any) -> Any:
    """Return the weights of the gradient by x: reversed, inputs and outputs swapped."""
    return w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3).reshape(w.shape[1], -1)


def on_tapegrad(task: Layer, device: str) -> Step:
    x, w = (tg.tensor(a, device=device, requires_grad=True) for a in task[:2])
    t = tg.asarray(task.t, device=device)

    def step() -> Any:
        x.grad = w.grad = None
        y = tg.conv(x, w)
        y.backward(t)
        return y.detach(), x.grad, w.grad

    return step


def on_torch(task: Layer, device: str) -> Step:
    import torch

    x, w = (torch.tensor(a, device=device, requires_grad=True) for a in task[:2])
    t = torch.tensor(task.t, device=device)

    def step() -> Any:
        x.grad = w.grad = None
        y = torch.conv2d(x, w)
        y.backward(t)
        return y.detach(), x.grad, w.grad

    return step


def on_jax(task: Layer, device: Any) -> Step:
    import jax

    x, w, t = (jax.device_put(a, device) for a in task)

    def both(x: Any, w: Any, t: Any) -> Any:
        y, pull = jax.vjp(lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "VALID"), x, w)
        return (y, *pull(t))

    compiled = jax.jit(both)
    return lambda: compiled(x, w, t)


LAYER: dict[str, Program] = {"hand": by_hand, "tapegrad": on_tapegrad, "torch": on_torch, "jax": on_jax}


# -- a network -----------------------------------------------------------------------------------------------


def network_by_hand(task: Network, xp: Any) -> Step:
    x, y, w1, b1, w2, b2, w3, b3 = (xp.asarray(a) for a in task)
    n = len(x)

    def layer(x: Any, w: Any, b: Any) -> tuple[Any, Any]:
        """Return the pooled result with the arrays for its gradient."""
        height = x.shape[2]
        columns = _columns(_padded(x, 1, xp), 3)
        h = xp.maximum(columns @ w.reshape(len(w), -1).T + b, 0).reshape(n, height // 2, 2, height // 2, 2, len(w))
        out = h.max(axis=(2, 4))
        return out.transpose(0, 3, 1, 2), (columns, h, out)

    def layer_gradient(g: Any, w: Any, saved: Any) -> tuple[Any, Any, Any]:
        """Return the gradients of the rows of the result, the weights and the bias."""
        columns, h, out = saved
        wide, places = out[:, :, None, :, None], g.transpose(0, 2, 3, 1)[:, :, None, :, None]
        first = (h == wide) & (wide > 0)
        rows = xp.where(first, places, 0).reshape(-1, len(w)).astype(g.dtype)
        return rows, (columns.T @ rows).T.reshape(w.shape), rows.sum(axis=0)

    def step() -> Any:
        h1, saved1 = layer(x, w1, b1)
        h2, saved2 = layer(h1, w2, b2)
        flat = h2.reshape(n, -1)
        z = flat @ w3.T + b3
        e = xp.exp(z - z.max(axis=1, keepdims=True))
        p = e / e.sum(axis=1, keepdims=True)
        loss = -xp.log(p[xp.arange(n), y]).mean()

        gz = p.copy()
        gz[xp.arange(n), y] -= 1
        gz /= n
        rows, gw2, gb2 = layer_gradient((gz @ w3).reshape(h2.shape), w2, saved2)
        t = rows.reshape(n, *h1.shape[2:], len(w2)).transpose(0, 3, 1, 2)
        back = _columns(_padded(t, 1, xp), 3) @ _reversed(w2).T
        _, gw1, gb1 = layer_gradient(back.reshape(n, *h1.shape[2:], -1).transpose(0, 3, 1, 2), w1, saved1)
        return loss, gw1, gb1, gw2, gb2, gz.T @ flat, gz.sum(axis=0)

    return step


def network_on_tapegrad(task: Network, device: str) -> Step:
    x, y = (tg.asarray(a, device=device) for a in task[:2])
    weights = [tg.tensor(a, device=device, requires_grad=True) for a in task[2:]]
    w1, b1, w2, b2, w3, b3 = weights

    def step() -> Any:
        for w in weights:
            w.grad = None
        h = tg.max_pool(tg.relu(tg.conv(x, w1, b1, padding=1)), 2)
        h = tg.max_pool(tg.relu(tg.conv(h, w2, b2, padding=1)), 2)
        loss = tg.cross_entropy(tg.reshape(h, (len(task.x), -1)) @ w3.T + b3, y)
        loss.backward()
        return (loss, *[w.grad for w in weights])

    return step


def network_on_torch(task: Network, device: str) -> Step:
    import torch
    from torch.nn import functional

    x, y = (torch.tensor(a, device=device) for a in task[:2])
    weights = [torch.tensor(a, device=device, requires_grad=True) for a in task[2:]]
    w1, b1, w2, b2, w3, b3 = weights

    def step() -> Any:
        for w in weights:
            w.grad = None
        h = functional.max_pool2d(torch.relu(torch.conv2d(x, w1, b1, padding=1)), 2)
        h = functional.max_pool2d(torch.relu(torch.conv2d(h, w2, b2, padding=1)), 2)
        loss = functional.cross_entropy(h.reshape(len(task.x), -1) @ w3.T + b3, y)
        loss.backward()
        return (loss, *[w.grad for w in weights])

    return step


def network_on_jax(task: Network, device: Any) -> Step:
    import jax
    import jax.numpy as jnp

    x, y, *weights = (jax.device_put(a, device) for a in task)

    def layer(x: Any, w: Any, b: Any) -> Any:
        h = jax.lax.conv_general_dilated(x, w, (1, 1), ((1, 1), (1, 1))) + b[:, None, None]
        return jax.lax.reduce_window(jax.nn.relu(h), -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")

    def loss_of(weights: Any, x: Any, y: Any) -> Any:
        w1, b1, w2, b2, w3, b3 = weights
        logits = layer(layer(x, w1, b1), w2, b2).reshape(len(task.x), -1) @ w3.T + b3
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1))

    gradient = jax.jit(jax.value_and_grad(loss_of))

    def step() -> Any:
        loss, grads = gradient(weights, x, y)
        return (loss, *grads)

    return step


NETWORK: dict[str, Program] = {
    "hand": network_by_hand,
    "tapegrad": network_on_tapegrad,
    "torch": network_on_torch,
    "jax": network_on_jax,
}


def cases(tiny: bool) -> list[Case]:
    """Return the rows of this benchmark."""
    rng = np.random.default_rng(0)

    def normal(*shape: int, scale: float = 1.0) -> Any:
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)

    n, c, size = (2, 3, 5) if tiny else (32, 32, 28)
    layer = Layer(normal(n, c, size, size), normal(c, c, 3, 3, scale=(9 * c) ** -0.5), normal(n, c, size - 2, size - 2))
    batch, few, many = (3, 2, 3) if tiny else (32, 16, 32)
    network = Network(
        normal(batch, 1, 8, 8),
        rng.integers(0, 10, batch),
        *(normal(few, 1, 3, 3, scale=1 / 3), normal(few)),
        *(normal(many, few, 3, 3, scale=(9 * few) ** -0.5), normal(many)),
        *(normal(10, 4 * many, scale=(4 * many) ** -0.5), normal(10)),
    )
    return [
        Case(
            "conv",
            f"{n} x {c} x {size} x {size}, 3 x 3",
            layer,
            LAYER,
            targets=(Target(1.0), Target(1.5, EAGER, "jax.jit"), Target(1.0, EAGER, "torch")),
        ),
        Case(
            "conv",
            f"network for digits, batch {batch}",
            network,
            NETWORK,
            targets=(Target(1.2, EAGER, "torch"), Target(1.0, COMPILED, "torch")),
        ),
    ]
