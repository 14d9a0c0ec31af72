"""Comparison of a function on NumPy with PyTorch's, to second order, over random configurations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import tapegrad as tg

CONFIGURATIONS = 200
SECOND_ORDER = 4  # every fourth configuration


def flattened(y: Any) -> Any:
    """Return a result of several arrays as a list."""
    return list(y) if isinstance(y, tuple) else [y]


def values(x: tg.Tensor | None) -> np.ndarray[Any, Any]:
    """Return the values of a Tensor."""
    assert x is not None
    return np.asarray(x.detach())


def compare(
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    arrays: Sequence[Any],
    rng: np.random.Generator,
    second: bool,
    rtol: float = 1e-9,
    atol: float = 1e-10,
) -> None:
    """Compare values, gradients by random cotangents and, if asked, gradients of a product with these gradients.

    arrays: NumPy's arrays; those of floating dtype are differentiated by.
    """
    import torch

    torch_: Any = torch
    varied = [i for i, a in enumerate(arrays) if a.dtype.kind == "f"]
    xs = [tg.tensor(a, requires_grad=i in varied) if i in varied else tg.asarray(a) for i, a in enumerate(arrays)]
    zs = [torch.tensor(a, requires_grad=i in varied) for i, a in enumerate(arrays)]
    mine, other = flattened(ours(*xs)), flattened(theirs(*zs))
    for y, z in zip(mine, other, strict=True):
        assert y.shape == tuple(z.shape)
        np.testing.assert_allclose(values(y), z.detach().numpy(), rtol=rtol, atol=atol)
    ts = [rng.standard_normal(y.shape) for y in mine]
    total: Any = sum(tg.sum(y * t) for y, t in zip(mine, ts, strict=True))
    their_total = sum((z * torch.tensor(t)).sum() for z, t in zip(other, ts, strict=True))
    if not their_total.requires_grad:
        return
    total.backward(create_graph=second)
    found: list[Any] = [xs[i].grad for i in varied]
    expected = torch_.autograd.grad(their_total, [zs[i] for i in varied], create_graph=second, allow_unused=True)
    pairs = [(g, e) for g, e in zip(found, expected, strict=True) if e is not None]
    for g, e in pairs:
        np.testing.assert_allclose(values(g), e.detach().numpy(force=True), rtol=rtol, atol=atol)
    if not second:
        return
    us = [rng.standard_normal(g.shape) for g, _ in pairs]
    their_total = sum((e * torch.tensor(u)).sum() for (_, e), u in zip(pairs, us, strict=True))
    if not their_total.requires_grad:
        return
    total = sum(tg.sum(g * u) for (g, _), u in zip(pairs, us, strict=True))
    for i in varied:
        xs[i].grad = None
    if total._record is not None:
        total.backward()
    expected = torch_.autograd.grad(their_total, [zs[i] for i in varied], allow_unused=True)
    for i, e in zip(varied, expected, strict=True):
        if e is not None:
            got = np.zeros(e.shape) if xs[i].grad is None else values(xs[i].grad)
            np.testing.assert_allclose(got, e.numpy(force=True), rtol=100 * rtol, atol=100 * atol)
