"""Train a multilayer perceptron on handwritten digits, with plain Tensors and nothing else.

The digits are scikit-learn's: 1797 grey pictures of 8 x 8 pixels, a fifth of them held out for the test. The
perceptron, its training by momentum and the mini-batches are written out below. The last line printed is the
accuracy on the test digits; the folder given by --out gets the weights and a picture. The same seed on the
same device gives the same weights to the bit. Ctrl-C ends the training early and keeps the weights so far.

    pip install 'tapegrad[examples]'
    python examples/02_digits_from_scratch.py
    python examples/02_digits_from_scratch.py --device cuda --epochs 20 --seed 1
    python examples/02_digits_from_scratch.py --compile
"""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import tapegrad as tg

try:
    from matplotlib.figure import Figure
    from safetensors.numpy import save_file
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from tqdm import tqdm
except ImportError as error:
    sys.exit(f"this example needs more packages ({error}): pip install 'tapegrad[examples]'")

PIXELS, HIDDEN, CLASSES = 64, 128, 10  # nodes in each layer
BATCH = 32
LEARNING_RATE = 0.1  # at the start; it falls to zero in a straight line
MOMENTUM = 0.9
NOISE = 0.3  # added to the pixels (0 to 1) in training, so that no picture comes twice

WEIGHTS, PICTURE = "digits.safetensors", "digits.png"

Weights = dict[str, tg.Tensor]


class Stop:
    """A `with` block that only notes Ctrl-C and SIGTERM, so that no step is left half done.

    The second one ends the program at once.
    """

    def __init__(self) -> None:
        self.signal = 0  # the number of the signal that came

    def __enter__(self) -> "Stop":
        self._before = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self.__exit__()


def initial_weights(rng: np.random.Generator, device: str) -> Weights:
    """Draw the weights on the host, so that every device starts from the same numbers."""

    def leaf(values: np.ndarray[Any, Any]) -> tg.Tensor:
        return tg.tensor(values, dtype=tg.float32, device=device, requires_grad=True)

    return {
        "w1": leaf(rng.normal(scale=np.sqrt(2 / PIXELS), size=(PIXELS, HIDDEN))),
        "b1": leaf(np.zeros(HIDDEN)),
        "w2": leaf(rng.normal(scale=np.sqrt(2 / HIDDEN), size=(HIDDEN, CLASSES))),
        "b2": leaf(np.zeros(CLASSES)),
    }


def perceptron(weights: Weights, x: tg.Tensor) -> tg.Tensor:
    """Return ten scores (logits) for each row of pixels."""
    hidden = tg.relu(x @ weights["w1"] + weights["b1"])
    return hidden @ weights["w2"] + weights["b2"]


def batches(n: int, epochs: int, rng: np.random.Generator) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the numbers of the samples of each mini-batch; each epoch takes every sample once, shuffled."""
    for _ in range(epochs):
        order = rng.permutation(n)
        for start in range(0, n, BATCH):
            yield order[start : start + BATCH]


def training_step(weights: Weights) -> Callable[[tg.Tensor, tg.Tensor, tg.Tensor], tg.Tensor]:
    """Return the function that moves the weights, in place, against the gradient of a mini-batch's loss."""
    velocities = [tg.zeros_like(w) for w in weights.values()]

    # The rate is a Tensor, as a number would be part of the compiled program: another rate, another program.
    def step(x: tg.Tensor, y: tg.Tensor, rate: tg.Tensor) -> tg.Tensor:
        loss = tg.cross_entropy(perceptron(weights, x), y)
        loss.backward()
        with tg.no_grad():
            for w, v in zip(weights.values(), velocities, strict=True):
                v *= MOMENTUM
                v += w.grad
                w -= rate * v
                w.grad = None
        return loss

    return step


