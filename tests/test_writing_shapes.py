"""`x[key] = y` for keys of all kinds and every shape of y that NumPy takes: values, derivatives, vmap and compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad.testing import gradcheck, gradgradcheck

# (shape of x, key); lists are index arrays, or masks.
KEYS: list[tuple[tuple[int, ...], Any]] = [
    ((), ...),
    ((), ()),
    ((), np.asarray(True)),
    ((3,), 1),
    ((3,), (1, ...)),
    ((3,), None),
    ((4,), slice(1, 3)),
    ((4,), slice(2, 3)),
    ((4,), slice(None, None, -2)),
    ((4,), slice(2, 2)),
    ((4,), np.asarray([2, 0])),
    ((4,), np.asarray([1, 1, 3])),
    ((4,), np.asarray([[2, 0], [1, 3]])),
    ((4,), np.asarray([True, False, True, True])),
    ((4,), np.asarray([False, False, True, False])),
    ((2, 3), ...),
    ((2, 3), (slice(None), 1)),
    ((2, 3), (1, slice(0, 2))),
    ((2, 3), (None, 1)),
    ((2, 3), (slice(None), None, slice(1, 3))),
    ((2, 3), (np.asarray([1, 0]), np.asarray([2, 2]))),
    ((2, 3), (np.asarray([1]), slice(None))),
    ((2, 3), np.asarray([True, False])),
    ((2, 3), np.asarray([[True, False, True], [False, True, False]])),
    ((2, 2, 3), (0, slice(None), np.asarray([2, 0]))),
    ((2, 2, 3), (np.asarray([1, 0]), slice(None), np.asarray([2, 0]))),
    ((1, 3), ...),
    ((0, 3), ...),
]


def shapes(place: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the shapes that NumPy broadcasts to the shape of a place in an assignment."""
    for extra in range(3):
        for ones in product((False, True), repeat=len(place)):
            yield (1,) * extra + tuple(1 if one else n for one, n in zip(ones, place, strict=True))
    for dropped in range(1, len(place) + 1):
        yield place[dropped:]


def has_mask(key: Any) -> bool:
    return any(isinstance(i, np.ndarray) and i.dtype == bool for i in (key if isinstance(key, tuple) else (key,)))


def pairs(shape: tuple[int, ...], key: Any) -> list[tuple[Any, Any]]:
    """Return values for x, and for y of each shape."""
    r = np.random.default_rng(0)
    x = r.standard_normal(shape)
    return [(x, r.standard_normal(y)) for y in dict.fromkeys(shapes(x[key].shape))]


NAMES = [f"{shape} {key}".replace("\n", "") for shape, key in KEYS]
# Of a mask, a compiled function would need the values.
UNMASKED = [(shape, key) for shape, key in KEYS if not has_mask(key)]


def written(key: Any) -> Callable[..., tg.Tensor]:
    def f(x: Any, y: Any) -> Any:
        z = x * 2.0
        parts = key if isinstance(key, tuple) else (key,)
        k = tuple(tg.asarray(i, device=z.device) if isinstance(i, np.ndarray) else i for i in parts)
        z[k if isinstance(key, tuple) else k[0]] = y * y
        return z

    return f


def another(x: tg.Tensor) -> tg.Tensor:
    return x * 0.5 + 0.25


@pytest.mark.parametrize(("shape", "key"), KEYS, ids=NAMES)
def test_a_value_of_any_shape_that_broadcasts(shape: tuple[int, ...], key: Any, xp: Place) -> None:
    f = written(key)
    for a, b in pairs(shape, key)[:: 5 if xp.device == "jax:cpu" else 1]:
        expected = np.asarray(a * 2.0)
        expected[key] = np.reshape(b * b, b.shape[max(b.ndim - expected[key].ndim, 0) :])
        x, y = xp.tensor(a), xp.tensor(b)
        xp.check(f(x, y), expected, 1e-6)
        gradcheck(f, [x, y])
        if xp.device == "cpu":
            gradgradcheck(f, [x, y])
        rows = [xp.values(f(v, y)) for v in (x, another(x))]
        xp.check(tg.vmap(f, (0, None))(tg.stack([x, another(x)]), y), np.stack(rows), 1e-6)
        rows = [xp.values(f(x, v)) for v in (y, another(y))]
        xp.check(tg.vmap(f, (None, 0))(x, tg.stack([y, another(y)])), np.stack(rows), 1e-6)


@pytest.mark.parametrize(("shape", "key"), UNMASKED)
def test_the_same_compiled(shape: tuple[int, ...], key: Any) -> None:
    g = tg.grad(lambda x, y: tg.sum(written(key)(x, y) ** 2), (0, 1))
    for a, b in pairs(shape, key):
        compiled = tg.compile(g)
        for _ in range(4):
            for got, expected in zip(
                compiled(tg.asarray(a), tg.asarray(b)), g(tg.asarray(a), tg.asarray(b)), strict=True
            ):
                np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=1e-14)
