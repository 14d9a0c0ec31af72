"""A convolutional network on small pictures of bars, trained by gradient descent with momentum."""

from typing import Any

import numpy as np

import tapegrad as tg


def pictures(rng: np.random.Generator, n: int) -> tuple[Any, Any]:
    labels = rng.integers(0, 2, n)
    images = rng.normal(scale=0.3, size=(n, 8, 8))
    for image, label in zip(images, labels, strict=True):
        at = rng.integers(2, 6)
        if label:
            image[at] += 2.0
        else:
            image[:, at] += 2.0
    return images, labels


def patches(size: int, width: int) -> tuple[Any, Any]:
    """Return the rows and columns of all windows, as index arrays."""
    starts, inside = np.arange(size - width + 1), np.arange(width)
    rows = starts[:, None, None, None] + inside[None, None, :, None]
    columns = starts[None, :, None, None] + inside[None, None, None, :]
    return rows, columns


def network(params: dict[str, Any], images: Any) -> Any:
    rows, columns = patches(8, 3)
    windows = tg.asarray(images)[:, rows, columns]
    x = tg.tensordot(windows, params["filters"], axes=2) + params["bias"]
    x = tg.relu(x)
    n, height, width, channels = x.shape
    x = tg.max(tg.reshape(x, (n, height // 2, 2, width // 2, 2, channels)), axis=(2, 4))
    return tg.reshape(x, (n, -1)) @ params["out"]


def run() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    images, labels = pictures(rng, 12)
    params: dict[str, Any] = {
        "filters": tg.tensor(rng.normal(scale=0.3, size=(3, 3, 4)), requires_grad=True),
        "bias": tg.tensor(np.zeros(4), requires_grad=True),
        "out": tg.tensor(rng.normal(scale=0.3, size=(36, 2)), requires_grad=True),
    }
    velocity: dict[str, Any] = {name: np.zeros(p.shape) for name, p in params.items()}
    losses = []
    for _ in range(3):
        for p in params.values():
            p.grad = None
        loss = tg.cross_entropy(network(params, (images - images.mean()) / images.std()), labels)
        loss.backward()
        losses.append(loss)
        with tg.no_grad():
            for name, p in params.items():
                velocity[name] = 0.9 * velocity[name] + p.grad
                p -= 0.1 * velocity[name]
    with tg.no_grad():
        guess = np.asarray(tg.argmax(network(params, images), axis=-1))
    return {
        "losses": np.asarray(losses),
        "mean": np.mean(losses),
        "right": np.mean(guess == labels),
        "device": loss.device,
    }
