"""Learn how a pendulum moves from noisy observations of one path: a neural ordinary differential equation.

A network f gives the velocity dy/dt = f(y) (Chen et al., 2018), and a Runge-Kutta solver follows it from observed
points. The distance to the observations that come next is differentiated through all steps of the solver. `tg.scan`
does the steps, and `tg.checkpoint` keeps only the point of each: its stages are computed again in the backward pass.

    pip install 'tapegrad[examples]'
    python examples/neural_ode.py --compile
    python examples/neural_ode.py --device jax:cpu --compile --seed 1
"""

import sys
from typing import Any

from command_line import arguments, needs, run_of, steps_of

needs("matplotlib", "safetensors", "tqdm")
import numpy as np
from matplotlib.figure import Figure

import tapegrad as tg
from tapegrad import nn, optim

sizes: dict[str, Any] = {"width": 64, "points": 500}
args = arguments("Learn how a pendulum moves from noisy observations.", epochs=80, out="neural_ode", **sizes)
LENGTH, DT = 20, 0.05  # steps in a stretch of the path; the time of a step


# 1. The solver: a step of the classical Runge-Kutta method of order 4, and many of them.
def solve(f: Any, y: Any, count: int) -> Any:
    """Return the points after 1, 2, ..., count steps from y, along a new first axis."""

    def step(y: Any) -> Any:
        k1 = f(y)
        k2 = f(y + 0.5 * DT * k1)
        k3 = f(y + 0.5 * DT * k2)
        k4 = f(y + DT * k3)
        return y + DT / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)

    def once(y: Any, _: Any) -> Any:
        y = tg.checkpoint(step)(y)
        return y, y

    return tg.scan(once, y, tg.zeros(count))[1]


# 2. Data: angle and angular velocity of a damped pendulum, a spiral, observed with noise; and all stretches of it.
def pendulum(y: Any) -> Any:
    return tg.stack([y[1], -2.0 * tg.sin(y[0]) - 0.15 * y[1]])


rng = tg.random.Generator(args.seed)
with tg.no_grad():
    start = tg.asarray([2.5, 0.0])
    path = solve(pendulum, start, args.points)
    seen = np.asarray((path + rng.normal(path.shape, std=0.02)).to_device("cpu"))
stretches = np.moveaxis(np.lib.stride_tricks.sliding_window_view(seen, LENGTH + 1, axis=0), -1, 1)
batches = tg.data.Batches(stretches, size=32, shuffle=rng)
print(f"{args.points} observed points, on {args.where}")

# 3. The model, a step, and the loop.
w = args.width
model = nn.Sequential(*(nn.Linear(2, w, rng=rng), tg.tanh, nn.Linear(w, w, rng=rng), tg.tanh, nn.Linear(w, 2, rng=rng)))
optimiser = optim.AdamW(model, optim.cosine(1e-2, args.epochs * len(batches)), weight_decay=1e-4)
run = run_of(args, model=model, optimiser=optimiser, rng=rng, data=batches)


def step(stretch: Any) -> Any:
    followed = solve(model, stretch[:, 0], LENGTH)  # from the first point of each
    loss = tg.mean((tg.moveaxis(followed, 0, 1) - stretch[:, 1:]) ** 2)
    loss.backward()
    optim.clip_norm(model, 1.0)
    optimiser.step()
    return loss


train = tg.compile(step, rehearse=True) if args.compile else step
loop = tg.Loop(batches, epochs=args.epochs, run=run, every=20)
for stretch in steps_of(loop, args):
    loop.log(loss=train(stretch))
tg.save(args.out / "neural_ode.safetensors", model)

# 4. A picture: the whole path by the network, from its start alone, and the velocities that it has learned.
with tg.no_grad():
    learned = np.asarray(solve(model, start, args.points).to_device("cpu"))
    grid = np.stack(np.meshgrid(*[np.linspace(-3.2, 3.2, 30)] * 2), axis=-1)
    flow = np.asarray(model(tg.asarray(grid, dtype=tg.float32)).to_device("cpu"))
true = np.asarray(path.to_device("cpu"))
off = np.linalg.norm(learned - true, axis=1)
figure = Figure(figsize=(14, 4.4), layout="constrained")
first, second, third = figure.subplots(1, 3)
first.semilogy(*np.transpose(loop.history.get("loss", [(0, 1.0)])))
first.set(title="Training loss", xlabel="step")
speed = np.linalg.norm(flow, axis=-1)
second.streamplot(*np.moveaxis(grid, -1, 0), *np.moveaxis(flow, -1, 0), color=speed, linewidth=0.7)
second.plot(*seen.T, ".", color="0.4", ms=3, label="observed")
second.plot(*learned.T, color="crimson", label="the network's path")
second.set(title="Velocities that the network has learned", xlabel="angle", ylabel="angular velocity")
time = DT * np.arange(1, args.points + 1)
for i, colour in enumerate(("tab:blue", "tab:orange")):
    third.plot(time, learned[:, i], color=colour, label=("angle", "angular velocity")[i])
    third.plot(time[::6], seen[::6, i], ".", color=colour, ms=4)
third.set(title="Its path (lines) and the observations (dots)", xlabel="time")
for axes in (second, third):
    axes.legend(loc="upper right", fontsize=8)
figure.savefig(args.out / "neural_ode.png", dpi=120)
print(f"wrote {args.out / 'neural_ode.safetensors'} and {args.out / 'neural_ode.png'}")
print(f"mean distance from the true path {off.mean():.4f}")
sys.exit(128 + loop.interrupted if loop.interrupted else 0)
