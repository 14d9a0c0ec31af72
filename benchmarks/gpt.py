"""A training step of a small GPT: 4 layers of width 256, 8 heads, 128 tokens, batch 8, AdamW, in float32.

Layer norm before attention and before the perceptron, gelu by tanh, a causal mask, the next token by
cross-entropy. A step returns the loss and a few of the gradients.

The first row is written out in tensors, the second in the libraries' layers and optimisers. In mixed precision
(`compute`) the layers work on rounded copies of the weights; layer norm, the loss and the update are in float32.
"""

from __future__ import annotations

from functools import cache
from math import pi, sqrt
from typing import Any, NamedTuple

import numpy as np

import tapegrad as tg
from benchmarks._case import COMPILED, Case, Program, Skip, Step, Target

RATE, DECAY, BETA1, BETA2, EPS = 3e-4, 0.1, 0.9, 0.95, 1e-8
NORM_EPS = 1e-5
SCALE, CUBE = sqrt(2 / pi), 0.044715  # of gelu

Weights = dict[str, Any]


class Task(NamedTuple):
    """tokens: (batch, length), each row's next ones are its labels; heads of attention; weights by name.

    compute: the dtype of the layers.
    """

    tokens: Any
    labels: Any
    heads: int
    layers: int
    weights: Weights
    compute: str = "float32"


