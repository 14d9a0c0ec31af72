"""Adaptive steps: gradients divided by a running size of them, for each element."""

from __future__ import annotations

from math import log
from typing import Any

from tapegrad._engine.tensor import Tensor
from tapegrad.linalg import vector_norm
from tapegrad.ops.binary import where
from tapegrad.ops.elementwise import expm1, sqrt
from tapegrad.optim._optimiser import Decay, Optimiser, Rate, Scalars, Slot, filled, number
from tapegrad.optim._text import described


def correction(beta: float, count: Tensor) -> Any:
    """Return 1 - beta^count, the weight that a running mean which began at 0 has; with all digits."""
    return -expm1(count * log(beta)) if beta else 1.0


@described
class Adam(Optimiser):
    """Steps by running means of gradients and of their squares (Kingma and Ba, 2015).

    With g the gradient plus weight_decay x: m becomes beta1 m + (1 - beta1) g, v becomes beta2 v + (1 - beta2) g^2, and
    x becomes x - rate m' / (sqrt(v') + eps), where m' = m / (1 - beta1^n) and v' = v / (1 - beta2^n) in step n.

    PARAMETERS
    betas : tuple of float, default (0.9, 0.999)
        The shares of the two means that are kept.
    eps : float, default 1e-8
        The number added to the divisor.
    weight_decay : float, default 0.0
        The coefficient of the penalty of squares. That of `AdamW` is decoupled from the gradient.
    REST

    Examples
    --------
    >>> import tapegrad as tg
    >>> w = tg.tensor([1.0, -2.0], requires_grad=True)
    >>> opt = tg.optim.Adam([w], 0.25)
    >>> opt.step([tg.asarray([3.0, -0.1])])
    >>> w
    Tensor([ 0.75      , -1.75000002], requires_grad=True)
    """

    moments = ("mean", "square")
    decoupled = False

    def __init__(
        self,
        model: Any,
        rate: Rate,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decay: Decay = None,
        masters: bool = True,
    ) -> None:
        what = type(self).__name__
        self.betas = tuple(number(what, "a beta", beta, high=1.0) for beta in betas)
        self.eps = number(what, "eps", eps)
        super().__init__(model, rate, weight_decay=weight_decay, decay=decay, masters=masters)

    def _scalars(self, count: Tensor, rate: Any) -> Scalars:
        b1, b2 = self.betas
        root = sqrt(correction(b2, count)) if b2 else 1.0
        # m' / (sqrt(v') + eps) = m root / (1 - beta1^n) / (sqrt(v) + eps root), which takes fewer passes.
        return {"rate": rate, "step": rate * root / correction(b1, count), "eps": self.eps * root}

    def _update(self, slot: Slot, x: Tensor, g: Tensor, s: Scalars) -> None:
        if slot.decay:
            if self.decoupled:
                x *= 1.0 - slot.decay * s["rate"]
            else:
                g = g + slot.decay * x
        u = self._ratio(slot, g, s["eps"])
        u *= s["step"]
        x -= u

    def _ratio(self, slot: Slot, g: Tensor, eps: Any) -> Tensor:
        """Return m / (sqrt(v) + eps) with the means of this step."""
        m, v = slot.state["mean"], slot.state["square"]
        b1, b2 = self.betas
        m *= b1
        m += (1.0 - b1) * g
        v *= b2
        square = g * g
        square *= 1.0 - b2
        v += square
        size = sqrt(v)
        size += eps
        return m / size


@described
class AdamW(Adam):
    """Adam with weight decay that is decoupled from the gradient (Loshchilov and Hutter, 2019).

    First x becomes (1 - rate weight_decay) x, then as in `Adam` without decay.

    PARAMETERS
    betas : tuple of float, default (0.9, 0.999)
        The shares of the two means that are kept.
    eps : float, default 1e-8
        The number added to the divisor.
    weight_decay : float, default 0.01
        The coefficient of decay.
    REST

    Examples
    --------
    >>> import tapegrad as tg
    >>> w = tg.tensor([1.0, -2.0], requires_grad=True)
    >>> opt = tg.optim.AdamW([w], tg.optim.cosine(0.25, 100, warmup=10))
    >>> tg.sum(w * w).backward()
    >>> opt.step()
    >>> w
    Tensor([ 0.97475, -1.9745 ], requires_grad=True)
    """

    decoupled = True

    def __init__(
        self,
        model: Any,
        rate: Rate,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        decay: Decay = None,
        masters: bool = True,
    ) -> None:
        super().__init__(model, rate, betas=betas, eps=eps, weight_decay=weight_decay, decay=decay, masters=masters)


