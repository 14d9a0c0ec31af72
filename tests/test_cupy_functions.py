"""CuPy's functions that are not NumPy's: values of every dtype, at the ends of domains, and waits of the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from places import why_not

import tapegrad as tg
from tapegrad import backends
from tapegrad import special as sp

if why := why_not("cuda"):
    pytest.skip(why, allow_module_level=True)

import cupy

INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
REALS = [*INTEGERS, "float16", "float32", "float64"]
inf, nan = np.inf, np.nan


def on_device(values: Any, dtype: Any = None) -> tg.Tensor:
    return tg.tensor(np.asarray(values, dtype), device="cuda")


def on_host(x: tg.Tensor) -> np.ndarray[Any, Any]:
    return np.asarray(x.detach().to_device("cpu"))


# -- adding at indices ---------------------------------------------------------------------------------------

KEYS: dict[str, tuple[Any, ...]] = {
    "rows": (np.asarray([0, 0, 3, -1]), slice(None)),
    "columns": (slice(None), np.asarray([[2, 0], [0, 0]])),
    "elements": (np.asarray([1, 1, 2]), np.asarray([0, 0, 2])),
    "none": (np.asarray([], np.int64), slice(None)),
}


@pytest.mark.parametrize("dtype", ["bool", *REALS, "complex64", "complex128"])
@pytest.mark.parametrize("at", KEYS)
def test_adding_at_indices(dtype: str, at: str) -> None:
    """Repeated indices add up, and integers wrap, as on NumPy."""
    key = KEYS[at]
    table = np.arange(12).reshape(4, 3).astype(dtype)
    value = (100 * np.ones(table[key].shape)).astype(dtype)
    expected = table.copy()
    np.add.at(expected, key, value)
    cuda = backends.load("cuda")
    device_key = tuple(cupy.asarray(i) if hasattr(i, "shape") else i for i in key)
    for a in (cupy.asarray(table), cupy.asarray(np.repeat(table, 2, axis=1))[:, ::2]):
        got = cuda.index_add(a, device_key, cupy.asarray(value))
        assert got.dtype == dtype
        np.testing.assert_array_equal(got.get(), expected)


# -- division and signs --------------------------------------------------------------------------------------


def extremes(dtype: str) -> np.ndarray[Any, Any]:
    """Return numbers of a dtype at the ends of its range, around zero, and ordinary ones."""
    if np.dtype(dtype).kind == "f":
        limits = np.finfo(dtype)
        values = [0.0, -0.0, 1, -1, 0.1, -0.1, 0.3, 3, -3, 2.5, 7, 1000.5, limits.max, limits.tiny, inf, -inf, nan]
        return np.asarray(values, dtype)
    ends = np.iinfo(dtype)
    inside = [n for n in (-7, -3, -2, -1, 0, 1, 2, 3, 7) if n >= ends.min]
    return np.asarray([ends.min, ends.min + 1, *inside, ends.max - 1, ends.max], dtype)


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("name", ["floor_divide", "remainder"])
def test_division_is_numpys(name: str, dtype: str) -> None:
    x, y = (a.ravel().copy() for a in np.meshgrid(extremes(dtype), extremes(dtype)))
    with np.errstate(all="ignore"):
        expected = getattr(np, name)(x, y)
    got = on_host(getattr(tg, name)(on_device(x), on_device(y)))
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(np.signbit(got)[expected == 0], np.signbit(expected)[expected == 0])


def test_division_of_numbers_and_mixed_dtypes() -> None:
    x = on_device([1.0, 2.5], np.float32)
    assert (x % 0.5).dtype is tg.float32
    assert on_host(1.0 // on_device([0.1])) == [9.0]
    both = tg.floor_divide(x, on_device([0.5, 2.0]))
    assert both.dtype is tg.float64
    np.testing.assert_array_equal(on_host(both), [2.0, 1.0])
    np.testing.assert_array_equal(on_host(on_device([7, -7]) // 2), [3, -4])
    truth = cupy.asarray([True, False])
    assert (backends.load("cuda").xp.floor_divide(truth, truth).get() == [1, 0]).all()
    assert backends.load("cuda").xp.remainder(truth, truth).dtype == np.int8


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "float16", "float32", "float64"])
def test_sign(dtype: str) -> None:
    x = extremes(dtype)
    np.testing.assert_array_equal(on_host(tg.sign(on_device(x))), np.sign(x))


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_sign_of_complex_numbers(dtype: str) -> None:
    parts = [0.0, 3.0, -4.0, inf, -inf, nan]
    z = np.asarray([complex(a, b) for a in parts for b in parts], dtype)
    with np.errstate(all="ignore"):
        expected = np.sign(z)
    np.testing.assert_allclose(on_host(tg.sign(on_device(z))), expected, rtol=1e-6)


@pytest.mark.parametrize("endpoint", [True, False])
def test_numbers_between_complex_ends(endpoint: bool) -> None:
    got = tg.linspace(1 + 1j, 2, 5, device="cuda", endpoint=endpoint)
    np.testing.assert_allclose(on_host(got), np.linspace(1 + 1j, 2, 5, endpoint=endpoint), rtol=1e-15)


# -- writing where a mask holds ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "value"),
    [
        ([True, False, True], 5.0),
        ([True, False, True], [1.0, 2.0]),
        ([True, False, True], [[1.0, 2.0], [3.0, 4.0]]),
        ([[True, False], [False, True], [False, False]], 5.0),
        ([[True, False], [False, True], [False, False]], [7.0, 8.0]),
        ([False, False, False], 5.0),
    ],
)
def test_writing_where_a_mask_holds(mask: Any, value: Any) -> None:
    x, expected = on_device(np.zeros((3, 2))), np.zeros((3, 2))
    x[on_device(mask)] = on_device(value)
    expected[np.asarray(mask)] = np.asarray(value)
    np.testing.assert_array_equal(on_host(x), expected)


# -- linear systems ------------------------------------------------------------------------------------------

MATRICES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "one matrix": ((3, 3), (2, 3, 4)),
    "one right-hand side": ((2, 3, 3), (3, 4)),
    "a vector": ((2, 3, 3), (3,)),
    "both": ((2, 1, 3, 3), (5, 3, 4)),
    "none": ((0, 3, 3), (3, 4)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("name", MATRICES)
def test_solving_with_leading_axes_that_broadcast(name: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    first, second = MATRICES[name]
    a = (rng.normal(size=first) + 4 * np.eye(3)).astype(dtype)
    b = rng.normal(size=second).astype(dtype)
    expected = np.linalg.solve(a, b if b.ndim > 1 else np.broadcast_to(b[:, None], (*first[:-1], 1)))
    got = on_host(tg.linalg.solve(on_device(a), on_device(b)))
    np.testing.assert_allclose(
        got, expected if b.ndim > 1 else expected[..., 0], rtol=1e-4 if dtype == "float32" else 1e-12
    )


def test_derivatives_of_solutions_of_many_systems() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 3)) + 4 * np.eye(3), rng.normal(size=(2, 3))
    solve = tg.linalg.solve
    per_system: dict[str, Callable[..., Any]] = {
        "jacobian": tg.jacobian(lambda a: solve(a, b.T.copy() if a.device == "cpu" else on_device(b.T.copy()))),
        "hessian": tg.hessian(lambda a: tg.sum(solve(a, tg.asarray(b[0], device=a.device)) ** 2)),
        "vmap": lambda a: tg.vmap(tg.jacobian(solve), in_axes=(None, 0))(a, tg.asarray(b, device=a.device)),
    }
    for name, derivative in per_system.items():
        expected, got = (derivative(tg.tensor(a, device=device)) for device in ("cpu", "cuda"))
        np.testing.assert_allclose(on_host(got), on_host(expected), rtol=1e-9, atol=1e-12, err_msg=name)


# -- special functions against mpmath --------------------------------------------------------------------------

mp: Any = pytest.importorskip("mpmath")
FAR = [0.5, 1.0, 2.5, 5.0, 8.1, 26.0, 38.0, 49.0, 51.0, 88.0, 90.0, 150.0, 700.0, 1e3, 1e5]
LINE = [0.0, *[s * x for x in (1e-300, 1e-20, 1e-5, 0.1, 0.3, *FAR, 1e8) for s in (1, -1)]]
UNIT = [0.0, 1e-300, 1e-20, 1e-5, 0.01, 0.3, 0.5 - 1e-10, 0.5, 0.5 + 1e-5, 0.6, 0.9, 1 - 1e-10, 1 - 2**-53, 1.0]
PLANE = [0.0, 1e-300, 1e-160, 1e-20, 0.1, 0.5, 1.0, 1 + 1e-9, 2.0, 50.0, 1e10, 1e160, 1e300]


def normal(x: Any) -> Any:
    return mp.erfc(-x / mp.sqrt(2)) / 2


def log_normal(x: Any) -> Any:
    if x > -1000:
        return mp.log1p(-normal(-x)) if x > 0 else mp.log(normal(x))
    return -x * x / 2 - mp.log(-x * mp.sqrt(2 * mp.pi)) + mp.log(1 - 1 / x**2 + 3 / x**4)


def scaled_erfc(x: Any) -> Any:
    if x < 1000:
        return mp.exp(x * x) * mp.erfc(x)
    return (1 - 1 / (2 * x**2) + 3 / (4 * x**4)) / (x * mp.sqrt(mp.pi))


def scaled_bessel(order: int) -> Callable[[Any], Any]:
    def value(x: Any) -> Any:
        if abs(x) < 1e6:
            return mp.besseli(order, x) * mp.exp(-abs(x))
        series = 1 - (4 * order - 1) / (8 * abs(x))
        return series / mp.sqrt(2 * mp.pi * abs(x)) * (mp.sign(x) if order else 1)

    return value


def inverse_normal(x: Any) -> Any:
    if x in (0, 1):
        return mp.inf if x else -mp.inf
    if x > mp.mpf(0.5):
        return -inverse_normal(1 - x)
    if x > mp.mpf("1e-12"):
        return mp.sqrt(2) * mp.erfinv(2 * x - 1)
    return mp.findroot(lambda z: mp.log(normal(z)) - mp.log(x), -mp.sqrt(-2 * mp.log(x)))


def inverse_erf(x: Any) -> Any:
    return mp.sign(x) * mp.inf if abs(x) == 1 else mp.erfinv(x) if abs(x) > 1e-30 else x * mp.sqrt(mp.pi) / 2


EXACT: dict[str, tuple[list[float], Callable[..., Any]]] = {
    "digamma": (LINE, lambda x: mp.digamma(x)),
    "entr": ([abs(x) for x in LINE], lambda x: -x * mp.log(x) if x else 0),
    "erf": (LINE, lambda x: mp.erf(x)),
    "erfc": (LINE, lambda x: mp.erfc(x)),
    "erfcx": (LINE, scaled_erfc),
    "erfinv": ([s * x for x in UNIT for s in (1, -1)], inverse_erf),
    "expit": (LINE, lambda x: 1 / (1 + mp.exp(-x))),
    "gammaln": (LINE, lambda x: mp.re(mp.loggamma(x))),
    "i0": (LINE, lambda x: mp.besseli(0, x) if abs(x) < 800 else mp.inf),
    "i0e": (LINE, scaled_bessel(0)),
    "i1": (LINE, lambda x: mp.besseli(1, x) if abs(x) < 800 else mp.sign(x) * mp.inf),
    "i1e": (LINE, scaled_bessel(1)),
    "log_expit": (LINE, lambda x: -mp.log1p(mp.exp(-x)) if x > -1000 else x),
    "log_ndtr": (LINE, log_normal),
    "logit": (UNIT, lambda x: -mp.inf if x == 0 else mp.inf if x == 1 else mp.log(x / (1 - x))),
    "ndtr": (LINE, normal),
    "ndtri": (UNIT, inverse_normal),
    "polygamma": ([x for x in LINE if x > -50], lambda x: mp.polygamma(1, x)),
    "sinc": ([x for x in LINE if abs(x) < 100], lambda x: mp.sinc(mp.pi * x)),
    "betaln": (PLANE[3:-2], lambda x, y: mp.loggamma(x) + mp.loggamma(y) - mp.loggamma(x + y)),
    "rel_entr": (PLANE, lambda x, y: 0 if x == 0 else x * mp.log(x / y) if y else mp.inf),
    "xlog1py": (PLANE, lambda x, y: x * mp.log1p(y)),
    "xlogy": (PLANE, lambda x, y: x * mp.log(y) if x else 0),
}
SHARED = {"expit", "psi", "softmax", "log_softmax", "logsumexp"}  # under another name, or not of one element


def test_every_special_function_is_compared() -> None:
    assert set(sp.__all__) - set(EXACT) <= SHARED | {"gammainc", "gammaincc"}  # in test_incomplete_gamma


def at_no_pole(exact: Callable[..., Any], point: tuple[float, ...]) -> float:
    """Return the value at a point, NaN where there is none."""
    with mp.workdps(60):
        try:
            return float(exact(*map(mp.mpf, map(float, point))))
        except (ValueError, ZeroDivisionError):
            return nan


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", EXACT)
def test_special_functions_at_the_ends_of_their_domains(name: str, dtype: str) -> None:
    points, exact = EXACT[name]
    f: Any = (lambda x: sp.polygamma(1, x)) if name == "polygamma" else getattr(sp, name)
    limits = np.finfo(dtype)
    axis = np.asarray([x for x in points if x == 0 or float(limits.tiny) <= abs(x) <= float(limits.max)], dtype)
    xs = [a.ravel() for a in np.meshgrid(axis, axis)] if exact.__code__.co_argcount == 2 else [axis]
    with np.errstate(all="ignore"):
        expected = np.asarray([at_no_pole(exact, point) for point in zip(*xs, strict=True)]).astype(dtype)
    there = ~np.isnan(expected)
    got = on_host(f(*map(on_device, xs)))
    assert got.dtype == dtype
    rtol = {"betaln": 1e-8}.get(name, 1e-12) if dtype == "float64" else 2e-5
    # Numbers below the smallest normal one may be flushed to 0; sinc is as precise as the argument of its sine.
    atol = 10 * limits.eps if name in ("sinc", "betaln") else 2 * limits.tiny
    np.testing.assert_allclose(got[there], expected[there], rtol=rtol, atol=float(atol))


@pytest.mark.parametrize("name", [n for n in EXACT if n != "polygamma"])
def test_special_functions_of_what_is_no_number(name: str) -> None:
    two = EXACT[name][1].__code__.co_argcount == 2
    xs = [[nan, nan, 0.5, 0.0], [nan, 0.5, nan, nan]] if two else [[nan, inf, -inf, 2.0]]
    with np.errstate(all="ignore"):
        expected, got = (getattr(sp, name)(*[tg.tensor(x, device=device) for x in xs]) for device in ("cpu", "cuda"))
    np.testing.assert_array_equal(np.isnan(on_host(got)), np.isnan(on_host(expected)))
