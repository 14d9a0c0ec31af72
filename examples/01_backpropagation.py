"""Backpropagation by hand and by tape: every derivative of a small network, twice.

A network with layers of 6, 4 (hidden) and 4 (output) nodes. Layer by layer z = w a + b and a = g(z), where
w[j, k] is the weight from node k to node j and g is the sigmoid. The cost of one sample is
C0 = sum_j (a_j - y_j)^2. Each line below prints a formula from a textbook, what the tape says, and what the
formula says when worked out in plain Python; the program fails if they differ.

    python examples/01_backpropagation.py
    python examples/01_backpropagation.py --device torch:cpu --out /tmp/pictures

Formulas count from 1, as texts do, and Python counts from 0: w12 is w[0, 1].
"""

import argparse
import os
import shutil
import subprocess
import sys
from math import exp
from pathlib import Path
from typing import Any

import numpy as np

import tapegrad as tg

TOLERANCE = 1e-12  # between the tape and the closed form
GOAL = 0.1  # train until the cost of a sample is this on average
MOST_EPOCHS = 2000
BATCH = 5


def g(z: float) -> float:
    """The sigmoid, for the closed forms; the network itself uses tg.sigmoid."""
    return 1 / (1 + exp(-z))


def dg(z: float) -> float:
    """The derivative g'(z) of the sigmoid. It is taken at z, not at the activation a = g(z)."""
    return g(z) * (1 - g(z))


def numbers(x: tg.Tensor | None) -> np.ndarray[Any, Any]:
    """The plain numbers of a Tensor, off the tape."""
    assert x is not None, "no gradient: was backward called?"
    return np.asarray(x.detach())


def check(formula: str, tape: Any, closed: Any) -> None:
    """Print the two answers side by side; end the program if they differ."""
    tape, closed = np.asarray(tape), np.asarray(closed)
    difference = float(np.max(np.abs(tape - closed))) if tape.shape == closed.shape else np.inf
    if tape.ndim == 0:
        values = f"{float(tape):+.12f}  {float(closed):+.12f}"
    else:
        values = f"{f'all {tape.size} of them':>15}  {f'{closed.shape}':>15}"
    agree = difference <= TOLERANCE
    print(f"  {formula:<52} {values}  {difference:.0e}  {'agree' if agree else 'DISAGREE'}")
    if not agree:
        raise SystemExit(f"the tape and the closed form differ by {difference:.1e}: {formula}")


def update(parameters: list[tg.Tensor], rate: float) -> None:
    """Take a step down the gradients, in place, and clear them, as they add up."""
    with tg.no_grad():  # an update is no part of the function whose derivative is wanted
        for w in parameters:
            if w.grad is not None:
                w -= rate * w.grad
                w.grad = None


