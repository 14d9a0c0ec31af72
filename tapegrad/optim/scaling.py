"""Loss scaling: gradients of 16 bits that neither vanish nor overflow, without a wait for the device."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

from tapegrad._engine.dtypes import DTYPES
from tapegrad._engine.mode import no_grad
from tapegrad._engine.tensor import Tensor
from tapegrad.nn._state import restored, write
from tapegrad.ops.binary import logical_and, maximum, minimum, where
from tapegrad.ops.conversion import astype
from tapegrad.ops.creation import full, zeros
from tapegrad.ops.elementwise import isfinite
from tapegrad.ops.reductions import all as all_of
from tapegrad.optim.gradients import clip_norm

_MOST = 2.0**31


class Scale:
    """The factor that a loss is multiplied by before `backward`, adapted to the range of its gradients' dtype.

    A step whose gradients are not all finite changes nothing, neither parameters nor moments nor counts, and halves the
    factor; after `every` steps that are finite it doubles. All of it is computed on the device.

    Parameters
    ----------
    start : float, default 32768.0
        The first factor.
    every : int, default 2000
        The number of finite steps after which it doubles.
    device : str or None, default None
        The device of the parameters; the default device for None.

    Attributes
    ----------
    scale : Tensor
        The factor.
    good : Tensor
        The number of finite steps since the factor changed.

    Raises
    ------
    ValueError
        The factor or the number of steps is not positive.

    Examples
    --------
    >>> import tapegrad as tg
    >>> w = tg.tensor([1.0], requires_grad=True)
    >>> opt, scale = tg.optim.SGD([w], 0.25), tg.optim.Scale(start=4.0)
    >>> scale.up(tg.sum(w * w)).backward()
    >>> scale.step(opt)
    >>> scale.up(tg.sum(w * tg.inf)).backward()
    >>> scale.step(opt)
    >>> w, scale.scale, opt.count
    (Tensor([0.5], requires_grad=True), Tensor(2., dtype=float32), Tensor(1.))
    """

    _unguarded = ("scale", "good")

    def __init__(self, start: float = 2.0**15, every: int = 2000, *, device: str | None = None) -> None:
        if not 0 < start <= _MOST or not every > 0:
            raise ValueError(f"Scale: start must be positive, at most 2**31, and every positive, not {start}, {every}")
        self.every = every
        self.scale = full((), float(start), dtype=DTYPES["float32"], device=device)
        self.good = zeros((), dtype=DTYPES["float32"], device=device)

    def up(self, loss: Tensor) -> Tensor:
        """Return the loss times the factor, in float32 at least.

        Parameters
        ----------
        loss : Tensor
            The loss.

        Returns
        -------
        Tensor
            The Tensor to call `backward` of.

        Raises
        ------
        ValueError
            The loss is on another device.

        Examples
        --------
        >>> import tapegrad as tg
        >>> tg.optim.Scale(start=8.0).up(tg.asarray(0.5))
        Tensor(4.)
        """
        if loss.device != self.scale.device:
            raise ValueError(
                f"Scale: the loss is on {loss.device}, the scale on {self.scale.device}: make it with "
                f"Scale(device={loss.device!r})"
            )
        small = loss.dtype.name in ("float16", "bfloat16")
        return astype(loss, DTYPES["float32"]) * self.scale if small else loss * astype(self.scale, loss.dtype)

    def step(self, *opts: Any, clip: float | None = None) -> None:
        """Step optimisers by the gradients over the factor, unless one is not finite; then adapt the factor.

        Parameters
        ----------
        *opts : Optimiser
            The optimisers, whose parameters' `.grad` is used and cleared.
        clip : float or None, default None
            The limit of `clip_norm`, for the gradients over the factor.

        Raises
        ------
        RuntimeError
            No parameter has a gradient.

        Examples
        --------
        >>> import tapegrad as tg
        >>> w = tg.tensor([1.0], requires_grad=True)
        >>> opt, scale = tg.optim.SGD([w], 0.25), tg.optim.Scale()
        >>> scale.up(tg.sum(w * w)).backward()
        >>> scale.step(opt, clip=1.0)
        >>> w.grad is None
        True
        """
        with no_grad():
            parts = [part for opt in opts for part in opt._parts()]
            grads = {id(slot): slot.tensor.grad for part in parts for slot in part.slots}
            here = [g for g in grads.values() if g is not None]
            if not here:
                raise RuntimeError("Scale: no parameter has a gradient: call scale.up(loss).backward() before step()")
            if here[0].device != self.scale.device:
                raise ValueError(
                    f"Scale: the parameters are on {here[0].device}, the scale on {self.scale.device}: make it with "
                    f"Scale(device={here[0].device!r})"
                )
            finite = reduce(logical_and, [all_of(isfinite(g)) for g in here])
            # Zeros in place of all if one is not finite, so that no moment becomes NaN on the way.
            down = {i: None if g is None else self._down(g, finite) for i, g in grads.items()}
            if clip is not None:
                clip_norm(None, clip, grads=[g for g in down.values() if g is not None])
            changing = list({id(x): x for part in parts for x in part._changing()}.values())
            before = [x.detach() for x in changing]
            for part in parts:
                pairs = [(slot, down[id(slot)]) for slot in part.slots]
                if any([g is not None for _, g in pairs]):
                    part._advance(pairs)
                for slot in part.slots:
                    slot.tensor.grad = None
            for x, old in zip(changing, before, strict=True):
                x[...] = where(finite, x, old)
            self._adapt(finite)

    def _down(self, g: Tensor, finite: Tensor) -> Tensor:
        """Return a gradient over the factor; where some are not finite, zeros.

        A gradient of 16 bits is divided in float32, as it may be below the least number of its dtype afterwards.
        """
        wide = DTYPES["float32"] if g.dtype.name in ("float16", "bfloat16") else g.dtype
        return where(finite, astype(g, wide, copy=False) / astype(self.scale, wide, copy=False), 0.0)

    def _adapt(self, finite: Tensor) -> None:
        good = where(finite, self.good + 1.0, 0.0)
        full_run = good >= float(self.every)
        factor = where(finite, where(full_run, 2.0, 1.0), 0.5)
        self.scale[...] = minimum(maximum(self.scale * astype(factor, DTYPES["float32"]), 1.0), _MOST)
        self.good[...] = astype(where(full_run, 0.0, good), DTYPES["float32"])

    def state(self) -> dict[str, Any]:
        """Return the state for `restore`.

        Returns
        -------
        dict
            Tensors by name.

        Examples
        --------
        >>> import tapegrad as tg
        >>> tg.optim.Scale(start=8.0).state()
        {'scale': Tensor(8., dtype=float32), 'good': Tensor(0., dtype=float32)}
        """
        return {"scale": self.scale.detach(), "good": self.good.detach()}

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
        >>> scale = tg.optim.Scale()
        >>> scale.restore(scale.state())
        """
        write(restored("Scale.restore", {"scale": self.scale, "good": self.good}, state))
