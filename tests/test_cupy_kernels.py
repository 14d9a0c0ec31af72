"""Generated kernels by themselves against NumPy: sizes, strides, alignment, results over operands."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from kernel_bench import FLOATS, Bench, misaligned, node

from tapegrad.backends._cupy.codegen import flat_kernels as kernels

SIZES = (1, 2, 31, 33, 127, 1000, 4096, 4097, 50257)


# -- elementwise -----------------------------------------------------------------------------------------


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
    """Return a step of momentum: the group, its results, which are written over operands, and the right values."""
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
