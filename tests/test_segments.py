"""Reductions of segments: random rows against loops, empty segments, ties, ids out of range, messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg

FUNCTIONS: dict[str, tuple[Any, float]] = {
    "segment_sum": (np.sum, 0.0),
    "segment_mean": (np.mean, 0.0),
    "segment_max": (np.max, -np.inf),
    "segment_min": (np.min, np.inf),
}
names = pytest.mark.parametrize("name", FUNCTIONS)


def by_loop(name: str, x: Any, ids: Any, n: int, axis: int = 0) -> Any:
    """Compute a reduction segment by segment."""
    reduce, empty = FUNCTIONS[name]
    rows = np.moveaxis(x, axis, 0)
    parts = [rows[ids == i] for i in range(n)]
    out = [reduce(part, axis=0) if len(part) else np.full(rows.shape[1:], empty) for part in parts]
    return np.moveaxis(np.reshape(out, (n, *rows.shape[1:])), 0, axis)


@names
def test_random_rows(xp: Place, name: str) -> None:
    rng = np.random.default_rng(3)
    f = getattr(tg, name)
    for _ in range(4 if xp.device.startswith("jax") else 50):
        shape = tuple(int(i) for i in rng.integers(1, 6, int(rng.integers(1, 4))))
        axis, n = int(rng.integers(-len(shape), len(shape))), int(rng.integers(1, 7))
        x, ids = rng.normal(size=shape), rng.integers(0, n, shape[axis])
        xp.check(f(xp.tensor(x), xp.tensor(ids), n, axis=axis), by_loop(name, x, ids, n, axis))


@names
def test_random_derivatives_against_pytorch(name: str) -> None:
    """By a matrix of ones for the sums, by reductions of parts for the rest, ties among them."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    f = getattr(tg, name)
    for _ in range(50):
        shape = tuple(int(i) for i in rng.integers(1, 5, int(rng.integers(1, 3))))
        n = int(rng.integers(1, 5))
        x, ids = np.round(rng.normal(size=shape), 1), rng.integers(0, n, shape[0])
        z = torch.tensor(x, requires_grad=True)
        parts = [z[torch.tensor(ids == i)] for i in range(n)]
        kind = {"segment_sum": "sum", "segment_mean": "mean", "segment_max": "amax", "segment_min": "amin"}[name]
        w = rng.normal(size=(n, *shape[1:]))
        number = sum(
            (getattr(p, kind)(0) ** 2 * torch.tensor(v)).sum() for p, v in zip(parts, w, strict=True) if len(p)
        )
        (g,) = torch.autograd.grad(number, z, create_graph=True)
        (h,) = torch.autograd.grad((g**2).sum(), z)

        def total(v: Any) -> Any:
            out = f(v, ids, n)  # noqa: B023
            return tg.sum(tg.where(tg.isfinite(out), out, 0.0) ** 2 * w)  # noqa: B023

        first = tg.grad(total)
        np.testing.assert_allclose(first(tg.asarray(x)), g.detach().numpy(), rtol=1e-12, atol=1e-14)
        second = tg.grad(lambda v: tg.sum(first(v) ** 2))(tg.asarray(x))  # noqa: B023
        np.testing.assert_allclose(second, h.numpy(), rtol=1e-12, atol=1e-13)


@names
def test_ties_and_empty_segments(xp: Place, name: str) -> None:
    x, ids = xp.tensor([2.0, 2.0, 1.0, 2.0]), xp.tensor(np.asarray([3, 3, 3, 1]))
    out = getattr(tg, name)(x, ids, 5)
    xp.check(out, by_loop(name, np.asarray([2.0, 2.0, 1.0, 2.0]), np.asarray([3, 3, 3, 1]), 5))
    gradient = tg.grad(lambda v: tg.sum(getattr(tg, name)(v, ids, 5)[1::2]))(x)
    expected = {"sum": [1, 1, 1, 1], "mean": [1 / 3] * 3 + [1], "max": [0.5, 0.5, 0, 1], "min": [0, 0, 1, 1]}
    xp.check(gradient, expected[name.removeprefix("segment_")], rtol=1e-6)


