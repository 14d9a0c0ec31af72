"""Every sample of the table compiled, on every backend: a replayed call agrees with an eager one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any
from weakref import ref

import numpy as np
import pytest
from places import WHOLE_SWEEPS, Place

import tapegrad as tg
from tapegrad._engine.dispatch import CaptureError
from tapegrad.testing import SAMPLES, Sample

CALLS = 5
# The first sample of each operation, and the first complex one.
FIRST = set({(s.operation, any(a.dtype.kind == "c" for a in s.args)): s.name for s in reversed(SAMPLES)}.values())
FOR_JAX = [s.name for s in SAMPLES if s.name in FIRST and all(a.dtype.kind != "c" for a in s.args)][::3]
# Functions with a shape that depends on values.
REFUSED = {"nonzero", "unique_all", "unique_counts", "unique_inverse", "unique_values", "repeat counts"}
REFUSED |= {f"unique_{n} values" for n in ("all", "counts", "inverse")}
REFUSED |= {"getitem mask", "getitem mask of rows", "setitem mask"}


def same(xp: Place, got: Any, expected: Any, where: str) -> None:
    """Assert that a replayed call agrees with an eager one: the one place that says how closely."""
    a, b = xp.values(got), xp.values(expected)
    assert (a.dtype, a.shape) == (b.dtype, b.shape), where
    if xp.device.startswith("jax"):  # XLA orders and fuses as it likes
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11, err_msg=where)
    elif xp.device in ("cpu", "cuda"):  # planned: sums may be in another order
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13, err_msg=where)
    else:
        np.testing.assert_array_equal(a, b, err_msg=where)


def arguments(xp: Place, sample: Sample, call: int) -> list[tg.Tensor]:
    """Return the arguments of a call: floating ones as leaves, slightly other ones each time."""
    scale = 1 - call / 1024
    return [
        xp.tensor(a * scale if a.dtype.kind in "fc" else a, requires_grad=a.dtype.kind in "fc") for a in sample.args
    ]


def number(y: Any, weights: tg.Tensor | None) -> Any:
    """Return a real number that depends on every element differently."""
    total = tg.sum(y if weights is None else y * weights)
    return tg.real(total) + tg.imag(total) if tg.isdtype(total.dtype, "complex floating") else total


def weights_for(xp: Place, sample: Sample) -> tg.Tensor:
    """Return weights for the result of a sample."""
    y = sample.f(*arguments(xp, sample, 0)).detach()
    n = int(np.prod(y.shape))
    return tg.astype(xp.tensor(np.linspace(0.5, 1.5, n).reshape(y.shape)), tg.real(y).dtype)


def value_and_gradients(xp: Place, sample: Sample) -> Callable[..., list[Any]]:
    """Return a step that gives the result of a sample and the gradients of its arguments."""
    weights = weights_for(xp, sample) if sample.order else None

    def step(*xs: Any) -> list[Any]:
        y = sample.f(*xs)
        if y.requires_grad:
            number(y, weights).backward()
        return [y.detach(), *[x.grad for x in xs]]

    return step


def compare(xp: Place, sample: Sample, step: Callable[..., list[Any]]) -> Any:
    """Call a step compiled and as it is, a few times; return the compiled one."""
    compiled = tg.compile(step)
    for call in range(4 if xp.device.startswith("jax") else CALLS):
        expected = step(*arguments(xp, sample, call))
        got = compiled(*arguments(xp, sample, call))
        for n, (a, b) in enumerate(zip(got, expected, strict=True)):
            assert (a is None) is (b is None)
            if a is not None:
                same(xp, a, b, f"call {call}, result {n}")
    return compiled


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)
def test_value_and_gradients(xp: Place, sample: Sample) -> None:
    if sample.name not in FIRST and (xp.readonly or xp.device not in ("cpu", "torch:cpu", "strict:CPU_DEVICE")):
        pytest.skip("one sample of an operation, real and complex, is enough here")
    if xp.device.startswith("jax") and sample.name not in FOR_JAX:
        pytest.skip("XLA compiles each program: a sample of some operations is enough")
    step = value_and_gradients(xp, sample)
    if sample.name in REFUSED:
        compiled = tg.compile(step)
        expected = step(*arguments(xp, sample, 0))
        for a, b in zip(compiled(*arguments(xp, sample, 0)), expected, strict=True):
            if b is not None:
                same(xp, a, b, "the first call")
        with pytest.raises(CaptureError, match=r"at \w+\.py:\d+ .*(shape depends on values|needs the value)"):
            compiled(*arguments(xp, sample, 1))
    else:
        program = compare(xp, sample, step).program
        assert program.outputs
        assert "operation" in str(program)  # shown, with costs


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.name in FIRST], ids=lambda s: s.name)
def test_first_calls_with_tensors_that_nobody_knew(xp: Place, sample: Sample) -> None:
    if xp.readonly or xp.device not in ("cpu", "torch:cpu", "strict:device1", "jax:cpu"):
        pytest.skip("enough libraries")
    if xp.device == "jax:cpu" and sample.name not in FOR_JAX:
        pytest.skip("enough for what JAX's arrays do with others")
    n = len(sample.args)
    step = value_and_gradients(xp, sample)
    expected = step(*arguments(xp, sample, 0))
    for hidden in {tuple(range(n)), (0,)[:n], (n - 1,) if n else ()}:
        xs = arguments(xp, sample, 0)
        found = [ref(x) if i in hidden else partial(lambda x: x, x) for i, x in enumerate(xs)]
        got = tg.compile(partial(lambda found: step(*[x() for x in found]), found))()
        for i, (a, b) in enumerate(zip(got, expected, strict=True)):
            assert (a is None) is (b is None)
            if a is not None:
                same(xp, a, b, f"{hidden} hidden, result {i}")


@pytest.mark.parametrize(
    "sample",
    [s for s in SAMPLES if s.order > 1 and s.name in FIRST and s.name not in REFUSED],
    ids=lambda s: s.name,
)
def test_second_derivative(xp: Place, sample: Sample) -> None:
    if xp.readonly or xp.device not in ("cpu", "torch:cpu"):
        pytest.skip("the same nodes as elsewhere")
    weights = weights_for(xp, sample)
    at = tuple(n for n, a in enumerate(sample.args) if a.dtype.kind in "fc")

    def squares(*xs: Any) -> Any:
        first = tg.grad(lambda *xs: number(sample.f(*xs), weights), at)(*xs)
        return sum((number(g * g, None) for g in first), start=tg.zeros((), dtype=weights.dtype))

    compare(xp, sample, lambda *xs: list(tg.grad(squares, at)(*[x.detach() for x in xs])))


def test_what_looks_at_values_is_one_operation() -> None:
    x = tg.tensor(np.eye(4)[None] * [[[1.0]], [[2.0]]], requires_grad=True)

    @tg.compile
    def step(x: tg.Tensor) -> Any:
        x.grad = None
        tg.sum(tg.linalg.det(x)).backward()
        return x.grad

    for _ in range(4):
        np.testing.assert_allclose(np.asarray(step(x)), np.eye(4)[None] * [[[1.0]], [[8.0]]])
    singular = tg.tensor(np.diag([2.0, 3.0, 1.0, 0.0])[None] * [[[1.0]], [[1.0]]], requires_grad=True)
    np.testing.assert_allclose(np.asarray(step(singular))[0], np.diag([0.0, 0.0, 0.0, 6.0]), atol=1e-14)
    assert "as_one(large_cofactors" in str(step.program)


SINGULAR = np.asarray([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0, 0.0, 1.0]])


@pytest.mark.parametrize("n", [3, 4])
@pytest.mark.parametrize("at", [np.diag([2.0, 3.0, 4.0]), np.diag([2.0, 3.0, 0.0]), SINGULAR])
def test_derivatives_of_what_looks_at_values_are_one_operation_each(xp: Place, at: Any, n: int) -> None:
    """Those of small determinants look at none."""
    if xp.device.startswith("jax") and n == 4 and not WHOLE_SWEEPS:
        pytest.skip("XLA compiles it for a minute")
    det: Any = tg.linalg.det
    whole = np.eye(n)
    whole[:3, :3] = at

    def derivatives(x: Any) -> Any:
        third = tg.grad(lambda v: tg.sum(tg.hessian(det)(v) ** 2))(x)
        return tg.grad(det)(x), tg.hessian(det)(x), third, tg.vmap(tg.hessian(det))(tg.stack([x, x]))

    step = tg.compile(derivatives)
    for _ in range(3):
        found = step(xp.tensor(whole))
    for a, b in zip(found, derivatives(xp.tensor(whole)), strict=True):
        same(xp, a, b, str(at))
    second = np.zeros((3, 3, 3, 3))
    for i, j, k in product(range(3), repeat=3):
        for m in {0, 1, 2} - {j}:
            if i != k:
                e = [[0.0] * 3 for _ in range(3)]
                e[i][j] = e[k][m] = e[3 - i - k][3 - j - m] = 1.0
                second[i, j, k, m] = np.linalg.det(e) * at[3 - i - k, 3 - j - m]
    xp.check(found[1][:3, :3, :3, :3], second)
    assert ("as_one(cotangent 0 of large_cofactors" in str(step.program)) is (n == 4)