def by_hand(task: Task, xp: Any) -> Step:
    if task.compute != "float32":
        raise Skip("it computes in float32")
    tokens, labels = xp.asarray(task.tokens), xp.asarray(task.labels)
    w = {name: xp.array(a) for name, a in task.weights.items()}
    m, v = ({name: xp.zeros_like(a) for name, a in w.items()} for _ in range(2))
    batch, length = tokens.shape
    width = w["tokens"].shape[1]
    n, size = batch * length, width // task.heads
    later = xp.triu(xp.ones((length, length), dtype=bool), k=1)
    each = xp.arange(n)
    saved: list[Any] = []
    g: Weights = {}
    count = 0

    def linear(x: Any, name: str) -> Any:
        saved.append(x)
        return x @ w[f"{name} w"] + w[f"{name} b"]

    def linear_back(gy: Any, name: str) -> Any:
        x = saved.pop()
        g[f"{name} w"], g[f"{name} b"] = x.T @ gy, gy.sum(axis=0)
        return gy @ w[f"{name} w"].T

    def norm(x: Any, name: str) -> Any:
        x = x - x.mean(axis=1, keepdims=True)
        scale = 1 / xp.sqrt((x * x).mean(axis=1, keepdims=True) + NORM_EPS)
        x = x * scale
        saved.append((x, scale))
        return x * w[f"{name} gain"] + w[f"{name} bias"]

    def norm_back(gy: Any, name: str) -> Any:
        x, scale = saved.pop()
        g[f"{name} gain"], g[f"{name} bias"] = (gy * x).sum(axis=0), gy.sum(axis=0)
        gx = gy * w[f"{name} gain"]
        return scale * (gx - gx.mean(axis=1, keepdims=True) - x * (gx * x).mean(axis=1, keepdims=True))

    def attention(x: Any) -> Any:
        q, k, u = x.reshape(batch, length, 3, task.heads, size).transpose(2, 0, 3, 1, 4)
        z = xp.where(later, -xp.inf, q @ k.swapaxes(-1, -2) * size**-0.5)
        p = xp.exp(z - z.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        saved.append((q, k, u, p))
        return (p @ u).swapaxes(1, 2).reshape(n, width)

    def attention_back(gy: Any) -> Any:
        q, k, u, p = saved.pop()
        gy = gy.reshape(batch, length, task.heads, size).swapaxes(1, 2)
        gp = gy @ u.swapaxes(-1, -2)
        gz = p * (gp - (p * gp).sum(axis=-1, keepdims=True)) * size**-0.5
        gx = xp.stack([gz @ k, gz.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ gy])
        return gx.transpose(1, 3, 0, 2, 4).reshape(n, 3 * width)

    def gelu(x: Any) -> Any:
        th = xp.tanh(SCALE * (x + CUBE * (x * x * x)))
        saved.append((x, th))
        return 0.5 * x * (1 + th)

    def gelu_back(gy: Any) -> Any:
        x, th = saved.pop()
        return gy * (0.5 * (1 + th) + 0.5 * x * (1 - th * th) * (SCALE * (1 + 3 * CUBE * (x * x))))

    def step() -> Any:
        nonlocal count
        x = (w["tokens"][tokens] + w["places"]).reshape(n, width)
        for i in range(task.layers):
            x = x + linear(attention(linear(norm(x, f"{i} norm1"), f"{i} qkv")), f"{i} out")
            x = x + linear(gelu(linear(norm(x, f"{i} norm2"), f"{i} up")), f"{i} down")
        z = linear(norm(x, "norm"), "head")
        z = z - z.max(axis=1, keepdims=True)
        e = xp.exp(z)
        total = e.sum(axis=1, keepdims=True)
        loss = (xp.log(total[:, 0]) - z[each, labels]).mean()

        gx = e / total
        gx[each, labels] -= 1
        gx = norm_back(linear_back(gx / n, "head"), "norm")
        for i in reversed(range(task.layers)):
            gx = gx + norm_back(linear_back(gelu_back(linear_back(gx, f"{i} down")), f"{i} up"), f"{i} norm2")
            gy = linear_back(attention_back(linear_back(gx, f"{i} out")), f"{i} qkv")
            gx = gx + norm_back(gy, f"{i} norm1")
        g["places"] = gx.reshape(batch, length, width).sum(axis=0)
        g["tokens"] = xp.zeros_like(w["tokens"])
        xp.add.at(g["tokens"], tokens.reshape(-1), gx)

        count += 1
        for name, p in w.items():
            m[name] = BETA1 * m[name] + (1 - BETA1) * g[name]
            v[name] = BETA2 * v[name] + (1 - BETA2) * g[name] * g[name]
            change = (m[name] / (1 - BETA1**count)) / (xp.sqrt(v[name] / (1 - BETA2**count)) + EPS)
            p -= RATE * (change + DECAY * p)
        return (loss, *[g[name] for name in _shown(task)])

    return step


def on_tapegrad(task: Task, device: str) -> Step:
    tokens = tg.tensor(task.tokens.tolist(), device=device)  # in the device's own integers
    labels = tg.tensor(task.labels.tolist(), device=device)
    w = {name: tg.tensor(a, device=device, requires_grad=True) for name, a in task.weights.items()}
    m, v = ({name: tg.zeros_like(p.detach()) for name, p in w.items()} for _ in range(2))
    count = tg.tensor(0.0, dtype=tg.float32, device=device)
    batch, length = tokens.shape
    width = w["tokens"].shape[1]
    size = width // task.heads
    mixed = task.compute != "float32"

    def rounded(x: Any) -> Any:
        return tg.astype(x, task.compute) if mixed else x

    def widened(x: Any) -> Any:
        return tg.astype(x, tg.float32) if mixed else x

    mask = rounded(tg.tensor(_mask(length), device=device))

    def linear(x: Any, name: str) -> Any:
        return x @ rounded(w[f"{name} w"]) + rounded(w[f"{name} b"])

    def norm(x: Any, name: str) -> Any:
        x = widened(x)
        x = x - tg.mean(x, axis=-1, keepdims=True)
        x = x / tg.sqrt(tg.mean(x * x, axis=-1, keepdims=True) + NORM_EPS)
        return rounded(x * w[f"{name} gain"] + w[f"{name} bias"])

    def attention(x: Any) -> Any:
        q, k, u = tg.unstack(tg.permute_dims(tg.reshape(x, (batch, length, 3, task.heads, size)), (2, 0, 3, 1, 4)))
        p = tg.softmax(q @ tg.matrix_transpose(k) * size**-0.5 + mask, axis=-1)
        return tg.reshape(tg.permute_dims(p @ u, (0, 2, 1, 3)), (batch * length, width))

    def loss_of() -> Any:
        x = rounded(tg.reshape(w["tokens"][tokens] + w["places"], (batch * length, width)))
        for i in range(task.layers):
            x = x + linear(attention(linear(norm(x, f"{i} norm1"), f"{i} qkv")), f"{i} out")
            x = x + linear(tg.gelu(linear(norm(x, f"{i} norm2"), f"{i} up"), approximate="tanh"), f"{i} down")
        return tg.cross_entropy(widened(linear(norm(x, "norm"), "head")), labels)

    def step() -> Any:
        nonlocal count
        for p in w.values():
            p.grad = None
        loss = loss_of()
        loss.backward()
        with tg.no_grad():
            count += 1
            scale1, scale2 = 1 / (1 - BETA1**count), 1 / (1 - BETA2**count)
            for name, p in w.items():
                g: Any = p.grad
                m[name] *= BETA1
                m[name] += (1 - BETA1) * g
                v[name] *= BETA2
                v[name] += (1 - BETA2) * g * g
                p -= RATE * (m[name] * scale1 / (tg.sqrt(v[name] * scale2) + EPS) + DECAY * p)
        return (loss, *[w[name].grad for name in _shown(task)])

    return step


def on_torch(task: Task, device: str) -> Step:
    import torch
    from torch.nn import functional as F

    tokens = torch.tensor(task.tokens, device=device)
    labels = torch.tensor(task.labels, device=device)
    w = {name: torch.tensor(a, device=device, requires_grad=True) for name, a in task.weights.items()}
    m, v = ({name: torch.zeros_like(p) for name, p in w.items()} for _ in range(2))
    count = torch.tensor(0.0, device=device)
    batch, length = tokens.shape
    width = w["tokens"].shape[1]
    size = width // task.heads
    compute = getattr(torch, task.compute)

    def linear(x: Any, name: str) -> Any:
        return x @ w[f"{name} w"].to(compute) + w[f"{name} b"].to(compute)

    def norm(x: Any, name: str) -> Any:
        return F.layer_norm(x.float(), (width,), w[f"{name} gain"], w[f"{name} bias"], NORM_EPS).to(compute)

    def attention(x: Any) -> Any:
        q, k, u = x.reshape(batch, length, 3, task.heads, size).permute(2, 0, 3, 1, 4).unbind()
        y = F.scaled_dot_product_attention(q, k, u, is_causal=True)
        return y.transpose(1, 2).reshape(batch * length, width)

    def loss_of() -> Any:
        x = (w["tokens"][tokens] + w["places"]).reshape(batch * length, width).to(compute)
        for i in range(task.layers):
            x = x + linear(attention(linear(norm(x, f"{i} norm1"), f"{i} qkv")), f"{i} out")
            x = x + linear(F.gelu(linear(norm(x, f"{i} norm2"), f"{i} up"), approximate="tanh"), f"{i} down")
        return F.cross_entropy(linear(norm(x, "norm"), "head").float(), labels)

    def step() -> Any:
        for p in w.values():
            p.grad = None
        loss = loss_of()
        loss.backward()
        with torch.no_grad():
            count.add_(1)
            scale1, scale2 = 1 / (1 - BETA1**count), 1 / (1 - BETA2**count)
            for name, p in w.items():
                m[name].mul_(BETA1).add_(p.grad, alpha=1 - BETA1)
                v[name].mul_(BETA2).addcmul_(p.grad, p.grad, value=1 - BETA2)
                p -= RATE * (m[name] * scale1 / ((v[name] * scale2).sqrt() + EPS) + DECAY * p)
        return (loss, *[w[name].grad for name in _shown(task)])

    return step


def on_jax(task: Task, device: Any) -> Step:
    import jax
    import jax.numpy as jnp

    tokens, labels = jax.device_put(task.tokens, device), jax.device_put(task.labels, device)
    weights = {name: jax.device_put(a, device) for name, a in task.weights.items()}
    m, v = (jax.tree.map(jnp.zeros_like, weights) for _ in range(2))
    state: Any = weights, m, v, jax.device_put(np.float32(0), device)
    batch, length = tokens.shape
    width = weights["tokens"].shape[1]
    size = width // task.heads
    compute = jnp.dtype(task.compute)
    mask = jax.device_put(_mask(length), device).astype(compute)

    def loss_of(w: Weights, tokens: Any, labels: Any) -> Any:
        def linear(x: Any, name: str) -> Any:
            return x @ w[f"{name} w"].astype(compute) + w[f"{name} b"].astype(compute)

        def norm(x: Any, name: str) -> Any:
            x = x.astype(jnp.float32)
            x = x - jnp.mean(x, axis=-1, keepdims=True)
            x = x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + NORM_EPS)
            return (x * w[f"{name} gain"] + w[f"{name} bias"]).astype(compute)

        def attention(x: Any) -> Any:
            q, k, u = x.reshape(batch, length, 3, task.heads, size).transpose(2, 0, 3, 1, 4)
            p = jax.nn.softmax(q @ k.swapaxes(-1, -2) * size**-0.5 + mask)
            return (p @ u).swapaxes(1, 2).reshape(batch * length, width)

        x = (w["tokens"][tokens] + w["places"]).reshape(batch * length, width).astype(compute)
        for i in range(task.layers):
            x = x + linear(attention(linear(norm(x, f"{i} norm1"), f"{i} qkv")), f"{i} out")
            x = x + linear(jax.nn.gelu(linear(norm(x, f"{i} norm2"), f"{i} up"), approximate=True), f"{i} down")
        z = jax.nn.log_softmax(linear(norm(x, "norm"), "head").astype(jnp.float32))
        return -jnp.mean(jnp.take_along_axis(z, labels[:, None], axis=1))

    def update(state: Any, tokens: Any, labels: Any) -> Any:
        w, m, v, count = state
        loss, g = jax.value_and_grad(loss_of)(w, tokens, labels)
        count = count + 1
        scale1, scale2 = 1 / (1 - BETA1**count), 1 / (1 - BETA2**count)
        m = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, g)
        v = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, g)
        w = jax.tree.map(lambda p, m, v: p - RATE * (m * scale1 / (jnp.sqrt(v * scale2) + EPS) + DECAY * p), w, m, v)
        return (w, m, v, count), (loss, *[g[name] for name in _shown(task)])

    compiled = jax.jit(update, donate_argnums=0)

    def step() -> Any:
        nonlocal state
        state, results = compiled(state, tokens, labels)
        return results

    return step