def train(
    weights: Weights,
    pixels: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    epochs: int,
    rng: np.random.Generator,
    stop: Stop,
    compiled: bool = False,
) -> list[float]:
    """Train the weights in place; return the loss of every step."""
    device = weights["w1"].device
    update = training_step(weights)
    if compiled:
        update = tg.compile(update)  # one program for full mini-batches, one for the smaller last one
    steps = epochs * -(-len(labels) // BATCH)
    losses: list[float] = []
    with tqdm(total=steps, unit="step") as bar:
        for step, batch in enumerate(batches(len(labels), epochs, rng)):
            if stop.signal:
                break
            noisy = pixels[batch] + NOISE * rng.normal(size=(len(batch), PIXELS))
            x = tg.tensor(noisy, dtype=tg.float32, device=device)
            y = tg.tensor(labels[batch], dtype=tg.int32, device=device)
            rate = tg.tensor(LEARNING_RATE * (1 - step / steps), dtype=tg.float32, device=device)
            losses.append(update(x, y, rate).item())
            bar.update()
            bar.set_postfix_str(f"loss {losses[-1]:.3f}", refresh=False)
    return losses


def predict(weights: Weights, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the digit with the highest score for each row of pixels."""
    with tg.no_grad():
        x = tg.tensor(pixels, dtype=tg.float32, device=weights["w1"].device)
        return np.asarray(tg.argmax(perceptron(weights, x), axis=-1))


def draw(
    path: Path,
    losses: list[float],
    steps_per_epoch: int,
    pixels: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    predicted: np.ndarray[Any, Any],
) -> None:
    """Draw the loss curve, and a grid of test digits that begins with the mistakes."""
    figure = Figure(figsize=(12, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(5, 7))

    left.set(xlabel="epoch", ylabel="cross-entropy", title="Training loss")
    left.spines[["top", "right"]].set_visible(False)
    if losses:  # there are none if Ctrl-C came before the first step
        epochs = np.arange(1, len(losses) + 1) / steps_per_epoch
        window = max(1, min(steps_per_epoch, len(losses) // 4))
        means = np.convolve(losses, np.ones(window) / window, mode="valid")
        left.plot(epochs, losses, color="#b8cde8", linewidth=0.8, label="each mini-batch")
        left.plot(epochs[window - 1 :], means, color="#1f4e8c", linewidth=1.8, label="running mean")
        left.set_yscale("log")
        left.set_ylim(bottom=np.min(means) / 5)  # a lucky mini-batch may be far below
        left.legend(frameon=False)

    # One large picture of all digits, each with room above it for its label.
    rows, columns, height, width = 6, 9, 12, 11
    sheet = np.zeros((rows * height, columns * width))
    wrong = np.flatnonzero(predicted != labels)[: rows * columns // 2]
    shown = [*wrong, *np.flatnonzero(predicted == labels)][: rows * columns]
    for n, sample in enumerate(shown):
        top, start = n // columns * height + 3, n % columns * width + 1
        sheet[top : top + 8, start : start + 8] = pixels[sample].reshape(8, 8)
        truth = "" if predicted[sample] == labels[sample] else f" (is {labels[sample]})"
        colour = "#d00000" if truth else "#000000"
        right.text(start + 3.5, top - 1, f"{predicted[sample]}{truth}", color=colour, ha="center")
    right.imshow(sheet, cmap="gray_r", vmin=0, vmax=1)
    right.set_axis_off()
    right.set_anchor("N")
    right.set_title(f"Predictions for test digits: {accuracy(labels, predicted)} right, mistakes first")
    figure.savefig(path, dpi=120)


def accuracy(labels: np.ndarray[Any, Any], predicted: np.ndarray[Any, Any]) -> str:
    """Return the share of right predictions as text."""
    return f"{100 * np.mean(predicted == labels):.1f} %"


def main() -> int:
    """Train, save and draw; return the exit status."""
    parser = argparse.ArgumentParser(description="Train a multilayer perceptron on handwritten digits.")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, torch:cpu, jax:cpu, ... (default: cpu)")
    parser.add_argument("--compile", action="store_true", help="compile the training step")
    parser.add_argument("--epochs", type=int, default=40, help="default: 40")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "output", metavar="DIR")
    arguments = parser.parse_args()
    if arguments.epochs < 1:
        parser.error(f"--epochs must be 1 or more, not {arguments.epochs}")
    if arguments.seed < 0:
        parser.error(f"--seed must be 0 or more, not {arguments.seed}")
    try:
        tg.zeros(1, dtype=tg.float32, device=arguments.device)
        arguments.out.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError, TypeError, ValueError) as error:  # no such device, or no such folder
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2

    digits = load_digits()
    # The split is the same for every seed, so that their accuracies can be compared.
    pixels, test_pixels, labels, test_labels = train_test_split(
        digits.data / 16, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )
    steps_per_epoch = -(-len(labels) // BATCH)
    where = f"{arguments.device}, compiled" if arguments.compile else arguments.device
    print(f"{len(labels)} digits to train on, {len(test_labels)} to test, on {where}")

    rng = np.random.default_rng(arguments.seed)
    weights = initial_weights(rng, arguments.device)
    with Stop() as stop:
        losses = train(weights, pixels, labels, arguments.epochs, rng, stop, arguments.compile)
        if stop.signal:
            print(f"stopped after {len(losses)} of {arguments.epochs * steps_per_epoch} steps")
        predicted = predict(weights, test_pixels)
        save_file({name: np.asarray(w.detach()) for name, w in weights.items()}, arguments.out / WEIGHTS)
        draw(arguments.out / PICTURE, losses, steps_per_epoch, test_pixels, test_labels, predicted)
    print(f"wrote {arguments.out / WEIGHTS} and {arguments.out / PICTURE}")
    print(f"test accuracy {accuracy(test_labels, predicted)}")
    return 128 + stop.signal if stop.signal else 0


if __name__ == "__main__":
    sys.exit(main())
