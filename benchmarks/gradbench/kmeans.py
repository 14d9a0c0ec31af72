"""kmeans: the sum of squared distances to the nearest centroid, and Newton's direction for it."""

from __future__ import annotations

from typing import Any, NamedTuple

import tapegrad as tg
from benchmarks.gradbench._function import Function, floats


class Task(NamedTuple):
    """centroids: (k, d); points: (n, d)."""

    centroids: tg.Tensor
    points: tg.Tensor


def prepare(given: Any, device: str) -> Task:
    return Task(floats(given["centroids"], device), floats(given["points"], device))


def cost(centroids: tg.Tensor, points: tg.Tensor) -> tg.Tensor:
    """Return the sum over points of the least squared distance.

    Which centroid is nearest has no derivative, and does not need the squares of the points; the rest touches one
    centroid a point, so that its derivatives are as sparse.
    """
    with tg.no_grad():
        scores = tg.sum(centroids * centroids, axis=1) - points @ (2 * centroids).T
        nearest = tg.argmin(scores, axis=1)
    apart = points - tg.take(centroids, nearest, axis=0)
    return tg.sum(apart * apart)


def direction(centroids: tg.Tensor, points: tg.Tensor) -> tg.Tensor:
    """Return the gradient divided by the diagonal of the Hessian, which has nothing but that diagonal.

    So its product with ones is the diagonal, and one pass forward over one in reverse gives both.
    """
    slope, diagonal = tg.jvp(lambda c: tg.grad(cost)(c, points), (centroids,), (tg.ones_like(centroids),))
    step: tg.Tensor = slope / diagonal
    return step


FUNCTIONS = {
    "cost": Function(prepare, lambda task: cost(*task)),
    "dir": Function(prepare, lambda task: direction(*task)),
}
