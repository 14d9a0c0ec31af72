"""Attention and rotary positions: against PyTorch, masks, rows without keys, memory, small dtypes, bad input."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from against_torch import CONFIGURATIONS, SECOND_ORDER, compare, values
from places import Place

import tapegrad as tg
from tapegrad.testing import gradgradcheck


def _configuration(rng: Any) -> tuple[Any, Any, list[Any]]:
    """Return our call, PyTorch's, and operands of random shapes."""
    import torch.nn.attention

    batch = tuple(map(int, rng.integers(1, 3, int(rng.integers(0, 2)))))
    owners, shared = int(rng.integers(1, 3)), int(rng.integers(1, 4))
    queries, keys, width, depth = map(int, rng.integers(1, 7, 4))
    heads = owners * shared
    q = rng.standard_normal((*batch, heads, queries, width))
    k, v = (rng.standard_normal((*batch, owners, keys, n)) for n in (width, depth))
    kind = ("none", "causal", "boolean", "added", "window")[int(rng.integers(5))]
    scale = (None, 0.3)[int(rng.integers(2))]
    ours: dict[str, Any] = {"scale": scale}
    theirs: dict[str, Any] = {"scale": scale, "enable_gqa": True}
    arrays = [q, k, v]
    if kind == "causal":
        ours["causal"] = theirs["is_causal"] = True
    elif kind == "window":
        rows, columns = np.arange(queries)[:, None], np.arange(keys)
        window = int(rng.integers(max(1, queries - keys + 1), 8))
        ours |= {"window": window, "causal": bool(rng.integers(2))}
        seen = (np.abs(rows - columns) < window) & ((columns <= rows) | (not ours["causal"]))
        theirs["attn_mask"] = torch.tensor(seen)
    elif kind == "boolean":
        mask = rng.random((*batch, int(rng.choice([1, heads])), queries, keys)) < 0.7
        mask[..., 0] = True
        arrays.append(mask)
    elif kind == "added":
        arrays.append(rng.standard_normal([(queries, keys), (*batch, heads, 1, keys)][int(rng.integers(2))]))

    def f(*args: Any, **options: Any) -> Any:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # which has second derivatives
            return torch.nn.functional.scaled_dot_product_attention(*args, **options)

    return (
        lambda q, k, v, mask=None: tg.attention(q, k, v, mask=mask, **ours),
        lambda q, k, v, mask=None: f(q, k, v, **({} if mask is None else {"attn_mask": mask}) | theirs),
        arrays,
    )


def test_against_torch() -> None:
    pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    for n in range(CONFIGURATIONS):
        compare(*_configuration(rng), rng, n % SECOND_ORDER == 0)


def _plain(q: Any, k: Any, v: Any, seen: Any) -> Any:
    """Return attention by NumPy, zeros where nothing is seen."""
    s = np.where(seen, q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]), -np.inf)
    top = s.max(axis=-1, keepdims=True)
    e = np.exp(s - np.where(np.isfinite(top), top, 0))
    total = e.sum(axis=-1, keepdims=True)
    return e / np.where(total == 0, 1, total) @ v


@pytest.mark.parametrize("additive", [False, True])
def test_a_query_that_sees_no_key_gets_zeros(xp: Place, additive: bool) -> None:
    rng = np.random.default_rng(2)
    q, k, v = (rng.standard_normal((2, 4, 3)) for _ in range(3))
    seen = rng.random((2, 4, 4)) < 0.5
    seen[:, 1] = False
    seen[1, 3] = False
    mask = xp.tensor(np.where(seen, 0.0, -np.inf)) if additive else tg.asarray(seen)

    def f(q: Any, k: Any, v: Any) -> Any:
        return tg.attention(q, k, v, mask=mask)

    operands = [xp.tensor(a) for a in (q, k, v)]
    y, pull = tg.vjp(f, *operands)
    xp.check(y, _plain(q, k, v, seen), rtol=1e-9)
    slopes = pull(tg.ones_like(y))
    assert all(np.isfinite(xp.values(g)).all() for g in slopes)
    assert not xp.values(slopes[0])[:, 1].any()
    _, tangent = tg.jvp(f, tuple(operands), tuple(map(tg.ones_like, operands)))
    assert np.isfinite(xp.values(tangent)).all()
    assert not xp.values(tangent)[:, 1].any()
    second = tg.grad(lambda q: tg.sum(tg.grad(lambda q: tg.sum(f(q, *operands[1:]) ** 2))(q) ** 2))(operands[0])
    assert np.isfinite(xp.values(second)).all()


