"""Activations: against PyTorch, digits against mpmath, limits at infinity, bad input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
from against_torch import CONFIGURATIONS, SECOND_ORDER, compare
from places import Place

import tapegrad as tg

inf = np.inf
# Ours, and the name of PyTorch's with its arguments.
PAIRS: dict[str, tuple[Callable[..., Any], str, dict[str, Any]]] = {
    "elu": (partial(tg.elu, alpha=0.7), "elu", {"alpha": 0.7}),
    "celu": (partial(tg.celu, alpha=0.7), "celu", {"alpha": 0.7}),
    "selu": (tg.selu, "selu", {}),
    "softplus": (partial(tg.softplus, beta=1.5), "softplus", {"beta": 1.5, "threshold": 1e9}),
    "log_sigmoid": (tg.log_sigmoid, "logsigmoid", {}),
    "softsign": (tg.softsign, "softsign", {}),
    "mish": (tg.mish, "mish", {}),
    "relu6": (tg.relu6, "relu6", {}),
    "hard_tanh": (tg.hard_tanh, "hardtanh", {}),
    "hard_sigmoid": (tg.hard_sigmoid, "hardsigmoid", {}),
    "hard_swish": (tg.hard_swish, "hardswish", {}),
    "leaky_relu": (partial(tg.leaky_relu, slope=0.2), "leaky_relu", {"negative_slope": 0.2}),
    "glu": (tg.glu, "glu", {}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_against_torch(name: str) -> None:
    torch: Any = pytest.importorskip("torch")
    f, theirs, options = PAIRS[name]
    # PyTorch has no second derivative of some, and leaves out kinks.
    twice = name not in ("hard_swish", "hard_sigmoid", "mish")
    rng = np.random.default_rng(1)
    for n in range(CONFIGURATIONS):
        shape = (*map(int, rng.integers(0, 5, int(rng.integers(0, 4)))), 2 * int(rng.integers(1, 4)))
        x = rng.standard_normal(shape) * float(rng.choice([1.0, 8.0]))
        reference = partial(getattr(torch.nn.functional, theirs), **options)
        # PyTorch's celu and hardsigmoid have factors of single precision.
        rtol = 1e-6 if name in ("celu", "hard_sigmoid") else 1e-9
        compare(f, reference, [x], rng, twice and n % SECOND_ORDER == 0, rtol=rtol)


def test_prelu_against_torch() -> None:
    torch: Any = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    for n in range(CONFIGURATIONS):
        shape = tuple(map(int, rng.integers(1, 5, int(rng.integers(2, 5)))))
        w = rng.uniform(0.1, 0.5, (1 if rng.random() < 0.3 else shape[1],))
        compare(tg.prelu, torch.nn.functional.prelu, [rng.standard_normal(shape), w], rng, n % SECOND_ORDER == 0)


def test_gated_units_are_their_products() -> None:
    x = tg.tensor(np.random.default_rng(3).standard_normal((4, 6)))
    a, b = x[:2], x[2:]
    pairs = (tg.glu, a * tg.sigmoid(b)), (tg.swiglu, tg.silu(a) * b)
    for f, expected in (*pairs, (partial(tg.geglu, approximate="tanh"), tg.gelu(a, approximate="tanh") * b)):
        np.testing.assert_array_equal(np.asarray(f(x, axis=0)), np.asarray(expected))


EXACT: dict[str, tuple[Callable[..., Any], Callable[[Any, Any], Any]]] = {
    "elu": (tg.elu, lambda m, x: x if x > 0 else m.expm1(x)),
    "celu": (partial(tg.celu, alpha=0.5), lambda m, x: x if x > 0 else 0.5 * m.expm1(2 * x)),
    "softplus": (tg.softplus, lambda m, x: m.log1p(m.exp(x))),
    "log_sigmoid": (tg.log_sigmoid, lambda m, x: -m.log1p(m.exp(-x))),
    "softsign": (tg.softsign, lambda m, x: x / (1 + abs(x))),
    "mish": (tg.mish, lambda m, x: x * m.tanh(m.log1p(m.exp(x)))),
}


@pytest.mark.parametrize("name", EXACT)
def test_digits_to_the_ends(name: str) -> None:
    """Values and slopes are right to some ulp, as far as a slope is no root."""
    mpmath: Any = pytest.importorskip("mpmath")
    f, exact = EXACT[name]
    x = np.asarray([-700.0, -300.0, -37.0, -5.0, -0.3, -1e-8, 1e-300, 1e-8, 0.7, 2.0, 18.0, 40.0, 700.0, 1e10])
    with mpmath.workdps(700):
        values = [float(exact(mpmath.mp, mpmath.mpf(float(v)))) for v in x]
        slopes = [
            float(mpmath.diff(lambda z: exact(mpmath.mp, z), mpmath.mpf(float(v)), h=mpmath.mpf(10) ** -330)) for v in x
        ]
    y, pull = tg.vjp(f, tg.asarray(x))
    np.testing.assert_allclose(np.asarray(y), values, rtol=4e-15, atol=1e-318)
    np.testing.assert_allclose(np.asarray(pull(tg.ones_like(y))[0]), slopes, rtol=2e-13, atol=1e-318)


# At -inf and inf: the values, and the slopes.
LIMITS: dict[str, tuple[Callable[..., Any], tuple[float, float], tuple[float, float]]] = {
    "elu": (tg.elu, (-1, inf), (0, 1)),
    "celu": (tg.celu, (-1, inf), (0, 1)),
    "softplus": (tg.softplus, (0, inf), (0, 1)),
    "log_sigmoid": (tg.log_sigmoid, (-inf, 0), (1, 0)),
    "softsign": (tg.softsign, (-1, 1), (0, 0)),
    "mish": (tg.mish, (0, inf), (0, 1)),
    "relu6": (tg.relu6, (0, 6), (0, 0)),
    "hard_tanh": (tg.hard_tanh, (-1, 1), (0, 0)),
    "hard_sigmoid": (tg.hard_sigmoid, (0, 1), (0, 0)),
    "hard_swish": (tg.hard_swish, (0, inf), (0, 1)),
    "leaky_relu": (tg.leaky_relu, (-inf, inf), (0.01, 1)),
}


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_limits_at_infinity(name: str, dtype: str) -> None:
    f, values, slopes = LIMITS[name]
    with np.errstate(invalid="ignore"):  # NumPy's logaddexp warns of NaN
        y, pull = tg.vjp(f, tg.asarray([-inf, inf, np.nan], dtype=dtype))
    assert y.dtype.name == dtype
    assert np.asarray(y)[:2].tolist() == np.asarray(values, dtype=dtype).tolist()
    assert np.isnan(np.asarray(y)[2])
    assert np.asarray(pull(tg.ones_like(y))[0])[:2].tolist() == np.asarray(slopes, dtype=dtype).tolist()


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_sparsemax_is_a_projection(xp: Place, axis: int) -> None:
    x = np.random.default_rng(4).standard_normal((5, 6, 7)) * 2
    x[0, 0] = x[0, 0, 0]  # ties
    x[1, 1, 2] = -inf
    p = xp.values(tg.sparsemax(xp.tensor(x), axis=axis))
    np.testing.assert_allclose(p.sum(axis), 1.0, rtol=1e-5)
    assert (p >= 0).all()
    # Optimality: x - p is one number where p > 0, and at most that elsewhere.
    rest = np.where(p > 0, x - p, -inf).max(axis, keepdims=True)
    tolerance = 1e-12 if xp.double else 1e-5
    np.testing.assert_allclose(np.where(p > 0, x - p, rest), np.broadcast_to(rest, x.shape), atol=tolerance)
    assert (x <= rest + tolerance).all(where=p == 0)


def test_compiled_activations_are_fused() -> None:
    x = tg.tensor(np.random.default_rng(5).standard_normal((64, 1000)), requires_grad=True)

    @tg.compile
    def step() -> Any:
        y = tg.sum(tg.mish(x) + tg.hard_swish(x) * tg.softsign(x) + tg.elu(x))
        y.backward()
        g, x.grad = x.grad, None
        return y, g

    first = [np.asarray(v) for v in step()]
    for _ in range(3):
        for a, b in zip(step(), first, strict=True):
            np.testing.assert_allclose(np.asarray(a), b, rtol=1e-12)


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "alpha": (lambda: tg.elu(tg.ones(2), alpha=-1.0), ValueError, "elu: alpha is a positive number, not -1.0"),
    "beta": (lambda: tg.softplus(tg.ones(2), beta=0.0), ValueError, "softplus: beta is a positive number, not 0.0"),
    "no alpha": (lambda: tg.celu(tg.ones(2), alpha=cast("Any", "x")), TypeError, "celu: alpha is a number, not 'x'"),
    "complex": (lambda: tg.mish(tg.ones(2) * 1j), TypeError, "mish: x is real, not complex128"),
    "odd": (lambda: tg.glu(tg.ones((2, 3))), ValueError, "glu: the length along axis -1 must be even, not 3"),
    "axis": (lambda: tg.swiglu(tg.ones((2, 3)), axis=2), ValueError, "swiglu: axis 2 is out of range"),
    "slopes": (lambda: tg.prelu(tg.ones((2, 3)), tg.ones(2)), ValueError, r"x of shape \(2, 3\) needs w of one number"),
    "geglu": (
        lambda: tg.geglu(tg.ones(2), approximate="x"),
        ValueError,
        "approximate is 'none', .* or 'tanh', not 'x'",
    ),
    "sparsemax": (lambda: tg.sparsemax(tg.ones(2) * 1j), TypeError, "sparsemax: x is real"),
}


@pytest.mark.parametrize("which", BAD)
def test_bad_input(which: str) -> None:
    call, error, message = BAD[which]
    with pytest.raises(error, match=message):
        call()
