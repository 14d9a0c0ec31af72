"""Bundle adjustment: cameras and points from pictures of the points, by Levenberg and Marquardt."""

from typing import Any

import numpy as np

import tapegrad as tg

CAMERAS = np.array([0, 0, 0, 0, 1, 1, 1, 1])  # of each observation
POINTS = np.array([0, 1, 2, 3, 0, 1, 2, 3])


def rotated(axis: Any, x: Any) -> Any:
    """Rotate points about axes by their lengths (Rodrigues)."""
    angle = tg.linalg.vector_norm(axis + np.array([1e-12, 0.0, 0.0]), axis=-1, keepdims=True)
    unit = axis / angle
    along = tg.vecdot(unit, x)[:, None] * (1 - tg.cos(angle))
    return x * tg.cos(angle) + tg.linalg.cross(unit, x) * tg.sin(angle) + unit * along


def projected(cameras: Any, points: Any) -> Any:
    seen = cameras[CAMERAS]
    p = rotated(seen[:, :3], points[POINTS]) + seen[:, 3:6]
    return p[:, :2] / p[:, 2:]


def run() -> dict[str, Any]:
    rng = np.random.default_rng(6)
    cameras = np.array([[0.1, 0.2, 0.0, 0.0, 0.0, 4.0], [0.0, -0.3, 0.1, 0.5, 0.0, 5.0]])
    points = rng.normal(size=(4, 3))
    observed = np.asarray(projected(tg.asarray(cameras), tg.asarray(points)))
    x = tg.asarray(np.concatenate([cameras.ravel(), points.ravel()]) + rng.normal(scale=0.02, size=24))

    def residuals(x: Any) -> Any:
        return tg.reshape(projected(tg.reshape(x[:12], (2, 6)), tg.reshape(x[12:], (4, 3))) - observed, (-1,))

    costs = []
    for _ in range(2):
        r, j = residuals(x), tg.jacobian(residuals)(x)
        costs.append(float(tg.sum(r**2)))
        x -= tg.linalg.solve(j.T @ j + 1e-3 * np.eye(24), j.T @ r)
    return {"costs": costs, "x": np.asarray(x), "device": x.device}
