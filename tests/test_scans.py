"""Scans: running extremes and logarithms of sums, scans of functions of users, the greatest elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg

RUNNING = {
    "cumulative_max": np.maximum.accumulate,
    "cumulative_min": np.minimum.accumulate,
    "cumulative_logsumexp": np.logaddexp.accumulate,
}
running = pytest.mark.parametrize("name", RUNNING)


@running
def test_random_values(xp: Place, name: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(4 if xp.device.startswith("jax") else 40):
        shape = tuple(int(i) for i in rng.integers(1, 9, int(rng.integers(1, 4))))
        axis = int(rng.integers(-len(shape), len(shape)))
        x = np.round(rng.normal(size=shape) * 3, int(rng.integers(0, 3)))  # with ties
        xp.check(getattr(tg, name)(xp.tensor(x), axis=axis), RUNNING[name](x, axis), rtol=1e-10)


@running
def test_random_derivatives_against_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    theirs: dict[str, Any] = {
        "max": lambda z, i: torch.cummax(z, i).values,
        "min": lambda z, i: torch.cummin(z, i).values,
    }
    theirs["logsumexp"] = torch.logcumsumexp
    f, g = getattr(tg, name), theirs[name.removeprefix("cumulative_")]
    for _ in range(70):
        shape = tuple(int(i) for i in rng.integers(1, 8, int(rng.integers(1, 4))))
        axis = int(rng.integers(-len(shape), len(shape)))
        x, w = rng.normal(size=shape) * rng.choice([1, 30]), rng.normal(size=shape)
        z = torch.tensor(x, requires_grad=True)
        (first,) = torch.autograd.grad((g(z, axis) ** 2 * torch.tensor(w)).sum(), z, create_graph=True)
        (second,) = torch.autograd.grad((first**2).sum(), z)
        slope = tg.grad(lambda v: tg.sum(f(v, axis=axis) ** 2 * w))  # noqa: B023
        bend = tg.grad(lambda v: tg.sum(slope(v) ** 2))  # noqa: B023
        for ours, expected in ((slope, first), (bend, second)):
            values = expected.detach().numpy()
            scale = np.abs(values).max(initial=1)
            np.testing.assert_allclose(np.asarray(ours(tg.asarray(x))) / scale, values / scale, atol=1e-11)


@running
def test_singular_values(xp: Place, name: str) -> None:
    """Infinities and NaN as in NumPy, of sizes of zero too; no gradient of NaN where there is a finite one."""
    inf, nan = np.inf, np.nan
    cases: list[list[float]] = [
        [-inf, -inf, 1.0, -inf],
        [1.0, inf, 2.0],
        [3.0, nan, 1.0, nan],
        [-1000.0, 1000.0, -1000.0],
        [nan],
        [],
    ]
    for case in cases:
        with np.errstate(all="ignore"):
            expected = RUNNING[name](np.asarray(case))
        np.testing.assert_allclose(xp.values(getattr(tg, name)(xp.tensor(np.asarray(case)))), expected, rtol=1e-6)
    x = xp.tensor([-inf, -inf, 1.0, -inf, 0.0])
    gradient = xp.values(tg.grad(lambda v: tg.sum(getattr(tg, name)(v)[2:]))(x))
    p = np.exp(1) / (np.exp(1) + 1)
    by_name = {"max": [0, 0, 3, 0, 0], "min": [3, 0, 0, 0, 0], "logsumexp": [0, 0, 2 + p, 0, 1 - p]}
    np.testing.assert_allclose(gradient, by_name[name.removeprefix("cumulative_")], rtol=1e-5)
    assert getattr(tg, name)(xp.tensor(np.zeros((3, 0))), axis=0).shape == (3, 0)
    assert getattr(tg, name)(xp.tensor(np.zeros((0, 3))), axis=0).shape == (0, 3)


def test_first_of_a_tie_gets_the_gradient() -> None:
    x = tg.asarray([1.0, 2.0, 2.0, 0.0, 2.0])
    np.testing.assert_array_equal(tg.grad(lambda v: tg.sum(tg.cumulative_max(v)))(x), [1, 4, 0, 0, 0])
    np.testing.assert_array_equal(tg.cumulative_max(tg.asarray([3, 5, 5, 1])), [3, 5, 5, 5])


@running
def test_messages_of_running_functions(name: str) -> None:
    f = getattr(tg, name)
    with pytest.raises(ValueError, match=f"{name}: a Tensor of 2 axes needs axis="):
        f(tg.ones((2, 2)))
    with pytest.raises(TypeError, match=f"{name}: complex numbers have no order"):
        f(tg.asarray([1j]))
    with pytest.raises(ValueError, match="axis 2 is out of range"):
        f(tg.ones((2, 2)), axis=2)


# -- the greatest elements -------------------------------------------------------------------------------------


def test_top_k(xp: Place) -> None:
    """The same elements and indices everywhere: of equal ones the first come first."""
    rng = np.random.default_rng(6)
    for _ in range(4 if xp.device.startswith("jax") else 30):
        shape = tuple(int(i) for i in rng.integers(1, 9, int(rng.integers(1, 4))))
        axis, largest = int(rng.integers(-len(shape), len(shape))), bool(rng.random() < 0.6)
        k = int(rng.integers(0, shape[axis] + 1))
        x = np.round(rng.normal(size=shape))
        order = np.argsort(-x if largest else x, axis=axis, kind="stable")
        indices = np.moveaxis(np.moveaxis(order, axis, 0)[:k], 0, axis)
        found = tg.top_k(xp.tensor(x), k, axis=axis, largest=largest)
        np.testing.assert_array_equal(xp.values(found.indices), indices)
        xp.check(found.values, np.take_along_axis(x, indices, axis))


def test_top_k_of_integers_and_its_messages() -> None:
    values, indices = tg.top_k(tg.asarray([3, 9, 9, -1]), 2)
    assert values.dtype is tg.int64
    np.testing.assert_array_equal(indices, [1, 2])
    gradient = tg.grad(lambda x: tg.sum(tg.top_k(x, 2).values ** 2))(tg.asarray([1.0, 5.0, 3.0]))
    np.testing.assert_array_equal(gradient, [0, 10, 6])
    for k, error, message in (
        (5, ValueError, "k is 0 to 4, the length along axis -1, not 5"),
        (-1, ValueError, "not -1"),
        (1.5, TypeError, "k is an integer, not 1.5"),
    ):
        with pytest.raises(error, match=message):
            tg.top_k(tg.ones((2, 4)), k)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="complex numbers have no order"):
        tg.top_k(tg.asarray([1j]), 1)


# -- functions of users ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
def test_associative_scan(xp: Place, reverse: bool) -> None:
    """Products of matrices, which do not commute, of all lengths and along any axis."""
    rng = np.random.default_rng(7)
    for n in (1, 5) if xp.device.startswith("jax") else (1, 2, 3, 4, 5, 7, 8, 13):
        x = rng.normal(size=(n, 2, 2))
        expected = [x[-1] if reverse else x[0]]
        for m in x[-2::-1] if reverse else x[1:]:
            expected.append(expected[-1] @ m)
        out = tg.associative_scan(tg.matmul, xp.tensor(x), reverse=reverse)
        xp.check(out, np.stack(expected[::-1] if reverse else expected), rtol=1e-9)
    x = rng.normal(size=(3, 6))
    found = tg.associative_scan(lambda a, b: {"s": a["s"] + b["s"]}, {"s": xp.tensor(x)}, axis=-1, reverse=reverse)
    xp.check(found["s"], np.flip(np.cumsum(np.flip(x, -1), -1), -1) if reverse else np.cumsum(x, -1), rtol=1e-9)


def test_associative_scan_calls_the_function_seldom() -> None:
    calls = []

    def add(a: Any, b: Any) -> Any:
        calls.append(a.shape[0])
        return a + b

    tg.associative_scan(add, tg.ones(1024))
    assert len(calls) <= 2 * 10
    assert sum(calls) < 2 * 1024  # elements combined


def test_scan(xp: Place) -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(5, 3))

    def step(carry: Any, row: Any) -> Any:
        carry = tg.tanh(carry + row["x"])
        return carry, (carry * 2.0, None)

    for reverse in (False, True):
        last, (outs, nothing) = tg.scan(step, xp.tensor(np.zeros(3)), {"x": xp.tensor(x)}, reverse=reverse)
        h, rows = np.zeros(3), []
        for row in x[::-1] if reverse else x:
            h = np.tanh(h + row)
            rows.append(2 * h)
        xp.check(last, h)
        xp.check(outs, np.stack(rows[::-1] if reverse else rows))
        assert nothing is None
    assert tg.scan(lambda c, row: (c + 1, None), 0, xp.tensor(x)) == (5, None)


def test_scans_compiled_and_mapped() -> None:
    x = np.random.default_rng(9).normal(size=(4, 6))
    functions: dict[str, Any] = {
        "associative_scan": lambda v: tg.associative_scan(tg.multiply, v),
        "scan": lambda v: tg.scan(lambda c, u: (tg.sin(c + u),) * 2, v[0], v)[1],
        "cumulative_max": tg.cumulative_max,
        "cumulative_logsumexp": tg.cumulative_logsumexp,
        "top_k": lambda v: tg.top_k(v, 3).values,
    }
    for name, f in functions.items():
        for g in (f, tg.grad(lambda v: tg.sum(f(v) ** 2))):  # noqa: B023
            call: Any = g
            alone = [np.asarray(call(tg.asarray(row))) for row in x]
            np.testing.assert_allclose(tg.vmap(call)(tg.asarray(x)), np.stack(alone), rtol=1e-12, err_msg=name)
            compiled: Any = tg.compile(call)
            for _ in range(2):
                for row, expected in zip(x, alone, strict=True):
                    np.testing.assert_array_equal(compiled(tg.asarray(row)), expected, err_msg=name)


def test_messages_of_scans() -> None:
    x = tg.ones((3, 2))
    wrong: list[tuple[Any, str]] = [
        (lambda: tg.associative_scan(tg.add, {}), "associative_scan: there is no array to go along"),
        (lambda: tg.associative_scan(lambda a, b: (a[0],), (x, x)), "returned shapes"),
        (lambda: tg.associative_scan(lambda a, b: tg.sum(a), x), r"returned shapes \[\(\)\]"),
        (
            lambda: tg.associative_scan(lambda a, b: a, (x, x[:2])),
            r"different lengths along axis 0: \(3, 2\), \(2, 2\)",
        ),
        (lambda: tg.associative_scan(tg.add, x, axis=2), "axis 2 is out of range"),
        (lambda: tg.scan(lambda c, u: (c, u), 0, x[:0]), "scan: there is no step"),
        (lambda: tg.scan(lambda c, u: (c, u), 0, None), "scan: there is no array to go along"),
    ]
    for call, message in wrong:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(KeyError, match="mine"):  # errors of the user's function stay as they are
        tg.scan(lambda c, u: dict[str, Any]()["mine"], 0, x)