def test_a_window_may_leave_queries_without_keys(xp: Place) -> None:
    q, k = xp.tensor(np.ones((6, 2))), xp.tensor(np.ones((2, 2)))
    y, pull = tg.vjp(lambda q, k: tg.attention(q, k, k, causal=True, window=2), q, k)
    xp.check(y, [[1, 1]] * 3 + [[0, 0]] * 3)
    assert np.isfinite(xp.values(pull(y)[0])).all()


SIZES = [(0, 3, 4, 2), (3, 0, 4, 2), (3, 3, 0, 2), (3, 3, 4, 0), (1, 1, 1, 1)]


@pytest.mark.parametrize("sizes", SIZES)
def test_size_0(xp: Place, sizes: tuple[int, ...]) -> None:
    queries, keys, width, depth = sizes
    for lead in ((), (2,), (0,)):
        q, k, v = (
            xp.tensor(np.ones((*lead, *s)), requires_grad=True)
            for s in ((queries, width), (keys, width), (keys, depth))
        )
        y = tg.attention(q, k, v)
        xp.check(y, np.full((*lead, queries, depth), 1.0 if keys else 0.0))
        tg.sum(y).backward()
        assert [x.grad is not None and x.grad.shape == x.shape for x in (q, k, v)] == [True] * 3


