"""Fit a logistic regression with SciPy's optimisers, the gradient and the Hessian's products from the tape.

The data is scikit-learn's: 569 tumours, each of 30 measurements and benign or malignant, a quarter held out for the
test. The cost is the mean cross-entropy with a ridge, so that it has one least value. L-BFGS-B finds it from gradients,
Newton-CG from products of the Hessian with vectors as well, and scikit-learn's own solver checks both. The last line
says how they agree; with Matplotlib, the folder given by --out gets a picture of both descents.

    pip install 'tapegrad[examples]'
    python examples/03_logistic_regression.py
    python examples/03_logistic_regression.py --device torch:cpu --ridge 0.001
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

import tapegrad as tg

try:
    from scipy.optimize import minimize
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
except ImportError as error:
    sys.exit(f"this example needs more packages ({error}): pip install 'tapegrad[examples]'")

PICTURE = "logistic_regression.png"
# Tolerances of the methods: L-BFGS-B stops by the change of the cost, Newton-CG by the step.
METHODS: dict[str, dict[str, float]] = {
    "L-BFGS-B": {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 2000},
    "Newton-CG": {"xtol": 1e-10},
}
AGREE = 1e-3  # the largest difference of weights that counts as agreement

Weights = dict[str, Any]


def scores(weights: Weights, x: Any) -> Any:
    """Return the log of the odds that each tumour is benign."""
    return x @ weights["w"] + weights["b"]


def fit(cost: Any, method: str) -> tuple[Weights, list[float]]:
    """Minimise the cost by one of SciPy's methods; return the weights and the cost after each iteration."""
    objective = tg.scipy_objective(cost, {"w": np.zeros(30), "b": 0.0})
    costs = [objective.fun(objective.x0)[0]]
    hessian = {"hessp": objective.hessp} if method == "Newton-CG" else {}
    result = minimize(
        **objective,
        **hessian,
        method=method,
        options=METHODS[method],
        callback=lambda x: costs.append(objective.fun(x)[0]),
    )
    calls = f"{result.nfev} gradients" + (f", {result.nhev} products with the Hessian" if hessian else "")
    print(f"{method:10} {result.nit:4} iterations, {calls}: cost {result.fun:.12f}")
    return objective.unflatten(result.x), costs


def draw(path: Path, descents: dict[str, list[float]]) -> None:
    """Save a picture of how far each descent is from the least cost."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no picture: Matplotlib is not installed")
        return
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    least = min(min(costs) for costs in descents.values())
    for method, costs in descents.items():
        axes.semilogy(np.maximum(np.asarray(costs) - least, 1e-16), label=method)
    axes.set_title("Logistic regression of 426 tumours, 31 weights")
    axes.set_xlabel("iteration")
    axes.set_ylabel("cost, above the least")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    print(f"wrote {path}")


def main() -> int:
    """Fit by both methods, compare and draw; return the exit status."""
    parser = argparse.ArgumentParser(description="Fit a logistic regression with SciPy's optimisers.")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, torch:cpu, jax:cpu, ... (default: cpu)")
    parser.add_argument("--ridge", type=float, default=0.01, help="default: 0.01")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "output", metavar="DIR")
    arguments = parser.parse_args()
    if not arguments.ridge > 0:
        parser.error(f"--ridge must be more than 0, not {arguments.ridge}")
    try:
        tg.zeros(1, dtype=tg.float64, device=arguments.device)
        arguments.out.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError, TypeError, ValueError) as error:  # no such device, or no such folder
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2

    tumours = load_breast_cancer()
    x, test_x, y, test_y = train_test_split(
        tumours.data, tumours.target.astype(float), stratify=tumours.target, random_state=0
    )
    mean, spread = np.mean(x, axis=0), np.std(x, axis=0)
    x, test_x = (x - mean) / spread, (test_x - mean) / spread
    print(f"{len(y)} tumours to fit, {len(test_y)} to test, on {arguments.device}")

    with tg.default_device(arguments.device):
        x_there, y_there = tg.tensor(x), tg.tensor(y)

    def cost(weights: Weights) -> tg.Tensor:
        z = scores({k: w.to_device(arguments.device) for k, w in weights.items()}, x_there)
        # -log p where benign, -log(1 - p) where not, of p = sigmoid(z): log(1 + e^z) - y z
        entropy = tg.mean(tg.logaddexp(z, 0.0) - y_there * z)
        penalty: tg.Tensor = tg.sum(weights["w"] ** 2) * (0.5 * arguments.ridge)
        return entropy.to_device("cpu") + penalty

    fits, descents = {}, {}
    for method in METHODS:
        fits[method], descents[method] = fit(cost, method)
    draw(arguments.out / PICTURE, descents)

    judge = LogisticRegression(C=1 / (arguments.ridge * len(y)), tol=1e-10, max_iter=10_000).fit(x, y)
    fits["scikit-learn"] = {"w": judge.coef_[0], "b": judge.intercept_[0]}
    for method, weights in fits.items():
        right = np.mean((scores(weights, test_x) > 0) == (test_y > 0))
        print(f"{method:12} {100 * right:.1f} % of the test tumours right, {spread_of(tumours, weights)} weighs most")
    first, *others = fits.values()
    apart = max(float(np.max(np.abs(first[k] - other[k]))) for other in others for k in first)
    agree = apart <= AGREE
    print(f"largest difference of weights {apart:.1e}: they {'agree' if agree else 'DISAGREE'}")
    return 0 if agree else 1


def spread_of(tumours: Any, weights: Weights) -> str:
    """Return the name of the measurement that the weights make most of."""
    return str(tumours.feature_names[np.argmax(np.abs(weights["w"]))])


if __name__ == "__main__":
    sys.exit(main())
