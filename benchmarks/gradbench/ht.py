"""ht: hand tracking, the errors of a skinned hand model against measured points, and their Jacobian."""

from __future__ import annotations

from typing import Any, NamedTuple

import tapegrad as tg
from benchmarks.gradbench._function import Function, floats, integers


class Level(NamedTuple):
    """The bones that are equally far from the root: which ones, and where in the level before their parents stand."""

    bones: tg.Tensor
    parents: tg.Tensor | None


class Hand(NamedTuple):
    """The parts of a hand that do not change with the pose.

    relatives: (bones, 4, 4), each bone in its parent's frame at rest; inverses: (bones, 4, 4), from the model's frame
    at rest to each bone's; levels: from the root down; order: for each bone where it stands in the levels one after the
    other; angles: (bones, 2), which item of (0, theta) turns each bone about its axes x and z; base: (vertices, 4),
    homogeneous; weights: (vertices, bones); mirrored: whether x changes its sign.
    """

    relatives: tg.Tensor
    inverses: tg.Tensor
    levels: tuple[Level, ...]
    order: tg.Tensor
    angles: tg.Tensor
    base: tg.Tensor
    weights: tg.Tensor
    mirrored: bool
    rotations: tuple[tg.Tensor, ...]
    cross: tg.Tensor


class Task(NamedTuple):
    """The pose of a hand, its model and the points to fit.

    theta: the pose, 26 numbers; points: (c, 3), measured; corners: (c,) a vertex for each point, or (3, c) those of
    the triangle it is on; us: (c, 2), the place on the triangle, or None.
    """

    theta: tg.Tensor
    hand: Hand
    points: tg.Tensor
    corners: tg.Tensor
    us: tg.Tensor | None


def prepare(given: Any, device: str) -> Task:
    data = given["data"]
    model = data["model"]
    found = data["correspondences"]
    if given["us"]:
        us = floats(given["us"], device)
        found = list(zip(*[model["triangles"][i] for i in found], strict=True))
    else:
        us = None
    levels, order = _levels(model["parents"])
    hand = Hand(
        floats(model["base_relatives"], device),
        floats(model["inverse_base_absolutes"], device),
        tuple(
            Level(integers(bones, device), None if parents is None else integers(parents, device))
            for bones, parents in levels
        ),
        integers(order, device),
        integers(_angles(len(model["parents"])), device),
        floats(model["base_positions"], device),
        floats(model["weights"], device),
        model["is_mirrored"],
        tuple(floats(parts, device) for parts in _ROTATIONS),
        floats(_CROSS, device),
    )
    return Task(floats(given["theta"], device), hand, floats(data["points"], device), integers(found, device), us)


def _levels(parents: list[int]) -> tuple[list[tuple[list[int], list[int] | None]], list[int]]:
    """Return for each level its bones and where their parents stand in the level before; and each bone's place."""
    bones = [i for i, parent in enumerate(parents) if parent == -1]
    levels: list[tuple[list[int], list[int] | None]] = [(bones, None)]
    placed = list(bones)
    while True:
        below = [i for i, parent in enumerate(parents) if parent in bones]
        if not below:
            break
        levels.append((below, [bones.index(parents[i]) for i in below]))
        placed += below
        bones = below
    return levels, [placed.index(i) for i in range(len(parents))]


def _angles(bones: int) -> list[list[int]]:
    """Return which item of (0, theta) is the angle of each bone about x and about z.

    A finger has four bones and four angles: the first bone is stiff, the second turns about both axes, the others
    about x.
    """
    angles = [[0, 0] for _ in range(bones)]
    for finger in range(5):
        bone, item = 1 + 4 * finger, 7 + 4 * finger
        angles[bone + 1] = [item, item + 1]
        angles[bone + 2][0] = item + 2
        angles[bone + 3][0] = item + 3
    return angles


