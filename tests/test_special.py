"""Special functions at their singular points, in their tails, without SciPy, and as SciPy finds them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad import special as sp

scipy = pytest.importorskip("scipy.special")
inf, nan = np.inf, np.nan


def slopes(f: Callable[..., Any], *xs: float) -> list[float]:
    """Return the derivative in each argument."""
    leaves = [tg.tensor(x, requires_grad=True) for x in xs]
    with np.errstate(all="ignore"):
        f(*leaves).backward()
    return [x.grad.item() if x.grad is not None else nan for x in leaves]


def run(code: str, **env: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **env}, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# -- where a derivative is undefined or infinite ------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "x", "value", "slope"),
    [
        (sp.erf, inf, 1, 0),
        (sp.erf, -inf, -1, 0),
        (sp.erfc, inf, 0, 0),
        (sp.erfcx, inf, 0, 0),
        (sp.erfcx, -inf, inf, -inf),
        (sp.erfinv, 1.0, inf, inf),
        (sp.erfinv, -1.0, -inf, inf),
        (sp.ndtr, -inf, 0, 0),
        (sp.ndtr, inf, 1, 0),
        (sp.log_ndtr, -inf, -inf, inf),
        (sp.log_ndtr, inf, 0, 0),
        (sp.ndtri, 0.0, -inf, inf),
        (sp.ndtri, 1.0, inf, inf),
        (sp.logit, 0.0, -inf, inf),
        (sp.logit, 1.0, inf, inf),
        (sp.log_expit, -inf, -inf, 1),
        (sp.log_expit, inf, 0, 0),
        (sp.gammaln, 0.0, inf, 0),
        (sp.gammaln, -2.0, inf, 0),
        (sp.gammaln, inf, inf, inf),
        (sp.digamma, 0.0, -inf, 0),
        (sp.digamma, inf, inf, 0),
        (lambda x: sp.polygamma(1, x), -1.0, inf, 0),
        (sp.entr, 0.0, 0, inf),
        (sp.entr, -1.0, -inf, 0),
        (sp.i0, 1000.0, inf, inf),
        (sp.i1, 1000.0, inf, inf),
        (sp.i1, 0.0, 0, 0.5),
        (sp.i0e, 0.0, 1, 0),
        (sp.i1e, 0.0, 0, 0.5),
        (sp.i0e, inf, 0, 0),
        (sp.i1e, -inf, 0, 0),
        (sp.sinc, 0.0, 1, 0),
    ],
)
def test_values_and_slopes_of_one_argument(f: Any, x: float, value: float, slope: float) -> None:
    assert f(tg.asarray(x)).item() == value
    assert slopes(f, x) == [slope]


@pytest.mark.parametrize(
    ("f", "x", "y", "value", "expected"),
    [
        (sp.xlogy, 0.0, 0.0, 0, [-inf, 0]),
        (sp.xlogy, 0.0, 2.0, 0, [np.log(2), 0]),
        (sp.xlogy, 1.0, 0.0, -inf, [-inf, inf]),
        (sp.xlog1py, 0.0, -1.0, 0, [-inf, 0]),
        (sp.xlog1py, 2.0, 0.0, 0, [0, 2]),
        (sp.rel_entr, 0.0, 0.0, 0, [0, 0]),
        (sp.rel_entr, 0.0, 1.0, 0, [-inf, 0]),
        (sp.rel_entr, 1.0, 0.0, inf, [inf, -inf]),
        (sp.rel_entr, -1.0, 1.0, inf, [0, 0]),
        (sp.rel_entr, 1.0, -1.0, inf, [0, 0]),
        (sp.betaln, 0.0, 1.0, inf, [np.euler_gamma, 0]),
    ],
)
def test_values_and_slopes_of_two_arguments(f: Any, x: float, y: float, value: float, expected: list[float]) -> None:
    assert f(tg.asarray(x), y).item() == value
    np.testing.assert_allclose(slopes(f, x, y), expected, atol=1e-15)


SINGULAR: list[tuple[Any, tuple[float, ...]]] = [
    *[(f, (x,)) for f in (sp.erf, sp.erfc, sp.erfcx, sp.ndtr, sp.log_ndtr, sp.log_expit) for x in (-inf, inf)],
    *[(f, (x,)) for f in (sp.i0, sp.i1, sp.i0e, sp.i1e) for x in (-inf, -1000.0, 0.0, inf)],
    *[(f, (x,)) for f in (sp.erfinv, sp.ndtri, sp.logit, sp.entr) for x in (-1.0, 0.0, 1.0)],
    *[(f, (x,)) for f in (sp.gammaln, sp.digamma) for x in (-3.0, 0.0, inf)],
    *[(lambda x: sp.polygamma(2, x), (x,)) for x in (-3.0, 0.0, 1e300)],
    *[
        (f, xy)
        for f in (sp.xlogy, sp.rel_entr)
        for xy in ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.0, -1.0), (-1.0, 2.0))
    ],
    *[(sp.xlog1py, xy) for xy in ((0.0, -1.0), (1.0, -1.0), (0.0, -3.0))],
    *[(sp.betaln, xy) for xy in ((0.0, 0.0), (-1.0, 2.0), (-1.0, 1.0), (inf, 1.0))],
    (sp.sinc, (0.0,)),
]


@pytest.mark.parametrize(("f", "at"), SINGULAR)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_where_does_not_let_a_nan_through(xp: Place, f: Any, at: tuple[float, ...]) -> None:
    """Elements that `where` did not choose have derivatives of zero, second ones too."""
    xs = [xp.tensor([x, 0.5], requires_grad=True) for x in at]
    choice = tg.asarray(np.asarray([False, True])).to_device(xs[0].device)
    y = tg.sum(tg.where(choice, f(*xs), 0.0))
    y.backward(create_graph=True)
    grads = [x.grad for x in xs if x.grad is not None]
    for x, g in zip(xs, grads, strict=True):
        assert xp.values(g.detach())[0] == 0
        assert np.isfinite(xp.values(g.detach())).all()
        x.grad = None
    tg.sum(tg.stack([tg.sum(g * g) for g in grads])).backward()
    for x in xs:
        if x.grad is not None:
            assert np.isfinite(xp.values(x.grad)).all()


@pytest.mark.parametrize("f", [sp.erf, sp.erfc, sp.ndtr, sp.log_ndtr, sp.i0e, sp.i1e, sp.log_expit, sp.expit])
def test_far_out_second_derivatives_are_finite(f: Any) -> None:
    for x in (-1e8, -1e3, -50.0, 50.0, 1e3, 1e8):
        for order in (tg.grad(f), tg.grad(tg.grad(f))):
            assert np.isfinite(order(tg.asarray(x)).item())


# -- precision ------------------------------------------------------------------------------------------------


def test_log_ndtr_far_to_the_left(xp: Place) -> None:
    """The slope is -x - 1/x + 2/x^3 ..., the second derivative -1 + 1/x^2 ..., as Mills' ratio has it (DLMF 7.12.1)."""
    x = np.asarray([-1e2, -1e4, -1e8, -1e12])
    slope = -x - 1 / x + 2 / x**3 - 10 / x**5
    second = -1 + 1 / x**2 - 6 / x**4
    first = tg.grad(lambda v: tg.sum(sp.log_ndtr(v)))
    tolerance = 1e-11 if xp.double else 1e-3
    np.testing.assert_allclose(xp.values(first(xp.tensor(x))), slope, rtol=tolerance)
    got = xp.values(tg.grad(lambda v: tg.sum(first(v)))(xp.tensor(x)))
    np.testing.assert_allclose(got, second, rtol=1e-6 if xp.double else 1e-2)


