"""Matrix products on CuPy as cuBLAS calls: operands of all layouts, ranks and dtypes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from places import why_not

if why := why_not("cuda"):
    pytest.skip(why, allow_module_level=True)

import cupy

from tapegrad.backends._cupy.cublas import Cublas, Matrix, matrix_of, product_of

Make = Callable[[tuple[int, ...]], Any]


def random(dtype: str) -> Make:
    """Return a maker of random arrays on the device."""
    rng = np.random.default_rng(0)

    def make(shape: tuple[int, ...]) -> Any:
        values = rng.normal(size=shape)
        if np.dtype(dtype).kind == "c":
            values = values + 1j * rng.normal(size=shape)
        return cupy.asarray(values.astype(dtype))

    return make


def variants(make: Make, shape: tuple[int, ...]) -> Iterator[Any]:
    """Give arrays of a shape that lie in memory in all ways that matter to cuBLAS."""
    yield make(shape)
    yield make((*shape[:-2], shape[-1], shape[-2])).mT
    yield make((*shape[:-1], shape[-1] + 3))[..., : shape[-1]]
    yield cupy.broadcast_to(make(shape[-2:]), shape)
    yield make((*shape[:-1], 2 * shape[-1]))[..., ::2]
    yield make(shape)[..., ::-1]
    if len(shape) > 2:
        yield cupy.moveaxis(make((*shape[1:-1], shape[0], shape[-1])), -2, 0)
        yield cupy.broadcast_to(make((shape[0], *(1,) * (len(shape) - 3), *shape[-2:])), shape)


def check(cublas: Cublas, a: Any, b: Any) -> bool:
    """Compute a product in place of NumPy's; say whether there is a call for it that copies nothing."""
    expected = a.get() @ b.get()
    plan = product_of(matrix_of(a), matrix_of(b), expected.shape)
    if plan is None:
        return False
    out = cupy.full(expected.shape, np.nan, expected.dtype)
    cublas.multiply(plan, a, b, out)
    eps = float(np.finfo(a.dtype).eps)
    np.testing.assert_allclose(out.get(), expected, rtol=20 * eps, atol=20 * eps)
    return True


@pytest.fixture
def cublas() -> Cublas:
    return Cublas(cupy)


@pytest.mark.parametrize("lead", [(), (1,), (3,), (2, 3), (1, 3)])
def test_products_of_all_layouts_are_cublas_calls(cublas: Cublas, lead: tuple[int, ...]) -> None:
    make = random("float64")
    copied = 0
    for other, (m, k, n) in product([(), (1,), (3,), (2, 1)], product([1, 2, 5], [1, 3], [1, 2, 6])):
        if lead and other and other[-1] not in (1, lead[-1]):
            continue
        for a, b in product(variants(make, (*lead, m, k)), variants(make, (*other, k, n))):
            if not check(cublas, a, b):
                copied += 1
                assert any(x.strides[-1] != x.itemsize or 0 in x.strides for x in (a, b))
    assert copied


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
def test_products_of_all_dtypes(cublas: Cublas, dtype: str) -> None:
    make = random(dtype)
    for a, b in [((3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (5, 4, 2))]:
        assert check(cublas, make(a), make(b))
        assert check(cublas, make((*a[:-2], a[-1], a[-2])).mT, make(b))


def test_products_with_vectors(cublas: Cublas) -> None:
    make = random("float64")
    for a, b in [((4,), (4,)), ((4,), (4, 3)), ((3, 4), (4,)), ((2, 3, 4), (4,)), ((4,), (2, 4, 3))]:
        assert check(cublas, make(a), make(b))


def test_rows_of_a_stack_merge() -> None:
    plan = product_of(Matrix((8, 5, 4), (20, 4, 1)), Matrix((4, 3), (3, 1)), (8, 5, 3))
    assert plan is not None
    assert (plan.m, plan.n, plan.k, plan.batch) == (3, 40, 4, 1)
