"""Reductions of losses: the mean, the sum, or none."""

from __future__ import annotations

from math import prod
from typing import Any

from tapegrad._engine.tensor import Tensor
from tapegrad.ops.reductions import mean, sum

REDUCTION = "'mean', 'sum', or 'none' for the loss of each."
RETURNS = "The loss: a Tensor without axes, or the loss of each for the reduction 'none'."
UNKNOWN = "ValueError: The shapes do not fit, or the reduction is another one."


def checked_reduction(name: str, reduction: Any) -> None:
    """Raise ValueError for an unknown reduction."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{name}: reduction is 'mean', 'sum' or 'none', not {reduction!r}")


def reduced_loss(name: str, losses: Tensor, reduction: str) -> Tensor:
    """Return the mean, the sum, or the losses themselves; the mean of nothing is NaN."""
    checked_reduction(name, reduction)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return sum(losses, dtype=losses.dtype)
    if prod(losses.shape) == 0:
        return sum(losses, dtype=losses.dtype) * float("nan")
    return mean(losses)