def test_sinc_and_i1_at_and_near_zero(xp: Place) -> None:
    x = np.asarray([0.0, 1e-12, 1e-6, 1e-3])
    u = (np.pi * x) ** 2
    expected = {sp.sinc: -(np.pi**2) / 3 * (1 - 3 * u / 10), sp.i1: 3 * x / 8 * (1 + 5 * x**2 / 36)}
    for f, second in expected.items():
        first = tg.grad(lambda v, f=f: tg.sum(f(v)))
        got = xp.values(tg.grad(lambda v, g=first: tg.sum(g(v)))(xp.tensor(x)))
        np.testing.assert_allclose(got, second, rtol=1e-9 if xp.double else 1e-4, atol=1e-15 if xp.double else 1e-6)


def test_third_derivatives_at_zero() -> None:
    for f, expected in ((sp.erf, -4 / np.sqrt(np.pi)), (sp.ndtr, -1 / np.sqrt(2 * np.pi)), (sp.i1, 3 / 8)):
        for _ in range(3):
            f = tg.grad(f)
        assert f(tg.asarray(0.0)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("ndtr", ([-37.0, -20.0, -9.0, 0.0, 9.0],)),
        ("erfc", ([0.0, 5.0, 20.0],)),
        ("log_ndtr", ([-1e4, -37.0, 3.0],)),
        ("log_expit", ([-800.0, 0.0, 40.0],)),
        ("rel_entr", ([1.0, 1.0, 1e-300, 2.0, 0.0], [1.0, 1.0 + 1e-9, 1e300, 1.0, 0.0])),
        ("betaln", ([1e-3, 2.0, 50.0, 3.0, 1e5], [1e6, 1e10, 60.0, 9.0, 1e5])),
        ("betaln", ([-0.5, -2.5], [2.25, 0.75])),
        ("gammainc", ([0.5, 2.0, 30.0, 4.0], [1e-6, 1e-3, 5.0, 60.0])),
        ("gammaincc", ([0.5, 2.0, 30.0, 4.0], [20.0, 30.0, 60.0, 1e-3])),
    ],
)
def test_values_in_the_tails(xp: Place, name: str, args: tuple[list[float], ...]) -> None:
    if not xp.double:
        pytest.skip("the arguments are for float64")
    rtol = 5e-11  # of SciPy's betaln at the first place, of JAX's log_ndtr
    got = xp.values(getattr(sp, name)(*[xp.tensor(a) for a in args]))
    np.testing.assert_allclose(got, getattr(scipy, name)(*args), rtol=rtol, atol=0)


