"""Recurrent layers, with PyTorch's names and order of gates."""

from __future__ import annotations

from typing import Any

from tapegrad._engine.tensor import Tensor
from tapegrad.nn.init import lecun, parameter
from tapegrad.nn.init import zeros as zero_parameter
from tapegrad.nn.layer import layer
from tapegrad.nn.linear import checked_size
from tapegrad.nn.modes import check_axis, in_precision
from tapegrad.ops.activations import sigmoid
from tapegrad.ops.creation import zeros
from tapegrad.ops.elementwise import tanh
from tapegrad.ops.products import matmul, matrix_transpose
from tapegrad.ops.shaping import concat, expand_dims, squeeze, stack
from tapegrad.random import Generator
from tapegrad.typing import DTypeLike

_TEXT = """
    Parameters
    ----------
    n_in : int
        The length of an input at one time.
    n : int
        The number of units.
    layers : int, default 1
        The number of layers, each of which reads the results of the one before.
    bidirectional : bool, default False
        Whether each layer reads from the end, too; its results are twice as long then.
    bias : bool, default True
        Whether gates have biases, which begin as zeros.
    rng : Generator
        The generator of the weights, which says the device too.
    dtype : DTypeLike or None, default None
        The dtype of parameters; the default one for None.

    Attributes
    ----------
    weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0 : Tensor
        The weights of inputs and of the state before, and biases, by layer; those from the end have the suffix
        '_reverse'.
    n : int
        The number of units.
    layers : int
        The number of layers.
    bidirectional : bool
        Whether each layer reads from the end, too.

    Raises
    ------
    ValueError
        A number is not positive; at a call, the shape of the input or the state does not fit.
"""


class _Recurrent:
    """The weights by name, and the walk through layers, directions and times."""

    gates = 0
    states = 1

    def __init__(
        self,
        n_in: int,
        n: int,
        *,
        layers: int = 1,
        bidirectional: bool = False,
        bias: bool = True,
        rng: Generator,
        dtype: DTypeLike | None = None,
    ) -> None:
        what = type(self).__name__
        self.n_in, self.n = checked_size(what, "n_in", n_in), checked_size(what, "n", n)
        self.layers, self.bidirectional = checked_size(what, "layers", layers), bidirectional
        rows = self.gates * self.n
        for at in range(self.layers):
            width = self.n_in if at == 0 else self.n * (1 + bidirectional)
            for end in ("", "_reverse")[: 1 + bidirectional]:
                setattr(self, f"weight_ih_l{at}{end}", parameter(lecun(rng, (rows, width), dtype)))
                setattr(self, f"weight_hh_l{at}{end}", parameter(lecun(rng, (rows, self.n), dtype)))
                for part in ("ih", "hh") if bias else ():
                    setattr(self, f"bias_{part}_l{at}{end}", parameter(zero_parameter(rng, rows, dtype)))

    def _cell(self, x: Tensor, state: list[Tensor], w: Tensor, b: Tensor | None) -> list[Tensor]:
        """Return the state after one time; x: the input's part of the gates; w, b: the weights of the state."""
        raise NotImplementedError

    def _run(self, x: Any, start: list[Any] | None) -> tuple[Tensor, list[Tensor]]:
        """Return the results for all times, and the last states, stacked over layers and directions."""
        what = type(self).__name__
        check_axis(what, x, -1, self.n_in)
        if len(x.shape) not in (2, 3) or x.shape[-2] == 0:
            raise ValueError(
                f"{what}: the input has shape (batch, time, {self.n_in}) or (time, {self.n_in}), with a time or more, "
                f"not {tuple(x.shape)}"
            )
        (x,) = in_precision(x)
        single = x.ndim == 2
        x = expand_dims(x, axis=0) if single else x
        ways = 1 + self.bidirectional
        shape = (self.layers * ways, x.shape[0], self.n)
        firsts: list[list[Tensor]] = []
        for given in start or [None] * self.states:
            if given is None:
                firsts.append([zeros(shape[1:], dtype=x.dtype, device=x.device)] * shape[0])
                continue
            (given,) = in_precision(given)
            expected = (shape[0], self.n) if single else shape
            if tuple(given.shape) != expected:
                raise ValueError(f"{what}: the state has shape {tuple(given.shape)}, but {expected} is needed")
            firsts.append([expand_dims(h, axis=0) if single else h for h in (given[i] for i in range(shape[0]))])
        lasts: list[list[Tensor]] = []
        for at in range(self.layers):
            results = []
            for way in range(ways):
                first = [part[at * ways + way] for part in firsts]
                ys, last = self._direction(x, first, at, "_reverse" if way else "")
                results.append(ys)
                lasts.append(last)
            x = results[0] if ways == 1 else concat(results, axis=-1)
        ends = [stack([last[i] for last in lasts]) for i in range(self.states)]
        return (squeeze(x, 0), [squeeze(h, 1) for h in ends]) if single else (x, ends)

    def _direction(self, x: Tensor, state: list[Tensor], at: int, end: str) -> tuple[Tensor, list[Tensor]]:
        names = (f"weight_ih_l{at}{end}", f"weight_hh_l{at}{end}", f"bias_ih_l{at}{end}", f"bias_hh_l{at}{end}")
        w, u, b, c = in_precision(*[getattr(self, name, None) for name in names])
        inputs = matmul(x, matrix_transpose(w))  # of all times at once
        if b is not None:
            inputs = inputs + b
        back = matrix_transpose(u)
        times = range(x.shape[1])
        ys: list[Tensor] = []
        for t in reversed(times) if end else times:
            state = self._cell(inputs[:, t], state, back, c)
            ys.append(state[0])
        return stack(ys[::-1] if end else ys, axis=1), state


