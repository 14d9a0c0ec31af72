"""ba: bundle adjustment, the errors of projecting points by cameras, and their sparse Jacobian."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import tapegrad as tg
from benchmarks.gradbench._function import Function, floats, to_json

CAMERA = 11  # rotation 3, centre 3, focal length, principal point 2, radial distortion 2
AT_ONCE = 16384
BLOCK = CAMERA + 3 + 1  # the parameters of an observation: its camera, its point, its weight


class Task(NamedTuple):
    """cameras: (11, n); points: (3, m); weights: (p,); camera, point: which ones, (p,); features: (2, p)."""

    cameras: tg.Tensor
    points: tg.Tensor
    weights: tg.Tensor
    camera: tg.Tensor
    point: tg.Tensor
    features: tg.Tensor


class Camera(NamedTuple):
    """Cameras, one a column: parameters of several rows are vectors."""

    rotation: tg.Tensor
    centre: tg.Tensor
    focal: tg.Tensor
    principal: tg.Tensor
    radial: tg.Tensor
    radial_square: tg.Tensor


class Sparse(NamedTuple):
    """A matrix in compressed rows: where in the others each row starts, the columns, the values."""

    rows: tg.Tensor
    cols: tg.Tensor
    vals: tg.Tensor


def prepare(given: Any, device: str) -> Task:
    """Repeat the one camera, point, weight and feature of the input, as the suite prescribes."""
    n, m, p = given["n"], given["m"], given["p"]

    def repeated(values: list[float], count: int) -> tg.Tensor:
        column = floats([[value] for value in values], device)
        return column * tg.ones((1, count), dtype=tg.float64, device=device)

    observations = tg.arange(p, dtype=tg.int32, device=device)
    return Task(
        repeated(given["cam"], n),
        repeated(given["x"], m),
        repeated([given["w"]], p)[0, :],
        observations % n,
        observations % m,
        repeated(given["feat"], p),
    )


def errors(camera: Camera, point: tg.Tensor, weight: tg.Tensor, feature: tg.Tensor) -> tg.Tensor:
    """Return the two errors of each observation, (2, p), from its own camera, point (3, p), weight and feature."""
    rotated = rotate(camera.rotation, point - camera.centre)
    flat = rotated[:2, :] * tg.reciprocal(rotated[2:, :])
    square = tg.sum(tg.square(flat), axis=0, keepdims=True)
    distorted = flat * (1 + square * (camera.radial + camera.radial_square * square))
    return weight * (distorted * camera.focal + camera.principal - feature)


def rotate(rotation: tg.Tensor, x: tg.Tensor) -> tg.Tensor:
    """Return x turned about `rotation` by its length, by the formula of Rodrigues."""
    angle = tg.sqrt(tg.sum(tg.square(rotation), axis=0, keepdims=True))
    inverse = tg.reciprocal(angle)
    cos = tg.cos(angle)
    along = tg.sum(rotation * x, axis=0, keepdims=True) * ((1 - cos) * tg.square(inverse))
    return x * cos + tg.linalg.cross(rotation, x, axis=0) * (tg.sin(angle) * inverse) + rotation * along


def gathered(task: Task) -> tuple[Camera, tg.Tensor, tg.Tensor]:
    """Return the camera, point and weight of each observation."""
    camera = tg.take(task.cameras, task.camera, axis=1)
    parts = Camera(*[camera[first:last, :] for first, last in pairwise((0, 3, 6, 7, 9, 10, 11))])
    return parts, tg.take(task.points, task.point, axis=1), task.weights[None, :]


def objective(task: Task) -> tuple[tg.Tensor, tg.Tensor]:
    """Return the errors, those of one observation side by side, and the errors of the weights."""
    pair = errors(*gathered(task), task.features)
    return tg.reshape(pair.T, (-1,)), weight_errors(task.weights)


def weight_errors(weights: tg.Tensor) -> tg.Tensor:
    return 1 - weights * weights


def jacobian(task: Task) -> Sparse:
    """Return the Jacobian of all errors, made for so many observations at once as stay in the cache."""
    p = task.weights.shape[0]
    values = [block_values(part(task, slice(first, first + AT_ONCE))) for first in range(0, p, AT_ONCE)]
    _, pull = tg.vjp(weight_errors, task.weights)
    return Sparse(*structure(task), tg.concat([*values, *pull(tg.ones_like(task.weights))]))


def part(task: Task, some: slice) -> Task:
    """Return the task with some of the observations."""
    weights, camera, point, features = task.weights[some], task.camera[some], task.point[some], task.features[:, some]
    return task._replace(weights=weights, camera=camera, point=point, features=features)


def block_values(task: Task) -> tg.Tensor:
    """Return the values of both rows of each observation, side by side.

    Once gathered, observations do not depend on each other's parameters: pulling ones back from the first error of all
    observations gives the first row of all their blocks, and so does the second.
    """
    pair, pull = tg.vjp(lambda c, p, w: errors(c, p, w, task.features), *gathered(task))
    rows: list[tg.Tensor] = []
    for seed in ([1.0], [0.0]), ([0.0], [1.0]):
        camera, point, weight = pull(tg.broadcast_to(floats(seed, pair.device), pair.shape))
        rows += [*camera, point, weight]
    return tg.reshape(tg.concat(rows).T, (-1,))


def structure(task: Task) -> tuple[tg.Tensor, tg.Tensor]:
    """Return where each row starts, and the columns: all cameras come first, then all points, then the weights."""
    n, m, p = task.cameras.shape[1], task.points.shape[1], task.weights.shape[0]

    def numbers(first: int, last: int) -> tg.Tensor:
        return tg.arange(first, last, dtype=tg.int32, device=task.weights.device)

    points, weights = CAMERA * n, CAMERA * n + 3 * m
    own = numbers(weights, weights + p)
    camera = (CAMERA * task.camera)[:, None] + numbers(0, CAMERA)
    point = (3 * task.point)[:, None] + numbers(points, points + 3)
    block = tg.concat([camera, point, own[:, None]], axis=1)
    columns = tg.reshape(tg.broadcast_to(block[:, None, :], (p, 2, BLOCK)), (-1,))
    rows = tg.concat([BLOCK * numbers(0, 2 * p + 1), numbers(2 * BLOCK * p + 1, 2 * BLOCK * p + p + 1)])
    return rows, tg.concat([columns, own])


def finish_objective(result: tuple[tg.Tensor, tg.Tensor]) -> dict[str, Any]:
    """Return the errors of one observation: the input repeats one, and the suite wants no more."""
    pair, weight = result
    first = [float(pair[0]), float(pair[1])]
    return {
        "reproj_error": {"elements": first, "repeated": pair.shape[0] // 2},
        "w_err": {"element": float(weight[0]), "repeated": weight.shape[0]},
    }


def finish_jacobian(matrix: Sparse) -> dict[str, Any]:
    """Return the first 30 items of each array and the last."""
    return {name: to_json(x[: 2 * BLOCK]) + [x[-1].item()] for name, x in matrix._asdict().items()}


FUNCTIONS = {
    "objective": Function(prepare, objective, finish_objective),
    "jacobian": Function(prepare, jacobian, finish_jacobian),
}
