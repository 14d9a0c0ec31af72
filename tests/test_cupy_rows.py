"""Kernels over rows that are generated for CuPy: reductions within rows, over rows, and of everything."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from kernel_bench import FLOATS, Bench, misaligned, node

from tapegrad._program.queries import reduction_axes
from tapegrad.backends._cupy.codegen import flat_kernels as kernels
from tapegrad.backends._cupy.codegen import row_kernels as rows
from tapegrad.backends._cupy.codegen.cuda_types import TYPES
from tapegrad.backends._cupy.codegen.row_schedule import Form


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
    """Return the kernel of a softmax and sums of its results, the results and the right values."""
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
    run = rows.RowSchedule((count,), nodes, outs)
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
        axes = reduction_axes(n)
        lead = shape[: len(axes)] if 0 in axes else shape[: ndim - len(axes)]
        run = rows.RowSchedule(lead, [n], [n.out])
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


# -- lengths, layouts, registers and shared memory -----------------------------------------------------------

LENGTHS = (1, 2, 31, 33, 64, 127, 768, 1000, 4097, 8192, 8193, 50257)


def softmax(bench: Bench, x: Any, dtype: str) -> tuple[list[Any], Any]:
    """Return the nodes of softmax along the last axis, of a value of the same dtype."""
    one = (*x.shape[:-1], 1)
    top = node("max", (x,), one, dtype, axis=-1, keepdims=True)
    low = node("subtract", (x, top.out), x.shape, dtype)
    power = node("exp", (low.out,), x.shape, dtype)
    total = node("sum", (power.out,), one, dtype, axis=-1, keepdims=True)
    return [top, low, power, total], node("divide", (power.out, total.out), x.shape, dtype)


def softmax_of(x: Any) -> Any:
    e = np.exp(x.astype(np.float64) - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def tolerance(dtype: str) -> float:
    return {"float16": 4e-3, "float32": 1e-5, "float64": 1e-12}[dtype]


@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_of_all_lengths(dtype: str) -> None:
    """Softmax, a score that is scaled and masked before it, and its gradient."""
    rng = np.random.default_rng(0)
    bench = Bench()
    made: list[kernels.Kernel] = []
    checks: list[tuple[Any, Any]] = []
    for n in LENGTHS:
        x, g = rng.normal(size=(2, 3, n)).astype(dtype)
        mask = np.where(rng.uniform(size=n) < 0.3, -np.inf, 0).astype(dtype)
        mask[0] = 0
        a, b, c = (bench.value(v) for v in (x, g, mask))
        score = node("add", (a, c), x.shape, dtype)
        before, p = softmax(bench, score.out, dtype)
        product = node("multiply", (b, p.out), x.shape, dtype)
        inner = node("sum", (product.out,), (3, 1), dtype, axis=-1, keepdims=True)
        less = node("subtract", (b, inner.out), x.shape, dtype)
        grad = node("multiply", (p.out, less.out), x.shape, dtype)
        run = rows.RowSchedule((3,), [score, *before, p, product, inner, less, grad], [p.out, inner.out, grad.out])
        assert run.fits(lambda v: None)
        made.append(rows.kernel(f"k{n}", run, bench.places, ()))
        soft = softmax_of(x + mask)
        wide = g.astype(np.float64)
        dot = (wide * soft).sum(axis=-1, keepdims=True)
        checks += [(p.out, soft), (inner.out, dot), (grad.out, soft * (wide - dot))]
    bench.run(made)
    for v, y in checks:
        np.testing.assert_allclose(bench.arrays[v].astype(np.float64), y, rtol=tolerance(dtype), atol=tolerance(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_infinite_and_nan_rows_in_one_pass(dtype: str) -> None:
    """The running maximum meets infinities and NaN in any place of a row, as softmax in two passes does."""
    bench = Bench()
    n = 20000
    x = np.zeros((8, n), dtype)
    x[1], x[2, 17], x[3, n - 1], x[4, 5] = -np.inf, np.nan, np.inf, -np.inf
    x[5, :-1], x[6, 1:] = -np.inf, -np.inf
    x[7] = np.linspace(-800, 800, n)
    a = bench.value(x)
    before, p = softmax(bench, a, dtype)
    run = rows.RowSchedule((8,), [*before, p], [p.out, before[-1].out])
    assert run.passes.turns == 2  # one that finds maximum and sum, one that divides
    bench.run([rows.kernel("k", run, bench.places, ())])
    with np.errstate(all="ignore"):
        e = np.exp(x - x.max(axis=1, keepdims=True))
        expected = [e / e.sum(axis=1, keepdims=True), e.sum(axis=1, keepdims=True)]
    for v, y in zip(run.outs, expected, strict=True):
        np.testing.assert_allclose(bench.arrays[v], y, rtol=1e-5 if dtype == "float32" else 1e-11)


@pytest.mark.parametrize("dtype", FLOATS)
def test_cross_entropy_reads_logits_twice(dtype: str) -> None:
    """Loss and gradient in one kernel of two passes; the label's logit is computed where it is."""
    rng = np.random.default_rng(0)
    bench = Bench()
    made: list[kernels.Kernel] = []
    checks: list[tuple[Any, Any]] = []
    for n in (11, 1000, 50257):
        x = rng.normal(size=(4, n)).astype(dtype)
        labels = np.asarray([[0], [n - 1], [3], [7 - n]])  # the last wraps
        a, b, order = bench.value(x), bench.value(labels), bench.value(np.arange(n))
        before, p = softmax(bench, a, dtype)
        picked = node("take_along_axis", (before[1].out, b), (4, 1), dtype, axis=-1)
        picked.kind = "pick"
        log = node("log", (before[-1].out,), (4, 1), dtype)
        each = node("subtract", (log.out, picked.out), (4, 1), dtype)
        loss = node("sum", (each.out,), (), dtype)
        equal = node("equal", (b, order), x.shape, bool)
        hot = node("astype", (equal.out, np.dtype(dtype)), x.shape, dtype)
        less = node("subtract", (p.out, hot.out), x.shape, dtype)
        grad = node("multiply", (less.out, 0.25), x.shape, dtype)
        nodes = [*before, p, picked, log, each, loss, equal, hot, less, grad]
        run = rows.RowSchedule((4,), nodes, [loss.out, grad.out, picked.out])
        assert run.fits(lambda v: None)
        places = bench.places._replace(counts={order}.__contains__)
        made.append(rows.kernel(f"k{n}", run, places, ()))
        assert order not in made[-1].reads
        if n == 50257:
            assert run.passes.turns == 2
        soft = softmax_of(x)
        spots = np.arange(4), labels[:, 0]
        checks += [
            (loss.out, -np.log(soft[spots]).sum()),
            (grad.out, (soft - (labels == np.arange(n))) / 4),
            (picked.out, (x - x.max(axis=1, keepdims=True))[spots][:, None]),
        ]
    bench.run(made)
    for v, y in checks:
        np.testing.assert_allclose(bench.arrays[v].astype(np.float64), y, rtol=tolerance(dtype), atol=tolerance(dtype))


