"""Norms of layers, groups and batches: against PyTorch, at large means, in small dtypes, compiled, refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from against_torch import CONFIGURATIONS, SECOND_ORDER, compare
from places import Place

import tapegrad as tg

Pair = tuple[Callable[..., Any], Callable[..., Any], list[Any]]


def _weights(rng: Any, shape: Any) -> list[Any]:
    """Return nothing, a weight, or a weight and a bias."""
    return [rng.uniform(0.5, 2, shape), rng.standard_normal(shape)][: rng.integers(0, 3)]


def _shape(rng: Any, least: int, most: int) -> tuple[int, ...]:
    return tuple(map(int, rng.integers(1, 6, int(rng.integers(least, most)))))


def layer_norm(rng: Any) -> Pair:
    import torch

    shape = _shape(rng, 1, 5)
    axes = tuple(range(-int(rng.integers(1, len(shape) + 1)), 0))
    rows, eps = shape[axes[0] :], float(rng.choice([1e-5, 1e-2]))
    return (
        lambda x, *wb: tg.layer_norm(x, *wb, axis=axes, eps=eps),
        lambda x, *wb: torch.nn.functional.layer_norm(x, rows, *wb, eps=eps),
        [rng.standard_normal(shape), *_weights(rng, rows)],
    )


def rms_norm(rng: Any) -> Pair:
    import torch

    shape = _shape(rng, 1, 5)
    axes = tuple(range(-int(rng.integers(1, len(shape) + 1)), 0))
    rows, eps = shape[axes[0] :], (None, 1e-3)[int(rng.integers(2))]
    return (
        lambda x, *w: tg.rms_norm(x, *w, axis=axes, eps=eps),
        lambda x, *w: torch.nn.functional.rms_norm(x, rows, *w, eps=eps),
        [rng.standard_normal(shape), *_weights(rng, rows)[:1]],
    )


def group_norm(rng: Any) -> Pair:
    import torch

    groups, size = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    shape = (int(rng.integers(1, 4)), groups * size, *_shape(rng, 1, 4)[1:], 3)
    return (
        lambda x, *wb: tg.group_norm(x, groups, *wb),
        lambda x, *wb: torch.nn.functional.group_norm(x, groups, *wb),
        [rng.standard_normal(shape), *_weights(rng, groups * size)],
    )


def batch_norm(rng: Any) -> Pair:
    import torch

    shape = _shape(rng, 2, 5)
    mean, var = rng.standard_normal(shape[1]), rng.uniform(0.5, 2, shape[1])
    return (
        lambda x, *wb: tg.batch_norm(x, mean, var, *wb),
        lambda x, *wb: torch.nn.functional.batch_norm(x, torch.tensor(mean), torch.tensor(var), *wb),
        [rng.standard_normal(shape), *_weights(rng, shape[1])],
    )


def batch_norm_training(rng: Any) -> Pair:
    import torch

    shape = (int(rng.integers(2, 5)), *_shape(rng, 1, 4))
    axes = (0, *range(2, len(shape)))

    def theirs(x: Any, *wb: Any) -> Any:
        out: Any = torch.nn.functional.batch_norm(x, None, None, *wb, training=True)
        return out, x.mean(axes), x.var(axes, correction=0)

    return (
        lambda x, *wb: tuple(tg.batch_norm_training(x, *wb)),
        theirs,
        [rng.standard_normal(shape), *_weights(rng, shape[1])],
    )


MAKERS = (layer_norm, rms_norm, group_norm, batch_norm, batch_norm_training)


@pytest.mark.parametrize("make", MAKERS)
def test_against_torch(make: Callable[[Any], Pair]) -> None:
    pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    for n in range(CONFIGURATIONS):
        compare(*make(rng), rng, n % SECOND_ORDER == 0)


def test_running_statistics_have_gradients() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    arrays = [rng.standard_normal((2, 3, 4)), rng.standard_normal(3), rng.uniform(0.5, 2, 3)]

    def shaped(v: Any) -> Any:
        return v[:, None]

    compare(
        tg.batch_norm,
        lambda x, m, v: (x - shaped(m)) / torch.sqrt(shaped(v) + 1e-5),
        arrays,
        rng,
        True,
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mean", [0.1, 1e4 + 0.1, 1e8 + 0.1])
def test_rows_of_equal_values_are_zeros(xp: Place, dtype: str, mean: float) -> None:
    if dtype == "float64" and not xp.double:
        pytest.skip("no float64 here")
    x = tg.full((2, 3, 7), mean, dtype=dtype)
    for f in cast("Any", (tg.layer_norm, lambda x: tg.group_norm(x, 1), lambda x: tg.batch_norm_training(x)[0])):
        y, pull = tg.vjp(f, x)
        assert np.abs(xp.values(y)).max() == 0.0
        (g,) = pull(tg.ones_like(x))
        assert np.isfinite(xp.values(g)).all()


def test_large_means_cost_no_digits(xp: Place) -> None:
    x = np.float32(4096.0) + np.random.default_rng(7).standard_normal((4, 300)).astype("float32")
    exact = x.astype("float64")
    exact = (exact - exact.mean(1, keepdims=True)) / np.sqrt(exact.var(1, keepdims=True) + 1e-5)
    y = tg.layer_norm(tg.asarray(x))
    np.testing.assert_allclose(xp.values(y), exact, atol=4e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("device", ["cpu", "torch:cpu", "jax:cpu"])
def test_numbers_of_16_bits_are_summed_in_single_precision(dtype: str, device: str) -> None:
    if device != "cpu":
        pytest.importorskip(device.partition(":")[0])
    elif dtype == "bfloat16":
        pytest.skip("NumPy has no bfloat16")
    x = np.asarray([[300.0, 340.0, 400.0, 1000.0] * 2000])  # squares and sums above 65504
    exact = (x - x.mean()) / x.std()
    given = tg.astype(tg.asarray(x, dtype="float32", device=device), dtype)
    step = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    y, pull = tg.vjp(tg.layer_norm, given)
    (g,) = pull(y)
    assert y.dtype.name == g.dtype.name == dtype
    np.testing.assert_allclose(np.asarray(tg.astype(y, "float32").to_device("cpu")), exact, rtol=8 * step)
    assert float(tg.max(tg.abs(tg.astype(g, "float32")))) < 2 * step  # that of a length that does not change
    z = tg.astype(tg.rms_norm(given), "float32").to_device("cpu")
    np.testing.assert_allclose(np.asarray(z), x / np.sqrt((x * x).mean()), rtol=8 * step)
    wide = tg.layer_norm(given, tg.ones(8000, dtype="float32", device=device))
    assert wide.dtype.name == dtype
    channels = tg.zeros(8000, dtype="float32", device=device)
    assert tg.batch_norm(given, channels + 340.0, channels + 1.0).dtype.name == dtype
    assert tg.batch_norm_training(given).mean.dtype.name == "float32"


def test_one_element_and_none(xp: Place) -> None:
    for shape, axis in (((3, 1), -1), ((3, 0), -1), ((0, 3), -1), ((2, 0, 3), (1, 2)), ((), ()), ((2,), ())):
        x = xp.tensor(np.full(shape, 2.5))
        for f in (tg.layer_norm, tg.rms_norm):
            y, pull = tg.vjp(lambda x, f=f, axis=axis: f(x, axis=axis, eps=1.0), x)
            expected = 0.0 if f is tg.layer_norm else 2.5 / np.sqrt(2.5**2 + 1.0)
            xp.check(y, np.full(shape, expected), rtol=1e-6)
            assert pull(y)[0].shape == shape
    for shape in ((1, 3), (2, 0), (0, 3), (2, 3, 0)):
        x = xp.tensor(np.full(shape, 2.5))
        for g in (lambda x: tg.batch_norm_training(x)[0], lambda x: tg.group_norm(x, 1)):
            y, pull = tg.vjp(g, x)
            xp.check(y, np.zeros(shape))
            assert pull(y)[0].shape == shape


def test_compiled(xp: Place) -> None:
    rng = np.random.default_rng(8)
    x, w, b = (xp.tensor(rng.standard_normal(s)) for s in ((4, 6, 5), (6,), (6,)))

    def step(x: Any, w: Any, b: Any) -> Any:
        def loss(x: Any, w: Any, b: Any) -> Any:
            y, mean, var = tg.batch_norm_training(x, w, b)
            y = tg.group_norm(y, 3, w, b) + tg.layer_norm(x, axis=(1, 2))
            return tg.sum(tg.sin(tg.rms_norm(y)) * y) + tg.sum(mean * var)

        return tg.value_and_grad(loss, argnums=(0, 1, 2))(x, w, b)

    expected = step(x, w, b)
    compiled = tg.compile(step)
    for _ in range(3):
        value, slopes = compiled(x, w, b)
        for found, wanted in zip((value, *slopes), (expected[0], *expected[1]), strict=True):
            xp.check(found, xp.values(wanted), rtol=1e-9)


def test_any_axes() -> None:
    """Those of a layer need not be the last ones, and weights have their lengths in order."""
    x, w = np.random.default_rng(9).standard_normal((2, 3, 4)), np.arange(8.0).reshape(2, 4)
    y = tg.layer_norm(tg.asarray(x), w, axis=(2, 0))
    expected = (x - x.mean((0, 2), keepdims=True)) / np.sqrt(x.var((0, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(np.asarray(y), expected * w[:, None, :], rtol=1e-9, atol=1e-12)


X = tg.ones((2, 3, 4))
BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "weight": (
        lambda: tg.layer_norm(X, tg.ones(3)),
        ValueError,
        r"layer_norm: x of shape \(2, 3, 4\) needs w of shape \(4,\), not \(3,\)",
    ),
    "bias": (
        lambda: tg.group_norm(X, 3, b=tg.ones(4)),
        ValueError,
        r"group_norm: .* needs b of shape \(3,\), not \(4,\)",
    ),
    "statistics": (
        lambda: tg.batch_norm(X, 0.0, 1.0),
        ValueError,
        r"batch_norm: .* needs mean of shape \(3,\), not \(\)",
    ),
    "groups": (lambda: tg.group_norm(X, 2), ValueError, "groups=2 must divide the 3 channels of x"),
    "no groups": (lambda: tg.group_norm(X, cast("Any", 1.5)), TypeError, "groups is an integer"),
    "no channels": (
        lambda: tg.batch_norm_training(tg.ones(3)),
        ValueError,
        r"x has shape \(batch, channels, ...\), not \(3,\)",
    ),
    "negative eps": (
        lambda: tg.layer_norm(X, eps=-1.0),
        ValueError,
        "eps is a number of at least 0, as 1e-5, not -1.0",
    ),
    "no eps": (lambda: tg.rms_norm(X, eps=cast("Any", "x")), TypeError, "rms_norm: eps is a number, as 1e-5, not 'x'"),
    "complex": (lambda: tg.layer_norm(tg.ones(2, dtype="complex128")), TypeError, "x is real, not complex128"),
    "axis": (lambda: tg.layer_norm(X, axis=3), ValueError, "layer_norm: axis 3 is out of range"),
}


@pytest.mark.parametrize("which", BAD)
def test_bad_input(which: str) -> None:
    call, error, message = BAD[which]
    with pytest.raises(error, match=message):
        call()