@described
class LAMB(Adam):
    """Adam with steps in proportion to the size of each parameter, for large batches (You et al., 2020).

    With u = m' / (sqrt(v') + eps) + weight_decay x, x becomes x - rate u |x| / |u|; the quotient is 1 where a norm is
    0.

    PARAMETERS
    betas : tuple of float, default (0.9, 0.999)
        The shares of the two means that are kept.
    eps : float, default 1e-6
        The number added to the divisor.
    weight_decay : float, default 0.01
        The coefficient of decay.
    REST

    Examples
    --------
    >>> import tapegrad as tg
    >>> w = tg.tensor([3.0, -4.0], requires_grad=True)
    >>> opt = tg.optim.LAMB([w], 0.1, weight_decay=0.0, eps=0.0)
    >>> opt.step([tg.asarray([0.5, 0.1])])
    >>> round(tg.linalg.vector_norm(w - tg.asarray([3.0, -4.0])).item(), 6)  # 0.1 of its size
    0.5
    """

    def __init__(
        self,
        model: Any,
        rate: Rate,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        decay: Decay = None,
        masters: bool = True,
    ) -> None:
        super().__init__(model, rate, betas=betas, eps=eps, weight_decay=weight_decay, decay=decay, masters=masters)

    def _scalars(self, count: Tensor, rate: Any) -> Scalars:
        return super()._scalars(count, 1.0) | {"rate": rate}

    def _update(self, slot: Slot, x: Tensor, g: Tensor, s: Scalars) -> None:
        u = self._ratio(slot, g, s["eps"])
        u *= s["step"]
        if slot.decay:
            u += slot.decay * x
        of_x, of_u = vector_norm(x), vector_norm(u)
        zero = (of_x == 0.0) | (of_u == 0.0)
        u *= s["rate"] * where(zero, 1.0, of_x / where(zero, 1.0, of_u))
        x -= u


@described
class RMSprop(Optimiser):
    """Gradients divided by the root of a running mean of their squares (Tieleman and Hinton, 2012).

    With g the gradient plus weight_decay x: v becomes smoothing v + (1 - smoothing) g^2 and x becomes x - rate g /
    (sqrt(v) + eps). With `momentum` the quotient enters a velocity, as in `SGD`. With `centred` the square of a running
    mean of gradients is subtracted from v (Graves, 2013).

    PARAMETERS
    smoothing : float, default 0.99
        The share of the mean that is kept.
    eps : float, default 1e-8
        The number added to the divisor.
    momentum : float, default 0.0
        The share of the velocity that is kept.
    centred : bool, default False
        Whether to divide by the standard deviation instead.
    weight_decay : float, default 0.0
        The coefficient of the penalty of squares.
    REST

    Examples
    --------
    >>> import tapegrad as tg
    >>> w = tg.tensor([1.0, -2.0], requires_grad=True)
    >>> opt = tg.optim.RMSprop([w], 0.025)
    >>> opt.step([tg.asarray([3.0, -0.1])])
    >>> w
    Tensor([ 0.75000001, -1.75000025], requires_grad=True)
    """

    def __init__(
        self,
        model: Any,
        rate: Rate,
        *,
        smoothing: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        centred: bool = False,
        weight_decay: float = 0.0,
        decay: Decay = None,
        masters: bool = True,
    ) -> None:
        self.smoothing = number("RMSprop", "smoothing", smoothing, high=1.0)
        self.eps = number("RMSprop", "eps", eps)
        self.momentum = number("RMSprop", "momentum", momentum)
        self.centred = centred
        self.moments = ("square", *["mean"] * centred, *["velocity"] * bool(momentum))
        super().__init__(model, rate, weight_decay=weight_decay, decay=decay, masters=masters)

    def _update(self, slot: Slot, x: Tensor, g: Tensor, s: Scalars) -> None:
        if slot.decay:
            g = g + slot.decay * x
        a, v = self.smoothing, slot.state["square"]
        v *= a
        v += (1.0 - a) * (g * g)
        size = v
        if self.centred:
            m = slot.state["mean"]
            m *= a
            m += (1.0 - a) * g
            size = v - m * m
        size = sqrt(size)
        size += self.eps
        u = g / size
        if self.momentum:
            velocity = slot.state["velocity"]
            velocity *= self.momentum
            velocity += u
            u = velocity
        x -= s["rate"] * u


@described
class Adagrad(Optimiser):
    """Gradients divided by the root of the sum of all their squares (Duchi et al., 2011).

    With g the gradient plus weight_decay x: v becomes v + g^2, and x becomes x - rate g / (sqrt(v) + eps).

    PARAMETERS
    start : float, default 0.0
        The sum before the first step.
    eps : float, default 1e-10
        The number added to the divisor.
    weight_decay : float, default 0.0
        The coefficient of the penalty of squares.
    REST

    Examples
    --------
    >>> import tapegrad as tg
    >>> w = tg.tensor([1.0, -2.0], requires_grad=True)
    >>> opt = tg.optim.Adagrad([w], 0.25)
    >>> opt.step([tg.asarray([3.0, -0.1])])
    >>> w
    Tensor([ 0.75, -1.75], requires_grad=True)
    """

    moments = ("square",)

    def __init__(
        self,
        model: Any,
        rate: Rate,
        *,
        start: float = 0.0,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        decay: Decay = None,
        masters: bool = True,
    ) -> None:
        self.start = number("Adagrad", "start", start)
        self.eps = number("Adagrad", "eps", eps)
        super().__init__(model, rate, weight_decay=weight_decay, decay=decay, masters=masters)

    def _prepare(self, slot: Slot) -> None:
        slot.state = {"square": filled(slot.master, self.start)}

    def _update(self, slot: Slot, x: Tensor, g: Tensor, s: Scalars) -> None:
        if slot.decay:
            g = g + slot.decay * x
        v = slot.state["square"]
        v += g * g
        size = sqrt(v)
        size += self.eps
        x -= s["rate"] * (g / size)
