"""Attention that never stores its scores: the kernels by themselves, and the programs that become them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kernel_bench import node

import tapegrad as tg
from tapegrad._program.ir import Value

pytest.importorskip("cupy")
import cupy

if not cupy.is_available():
    pytest.skip("neither a CUDA device nor -p cuda_stand_in", allow_module_level=True)

from tapegrad.backends._cupy.attention import Attention, AttentionGradient
from tapegrad.backends._cupy.codegen.attention_kernels import Scores, Sizes

DTYPES = ("float32", "float16")


def masked(kind: str, dtype: str, lead: tuple[int, ...], queries: int, keys: int) -> tuple[Scores, list[Any], Any]:
    """Return how scores are scaled and masked, the arrays that takes, and the same on NumPy, with its gradient."""
    shape = (*lead, queries, keys)
    product = Value(shape, np.dtype(dtype))
    scaled = node("multiply", (product, 0.25), shape, dtype)
    gradient = Value(shape, np.dtype(dtype))
    visible = np.arange(queries)[:, None] + keys - queries >= np.arange(keys)
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
    ((2, 3), 6, 6, 8, 8, "additive"),
    ((2,), 1, 1, 4, 4, "none"),
    ((3,), 33, 70, 64, 64, "where"),
    ((2, 1), 65, 65, 32, 16, "additive"),
    ((1,), 130, 40, 128, 128, "none"),
    ((2,), 17, 31, 20, 5, "where"),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_attention_and_its_gradient(dtype: str, case: int) -> None:
    lead, queries, keys, size, depth, kind = CASES[case]
    rng = np.random.default_rng(case)
    q, k, v = (rng.normal(size=(*lead, *s)).astype(dtype) for s in ((queries, size), (keys, size), (keys, depth)))
    grad = rng.normal(size=(*lead, queries, depth)).astype(dtype)
    sizes = Sizes(lead, queries, keys, size, depth)
    scores, arrays, mask = masked(kind, dtype, lead, queries, keys)
    moved = [cupy.asarray(a) for a in arrays]
    dq, dk, dv, dg = (cupy.asarray(a) for a in (q, k, v, grad))
    keys_first = cupy.swapaxes(dk, -1, -2)
    out, logs = Attention(sizes, Scores(*scores[:3]))(dq, keys_first, dv, *moved)
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
    turned = case % 2 == 0
    of_q, of_k, of_v = AttentionGradient(sizes, scores, turned)(dq, keys_first, dv, dg, out, logs, *moved)
    np.testing.assert_allclose(of_q.get(), ds @ k64, rtol=tolerance, atol=4 * tolerance)
    expected = ds.swapaxes(-1, -2) @ q64
    expected = expected if turned else expected.swapaxes(-1, -2)
    np.testing.assert_allclose(of_k.get(), expected, rtol=tolerance, atol=4 * tolerance)
    np.testing.assert_allclose(of_v.get(), p.swapaxes(-1, -2) @ g64, rtol=tolerance, atol=4 * tolerance)


# -- programs ----------------------------------------------------------------------------------------------


def attention(q: Any, k: Any, v: Any, score: Callable[[Any], Any] | None = None) -> Any:
    return tg.softmax((score or (lambda s: s))(q @ tg.matrix_transpose(k) * q.shape[-1] ** -0.5), axis=-1) @ v


def causal(n: int) -> Any:
    return np.arange(n)[:, None] >= np.arange(n)


LENGTH = 20
SCORES: dict[str, Callable[[str], Callable[[Any], Any]]] = {
    "none": lambda dtype: lambda s: s,
    "additive": lambda dtype: added(on_device(np.where(causal(LENGTH), 0, -np.inf), dtype)),
    "where": lambda dtype: chosen(on_device(causal(LENGTH))),
    "hidden": lambda dtype: hidden(on_device(~causal(LENGTH))),
    "biased": lambda dtype: added(on_device(np.linspace(-1, 1, LENGTH), dtype)),
    "capped": lambda dtype: lambda s: 5.0 * tg.tanh(s / 5.0),
}


def added(mask: Any) -> Callable[[Any], Any]:
    return lambda s: s + mask


def chosen(mask: Any) -> Callable[[Any], Any]:
    return lambda s: tg.where(mask, s, -np.inf)


def hidden(mask: Any) -> Callable[[Any], Any]:
    return lambda s: tg.where(mask, -np.inf, s)


def on_device(array: Any, dtype: str | None = None) -> Any:
    moved = tg.asarray(np.asarray(array), device="cuda")
    return moved if dtype is None else tg.astype(moved, getattr(tg, dtype))


def arrays(*shapes: tuple[int, ...], dtype: str = "float32") -> list[Any]:
    rng = np.random.default_rng(0)
    return [on_device(rng.normal(size=shape), dtype) for shape in shapes]


def operations(compiled: Any) -> list[str]:
    """Return the operations of a compiled function's program that are not views."""
    found = re.findall(r"^ *(?:%[\d., %]*)?  +([a-z_]+)\(", str(compiled.program), re.M)
    views = {"matrix_transpose", "permute_dims", "reshape", "unstack", "index_get", "expand_dims"}
    return [op for op in found if op not in views]


def check(function: Any, args: list[Any], tolerance: float = 2e-5) -> Any:
    """Compare a compiled function with the eager one, and return it."""
    compiled = tg.compile(function)
    expected = function(*args)
    for _ in range(4):
        found = compiled(*args)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(
                np.asarray(tg.astype(a, tg.float64).to_device("cpu")),
                np.asarray(tg.astype(b, tg.float64).to_device("cpu")),
                rtol=tolerance,
                atol=tolerance,
            )
    return compiled