def in_layers_of_tapegrad(task: Task, device: str) -> Step:
    rng = tg.random.Generator(0, device=device)
    vocabulary, width = task.weights["tokens"].shape

    class Block:
        def __init__(self) -> None:
            self.norm1, self.norm2 = (tg.nn.LayerNorm(width, device=device) for _ in range(2))
            self.attention = tg.nn.Attention(width, task.heads, rng=rng)
            self.up = tg.nn.Linear(width, 4 * width, rng=rng)
            self.down = tg.nn.Linear(4 * width, width, rng=rng)

        def __call__(self, x: Any) -> Any:
            x = x + self.attention(self.norm1(x), causal=True)
            return x + self.down(tg.gelu(self.up(self.norm2(x)), approximate="tanh"))

    class Model:
        def __init__(self) -> None:
            self.tokens = tg.nn.Embedding(vocabulary, width, rng=rng)
            self.places = tg.tensor(task.weights["places"], device=device, requires_grad=True)
            self.blocks = tg.nn.Sequential(*[Block() for _ in range(task.layers)])
            self.norm, self.head = tg.nn.LayerNorm(width, device=device), tg.nn.Linear(width, vocabulary, rng=rng)

        def __call__(self, tokens: Any) -> Any:
            return self.head(self.norm(self.blocks(self.tokens(tokens) + self.places)))

    with tg.default_dtype(tg.float32):
        model = Model()
    tg.nn.load(model, {_in_layers(name): _turned(a, name) for name, a in task.weights.items()})
    shown = [(name, tg.nn.named(model)[_in_layers(name)]) for name in _shown(task)]
    optimiser = tg.optim.AdamW(model, RATE, betas=(BETA1, BETA2), eps=EPS, weight_decay=DECAY)
    tokens = tg.tensor(task.tokens.tolist(), device=device)
    labels = tg.tensor(task.labels.reshape(task.tokens.shape).tolist(), device=device)

    def step() -> Any:
        loss = tg.cross_entropy(model(tokens), labels)
        loss.backward()
        found = [_turned(p.grad, name) for name, p in shown]
        optimiser.step()
        return loss, *found

    return step


