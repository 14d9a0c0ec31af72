"""Attention on PyTorch by its own `scaled_dot_product_attention`, which on most devices never holds all scores."""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from tapegrad.backends._array import Array


def attend(q: Array, k: Array, v: Array, mask: Array | None, causal: bool, window: int | None, scale: float) -> Array:
    """Return attention of arrays whose leading axes broadcast; zeros for a query that sees no key."""
    lead = torch.broadcast_shapes(*[a.shape[:-2] for a in (q, k, v)], () if mask is None else mask.shape[:-2])
    seen = _seen(q, k, mask, causal, window)
    out = torch.nn.functional.scaled_dot_product_attention(
        *[_flat(a, lead) for a in (q, k, v)],
        attn_mask=None if seen is None else _masks(seen, lead),
        is_causal=causal and seen is None,
        scale=scale,
    ).reshape(*lead, q.shape[-2], v.shape[-1])
    if seen is None:
        return out
    blind = (~seen if seen.dtype == torch.bool else seen == -torch.inf).all(-1, keepdim=True)
    return out.masked_fill(blind, 0)


def attend_gradient(
    t: Array,
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    out: Array,
    cache: None,
    causal: bool,
    window: int | None,
    scale: float,
    wanted: tuple[bool, ...],
) -> tuple[Array, ...]:
    """Return the cotangents that are wanted, of q, k, v and mask, by PyTorch's gradient of a second call."""
    batch_shape = tuple(t.shape[: t.ndim - out.ndim])
    with torch.enable_grad():
        inputs = []
        for a, want in zip((q, k, v, mask), wanted, strict=True):
            if a is mask and a is not None:
                a = a.detach().expand(*batch_shape, *(1,) * (out.ndim - a.ndim), *a.shape)
            elif a is not None:
                a = a.detach().expand(*t.shape[:-2], *a.shape[-2:])
            inputs.append(a.requires_grad_() if want else a)
        again = attend(inputs[0], inputs[1], inputs[2], inputs[3], causal, window, scale)
        found: tuple[Array, ...] = torch.autograd.grad(again, [a for a, w in zip(inputs, wanted, strict=True) if w], t)
    return found


def _flat(a: Array, lead: Any) -> Array:
    """Return an array of matrices with all leading axes as heads of one example, as PyTorch's kernels want them."""
    return a.expand(*lead, *a.shape[-2:]).reshape(1, prod(lead), *a.shape[-2:])


def _masks(seen: Array, lead: Any) -> Array:
    shape = seen.shape[-2:]
    return seen.reshape(1, 1, *shape) if seen.numel() == shape.numel() else _flat(seen, lead)


def _seen(q: Array, k: Array, mask: Array | None, causal: bool, window: int | None) -> Array | None:
    """Return the mask with keys hidden by causality and the window; None if causality is all, or there is nothing."""
    if mask is None and window is None:
        return None
    rows = torch.arange(q.shape[-2], device=q.device)[:, None]
    columns = torch.arange(k.shape[-2], device=q.device)
    parts = [columns <= rows] if causal else []
    if window is not None:
        parts.append((rows - columns).abs() < window)
    if mask is None:
        return parts[0] if len(parts) == 1 else parts[0] & parts[1]
    for part in parts:
        mask = mask & part if mask.dtype == torch.bool else mask.masked_fill(~part, -torch.inf)
    if mask.shape[-2:] != (q.shape[-2], k.shape[-2]):
        mask = mask.expand(*mask.shape[:-2], q.shape[-2], k.shape[-2])
    return mask
