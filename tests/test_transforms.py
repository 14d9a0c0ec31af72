"""grad and value_and_grad: structures, nesting, and things that stay off the tape."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from containers import Layer, Pair
from places import Place

import tapegrad as tg

D = tg.grad


def test_value_and_grad(xp: Place) -> None:
    value, gradient = tg.value_and_grad(lambda x: tg.sum(x * x))(xp.tensor([1.0, 2.0]))
    xp.check(value, 5.0)
    xp.check(gradient, [2.0, 4.0])


def test_argnums_and_keyword_arguments(xp: Place) -> None:
    def f(x: Any, y: Any, *, scale: float) -> Any:
        return tg.sum(x * x * y) * scale

    x, y = xp.tensor([1.0, 2.0]), xp.tensor([3.0, 4.0])
    xp.check(D(f, 1)(x, y, scale=2.0), [2.0, 8.0])
    xp.check(D(f, -2)(x, y, scale=2.0), [12.0, 32.0])
    gx, gy = D(f, (0, 1))(x, y, scale=1.0)
    xp.check(gx, [6.0, 16.0])
    xp.check(gy, [1.0, 4.0])


@pytest.mark.parametrize("make", [Pair, Layer, lambda w, b: {"w": w, "b": [b, None]}, lambda w, b: [w, (b,)]])
def test_nested_containers(make: Callable[[Any, Any], Any]) -> None:
    def leaves(p: Any) -> tuple[Any, Any]:
        if isinstance(p, dict):
            return p["w"], p["b"][0]
        return (p[0], p[1][0]) if isinstance(p, list) else (p.w, p.b)

    def f(p: Any) -> Any:
        w, b = leaves(p)
        return tg.sum(w * 2.0 + b * b)

    p = make(tg.asarray([1.0, 2.0]), tg.asarray([3.0, 5.0]))
    g = D(f)(p)
    assert type(g) is type(p)
    w, b = leaves(g)
    assert w.tolist() == [2.0, 2.0]
    assert b.tolist() == [6.0, 10.0]


def test_raw_arrays_in_raw_arrays_out() -> None:
    value, g = tg.value_and_grad(lambda x: tg.sum(x * x))(np.asarray([1.0, 2.0]))
    assert type(value) is np.ndarray
    assert type(g) is np.ndarray
    assert g.flags.writeable
    np.testing.assert_array_equal(g, [2.0, 4.0])
    torch = pytest.importorskip("torch")
    g = D(lambda x: tg.sum(x * x))(torch.ones(2))
    assert type(g) is torch.Tensor
    assert g.dtype == torch.float32


def test_a_raw_gradient_that_depends_on_an_outer_variable_stays_recorded() -> None:
    """The inner argument is a plain float, yet the result is differentiated by the outer one."""
    outer = D(lambda x: D(lambda y: x * y * y)(3.0))(2.0)
    assert float(outer) == 6.0


def test_what_the_result_does_not_depend_on_has_gradient_zero(xp: Place) -> None:
    x = xp.tensor([1.0, 2.0])
    xp.check(D(lambda x: tg.sum(tg.ones(2)))(x), [0.0, 0.0])
    xp.check(D(lambda x, y: tg.sum(x), 1)(x, x), [0.0, 0.0])
    xp.check(D(lambda x: tg.sum(tg.floor(x)))(x), [0.0, 0.0])
    assert float(D(lambda x: 3.0)(1.0)) == 0.0


def test_leaves_outside_get_no_grad() -> None:
    w = tg.tensor([2.0], requires_grad=True)
    assert D(lambda x: tg.sum(x * w))(tg.asarray([1.0])).item() == 2.0
    assert w.grad is None


def test_gradient_of_a_gradient_reaches_an_outer_leaf() -> None:
    w = tg.tensor([2.0], requires_grad=True)
    g = D(lambda x: tg.sum(x * x * w * w))(tg.asarray([3.0]))
    tg.sum(g).backward()
    assert w.grad is not None
    assert w.grad.item() == 24.0


# The classics of perturbation confusion (Siskind and Pearlmutter; Manzyuk et al.).


def test_inner_and_outer_variables_are_kept_apart() -> None:
    assert float(D(lambda x: x * D(lambda y: x + y)(x))(1.0)) == 1.0
    assert float(D(lambda x: x * D(lambda y: x * y)(2.0))(3.0)) == 6.0
    assert float(D(lambda x: x * D(lambda y: x * y * y)(x))(3.0)) == 54.0
    assert float(D(lambda x: D(lambda y: x * x)(x) + x)(3.0)) == 1.0
    assert float(D(lambda x: D(lambda y: y * y * y)(x))(2.0)) == 12.0
    shifted = D(lambda u: D(lambda x: tg.sin(x + u))(0.7))(0.3)
    np.testing.assert_allclose(float(shifted), -np.sin(1.0))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_high_orders(xp: Place, order: int) -> None:
    if not xp.double:
        pytest.skip("fourth derivatives need float64")
    f: Callable[..., Any] = lambda x: tg.exp(tg.sin(x) * x)  # noqa: E731
    for _ in range(order):
        f = D(f)
    sympy = pytest.importorskip("sympy")
    s = sympy.symbols("s")
    expected = float(sympy.diff(sympy.exp(sympy.sin(s) * s), s, order).subs(s, 0.8))
    xp.check(f(xp.tensor(0.8)), expected, rtol=1e-11)


def test_random_nested_programs_against_closed_forms() -> None:
    """Polynomials in two variables, differentiated in every order of nesting."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        c = rng.standard_normal((4, 4))
        x0, y0 = rng.uniform(0.5, 1.5, 2)

        def p(x: Any, y: Any, c: Any = c) -> Any:
            return sum(float(c[i, j]) * x**i * y**j for i, j in itertools.product(range(4), repeat=2))

        mixed = D(lambda x, p=p, y0=y0: D(lambda y: p(x, y))(y0))(x0)
        other = D(lambda y, p=p, x0=x0: D(lambda x: p(x, y))(x0))(y0)
        by_value = D(lambda x, p=p: D(lambda y: p(x, y))(x))(x0)
        poly = np.polynomial.polynomial
        dxdy = poly.polyder(poly.polyder(c, axis=0), axis=1)
        dy, dydy = poly.polyder(c, axis=1), poly.polyder(c, 2, axis=1)
        np.testing.assert_allclose(float(mixed), poly.polyval2d(x0, y0, dxdy), rtol=1e-10)
        np.testing.assert_allclose(float(other), poly.polyval2d(x0, y0, dxdy), rtol=1e-10)
        total = poly.polyval2d(x0, x0, poly.polyder(dy, axis=0)) + poly.polyval2d(x0, x0, dydy)
        np.testing.assert_allclose(float(by_value), total, rtol=1e-10)


