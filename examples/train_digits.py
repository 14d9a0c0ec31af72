"""Train a perceptron on handwritten digits with the training kit: layers, optimiser, batches, run and loop.

The digits are scikit-learn's: 1797 grey pictures of 8 x 8 pixels, a fifth of them held out for the test. The folder
given by --out gets the weights, a picture, and the run that --resume goes on with. The same training with plain
Tensors and nothing else is in 02_digits_from_scratch.py.

    pip install 'tapegrad[examples]'
    python examples/train_digits.py
    python examples/train_digits.py --device cuda --epochs 20 --seed 1
    python examples/train_digits.py --compile --resume
"""

import sys
from typing import Any

from command_line import arguments, needs, run_of, steps_of

needs("sklearn", "matplotlib", "safetensors", "tqdm")
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tapegrad as tg
from tapegrad import nn, optim

args = arguments("Train a perceptron on handwritten digits.", epochs=40, out="digits")

# 1. Data. The split is the same for every seed, so that their accuracies can be compared.
digits = load_digits()
pixels, test_pixels, labels, test_labels = train_test_split(
    (digits.data / 16).astype("float32"), digits.target, test_size=0.2, stratify=digits.target, random_state=0
)
rng = tg.random.Generator(args.seed)
batches = tg.data.Batches(pixels, labels, size=32, shuffle=rng)
print(f"{len(labels)} digits to train on, {len(test_labels)} to test, on {args.where}")

# 2. The model, its optimiser, and the run that saves all that a training has reached.
model = nn.Sequential(nn.Linear(64, 128, rng=rng), tg.relu, nn.Linear(128, 10, rng=rng))
optimiser = optim.SGD(model, optim.linear(0.1, args.epochs * len(batches)), momentum=0.9)
run = run_of(args, model=model, optimiser=optimiser, rng=rng, data=batches)


# 3. The step, and the loop. Noise on the pixels sees to it that no picture comes twice.
def step(x: Any, y: Any) -> Any:
    loss = tg.cross_entropy(model(x + rng.normal(x.shape, std=0.3)), y)
    loss.backward()
    optimiser.step()
    return loss


train = tg.compile(step, rehearse=True) if args.compile else step
loop = tg.Loop(batches, epochs=args.epochs, run=run, every=20)
for x, y in steps_of(loop, args):
    loop.log(loss=train(x, y))

# 4. The weights; a picture of the loss, and of the digits that are taken for others.
tg.save(args.out / "digits.safetensors", model)
with tg.no_grad():
    predicted = np.asarray(tg.argmax(model(tg.asarray(test_pixels)), axis=-1).to_device("cpu"))
accuracy = f"{100 * np.mean(predicted == test_labels):.1f} %"
figure = Figure(figsize=(12, 4), layout="constrained")
left, right = figure.subfigures(1, 2)  # type: ignore[misc]
left.suptitle("Training loss")
left.subplots().semilogy(*np.transpose(loop.history.get("loss", [(0, 1.0)])))
right.suptitle(f"Digits taken for others: {accuracy} are right")
for axes, i in zip(right.subplots(3, 8).flat, np.flatnonzero(predicted != test_labels), strict=False):
    axes.imshow(test_pixels[i].reshape(8, 8), cmap="gray_r")
    axes.set_title(f"{test_labels[i]} as {predicted[i]}", fontsize=9)
for axes in right.axes:
    axes.set_axis_off()
figure.savefig(args.out / "digits.png", dpi=120)
print(f"wrote {args.out / 'digits.safetensors'} and {args.out / 'digits.png'}")
print(f"test accuracy {accuracy}")
sys.exit(128 + loop.interrupted if loop.interrupted else 0)
