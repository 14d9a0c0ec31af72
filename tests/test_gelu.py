"""Both forms of gelu on every place: values, derivatives, tails, small dtypes, compiled."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg

pytest.importorskip("scipy.special")
X = np.asarray([-30.0, -8.0, -1.5, -0.25, 0.0, 0.5, 2.0, 9.0, 200.0])


def exact(x: float) -> float:
    return 0.5 * x * math.erfc(-x / math.sqrt(2.0))


def by_tanh(x: float) -> float:
    return 0.5 * x * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def exact_slope(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0)) + x * math.exp(-x * x / 2.0) / math.sqrt(2.0 * math.pi)


FORMS: dict[str, Callable[[float], float]] = {"none": exact, "tanh": by_tanh}


@pytest.mark.parametrize("form", FORMS)
def test_values_and_slopes(xp: Place, form: str) -> None:
    x = xp.tensor(X)
    f = partial(tg.gelu, approximate=form)
    xp.check(f(x), [FORMS[form](v) for v in X], rtol=1e-13)
    step = 1e-5
    slopes = [(FORMS[form](v + step) - FORMS[form](v - step)) / (2 * step) for v in X]
    for g in (tg.grad(lambda x: tg.sum(f(x)))(x), tg.jvp(f, (x,), (tg.ones_like(x),))[1], tg.vmap(tg.grad(f))(x)):
        assert g.dtype == x.dtype
        xp.check(g, slopes, rtol=1e-8)


def test_the_exact_form_is_the_default(xp: Place) -> None:
    x = xp.tensor(X)
    np.testing.assert_array_equal(xp.values(tg.gelu(x)), xp.values(tg.gelu(x, approximate="none")))
    xp.check(tg.grad(lambda x: tg.sum(tg.gelu(x)))(x), [exact_slope(v) for v in X], rtol=1e-13)


def test_digits_in_the_tail() -> None:
    for v in (-3.0, -12.0, -35.0):
        y, g = tg.value_and_grad(tg.gelu)(v)
        np.testing.assert_allclose([y, g], [exact(v), exact_slope(v)], rtol=3e-13)


@pytest.mark.parametrize("form", FORMS)
def test_a_third_derivative_and_large_values(form: str) -> None:
    f = partial(tg.gelu, approximate=form)
    third = tg.grad(tg.grad(tg.grad(f)))
    second = tg.grad(tg.grad(f))
    for v in (0.3, -1.1):
        np.testing.assert_allclose(third(v), (second(v + 1e-5) - second(v - 1e-5)) / 2e-5, rtol=1e-6)
    for v in (1e3, -1e3, 1e30, -1e30, 1e200):
        with np.errstate(over="ignore"):
            assert [float(tg.grad(f)(v)), float(second(v))] == [float(v > 0), 0.0]
    if form == "none":
        assert float(tg.grad(f)(math.inf)) == 1.0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("device", ["cpu", "torch:cpu"])
def test_dtypes(form: str, dtype: str, device: str) -> None:
    if device != "cpu":
        pytest.importorskip("torch")
    x = tg.asarray([-1.0, 0.5], dtype=dtype, device=device)
    y, g = tg.value_and_grad(lambda x: tg.sum(tg.gelu(x, approximate=form)))(x)
    assert y.dtype.name == g.dtype.name == dtype
    tolerance = {"float16": 2e-3, "float32": 1e-6, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(float(y), sum(FORMS[form](v) for v in (-1.0, 0.5)), rtol=10 * tolerance)


@pytest.mark.parametrize("form", FORMS)
def test_compiled(xp: Place, form: str) -> None:
    @tg.compile
    def step(x: Any) -> Any:
        return tg.value_and_grad(lambda x: tg.sum(tg.gelu(x * x - 1.0, approximate=form)))(x)

    x = xp.tensor([0.3, 1.5, 2.0])
    first = [xp.values(part) for part in step(x)]
    for _ in range(3):
        for a, b in zip(step(x), first, strict=True):
            xp.check(a, b, rtol=1e-12)


@pytest.mark.parametrize("form", ["erf", None, True, "TANH"])
def test_another_form_is_refused(form: Any) -> None:
    with pytest.raises(ValueError, match=r"gelu: approximate is 'none', .* or 'tanh', not "):
        tg.gelu(tg.ones(2), approximate=form)