def test_no_grad_outside_cuts_the_result_but_not_the_inside() -> None:
    def h(x: Any) -> Any:
        with tg.no_grad():
            c = D(lambda y: y * y * y * x)(x)  # 3 x^3, a constant to the outside
        return c * x

    assert float(D(h)(2.0)) == 24.0


def test_no_grad_inside_cuts() -> None:
    def f(x: Any) -> Any:
        with tg.no_grad():
            c = x * x
        return c * x

    assert float(D(f)(3.0)) == 9.0


def test_backward_inside_grad_and_grad_inside_backward() -> None:
    x = tg.tensor(2.0, requires_grad=True)
    y = x * D(lambda z: z * z * x)(x)  # x * 2x*x = 2x^3
    y.backward()
    assert x.grad is not None
    assert x.grad.item() == 24.0


def test_the_outermost_gradient_runs_on_raw_arrays() -> None:
    with tg.Tape() as tape:
        D(lambda x: tg.sum(x * x))(tg.asarray([1.0]))
    assert [e.operation.name for e in tape] == ["multiply", "sum"]


def test_retained_gradients_inside_a_transform() -> None:
    seen = []

    def f(x: Any) -> Any:
        a = x * 2.0
        a.retain_grad()
        seen.append(a)
        return tg.sum(a * a)

    D(f)(tg.asarray([3.0]))
    assert seen[0].requires_grad


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: D(lambda x: x)(tg.asarray([1.0, 2.0])),
            ValueError,
            r"return one number.*\(2,\).*tapegrad.sum",
        ),
        (lambda: D(lambda x: "a")(1.0), TypeError, "must return a Tensor or a container of them, not str"),
        (lambda: D(lambda x: x)("a"), TypeError, "must hold arrays, Tensors or floats, not str"),
        (lambda: D(lambda x: x)({"n": 1}), TypeError, "not int"),
        (lambda: D(lambda x: x)(tg.asarray([1])), TypeError, "int64, which is not floating.*astype"),
        (lambda: D(lambda x: x, 1)(1.0), TypeError, "argnums=1 but 1 positional"),
    ],
)
def test_messages(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


def test_aux_is_differentiated_by_somebody_outside() -> None:
    """Also where the result itself depends on nothing outside."""
    u, w = tg.asarray([1.0, 2.0]), tg.asarray([3.0, 4.0])
    for aux in (lambda u, w: w, lambda u, w: w * 2.0, lambda u, w: w * u):

        def total(w: tg.Tensor, aux: Any = aux) -> Any:
            return tg.sum(tg.grad(lambda u: (tg.sum(u), aux(u, w)), has_aux=True)(u)[1])

        np.testing.assert_allclose(tg.grad(total)(w), tg.grad(lambda w, aux=aux: tg.sum(aux(u, w)))(w))
        mapped = tg.grad(lambda w: tg.sum(tg.vmap(lambda s: total(s * w))(u)))(w)  # noqa: B023
        np.testing.assert_allclose(mapped, sum(tg.grad(lambda w, s=s: total(s * w))(w) for s in u))


X = np.ones(2)
TAKES_A_FUNCTION: dict[str, Any] = {
    "grad": lambda f: tg.grad(f),
    "value_and_grad": lambda f: tg.value_and_grad(f),
    "vjp": lambda f: tg.vjp(f, X),
    "jvp": lambda f: tg.jvp(f, (X,), (X,)),
    "linearize": lambda f: tg.linearize(f, X),
    "jacobian": lambda f: tg.jacobian(f),
    "hessian": lambda f: tg.hessian(f),
    "hvp": lambda f: tg.hvp(f, (X,), (X,)),
    "vmap": lambda f: tg.vmap(f),
    "checkpoint": lambda f: tg.checkpoint(f),
    "custom_vjp": lambda f: tg.custom_vjp(f),
    "custom_jvp": lambda f: tg.custom_jvp(f),
    "scipy_objective": lambda f: tg.scipy_objective(f, X),
}


@pytest.mark.parametrize("name", TAKES_A_FUNCTION)
def test_what_is_no_function_raises_at_once(name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{name}: it takes a function, not float: as in tapegrad.{name}\(f"):
        TAKES_A_FUNCTION[name](3.0)
    with pytest.raises(
        TypeError, match=rf"^{name}: it takes a function, not a Tensor.*tapegrad.{name}\(f.*backward\(\)"
    ):
        TAKES_A_FUNCTION[name](tg.ones(2))


def whole(x: Any) -> Any:
    return tg.sum(x)


DIFFERENTIATES: dict[str, Any] = {
    "grad": lambda f, x: tg.grad(f)(x),
    "value_and_grad": lambda f, x: tg.value_and_grad(f)(x),
    "vjp": lambda f, x: tg.vjp(f, x),
    "jvp": lambda f, x: tg.jvp(f, (x,), (x,)),
    "linearize": lambda f, x: tg.linearize(f, x),
    "jacobian": lambda f, x: tg.jacobian(f)(x),
    "hessian": lambda f, x: tg.hessian(f)(x),
    "hvp": lambda f, x: tg.hvp(f, (x,), (x,)),
}


@pytest.mark.parametrize("name", DIFFERENTIATES)
def test_messages_name_the_transform(name: str) -> None:
    run = DIFFERENTIATES[name]
    out = "leave it out of the differentiated arguments: close over it"
    with pytest.raises(TypeError, match=f"^{name} of whole: .*dtype int64.*astype.*or {out}"):
        run(whole, {"w": X, "steps": np.asarray([1, 2])})
    with pytest.raises(TypeError, match=f"^{name} of whole: .*dtype bool.*{out}"):
        run(whole, [X, tg.asarray([True])])
    with pytest.raises(TypeError, match=f"^{name} of whole: .*not int: write it as a float, or {out}"):
        run(whole, {"w": X, "n": 3})
    with pytest.raises(TypeError, match=f"^{name} of whole: .*not str: {out}"):
        run(whole, {"w": X, "name": "w"})
    if name in ("grad", "value_and_grad", "hessian", "hvp"):
        with pytest.raises(ValueError, match=f"^{name} of <lambda>: it must return one number"):
            run(lambda x: x * 2.0, X)
    if name in ("grad", "value_and_grad", "jacobian", "hessian"):
        with pytest.raises(TypeError, match="or pass it in an argument outside of argnums"):
            run(whole, [1])


def test_arguments_in_the_place_of_argnums() -> None:
    calls: list[Any] = [tg.grad, tg.value_and_grad, tg.jacobian, tg.hessian]
    for call in calls:
        name = call.__name__
        with pytest.raises(
            TypeError, match=rf"^{name}: argnums is an integer.*not ndarray: .*tapegrad.{name}\(f\)\(x\)"
        ):
            call(whole, X)
        with pytest.raises(TypeError, match="argnums is an integer or a tuple of them, not list"):
            call(whole, [X])


def test_numbers_go_where_the_arrays_are(xp: Place) -> None:
    tree = {"w": xp.tensor([1.0, 2.0]), "b": 0.5}
    g = tg.grad(lambda p: tg.sum(p["w"] * p["b"]))(tree)
    xp.check(g["w"], [0.5, 0.5])
    xp.check(tg.asarray(g["b"]), 3.0)
    g = tg.grad(lambda w, b: tg.sum(w * b), (0, 1))(tree["w"], 0.5)
    xp.check(tg.asarray(g[1]), 3.0)
    assert tg.scipy_objective(lambda p: tg.sum(p["w"] * p["b"]), tree).fun([1.0, 2.0, 0.5])[1].tolist() == [0.5, 0.5, 3]


@pytest.mark.parametrize("argnums", [(0, 0), (0, -2), (1, -1)])
@pytest.mark.parametrize("transform", [tg.grad, tg.value_and_grad, tg.jacobian, tg.hessian])
def test_an_argument_is_named_once(transform: Any, argnums: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="names an argument twice: name each once"):
        transform(lambda x, y: tg.sum(x * y), argnums=argnums)(tg.asarray([1.0]), tg.asarray([2.0]))
