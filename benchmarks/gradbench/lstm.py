"""lstm: the loss of a stack of LSTM layers with diagonal weights over a text, and its gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import tapegrad as tg
from benchmarks.gradbench._function import Function, floats


class Task(NamedTuple):
    """The parameters, the state and the text of a network.

    main: (2 l, 4 b), weights and biases of each layer, gates side by side; extra: (3, b), the weights of the input and
    of the output, and its bias; state: (2 l, b), hidden and cell of each layer; text: (c, b).
    """

    main: tg.Tensor
    extra: tg.Tensor
    state: tg.Tensor
    text: tg.Tensor


def prepare(given: Any, device: str) -> Task:
    names = ("main_params", "extra_params", "state", "sequence")
    return Task(*[floats(given[name], device) for name in names])


def objective(main: tg.Tensor, extra: tg.Tensor, state: tg.Tensor, text: tg.Tensor) -> tg.Tensor:
    """Return the mean loss of predicting each character from those before it."""
    wanted = text[1:, :]
    outputs = run(main, state, text[:-1, :] * extra[0, :]) * extra[1, :] + extra[2, :]
    total = tg.log(2 + tg.sum(tg.exp(outputs), axis=1, keepdims=True))
    return -tg.sum(wanted * (outputs - total)) / wanted.size


def run(main: tg.Tensor, state: tg.Tensor, inputs: tg.Tensor) -> tg.Tensor:
    """Return the outputs of the last layer at each time, for the inputs of the first.

    Layer i at time t needs layer i - 1 at time t and itself at t - 1: so step s takes all layers at once, layer i at
    time s - i. Forget and output gates see the layer's input, the other two its hidden state: in a step the rows are
    first the l inputs, then the l hidden states, with two gates each. One tanh does for all four, as the sigmoid of x
    is tanh(x / 2) / 2 + 1 / 2.
    """
    layers, b = state.shape[0] // 2, state.shape[1]
    times = inputs.shape[0]
    # From (l, weight or bias, forget, input, output or change, b) to two of (forget and output or change, 2 l, b).
    gates = tg.permute_dims(tg.reshape(main, (layers, 2, 2, 2, b)), (1, 2, 3, 0, 4))
    half = floats([[[[0.5]], [[0.5]]], [[[0.5]], [[1.0]]]], main.device)  # but for the change, which is a tanh
    scale = tg.reshape(tg.broadcast_to(half, (2, 2, layers, b)), (2, 2 * layers, b))
    shift = 1 - scale
    weight, bias = (tg.reshape(part, scale.shape) * scale for part in tg.unstack(gates))
    pairs = tg.reshape(state, (layers, 2, b))
    hidden, cell = pairs[:, 0, :], pairs[:, 1, :]
    rows = tg.unstack(tg.reshape(inputs, (times, 1, b)))
    last = layers - 1
    said = []
    for s in range(times + last):
        row = rows[min(s, times - 1)]  # after the last the first layer has nothing to do
        seen = tg.concat([row, hidden[:last, :], hidden])
        gate = scale * tg.tanh(weight * seen + bias) + shift
        new_cell = cell * gate[0, :layers, :] + gate[0, layers:, :] * gate[1, layers:, :]
        new_hidden = gate[1, :layers, :] * tg.tanh(new_cell)
        if s < last:  # layers after s have not begun
            new_cell = tg.concat([new_cell[: s + 1, :], cell[s + 1 :, :]])
            new_hidden = tg.concat([new_hidden[: s + 1, :], hidden[s + 1 :, :]])
        else:
            said.append(new_hidden)
        hidden, cell = new_hidden, new_cell
    return tg.stack(said)[:, last, :]


def gradient(task: Task) -> tg.Tensor:
    """Return the gradient by the parameters as one vector."""
    parts = tg.grad(objective, argnums=(0, 1))(*task)
    return tg.concat([tg.reshape(g, (-1,)) for g in parts])


FUNCTIONS = {"objective": Function(prepare, lambda task: objective(*task)), "jacobian": Function(prepare, gradient)}