def walk_through(device: str, out: Path, seed: int) -> None:
    """Print the whole example, from the first forward pass to the picture of its graph."""
    rng = np.random.default_rng(seed)

    def tensor(data: Any, requires_grad: bool = False) -> tg.Tensor:
        return tg.tensor(data, dtype=tg.float64, device=device, requires_grad=requires_grad)

    heading = f"{'formula':<52} {'tape':>15}  {'closed form':>15}  diff."

    print("1. THE NETWORK AND THE DATA")
    # Weights and biases of the hidden layer (h) and of the output layer (o): the leaves of the tape.
    w_h = tensor(rng.normal(size=(4, 6)), requires_grad=True)
    b_h = tensor(rng.normal(size=4), requires_grad=True)
    w_o = tensor(rng.normal(size=(4, 4)), requires_grad=True)
    b_o = tensor(rng.normal(size=4), requires_grad=True)
    parameters = [w_h, b_h, w_o, b_o]
    # Samples are pictures of 2 x 3 pixels with some noise: the left, middle or right column is lit, or the
    # top row. The wanted output y is 1 at the node of the right answer and 0 at the others.
    pictures = np.array([[1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 1, 0], [0, 0, 1, 0, 0, 1], [1, 1, 1, 0, 0, 0]])
    labels = np.arange(20) % 4
    xs = tensor(pictures[labels] + 0.1 * rng.normal(size=(20, 6)))
    ys = tensor(np.eye(4)[labels])
    n = len(labels)
    print(f"  layers of 6, 4 and 4 nodes on {xs.device!r}, {n} samples of 6 numbers\n")

    print("2. FORWARD: ONE SAMPLE THROUGH THE NETWORK")
    x, y = xs[0], ys[0]
    z_h = w_h @ x + b_h
    a_h = tg.sigmoid(z_h)
    z_o = w_o @ a_h + b_o
    a_o = tg.sigmoid(z_o)
    cost = tg.sum((a_o - y) ** 2)
    print(f"  input        x   = {np.round(numbers(x), 3)}")
    print(f"  hidden layer a_h = {np.round(numbers(a_h), 3)}")
    print(f"  output layer a_o = {np.round(numbers(a_o), 3)}")
    print(f"  wanted       y   = {np.round(numbers(y), 3)}")
    print(f"  cost         C0  = {cost:.6f}\n")

    print("3. BACKWARD: THE DERIVATIVES OF C0 FOR THIS SAMPLE")
    a_h.retain_grad()  # not a leaf, so its gradient would not be kept
    cost.backward()
    # From here on plain NumPy arrays: the closed forms know nothing of the tape.
    x1, y1 = numbers(x), numbers(y)
    zh, ah, zo, ao = numbers(z_h), numbers(a_h), numbers(z_o), numbers(a_o)
    wo = numbers(w_o)
    print(f"  {heading}")
    print("  The output layer, with a, z, w its own and a2 of the hidden layer before it:")
    delta = [2 * (ao[j] - y1[j]) * dg(zo[j]) for j in range(4)]  # dC0/dz_j
    check("dC0/dw12 = 2 (a1 - y1) g'(z1) a2", numbers(w_o.grad)[0, 1], 2 * (ao[0] - y1[0]) * dg(zo[0]) * ah[1])
    check("dC0/db1  = 2 (a1 - y1) g'(z1)", numbers(b_o.grad)[0], 2 * (ao[0] - y1[0]) * dg(zo[0]))
    every = [[delta[j] * ah[k] for k in range(4)] for j in range(4)]
    check("dC0/dwjk = 2 (aj - yj) g'(zj) ak", numbers(w_o.grad), every)
    check("dC0/dbj  = 2 (aj - yj) g'(zj)", numbers(b_o.grad), delta)
    wrong = 2 * (ao[0] - y1[0]) * dg(ao[0])
    print(f"  (A common slip: g' at the activation a1 instead of z1 makes dC0/db1 = {wrong:+.12f}.)")
    print("  The hidden layer: a node there acts on C0 through every output node j, so these add up.")
    through = [sum(delta[j] * wo[j, k] for j in range(4)) for k in range(4)]
    check("dC0/da2  = sum_j 2 (aj - yj) g'(zj) w_j2", numbers(a_h.grad)[1], through[1])
    check("dC0/dak  = sum_j 2 (aj - yj) g'(zj) w_jk", numbers(a_h.grad), through)
    print("  The weights of the hidden layer follow from it, with z2 the hidden node's and x2 the input's:")
    check("dC0/dw22 = dC0/da2 g'(z2) x2", numbers(w_h.grad)[1, 1], through[1] * dg(zh[1]) * x1[1])
    check("dC0/db2  = dC0/da2 g'(z2)", numbers(b_h.grad)[1], through[1] * dg(zh[1]))
    every = [[through[j] * dg(zh[j]) * x1[k] for k in range(6)] for j in range(4)]
    check("dC0/dwjk = dC0/daj g'(zj) xk", numbers(w_h.grad), every)
    print()

    print(f"4. THE AVERAGE OVER n = {n} SAMPLES")
    for w in parameters:
        w.grad = None  # gradients add up until they are cleared
    # All samples at once, one a row: row i of a_o is the output for sample i.
    a_h = tg.sigmoid(xs @ w_h.T + b_h)
    a_o = tg.sigmoid(a_h @ w_o.T + b_o)
    cost = tg.sum((a_o - ys) ** 2) / n
    cost.backward()
    # The closed form goes through the samples one by one and adds up the gradients of section 3 for each.
    wh, bh, bo, inputs, wanted = (numbers(v) for v in (w_h, b_h, b_o, xs, ys))
    cost_sum, w12_sum, b1_sum, w22_sum = 0.0, 0.0, 0.0, 0.0
    for s in range(n):
        z_hidden = [sum(wh[j, k] * inputs[s, k] for k in range(6)) + bh[j] for j in range(4)]
        a_hidden = [g(z) for z in z_hidden]
        z_out = [sum(wo[j, k] * a_hidden[k] for k in range(4)) + bo[j] for j in range(4)]
        a_out = [g(z) for z in z_out]
        delta = [2 * (a_out[j] - wanted[s, j]) * dg(z_out[j]) for j in range(4)]
        cost_sum += sum((a_out[j] - wanted[s, j]) ** 2 for j in range(4))
        w12_sum += delta[0] * a_hidden[1]
        b1_sum += delta[0]
        w22_sum += sum(delta[j] * wo[j, 1] for j in range(4)) * dg(z_hidden[1]) * inputs[s, 1]
    print(f"  {heading}")
    check("C = 1/n sum C0", cost.item(), cost_sum / n)
    check("output layer: dC/dw12 = 1/n sum dC0/dw12", numbers(w_o.grad)[0, 1], w12_sum / n)
    check("output layer: dC/db1  = 1/n sum dC0/db1", numbers(b_o.grad)[0], b1_sum / n)
    check("hidden layer: dC/dw22 = 1/n sum dC0/dw22", numbers(w_h.grad)[1, 1], w22_sum / n)
    print()

    print("5. THE UPDATE: w <- w - lr dC/dw")
    lr = 1.0
    start = [numbers(w) for w in parameters]  # values: the update below does not reach them
    update(parameters, lr)
    print(f"  {heading}")
    check("output layer: w12 <- w12 - lr dC/dw12", numbers(w_o)[0, 1], start[2][0, 1] - lr * w12_sum / n)
    check("output layer: b1  <- b1  - lr dC/db1", numbers(b_o)[0], start[3][0] - lr * b1_sum / n)
    check("hidden layer: w22 <- w22 - lr dC/dw22", numbers(w_h)[1, 1], start[0][1, 1] - lr * w22_sum / n)
    print()

    print("6. TRAINING, ONE SAMPLE AT A TIME")
    w_h, b_h, w_o, b_o = parameters = [tensor(values, requires_grad=True) for values in start]
    mean_cost, epoch = np.inf, 0
    while mean_cost > GOAL and epoch < MOST_EPOCHS:
        epoch += 1
        costs = []
        for s in rng.permutation(n):
            a_h = tg.sigmoid(w_h @ xs[s] + b_h)
            a_o = tg.sigmoid(w_o @ a_h + b_o)
            cost = tg.sum((a_o - ys[s]) ** 2)
            cost.backward()
            update(parameters, lr)
            costs.append(cost.item())
        mean_cost = sum(costs) / n
        if epoch == 1 or epoch % 2 == 0 or mean_cost <= GOAL:
            print(f"  after {epoch:4} times through the samples: mean C0 = {mean_cost:.4f}")
    if mean_cost > GOAL:
        raise SystemExit(f"the cost did not fall to {GOAL}: try another --seed")
    print()

    print(f"7. TRAINING IN BATCHES OF {BATCH}, FROM THE SAME START")
    w_h, b_h, w_o, b_o = parameters = [tensor(values, requires_grad=True) for values in start]
    mean_cost, epoch = np.inf, 0
    while mean_cost > GOAL and epoch < MOST_EPOCHS:
        epoch += 1
        costs = []
        order = rng.permutation(n)
        for first in range(0, n, BATCH):
            batch = tg.tensor(order[first : first + BATCH], device=device)
            a_h = tg.sigmoid(tg.take(xs, batch, axis=0) @ w_h.T + b_h)
            a_o = tg.sigmoid(a_h @ w_o.T + b_o)
            cost = tg.sum((a_o - tg.take(ys, batch, axis=0)) ** 2) / BATCH
            cost.backward()
            update(parameters, lr)
            costs.append(cost.item())
        mean_cost = sum(costs) / len(costs)
        if epoch == 1 or epoch % 10 == 0 or mean_cost <= GOAL:
            print(f"  after {epoch:4} times through the samples: mean C0 = {mean_cost:.4f}")
    if mean_cost > GOAL:
        raise SystemExit(f"the cost did not fall to {GOAL}: try another --seed")
    print()

    print("8. PREDICTION: THE OUTPUT NODE WITH THE HIGHEST ACTIVATION")
    with tg.no_grad():
        a_h = tg.sigmoid(xs @ w_h.T + b_h)
        a_o = tg.sigmoid(a_h @ w_o.T + b_o)
        predicted = numbers(tg.argmax(a_o, axis=1))
    for s in range(4):
        output = np.round(numbers(a_o)[s], 3)
        print(f"  sample {s + 1}: a_o = {output}, so node {predicted[s] + 1}; wanted: node {labels[s] + 1}")
    print(f"  {np.sum(predicted == labels)} of {n} samples right\n")

    print("9. THE TAPE OF ONE FORWARD PASS")
    with tg.Tape() as tape:
        z_h = w_h @ x + b_h
        a_h = tg.sigmoid(z_h)
        z_o = w_o @ a_h + b_o
        a_o = tg.sigmoid(z_o)
        cost = tg.sum((a_o - y) ** 2)
    names = {"x": x, "w_h": w_h, "b_h": b_h, "z_h": z_h, "a_h": a_h}
    names |= {"w_o": w_o, "b_o": b_o, "z_o": z_o, "a_o": a_o, "y": y, "C0": cost}
    print(tape.table(names))
    if shutil.which("dot"):
        picture = out / "backpropagation.svg"
        subprocess.run(["dot", "-Tsvg", "-o", picture], input=tg.to_dot(tape, names), encoding="utf-8", check=True)
    else:
        picture = out / "backpropagation.mmd"
        picture.write_text(tg.to_mermaid(tape, names), encoding="utf-8")
    print(f"the graph of this pass: {picture}")


def main() -> int:
    """Run the walk-through; return the exit status."""
    parser = argparse.ArgumentParser(description="Backpropagation by hand and by tape, side by side.")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, torch:cpu, jax:cpu, ... (default: cpu)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "output", metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.seed < 0:
        parser.error(f"--seed must be 0 or more, not {arguments.seed}")
    os.environ.setdefault("JAX_ENABLE_X64", "1")  # JAX has float64 only where it is asked for
    try:
        tg.zeros(1, dtype=tg.float64, device=arguments.device)
        arguments.out.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError, TypeError, ValueError) as error:  # no such device or folder, or no float64
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    walk_through(arguments.device, arguments.out, arguments.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
