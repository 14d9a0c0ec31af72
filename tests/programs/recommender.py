"""A recommender: factors of users and items from ratings, in batches that NumPy shuffles."""

from typing import Any

import numpy as np

import tapegrad as tg


def run() -> dict[str, Any]:
    rng = np.random.default_rng(9)
    users, items = rng.integers(0, 8, 24), rng.integers(0, 6, 24)
    ratings = np.clip(rng.normal(3.5, 1.0, 24), 1, 5)
    p: Any = tg.tensor(rng.normal(scale=0.1, size=(8, 3)), requires_grad=True)
    q: Any = tg.tensor(rng.normal(scale=0.1, size=(6, 3)), requires_grad=True)
    bias: Any = tg.zeros(6)
    bias.requires_grad = True
    losses = []
    for _ in range(2):
        order = rng.permutation(24)
        for batch in np.split(order, 2):
            user, item = users[batch], items[batch]
            predicted = ratings.mean() + bias[item] + tg.sum(p[user] * tg.take(q, item, axis=0), axis=-1)
            loss = tg.mean((ratings[batch] - predicted) ** 2) + 0.01 * (tg.sum(p**2) + tg.sum(q**2))
            loss.backward()
            losses.append(loss)
            with tg.no_grad():
                for w in (p, q, bias):
                    w -= np.float64(0.5) * w.grad
                    w.grad = None
    liked = bias.detach()[np.argsort(np.asarray(bias.detach()))[::-1][:3]]
    seen = tg.zeros((8, 6))
    seen[users, items] = np.ones(24)
    scores = tg.where(seen > 0, -np.inf, p @ q.T + bias)
    best = np.asarray(tg.argmax(scores.detach(), axis=1))
    return {"mean": np.mean(losses), "last": float(loss), "liked": liked.tolist(), "best": best, "device": loss.device}
