"""The kernels and calls of compiled programs on CuPy.

Generated kernels compiled by g++, cuBLAS calls on a stand-in for cuBLAS, and the text of all kernels through NVRTC
where that is installed. Whole steps are in test_cupy_steps.py.
"""

from __future__ import annotations

import ctypes
import glob
import sys
from collections.abc import Callable, Iterator
from itertools import product
from types import SimpleNamespace
from typing import Any

import cuda_on_host
import numpy as np
import pytest
from fake_cublas import gemm
from kernel_bench import FLOATS, SOURCES, Bench, node

from tapegrad._compile._kinds import ELEMENTWISE
from tapegrad.backends import _cupy_kernels as kernels
from tapegrad.backends import _cupy_rows as rows
from tapegrad.backends._cupy_gemm import Cublas, Matrix, product_of
from tapegrad.backends._cupy_ops import EXTRA, expression
from tapegrad.backends._cupy_types import HELPERS, literal
from tapegrad.backends._items import axes_of

host = pytest.mark.skipif(cuda_on_host.compiler() is None, reason="g++ is not installed")
INTEGERS = ("int8", "uint8", "int32", "uint32", "int64", "uint64")


# -- kernels on the host ---------------------------------------------------------------------------------


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


@host
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


@host
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


@host
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


@host
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


@host
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


@host
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


# -- cuBLAS calls ----------------------------------------------------------------------------------------


def variants(rng: Any, shape: tuple[int, ...]) -> Iterator[Any]:
    yield rng.normal(size=shape)
    yield np.swapaxes(rng.normal(size=(*shape[:-2], shape[-1], shape[-2])), -1, -2)
    yield rng.normal(size=(*shape[:-1], shape[-1] + 3))[..., : shape[-1]]
    yield np.broadcast_to(rng.normal(size=shape[-2:]), shape)
    yield rng.normal(size=(*shape[:-1], 2 * shape[-1]))[..., ::2]
    yield rng.normal(size=shape)[..., ::-1]
    if len(shape) > 2:
        yield np.moveaxis(rng.normal(size=(*shape[1:-1], shape[0], shape[-1])), -2, 0)
        yield np.broadcast_to(rng.normal(size=(shape[0], *(1,) * (len(shape) - 3), *shape[-2:])), shape)


