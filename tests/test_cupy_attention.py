"""Attention that never stores its scores: the kernels by themselves, and the programs that become them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_bench import node

from tapegrad._compile._program import Value

pytest.importorskip("cupy")
import cupy

if not cupy.is_available():
    pytest.skip("neither a CUDA device nor -p cuda_stand_in", allow_module_level=True)

from tapegrad.backends._cupy_attention import Scores, Sizes
from tapegrad.backends._cupy_attention_calls import Attention, AttentionGradient

DTYPES = ("float32", "float16")


def masked(kind: str, dtype: str, lead: tuple[int, ...], queries: int, keys: int) -> tuple[Scores, list[Any], Any]:
    """Return how scores are scaled and masked, the arrays that takes, and the same on NumPy, with its gradient."""
    shape = (*lead, queries, keys)
    product = Value(shape, np.dtype(dtype))
    scaled = node("multiply", (product, 0.25), shape, dtype)
    gradient = Value(shape, np.dtype(dtype))
    visible = np.tri(queries, keys, keys - queries, dtype=bool)
    if kind == "none":
        back = node("multiply", (gradient, 0.25), shape, dtype)
        scores = Scores(product, [scaled], scaled.out, gradient, [back], back.out)
        return scores, [], lambda s: s * 0.25
    if kind == "additive":
        mask = Value((queries, keys), np.dtype(dtype))
        added = node("add", (scaled.out, mask), shape, dtype)
        back = node("multiply", (gradient, 0.25), shape, dtype)
        host = np.where(visible, 0, -np.inf).astype(dtype)
        return (
            Scores(product, [scaled, added], added.out, gradient, [back], back.out),
            [host],
            lambda s: s * 0.25 + host.astype(np.float64),
        )
    mask = Value((lead[0], *(1,) * (len(lead) - 1), queries, keys), np.dtype(bool))
    chosen = node("where", (mask, scaled.out, -np.inf), shape, dtype)
    kept = node("where", (mask, gradient, 0.0), shape, dtype)
    back = node("multiply", (kept.out, 0.25), shape, dtype)
    host = np.broadcast_to(visible, mask.shape).copy()
    return (
        Scores(product, [scaled, chosen], chosen.out, gradient, [kept, back], back.out),
        [host],
        lambda s: np.where(host, s * 0.25, -np.inf),
    )


CASES = [
    ((2, 3), 6, 6, 8, 8), ((2,), 1, 1, 4, 4), ((3,), 33, 70, 64, 64), ((2, 1), 65, 65, 32, 16),
    ((1,), 130, 40, 128, 128), ((2,), 17, 31, 20, 5),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["none", "additive", "where"])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_attention_and_its_gradient(dtype: str, kind: str, case: int) -> None:
    lead, queries, keys, size, depth = CASES[case]
    rng = np.random.default_rng(case)
    q, k, v = (rng.normal(size=(*lead, *s)).astype(dtype) for s in ((queries, size), (keys, size), (keys, depth)))
    grad = rng.normal(size=(*lead, queries, depth)).astype(dtype)
    sizes = Sizes(lead, queries, keys, size, depth)
    scores, arrays, mask = masked(kind, dtype, lead, queries, keys)
    if queries > keys and kind != "none":
        return  # rows without keys
    on_device = [cupy.asarray(a) for a in arrays]
    dq, dk, dv, dg = (cupy.asarray(a) for a in (q, k, v, grad))
    keys_first = cupy.swapaxes(dk, -1, -2)
    out, logs = Attention(sizes, Scores(*scores[:3]))(dq, keys_first, dv, *on_device)
    q64, k64, v64, g64 = (a.astype(np.float64) for a in (q, k, v, grad))
    x = mask(q64 @ k64.swapaxes(-1, -2))
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    tolerance = {"float32": 2e-5, "float16": 1e-2}[dtype]
    np.testing.assert_allclose(out.get(), p @ v64, rtol=tolerance, atol=tolerance)
    found = np.log(e.sum(axis=-1)) + x.max(axis=-1)
    np.testing.assert_allclose(logs.get(), found, rtol=tolerance, atol=tolerance)
    dp = g64 @ v64.swapaxes(-1, -2)
    ds = p * (dp - (dp * p).sum(axis=-1, keepdims=True)) * 0.25
    for turned in (True, False):
        gradient = AttentionGradient(sizes, scores, turned)
        of_q, of_k, of_v = gradient(dq, keys_first, dv, dg, out, logs, *on_device)
        np.testing.assert_allclose(of_q.get(), ds @ k64, rtol=tolerance, atol=4 * tolerance)
        expected = ds.swapaxes(-1, -2) @ q64
        expected = expected if turned else expected.swapaxes(-1, -2)
        np.testing.assert_allclose(of_k.get(), expected, rtol=tolerance, atol=4 * tolerance)
        np.testing.assert_allclose(of_v.get(), p.swapaxes(-1, -2) @ g64, rtol=tolerance, atol=4 * tolerance)
