"""Gradient descent with momentum, and by signs of momentum."""

from __future__ import annotations

from typing import Any

from tapegrad._engine.tensor import Tensor
from tapegrad.ops.binary import where
from tapegrad.ops.elementwise import sign
from tapegrad.optim._optimiser import Decay, Optimiser, Rate, Scalars, Slot, number
from tapegrad.optim._text import described


@described
class SGD(Optimiser):
    """Gradient descent, with momentum if asked for.

    With g the gradient plus weight_decay x, and v the velocity: v becomes momentum v + (1 - dampening) g, in the first
    step g, and x becomes x - rate v. With `nesterov` it becomes x - rate (g + momentum v) (Sutskever et al., 2013).

    PARAMETERS
    momentum : float, default 0.0
        The share of the velocity that is kept.
    dampening : float, default 0.0
        The share of the gradient that does not enter the velocity.
    nesterov : bool, default False
        Whether to look ahead.
    weight_decay : float, default 0.0
        The coefficient of the penalty of squares.
    REST

    Examples
    --------
    >>> import tapegrad as tg
    >>> w = tg.tensor([1.0], requires_grad=True)
    >>> opt = tg.optim.SGD([w], 0.1, momentum=0.9)
    >>> for _ in range(2):
    ...     tg.sum(w * w).backward()
    ...     opt.step()
    >>> w
    Tensor([0.46], requires_grad=True)
    """

    def __init__(
        self,
        model: Any,
        rate: Rate,
        *,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        decay: Decay = None,
        masters: bool = True,
    ) -> None:
        self.momentum = number("SGD", "momentum", momentum)
        self.dampening = number("SGD", "dampening", dampening, high=1.0)
        if nesterov and (momentum == 0.0 or dampening != 0.0):
            raise ValueError("SGD: nesterov needs a momentum, and no dampening")
        self.nesterov = nesterov
        self.moments = ("velocity",) if self.momentum else ()
        super().__init__(model, rate, weight_decay=weight_decay, decay=decay, masters=masters)

    def _scalars(self, count: Tensor, rate: Any) -> Scalars:
        share = where(count == 1.0, 1.0, 1.0 - self.dampening) if self.dampening else 1.0
        return {"rate": rate, "share": share}

    def _update(self, slot: Slot, x: Tensor, g: Tensor, s: Scalars) -> None:
        if slot.decay:
            g = g + slot.decay * x
        if self.momentum:
            v = slot.state["velocity"]
            v *= self.momentum
            v += g * s["share"] if self.dampening else g
            g = g + self.momentum * v if self.nesterov else v
        x -= s["rate"] * g


@described
class Lion(Optimiser):
    """Steps of equal size in the direction of the sign of momentum (Chen et al., 2023).

    With m the momentum and g the gradient: x becomes x - rate (sign(beta1 m + (1 - beta1) g) + weight_decay x), then m
    becomes beta2 m + (1 - beta2) g. The rate is a third to a tenth of that of AdamW, and the weight decay as much
    larger.

    PARAMETERS
    betas : tuple of float, default (0.9, 0.99)
        The share of momentum in the step, and the share of momentum that is kept.
    weight_decay : float, default 0.0
        The coefficient of decay, decoupled from the gradient.
    REST

    Examples
    --------
    >>> import tapegrad as tg
    >>> w = tg.tensor([1.0, -2.0], requires_grad=True)
    >>> opt = tg.optim.Lion([w], 0.25)
    >>> opt.step([tg.asarray([3.0, -0.1])])
    >>> w
    Tensor([ 0.75, -1.75], requires_grad=True)
    """

    moments = ("mean",)

    def __init__(
        self,
        model: Any,
        rate: Rate,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        decay: Decay = None,
        masters: bool = True,
    ) -> None:
        self.betas = tuple(number("Lion", "a beta", beta, high=1.0) for beta in betas)
        super().__init__(model, rate, weight_decay=weight_decay, decay=decay, masters=masters)

    def _update(self, slot: Slot, x: Tensor, g: Tensor, s: Scalars) -> None:
        m = slot.state["mean"]
        b1, b2 = self.betas
        u = sign(b1 * m + (1.0 - b1) * g)
        if slot.decay:
            u += slot.decay * x
        x -= s["rate"] * u
        m *= b2
        m += (1.0 - b2) * g