VIEWS: list[tuple[tuple[int, ...], tuple[int, ...], Any]] = [
    ((2, 3), (2, 3, 40), lambda x: x),
    ((2,), (2, 3, 40), lambda x: x),
    ((6,), (6, 40), lambda x: np.ascontiguousarray(x.T).T),
    ((2, 3), (2, 3, 40), lambda x: x[:, :1]),
    ((2, 3), (2, 3, 40), lambda x: x[0]),
    ((2, 3), (2, 3, 40), lambda x: x[0, :, :1]),
    ((2,), (2, 3, 40), lambda x: x[0, :, :1]),
    ((2, 3), (2, 3, 40), lambda x: np.repeat(x, 2, axis=-1)[..., ::2]),
    ((2, 3), (2, 3, 40), lambda x: x[..., ::-1]),
    ((4,), (4, 8), misaligned),
]


@pytest.mark.parametrize("case", range(len(VIEWS)))
def test_rows_of_operands_of_any_strides(case: int) -> None:
    lead, shape, view = VIEWS[case]
    rng = np.random.default_rng(0)
    bench = Bench()
    base, other = rng.normal(size=shape), view(rng.normal(size=shape))
    a, b = bench.value(base), bench.value(other)
    product = node("multiply", (a, b), shape, np.float64)
    axes = tuple(range(len(lead), len(shape)))
    total = node("sum", (product.out,), lead, np.float64, axis=axes)
    kept = node("max", (product.out,), (*lead, *(1,) * len(axes)), np.float64, axis=axes, keepdims=True)
    less = node("subtract", (product.out, kept.out), shape, np.float64)
    run = rows.RowSchedule(lead, [product, total, kept, less], [total.out, kept.out, less.out])
    assert run.fits(lambda v: None)
    bench.run([rows.kernel("k", run, bench.places, ())])
    y = base * other
    np.testing.assert_allclose(bench.arrays[total.out], y.sum(axis=axes))
    np.testing.assert_array_equal(bench.arrays[less.out], y - y.max(axis=axes, keepdims=True))


