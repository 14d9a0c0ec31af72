"""Kernels over rows that are generated for CuPy: reductions within rows, over rows, and of everything."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from kernel_bench import FLOATS, Bench, node

from tapegrad.backends import _cupy_kernels as kernels
from tapegrad.backends import _cupy_rows as rows
from tapegrad.backends._items import axes_of


@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_with_reductions_within_and_over_them(dtype: str) -> None:
    bench = Bench()
    made, checks = [], []
    for length in (1, 2, 3, 10, 33, 128, 300, 1500):
        kernel, outs, expected = a_run(bench, f"k{length}", 9 if length > 200 else 37, length, dtype)
        made.append(kernel)
        checks += list(zip(outs, expected, strict=True))
    bench.run(made)
    rtol = {"float16": 2e-2, "float32": 1e-5, "float64": 1e-12}[dtype]
    for v, y in checks:
        np.testing.assert_allclose(bench.arrays[v].astype(np.float64), y, rtol=rtol, atol=rtol)


def a_run(bench: Bench, name: str, count: int, length: int, dtype: str) -> tuple[kernels.Kernel, list[Any], list[Any]]:
    """Return the kernel of a softmax and sums of what comes of it, its results and what they should be."""
    rng = np.random.default_rng(1)
    x, g = rng.normal(size=(count, length)).astype(dtype), rng.normal(size=length).astype(dtype)
    a, b = bench.value(x), bench.value(g)
    wide, one = (count, length), (count, 1)
    top = node("max", (a,), one, dtype, axis=-1, keepdims=True)
    low = node("subtract", (a, top.out), wide, dtype)
    e = node("exp", (low.out,), wide, dtype)
    total = node("sum", (e.out,), one, dtype, axis=1, keepdims=True)
    soft = node("divide", (e.out, total.out), wide, dtype)
    mean = node("mean", (soft.out,), (count,), dtype, axis=-1)
    out = node("multiply", (soft.out, b), wide, dtype)
    columns = node("sum", (out.out,), (length,), dtype, axis=0)
    everything = node("sum", (total.out,), (), dtype)
    nodes = [top, low, e, total, soft, mean, out, columns, everything]
    outs = [soft.out, total.out, mean.out, columns.out, everything.out]
    run = rows.Rows((count,), nodes, outs)
    assert run.fits(lambda v: None)
    wider = x.astype(np.float64)
    e64 = np.exp(wider - wider.max(1, keepdims=True))
    s64 = e64 / e64.sum(1, keepdims=True)
    expected = [s64, e64.sum(1, keepdims=True), s64.mean(1), (s64 * g.astype(np.float64)).sum(0), e64.sum()]
    return rows.kernel(name, run, bench.places, set()), outs, expected


@pytest.mark.parametrize("op", ["sum", "mean", "prod", "max", "min", "any", "all"])
def test_reductions_of_everything_rows_and_columns(op: str) -> None:
    rng = np.random.default_rng(2)
    bench = Bench()
    made: list[kernels.Kernel] = []
    checks = []
    for dtype, (shape, axis) in product(
        ("float16", "float32", "int32", "uint8", "bool"),
        [((5, 300), None), ((5, 300), 1), ((300, 5), 0), ((3, 4, 5), (1, 2)), ((40,), None), ((2000,), 0)],
    ):
        x = rng.integers(0, 2 if op == "prod" else 3, shape).astype(dtype)
        if dtype in FLOATS and op in ("max", "min"):
            x[0] = np.nan
        expected = np.asarray(getattr(np, op)(x, axis=axis))
        if op in ("any", "all") and dtype != "bool":
            expected = expected.astype(bool)
        n = node(op, (bench.value(x),), expected.shape, expected.dtype, axis=axis)
        ndim = len(shape)
        axes = axes_of(n)
        lead = shape[: len(axes)] if 0 in axes else shape[: ndim - len(axes)]
        run = rows.Rows(lead, [n], [n.out])
        assert run.fits(lambda v: None), (op, dtype, shape)
        name = f"k{len(made)}"
        made.append(
            kernels.flat(name, shape, [], [], bench.places, [n])
            if run.single()
            else rows.kernel(name, run, bench.places, set())
        )
        checks.append((n.out, expected))
    bench.run(made)
    for v, expected in checks:
        np.testing.assert_allclose(bench.arrays[v], expected, rtol=2e-3)
