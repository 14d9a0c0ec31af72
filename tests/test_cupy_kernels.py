"""Generated kernels by themselves against NumPy: sizes, strides, alignment, results over operands."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from kernel_bench import FLOATS, Bench, node

from tapegrad.backends import _cupy_kernels as kernels
from tapegrad.backends import _cupy_rows as rows

SIZES = (1, 2, 31, 33, 127, 1000, 4096, 4097, 50257)


# -- elementwise -----------------------------------------------------------------------------------------


def misaligned(x: Any) -> Any:
    """Return an array of the same elements that begins one element after an aligned address."""
    y = np.empty(x.size + 1, x.dtype)[1:].reshape(x.shape)
    y[...] = x
    return y


@pytest.mark.parametrize("dtype", [*FLOATS, "int8", "bool"])
def test_elementwise_kernels_of_all_sizes(dtype: str) -> None:
    rng = np.random.default_rng(0)
    bench = Bench()
    made: list[kernels.Kernel] = []
    checks: list[tuple[Any, Any]] = []
    for n, shifted in product(SIZES, (False, True)):
        x, y = (rng.integers(0, 3, n).astype(dtype) for _ in range(2))
        a = bench.value(misaligned(x) if shifted else x)
        first = node("maximum", (a, bench.value(y)), x.shape, dtype)
        second = node("equal", (first.out, a), x.shape, bool)
        outs = [first.out, second.out]
        made.append(kernels.flat(f"k{len(made)}", x.shape, [first, second], outs, bench.places, []))
        checks += [(first.out, np.maximum(x, y)), (second.out, np.maximum(x, y) == x)]
    bench.run(made)
    for v, expected in checks:
        np.testing.assert_array_equal(bench.arrays[v], expected)


@pytest.mark.parametrize("dtype", FLOATS)
def test_aligned_operands_are_read_and_results_written_by_16_bytes(dtype: str) -> None:
    bench = Bench()
    width = 16 // np.dtype(dtype).itemsize
    x = np.ones((64, 4096), dtype)
    a, row, column = (bench.value(v) for v in (x, x[0], x[:, :1]))
    first = node("add", (a, row), x.shape, dtype)
    second = node("multiply", (first.out, column), x.shape, dtype)
    text = kernels.flat("k", x.shape, [first, second], [second.out], bench.places, []).source
    pack = (
        f"tg_pack<{'unsigned short' if dtype == 'float16' else 'float' if dtype == 'float32' else 'double'}, {width}>"
    )
    assert text.count(f"*(const {pack}*)") == 2  # the array and the row
    assert text.count(f"*({pack}*)&r0[i] = q") == 1
    assert "if (" not in text
    assert text.count("__restrict__") == 4
    shifted = bench.value(misaligned(x))
    n = node("negative", (shifted,), x.shape, dtype)
    assert "(const tg_pack" not in kernels.flat("k", x.shape, [n], [n.out], bench.places, []).source


def test_a_result_may_be_written_over_an_operand() -> None:
    rng = np.random.default_rng(0)
    bench = Bench()
    for n in (33, 4096):
        x, y = rng.normal(size=(2, n))
        a, b = bench.value(x.copy()), bench.value(y)
        moved = node("add", (a, b), x.shape, np.float64)
        far = node("subtract", (moved.out, a), x.shape, np.float64)
        bench.arrays[moved.out] = bench.arrays[a]
        outs = [moved.out, far.out]
        kernel = kernels.flat(f"k{n}", x.shape, [moved, far], outs, bench.places, [], {a})
        assert kernel.source.count("__restrict__") == 1  # b
        bench.run([kernel])
        np.testing.assert_array_equal(bench.arrays[a], x + y)
        np.testing.assert_array_equal(bench.arrays[far.out], x + y - x)


@pytest.mark.parametrize("dtype", FLOATS)
def test_totals_of_all_sizes(dtype: str) -> None:
    rng = np.random.default_rng(0)
    bench = Bench()
    made: list[kernels.Kernel] = []
    checks: list[tuple[Any, Any]] = []
    for n in (*SIZES, 1 << 17):
        x = rng.uniform(size=n).astype(dtype)
        a = bench.value(x)
        square = node("multiply", (a, a), x.shape, dtype)
        sums = [node(op, (square.out,), (), dtype) for op in ("sum", "max", "mean")]
        made.append(kernels.flat(f"k{n}", x.shape, [square], [square.out], bench.places, sums))
        expected = (x * x).astype(np.float64)
        checks += list(zip([s.out for s in sums], [expected.sum(), expected.max(), expected.mean()], strict=True))
    bench.run(made)
    for v, y in checks:
        if np.isfinite(np.asarray(y, dtype)):
            np.testing.assert_allclose(bench.arrays[v], y, rtol=float(4 * np.finfo(dtype).eps))


# -- many arrays -----------------------------------------------------------------------------------------


def update(bench: Bench, shape: tuple[int, ...], rate: Any, dtype: str) -> tuple[kernels.Group, list[Any], list[Any]]:
    """Return a step of momentum: the group, its results, which are written over operands, and what they should be."""
    rng = np.random.default_rng(len(shape))
    p, m, g = (rng.normal(size=shape).astype(dtype) for _ in range(3))
    a, b, c = (bench.value(v.copy()) for v in (p, m, g))
    old = node("multiply", (b, 0.5), shape, dtype)
    new = node("add", (old.out, c), shape, dtype)
    step = node("multiply", (new.out, rate), shape, dtype)
    moved = node("subtract", (a, step.out), shape, dtype)
    bench.arrays[new.out], bench.arrays[moved.out] = bench.arrays[b], bench.arrays[a]
    momentum = m * p.dtype.type(0.5) + g
    expected = [momentum, p - momentum * bench.arrays[rate]]
    return kernels.Group(shape, [old, new, step, moved], [new.out, moved.out]), [new.out, moved.out], expected


@pytest.mark.parametrize("dtype", FLOATS)
def test_one_kernel_updates_arrays_of_all_sizes(dtype: str) -> None:
    bench = Bench()
    rate = bench.value(np.asarray(0.25, dtype))
    made = [update(bench, shape, rate, dtype) for shape in ((2,), (3,), (7, 5), (4096,), (1, 4097), (50257,))]
    groups = [group for group, _, _ in made]
    forms = [kernels.form(group, bench.places) for group in groups]
    assert set(forms) == {forms[0]}
    assert forms[0] is not None
    bench.run_multi(kernels.multi("k", groups, bench.places))
    for _, outs, expected in made:
        for v, y in zip(outs, expected, strict=True):
            np.testing.assert_array_equal(bench.arrays[v], y)


def test_groups_of_other_forms_are_told_apart() -> None:
    bench = Bench()
    x = np.ones((4, 4), np.float32)
    a, row, rate = (bench.value(v) for v in (x, x[0], x[0, :1]))
    turned, shifted = bench.value(x.T), bench.value(misaligned(x))

    def of(op: str, *operands: Any) -> str | None:
        n = node(op, operands, x.shape, np.float32)
        return kernels.form(kernels.Group(x.shape, [n], [n.out]), bench.places)

    assert of("add", a, rate) is not None
    assert of("add", a, rate) != of("add", a, a)
    assert of("add", a, rate) != of("multiply", a, rate)
    assert of("add", a, 1.0) != of("add", a, 2.0)
    assert [of("add", a, y) for y in (row, turned, shifted)] == [None] * 3


# -- rows --------------------------------------------------------------------------------------------------

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
        run = rows.Rows((3,), [score, *before, p, product, inner, less, grad], [p.out, inner.out, grad.out])
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
    """The running maximum meets what is not finite in any place of a row, as softmax in two passes does."""
    bench = Bench()
    n = 20000
    x = np.zeros((8, n), dtype)
    x[1], x[2, 17], x[3, n - 1], x[4, 5] = -np.inf, np.nan, np.inf, -np.inf
    x[5, :-1], x[6, 1:] = -np.inf, -np.inf
    x[7] = np.linspace(-800, 800, n)
    a = bench.value(x)
    before, p = softmax(bench, a, dtype)
    run = rows.Rows((8,), [*before, p], [p.out, before[-1].out])
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
        run = rows.Rows((4,), nodes, [loss.out, grad.out, picked.out])
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
    run = rows.Rows(lead, [product, total, kept, less], [total.out, kept.out, less.out])
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
    run = rows.Rows((5,), [*before, p, moved], [moved.out])
    assert run.overwrites(a, moved.out)
    bench.arrays[moved.out] = bench.arrays[a]
    bench.run([rows.kernel("k", run, bench.places, {a})])
    np.testing.assert_allclose(bench.arrays[a], x + softmax_of(g), rtol=1e-12)
    early = node("multiply", (b, 2.0), x.shape, np.float64)
    late = rows.Rows((5,), [early, *before, p], [early.out, p.out])
    assert late.overwrites(b, early.out) == (n < 30000)  # a later pass over memory reads it again


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
    run = rows.Rows((70,), [*scaled, *columns, *everything], [n.out for n in (*columns, *everything)])
    assert run.fits(lambda v: None)
    kernel = rows.kernel("k", run, bench.places, ())
    assert run.shared_bytes() <= 40 << 10
    bench.run([kernel])
    for i, (c, e) in enumerate(zip(columns, everything, strict=True), 1):
        rtol = 1e-4 if dtype == "float32" else 1e-11
        np.testing.assert_allclose(bench.arrays[c.out], i * x.astype(np.float64).sum(0), rtol=rtol, atol=rtol)
        np.testing.assert_allclose(bench.arrays[e.out], i * x.astype(np.float64).sum(), rtol=rtol, atol=10 * rtol)
