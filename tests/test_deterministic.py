"""The fixed order of sums at repeated indices, on arrays of the CPU: there is a GPU in no test that must pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad import backends
from tapegrad.backends import _deterministic_scatter as scatter
from tapegrad.backends._deterministic_scatter import add_in_order, set_in_order

ALL = slice(None)
KEYS: list[tuple[tuple[int, ...], tuple[Any, ...]]] = [
    ((5, 3), (np.asarray([4, 0, 4, -1, 2, 0, 4, 4, 4]), ALL)),
    ((3, 5), (ALL, np.asarray([1, 1, 1, -4]))),
    ((2, 4, 3), (ALL, np.asarray([[0, 0], [3, 0]]), ALL)),
    ((2, 4, 3), (np.asarray([1, 1, -1]), np.asarray([2, 2, 2]), slice(0, 2, 1))),
    ((2, 4), (np.asarray([[0], [0]]), np.asarray([[1, 1, 3]]))),
    ((2, 4), (1, np.asarray([1, 1, 3]))),
    ((2, 4), (slice(0, 1, 1), None, np.asarray([1, 1, 3]))),
    ((4,), (np.asarray([2]),)),
    ((4, 2), (np.asarray([], np.int64), ALL)),
    ((4, 0), (np.asarray([1, 1]), ALL)),
]


def pairwise(parts: list[Any]) -> Any:
    while len(parts) > 1:
        pairs = [a + b for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[len(pairs) * 2 :]
    return parts[0]


def by_hand(array: np.ndarray[Any, Any], key: Any, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the right sums, by Python numbers."""
    places = np.arange(array.size).reshape(array.shape)[key].reshape(-1)
    out = array.copy().reshape(-1)
    for place in set(places.tolist()):
        out[place] += pairwise([v for i, v in zip(places, value.reshape(-1), strict=True) if i == place])
    return out.reshape(array.shape)


def native(xp: Place, x: np.ndarray[Any, Any]) -> Any:
    return tg.asarray(x, device=xp.device)._array


def at(xp: Place, key: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(native(xp, i) if isinstance(i, np.ndarray) else i for i in key)


@pytest.mark.parametrize(("shape", "key"), KEYS)
def test_the_order_is_the_same_on_every_library(xp: Place, shape: tuple[int, ...], key: tuple[Any, ...]) -> None:
    rng = np.random.default_rng(0)
    dtype = np.float64 if xp.double else np.float32
    array = rng.standard_normal(shape).astype(dtype)
    value = (rng.standard_normal(array[key].shape) * 10.0 ** rng.integers(-3, 4, array[key].shape)).astype(dtype)
    backend, _ = backends.of_device(xp.device)
    got = add_in_order(backend, native(xp, array.copy()), at(xp, key), native(xp, value))
    np.testing.assert_array_equal(backend.to_host(got), by_hand(array, key, value))
    # Whole numbers and up to three at one place: as one after the other, to the bit.
    whole = np.round(value)
    one_by_one = np.zeros_like(array)
    np.add.at(one_by_one, key, whole)
    got = add_in_order(backend, native(xp, np.zeros_like(array)), at(xp, key), native(xp, whole))
    np.testing.assert_array_equal(backend.to_host(got), one_by_one)
    written = array.copy()
    for n in np.ndindex(*array[key].shape):
        written[np.unravel_index(np.arange(array.size).reshape(shape)[key][n], shape)] = value[n]
    got = set_in_order(backend, native(xp, array.copy()), at(xp, key), native(xp, value))
    np.testing.assert_array_equal(backend.to_host(got), written)


def test_up_to_three_repeats_are_added_one_after_the_other() -> None:
    rng = np.random.default_rng(1)
    index = rng.permutation(np.repeat(np.arange(50), 3))
    value = rng.standard_normal((150, 4)).astype(np.float32)
    expected = np.zeros((50, 4), np.float32)
    np.add.at(expected, index, value)
    got = add_in_order(backends.load("cpu"), np.zeros((50, 4), np.float32), (index, ALL), value)
    np.testing.assert_array_equal(got, expected)


def test_many_repeats_take_few_rounds() -> None:
    value = np.ones(100_000, np.float32) * np.float32(0.1)
    got = add_in_order(backends.load("cpu"), np.zeros(3, np.float32), (np.zeros(100_000, np.int64),), value)
    np.testing.assert_allclose(got, [10_000, 0, 0], rtol=1e-6)  # one after the other, float32 is 1e-4 off


def test_gradients_and_writes_use_it(xp: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an adapter that says its device races, both ways give the same, to first and second order."""
    backend, _ = backends.of_device(xp.device)
    calls: list[str] = []

    def spy(name: str, real: Any) -> Any:
        def called(*args: Any) -> Any:
            calls.append(name)
            return real(*args)

        return called

    monkeypatch.setattr(scatter, "add_in_order", spy("add", add_in_order))
    monkeypatch.setattr(scatter, "set_in_order", spy("set", set_in_order))
    monkeypatch.setattr(backend, "races", lambda array: True)
    monkeypatch.setitem(backend.xp.__dict__, "index_add", lambda *args: scatter.index_add(backend, *args))
    monkeypatch.setitem(backend.xp.__dict__, "index_set", lambda *args: scatter.index_set(backend, *args))
    index = xp.tensor(np.asarray([0, 2, 2, 2, 2]))

    def f(x: tg.Tensor) -> tg.Tensor:
        y = tg.take(x, index) ** 2
        z = x * 1.0
        z[index] = y
        return tg.sum(z * z) + tg.sum(x[index] ** 3)

    def derivatives() -> list[Any]:
        x = xp.tensor([0.5, 1.5, 2.5])
        return [xp.values(tg.grad(f)(x)), xp.values(tg.grad(lambda v: tg.sum(tg.grad(f)(v) ** 2))(x))]

    off = derivatives()
    assert not calls
    with tg.deterministic(True):
        on = derivatives()
    assert set(calls) == {"add", "set"}
    for a, b in zip(off, on, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12 if xp.double else 1e-5)


def test_the_setting() -> None:
    assert tg.deterministic() is False
    with tg.deterministic(True) as now:
        assert now is tg.deterministic() is True
        with tg.deterministic(False):
            assert tg.deterministic() is False
    assert tg.deterministic() is False
    with pytest.raises(TypeError, match="True or False"):
        tg.deterministic(1)  # type: ignore[arg-type]
