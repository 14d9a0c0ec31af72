"""Elementwise kernels that are generated for CuPy: every operation, dtype and layout against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from kernel_bench import FLOATS, Bench, node

from tapegrad._program.op_kinds import ELEMENTWISE
from tapegrad.backends._cupy.codegen import flat_kernels as kernels
from tapegrad.backends._cupy.codegen.cuda_types import literal
from tapegrad.backends._cupy.codegen.expressions import EXTRA, expression

INTEGERS = ("int8", "uint8", "int32", "uint32", "int64", "uint64")


def operands(dtype: str, op: str, n: int) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(3)
    if dtype == "bool":
        return [rng.integers(0, 2, (n, 3)).astype(bool) for _ in range(3)]
    if dtype not in FLOATS:
        low = 0 if dtype.startswith("u") else -7
        arrays = [rng.integers(low, 8, (n, 3)).astype(dtype) for _ in range(3)]
        if op in ("pow", "bitwise_left_shift", "bitwise_right_shift"):
            arrays[1] = np.abs(arrays[1]).astype(dtype)
        if op in ("floor_divide", "remainder"):
            arrays[1][arrays[1] == 0] = 2
        return arrays
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, -2.5, 3.0]
    pairs = np.asarray(list(product(special, special)))
    x = np.concatenate([pairs, rng.normal(size=(n, 2)), rng.uniform(0.01, 0.99, (n, 2)), rng.uniform(1, 9, (n, 2))])
    a, b = (np.ascontiguousarray(x[:, i]).astype(dtype) for i in (0, 1))
    return [a, b, a > 0]


NUMPY: dict[str, Callable[..., Any]] = {
    "astype": lambda x: x.astype(np.float32),
    "sigmoid": lambda x: (1 / (1 + np.exp(-x))).astype(x.dtype),
    "real": lambda x: x.copy(),
    "round": np.round,
    "imag": lambda x: 0 * x,
}
_TWO = """
add atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor copysign divide equal floor_divide
greater greater_equal hypot less less_equal logaddexp logical_and logical_or logical_xor maximum minimum multiply
nextafter not_equal pow remainder subtract
"""
TWO = frozenset(_TWO.split())
_EXACT = """
abs add astype ceil copysign divide floor floor_divide maximum minimum multiply negative nextafter positive reciprocal
remainder round sign sqrt square subtract trunc where
"""
EXACT = frozenset(_EXACT.split())


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, "bool"])
def test_every_elementwise_operation_gives_what_numpy_gives(dtype: str) -> None:
    bench = Bench()
    made: list[kernels.Kernel] = []
    checks = []
    for op in sorted(ELEMENTWISE - {"imag"}):
        a, b, c = operands(dtype, op, 30)
        args = (c.astype(bool), a, b) if op == "where" else (a, b) if op in TWO else (a,)
        try:
            with np.errstate(all="ignore"):
                expected = np.asarray(NUMPY.get(op, getattr(np, op, None))(*args))  # type: ignore[misc]
        except TypeError:
            continue
        n = node(op, tuple(bench.value(x) for x in args), expected.shape, expected.dtype)
        if not kernels.can_compute(n, lambda v: None):
            assert (op, dtype) == ("nextafter", "float16") or dtype not in FLOATS
            continue
        made.append(kernels.flat(f"k{len(made)}", expected.shape, [n], [n.out], bench.places, []))
        checks.append((op, n.out, expected))
    assert len(made) > (20 if dtype == "bool" else 35)
    bench.run(made)
    for op, v, expected in checks:
        got = bench.arrays[v]
        exact = op in EXACT or expected.dtype.kind != "f"
        eps = 0 if exact else 4 * np.finfo(expected.dtype).eps
        np.testing.assert_allclose(got, expected, rtol=eps, atol=eps, err_msg=f"{op} {dtype}")
        if exact and expected.dtype.kind == "f" and op not in ("maximum", "minimum", "sign"):
            np.testing.assert_array_equal(np.signbit(got)[got == got], np.signbit(expected)[got == got], err_msg=op)


def test_every_real_elementwise_operation_has_an_expression() -> None:
    floats, integers = ({op for op in ELEMENTWISE if has(op, d)} for d in ("float32", "int32"))
    assert ELEMENTWISE - floats - integers == {"imag"}


def has(op: str, dtype: str) -> bool:
    args = [("a", np.dtype(dtype)), ("b", np.dtype(dtype))]
    args = [("c", np.dtype(bool)), *args] if op == "where" else args if op in TWO else args[:1]
    return expression(op, args, np.dtype(dtype)) is not None


def test_conversions() -> None:
    bench = Bench()
    made: list[kernels.Kernel] = []
    checks = []
    for source, target in product((*FLOATS, *INTEGERS, "bool"), repeat=2):
        x = np.asarray([0, 1, 2, 3.75, 100, 0.1, 65504 if source in FLOATS else 0]).astype(source)
        if np.dtype(target).kind in "iu":
            x[x > 100] = 100
        n = node("astype", (bench.value(x),), x.shape, target)
        made.append(kernels.flat(f"k{len(made)}", x.shape, [n], [n.out], bench.places, []))
        checks.append((n.out, x.astype(target)))
    bench.run(made)
    for v, expected in checks:
        np.testing.assert_array_equal(bench.arrays[v], expected)


def test_special_functions_are_scipys() -> None:
    scipy_special = pytest.importorskip("scipy.special")
    bench = Bench()
    x = np.linspace(-3.3, 4.1, 50)
    nodes = [node(op, (bench.value(x),), x.shape, "float64") for op in sorted(EXTRA - {"special.erfinv"})]
    bench.run([kernels.flat("k", x.shape, nodes, [n.out for n in nodes], bench.places, [])])
    for n in nodes:
        expected = getattr(scipy_special, n.op.removeprefix("special."))(x)
        np.testing.assert_allclose(bench.arrays[n.out], expected, rtol=1e-13, atol=1e-14, err_msg=n.op)


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS])
def test_literals_are_exact(dtype: str) -> None:
    info: Any = np.finfo(dtype) if dtype in FLOATS else np.iinfo(dtype)
    assert literal(info.max, dtype) != literal(0, dtype)
    if dtype in FLOATS:
        assert literal(float("nan"), dtype).startswith("TG_NAN_")
        assert literal(float("-inf"), dtype).startswith("(-TG_INF_")
        text = literal(0.1, dtype)
        assert np.asarray(float(text.rstrip("f"))).astype(dtype) == np.asarray(0.1, dtype)
        assert literal(-0.0, dtype).startswith("(-0.0")
    else:
        assert str(info.max) in literal(info.max, dtype)
        with pytest.raises(OverflowError):
            literal(int(info.max) + 1, dtype)


def test_python_numbers_are_weak_and_operands_of_any_strides_are_read_in_place() -> None:
    bench = Bench()
    rng = np.random.default_rng(0)
    base = rng.normal(size=(4, 5, 6)).astype(np.float32)
    views = [base, base[::-1], np.swapaxes(base[:, :, :5], 1, 2), base[:, :1], base[1:2], base[:, :, ::-2], base[0, 0]]
    made: list[kernels.Kernel] = []
    checks = []
    for x in views:
        shape = np.broadcast_shapes(x.shape, (4, 5, x.shape[-1]))
        y = rng.normal(size=shape).astype(np.float32)
        a, b = bench.value(x), bench.value(y)
        first = node("multiply", (a, 0.1), x.shape, np.float32)
        second = node("add", (a, b), shape, np.float32)
        third = node("greater", (second.out, 0), shape, bool)
        made.append(kernels.flat(f"f{len(made)}", x.shape, [first], [first.out], bench.places, []))
        made.append(kernels.flat(f"s{len(made)}", shape, [second, third], [second.out, third.out], bench.places, []))
        checks += [(first.out, x * np.float32(0.1)), (second.out, x + y), (third.out, x + y > 0)]
    bench.run(made)
    for v, expected in checks:
        np.testing.assert_array_equal(bench.arrays[v], expected)
