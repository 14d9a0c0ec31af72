"""Adafactor: adaptive steps whose running squares of matrices are kept as a row and a column."""

from __future__ import annotations

from typing import Any

from tapegrad._engine.tensor import Tensor
from tapegrad.ops.binary import maximum, minimum
from tapegrad.ops.creation import zeros, zeros_like
from tapegrad.ops.dtypes import finfo
from tapegrad.ops.elementwise import sqrt
from tapegrad.ops.products import matmul
from tapegrad.ops.reductions import mean
from tapegrad.optim._optimiser import Decay, Optimiser, Rate, Scalars, Slot, number
from tapegrad.optim._text import described


@described
class Adafactor(Optimiser):
    """Adaptive steps with moments of n + m numbers for a matrix of n rows and m columns (Shazeer and Stern, 2018).

    In step n, with b = n^power: r and c, the means of g^2 along rows and columns, become (1 - b) r + b mean(g^2); V =
    r c / mean(r); u = g / sqrt(V); and x becomes x - a u / max(1, rms(u) / limit), where the step size a is max(eps,
    rms(x)) min(rate, 1 / sqrt(n)). A vector has a whole V. There is no momentum.

    PARAMETERS
    power : float, default -0.8
        The exponent of the weight of new squares.
    eps : float, default 1e-3
        The least size of a parameter that steps are relative to.
    limit : float, default 1.0
        The root mean square of u above which it is scaled down.
    weight_decay : float, default 0.0
        The coefficient of decay, decoupled from the gradient.
    REST

    Examples
    --------
    >>> import tapegrad as tg
    >>> w = tg.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], requires_grad=True)
    >>> opt = tg.optim.Adafactor({"w": w}, 0.01)
    >>> {name: x.shape for name, x in opt.state()["parameters"]["w"].items()}
    {'rows': (2, 1), 'columns': (1, 3)}
    """

    def __init__(
        self,
        model: Any,
        rate: Rate = 1e-2,
        *,
        power: float = -0.8,
        eps: float = 1e-3,
        limit: float = 1.0,
        weight_decay: float = 0.0,
        decay: Decay = None,
        masters: bool = True,
    ) -> None:
        self.power = number("Adafactor", "power", power, low=-float("inf"), high=0.0)
        self.eps = number("Adafactor", "eps", eps)
        self.limit = number("Adafactor", "limit", limit)
        super().__init__(model, rate, weight_decay=weight_decay, decay=decay, masters=masters)

    def _prepare(self, slot: Slot) -> None:
        x = slot.master
        if x.ndim < 2:
            slot.state = {"square": zeros_like(x.detach())}
            return
        shapes = {"rows": (*x.shape[:-1], 1), "columns": (*x.shape[:-2], 1, x.shape[-1])}
        slot.state = {name: zeros(shape, dtype=x.dtype, device=x.device) for name, shape in shapes.items()}

    def _scalars(self, count: Tensor, rate: Any) -> Scalars:
        return {"rate": rate, "bound": minimum(1.0 / sqrt(count), rate), "weight": count**self.power}

    def _update(self, slot: Slot, x: Tensor, g: Tensor, s: Scalars) -> None:
        least = finfo(x.dtype).eps
        size = maximum(_rms(x), self.eps) * s["bound"]
        if slot.decay:
            x *= 1.0 - slot.decay * s["rate"]
        square = g * g
        if x.ndim < 2:
            v = _mixed(slot.state["square"], square, s["weight"])
        else:
            rows = _mixed(slot.state["rows"], mean(square, axis=-1, keepdims=True), s["weight"])
            columns = _mixed(slot.state["columns"], mean(square, axis=-2, keepdims=True), s["weight"])
            v = matmul(rows, columns) / maximum(mean(rows, axis=-2, keepdims=True), least)
        u = g / sqrt(maximum(v, least * least))
        x -= u * (size / maximum(_rms(u) / self.limit, 1.0))


def _rms(x: Tensor) -> Tensor:
    return sqrt(mean(x * x))


def _mixed(old: Tensor, new: Tensor, weight: Tensor) -> Tensor:
    """Move a running mean, in place, towards new values."""
    old += (new - old) * weight
    return old
