"""Train a variational autoencoder on handwritten digits (Kingma and Welling, 2014), and draw new digits with it.

An encoder turns a digit into a distribution over a plane, a normal one with its own mean and variance. A decoder turns
a point of the plane back into pixels. What is minimised is the negative evidence lower bound: how badly pixels are
told from a point that is drawn from the distribution, and how far that is from a standard normal one. So points drawn
from the standard normal distribution give new digits.

    pip install 'tapegrad[examples]'
    python examples/variational_autoencoder.py --compile
    python examples/variational_autoencoder.py --device cuda --epochs 300 --seed 1
"""

import sys
from itertools import pairwise
from statistics import NormalDist
from typing import Any

from command_line import arguments, needs, run_of, steps_of

needs("sklearn", "matplotlib", "safetensors", "tqdm")
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tapegrad as tg
from tapegrad import nn, optim

args = arguments("Train a variational autoencoder on digits.", epochs=150, out="variational_autoencoder", width=256)

# 1. Data: pixels from 0 to 1, taken as probabilities of ink. A fifth of the digits is held out.
digits = load_digits()
pixels, test_pixels, _, test_labels = train_test_split(
    (digits.data / 16).astype("float32"), digits.target, test_size=0.2, stratify=digits.target, random_state=0
)
rng = tg.random.Generator(args.seed)
batches = tg.data.Batches(pixels, size=64, shuffle=rng)
held_out = tg.data.Batches(test_pixels, size=120)
print(f"{len(pixels)} digits to train on, {len(test_pixels)} to test, on {args.where}")


# 2. The model. The encoder returns mean and logarithm of the variance for both coordinates of the plane.
def perceptron(*sizes: int) -> nn.Sequential:
    layers = [nn.Linear(n, m, rng=rng) for n, m in pairwise(sizes)]
    return nn.Sequential(*[part for layer in layers for part in (layer, tg.silu)][:-1])


w, total = args.width, args.epochs * len(batches)
encoder, decoder = perceptron(64, w, w, 4), perceptron(2, w, w, 64)
model = {"encoder": encoder, "decoder": decoder}
optimiser = optim.AdamW(model, optim.cosine(2e-3, total, warmup=total // 20), weight_decay=1e-3)
run = run_of(args, model=model, optimiser=optimiser, rng=rng, data=batches)


def bound(x: Any) -> Any:
    """Return the negative evidence lower bound of each digit."""
    code = encoder(x)
    mean, log_var = code[:, :2], code[:, 2:]
    # Reparametrised: the draw is a function of mean and variance, through which gradients flow.
    z = mean + tg.exp(0.5 * log_var) * rng.normal(mean.shape)
    pixels_lost = tg.sum(tg.bce_with_logits_loss(decoder(z), x, reduction="none"), axis=1)
    divergence = 0.5 * tg.sum(mean**2 + tg.exp(log_var) - log_var - 1.0, axis=1)
    return pixels_lost + divergence


# 3. A step, and the loop.
def step(x: Any) -> Any:
    loss = tg.mean(bound(x))
    loss.backward()
    optimiser.step()
    return loss


train = tg.compile(step, rehearse=True) if args.compile else step
loop = tg.Loop(batches, epochs=args.epochs, run=run, every=20)
for x in steps_of(loop, args):
    loop.log(loss=train(x))
test = loop.evaluate(lambda x: {"test": tg.mean(bound(x))}, held_out)["test"]
tg.save(args.out / "variational_autoencoder.safetensors", model)

# 4. A picture: digits and what is left of them on the way through the plane, new ones, and the test's on the plane.
quantiles = [NormalDist().inv_cdf((i + 0.5) / 16) for i in range(16)]  # the plane, evenly by probability
with tg.no_grad():
    means = encoder(tg.asarray(test_pixels))[:, :2]
    back = np.asarray(tg.sigmoid(decoder(means[:32])).to_device("cpu"))
    plane = tg.asarray([[x, -y] for y in quantiles for x in quantiles])
    new = np.asarray(tg.sigmoid(decoder(plane)).to_device("cpu"))
points = np.asarray(means.to_device("cpu"))


def tiles(pictures: Any, columns: int) -> Any:
    """Return pictures in rows, a pixel apart."""
    grid = np.pad(np.reshape(pictures, (-1, columns, 8, 8)), ((0, 0), (0, 0), (1, 1), (1, 1)))
    return np.moveaxis(grid, 2, 1).reshape(-1, columns * 10)


figure = Figure(figsize=(14, 4.6), layout="constrained")
first, second, third = figure.subplots(1, 3)
pairs = np.stack([np.reshape(x, (4, 8, 64)) for x in (test_pixels[:32], back)], axis=1)
first.imshow(tiles(pairs, 8), cmap="gray_r")
first.set_title("Digits of the test, and below each what was decoded")
second.imshow(tiles(new, 16), cmap="gray_r")
second.set_title("New digits, decoded from points all over the plane")
dots = third.scatter(*points.T, c=test_labels, cmap="tab10", s=9)
third.legend(*dots.legend_elements(), fontsize=8, loc="upper right")
third.set_title(f"Digits of the test on the plane: loss {test:.1f}")
for axes in (first, second):
    axes.set_axis_off()
figure.savefig(args.out / "variational_autoencoder.png", dpi=120)
print(f"wrote {args.out / 'variational_autoencoder.safetensors'} and {args.out / 'variational_autoencoder.png'}")
print(f"test loss {test:.2f}")
sys.exit(128 + loop.interrupted if loop.interrupted else 0)
