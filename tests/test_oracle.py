"""First and second derivatives against PyTorch's own autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.testing import SAMPLES, Sample

torch = pytest.importorskip("torch")

SAME_NAME = (
    "acos acosh asin asinh atan atanh cos cosh exp expm1 log log10 log1p log2 negative reciprocal sin sinh sqrt square "
    "tan tanh sigmoid relu add atan2 divide hypot logaddexp maximum minimum multiply pow remainder subtract copysign "
    "abs matmul vecdot where tensordot"
)


def own(name: str, **fixed: Any) -> Callable[..., Any]:
    """Return PyTorch's function of a name with some arguments set."""
    f = getattr(torch, name)
    return lambda *xs: f(*xs, **fixed)


ORACLES: dict[str, Callable[..., Any]] = {name: getattr(torch, name) for name in SAME_NAME.split() if name != "vecdot"}
ORACLES |= {
    "vecdot": torch.linalg.vecdot,
    "silu": torch.nn.functional.silu,
    "gelu": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "softmax": own("softmax", dim=1),
    "log_softmax": own("log_softmax", dim=1),
    "logsumexp": own("logsumexp", dim=(0, 1, 2)),
    "cross_entropy": torch.nn.functional.cross_entropy,
    "cross_entropy probabilities": torch.nn.functional.cross_entropy,
    "prod zeros": own("prod", dim=1),
    "cumulative_prod": own("cumprod", dim=1),
    "cumulative_prod zeros": own("cumprod", dim=1),
    "cumulative_sum": own("cumsum", dim=1),
    "var correction": own("var", correction=1),
    "std correction": own("std", dim=0, correction=1),
    "max axis=None keepdims=False": torch.amax,
    "min axis=1 keepdims=False": own("amin", dim=1),
    "mean axis=1 keepdims=False": own("mean", dim=1),
    "tril": own("tril", diagonal=1),
    "take": lambda x, i: torch.index_select(x, 1, i),
    "take_along_axis": lambda x, i: torch.take_along_dim(x, i, 1),
    "sort": lambda x: torch.sort(x, dim=1).values,
    "clip": own("clip", min=-1.0, max=1.0),
    "roll axis": own("roll", shifts=(1, -1), dims=(0, 2)),
    "stack": lambda a, b: torch.stack([a, b], dim=1),
}
PLAIN = {"tensordot": lambda a, b: torch.tensordot(a, b, 2)}


def oracle(sample: Sample) -> Callable[..., Any] | None:
    """Return PyTorch's own function for a sample, if there is one."""
    if sample.name in PLAIN:
        return PLAIN[sample.name]
    if " " in sample.name and sample.name.split()[1] not in ("broadcast", "0-d", "size-0") and "x(" not in sample.name:
        return ORACLES.get(sample.name)
    return ORACLES.get(sample.name) or ORACLES.get(sample.operation)


CHECKED = [s for s in SAMPLES if oracle(s) is not None]


@pytest.mark.parametrize("sample", CHECKED, ids=lambda s: s.name)
def test_against_pytorch(sample: Sample) -> None:
    theirs = oracle(sample)
    assert theirs is not None
    rng = np.random.default_rng(1)
    floating = [a.dtype == np.float64 for a in sample.args]
    xs = [tg.tensor(a, requires_grad=f) for a, f in zip(sample.args, floating, strict=True)]
    ts = [torch.tensor(a, requires_grad=f) for a, f in zip(sample.args, floating, strict=True)]
    y, z = sample.f(*xs), theirs(*ts)
    w = np.asarray(rng.standard_normal(y.shape))
    np.testing.assert_allclose(np.asarray(y.detach()), z.detach().numpy(), rtol=1e-10, atol=1e-12)

    (y * y * tg.asarray(w)).backward(tg.ones_like(y), create_graph=True)
    leaves = [t for t, f in zip(ts, floating, strict=True) if f]
    first = torch.autograd.grad((z * z * torch.tensor(w)).sum(), leaves, create_graph=True)
    mine = [x.grad if x.grad is not None else tg.zeros_like(x) for x in xs if x.requires_grad]
    total = tg.asarray(0.0)
    other = torch.tensor(0.0)
    for g, t in zip(mine, first, strict=True):
        np.testing.assert_allclose(np.asarray(g.detach()), t.detach().numpy(), rtol=1e-10, atol=1e-10)
        v = np.asarray(rng.standard_normal(g.shape))
        total, other = total + tg.sum(g * tg.asarray(v)), other + (t * torch.tensor(v)).sum()
    if sample.order > 1:
        for x in xs:
            x.grad = None
        total.backward()
        second = torch.autograd.grad(other, leaves, allow_unused=True)
        for x, t in zip([x for x in xs if x.requires_grad], second, strict=True):
            if t is not None:
                got = np.zeros(x.shape) if x.grad is None else np.asarray(x.grad)
                np.testing.assert_allclose(got, t.numpy(), rtol=1e-9, atol=1e-9)


def test_there_are_many() -> None:
    assert len(CHECKED) > 70