# -- operands -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sp.__all__)
def test_numbers_and_arrays_are_operands(name: str) -> None:
    f = getattr(sp, name)
    two = name in ("betaln", "gammainc", "gammaincc", "rel_entr", "xlogy", "xlog1py")
    if name == "polygamma":
        f = lambda x: sp.polygamma(1, x)  # noqa: E731
    xs: list[Any] = [np.asarray([0.5, 0.25]), np.asarray([0.5, 0.25], dtype=np.float32)]
    for x in xs if "softmax" in name else [0.5, np.float64(0.5), *xs]:
        y = f(x, x) if two else f(x)
        assert isinstance(y, tg.Tensor)
        assert y.dtype == getattr(x, "dtype", tg.float64)
        if two:
            assert f(tg.tensor([0.5], dtype=tg.float32), 2).dtype is tg.float32
            assert f(2.0, tg.tensor([0.5], dtype=tg.float32)).dtype is tg.float32
    with pytest.raises(TypeError, match="number|numbers"):
        f("a", "b") if two else f("a")


def test_half_precision_has_gradients_of_its_own_dtype() -> None:
    """SciPy computes it in single precision."""
    x = tg.tensor([0.5], dtype=tg.float16, requires_grad=True)
    for f in (sp.erf, sp.gammaln, lambda v: sp.xlogy(v, 2.0), lambda v: sp.polygamma(1, v)):
        x.grad = None
        tg.sum(f(x)).backward()
        assert x.grad is not None
        assert x.grad.dtype is tg.float16


def test_polygamma_of_an_array_of_orders(xp: Place) -> None:
    """Values, and derivatives of both modes to second order; NaN for a negative order."""
    orders, points = np.asarray([[0], [1], [2], [5]]), np.asarray([0.5, 2.0, -1.5])
    n, x = xp.tensor(orders), xp.tensor(points)
    rtol = 1e-10 if xp.double else 1e-4

    def close(got: Any, order: int, axis: int | None = None) -> None:
        expected = scipy.polygamma(orders + order, points)
        np.testing.assert_allclose(xp.values(got), expected if axis is None else expected.sum(axis), rtol=rtol)

    def total(x: Any) -> Any:
        return tg.sum(sp.polygamma(n, x))

    close(sp.polygamma(n, x), 0)
    close(tg.grad(total)(x), 1, 0)
    close(tg.grad(lambda x: tg.sum(tg.grad(total)(x)))(x), 2, 0)
    close(tg.jvp(lambda x: sp.polygamma(n, x), (x,), (tg.ones_like(x),))[1], 1)
    close(tg.vmap(lambda n: sp.polygamma(n, x))(n), 0)
    if xp.double:
        small = sp.polygamma(xp.tensor(np.asarray([126, 127, -1], dtype=np.int8)), 30.0)
        np.testing.assert_allclose(xp.values(small), scipy.polygamma([126, 127, -1], 30.0))


