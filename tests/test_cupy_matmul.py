"""Products on CuPy: one cuBLAS call each, without copies of operands, alike eager and compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import product
from typing import Any

import numpy as np
import pytest
from cuda_stand_in import counted, is_installed
from places import why_not

if why := why_not("cuda"):
    pytest.skip(why, allow_module_level=True)

import tapegrad as tg

TOLERANCES = {"float16": 4e-3, "float32": 1e-5, "float64": 1e-12, "complex64": 1e-5, "complex128": 1e-12}
DTYPES = [*TOLERANCES, "bfloat16"]


def on_device(a: Any, dtype: str = "float64") -> tg.Tensor:
    if np.iscomplexobj(a) or not dtype.startswith("complex"):
        return tg.astype(tg.asarray(np.ascontiguousarray(a), device="cuda"), dtype)
    rng = np.random.default_rng(5)
    return on_device(a + 1j * rng.standard_normal(a.shape), dtype)


def on_host(x: tg.Tensor) -> np.ndarray[Any, Any]:
    wide = tg.astype(x.detach(), "complex128" if x.dtype.name.startswith("complex") else "float64")
    return np.asarray(wide.to_device("cpu"))


def layouts(shape: tuple[int, ...], dtype: str) -> Iterator[tg.Tensor]:
    """Give random arrays of a shape that lie in memory in every way that slices and permutations leave."""
    rng = np.random.default_rng(len(shape))
    *lead, m, n = shape
    yield on_device(rng.standard_normal(shape), dtype)
    yield tg.matrix_transpose(on_device(rng.standard_normal((*lead, n, m)), dtype))
    yield on_device(rng.standard_normal((*lead, m, n + 3)), dtype)[..., :n]
    yield on_device(rng.standard_normal((*lead, m, 2 * n)), dtype)[..., ::2]
    yield on_device(rng.standard_normal(shape), dtype)[..., ::-1, :]
    if lead:
        yield tg.permute_dims(on_device(rng.standard_normal((n, *lead, m)), dtype), (*range(1, len(shape)), 0))
        heads = on_device(rng.standard_normal((*lead[:-1], m, lead[-1], n)), dtype)
        yield tg.permute_dims(heads, (*range(len(lead) - 1), len(lead), len(lead) - 1, len(lead) + 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("first", "second"),
    [((), ()), ((3,), (3,)), ((3,), ()), ((), (3,)), ((2, 3), (2, 3)), ((2, 3), ()), ((2, 3), (3,)), ((2, 1), (1, 3))],
)
def test_every_layout_is_multiplied_by_one_call(first: tuple[int, ...], second: tuple[int, ...], dtype: str) -> None:
    tolerance = TOLERANCES.get(dtype, 1e-2)
    sizes = product((1, 3), (1, 2), (1, 4)) if dtype == "float64" else [(3, 2, 4)]
    for m, k, n in sizes:
        for x, y in product(layouts((*first, m, k), dtype), layouts((*second, k, n), dtype)):
            with counted() as counts:
                out = x @ y
            assert not is_installed() or counts.gemms == 1 or (m == n == 1 and counts.gemms == 0)
            assert out.dtype.name == dtype
            np.testing.assert_allclose(on_host(out), on_host(x) @ on_host(y), rtol=tolerance, atol=4 * tolerance)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((4,), (4,)),
        ((4,), (4, 3)),
        ((3, 4), (4,)),
        ((2, 3, 4), (4,)),
        ((4,), (2, 4, 3)),
        ((0, 3), (3, 2)),
        ((3, 0), (0, 2)),
    ],
)
def test_vectors_and_empty_matrices(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(first), rng.standard_normal(second)
    np.testing.assert_allclose(on_host(on_device(a) @ on_device(b)), a @ b)
    if first == second == (4,):
        np.testing.assert_allclose(on_host(on_device(a)[::-1] @ on_device(b)[::-1]), a @ b)


@pytest.mark.parametrize(("first", "second"), [((2, 3), (2, 3)), ((2, 3, 4), (3, 4, 5)), ((), (3,))])
def test_shapes_that_do_not_fit_raise_as_on_numpy(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"matmul|operands"):
        tg.ones(first, device="cuda") @ tg.ones(second, device="cuda")


def test_mixed_dtypes_and_integers() -> None:
    x, y = tg.ones((2, 3), dtype=tg.float32, device="cuda"), tg.ones((3, 2), dtype=tg.float16, device="cuda")
    assert (x @ y).dtype is tg.float32
    assert (tg.astype(x, tg.int64) @ tg.astype(y, tg.int64)).tolist() == [[3, 3], [3, 3]]


# -- how many calls, launches and copies -----------------------------------------------------------------


def rows_by_matrix(make: Any) -> Any:
    return make(4, 5, 6), make(6, 3), lambda x, w: x @ w


def by_transposed(make: Any) -> Any:
    return make(4, 5, 6), make(4, 7, 6), lambda x, y: x @ tg.matrix_transpose(y)


def by_transposed_matrix(make: Any) -> Any:
    return make(4, 5, 6), make(3, 6), lambda x, w: x @ w.T


def attention_scores(make: Any) -> Any:
    def scores(q: tg.Tensor, k: tg.Tensor) -> tg.Tensor:
        q, k = (tg.permute_dims(tg.reshape(x, (2, 5, 3, 4)), (0, 2, 1, 3)) for x in (q, k))
        return q @ tg.matrix_transpose(k)

    return make(2, 5, 12), make(2, 5, 12), scores


def matrices(make: Any) -> Any:
    return make(5, 6), make(6, 3), lambda x, w: x @ w


def vectors(make: Any) -> Any:
    return make(6), make(6), lambda x, y: x @ y


def contracted(make: Any) -> Any:
    return make(4, 5, 6), make(5, 6, 3), lambda x, y: tg.tensordot(x, y)


# Calls of cuBLAS and other launches, forward and backward. Where the strides of matrices do not merge, one launch
# computes their addresses; the gradient of one of the two that permute axes is copied into the order of the leaf.
COUNTS: dict[Callable[..., Any], tuple[int, int, int, int]] = {
    matrices: (1, 0, 2, 0),
    rows_by_matrix: (1, 0, 2, 0),
    by_transposed_matrix: (1, 0, 2, 0),
    by_transposed: (1, 0, 2, 0),
    contracted: (1, 0, 2, 0),
    vectors: (0, 1, 0, 1),
    attention_scores: (1, 1, 2, 3),
}
forms = pytest.mark.parametrize("form", COUNTS, ids=lambda f: f.__name__)


def operands(form: Callable[..., Any], dtype: str) -> tuple[tg.Tensor, tg.Tensor, Any]:
    rng = np.random.default_rng(0)
    a, b, f = form(lambda *shape: on_device(rng.standard_normal(shape), dtype))
    return tg.tensor(a, requires_grad=True), tg.tensor(b, requires_grad=True), f


@pytest.mark.skipif(not is_installed(), reason="the counts are those of the stand-in")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
@forms
def test_counts_of_products(form: Callable[..., Any], dtype: str) -> None:
    a, b, f = operands(form, dtype)
    for _ in range(2):  # the first compiles kernels and loads libraries
        a.grad = b.grad = None
        with counted() as forward:
            y = f(a, b)
        seed = tg.ones_like(y)
        with counted() as backward:
            y.backward(seed)
    gemms, launches, *of_gradients = COUNTS[form]
    assert (forward.gemms, forward.launches, backward.gemms) == (gemms, launches, of_gradients[0])
    if not dtype.startswith("complex"):  # whose cotangents and gradients are conjugated
        assert backward.launches == of_gradients[1]
    for counts in (forward, backward):
        assert (counts.copies_on_device, counts.copies_in, counts.waits) == (0, 0, 0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
@forms
def test_compiled_products_are_the_eager_ones_to_the_bit(form: Callable[..., Any], dtype: str) -> None:
    a, b, f = operands(form, dtype)

    def step(a: tg.Tensor, b: tg.Tensor) -> Any:
        y, pull = tg.vjp(f, a, b)
        return y, *pull(tg.ones_like(y))

    compiled = tg.compile(step)
    for _ in range(5):
        compiled(a.detach(), b.detach())
    with counted() if is_installed() else nullcontext() as counts:
        found = compiled(a.detach(), b.detach())
    for x, y in zip(found, step(a.detach(), b.detach()), strict=True):
        np.testing.assert_array_equal(on_host(x), on_host(y))
    if counts is not None:
        assert (counts.graph_launches, counts.gemms, counts.waits) == (1, 0, 0)  # all is captured


@pytest.mark.parametrize("dtype", DTYPES)
def test_dot_products_are_one_launch(dtype: str) -> None:
    rng = np.random.default_rng(0)
    x, y = on_device(rng.standard_normal((4, 5, 6)), dtype), on_device(rng.standard_normal((5, 4, 1)), dtype)
    expected = np.sum(np.conj(on_host(x)) * np.swapaxes(on_host(y), 0, 1), axis=1)
    y = tg.permute_dims(y, (1, 0, 2))
    compiled = tg.compile(lambda x, y: tg.vecdot(x, y, axis=-2))
    for _ in range(5):
        compiled(x, y)
    tolerance = TOLERANCES.get(dtype, 1e-2)
    eager: Callable[..., Any] = lambda x, y: tg.vecdot(x, y, axis=-2)  # noqa: E731
    for f, counted_as in ((eager, "launches"), (compiled, "graph_launches")):
        with counted() if is_installed() else nullcontext() as counts:
            found = f(x, y)
        np.testing.assert_allclose(on_host(found), expected, rtol=tolerance, atol=4 * tolerance)
        if counts is not None:
            conjugates = counted_as == "launches" and dtype.startswith("complex")
            assert (getattr(counts, counted_as), counts.gemms, counts.waits) == (1 + conjugates, 0, 0)


# -- TF32 ------------------------------------------------------------------------------------------------


def rounded(a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return float32 numbers rounded to 10 bits of fraction."""
    bits = a.view(np.uint32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)).view(np.float32)


@pytest.mark.skipif(not is_installed(), reason="a device may multiply small matrices in float32 all the same")
def test_tf32_is_a_setting_that_products_obey_eager_and_compiled() -> None:
    rng = np.random.default_rng(0)
    for shapes in [((5, 6), (6, 4)), ((3, 5, 6), (3, 6, 4))]:
        a, b = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
        x, y = (tg.asarray(z, device="cuda") for z in (a, b))
        compiled = tg.compile(tg.matmul)
        exact, fast = a @ b, rounded(a) @ rounded(b)
        assert np.abs(exact - fast).max() > 1e-4
        for _ in range(2):
            for _ in range(4):
                for f in (tg.matmul, compiled):
                    np.testing.assert_allclose(on_host(f(x, y)), exact, rtol=1e-5, atol=1e-5)
                    with tg.tf32(True):
                        np.testing.assert_allclose(on_host(f(x, y)), fast, rtol=1e-5, atol=1e-5)
        double = on_device(a.astype(np.float64)), on_device(b.astype(np.float64))
        with tg.tf32(True):
            np.testing.assert_allclose(on_host(tg.matmul(*double)), a.astype(np.float64) @ b, rtol=1e-12)