@names
def test_sizes_of_zero_and_not_a_number(xp: Place, name: str) -> None:
    f = getattr(tg, name)
    none = xp.tensor(np.zeros(0, np.int64))
    xp.check(f(xp.tensor(np.zeros((0, 2))), none, 3), by_loop(name, np.zeros((0, 2)), np.zeros(0), 3))
    assert f(xp.tensor(np.zeros((0, 2))), none, 0).shape == (0, 2)
    assert f(xp.tensor(np.zeros((2, 0))), xp.tensor(np.asarray([0, 1])), 3).shape == (3, 0)
    x = xp.tensor([[1.0, np.nan], [2.0, 3.0], [4.0, 5.0]])
    ids = xp.tensor(np.asarray([1, 1, 0]))
    out = xp.values(f(x, ids, 2))
    np.testing.assert_array_equal(np.isnan(out), [[False, False], [False, True]])


@names
def test_integers(xp: Place, name: str) -> None:
    x, ids = xp.tensor(np.asarray([5, -7, 2])), xp.tensor(np.asarray([0, 2, 2]))
    out = getattr(tg, name)(x, ids, 4)
    info = tg.iinfo(x.dtype)
    expected: dict[str, Any] = {
        "segment_sum": [5, 0, -5, 0],
        "segment_mean": [5, 0, -2.5, 0],
        "segment_max": [5, info.min, 2, info.min],
        "segment_min": [5, info.max, -7, info.max],
    }
    np.testing.assert_array_equal(xp.values(out), expected[name])


def test_half_precision_is_summed_in_single() -> None:
    x = tg.full((4096,), 1.0, dtype="float16")
    ids = tg.zeros((4096,), dtype="int64")
    assert float(tg.segment_sum(x, ids, 1)[0]) == 4096.0
    assert float(tg.segment_mean(x * 100.0, ids, 1)[0]) == 100.0
    assert tg.segment_sum(tg.asarray([True, True, False]), [0, 0, 0], 1).dtype == tg.int64


@names
def test_mapped_and_compiled(name: str) -> None:
    rng = np.random.default_rng(5)
    x, ids = rng.normal(size=(3, 4, 2)), rng.integers(0, 3, (3, 4))
    f = getattr(tg, name)

    def gradient(v: Any, i: Any) -> Any:
        return tg.grad(lambda u: tg.sum(tg.where(tg.isfinite(f(u, i, 3)), f(u, i, 3), 0.0) ** 2))(v)

    functions: tuple[Any, ...] = (lambda v, i: f(v, i, 3), gradient)
    for g in functions:
        for axes, a, b in (((0, 0), x, ids), ((0, None), x, ids[0]), ((None, 0), x[0], ids)):
            mapped = tg.vmap(g, axes)(tg.asarray(a), tg.asarray(b))
            alone = [
                g(*[tg.asarray(w if i is None else w[k]) for w, i in zip((a, b), axes, strict=True)]) for k in range(3)
            ]
            np.testing.assert_allclose(mapped, np.stack([np.asarray(y) for y in alone]), rtol=1e-12)
        compiled: Any = tg.compile(g)
        one = tg.asarray(x[0]), tg.asarray(ids[0])
        for _ in range(3):
            np.testing.assert_array_equal(compiled(*one), np.asarray(g(*one)))


@names
def test_messages(xp: Place, name: str) -> None:
    f = getattr(tg, name)
    x, ids = xp.tensor(np.ones((3, 2))), xp.tensor(np.asarray([0, 1, 3]))
    for bad in (ids, ids - 2):
        with tg.debug(), pytest.raises(IndexError, match=rf"{name}: an id is out of range: 3 segments .* n = 4"):
            f(x, bad, 3)
    wrong: list[tuple[tuple[Any, ...], type[Exception], str]] = [
        ((x, ids[:2], 4), ValueError, r"ids of shape \(2,\) for 3 rows along axis 0"),
        ((x, ids, -1), ValueError, "0 or more, not -1"),
        ((x, ids, 2.5), TypeError, "the number of segments is an integer, not 2.5"),
        ((x, x[:, 0], 4), TypeError, "ids must be integers, not float"),
    ]
    for args, error, message in wrong:
        with pytest.raises(error, match=message):
            f(*args)
    with pytest.raises(ValueError, match="axis 2 is out of range"):
        f(x, ids, 4, axis=2)
    if name in ("segment_max", "segment_min"):
        with pytest.raises(TypeError, match="has no order: give real numbers"):
            f(tg.asarray([1j]), [0], 1)