def in_layers_of_torch(task: Task, device: str) -> Step:
    import torch
    from torch import nn
    from torch.nn import functional as F

    vocabulary, width = task.weights["tokens"].shape

    class Attention(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
            self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
            self.out_proj = nn.Linear(width, width)

        def forward(self, x: Any) -> Any:
            parts = F.linear(x, self.in_proj_weight, self.in_proj_bias)
            q, k, u = parts.reshape(*x.shape[:2], 3, task.heads, -1).permute(2, 0, 3, 1, 4).unbind()
            y = F.scaled_dot_product_attention(q, k, u, is_causal=True)
            return self.out_proj(y.transpose(1, 2).reshape(x.shape))

    class Block(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2, self.attention = nn.LayerNorm(width), nn.LayerNorm(width), Attention()
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            x = x + self.attention(self.norm1(x))
            return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))

    class Model(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.places = (
                nn.Embedding(vocabulary, width),
                nn.Parameter(torch.empty(task.tokens.shape[1], width)),
            )
            self.blocks = nn.Sequential(*[Block() for _ in range(task.layers)])
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

        def forward(self, tokens: Any) -> Any:
            return self.head(self.norm(self.blocks(self.tokens(tokens) + self.places)))

    model = Model()
    model.load_state_dict({_in_layers(name): torch.tensor(_turned(a, name)) for name, a in task.weights.items()})
    model.to(device)
    shown = [(name, dict(model.named_parameters())[_in_layers(name)]) for name in _shown(task)]
    optimiser = torch.optim.AdamW(model.parameters(), RATE, betas=(BETA1, BETA2), eps=EPS, weight_decay=DECAY)
    tokens, labels = torch.tensor(task.tokens, device=device), torch.tensor(task.labels, device=device)

    def step() -> Any:
        optimiser.zero_grad()
        loss = F.cross_entropy(model(tokens).flatten(0, 1), labels)
        loss.backward()
        optimiser.step()
        return loss, *[_turned(p.grad, name) for name, p in shown]

    return step


def _in_layers(name: str) -> str:
    """Return the name in a model of layers of a weight: "0 qkv w" is blocks.0.attention.in_proj_weight."""
    if name in ("tokens", "places"):
        return "tokens.weight" if name == "tokens" else name
    *block, layer, kind = name.split()
    parts = {"qkv": "attention.in_proj_", "out": "attention.out_proj."}
    kinds = {"w": "weight", "gain": "weight", "b": "bias", "bias": "bias"}
    return "".join([f"blocks.{n}." for n in block]) + parts.get(layer, f"{layer}.") + kinds[kind]


def _turned(a: Any, name: str) -> Any:
    """Return a weight of shape (in, out) as layers have it, (out, in), and back; other weights as they are."""
    return a.T if name.endswith(" w") else a


PROGRAMS: dict[str, Program] = {"hand": by_hand, "tapegrad": on_tapegrad, "torch": on_torch, "jax": on_jax}
IN_LAYERS: dict[str, Program] = {**PROGRAMS, "tapegrad": in_layers_of_tapegrad, "torch": in_layers_of_torch}


def _shown(task: Task) -> list[str]:
    """Return the names of the gradients that a step returns: of the first weights, and of some in between."""
    last = task.layers - 1
    return ["tokens", "places", "0 qkv w", "0 norm1 gain", f"{last} norm2 bias", f"{last} down w", "head b"]


@cache
def _mask(length: int) -> Any:
    """Return the addend of the scores of attention: minus infinity for later tokens."""
    return np.triu(np.full((length, length), -np.inf, dtype=np.float32), k=1)


def task(
    batch: int, length: int, width: int, heads: int, layers: int, vocabulary: int = 256, compute: str = "float32"
) -> Task:
    """Make a text of noise and the first weights."""
    rng = np.random.default_rng(0)
    weights: Weights = {}

    def normal(*shape: int, scale: float = 0.02) -> Any:
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)

    def linear(name: str, n: int, m: int, scale: float = 0.02) -> None:
        weights[f"{name} w"], weights[f"{name} b"] = normal(n, m, scale=scale), np.zeros(m, dtype=np.float32)

    def norm(name: str) -> None:
        weights[f"{name} gain"] = np.ones(width, dtype=np.float32)
        weights[f"{name} bias"] = np.zeros(width, dtype=np.float32)

    weights["tokens"], weights["places"] = normal(vocabulary, width), normal(length, width)
    for i in range(layers):
        norm(f"{i} norm1")
        linear(f"{i} qkv", width, 3 * width)
        linear(f"{i} out", width, width, 0.02 / sqrt(2 * layers))
        norm(f"{i} norm2")
        linear(f"{i} up", width, 4 * width)
        linear(f"{i} down", 4 * width, width, 0.02 / sqrt(2 * layers))
    norm("norm")
    linear("head", width, vocabulary)
    text = rng.integers(vocabulary, size=(batch, length + 1))
    return Task(text[:, :-1].copy(), text[:, 1:].reshape(-1).copy(), heads, layers, weights, compute)


def cases(tiny: bool) -> list[Case]:
    """Return the rows of this benchmark."""
    batch, length, width, heads, layers = (2, 6, 8, 2, 2) if tiny else (8, 128, 256, 8, 4)
    name = f"{layers} layers, width {width}, {length} tokens, batch {batch}"
    chosen = task(batch, length, width, heads, layers, 11 if tiny else 256)
    targets = (Target(1.0, COMPILED, "jax.jit"),)
    return [
        Case("gpt", name, chosen, PROGRAMS, targets=targets),
        Case("gpt", f"{name}, in layers", chosen, IN_LAYERS, targets=targets),
    ]
