"""Gradients before a step: clipped by their norm or by value."""

from __future__ import annotations

from typing import Any

from tapegrad._engine.dtypes import DTYPES
from tapegrad._engine.mode import no_grad
from tapegrad._engine.tensor import Tensor
from tapegrad.linalg import vector_norm
from tapegrad.nn._walk import found
from tapegrad.ops.binary import clip, maximum
from tapegrad.ops.conversion import astype
from tapegrad.ops.shaping import stack
from tapegrad.optim._optimiser import number


def clip_norm(model: Any, limit: float, *, grads: Any = None) -> Tensor:
    """Scale all gradients down, in place, so that their common norm is at most a limit (Pascanu et al., 2013).

    The factor is min(1, limit / norm).

    Parameters
    ----------
    model : object
        The holder of the parameters, whose `.grad` is scaled.
    limit : float
        The largest norm.
    grads : tree of Tensor or None, default None
        Gradients, as `tapegrad.grad` gives them, to be scaled instead.

    Returns
    -------
    Tensor
        The norm before, of shape (), in float32 at least.

    Raises
    ------
    RuntimeError
        There are no gradients.
    ValueError
        The limit is negative.

    Examples
    --------
    >>> import tapegrad as tg
    >>> w = tg.tensor([1.0, 1.0], requires_grad=True)
    >>> tg.sum(w * tg.asarray([3.0, 4.0])).backward()
    >>> tg.optim.clip_norm([w], 1.0), w.grad
    (Tensor(5.), Tensor([0.6, 0.8]))
    """
    number("clip_norm", "limit", limit)
    with no_grad():
        gs = _gradients("clip_norm", model, grads)
        parts = [vector_norm(_wide(g)) for g in gs]
        norm = parts[0] if len(parts) == 1 else vector_norm(stack(_alike(parts)))
        factor = limit / maximum(norm, max(limit, 1e-30))  # exactly 1 up to the limit
        for g in gs:
            g *= _real_of(factor, g)
    return norm


def clip_value(model: Any, limit: float, *, grads: Any = None) -> None:
    """Clip each element of the gradients, in place, to be at most a limit in size.

    Parameters
    ----------
    model : object
        The holder of the parameters, whose `.grad` is clipped.
    limit : float
        The largest size of an element.
    grads : tree of Tensor or None, default None
        Gradients, as `tapegrad.grad` gives them, to be clipped instead.

    Raises
    ------
    RuntimeError
        There are no gradients.
    TypeError
        A gradient is complex: use `clip_norm`.
    ValueError
        The limit is negative.

    Examples
    --------
    >>> import tapegrad as tg
    >>> w = tg.tensor([1.0, 1.0], requires_grad=True)
    >>> tg.sum(w * tg.asarray([3.0, -4.0])).backward()
    >>> tg.optim.clip_value([w], 3.5)
    >>> w.grad
    Tensor([ 3. , -3.5])
    """
    number("clip_value", "limit", limit)
    with no_grad():
        gs = _gradients("clip_value", model, grads)
        if any([g.dtype.kind == "complex floating" for g in gs]):
            raise TypeError("clip_value: complex numbers have no order: use clip_norm")
        for g in gs:
            g[...] = clip(g, -limit, limit)


def _gradients(what: str, model: Any, grads: Any) -> list[Tensor]:
    gs = [f.tensor for f in found(grads)] if grads is not None else [f.tensor.grad for f in found(model)]
    here = [g for g in gs if g is not None]
    if not here:
        raise RuntimeError(f"{what}: no parameter has a gradient: call loss.backward() before, or pass grads=")
    return here


def _wide(g: Tensor) -> Tensor:
    return astype(g, DTYPES["float32"]) if g.dtype.name in ("float16", "bfloat16") else g


def _alike(xs: list[Tensor]) -> list[Tensor]:
    """Return numbers in the widest of their dtypes."""
    dtype = max((x.dtype for x in xs), key=lambda d: d.itemsize)
    return [astype(x, dtype, copy=False) for x in xs]


def _real_of(factor: Tensor, g: Tensor) -> Tensor:
    return astype(factor, g.dtype, copy=False)
