"""The incomplete gamma functions: derivatives in both operands against mpmath, over the whole domain."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

import tapegrad as tg

pytest.importorskip("scipy.special")
mp: Any = pytest.importorskip("mpmath")

# From the series for small operands to large parameters, in the body and in both tails.
PLACES = [
    *((1e-3, 1e-2), (1e-3, 5.0), (0.07, 1.7), (0.3, 0.2), (0.9, 0.99), (1.0, 1.0), (2.5, 0.01), (2.5, 12.0)),
    *((12.7, 16.3), (40.0, 8.0), (40.0, 90.0), (500.0, 480.0), (500.0, 620.0), (9e3, 9.1e3)),
]


def regularized(lower: bool, a: Any, x: Any) -> Any:
    return mp.gammainc(a, 0, x, regularized=True) if lower else mp.gammainc(a, x, mp.inf, regularized=True)


@pytest.mark.parametrize("name", ["gammainc", "gammaincc"])
@pytest.mark.parametrize("place", PLACES)
def test_slopes(name: str, place: tuple[float, float]) -> None:
    f = getattr(tg.special, name)
    with mp.workdps(40):
        a, x = map(mp.mpf, place)
        of_both: Any = partial(regularized, name == "gammainc")
        step = mp.mpf(10) ** -12
        expected = [
            mp.diff(lambda u: of_both(u, x), a, h=a * step),
            mp.diff(lambda v: of_both(a, v), x, h=x * step),
        ]
        found = tg.grad(f, (0, 1))(*place)
        for got, want in zip(found, expected, strict=True):
            assert abs(float(got) - want) < 1e-10 * abs(want)


@pytest.mark.parametrize("name", ["gammainc", "gammaincc"])
def test_second_derivatives(name: str) -> None:
    f = getattr(tg.special, name)
    for a, x in ((0.3, 0.2), (0.3, 1.5), (2.0, 3.0), (30.0, 28.0)):
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            with mp.workdps(40):
                order = [0, 0]
                order[i] += 1
                order[j] += 1
                of_both: Any = partial(regularized, name == "gammainc")
                expected = mp.diff(of_both, (mp.mpf(a), mp.mpf(x)), tuple(order), h=mp.mpf(10) ** -9)
            found = tg.grad(tg.grad(f, i), j)(a, x)
            np.testing.assert_allclose(float(found), float(expected), rtol=1e-8, atol=1e-12)


def test_ends() -> None:
    """At 0 the slope is the density's limit; no derivative is NaN at infinity."""
    slope = tg.vmap(tg.grad(tg.special.gammainc, 1))
    np.testing.assert_array_equal(slope(tg.asarray([0.5, 1.0, 2.0]), tg.zeros(3)), [np.inf, 1.0, 0.0])
    for x in (0.0, np.inf):
        assert float(tg.grad(tg.special.gammainc, 0)(2.0, x)) == 0.0
    assert float(tg.grad(tg.special.gammaincc, 1)(2.0, np.inf)) == 0.0
