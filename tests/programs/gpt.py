"""A small GPT on a text of letters, trained by AdamW."""

from typing import Any

import numpy as np

import tapegrad as tg

TEXT = "the tape records and the tape replays "
WIDTH, CONTEXT = 8, 6


def positions() -> Any:
    angles = np.arange(CONTEXT)[:, None] / 100.0 ** (np.arange(0, WIDTH, 2) / WIDTH)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def normalised(x: Any) -> Any:
    centred = x - tg.mean(x, axis=-1, keepdims=True)
    return centred / tg.sqrt(tg.mean(centred**2, axis=-1, keepdims=True) + np.float32(1e-5))


def attention(params: dict[str, Any], x: Any) -> Any:
    mask = np.triu(np.ones((CONTEXT, CONTEXT), dtype=bool), k=1)
    q, k, v = x @ params["q"], x @ params["k"], x @ params["v"]
    scores = q @ k.mT / np.sqrt(WIDTH)
    return tg.softmax(tg.where(mask, -np.inf, scores), axis=-1) @ v @ params["proj"]


def model(params: dict[str, Any], tokens: Any) -> Any:
    x = params["embedding"][tokens] + positions()
    x = x + attention(params, normalised(x))
    x = x + tg.gelu(normalised(x) @ params["up"]) @ params["down"]
    return normalised(x) @ params["embedding"].T


def run() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    letters = sorted(set(TEXT))
    text = np.array([letters.index(c) for c in TEXT])
    shapes = {
        "embedding": (16, WIDTH),
        **dict.fromkeys(("q", "k", "v", "proj"), (WIDTH, WIDTH)),
        "up": (WIDTH, 16),
        "down": (16, WIDTH),
    }
    params: dict[str, Any] = {
        name: tg.tensor(rng.normal(scale=0.2, size=shape), requires_grad=True) for name, shape in shapes.items()
    }
    first: dict[str, Any] = {name: np.zeros(p.shape) for name, p in params.items()}
    second: dict[str, Any] = {name: np.zeros(p.shape) for name, p in params.items()}
    losses = []
    for step in range(1, 3):
        starts = rng.integers(0, len(text) - CONTEXT - 1, 4)
        batch = text[starts[:, None] + np.arange(CONTEXT + 1)]
        loss = tg.cross_entropy(model(params, batch[:, :-1]), batch[:, 1:])
        loss.backward()
        losses.append(float(loss))
        with tg.no_grad():
            for name, p in params.items():
                first[name] = 0.9 * first[name] + 0.1 * p.grad
                second[name] = 0.99 * second[name] + 0.01 * p.grad**2
                move = first[name] / (1 - 0.9**step) / (tg.sqrt(second[name] / (1 - 0.99**step)) + 1e-8)
                p -= 0.01 * move + 1e-3 * p
                p.grad = None
    return {"losses": np.array(losses), "embedding": params["embedding"].tolist(), "device": loss.device}