@pytest.mark.parametrize("n", [6, 300, 30000])
def test_a_row_may_be_written_over_an_operand(n: int) -> None:
    rng = np.random.default_rng(0)
    bench = Bench()
    x, g = rng.normal(size=(2, 5, n))
    a, b = bench.value(x.copy()), bench.value(g)
    before, p = softmax(bench, b, "float64")
    moved = node("add", (a, p.out), x.shape, np.float64)
    run = rows.RowSchedule((5,), [*before, p, moved], [moved.out])
    assert run.overwrites(a, moved.out)
    bench.arrays[moved.out] = bench.arrays[a]
    bench.run([rows.kernel("k", run, bench.places, {a})])
    np.testing.assert_allclose(bench.arrays[a], x + softmax_of(g), rtol=1e-12)
    early = node("multiply", (b, 2.0), x.shape, np.float64)
    late = rows.RowSchedule((5,), [early, *before, p], [early.out, p.out])
    assert late.overwrites(b, early.out) == (n < 30000)  # a later pass over memory reads it again


def test_elements_of_complex_rows_are_not_picked_by_generated_code() -> None:
    bench = Bench()
    z, index = bench.value(np.ones((4, 8), np.complex128)), bench.value(np.zeros((4, 1), np.int64))
    picked = node("take_along_axis", (z, index), (4, 1), np.complex128, axis=-1)
    picked.kind = "pick"
    assert not rows.RowSchedule((4,), [picked], [picked.out]).fits(lambda v: None)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("length", [5, 160, 256, 5000])
def test_shared_memory_is_bounded_however_many_sums_there_are(dtype: str, length: int) -> None:
    rng = np.random.default_rng(0)
    bench = Bench()
    x = rng.normal(size=(70, length)).astype(dtype)
    a = bench.value(x)
    scaled = [node("multiply", (a, float(i)), x.shape, dtype) for i in range(1, 21)]
    columns = [node("sum", (s.out,), (length,), dtype, axis=0) for s in scaled]
    everything = [node("sum", (s.out,), (), dtype) for s in scaled]
    run = rows.RowSchedule((70,), [*scaled, *columns, *everything], [n.out for n in (*columns, *everything)])
    assert run.fits(lambda v: None)
    kernel = rows.kernel("k", run, bench.places, ())
    assert run.shared_bytes() <= 40 << 10
    bench.run([kernel])
    for i, (c, e) in enumerate(zip(columns, everything, strict=True), 1):
        rtol = 1e-4 if dtype == "float32" else 1e-11
        np.testing.assert_allclose(bench.arrays[c.out], i * x.astype(np.float64).sum(0), rtol=rtol, atol=rtol)
        np.testing.assert_allclose(bench.arrays[e.out], i * x.astype(np.float64).sum(), rtol=rtol, atol=10 * rtol)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("length", [64, 768, 4096, 40960])
def test_aligned_rows_are_read_and_written_by_16_bytes_without_guards(dtype: str, length: int) -> None:
    bench = Bench()
    x = bench.value(np.ones((4, length), dtype))
    before, p = softmax(bench, x, dtype)
    run = rows.RowSchedule((4,), [*before, p], [p.out])
    text = rows.kernel("k", run, bench.places, ()).source
    pack = f"tg_pack<{TYPES[dtype].memory}, {16 // np.dtype(dtype).itemsize}>"
    passes = 2 if run.grid.form is Form.STREAM else 1
    assert text.count(f"*(const {pack}*)&a0") == passes  # a row stays in registers, or is read once a pass
    assert text.count(f"*({pack}*)&r0") == 1
    assert text.count("__restrict__") == 2
    assert "j <" not in text
    assert ("in_range" in text) == (run.rows % run.grid.groups > 0)


def test_results_that_are_not_aligned_are_written_one_by_one() -> None:
    rng = np.random.default_rng(0)
    bench = Bench()
    x = rng.normal(size=(4, 128)).astype(np.float32)
    a = bench.value(x)
    before, p = softmax(bench, a, "float32")
    double = node("multiply", (a, 2.0), x.shape, np.float32)
    for n in (p, double):
        bench.arrays[n.out] = misaligned(np.zeros_like(x))
    bench.run(
        [
            rows.kernel("k", rows.RowSchedule((4,), [*before, p], [p.out]), bench.places, ()),
            kernels.flat("f", x.shape, [double], [double.out], bench.places, []),
        ]
    )
    np.testing.assert_allclose(bench.arrays[p.out], softmax_of(x), rtol=1e-5)
    np.testing.assert_array_equal(bench.arrays[double.out], x * 2)