def test_blocks_on_numpy_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of any size, with threads and without, agree with one block."""
    from tapegrad.backends._numpy import attention

    rng = np.random.default_rng(3)
    q, k, v = (tg.tensor(rng.standard_normal(s)) for s in ((3, 2, 37, 4), (3, 2, 41, 4), (3, 2, 41, 5)))
    mask = tg.tensor(rng.standard_normal((2, 1, 41)))
    cases: list[dict[str, Any]] = [{}, {"causal": True}, {"window": 5}, {"causal": True, "window": 7}]

    def results() -> list[Any]:
        found = []
        for options in cases:
            f = lambda q, k, v, m, o=options: tg.attention(q, k, v, mask=m, **o)  # noqa: E731
            y, pull = tg.vjp(f, q, k, v, mask)
            found += [y, *pull(tg.sin(y))]
        return [values(x) for x in found]

    expected = results()
    for block, rows, shared in ((64, 1, 1), (1 << 9, 3, 1 << 60), (1 << 12, 16, 1)):
        monkeypatch.setattr(attention, "BLOCK", block)
        monkeypatch.setattr(attention, "LEAST_ROWS", rows)
        monkeypatch.setattr(attention, "SHARED", shared)
        for found, wanted in zip(results(), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


def _peak(t: int, compiled: bool) -> int:
    """Return the peak of memory of attention over t places and its gradient."""
    rng = np.random.default_rng(4)
    q, k, v = (tg.tensor(rng.standard_normal((2, t, 16)).astype("float32"), requires_grad=True) for _ in range(3))

    def step() -> Any:
        tg.sum(tg.attention(q, k, v, causal=True)).backward()
        slopes = q.grad, k.grad, v.grad
        q.grad = k.grad = v.grad = None
        return slopes

    run = tg.compile(step) if compiled else step
    for _ in range(3):
        run()
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compiled", [False, True])
def test_memory_grows_with_t_not_its_square(compiled: bool) -> None:
    small, large = _peak(1024, compiled), _peak(4096, compiled)
    scores = 4 * 4096 * 4096  # bytes of the scores of one head
    assert large < scores / 8
    assert large < 6 * small


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("device", ["cpu", "torch:cpu", "jax:cpu"])
def test_numbers_of_16_bits(dtype: str, device: str) -> None:
    if device != "cpu":
        pytest.importorskip(device.partition(":")[0])
    elif dtype == "bfloat16":
        pytest.skip("NumPy has no bfloat16")
    rng = np.random.default_rng(5)
    q, k, v = (tg.astype(tg.asarray(rng.standard_normal((2, 6, 4)), device=device), dtype) for _ in range(3))
    exact = [np.asarray(tg.astype(x, "float32").to_device("cpu"), dtype="float64") for x in (q, k, v)]
    y, pull = tg.vjp(tg.attention, q, k, v)
    assert y.dtype.name == dtype
    step = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    found = np.asarray(tg.astype(y, "float32").to_device("cpu"))
    np.testing.assert_allclose(found, _plain(exact[0], exact[1], exact[2], True), atol=8 * step)
    assert all(g.dtype.name == dtype for g in pull(y))


def test_compiled(xp: Place) -> None:
    rng = np.random.default_rng(6)
    q, k, v = (xp.tensor(rng.standard_normal((2, 2, 5, 4))) for _ in range(3))

    def step(q: Any, k: Any, v: Any) -> Any:
        f = lambda q, k, v: tg.sum(tg.sin(tg.attention(tg.rope(q), tg.rope(k), v, causal=True)))  # noqa: E731
        return tg.value_and_grad(f, argnums=(0, 1, 2))(q, k, v)

    value, slopes = step(q, k, v)
    compiled = tg.compile(step)
    for _ in range(3):
        again, found = compiled(q, k, v)
        xp.check(again, xp.values(value), rtol=1e-9)
        for a, b in zip(found, slopes, strict=True):
            xp.check(a, xp.values(b), rtol=1e-9)


DROPPED: dict[str, dict[str, Any]] = {
    "all": {},
    "causal": {"causal": True},
    "window": {"window": 2, "causal": True},
    "mask": {"mask": [[True, False, True, True], [False] * 4, [True] * 4, [True, True, False, False]]},
}


@pytest.mark.parametrize("kind", DROPPED)
def test_dropout_is_between_softmax_and_values(xp: Place, kind: str) -> None:
    rng = np.random.default_rng(9)
    arrays = [rng.standard_normal((2, heads, 4, 3)) for heads in (4, 2, 2)]
    options = dict(DROPPED[kind])
    if "mask" in options:
        options["mask"] = xp.tensor(np.asarray(options["mask"]))

    def step(seed: int, *xs: Any, written: bool = False) -> Any:
        chance = tg.random.Generator(seed, device=xp.device)
        q, k, v = xs
        if not written:
            return tg.attention(q, k, v, **options, dropout=0.4, rng=chance)
        k, v = (tg.repeat(x, 2, axis=1) for x in (k, v))  # each head of keys is for two of queries
        ones = tg.broadcast_to(tg.eye(4, dtype=v.dtype, device=v.device), (2, 4, 4, 4))
        p = tg.attention(q, k, ones, **options)
        return tg.dropout(p, 0.4, chance) @ v

    xs = [xp.tensor(a) for a in arrays]
    for seed in range(3):
        pairs = []
        for written in (False, True):
            f = lambda *xs: tg.sum(tg.sin(step(seed, *xs, written=written)))  # noqa: B023, E731
            pairs.append(tg.value_and_grad(f, argnums=(0, 1, 2))(*xs))
        (value, slopes), (right, expected) = pairs
        xp.check(value, xp.values(right), rtol=1e-5)
        for a, b in zip(slopes, expected, strict=True):
            xp.check(a, xp.values(b), rtol=1e-5)


def test_dropout_draws_anew_in_compiled_calls_and_not_at_rate_0() -> None:
    q = tg.tensor(np.random.default_rng(10).standard_normal((5, 4)))
    eager, other = tg.random.Generator(3), tg.random.Generator(3)
    compiled = tg.compile(lambda q: tg.attention(q, q, q, dropout=0.5, rng=other))
    seen = [tg.attention(q, q, q, dropout=0.5, rng=eager) for _ in range(5)]
    for right in seen:
        np.testing.assert_allclose(compiled(q), right, rtol=1e-12)
    assert not np.array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(tg.attention(q, q, q, dropout=0.0), tg.attention(q, q, q))
    gradgradcheck(lambda q: tg.attention(q, q, q, dropout=0.5, rng=tg.random.Generator(1)), [q[:3, :2]])


def test_a_scale_may_be_learnt() -> None:
    q = tg.tensor(np.random.default_rng(7).standard_normal((3, 4)))
    scale = tg.tensor(0.7)
    slope = tg.grad(lambda s: tg.sum(tg.attention(q, q, q, scale=s) ** 2))(scale)
    step = 1e-6
    ends = [float(tg.sum(tg.attention(q, q, q, scale=0.7 + d) ** 2)) for d in (step, -step)]
    np.testing.assert_allclose(float(slope), (ends[0] - ends[1]) / (2 * step), rtol=1e-6)


def test_rope_has_both_forms_and_any_positions(xp: Place) -> None:
    x = np.random.default_rng(8).standard_normal((2, 5, 6))
    places = np.asarray([[0, 3, 1, 7, 100], [5, 4, 3, 2, 1]])
    turns = np.exp(1j * places[..., None] * 500.0 ** (-np.arange(3) / 3))
    halves = (x[..., :3] + 1j * x[..., 3:]) * turns
    pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * turns
    y = tg.rope(xp.tensor(x), tg.asarray(places), base=500.0)
    xp.check(y, np.concatenate([halves.real, halves.imag], axis=-1), rtol=1e-9)
    y = tg.rope(xp.tensor(x), tg.asarray(places), base=500.0, interleaved=True)
    xp.check(y, np.stack([pairs.real, pairs.imag], axis=-1).reshape(x.shape), rtol=1e-9)


X = tg.ones((2, 4, 3, 6))
BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no axes": (
        lambda: tg.attention(tg.ones(3), X, X),
        ValueError,
        r"q, k and v have shape \(\.\.\., heads, T, width\)",
    ),
    "widths": (lambda: tg.attention(X, tg.ones((3, 5)), X), ValueError, "queries and keys need the same width"),
    "values": (lambda: tg.attention(X, X, tg.ones((2, 6))), ValueError, "as many values as keys"),
    "heads": (
        lambda: tg.attention(X, X[:, :3], X[:, :3]),
        ValueError,
        "the heads of k and v must be those of q, one, or",
    ),
    "batches": (lambda: tg.attention(X, tg.ones((3, 4, 3, 6)), X), ValueError, "the axes before T do not broadcast"),
    "mask shape": (
        lambda: tg.attention(X, X, X, mask=tg.ones((3, 4))),
        ValueError,
        r"mask of shape \(3, 4\) must broadcast to the scores, of shape \(2, 4, 3, 3\)",
    ),
    "wide mask": (
        lambda: tg.attention(X, X, X, mask=tg.ones((5, 1, 1, 1, 1))),
        ValueError,
        "must broadcast to the scores",
    ),
    "mask dtype": (
        lambda: tg.attention(X, X, X, mask=tg.ones((3, 3), dtype="int64")),
        TypeError,
        "mask is boolean, .* not int64: compare it, as in mask != 0",
    ),
    "complex": (lambda: tg.attention(X * 1j, X, X), TypeError, "q, k and v are real, not complex"),
    "window": (lambda: tg.attention(X, X, X, window=0), ValueError, "window is at least 1"),
    "no generator": (lambda: tg.attention(X, X, X, dropout=0.1), TypeError, "attention: dropout needs a generator"),
    "rate": (
        lambda: tg.attention(X, X, X, dropout=1.5, rng=tg.random.Generator(0)),
        ValueError,
        "rate is from 0 to 1, not 1.5",
    ),
    "no window": (lambda: tg.attention(X, X, X, window=cast("Any", 1.5)), TypeError, "window is an integer"),
    "odd width": (lambda: tg.rope(tg.ones((3, 5))), ValueError, r"the width, the last axis, must be even, not 5"),
    "rope of a vector": (lambda: tg.rope(tg.ones(4)), ValueError, r"x has shape \(\.\.\., T, width\), not \(4,\)"),
    "rope positions": (
        lambda: tg.rope(X, tg.arange(4)),
        ValueError,
        r"positions of shape \(4,\) must broadcast to \(2, 4, 3\), x without its width",
    ),
    "rope booleans": (lambda: tg.rope(X, tg.asarray([True, False, True])), TypeError, "positions are integers or real"),
    "rope complex": (lambda: tg.rope(X * 1j), TypeError, "rope: x is real, not complex"),
    "rope base": (lambda: tg.rope(X, base=0.0), ValueError, "base is a positive number, not 0.0"),
}


@pytest.mark.parametrize("which", BAD)
def test_bad_input(which: str) -> None:
    call, error, message = BAD[which]
    with pytest.raises(error, match=message):
        call()
