"""Recommend items to users: a table of ratings of which a fifth is known is filled by factors of users and items.

Ratings are made by a seed, so that the truth is known: a table of low rank, and noise. A user and an item are vectors,
rows of two embeddings, and a rating is their product (Koren, Bell and Volinsky, "Matrix factorization techniques for
recommender systems", 2009). The folder given by --out gets the weights, a picture, and the run for --resume.

    pip install 'tapegrad[examples]'
    python examples/recommender.py
    python examples/recommender.py --device cuda --compile
"""

import sys
from typing import Any

from command_line import arguments, needs, run_of, steps_of

needs("matplotlib", "safetensors", "tqdm")
import numpy as np
from matplotlib.figure import Figure

import tapegrad as tg
from tapegrad import nn, optim

USERS, ITEMS, RANK, NOISE = 400, 250, 4, 0.3

args = arguments("Recommend items to users.", epochs=40, out="recommender", size=256)

# 1. Data. Everyone rates a fifth of the items, with noise. A tenth of these ratings is held out.
draws = np.random.default_rng(args.seed)
tastes, kinds = draws.normal(size=(USERS, RANK)), draws.normal(size=(ITEMS, RANK))
true = 3.0 + 0.5 * draws.normal(size=(USERS, 1)) + 0.5 * draws.normal(size=ITEMS) + 0.4 * tastes @ kinds.T
known = draws.permutation(USERS * ITEMS)[: USERS * ITEMS // 5]
ratings = (true.ravel()[known] + NOISE * draws.normal(size=len(known))).astype("float32")
users, items = np.divmod(known, ITEMS)
held_out = len(known) // 10
rng = tg.random.Generator(args.seed)
batches = tg.data.Batches(users[held_out:], items[held_out:], ratings[held_out:], size=args.size, shuffle=rng)
tests = tg.data.Batches(users[:held_out], items[:held_out], ratings[:held_out], size=held_out)
print(f"{len(known) - held_out} ratings to train on, {held_out} to test, on {args.where}")


# 2. The model: vectors, and how generous a user is and how good an item. An embedding is a table whose rows are looked
# up by integers; its gradient is zero but in these rows.
@nn.layer
class Factors:
    user: nn.Embedding
    item: nn.Embedding
    generous: nn.Embedding
    good: nn.Embedding
    mean: float

    def __call__(self, user: Any, item: Any) -> Any:
        biases = (self.generous(user) + self.good(item))[..., 0]
        return self.mean + biases + tg.sum(self.user(user) * self.item(item), axis=-1)


user, item, generous, good = (
    nn.Embedding(n, width, rng=rng, std=0.1) for n, width in ((USERS, RANK), (ITEMS, RANK), (USERS, 1), (ITEMS, 1))
)
model = Factors(user, item, generous, good, mean=float(np.mean(ratings)))
optimiser = optim.AdamW(model, optim.linear(0.02, args.epochs * len(batches)), weight_decay=0.1)
run = run_of(args, model=model, optimiser=optimiser, rng=rng, data=batches)


# 3. The step, and the loop. After each epoch the root of the mean square error is taken on what was held out.
def step(user: Any, item: Any, rating: Any) -> Any:
    loss = tg.mse_loss(model(user, item), rating)
    loss.backward()
    optimiser.step()
    return tg.sqrt(loss.detach())


train = tg.compile(step, rehearse=True) if args.compile else step
loop = tg.Loop(batches, epochs=args.epochs, run=run, every=len(batches))
for batch in steps_of(loop, args):
    loop.log(train=train(*batch))
    if (loop.step + 1) % len(batches) == 0:
        loop.evaluate(lambda user, item, rating: {"test": tg.sqrt(tg.mse_loss(model(user, item), rating))}, tests)

# 4. The weights; a picture of what was known, of the whole table that was found, and of its errors.
tg.save(args.out / "recommender.safetensors", model)
with tg.no_grad():
    every = model(tg.arange(USERS)[:, None], tg.arange(ITEMS)[None, :])
found = np.asarray(every.to_device("cpu"))
seen = np.full(USERS * ITEMS, np.nan)
seen[known[held_out:]] = ratings[held_out:]
never = np.isnan(seen)
error = f"{np.sqrt(np.mean((found - true).ravel()[never] ** 2)):.3f}"
figure = Figure(figsize=(13, 4.2), layout="constrained")
known_axes, found_axes, axes = figure.subplots(1, 3)
for one, table, title in ((known_axes, seen.reshape(true.shape), "Known ratings"), (found_axes, found, "Predicted")):
    shown = one.imshow(table[:60, :80], vmin=1, vmax=5, cmap="RdYlBu_r", interpolation="nearest")
    one.set(title=f"{title}: 60 users, 80 items", xlabel="item", ylabel="user")
figure.colorbar(shown, ax=[known_axes, found_axes], shrink=0.8)
axes.hexbin(true.ravel()[never], found.ravel()[never], gridsize=60, bins="log", cmap="viridis", extent=(0, 6, 0, 6))
axes.plot([0, 6], [0, 6], color="tab:red", linewidth=1)
axes.set(title=f"Never seen: error {error}, noise was {NOISE}", xlabel="true rating", ylabel="predicted", aspect=1)
figure.savefig(args.out / "recommender.png", dpi=120)
print(f"wrote {args.out / 'recommender.safetensors'} and {args.out / 'recommender.png'}")
print(f"error of ratings never seen {error}")
sys.exit(128 + loop.interrupted if loop.interrupted else 0)
