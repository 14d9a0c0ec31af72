"""Find points in space, and the cameras that saw them, from the pictures: bundle adjustment.

Cameras around a scene see points of it, with noise in the pictures. SciPy's least_squares moves all cameras and points
until the points project to where they were seen (Triggs et al., "Bundle adjustment: a modern synthesis", 2000). Each
picture of a point tells of one camera and one point only, so nearly all of the Jacobian is zero: its columns are
computed many at once. The folder given by --out gets the cameras and points, and a picture.

    pip install 'tapegrad[examples]'
    python examples/bundle_adjustment.py
    python examples/bundle_adjustment.py --device torch:cpu --points 1000
"""

import sys
from typing import Any

from command_line import arguments, bar_of, needs

needs("scipy", "matplotlib", "safetensors", "tqdm")
import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import least_squares

import tapegrad as tg

CAMERAS, FOCAL, NOISE = 8, 500.0, 0.5  # focal length and noise in pixels

args = arguments("Find points and cameras.", epochs=30, out="bundle_adjustment", resume=False, points=800)
tg.default_dtype(tg.float64)  # pictures of 1000 pixels, to a thousandth of a pixel


# 1. A camera is a rotation and a shift, 3 numbers each: the axis of the rotation, as long as its angle (Rodrigues).
def rotated(axis: Any, x: Any) -> Any:
    angle = tg.linalg.vector_norm(axis, axis=-1, keepdims=True)
    unit = axis / angle
    along = tg.vecdot(unit, x)[:, None] * (1 - tg.cos(angle))
    return x * tg.cos(angle) + tg.linalg.cross(unit, x) * tg.sin(angle) + unit * along


def projected(cameras: Any, points: Any) -> Any:
    p = rotated(cameras[:, :3], points) + cameras[:, 3:]
    return FOCAL * p[:, :2] / p[:, 2:]


# 2. Data: points on a knot, and cameras on a circle around it. Each point is seen by four of the cameras.
draws = np.random.default_rng(args.seed)
t = np.linspace(0, 2 * np.pi, args.points, endpoint=False)
knot = [np.sin(t) + 2 * np.sin(2 * t), np.cos(t) - 2 * np.cos(2 * t), -1.5 * np.sin(3 * t)]
true_points = np.stack(knot, axis=1) / 2.5 + 0.03 * draws.normal(size=(args.points, 3))
angles = np.linspace(0, 2 * np.pi, CAMERAS, endpoint=False) + 0.1
true_cameras = np.zeros((CAMERAS, 6))
true_cameras[:, 1], true_cameras[:, 5] = angles, 4.0
point, camera = np.divmod(np.arange(4 * args.points), 4)  # of each observation
camera = draws.permuted(np.tile(np.arange(CAMERAS), (args.points, 1)), axis=1)[point, camera]
clean = projected(tg.asarray(true_cameras[camera]), tg.asarray(true_points[point]))
seen = clean + tg.asarray(NOISE * draws.normal(size=clean.shape))
print(f"{len(camera)} pictures of {args.points} points by {CAMERAS} cameras, on {args.where}")


# 3. What is to be small, as a function of one vector of all unknowns.
def residuals(x: Any) -> Any:
    cameras = tg.reshape(x[: 6 * CAMERAS], (CAMERAS, 6))
    points = tg.reshape(x[6 * CAMERAS :], (-1, 3))
    return tg.reshape(projected(cameras[camera], points[point]) - seen, (-1,))


computed = tg.compile(residuals) if args.compile else residuals


def value(x: Any) -> Any:
    return np.asarray(computed(tg.asarray(x)).to_device("cpu"))


# 4. The search, from cameras and points that are far off. tapegrad finds on the tape where the Jacobian is not zero:
# an observation has two rows, with 6 columns of its camera and 3 of its point. Later calls are given that pattern.
truth = np.concatenate([true_cameras.ravel(), true_points.ravel()])
start = truth + draws.normal(size=len(truth)) * np.repeat([0.05, 0.3], [6 * CAMERAS, 3 * args.points])
pattern = tg.jacobian(residuals, sparsity="detect")(tg.asarray(start))
sparse = tg.jacobian(residuals, sparsity=pattern)
before = np.sqrt(np.mean(value(start) ** 2))
print(f"Jacobian of {' x '.join(map(str, pattern.shape))}, {100 * pattern.nnz / np.prod(pattern.shape):.1f} % not zero")

# The scene as a whole may turn, shift and grow without a change in the pictures: lsmr takes the least of equal steps.
with bar_of(args) as advance:

    def jacobian(x: Any) -> Any:
        advance(pixels=np.sqrt(np.mean(value(x) ** 2)))
        return sparse(tg.asarray(x))

    found = least_squares(value, start, jacobian, x_scale="jac", tr_solver="lsmr", max_nfev=args.epochs)
after = np.sqrt(np.mean(found.fun**2))
places = {"cameras": found.x[: 6 * CAMERAS].reshape(-1, 6), "points": found.x[6 * CAMERAS :].reshape(-1, 3)}
tg.save(args.out / "bundle_adjustment.safetensors", places)

# 5. The picture: a camera's place c is where R c + t = 0, so c is -t, turned back.
figure = Figure(figsize=(11, 4.6), layout="constrained")
for i, (x, error, title) in enumerate(((start, before, "Before"), (found.x, after, "After"))):
    cameras, points = x[: 6 * CAMERAS].reshape(-1, 6), x[6 * CAMERAS :].reshape(-1, 3)
    at = np.asarray(rotated(tg.asarray(-cameras[:, :3]), tg.asarray(-cameras[:, 3:])).to_device("cpu"))
    axes = figure.add_subplot(1, 2, i + 1, projection="3d")
    axes.scatter(points[:, 0], points[:, 2], points[:, 1], c=t, cmap="hsv", s=8)
    axes.scatter(at[:, 0], at[:, 2], at[:, 1], color="tab:red", marker="s", s=30, label="cameras")
    axes.set(title=f"{title}: {error:.2f} pixels", xlim=(-4.5, 4.5), ylim=(-4.5, 4.5), zlim=(-2, 2))
    axes.set_box_aspect((2, 2, 1), zoom=1.3)
    axes.view_init(elev=30)
figure.savefig(args.out / "bundle_adjustment.png", dpi=120)
print(f"wrote {args.out / 'bundle_adjustment.safetensors'} and {args.out / 'bundle_adjustment.png'}")
print(f"error {before:.2f} pixels before, {after:.2f} after {found.njev} steps; noise was {NOISE}")
sys.exit(0)
