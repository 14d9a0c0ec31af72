"""Eager calls on CuPy as single kernels: against NumPy, for all samples, sizes, strides, dtypes and devices."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from places import why_not

import tapegrad as tg
from tapegrad import backends
from tapegrad._compile import eager_fusion
from tapegrad.testing._sample import Sample
from tapegrad.testing._samples import SAMPLES

if why := why_not("cuda"):
    pytest.skip(why, allow_module_level=True)

import cupy

from tapegrad.backends._cupy.eager import row_step as rows

Arrays = list[np.ndarray[Any, Any]]
rng = np.random.default_rng(3)


def leaves(tree: Any) -> list[tg.Tensor]:
    if isinstance(tree, (tuple, list)):
        return [x for part in tree for x in leaves(part)]
    return [tree] if isinstance(tree, tg.Tensor) else []


def computed(f: Any, args: Arrays, device: str, dtype: str = "float64") -> Arrays:
    """Return results and, for floating ones, gradients of a weighted sum of them."""
    xs = [tg.asarray(a, device=device) for a in args]
    xs = [tg.astype(x, getattr(tg, dtype)) if x.dtype.kind == "real floating" else x for x in xs]
    for x in xs:
        x.requires_grad = "floating" in x.dtype.kind
    outs = leaves(f(*xs))
    recorded = [y for y in outs if y.requires_grad]
    total: Any = 0.0
    for i, y in enumerate(recorded):
        weights = np.cos(np.arange(np.prod(y.shape)) + i).reshape(y.shape)
        w = tg.astype(tg.asarray(weights, device=device), tg.float32 if "16" in dtype else y.dtype)
        product = tg.astype(y, w.dtype) * w
        total = total + tg.sum(tg.real(product) if "complex" in product.dtype.kind else product)
    if recorded:
        total.backward()
    found = [x.detach() for x in (*outs, *[x.grad for x in xs if x.grad is not None])]
    if dtype == "bfloat16":
        assert all(x.dtype.name == dtype for x in found)
        found = [tg.astype(x, tg.float32) for x in found]
    return [np.asarray(x.to_device("cpu")) for x in found]


def check(f: Any, args: Arrays, dtype: str = "float64", rtol: float = 1e-11) -> None:
    """Compare with NumPy twice: as it is traced, and as kernels run."""
    expected = computed(f, args, "cpu", dtype)
    for _ in range(2):
        for a, b in zip(computed(f, args, "cuda", dtype), expected, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


# Vectors of the same space, whose phases a library chooses.
CHOSEN = {"eigh", "eig", "svd", "qr"}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)
def test_samples(sample: Sample) -> None:
    if sample.operation in CHOSEN:
        pytest.skip("phases are the library's")
    check(sample.f, list(sample.args))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sigmoid": tg.sigmoid,
    "gelu": tg.gelu,
    "gelu tanh": lambda x: tg.gelu(x, approximate="tanh"),
    "silu": tg.silu,
    "relu": tg.relu,
    "clip": lambda x: tg.clip(x, -0.5, 0.5),
    "pow": lambda x: tg.exp(x) ** 2.5,
    "divide": lambda x: 1.5 / (2 + tg.tanh(x)),
    **{
        f"{f.__name__} {axis}": lambda x, f=f, axis=axis: f(x, axis=axis)
        for f in (tg.softmax, tg.log_softmax)
        for axis in (0, 1, -1)
    },
    **{
        f"{f.__name__} {axis} {keepdims}": lambda x, f=f, axis=axis, keepdims=keepdims: f(
            x, axis=axis, keepdims=keepdims
        )
        for f in (tg.logsumexp, tg.var, tg.std, tg.max, tg.linalg.vector_norm)
        for axis in (None, 0, 1, (0, 1))
        for keepdims in (False, True)
    },
}


# One of each kind of kernel.
SOME = (
    "gelu",
    "gelu tanh",
    "clip",
    "softmax 0",
    "softmax -1",
    "logsumexp None True",
    "var 0 False",
    "vector_norm 1 False",
)


@pytest.mark.parametrize("name", SOME)
def test_sizes_and_strides(name: str) -> None:
    f = FUNCTIONS[name]
    shapes = [(3, 4), (5, 7), (40, 300), (2, 1030), (700, 2), (1, 6), (6, 1), (1, 1)]
    for shape in shapes:
        x = rng.standard_normal(shape)
        check(f, [x])
        check(f, [np.asarray(x.T)])  # C order of another shape
        check(f, [np.asfortranarray(x)])
        check(lambda x: f(x.T), [x])
        check(lambda x: f(x[::-1, ::2]), [np.repeat(x, 2, axis=1)])
        check(lambda x: f(tg.broadcast_to(x, (4, 5))), [rng.standard_normal((1, 5))])


@pytest.mark.parametrize("name", [*SOME, "logsumexp (0, 1) False", "max 1 True", "std (0, 1) True"])
def test_three_axes(name: str) -> None:
    f = FUNCTIONS[name]
    for shape in ((2, 3, 4), (3, 5, 2), (2, 1, 4)):
        x = rng.standard_normal(shape)
        check(f, [x])
        check(lambda x: f(tg.permute_dims(x, (2, 0, 1))), [x])


@pytest.mark.parametrize("name", SOME)
def test_places_beyond_32_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of large arrays, on small ones."""
    monkeypatch.setattr(rows, "LAST", 0)
    x = rng.standard_normal((9, 21))
    check(FUNCTIONS[name], [x])
    check(lambda x: FUNCTIONS[name](x.T), [x])