@pytest.mark.parametrize("dtype", [*DTYPES, "bfloat16"])
@pytest.mark.parametrize("score", SCORES)
def test_a_program_becomes_two_nodes(score: str, dtype: str) -> None:
    of_score = SCORES[score](dtype)

    def step(q: Any, k: Any, v: Any, g: Any) -> Any:
        out, pull = tg.vjp(lambda q, k, v: attention(q, k, v, of_score), q, k, v)
        return (out, *pull(g))

    args = arrays(*[(2, 3, LENGTH, 16)] * 2, *[(2, 3, LENGTH, 8)] * 2, dtype=dtype)
    compiled = check(step, args, {"float32": 2e-5, "float16": 1e-2, "bfloat16": 8e-2}[dtype])
    assert operations(compiled) == ["attention", "attention_gradient"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_softmax_in_float32_between_products_of_half_precision(dtype: str) -> None:
    half, mask = getattr(tg, dtype), on_device(np.where(causal(9), 0, -np.inf), "float32")

    def f(q: Any, k: Any, v: Any) -> Any:
        scores = tg.astype(q @ tg.matrix_transpose(k), tg.float32) * 0.5 + mask
        return tg.astype(tg.softmax(scores, axis=-1), half) @ v

    def step(q: Any, k: Any, v: Any, g: Any) -> Any:
        out, pull = tg.vjp(f, q, k, v)
        return (out, *pull(g))

    compiled = check(step, arrays(*[(2, 9, 8)] * 4, dtype=dtype), {"float16": 1e-2, "bfloat16": 8e-2}[dtype])
    assert operations(compiled) == ["attention", "attention_gradient"]


@pytest.mark.parametrize("wanted", [(0,), (1,), (0, 2), (1, 2)])
def test_gradients_of_some_operands(wanted: tuple[int, ...]) -> None:
    mask = added(on_device(np.where(causal(9), 0, -np.inf), "float32"))

    def step(q: Any, k: Any, v: Any, g: Any) -> Any:
        given = [q, k, v]

        def f(*some: Any) -> Any:
            for i, x in zip(wanted, some, strict=True):
                given[i] = x
            return attention(given[0], given[1], given[2], mask)

        out, pull = tg.vjp(f, *[given[i] for i in wanted])
        grads = pull(g)
        return (out, *(grads if isinstance(grads, tuple) else (grads,)))

    compiled = check(step, arrays(*[(2, 9, 5)] * 4))
    assert operations(compiled) == ["attention", "attention_gradient"]


def test_keys_and_values_shared_by_heads() -> None:
    def step(q: Any, k: Any, v: Any, g: Any) -> Any:
        out, pull = tg.vjp(attention, q, k, v)
        return (out, *pull(g))

    compiled = check(step, arrays((2, 4, 9, 8), (2, 1, 11, 8), (2, 1, 11, 8), (2, 4, 9, 8)))
    assert operations(compiled) == ["attention", "attention_gradient", "sum", "sum"]


def test_only_forward_and_of_matrices() -> None:
    compiled = check(lambda q, k, v: (attention(q, k, v),), arrays((70, 24), (33, 24), (33, 40)))
    assert operations(compiled) == ["attention"]


@pytest.mark.parametrize(
    "function",
    [
        lambda q, k, v: (attention(q, k, v), tg.softmax(q @ tg.matrix_transpose(k) * q.shape[-1] ** -0.5, axis=-1)),
        lambda q, k, v: (tg.softmax(q @ tg.matrix_transpose(k), axis=-2) @ v,),
        lambda q, k, v: (tg.softmax(q @ tg.matrix_transpose(k) + k @ tg.matrix_transpose(q), axis=-1) @ v,),
        lambda q, k, v: (attention(tg.astype(q, tg.float64), tg.astype(k, tg.float64), tg.astype(v, tg.float64)),),
        lambda q, k, v: (attention(tg.tile(q, (1, 1, 20)), tg.tile(k, (1, 1, 20)), v),),
        lambda q, k, v: (attention(q[:, :1], tg.tile(k, (1, 9, 1)), tg.tile(v, (1, 9, 1))),),
    ],
    ids=[
        "probabilities are read",
        "along the queries",
        "two products",
        "float64",
        "more elements than fit",
        "many keys",
    ],
)
def test_what_stays_as_it_is(function: Any) -> None:
    assert "attention" not in operations(check(function, arrays(*[(2, 9, 9)] * 3)))


def test_products_in_tf32_stay_those_of_cublas() -> None:
    with tg.tf32(True):
        compiled = check(lambda q, k, v: (attention(q, k, v),), arrays(*[(2, 9, 9)] * 3))
        assert "attention" not in operations(compiled)


def test_masked_rows_are_nan_as_they_are_eagerly() -> None:
    def step(q: Any, k: Any, v: Any, g: Any) -> Any:
        out, pull = tg.vjp(lambda q, k, v: attention(q, k, v, added(invisible)), q, k, v)
        return (out, *pull(g))

    mask = np.zeros((70, 40), np.float32)
    mask[3], mask[40:, 20:] = -np.inf, -np.inf
    invisible = on_device(mask)
    args = arrays((70, 8), (40, 8), (40, 8), (70, 8))
    compiled = check(step, args)
    assert np.isnan(np.asarray(compiled(*args)[0].to_device("cpu"))[3]).all()
    assert operations(compiled) == ["attention", "attention_gradient"]
