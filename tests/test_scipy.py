"""scipy_objective: nested containers for SciPy's optimisers, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg

optimize = pytest.importorskip("scipy.optimize")


def rosenbrock(p: Any) -> Any:
    """Twice the function of Rosenbrock, of the two numbers in each of a list and a dict; least at ones."""
    (a, b), c = p["pair"], p["both"]
    return (1 - a) ** 2 + 100 * (b - a * a) ** 2 + (1 - c[0]) ** 2 + 100 * (c[1] - c[0] ** 2) ** 2


def start(xp: Place) -> Any:
    return {"pair": [xp.tensor(-1.2), xp.tensor([1.0])], "both": xp.tensor([-0.5, 2.0])}


def test_value_gradient_and_hessian(xp: Place) -> None:
    objective = tg.scipy_objective(lambda p: tg.sum(rosenbrock(p)), start(xp))
    bound = 1e-12 if xp.double else 1e-4
    np.testing.assert_allclose(objective.x0, [-1.2, 1.0, -0.5, 2.0], rtol=bound)
    assert objective.x0.dtype == np.float64
    x = np.asarray([0.3, -0.2, 1.5, 0.7])
    value, gradient = objective.fun(x)
    pairs = x.reshape(2, 2)
    np.testing.assert_allclose(value, sum(map(optimize.rosen, pairs)), rtol=bound)
    expected = np.concatenate([optimize.rosen_der(q) for q in pairs])
    np.testing.assert_allclose(gradient, expected, rtol=bound, atol=10 * bound)
    p = np.asarray([1.0, -2.0, 0.5, 3.0])
    for scale in (1.0, 2.0):
        expected = scale * np.concatenate(
            [optimize.rosen_hess_prod(q, d) for q, d in zip(pairs, p.reshape(2, 2), strict=True)]
        )
        np.testing.assert_allclose(objective.hessp(x, scale * p), expected, rtol=100 * bound)
    back = objective.unflatten(x)
    assert [t.shape for t in (*back["pair"], back["both"])] == [(), (1,), (2,)]
    xp.check(back["both"], [1.5, 0.7])


def test_value_gradient_and_hessian_compiled(xp: Place) -> None:
    def f(p: Any, scale: Any) -> Any:
        calls.append(0)
        return tg.sum(rosenbrock(p) * scale)

    for g, options in ((f, {"compile": True}), (tg.compile(f, threads=1), {})):
        calls: list[int] = []
        eager = tg.scipy_objective(f, start(xp))
        objective = tg.scipy_objective(g, start(xp), **options)
        for n in range(5):
            x, scale = np.random.default_rng(n).normal(size=(2, 4)), xp.tensor(n + 1.0)
            value, gradient = eager.fun(x[0], scale)
            product = eager.hessp(x[0], x[1], scale)
            before = len(calls)
            found = objective.fun(x[0], scale)
            again = [objective.hessp(x[0], x[1], scale) for _ in range(2)]
            rtol, atol = (1e-12, 1e-9) if xp.double else (1e-4, 1e-2)
            for a, b in ((found[0], value), (found[1], gradient), (again[0], product), (again[1], product)):
                np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
        assert len(calls) == before  # replayed
        made: list[Any] = [objective._value_and_grad, objective._product]
        for compiled in made:
            assert compiled._last is not None
            assert compiled.threads == (None if options else 1)


@pytest.mark.parametrize("method", ["BFGS", "L-BFGS-B", "Newton-CG", "trust-ncg"])
@pytest.mark.parametrize("compiled", [False, True])
def test_minimize_compiled(method: str, compiled: bool) -> None:
    x0 = {"pair": (-1.2, np.asarray([1.0])), "both": tg.tensor([-0.5, 2.0], requires_grad=True)}
    f = lambda p: tg.sum(rosenbrock(p))  # noqa: E731
    objective = tg.scipy_objective(tg.compile(f) if compiled else f, x0, compile=not compiled)
    options = {"hessp": objective.hessp} if method.startswith(("Newton", "trust")) else {}
    result = optimize.minimize(**objective, method=method, **options)
    np.testing.assert_allclose(result.x, np.ones(4), rtol=1e-3)
    made: Any = objective._value_and_grad
    assert made._last is not None
    with pytest.raises(FloatingPointError, match="scipy_objective"):
        tg.scipy_objective(lambda p: p * tg.inf, 1.0, compile=True).fun(np.asarray([1.0]))


@pytest.mark.parametrize("method", ["BFGS", "L-BFGS-B", "CG", "SLSQP", "Newton-CG", "trust-ncg", "trust-krylov"])
def test_minimize(method: str) -> None:
    x0 = {"pair": (-1.2, np.asarray([1.0])), "both": tg.tensor([-0.5, 2.0], requires_grad=True)}
    objective = tg.scipy_objective(lambda p: tg.sum(rosenbrock(p)), x0)
    options = {"hessp": objective.hessp} if method.startswith(("Newton", "trust")) else {}
    result = optimize.minimize(**objective, method=method, **options)
    best = objective.unflatten(result.x)
    assert isinstance(best["pair"], tuple)
    assert type(best["pair"][0]) is float
    assert type(best["pair"][1]) is np.ndarray
    assert best["pair"][1].flags.writeable
    assert type(best["both"]) is tg.Tensor
    assert not best["both"].requires_grad
    np.testing.assert_allclose(result.x, np.ones(4), atol=2e-3)


def test_the_line_in_the_readme() -> None:
    result = optimize.minimize(**tg.scipy_objective(lambda x: tg.sum((x - 3.0) ** 2), np.zeros((2, 2))))
    np.testing.assert_allclose(result.x, np.full(4, 3.0))


def test_products_at_one_point_share_one_recording() -> None:
    calls = []

    def f(x: Any, power: float) -> Any:
        calls.append(power)
        return tg.sum(x**power)

    objective = tg.scipy_objective(f, np.ones(2))
    x = np.asarray([1.0, 2.0])
    np.testing.assert_allclose(objective.hessp(x, np.asarray([1.0, 0.0]), 3.0), [6.0, 0.0])
    np.testing.assert_allclose(objective.hessp(x, np.asarray([0.0, 1.0]), 3.0), [0.0, 12.0])
    assert calls == [3.0]
    x[0] = 5.0  # as an optimiser that writes into its vector does
    np.testing.assert_allclose(objective.hessp(x, np.asarray([1.0, 0.0]), 3.0), [30.0, 0.0])
    np.testing.assert_allclose(objective.hessp(x, np.asarray([1.0, 0.0]), 2.0), [2.0, 0.0])
    assert calls == [3.0, 3.0, 2.0]


def test_a_product_after_a_call_sees_what_has_changed() -> None:
    scale = tg.asarray(1.0)
    objective = tg.scipy_objective(lambda x: scale * tg.sum(x**2), np.ones(2))
    for value in (1.0, 3.0):
        scale[...] = value
        objective.fun(objective.x0)
        np.testing.assert_allclose(objective.hessp(objective.x0, np.ones(2)), [2.0 * value] * 2)


def barrier(p: Any) -> Any:
    return tg.sum(p - tg.log(p))


@pytest.mark.parametrize("method", ["L-BFGS-B", "CG", "SLSQP", "TNC", "BFGS", "trust-ncg"])
def test_a_step_to_where_the_function_is_nan(method: str) -> None:
    objective = tg.scipy_objective(barrier, np.asarray([0.01, 3.0]))
    options = {"hessp": objective.hessp} if method == "trust-ncg" else {}
    with np.errstate(all="ignore"):
        result = optimize.minimize(**objective, method=method, **options)
    assert result.success
    np.testing.assert_allclose(result.x, np.ones(2), atol=2e-3)


@pytest.mark.parametrize("back", [False, True])
def test_a_trust_region_around_a_nan(back: bool) -> None:
    """SciPy reports that it did not succeed; it steps back from infinity."""

    def f(p: Any) -> Any:
        y = barrier(p)
        return tg.where(tg.isnan(y), tg.inf, y) if back else y

    objective = tg.scipy_objective(f, np.asarray([5.0, 3.0]))
    with np.errstate(all="ignore"):
        result = optimize.minimize(**objective, method="trust-ncg", hessp=objective.hessp)
    assert bool(result.success) is back
    if back:
        np.testing.assert_allclose(result.x, np.ones(2), atol=2e-3)


def test_a_start_that_is_not_finite_raises_again() -> None:
    objective = tg.scipy_objective(barrier, np.asarray([-1.0, 3.0]))
    with np.errstate(all="ignore"):
        assert np.isfinite(objective.fun([1.0, 1.0])[0])
        assert np.isnan(objective.fun([1.0, -1.0])[0])
        with pytest.raises(FloatingPointError, match="it is nan"):
            objective.fun(objective.x0)


def test_further_arguments_and_single_precision() -> None:
    objective = tg.scipy_objective(lambda x, goal: tg.sum((x - goal) ** 2), np.zeros(2, dtype="f4"))
    assert tuple(objective) == ("fun", "x0", "jac")
    assert len(objective) == 3
    result = optimize.minimize(**objective, args=(np.asarray([1.0, 2.0], dtype="f4"),))
    best = objective.unflatten(result.x)
    assert best.dtype == np.float32
    np.testing.assert_allclose(best, [1.0, 2.0], atol=1e-5)


def test_outer_leaves_are_constants() -> None:
    w = tg.tensor([2.0], requires_grad=True)
    objective = tg.scipy_objective(lambda x: tg.sum(w * x * x), np.ones(1))
    assert objective.fun(objective.x0)[1].tolist() == [4.0]
    assert objective.hessp(objective.x0, np.ones(1)).tolist() == [4.0]
    assert w.grad is None


X = np.ones(3)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: tg.scipy_objective(tg.sum, {"n": np.asarray([1, 2])}), TypeError, r"int64.*tapegrad.astype\(x"),
        (lambda: tg.scipy_objective(tg.sum, [1.0, 2]), TypeError, "arrays, Tensors or floats, not int"),
        (lambda: tg.scipy_objective(tg.sum, "text"), TypeError, "scipy_objective of sum: x0 must hold .* not str"),
        (lambda: tg.scipy_objective(tg.sum, X * 1j), TypeError, r"complex128.*tapegrad.real\(z\)"),
        (lambda: tg.scipy_objective(tg.sum, {}), ValueError, "x0 holds no numbers"),
        (lambda: tg.scipy_objective(tg.sin, X).fun(X), ValueError, r"one number, not a Tensor of shape \(3,\)"),
        (lambda: tg.scipy_objective(tg.sum, X).fun(X[:2]), ValueError, r"shape \(2,\), but x0 holds 3"),
        (lambda: tg.scipy_objective(tg.sum, X).unflatten(X[:2]), ValueError, r"shape \(2,\), but x0 holds 3"),
        (
            lambda: tg.scipy_objective(lambda x: tg.sum(tg.log(x)), X).fun([1.0, -2.0, 3.0]),
            FloatingPointError,
            "it is nan, at a vector with elements from -2 to 3: start nearer.*bounds",
        ),
        (
            lambda: tg.scipy_objective(lambda x: tg.sum(tg.sqrt(x)), X).fun([1.0, 0.0, 3.0]),
            FloatingPointError,
            "a gradient that is not finite, first in element 1",
        ),
    ],
)
def test_messages(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with np.errstate(all="ignore"), pytest.raises(kind, match=message):
        call()