def test_few_long_rows_are_not_reduced_by_a_block_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "LONG", 40)
    fused = eager_fusion.Fused("norm", lambda xp, x: xp.sqrt(xp.sum(x * x, axis=1)))
    xp = backends.load("cuda").xp
    for shape, by_block in (((3, 50), False), ((3, 60), False), ((3, 30), True), ((3, 20), True), ((3, 99), False)):
        x = cupy.asarray(rng.standard_normal(shape))
        for _ in range(2):
            np.testing.assert_allclose(cupy.asnumpy(fused(xp, x)), np.linalg.norm(cupy.asnumpy(x), axis=1), rtol=1e-14)
        assert (fused.entries[((x.shape, x.dtype),)] is not None) is by_block


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_dtypes(name: str, dtype: str) -> None:
    x = rng.standard_normal((4, 6))
    check(FUNCTIONS[name], [x], dtype, 2e-2 if dtype == "float16" else 1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bfloat16(name: str) -> None:
    """A kernel agrees with the operations one by one, rounding after each."""
    pytest.importorskip("ml_dtypes")
    x = rng.standard_normal((4, 6))
    one_by_one = computed(FUNCTIONS[name], [x], "cuda", "bfloat16")
    for a, b in zip(computed(FUNCTIONS[name], [x], "cuda", "bfloat16"), one_by_one, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", ["gelu", "gelu tanh", "softmax -1", "var 0 False"])
def test_empty(name: str) -> None:
    check(FUNCTIONS[name], [np.zeros((3, 0))])


def test_no_axes() -> None:
    for name in ("gelu", "gelu tanh"):
        check(FUNCTIONS[name], [np.asarray(0.3)])


def test_numbers_that_change_are_parameters() -> None:
    """Numbers of the first call are literals; others are given to a kernel that takes any."""
    for power in (2.5, 1.5, 3.5, 2.5):
        check(lambda x, power=power: tg.clip(x, -power, power) / (x + power), [rng.uniform(1, 2, (3, 4))])


def test_no_trace_for_a_third_size(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gelu", "gelu tanh", "softmax -1"):
        f = FUNCTIONS[name]
        for n in (11, 12, 13):  # two traces that agree, if others have not been made before
            check(f, [rng.standard_normal((n, 2 * n + 1))])
        with monkeypatch.context() as patch:
            patch.setattr(eager_fusion, "traced", None)
            check(f, [rng.standard_normal((14, 50))])


@pytest.mark.parametrize("f", [tg.var, tg.std])
def test_a_number_that_is_equal_for_some_sizes(f: Any) -> None:
    """The divisor of a variance is 0 up to the correction, and grows from there."""
    for n in (3, 4, 10, 5, 6, 2, 9):
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of NumPy, for few degrees of freedom
            check(lambda x: f(x, axis=-1, correction=5), [rng.standard_normal((n, n))])


@pytest.mark.parametrize("ord", [0, 1, 2, 3, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_norms_of_integers_are_floating(dtype: str, ord: float) -> None:
    x = rng.integers(0, 9, (3, 4)).astype(dtype)
    for _ in range(2):
        found, expected = (tg.linalg.vector_norm(tg.asarray(x, device=d), axis=-1, ord=ord) for d in ("cuda", "cpu"))
        np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-12, strict=True)


def test_what_looks_at_values_is_called() -> None:
    def looks(xp: Any, x: Any) -> Any:
        return x * 2 if bool(x[0] > 0) else x * 3 + 1

    fused = eager_fusion.Fused("looks", looks)
    xp = backends.load("cuda").xp
    for first in (1.0, -1.0, 1.0):
        x = np.asarray([first, 2.0])
        np.testing.assert_array_equal(cupy.asnumpy(fused(xp, cupy.asarray(x))), looks(np, x))


def test_a_function_of_which_nothing_fuses_is_not_traced_any_more() -> None:
    calls = []

    def single(xp: Any, x: Any, n: int) -> Any:
        calls.append(type(x))
        return x * n

    xp = backends.load("cuda").xp
    fused = eager_fusion.Fused("single", single)
    for n in range(2 * eager_fusion.TRIES):
        fused(xp, cupy.ones(3), n)
    assert [kind is cupy.ndarray for kind in calls[eager_fusion.TRIES :]] == [True] * eager_fusion.TRIES
    calls.clear()
    fused = eager_fusion.Fused("double", lambda xp, x: single(xp, x, 2))  # one operation, whatever the array
    for n in range(3, 6):
        fused(xp, cupy.ones(n))
    assert [kind is cupy.ndarray for kind in calls] == [False, True, True]


def test_another_device() -> None:
    """A kernel runs where its operands are, whichever device is the current one."""
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("one device")
    for f in (tg.gelu, tg.softmax):
        x = tg.tensor(rng.standard_normal((3, 4)), device="cuda:1")
        with cupy.cuda.Device(1):
            expected = [f(x) for _ in range(2)][1]  # traced, then run
        y = f(x)
        assert y.device == "cuda:1"
        np.testing.assert_array_equal(np.asarray(y.to_device("cpu")), np.asarray(expected.to_device("cpu")))


def test_labels_on_another_device_are_refused() -> None:
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("one device")
    x = tg.tensor(rng.standard_normal((3, 4)), device="cuda:0")
    labels = tg.tensor(np.zeros(3, int), device="cuda:0")
    for _ in range(2):
        tg.cross_entropy(x, labels)
    with pytest.raises(TypeError, match="operands on cuda:0 and cuda:1"):
        tg.cross_entropy(x, tg.tensor(np.zeros(3, int), device="cuda:1"))


def test_higher_derivatives_and_vmap() -> None:
    for _ in range(3):
        for name in ("gelu", "gelu tanh", "softmax -1", "logsumexp 1 False", "var 1 False", "vector_norm 1 False"):
            f = FUNCTIONS[name]
            x = rng.standard_normal((3, 4))
            transforms: tuple[Callable[..., Any], ...] = (
                lambda g: tg.grad(lambda v: tg.sum(tg.grad(lambda u: tg.sum(g(u) ** 2))(v) ** 2)),
                lambda g: tg.vmap(tg.grad(lambda v: tg.sum(g(tg.stack([v, v])) ** 2))),
                lambda g: lambda v: tg.jvp(g, (v,), (v * v,))[1],
                tg.jacobian,
            )
            for transform in transforms:
                a, b = (transform(f)(tg.asarray(x, device=device)) for device in ("cuda", "cpu"))
                np.testing.assert_allclose(np.asarray(a.to_device("cpu")), np.asarray(b), rtol=1e-10, atol=1e-10)
