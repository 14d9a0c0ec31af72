"""Train a small GPT on the letters of Python's own documentation, and let it write.

The text is that of help() in the standard library: it depends on the version of Python. A transformer of two blocks
(Vaswani et al., 2017, with norms before the layers) learns to tell the next letter from those before it. The folder
given by --out gets the weights, a picture, and the run that --resume goes on with. A sample is printed at the end.

    pip install 'tapegrad[examples]'
    python examples/gpt_characters.py --compile
    python examples/gpt_characters.py --device cuda --epochs 20 --width 192
"""

import sys
from pydoc_data.topics import topics
from typing import Any

from command_line import arguments, needs, run_of, steps_of

needs("matplotlib", "safetensors", "tqdm")
import numpy as np
from matplotlib.figure import Figure

import tapegrad as tg
from tapegrad import nn, optim

sizes: dict[str, Any] = {"width": 64, "context": 64, "letters": 400_000, "sample": 400}
args = arguments("Train a small GPT on Python's documentation.", epochs=4, out="gpt_characters", **sizes)

# 1. Data: letters as numbers, cut into windows. Topics repeat each other, so each paragraph is taken once, and the last
# tenth is held out.
text = "\n\n".join(dict.fromkeys("\n\n".join(topics.values()).split("\n\n")))[: args.letters]
letters = sorted(set(text))
tokens = np.searchsorted(letters, list(text))
windows = np.lib.stride_tricks.sliding_window_view(tokens, args.context + 1)[:: args.context]
rng = tg.random.Generator(args.seed)
train_windows, test_windows = np.split(windows, [len(windows) * 9 // 10])
batches = tg.data.Batches(train_windows, size=32, shuffle=rng, drop_last=True)
held_out = tg.data.Batches(test_windows, size=32)
print(f"{len(text)} letters, {len(letters)} of them different, on {args.where}")


# 2. The model: blocks of attention and of a perceptron, each added to its input.
@nn.layer
class Block:
    norm: nn.LayerNorm
    inward: nn.Linear
    outward: nn.Linear
    perceptron: Any

    def heads(self, x: Any) -> Any:
        """Return queries, keys and values, each of shape (..., 4 heads, time, width / 4)."""
        parts = tg.reshape(self.inward(self.norm(x)), (*x.shape[:-1], 3, 4, -1))
        q, k, v = tg.unstack(tg.moveaxis(parts, -4, -2), axis=-4)
        return tg.rope(q), tg.rope(k), v  # turned by angles that tell positions

    def __call__(self, x: Any) -> Any:
        seen = tg.attention(*self.heads(x), causal=True)  # causal: each letter sees itself and those before it
        x = x + self.outward(tg.reshape(tg.moveaxis(seen, -2, -3), x.shape))
        return x + self.perceptron(x)


def linear(n: int, m: int) -> nn.Linear:
    return nn.Linear(n, m, rng=rng)


w, total = args.width, args.epochs * len(batches)
embedding = nn.Embedding(len(letters), w, rng=rng)
perceptrons = [nn.Sequential(nn.LayerNorm(w), linear(w, 4 * w), tg.gelu, linear(4 * w, w)) for _ in range(2)]
blocks = [Block(nn.LayerNorm(w), linear(w, 3 * w), linear(w, w), perceptron) for perceptron in perceptrons]
model = nn.Sequential(embedding, *blocks, nn.LayerNorm(w), linear(w, len(letters)))
rate = optim.cosine(3e-3, total, warmup=total // 20)
optimiser = optim.AdamW(model, rate, decay=lambda name, x: x.ndim > 1)  # neither biases nor norms decay
run = run_of(args, model=model, optimiser=optimiser, rng=rng, data=batches)


# 3. A step, and the loop. Each letter of a window is told from those before it, all in one go.
def loss_of(window: Any) -> Any:
    return tg.cross_entropy(model(window[:, :-1]), window[:, 1:])


def step(window: Any) -> Any:
    loss = loss_of(window)
    loss.backward()
    optim.clip_norm(model, 1.0)
    optimiser.step()
    return loss


def moved_on(window: Any) -> Any:
    """Return a window with one more letter, drawn by its scores; / 0.8 makes the likely ones more likely."""
    return tg.concat([window[1:], rng.categorical(model(window)[-1:] / 0.8)])


compiled = (lambda f: tg.compile(f, rehearse=True)) if args.compile else (lambda f: f)
train, test, move_on = compiled(step), compiled(loss_of), compiled(moved_on)
loop = tg.Loop(batches, epochs=args.epochs, run=run, every=20)
for window in steps_of(loop, args):
    loop.log(loss=train(window))

# 4. The weights, the loss on held-out text, and a sample that goes on from the end of that text.
tg.save(args.out / "gpt_characters.safetensors", model)
bits = loop.evaluate(lambda window: {"test": test(window) / np.log(2)}, held_out)["test"]
window, written = tg.asarray(test_windows[-1][1:]), []
with tg.no_grad():
    queries, keys, _ = blocks[0].heads(embedding(window))
    # With the unit matrix as values, attention returns the share of each letter itself.
    unit = tg.broadcast_to(tg.eye(args.context), (4, args.context, args.context))
    shares = np.asarray(tg.attention(queries, keys, unit, causal=True).to_device("cpu"))
    for _ in range(args.sample):
        window = move_on(window)
        written.append(window[-1:])
sample = "".join(letters[i] for i in np.asarray(tg.concat(written).to_device("cpu")))

# 5. A picture: the loss, and the share of each earlier letter in what the heads of the first block see.
figure = Figure(figsize=(15, 3.8), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=(1, 3))  # type: ignore[misc]
left.suptitle("Training loss, per letter")
left.subplots().plot(*np.transpose(loop.history.get("loss", [(0, 1.0)])))
right.suptitle("Four heads of the first block: the letters (columns) that each letter (row) sees")
for axes, share in zip(right.subplots(1, 4), shares, strict=True):
    axes.imshow(np.sqrt(share), cmap="magma")
    axes.set_axis_off()
figure.savefig(args.out / "gpt_characters.png", dpi=120)
print(f"wrote {args.out / 'gpt_characters.safetensors'} and {args.out / 'gpt_characters.png'}")
print(f"test loss {bits:.2f} bits a letter; a sample:\n{sample}")
sys.exit(128 + loop.interrupted if loop.interrupted else 0)