# A rotation about x, and one about z, is cos times the first of these, plus sin times the second, plus the third.
_ROTATIONS = (
    [
        [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]],
        [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    ],
    [
        [[0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 0]],
        [[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    ],
    [
        [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    ],
)
# v times this is the matrix, flat, of the cross product with v.
_CROSS = [[0, 0, 0, 0, 0, -1, 0, 1, 0], [0, 0, 1, 0, 0, 0, -1, 0, 0], [0, -1, 0, 1, 0, 0, 0, 0, 0]]


def objective(theta: tg.Tensor, hand: Hand, points: tg.Tensor, corners: tg.Tensor, us: tg.Tensor | None) -> tg.Tensor:
    """Return the errors of the points, (c, 3)."""
    return errors(corners_at(theta, hand, corners), points, us)


def errors(placed: tg.Tensor, points: tg.Tensor, us: tg.Tensor | None) -> tg.Tensor:
    """Return the errors of the points, from their vertices, (c, 3), or corners, (3, c, 3)."""
    if us is None:
        return points - placed
    third = 1 - us[:, :1] - us[:, 1:]
    return points - (us[:, :1] * placed[0, :, :] + us[:, 1:] * placed[1, :, :] + third * placed[2, :, :])


def corners_at(theta: tg.Tensor, hand: Hand, corners: tg.Tensor) -> tg.Tensor:
    """Return where the vertices of each point are, (c, 3) or (3, c, 3)."""
    flat = tg.reshape(corners, (-1,))
    if flat.shape[0] < hand.base.shape[0]:  # only the vertices that are asked for
        placed = vertices(theta, hand, hand.base[flat, :], hand.weights[flat, :])
    else:
        placed = tg.take(vertices(theta, hand, hand.base, hand.weights), flat, axis=0)
    return tg.reshape(placed, (*corners.shape, 3))


def vertices(theta: tg.Tensor, hand: Hand, base: tg.Tensor, weights: tg.Tensor) -> tg.Tensor:
    """Return where vertices are: each is moved by all bones, weighted. One product of matrices for all bones."""
    transforms = absolutes(theta, hand) @ hand.inverses
    turn = rotation(theta[:3], hand.cross)
    if hand.mirrored:
        turn = turn * tg.asarray([-1.0, 1.0, 1.0], dtype=turn.dtype, device=turn.device)
    moved = turn @ transforms[:, :3, :]
    count, bones = weights.shape
    parts = tg.reshape(weights[:, :, None] * base[:, None, :], (count, bones * 4))
    return parts @ tg.reshape(tg.permute_dims(moved, (0, 2, 1)), (bones * 4, 3)) + theta[3:6]


def absolutes(theta: tg.Tensor, hand: Hand) -> tg.Tensor:
    """Return the frames of all bones, (bones, 4, 4), from the root down one level after the other."""
    zero = tg.zeros(1, dtype=theta.dtype, device=theta.device)
    angles = tg.concat([zero, theta])[hand.angles][:, :, None, None]
    by_cos, by_sin, fixed = hand.rotations
    turns = tg.cos(angles) * by_cos + tg.sin(angles) * by_sin + fixed
    relatives = hand.relatives @ (turns[:, 1, :, :] @ turns[:, 0, :, :])
    levels: list[tg.Tensor] = []
    for bones, parents in hand.levels:
        own = tg.take(relatives, bones, axis=0)
        levels.append(own if parents is None else tg.take(levels[-1], parents, axis=0) @ own)
    return tg.take(tg.concat(levels), hand.order, axis=0)


def rotation(v: tg.Tensor, cross: tg.Tensor) -> tg.Tensor:
    """Return the matrix of turning about v by its length."""
    square = tg.sum(v * v)
    still = square < 1e-8
    angle = tg.sqrt(tg.where(still, 1.0, square))
    axis = v / angle
    cos = tg.cos(angle)
    one = tg.eye(3, dtype=v.dtype, device=v.device)
    turned = cos * one + (1 - cos) * (axis[:, None] * axis) + tg.sin(angle) * tg.reshape(axis @ cross, (3, 3))
    return tg.where(still, one, turned)


def jacobian(task: Task) -> tg.Tensor:
    """Return the derivatives of all errors by where on its own triangle each point is, and by theta.

    Points do not depend on each other's place, so moving all at once tells each one's derivative.
    """
    theta, hand, points, corners, us = task

    def by_pose(theta: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        placed = corners_at(theta, hand, corners)
        return errors(placed, points, us), placed

    by, placed = tg.jacobian(by_pose, mode="forward", has_aux=True)(theta)
    if us is not None:
        moved = tg.jacobian(lambda move: errors(placed, points, us + move), mode="forward")
        by = tg.concat([moved(tg.zeros_like(us[0, :])), by], axis=2)
    return tg.reshape(by, (-1, by.shape[-1]))


FUNCTIONS = {
    "objective": Function(prepare, lambda task: tg.reshape(objective(*task), (-1,))),
    "jacobian": Function(prepare, jacobian),
}
