"""Train in private: a gradient for each example, clipped, and noise on their sum (DP-SGD; Abadi et al., 2016).

No single example can move the weights by more than the norm that its gradient is clipped to, and noise hides that
move. The more noise, the less the weights tell of any one example: the smaller is epsilon. A model for each amount of
noise is trained on scikit-learn's digits, all at once. The folder given by --out gets weights, a picture of accuracy
against noise, and the run for --resume.

    pip install 'tapegrad[examples]'
    python examples/private_gradients.py
    python examples/private_gradients.py --device torch:cpu --clip 0.5
"""

import sys
from typing import Any

from command_line import arguments, needs, run_of, steps_of

needs("sklearn", "scipy", "matplotlib", "safetensors", "tqdm")
import numpy as np
from matplotlib.figure import Figure
from scipy.special import comb, logsumexp
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tapegrad as tg
from tapegrad import optim

NOISES = np.array([0.0, 0.5, 1.0, 2.0, 4.0, 8.0], dtype=np.float32)  # as multiples of the norm after clipping
SIZE, DELTA = 128, 1e-4

args = arguments("Train in private.", epochs=30, out="private_gradients", clip=1.0)

# 1. Data, and the models: the first axis of each weight counts the models. They all start at zero.
digits = load_digits()
pixels, test_pixels, labels, test_labels = train_test_split(
    (digits.data / 16).astype("float32"), digits.target, test_size=0.2, stratify=digits.target, random_state=0
)
rng = tg.random.Generator(args.seed)
batches = tg.data.Batches(pixels, labels, size=SIZE, shuffle=rng, drop_last=True)
weights = {"w": tg.zeros((len(NOISES), 64, 10)), "b": tg.zeros((len(NOISES), 10))}
optimiser = optim.SGD(weights, 0.5, momentum=0.9)
run = run_of(args, weights=weights, optimiser=optimiser, rng=rng, data=batches)
print(f"{len(labels)} digits, {len(NOISES)} models, on {args.where}")


# 2. The gradient of one example: vmap makes it that of each example of a batch, without a loop.
def loss(weights: dict[str, Any], x: Any, y: Any) -> Any:
    return tg.cross_entropy(x @ weights["w"] + weights["b"], y)


def clipped(weights: dict[str, Any], x: Any, y: Any) -> dict[str, Any]:
    gradient = tg.grad(loss)(weights, x, y)
    norm = tg.sqrt(sum(tg.sum(g * g) for g in gradient.values()))
    return {name: g * tg.minimum(args.clip / norm, 1.0) for name, g in gradient.items()}


# For one model, the weights are shared by all examples: None. For all models, the examples are shared.
of_examples = tg.vmap(clipped, in_axes=(None, 0, 0))
of_models = tg.vmap(of_examples, in_axes=(0, None, None))


def step(x: Any, y: Any) -> None:
    for_each = of_models(weights, x, y)  # a gradient for each model and example
    std = {"w": args.clip * NOISES[:, None, None], "b": args.clip * NOISES[:, None]}
    noisy = {name: tg.sum(g, axis=1) + std[name] * rng.normal(weights[name].shape) for name, g in for_each.items()}
    optimiser.step({name: g / SIZE for name, g in noisy.items()})


train = tg.compile(step, rehearse=True) if args.compile else step
loop = tg.Loop(batches, epochs=args.epochs, run=run, every=20)
for x, y in steps_of(loop, args):
    train(x, y)


# 3. Epsilon: the log of how much more likely any weights get by one example more, except with probability DELTA. By
# Rényi's divergence of whole orders (Mironov, Talwar and Zhang, 2019), as if batches were drawn example by example.
def epsilon(noise: float, steps: int) -> float:
    q, orders, divergences = SIZE / len(labels), np.arange(2, 128), []
    for order in orders:
        k = np.arange(order + 1)
        log_terms = np.log(comb(order, k)) + (order - k) * np.log1p(-q) + k * np.log(q) + (k * k - k) / (2 * noise**2)
        divergences.append(steps * logsumexp(log_terms) / (order - 1))
    return float(np.min(divergences + np.log(1 / DELTA) / (orders - 1)))


# 4. The weights, and a picture of accuracy against noise; below it what makes a 0 of a picture, model by model.
tg.save(args.out / "private_gradients.safetensors", weights)
scores = tg.asarray(test_pixels) @ weights["w"] + weights["b"][:, None, :]
right = np.asarray(tg.argmax(scores, axis=-1).to_device("cpu")) == test_labels
accuracies = 100 * np.mean(right, axis=1)
zeros = np.asarray(weights["w"][:, :, 0].to_device("cpu")).reshape(-1, 8, 8)
figure = Figure(figsize=(8, 5), layout="constrained")
axes = figure.subplots()
axes.plot(np.arange(len(NOISES)), accuracies, "o-", color="tab:blue")
for i, (noise, accuracy) in enumerate(zip(NOISES, accuracies, strict=True)):
    least = epsilon(noise, loop.step) if noise else np.inf
    print(f"noise {noise:3}: epsilon {least:5.1f}, test accuracy {accuracy:.1f} %")
    text = f"ε {least:.1f}".replace("inf", "∞")
    axes.annotate(text, (i, accuracy), (0, 10), textcoords="offset points", ha="center")
    small = axes.inset_axes((i - 0.35, 3, 0.7, 28), transform=axes.transData)
    small.imshow(zeros[i], cmap="RdBu_r", vmin=-np.max(np.abs(zeros[i])), vmax=np.max(np.abs(zeros[i])))
    small.set_axis_off()
axes.set_xticks(np.arange(len(NOISES)), [f"{noise:g}" for noise in NOISES])
axes.set(xlabel="noise, in multiples of the norm of clipping", ylabel="test accuracy, %")
axes.set(xlim=(-0.5, len(NOISES) - 0.5), ylim=(0, 110))
axes.set_title("Digits: the price of privacy, and the weights of 0")
axes.grid(alpha=0.3)
figure.savefig(args.out / "private_gradients.png", dpi=120)
print(f"wrote {args.out / 'private_gradients.safetensors'} and {args.out / 'private_gradients.png'}")
sys.exit(128 + loop.interrupted if loop.interrupted else 0)
