"""Several optimisers as one: by patterns of names, and for matrices beside the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import sqrt as root
from typing import Any

from tapegrad._engine.tensor import Tensor
from tapegrad.linalg import vector_norm
from tapegrad.nn._state import same_names
from tapegrad.nn._walk import listed, matches, matching, settled
from tapegrad.ops.binary import maximum
from tapegrad.ops.products import matmul, matrix_transpose
from tapegrad.ops.shaping import reshape
from tapegrad.optim._optimiser import Decay, Optimiser, Rate, Scalars, Slot, _trained, number
from tapegrad.optim._text import described
from tapegrad.optim.adaptive import AdamW

Make = Callable[[dict[str, Tensor]], Any]


class Split:
    """Optimisers for parts of a model, which step, are saved and are restored as one.

    Parameters
    ----------
    model : object
        The holder of the parameters.
    patterns : mapping of str to callable
        For each pattern of names a function of the parameters, a dict by name, that returns their optimiser. The first
        pattern that a name fits holds.
    rest : callable or None, default None
        The same for all other parameters; None if there are none.

    Attributes
    ----------
    optimisers : dict of str to Optimiser
        The optimisers by pattern; 'rest' for the others.

    Raises
    ------
    ValueError
        A pattern fits no parameter, or parameters are left and there is no `rest`.

    Examples
    --------
    >>> from functools import partial
    >>> import tapegrad as tg
    >>> model = {"body": tg.ones((2, 2)), "head": tg.ones(2)}
    >>> opt = tg.optim.Split(model, {"head": partial(tg.optim.SGD, rate=0.1)}, rest=partial(tg.optim.Lion, rate=1e-3))
    >>> opt
    Split(head=SGD(1 parameters of 2 elements, rate 0.1), rest=Lion(1 parameters of 4 elements, rate 0.001))
    """

    _unguarded = ()

    def __init__(self, model: Any, patterns: Mapping[str, Make], rest: Make | None = None) -> None:
        what = type(self).__name__
        model = settled(model)
        trained = _trained(what, model)
        matching(what, list(patterns), list(trained))
        shares: dict[str, dict[str, Tensor]] = {pattern: {} for pattern in patterns}
        left: dict[str, Tensor] = {}
        for name, x in trained.items():
            share = next((shares[pattern] for pattern in patterns if matches(pattern, name)), left)
            share[name] = x
        hidden = [pattern for pattern, share in shares.items() if not share]
        if hidden:
            raise ValueError(f"{what}: earlier patterns take all that fits {listed(hidden)}: put it first")
        if left and rest is None:
            raise ValueError(f"{what}: no pattern fits {listed(list(left))}: pass rest=, or freeze them")
        self.optimisers: dict[str, Any] = {pattern: patterns[pattern](share) for pattern, share in shares.items()}
        if left and rest is not None:
            self.optimisers["rest"] = rest(left)
        self._share(model)

    def _share(self, model: Any) -> None:
        """Have every optimiser know all names of the model, so that a tree of gradients of it fits."""
        for opt in self._parts():
            opt._know(model)

    def _parts(self) -> list[Optimiser]:
        """Return the optimisers that this one consists of."""
        return [part for opt in self.optimisers.values() for part in opt._parts()]

    @property
    def count(self) -> Tensor:
        """The number of steps."""
        return self._parts()[0].count

    def step(self, grads: Any = None) -> None:
        """Update all parameters that have a gradient, in place: see `SGD.step`.

        Parameters
        ----------
        grads : tree of Tensor or None, default None
            The gradients, as `tapegrad.grad` gives them; None for `.grad`, which is cleared.

        Raises
        ------
        RuntimeError
            No parameter has a gradient.
        ValueError
            The tree does not fit.

        Examples
        --------
        >>> import tapegrad as tg
        >>> model = {"a": tg.ones(2), "b": tg.ones(2)}
        >>> slow, fast = (lambda part: tg.optim.SGD(part, 0.5)), (lambda part: tg.optim.SGD(part, 1.0))
        >>> opt = tg.optim.Split(model, {"a": slow}, fast)
        >>> opt.step({"a": tg.ones(2), "b": tg.ones(2)})
        >>> model
        {'a': Tensor([0.5, 0.5]), 'b': Tensor([0., 0.])}
        """
        parts = self._parts()
        if grads is None and not any([slot.tensor.grad is not None for part in parts for slot in part.slots]):
            parts[0].step()  # raises
        for part in parts:
            part.step(grads, idle=True)

    def _changing(self) -> list[Tensor]:
        """Return all Tensors that a step changes."""
        return list({id(x): x for part in self._parts() for x in part._changing()}.values())

    def state(self) -> dict[str, Any]:
        """Return the state for `restore`.

        Returns
        -------
        dict
            The state of each optimiser, by pattern.

        Examples
        --------
        >>> import tapegrad as tg
        >>> opt = tg.optim.Split({"a": tg.ones(2)}, {"a": lambda part: tg.optim.SGD(part, 0.5)})
        >>> opt.state()
        {'a': {'count': Tensor(0.), 'parameters': {'a': {}}}}
        """
        return {name: opt.state() for name, opt in self.optimisers.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, in place.

        Parameters
        ----------
        state : mapping
            The result of `state`.

        Raises
        ------
        ValueError
            It does not fit. Nothing is changed.

        Examples
        --------
        >>> import tapegrad as tg
        >>> opt = tg.optim.Split({"a": tg.ones(2)}, {"a": lambda part: tg.optim.SGD(part, 0.5)})
        >>> opt.restore(opt.state())
        """
        for change in self._restoring(state):
            change()

    def _restoring(self, state: Mapping[str, Any], where: str = "") -> list[Callable[[], None]]:
        """Return the changes that restore a state, after all checks; nothing is changed."""
        what = where or type(self).__name__
        same_names(f"{what}.restore", state, self.optimisers)
        return [c for name, opt in self.optimisers.items() for c in opt._restoring(state[name], f"{what}[{name!r}]")]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={opt!r}' for name, opt in self.optimisers.items())})"


