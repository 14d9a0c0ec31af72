"""Indexing by integer Tensors of no axes in compiled functions: they are read at each call, as arrays are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad.testing import gradcheck

ALL = slice(None)
Pair = tuple[Any, Any]
KEYS: dict[str, Callable[[Any, Any], Any]] = {
    "x[i]": lambda i, j: i,
    "x[:, i]": lambda i, j: (ALL, i),
    "x[i, j]": lambda i, j: (i, j),
    "x[i, :, j]": lambda i, j: (i, ALL, j),
    "x[..., i]": lambda i, j: (..., i),
    "x[i, None]": lambda i, j: (i, None),
    "x[None, i, 1:]": lambda i, j: (None, i, slice(1, None)),
    "x[i, 1, j]": lambda i, j: (i, 1, j),
    "x[1, i]": lambda i, j: (1, i),
    "x[1, :, i]": lambda i, j: (1, ALL, i),
    "x[i, [0, 1, 0]]": lambda i, j: (i, tg.asarray([0, 1, 0], device=i.device)),
    "x[[0, 1], :, i]": lambda i, j: (tg.asarray([0, 1], device=i.device), ALL, i),
    "x[::-1, i]": lambda i, j: (slice(None, None, -1), i),
    "x[i, j, i]": lambda i, j: (i, j, i),
    "x[i - 1]": lambda i, j: i - 1,
    "x[i + j - j, ..., j]": lambda i, j: (i + j - j, ..., j),
}
X = np.random.default_rng(0).normal(size=(3, 4, 3))


def names(xp: Place) -> list[str]:
    """Return the keys to try; JAX takes long to compile each operation."""
    return list(KEYS)[::8] if xp.device == "jax" else list(KEYS)


def agree(xp: Place, f: Callable[..., Any], arguments: Callable[[int], tuple[Any, ...]]) -> Any:
    """Assert that a compiled function agrees with the eager one, and is replayed."""
    compiled = tg.compile(f)
    for n in range(3 if xp.device == "jax" else 5):
        expected, found = f(*arguments(n)), compiled(*arguments(n))
        for a, b in zip(expected, found, strict=True):
            assert a.shape == b.shape
            xp.check(b, xp.values(a))
    assert compiled._last is not None
    return compiled


def indices(xp: Place, n: int) -> Pair:
    if xp.device == "jax":
        n %= 2  # it compiles eager ones for each number
    return xp.tensor((n % 3) - 3 * (n == 4)), xp.tensor((n + 1) % 3)


def test_reading(xp: Place) -> None:
    def read(x: Any, i: Any, j: Any) -> Any:
        keys = [KEYS[name](i, j) for name in names(xp)]
        loss = lambda x: sum(tg.sum(tg.sin((n + 1.0) * x[key])) for n, key in enumerate(keys))  # noqa: E731
        return *[x[key] for key in keys], tg.grad(loss)(x)

    agree(xp, read, lambda n: (xp.tensor(X), *indices(xp, n)))


def test_writing(xp: Place) -> None:
    """Values to write have the shape of the place, or are a number, or a row."""
    shapes = {name: np.shape(X[key(0, 1)]) if "[0, 1" not in name else None for name, key in KEYS.items()}
    shapes |= {"x[i, [0, 1, 0]]": (3, 3), "x[[0, 1], :, i]": (2, 4)}
    whole = [(name, shape) for name, shape in shapes.items() if shape is not None]
    places = [*whole, *[(name, ()) for name in list(KEYS)[::3]], *[(n, s[-1:]) for n, s in whole if len(s) > 1]]
    places = [(name, shape) for name, shape in places if name in names(xp)]

    def write(x: Any, i: Any, j: Any, *values: Any) -> Any:
        def written(x: Any, values: Any) -> list[Any]:
            out = []
            for (name, _), v in zip(places, values, strict=True):
                y = x * 2.0
                y[KEYS[name](i, j)] = v
                out.append(y)
            return out

        loss = lambda x, values: sum(tg.sum(tg.sin(y) * y) for y in written(x, values))  # noqa: E731
        gradients = tg.grad(loss, (0, 1))(x, values)
        return *written(x, values), gradients[0], *gradients[1]

    def arguments(n: int) -> tuple[Any, ...]:
        rng = np.random.default_rng(n)
        return xp.tensor(X), *indices(xp, n), *[xp.tensor(rng.normal(size=shape)) for _, shape in places]

    agree(xp, write, arguments)


def test_the_index_of_the_largest(xp: Place) -> None:
    agree(xp, lambda x: (x[tg.argmax(x)], x[tg.argmin(x)]), lambda n: (xp.tensor(np.roll([1.0, 2.0, 3.0], n)),))


def test_state_that_counts(xp: Place) -> None:
    rows, at = xp.tensor(np.arange(12.0).reshape(4, 3)), xp.tensor(0)

    @tg.compile
    def following() -> Any:
        row = rows[at] + 0.0
        rows[at] = row * 10.0
        at[...] = (at + 1) % 4
        return row

    for n in range(8):
        xp.check(following(), X0[n % 4] * (1.0 if n < 4 else 10.0))
    assert following._last is not None


X0 = np.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize("n", [3, -4, 100])
def test_out_of_range(xp: Place, n: int) -> None:
    def read(x: Any, i: Any) -> Any:
        return x[i] * 2.0

    def write(x: Any, i: Any) -> Any:
        y = x * 1.0
        y[i] = 5.0
        return y

    x = xp.tensor([1.0, 2.0, 3.0])
    for f in (read, write):
        for before in range(4):  # eagerly at first, captured, replayed
            compiled = tg.compile(f)
            for k in range(before):
                compiled(x, xp.tensor(k % 3))
            with pytest.raises(IndexError, match=r"index .*out of range for axis 0 of .*shape \(3,\)"):
                host(compiled(x, xp.tensor(n)))
            xp.check(compiled(x, xp.tensor(1)), xp.values(f(x, xp.tensor(1))))


def host(y: Any) -> Any:
    """Return the values: a GPU raises when the host waits."""
    return y.tolist()


def test_inside_vmap_and_derivatives(xp: Place) -> None:
    def f(x: Any, i: Any) -> Any:
        each = tg.vmap(lambda x, i: tg.sin(x[i]))(x, i)
        same = tg.vmap(lambda x: tg.cos(x[i[0]]))(x)
        j = tg.jacobian(lambda x: x[i[1]] * x[0])(x[0])
        _, t = tg.jvp(lambda x: x[i[2]] ** 2, (x[1],), (x[0],))
        return each, same, j, t, tg.hessian(lambda x: x[i[0]] ** 3)(x[2])

    agree(xp, f, lambda n: (xp.tensor(X0[:3]), xp.tensor(np.roll([0, 1, 2], n))))


def test_raw_arrays_and_numbers_as_indices() -> None:
    x = tg.asarray([1.0, 2.0, 3.0])
    raw = tg.compile(lambda x, i: x[i] * 2.0)
    number = tg.compile(lambda x, i: x[i] * 2.0)
    for n in range(6):
        assert raw(x, np.asarray(n % 3)).item() == 2.0 * (n % 3 + 1)
        assert number(x, n % 2).item() == 2.0 * (n % 2 + 1)
    assert raw._last is not None
    assert number._last is not None


def test_gradients_of_writing_one_item_are_right() -> None:
    """A write to one place needs no knowledge of repeated ones."""

    def f(x: Any, v: Any) -> Any:
        y = x * 2.0
        y[[1]] = v
        return tg.sum(tg.sin(y) * y)

    gradcheck(f, (tg.asarray([1.0, 2.0, 3.0]), tg.asarray([0.5])))


def test_one_program_for_all_indices_compiled_by_the_library(xp: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    if xp.device not in ("jax", "torch"):
        pytest.skip("no compiler of its own")
    monkeypatch.setenv("TAPEGRAD_TORCH_COMPILE", "1")

    def f(x: Any, i: Any) -> Any:
        return tg.value_and_grad(lambda x: tg.sum(x[i] ** 3))(x)

    compiled = agree(xp, f, lambda n: (xp.tensor(X0), xp.tensor(n % 4)))
    assert compiled._last.executor.how.startswith("compiled by")
    with pytest.raises(IndexError, match="out of range"):
        compiled(xp.tensor(X0), xp.tensor(4))
