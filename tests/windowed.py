"""Comparison of operations on windows with PyTorch's, by value, gradients and second derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import tapegrad as tg

HostArray = np.ndarray[Any, Any]


def close(x: tg.Tensor, y: Any, what: str) -> None:
    """Assert that a Tensor has the shape and values of a PyTorch tensor."""
    found, expected = np.asarray(tg.asarray(x.detach(), device="cpu")), y.detach().numpy()
    assert found.shape == expected.shape, what
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=1)
    np.testing.assert_allclose(found / scale, expected / scale, rtol=1e-9, atol=1e-9, err_msg=what)


def compare(
    rng: np.random.Generator,
    f: Callable[..., tg.Tensor],
    g: Callable[..., Any],
    xs: list[HostArray],
    what: str,
    second: bool = False,
) -> bool:
    """Compare f on Tensors with g on PyTorch tensors; say whether PyTorch took the arguments.

    second: compare products of the Hessian of a sum of squares with a random direction, too.
    """
    import torch

    theirs = [torch.tensor(x, requires_grad=True) for x in xs]
    ours = tuple([tg.asarray(x) for x in xs])
    try:
        z = g(*theirs)
    except RuntimeError:
        return False
    close(f(*ours), z, what)
    if not bool(torch.isfinite(z).all()):  # the maximum of no element
        return True
    t = rng.standard_normal(z.shape)
    power = 2 if second else 1

    def number(*args: tg.Tensor) -> tg.Tensor:
        return tg.sum(f(*args) ** power * tg.asarray(t))

    which = tuple(range(len(xs)))
    gradients = tg.grad(number, which)
    expected = torch.autograd.grad((z**power * torch.tensor(t)).sum(), theirs, create_graph=second)
    for x, y in zip(gradients(*ours), expected, strict=True):
        close(x, y, f"gradient of {what}")
    if second:
        along = [rng.standard_normal(x.shape) for x in xs]
        slope = sum((y * torch.tensor(v)).sum() for y, v in zip(expected, along, strict=True))
        products = torch.autograd.grad(slope, theirs)

        def ours_along(*args: tg.Tensor) -> Any:
            return sum(tg.sum(x * tg.asarray(v)) for x, v in zip(gradients(*args), along, strict=True))

        for x, y in zip(tg.grad(ours_along, which)(*ours), products, strict=True):
            close(x, y, f"second derivative of {what}")
    return True


class Geometry:
    """Random windows over one to three axes."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.d = d = int(rng.choice([1, 2, 2, 3]))

        def numbers(low: int, high: int) -> tuple[int, ...]:
            return tuple(rng.integers(low, high, d).tolist())

        self.size = numbers(1, 5 if d < 3 else 3)
        self.stride, self.dilation = numbers(1, 4), numbers(1, 3)
        self.padding = numbers(0, 4)
        self.half = tuple([min(p, k // 2) for p, k in zip(self.padding, self.size, strict=True)])
        self.more = numbers(0, 6)

    def space(self, padding: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
        """Return lengths of axes in which there is at least one window."""
        axes = zip(self.size, padding, dilation, self.more, strict=True)
        return tuple([max(1, g * (k - 1) + 1 - 2 * p) + n for k, p, g, n in axes])
