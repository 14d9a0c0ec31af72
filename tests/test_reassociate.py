"""Programs whose sums and products are reassociated: fewer passes, and the same values but for rounding."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from math import pi, sqrt
from typing import Any

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import backends
from tapegrad._compile.plan import fusion
from tapegrad._engine.dispatch import CaptureError
from tapegrad._program.ir import Run
from tapegrad.backends._numpy.executor import tiling
from tapegrad.testing import SAMPLES, Sample

N = 12


@pytest.fixture(autouse=True)
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.Backend, "smallest_run", 2)
    monkeypatch.setattr(fusion, "FEWEST_ROWS", 2)
    monkeypatch.setattr(tiling, "TILE", 5)


def array(seed: int, dtype: Any = np.float64) -> tg.Tensor:
    return tg.tensor(np.random.default_rng(seed).normal(size=N), dtype=dtype)


def compiled(f: Callable[..., Any], *args: Any, reassociate: bool = True) -> tuple[Any, list[str]]:
    """Return the result of a replayed call, and the operations of the program's runs."""
    step = tg.compile(f, reassociate=reassociate)
    with np.errstate(all="ignore"):
        for _ in range(4):
            out = step(*args)
    program = getattr(step._last.executor, "program", None)  # without operations there is none
    items = program.nodes if program is not None else []
    return out, [n.op for item in items if isinstance(item, Run) for n in item.nodes]


def check(f: Callable[..., Any], *args: Any, passes: int, rtol: float = 1e-14) -> list[str]:
    """Check the values of a function, and how many operations are left of it."""
    out, ops = compiled(f, *args)
    np.testing.assert_allclose(np.asarray(out), np.asarray(f(*args)), rtol=rtol, atol=rtol)
    assert len(ops) == passes, ops
    return ops


def test_coefficients_of_a_product_are_one() -> None:
    check(lambda x, y: 2 * x * y * 3 / 4, array(0), array(1), passes=2)


def test_like_terms_are_collected() -> None:
    check(lambda x, y: x * y + y * x + x * y, array(0), array(1), passes=2)


def test_what_terms_share_is_factored_out() -> None:
    ops = check(lambda x, y, z: x * y + x * z, array(0), array(1), array(2), passes=2)
    assert sorted(ops) == ["add", "multiply"]
    check(lambda x, y, z: x * y * z + 2 * x * x * y - 3 * x * y, *map(array, range(3)), passes=5)


def test_powers_are_products() -> None:
    check(lambda x: x**3 + 2 * x**2, array(0), passes=3)
    check(lambda x: tg.square(x) * x * x, array(0), passes=2)


def test_products_of_sums_are_not_multiplied_out() -> None:
    x = array(0)

    def variance(x: tg.Tensor, m: tg.Tensor) -> tg.Tensor:
        return 2 * ((x - m) * (x - m)) + (x - m) * 3

    far = tg.tensor(np.full(N, 1e8))
    out, _ = compiled(variance, x + 1e8, far)
    np.testing.assert_allclose(np.asarray(out), np.asarray(variance(x + 1e8, far)), rtol=1e-14)


