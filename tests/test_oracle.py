"""First and second derivatives against PyTorch's own autograd."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.testing import SAMPLES, Sample
from tapegrad.testing._samples_fft import MANY, ONE

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
    "gelu": torch.nn.functional.gelu,
    "gelu tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
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
    "diff": torch.diff,
    "diff twice": own("diff", n=2, dim=1),
    "tril": own("tril", diagonal=1),
    "take": lambda x, i: torch.index_select(x, 1, i),
    "take_along_axis": lambda x, i: torch.take_along_dim(x, i, 1),
    "sort": lambda x: torch.sort(x, dim=1).values,
    "clip": own("clip", min=-1.0, max=1.0),
    "roll axis": own("roll", shifts=(1, -1), dims=(0, 2)),
    "stack": lambda a, b: torch.stack([a, b], dim=1),
}
COMPLEX = (
    "abs acos acosh asin asinh atan atanh cos cosh exp expm1 imag log log10 log1p real reciprocal sin sinh sqrt square "
    "tan tanh mean prod sum add subtract multiply divide pow matmul where take"
)
ORACLES |= {f"{n} complex": getattr(torch, n) for n in COMPLEX.split()}
ORACLES |= {f"{n} complex and real": getattr(torch, n) for n in ("add", "multiply", "divide", "pow")}
ORACLES |= {
    "conj complex": lambda z: torch.conj(z).resolve_conj(),
    "sign complex": torch.sgn,
    "vecdot complex": torch.linalg.vecdot,
    "cumulative_prod complex": own("cumprod", dim=0),
}
for ending, calls in (("fft", (*ONE, ("odd", {}), ("real", {"n": 5, "axis": 1}))), ("fftn", MANY)):
    for note, options in calls:
        theirs = {k if k in ("n", "s", "norm") else "dim": v for k, v in options.items()}
        names = [n for n in tg.fft.__all__ if n.endswith(ending)]
        ORACLES |= {f"{n} {note}".strip(): partial(getattr(torch.fft, n), **theirs) for n in names}
ORACLES |= {n: getattr(torch.fft, n) for n in ("fftshift", "ifftshift")}
SPECIAL = "entr erf erfc erfcx erfinv expit gammaln i0 i0e i1 i1e log_ndtr logit ndtr ndtri sinc xlog1py xlogy"
ORACLES |= {name: getattr(torch.special, name) for name in SPECIAL.split()}
ORACLES |= {
    "betaln": lambda a, b: torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b),
    "log_expit": torch.nn.functional.logsigmoid,
    "polygamma": lambda x: torch.special.polygamma(2, x),
    "rel_entr": lambda x, y: x * torch.log(x / y),
}
PLAIN = {"tensordot": lambda a, b: torch.tensordot(a, b, 2)}


def oracle(sample: Sample) -> Callable[..., Any] | None:
    """Return PyTorch's own function for a sample, if there is one."""
    if sample.name.startswith("det singular"):
        return None  # PyTorch 2.13 gives zeros there
    if sample.written is not None:
        if "full" in sample.name or "complete" in sample.name:
            return None  # PyTorch does not differentiate the columns that complete a basis
        return partial(sample.written, importlib.import_module("array_api_compat.torch"))
    if sample.name in PLAIN:
        return PLAIN[sample.name]
    if " " in sample.name and sample.name.split()[1] not in ("broadcast", "0-d", "size-0") and "x(" not in sample.name:
        return ORACLES.get(sample.name)
    return ORACLES.get(sample.name) or ORACLES.get(sample.operation)


CHECKED = [s for s in SAMPLES if oracle(s) is not None]


def values(x: Any) -> np.ndarray[Any, Any]:
    """Return the values of a Tensor or of PyTorch's."""
    return np.asarray(x.detach() if isinstance(x, tg.Tensor) else x.detach().resolve_conj().resolve_neg())


def random_like(rng: np.random.Generator, x: Any) -> np.ndarray[Any, Any]:
    """Return normal values, complex ones for a complex Tensor."""
    v = rng.standard_normal(x.shape)
    return np.asarray(v + 1j * rng.standard_normal(x.shape) if x.dtype is tg.complex128 else v)


def inner(m: Any, a: Any, b: Any) -> Any:
    """Return the real inner product, in tapegrad's or PyTorch's namespace."""
    product = m.conj(a) * b
    return m.sum(m.real(product))


@pytest.mark.parametrize("sample", CHECKED, ids=lambda s: s.name)
def test_against_pytorch(sample: Sample) -> None:
    theirs = oracle(sample)
    assert theirs is not None
    rng = np.random.default_rng(1)
    floating = [a.dtype.kind in "fc" for a in sample.args]
    xs = [tg.tensor(a, requires_grad=f) for a, f in zip(sample.args, floating, strict=True)]
    ts = [torch.tensor(a, requires_grad=f) for a, f in zip(sample.args, floating, strict=True)]
    y, z = sample.f(*xs), theirs(*ts)
    w = random_like(rng, y)
    np.testing.assert_allclose(values(y), values(z), rtol=1e-10, atol=1e-12)

    inner(tg, tg.asarray(w), y * y).backward(create_graph=True)
    leaves = [t for t, f in zip(ts, floating, strict=True) if f]
    first = torch.autograd.grad(inner(torch, torch.tensor(w), z * z), leaves, create_graph=True)
    mine = [x.grad if x.grad is not None else tg.zeros_like(x) for x in xs if x.requires_grad]
    total = tg.asarray(0.0)
    other = torch.tensor(0.0)
    for g, t in zip(mine, first, strict=True):
        np.testing.assert_allclose(values(g), values(t), rtol=1e-10, atol=1e-10)
        v = random_like(rng, g)
        total, other = total + inner(tg, tg.asarray(v), g), other + inner(torch, torch.tensor(v), t)
    if sample.order > 1 and total.requires_grad:
        for x in xs:
            x.grad = None
        total.backward()
        second = torch.autograd.grad(other, leaves, allow_unused=True)
        for x, t in zip([x for x in xs if x.requires_grad], second, strict=True):
            if t is not None:
                got = np.zeros(x.shape) if x.grad is None else values(x.grad)
                np.testing.assert_allclose(got, values(t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("f", "gradient"),
    [
        (lambda m, z: m.real(z), 1),
        (lambda m, z: m.imag(z), 1j),
        (lambda m, z: m.abs(z) ** 2, 2 * (3 + 4j)),
        (lambda m, z: m.real((2 + 5j) * z), 2 - 5j),
    ],
    ids=["real", "imag", "abs2", "linear"],
)
def test_the_complex_convention_of_the_readme(f: Any, gradient: complex) -> None:
    """PyTorch's, and the conjugate of JAX's."""
    assert complex(tg.grad(lambda z: f(tg, z))(3 + 4j)) == pytest.approx(gradient, abs=1e-12)
    z = torch.tensor(3 + 4j, requires_grad=True, dtype=torch.complex128)
    f(torch, z).backward()
    assert complex(z.grad) == pytest.approx(gradient, abs=1e-12)
    jax = pytest.importorskip("jax")
    assert complex(jax.grad(lambda z: f(jax.numpy, z))(3 + 4j)).conjugate() == pytest.approx(gradient, abs=1e-5)
