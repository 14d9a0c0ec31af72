"""Fit a Gaussian process to a curve with a gap in it, and draw how sure it is where nothing was measured.

The kernel says how alike values at two places are: a slow bend and a wave that slowly changes. Its scales are those
that make the measurements most likely: SciPy's L-BFGS finds them by the gradient of the marginal likelihood, through a
Cholesky factor (Rasmussen and Williams, "Gaussian processes for machine learning", 2006, algorithm 2.1).

    pip install 'tapegrad[examples]'
    python examples/gaussian_process.py
    python examples/gaussian_process.py --device torch:cpu --points 400
"""

import sys
from typing import Any

from command_line import arguments, bar_of, needs

needs("scipy", "matplotlib", "safetensors", "tqdm")
import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import minimize

import tapegrad as tg

NOISE, GAP = 0.3, (5.5, 7.5)

args = arguments("Fit a Gaussian process.", epochs=100, out="gaussian_process", resume=False, points=160)
tg.default_dtype(tg.float64)  # kernel matrices are nearly singular: a factor in float32 has few digits left


# 1. Data: measurements with noise of a curve that is known, none of them in the gap.
def curve(x: Any) -> Any:
    return 0.06 * (x - 5) ** 2 + (1.1 + 0.7 * np.cos(0.6 * x)) * np.sin(2 * np.pi * x / 1.7)


draws = np.random.default_rng(args.seed)
x = np.sort(draws.uniform(0, 10, args.points))
x = x[(x < GAP[0]) | (x > GAP[1])]
y = curve(x) + NOISE * draws.normal(size=len(x))
new = np.linspace(-1, 12, 400)
x_there, y_there, new_there = tg.asarray(x), tg.asarray(y), tg.asarray(new)
print(f"{len(x)} measurements, on {args.where}")


# 2. The kernel. Scales are positive, so their logarithms are what is searched for.
def kernel(logs: dict[str, Any], a: Any, b: Any) -> Any:
    s = {name: tg.exp(log) for name, log in logs.items()}
    apart = a[:, None] - b[None, :]
    bend = tg.exp(-0.5 * (apart / s["bend length"]) ** 2)
    wave = tg.exp(-2 * tg.sin(np.pi * apart / s["period"]) ** 2 - 0.5 * (apart / s["wave life"]) ** 2)
    return s["bend"] ** 2 * bend + s["wave"] ** 2 * wave


def factor(logs: dict[str, Any], x: Any) -> Any:
    return tg.linalg.cholesky(kernel(logs, x, x) + tg.exp(2 * logs["noise"]) * tg.eye(x.shape[0]))


# 3. -log p(y) = y' K^-1 y / 2 + log det K / 2 + n log(2 pi) / 2. With K = L L' and z = L^-1 y, the first term is
# z' z / 2, and the determinant is the square of the product of L's diagonal.
def cost(logs: dict[str, Any], x: Any, y: Any) -> Any:
    lower = factor(logs, x)
    z = tg.linalg.solve_triangular(lower, y)
    return 0.5 * tg.sum(z * z) + tg.sum(tg.log(tg.linalg.diagonal(lower))) + 0.5 * np.log(2 * np.pi) * y.shape[0]


first = {"bend": 1.0, "bend length": 3.0, "wave": 1.0, "period": 1.5, "wave life": 5.0, "noise": 0.5}
start = {name: tg.log(tg.asarray(scale)) for name, scale in first.items()}
objective = tg.scipy_objective(cost, start, compile=args.compile)
with bar_of(args) as advance:
    found = minimize(
        **objective,
        args=(x_there, y_there),
        method="L-BFGS-B",
        callback=lambda intermediate_result: advance(cost=intermediate_result.fun),  # SciPy goes by this name
        options={"maxiter": args.epochs},
    )
logs = objective.unflatten(found.x)
print(f"-log likelihood {found.fun:.1f} after {found.nit} iterations")
print(", ".join(f"{name} {np.exp(float(log)):.3g}" for name, log in logs.items()))

# 4. The prediction, with k the kernel of measured and new places: mean k' K^-1 y, variance k** - |L^-1 k|^2.
with tg.no_grad():
    lower, between = factor(logs, x_there), kernel(logs, x_there, new_there)
    mean = between.T @ tg.linalg.cho_solve(lower, y_there)
    known = tg.sum(tg.linalg.solve_triangular(lower, between) ** 2, axis=0)
    variance = tg.linalg.diagonal(kernel(logs, new_there, new_there)) - known
mean, std = (np.asarray(t.to_device("cpu")) for t in (mean, tg.sqrt(variance)))
inside = 100 * np.mean(np.abs(mean - curve(new)) < 2 * std)
tg.save(args.out / "gaussian_process.safetensors", logs)

# 5. The picture.
figure = Figure(figsize=(11, 4.5), layout="constrained")
axes = figure.subplots()
for width, alpha in ((3, 0.12), (2, 0.18), (1, 0.25)):  # one band for each standard deviation
    axes.fill_between(new, mean - width * std, mean + width * std, color="tab:blue", alpha=alpha, linewidth=0)
axes.plot(new, mean, color="tab:blue", label="prediction, with 1 to 3 standard deviations")
axes.plot(new, curve(new), "--", color="tab:red", linewidth=1, label="true curve")
axes.plot(x, y, ".", color="black", markersize=4, label="measured")
axes.axvspan(*GAP, color="grey", alpha=0.12)
axes.set(title=f"Gaussian process: period {np.exp(float(logs['period'])):.3f}, true 1.7", xlabel="x", ylabel="y")
axes.set_ylim(-3, 5)
axes.legend(loc="upper center", ncols=3, frameon=False)
figure.savefig(args.out / "gaussian_process.png", dpi=120)
print(f"wrote {args.out / 'gaussian_process.safetensors'} and {args.out / 'gaussian_process.png'}")
print(f"the true curve is within two standard deviations for {inside:.0f} % of x")
sys.exit(0)