def test_messages() -> None:
    with pytest.raises(
        TypeError, match="polygamma: n is made of integers, not float64: convert it with tapegrad.astype"
    ):
        sp.polygamma(tg.ones(2), 1.0)
    with pytest.raises(TypeError, match="polygamma: n is an integer, such as 1, or an array of them, not float"):
        sp.polygamma(1.5, 1.0)
    with pytest.raises(ValueError, match="polygamma: n is an integer from 0 on, not -1"):
        sp.polygamma(-1, 1.0)
    with pytest.raises(ValueError, match=r"xlogy of operands of shape \(2,\), \(3,\)"):
        sp.xlogy(tg.ones(2), tg.ones(3))
    with pytest.raises(TypeError, match=r"betaln: operands on cpu and strict:device1; move one.*tapegrad.asarray"):
        sp.betaln(tg.ones(2), tg.ones(2, device="strict:device1"))


# -- SciPy --------------------------------------------------------------------------------------------------


def test_import_does_not_bring_scipy() -> None:
    assert run("import sys, tapegrad; tapegrad.special.expit(1.0); print('scipy' in sys.modules)") == "False"


def test_without_scipy_the_message_says_what_to_install() -> None:
    code = """
import sys
sys.modules["scipy"] = None
import tapegrad as tg
from tapegrad.testing import SAMPLES
assert tg.special.expit(tg.asarray(0.0)).item() == 0.5
for f in (tg.special.erf, lambda x: tg.special.xlogy(x, x), lambda x: tg.special.polygamma(1, x)):
    for device in ("cpu", "strict:device1"):
        try:
            f(tg.ones(2, device=device))
        except ImportError as error:
            print(error)
"""
    lines = run(code).splitlines()
    assert len(lines) == 6
    for line in lines:
        assert "pip install 'tapegrad[scipy]'" in line


def test_gelu_without_scipy() -> None:
    code = """
import sys
sys.modules["scipy"] = None
import tapegrad as tg
assert tg.gelu(tg.asarray(0.0), approximate="tanh").item() == 0.0
try:
    tg.gelu(tg.ones(2))
except ImportError as error:
    print(error)
"""
    line = run(code)
    assert "pip install 'tapegrad[scipy]'" in line
    assert "or pass approximate='tanh'" in line


def test_scipy_finds_them() -> None:
    """SciPy's own functions of a Tensor are tapegrad's, with gradients."""
    code = """
import numpy as np, scipy.special as scipy, tapegrad as tg
one = "erf erfc erfcx erfinv gammaln digamma psi expit logit ndtr log_ndtr ndtri entr i0 i1 i0e i1e sinc"
calls = {name: (name, lambda f, x: f(x)) for name in one.split()}
calls |= {name: (name, lambda f, x: f(x, 2 * x)) for name in ("xlogy", "xlog1py", "rel_entr", "betaln")}
calls |= {name: (name, lambda f, x: f(x, 2 * x)) for name in ("gammainc", "gammaincc")}
calls["polygamma"] = "polygamma", lambda f, x: f(1, x)
for name, call in calls.values():
    x = tg.tensor([0.25, 0.5], requires_grad=True)
    y = call(getattr(scipy, name), x)
    assert isinstance(y, tg.Tensor), name
    tg.sum(y).backward()
    theirs, x.grad = x.grad, None
    tg.sum(call(getattr(tg.special, name), x)).backward()
    assert tg.all(theirs == x.grad), name
    assert np.allclose(np.asarray(y.detach()), call(getattr(scipy, name), np.asarray([0.25, 0.5])), rtol=1e-14)
print(len(calls))
"""
    assert run(code, SCIPY_ARRAY_API="1") == "25"
