"""Solve the heat equation by a network that is fitted to the equation itself, with SciPy's L-BFGS.

A physics-informed network (Raissi, Perdikaris and Karniadakis, 2019) u(t, x) has no data. It is fitted so that it
satisfies u_t = 0.05 u_xx at random points, the initial state u(0, x) = sin(pi x) + sin(3 pi x) / 2, and u = 0 at both
ends of the rod. The exact solution is known, and says how good it is. Second-order methods such as L-BFGS are at their
best here: the loss has no noise while the points stay. So each step of the loop is one run of L-BFGS on new points.

    pip install 'tapegrad[examples]'
    python examples/heat_pinn.py --compile
    python examples/heat_pinn.py --device torch:cpu --seed 1
"""

import sys
from typing import Any

from command_line import arguments, needs, run_of, steps_of

needs("scipy", "matplotlib", "safetensors", "tqdm")
import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import minimize

import tapegrad as tg
from tapegrad import nn

sizes: dict[str, Any] = {"width": 32, "iterations": 200}
args = arguments("Solve the heat equation by a network.", epochs=2, out="heat_pinn", **sizes)
tg.default_dtype(tg.float64)  # the line search of L-BFGS compares values of the loss that are very close

# 1. Points (t, x) of the unit square at which the equation is to hold; each batch of them is for one run of L-BFGS.
rng = tg.random.Generator(args.seed)
batches = tg.data.Batches(rng.uniform((4000, 2)), size=500, shuffle=rng)
model = nn.Sequential(
    *(nn.Linear(2, args.width, rng=rng), tg.tanh, nn.Linear(args.width, args.width, rng=rng), tg.tanh),
    nn.Linear(args.width, 1, rng=rng),
)
run = run_of(args, model=model, rng=rng, data=batches)
print(f"runs of up to {args.iterations} iterations on {args.where}")


# 2. The loss: the mean squares of all that should be zero.
def u_of(model: Any, t: Any, x: Any) -> Any:
    # A network learns fastest if what it sees lies evenly about zero, and if its tanh bends well within that range.
    return model(tg.stack([2.0 * t - 1.0, 4.0 * x - 2.0], axis=-1))[..., 0]


def along(f: Any, x: Any) -> Any:
    """Return the derivative of f at each of the points x. f(x)[i] depends on x[i] only, so one tangent does for all."""
    return tg.jvp(f, (x,), (tg.ones_like(x),))[1]


def initial(x: Any) -> Any:
    return tg.sin(np.pi * x) + 0.5 * tg.sin(3 * np.pi * x)


def loss_of(model: Any, points: Any) -> Any:
    t, x = points[:, 0], points[:, 1]
    u_t = along(lambda t: u_of(model, t, x), t)
    u_xx = along(lambda x: along(lambda x: u_of(model, t, x), x), x)
    start = u_of(model, tg.zeros_like(x), x) - initial(x)
    ends = tg.concat([u_of(model, t, tg.zeros_like(t)), u_of(model, t, tg.ones_like(t))])
    return tg.mean((u_t - 0.05 * u_xx) ** 2) + 10.0 * (tg.mean(start**2) + tg.mean(ends**2))


# 3. The loop. SciPy sees one vector of all weights; the objective turns it into a model, and its gradient back.
loss = tg.compile(loss_of, rehearse=True) if args.compile else loss_of
objective = tg.scipy_objective(loss, model)
loop = tg.Loop(batches, epochs=args.epochs, run=run, every=1)
for points in steps_of(loop, args):
    weights = tg.scipy_objective(loss, model).x0  # where the last run ended
    options = {"maxiter": args.iterations, "maxcor": 30, "ftol": 0.0, "gtol": 0.0}
    result = minimize(objective.fun, weights, args=(points,), jac=True, method="L-BFGS-B", options=options)
    nn.load(model, nn.named(objective.unflatten(result.x)))
    loop.log(loss=result.fun)
tg.save(args.out / "heat_pinn.safetensors", model)

# 4. A picture: the network's solution, its error, and both solutions at some times.
side = np.linspace(0.0, 1.0, 101)
t, x = np.meshgrid(side, side, indexing="ij")
with tg.no_grad():
    found = np.asarray(u_of(model, tg.asarray(t), tg.asarray(x)).to_device("cpu"))
modes = ((1.0, 1), (0.5, 3))  # a sine of k half-waves decays as exp(-0.05 (k pi)^2 t)
exact = np.sum([a * np.exp(-0.05 * (k * np.pi) ** 2 * t) * np.sin(k * np.pi * x) for a, k in modes], axis=0)
error = np.abs(found - exact)
figure = Figure(figsize=(14, 4), layout="constrained")
first, second, third = figure.subplots(1, 3)
for axes, values, title, colours in (
    (first, found, "Temperature u(t, x) of the network", "inferno"),
    (second, error, f"Its error, at most {error.max():.1e}", "viridis"),
):
    image = axes.imshow(values.T, origin="lower", extent=(0, 1, 0, 1), aspect="auto", cmap=colours)
    figure.colorbar(image, ax=axes)
    axes.set(title=title, xlabel="time t", ylabel="place x")
for i in (0, 10, 30, 60, 100):
    (line,) = third.plot(side, found[i], label=f"t = {side[i]:.1f}")
    third.plot(side[::5], exact[i, ::5], "o", ms=3, color=line.get_color())
third.set(title="Network (lines), exact solution (dots)", xlabel="place x", ylabel="temperature u")
third.legend(frameon=False)
figure.savefig(args.out / "heat_pinn.png", dpi=120)
print(f"wrote {args.out / 'heat_pinn.safetensors'} and {args.out / 'heat_pinn.png'}")
print(f"largest error {error.max():.1e}")
sys.exit(128 + loop.interrupted if loop.interrupted else 0)