@layer
class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997), for inputs (batch, time, n_in).

    With gates i, f, g, o = W x + b + U h + c: the cell becomes sigmoid(f) cell + sigmoid(i) tanh(g), and h becomes
    sigmoid(o) tanh(cell). A call gives the results h of all times, (batch, time, n), and the last state (h, cell), each
    (layers, batch, n). It takes such a state as second argument; without one it starts with zeros.
    TEXT
    Examples
    --------
    >>> import tapegrad as tg
    >>> model = tg.nn.LSTM(3, 4, rng=tg.random.Generator(0))
    >>> y, (h, cell) = model(tg.ones((2, 5, 3)))
    >>> y.shape, h.shape, cell.shape
    ((2, 5, 4), (1, 2, 4), (1, 2, 4))
    """

    gates = 4
    states = 2

    def __call__(self, x: Any, state: Any = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if state is not None and (not isinstance(state, tuple | list) or len(state) != 2):
            raise ValueError("LSTM: the state is a pair (h, cell), as a call gives it")
        y, (h, cell) = self._run(x, None if state is None else list(state))
        return y, (h, cell)

    def _cell(self, x: Tensor, state: list[Tensor], w: Tensor, b: Tensor | None) -> list[Tensor]:
        h, cell = state
        gates = x + matmul(h, w)
        if b is not None:
            gates = gates + b
        n = self.n
        i, f, g, o = (gates[..., k * n : (k + 1) * n] for k in range(4))
        cell = sigmoid(f) * cell + sigmoid(i) * tanh(g)
        return [sigmoid(o) * tanh(cell), cell]


@layer
class GRU(_Recurrent):
    """Gated recurrent units (Cho et al., 2014), for inputs (batch, time, n_in).

    With gates r, z, m = W x + b and r', z', m' = U h + c: h becomes (1 - s) tanh(m + sigmoid(r + r') m') + s h, where s
    is sigmoid(z + z'). A call gives the results h of all times, (batch, time, n), and the last state, (layers, batch,
    n). It takes such a state as second argument; without one it starts with zeros.
    TEXT
    Examples
    --------
    >>> import tapegrad as tg
    >>> model = tg.nn.GRU(3, 4, rng=tg.random.Generator(0))
    >>> y, h = model(tg.ones((2, 5, 3)))
    >>> y.shape, h.shape
    ((2, 5, 4), (1, 2, 4))
    """

    gates = 3

    def __call__(self, x: Any, state: Any = None) -> tuple[Tensor, Tensor]:
        y, (h,) = self._run(x, None if state is None else [state])
        return y, h

    def _cell(self, x: Tensor, state: list[Tensor], w: Tensor, b: Tensor | None) -> list[Tensor]:
        (h,) = state
        of_h = matmul(h, w)
        if b is not None:
            of_h = of_h + b
        n = self.n
        rz = sigmoid(x[..., : 2 * n] + of_h[..., : 2 * n])
        r, z = rz[..., :n], rz[..., n:]
        new = tanh(x[..., 2 * n :] + r * of_h[..., 2 * n :])
        return [(1.0 - z) * new + z * h]


for _kind in (LSTM, GRU):
    _kind.__doc__ = (_kind.__doc__ or "").replace("    TEXT\n", _TEXT)