# Coefficients of a quintic whose slope at 0 is steep, from Jordan et al. (2024).
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonal(g: Tensor, steps: int) -> Tensor:
    """Return about U V^T for matrices g = U S V^T, by Newton-Schulz iteration; singular values end in 0.7 to 1.2."""
    wide = g.shape[-2] <= g.shape[-1]
    x = g if wide else matrix_transpose(g)
    x = x / maximum(vector_norm(x, axis=(-2, -1), keepdims=True), 1e-7)
    a, b, c = _QUINTIC
    for _ in range(steps):
        s = matmul(x, matrix_transpose(x))
        x = a * x + matmul(b * s + c * matmul(s, s), x)
    return x if wide else matrix_transpose(x)


class _Orthogonal(Optimiser):
    """The part of Muon for matrices."""

    moments = ("velocity",)

    def __init__(self, model: Any, rate: Rate, momentum: float, nesterov: bool, steps: int, **options: Any) -> None:
        self.momentum, self.nesterov, self.steps = momentum, nesterov, steps
        super().__init__(model, rate, **options)

    def _update(self, slot: Slot, x: Tensor, g: Tensor, s: Scalars) -> None:
        v = slot.state["velocity"]
        v *= self.momentum
        v += (1.0 - self.momentum) * g
        u = (1.0 - self.momentum) * g + self.momentum * v if self.nesterov else v
        n, m = x.shape[0], x.size // max(x.shape[0], 1)
        u = reshape(orthogonal(reshape(u, (n, m)), self.steps), x.shape)
        if slot.decay:
            x *= 1.0 - slot.decay * s["rate"]
        x -= (root(max(1.0, n / max(m, 1))) * s["rate"]) * u


@described
class Muon(Split):
    """Orthogonal steps for matrices, another optimiser for the rest (Jordan et al., 2024).

    With g the gradient: v becomes momentum v + (1 - momentum) g, and x becomes x - rate sqrt(max(1, n / m)) O, where O
    is U V^T of the singular value decomposition of v, or, with `nesterov`, of (1 - momentum) g + momentum v, about, by
    Newton-Schulz iteration in the dtype of the parameter. Kernels of convolutions are matrices of n output channels.
    Embeddings and the last layer are better left to the rest: see `Split`.

    PARAMETERS
    momentum : float, default 0.95
        The share of the velocity that is kept.
    nesterov : bool, default True
        Whether to look ahead.
    steps : int, default 5
        The number of iterations.
    weight_decay : float, default 0.1
        The coefficient of decay of matrices, decoupled from the gradient.
    rest : callable or None, default None
        A function of the other parameters, a dict by name, that returns their optimiser; `AdamW` with the same rate for
        None.
    REST

    Examples
    --------
    >>> import tapegrad as tg
    >>> model = {"weight": tg.ones((3, 2)), "bias": tg.ones(3)}
    >>> opt = tg.optim.Muon(model, 0.02, rest=lambda part: tg.optim.AdamW(part, 3e-4))
    >>> list(opt.optimisers)
    ['matrices', 'rest']
    """

    def __init__(
        self,
        model: Any,
        rate: Rate,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        steps: int = 5,
        weight_decay: float = 0.1,
        rest: Make | None = None,
        decay: Decay = None,
        masters: bool = True,
    ) -> None:
        number("Muon", "momentum", momentum, high=1.0)
        model = settled(model)
        trained = _trained("Muon", model)
        matrices = {name: x for name, x in trained.items() if x.ndim >= 2 and x.dtype.kind == "real floating"}
        if not matrices:
            raise ValueError("Muon: the model has no matrix of real numbers: use AdamW")
        others = {name: x for name, x in trained.items() if name not in matrices}
        self.optimisers = {
            "matrices": _Orthogonal(
                matrices, rate, momentum, nesterov, steps, weight_decay=weight_decay, decay=decay, masters=masters
            )
        }
        if others:
            self.optimisers["rest"] = AdamW(others, rate, masters=masters) if rest is None else rest(others)
        self._share(model)