@pytest.mark.parametrize("lead", [(), (1,), (3,), (2, 3), (1, 3)])
def test_products_of_all_layouts_are_cublas_calls(lead: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    copied = 0
    for other, (m, k, n) in product([(), (1,), (3,), (2, 1)], product([1, 2, 5], [1, 3], [1, 2, 6])):
        if lead and other and other[-1] not in (1, lead[-1]):
            continue
        for a, b in product(variants(rng, (*lead, m, k)), variants(rng, (*other, k, n))):
            expected = a @ b
            matrices = [Matrix(x.shape, tuple(s // 8 for s in x.strides)) for x in (a, b)]
            plan = product_of(matrices[0], matrices[1], expected.shape)
            if plan is None:
                copied += 1
                assert any(abs(x.strides[-1]) != 8 or x.strides[-1] < 0 or 0 in x.strides for x in (a, b))
                continue
            out = np.full(expected.shape, np.nan)
            gemm(plan, a, b, out)
            np.testing.assert_allclose(out, expected, atol=1e-12)
    assert copied


def test_products_with_vectors_and_of_rows_that_merge() -> None:
    rng = np.random.default_rng(0)
    for a, b in [((4,), (4,)), ((4,), (4, 3)), ((3, 4), (4,)), ((2, 3, 4), (4,)), ((4,), (2, 4, 3))]:
        x, y = rng.normal(size=a), rng.normal(size=b)
        expected = x @ y
        left, right = (Matrix(z.shape, tuple(s // 8 for s in z.strides)) for z in (x, y))
        plan = product_of(left, right, expected.shape)
        assert plan is not None
        out = np.full(expected.shape, np.nan)
        gemm(plan, x, y, out)
        np.testing.assert_allclose(out, expected)
    plan = product_of(Matrix((8, 5, 4), (20, 4, 1)), Matrix((4, 3), (3, 1)), (8, 5, 3))
    assert plan is not None
    assert (plan.m, plan.n, plan.k, plan.batch) == (3, 40, 4, 1)


CUBLAS = r"""
#include <cstdint>
#include <cstddef>
static void* stream; static size_t workspace;
extern "C" int cublasSetStream_v2(void* h, void* s) { stream = s; return h == (void*)7 ? 0 : 1; }
extern "C" int cublasGemmBatchedEx() { return 15; }
extern "C" int cublasSetWorkspace_v2(void* h, void* p, size_t n) { workspace = n; return p ? 0 : 7; }
template <class T> static void gemm(bool ta, bool tb, int m, int n, int k, T alpha, const T* a, int lda, const T* b,
                                    int ldb, T beta, T* c, int ldc) {
  for (int i = 0; i < m; ++i) for (int j = 0; j < n; ++j) {
    T s = 0;
    for (int l = 0; l < k; ++l) s += (ta ? a[l + i * lda] : a[i + l * lda]) * (tb ? b[j + l * ldb] : b[l + j * ldb]);
    c[i + j * ldc] = alpha * s + (beta ? beta * c[i + j * ldc] : 0);
  }
}
extern "C" int cublasGemmStridedBatchedEx(void* h, int ta, int tb, int m, int n, int k, const void* alpha,
    const void* A, int at, int lda, long long sa, const void* B, int bt, int ldb, long long sb, const void* beta,
    void* C, int ct, int ldc, long long sc, int batch, int compute, int algo) {
  if (h != (void*)7 || stream != (void*)3 || workspace != 32 << 20 || at != bt || bt != ct || algo != -1) return 7;
  if (compute != (at == 1 ? 70 : 68)) return 15;
  for (int i = 0; i < batch; ++i) {
    if (at == 0) gemm<float>(ta, tb, m, n, k, *(float*)alpha, (const float*)A + i * sa, lda, (const float*)B + i * sb,
                             ldb, *(float*)beta, (float*)C + i * sc, ldc);
    else gemm<double>(ta, tb, m, n, k, *(double*)alpha, (const double*)A + i * sa, lda, (const double*)B + i * sb, ldb,
                      *(double*)beta, (double*)C + i * sc, ldc);
  }
  return 0;
}
"""


@host
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ctypes_passes_what_cublas_declares(dtype: str) -> None:
    """A library with the declarations of cuBLAS's manual, by ctypes."""
    device = SimpleNamespace(get_cublas_handle=lambda: 7)
    stream = SimpleNamespace(ptr=3)
    cuda = SimpleNamespace(
        alloc=lambda n: SimpleNamespace(ptr=1),
        device=device,
        get_current_stream=lambda: stream,
        Device=lambda: SimpleNamespace(compute_capability="90"),
    )
    cublas = Cublas(SimpleNamespace(cuda=cuda), cuda_on_host.compiled(CUBLAS)._name)
    rng = np.random.default_rng(0)
    for a, b in [((3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 3, 4), (4, 5))]:
        x, y = rng.normal(size=a).astype(dtype), np.swapaxes(rng.normal(size=(*b[:-2], b[-1], b[-2])), -1, -2)
        y = y.astype(dtype)
        expected = x @ y
        left, right = (Matrix(z.shape, tuple(s // z.itemsize for s in z.strides)) for z in (x, y))
        plan = product_of(left, right, expected.shape)
        assert plan is not None
        out = np.full(expected.shape, np.nan, dtype)
        arrays = [SimpleNamespace(data=SimpleNamespace(ptr=z.ctypes.data), dtype=z.dtype) for z in (x, y, out)]
        cublas.multiply(plan, arrays[0], arrays[1], arrays[2])
        np.testing.assert_allclose(out, expected, rtol=1e-5)


# -- NVRTC -----------------------------------------------------------------------------------------------


def nvrtc() -> Any:
    """Return the NVRTC library, None where none is installed."""
    names = ["libnvrtc.so.13", "libnvrtc.so.12"]
    for folder in sys.path:
        names += sorted(glob.glob(f"{folder}/nvidia/**/libnvrtc.so.1?", recursive=True))
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def to_ptx(library: Any, source: str) -> str:
    """Return the PTX of a text of kernels; AssertionError with NVRTC's log if it does not compile."""
    program = ctypes.c_void_p()
    assert library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"k.cu", 0, None, None) == 0
    options = [b"--gpu-architecture=compute_90", b"-std=c++17", b"--fmad=false"]
    status = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    assert status == 0, log.value.decode()[:3000]
    library.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    library.nvrtcGetPTX(program, ptx)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return ptx.value.decode()


def test_nvrtc_compiles_what_the_tests_above_generated() -> None:
    library = nvrtc()
    if library is None:
        pytest.skip("NVRTC is not installed (pip install nvidia-cuda-nvrtc)")
    bench = Bench()
    for i, dtype in enumerate(FLOATS):  # what g++ has no function for
        n = node("special.erfinv", (bench.value(np.ones(3, dtype)),), (3,), dtype)
        SOURCES[HELPERS + kernels.flat(f"k{i}", (3,), [n], [n.out], bench.places, []).source] = None
    for source in SOURCES:
        ptx = to_ptx(library, source)
        assert ptx.count(".entry") == source.count('extern "C"')