def test_a_sum_that_others_read_is_computed_once() -> None:
    def f(x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
        s = 2 * x + 3 * y
        return tg.exp(s) + s * x + 5 * s * y + s

    out, ops = compiled(f, array(0), array(1))
    np.testing.assert_allclose(np.asarray(out), np.asarray(f(array(0), array(1))), rtol=1e-14)
    assert len(ops) < len(compiled(f, array(0), array(1), reassociate=False)[1])


@pytest.mark.parametrize(
    "f",
    [
        lambda x, y: x * y - y * x + x,  # NaN where an element is infinite
        lambda x, y: x * 1e200 * y * 1e200 * 1e-300,  # no coefficient of its own is infinite
        lambda x, y: x + y,
        lambda x, y: (x + y, (x + y) * 1.0, x),
        lambda x, y: tg.sqrt(tg.abs(x)) - (-y),
    ],
)
def test_what_cannot_be_gained_stays(f: Callable[..., Any]) -> None:
    x, y = array(0), array(1)
    with np.errstate(all="ignore"):
        expected = _flat(f(x, y))
    for a, b in zip(_flat(compiled(f, x, y)[0]), expected, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-14)


def test_cancelled_terms_still_give_nan() -> None:
    x = tg.tensor([float("inf")] * N)
    out, _ = compiled(lambda x, y: x * y - y * x + y, x, array(1))
    assert np.isnan(np.asarray(out)).all()


def test_not_without_being_asked() -> None:
    out, ops = compiled(lambda x, y: 2 * x * y * 3, array(0), array(1), reassociate=False)
    assert len(ops) == 3
    np.testing.assert_array_equal(np.asarray(out), np.asarray(2 * array(0) * array(1) * 3))


def test_integers_and_half_precision_are_left_alone() -> None:
    for dtype in (tg.int64, tg.float16):
        x = tg.asarray(np.arange(N), dtype=dtype)
        out, ops = compiled(lambda x: 2 * x * x * 3, x)
        assert len(ops) == 3
        np.testing.assert_array_equal(np.asarray(out), np.asarray(2 * x * x * 3))


def test_gelu_and_its_gradient_take_fifteen_passes() -> None:
    x = tg.tensor(np.linspace(-4, 4, N), requires_grad=True)

    def step() -> Any:
        x.grad = None
        y = 0.5 * x * (1 + tg.tanh(sqrt(2 / pi) * (x + 0.044715 * (x * x * x))))
        loss = tg.sum(y)
        loss.backward()
        return loss.detach(), x.grad

    out, ops = compiled(step)
    for a, b in zip(out, step(), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-14, atol=1e-15)
    assert len(ops) == 16  # the product that is summed goes with the sum: one pass of BLAS
    assert len(compiled(step, reassociate=False)[1]) == 23


def test_debug_allows_for_rounding() -> None:
    step = tg.compile(lambda x, y: x * y / 3 + 0.7 * x, reassociate=True, debug=True)
    for _ in range(5):
        step(array(0), array(1))


def _flat(tree: Any) -> list[Any]:
    return list(tree) if isinstance(tree, (tuple, list)) else [tree]


# -- random programs ---------------------------------------------------------------------------------------


def random_step(seed: int) -> Callable[..., Any]:
    """Return a program of random arithmetic, with shared parts and several results."""
    rng = random.Random(seed)

    operations: list[Callable[[Any, Any, float], Any]] = [
        lambda a, b, c: a + b,
        lambda a, b, c: a - b,
        lambda a, b, c: a * b,
        lambda a, b, c: c * a,
        lambda a, b, c: a / c,
        lambda a, b, c: c - a,
        lambda a, b, c: a + c,
        lambda a, b, c: -a,
        lambda a, b, c: a * a,
        lambda a, b, c: tg.tanh(a),
        lambda a, b, c: a / (1.5 + b * b),
        lambda a, b, c: a - tg.mean(b),
    ]

    def f(*xs: tg.Tensor) -> list[tg.Tensor]:
        rng.seed(seed)
        values: list[Any] = list(xs)
        for _ in range(rng.randint(3, 14)):
            a, b = (rng.choice(values[-5:]) for _ in range(2))
            c = rng.choice([2, -1, 0.5, 3.25, -0.75])
            values.append(rng.choice(operations)(a, b, c))
        return rng.sample(values[3:], min(3, len(values) - 3))

    return f


@pytest.mark.parametrize("block", range(10))
def test_random_programs(block: int) -> None:
    for seed in range(20 * block, 20 * block + 20):
        f = random_step(seed)
        xs = [array(3 * seed + i) * 0.5 for i in range(3)]
        for a, b in zip(compiled(f, *xs)[0], f(*xs), strict=True):
            x, y = np.asarray(a), np.asarray(b)
            np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10 * np.max(np.abs(y)), err_msg=str(seed))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)
def test_every_sample(sample: Sample) -> None:
    xs = [tg.tensor(a, requires_grad=a.dtype.kind == "f" and sample.order > 0) for a in sample.args]

    def step(*xs: tg.Tensor) -> Any:
        for x in xs:
            x.grad = None
        outs = [y for y in _flat(sample.f(*xs)) if isinstance(y, tg.Tensor)]
        losses = [tg.sum(y * (3 * y * y + 2 * y)) for y in outs if y.requires_grad and "float" in y.dtype.name]
        if losses:
            sum(losses[1:], losses[0]).backward()
        return [y.detach() for y in outs] + [x.grad for x in xs if x.grad is not None]

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            got, _ = compiled(step, *xs)
        except CaptureError as error:
            pytest.skip(f"not to be compiled: {error}")
        for a, b in zip(got, step(*xs), strict=True):
            x, y = np.asarray(a), np.asarray(b)
            np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-11 * float(np.max(np.abs(y), initial=0)))
