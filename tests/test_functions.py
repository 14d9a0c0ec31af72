"""Rules of the user's own, recomputing, implicit derivatives, hooks, and messages about a cut chain."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad.testing import gradcheck, gradgradcheck


def body(x: Any) -> Any:
    return tg.sin(x) * x * x


def slope(x: Any) -> Any:
    return tg.cos(x) * x * x + 2.0 * x * tg.sin(x)


def with_vjp() -> Callable[[Any], Any]:
    f = tg.custom_vjp(body)
    f.defvjp(lambda x: (body(x), {"x": x}), lambda kept, t: (t * slope(kept["x"]),))
    return f


def with_jvp() -> Callable[[Any], Any]:
    f = tg.custom_jvp(body)
    f.defjvp(lambda primals, tangents: (body(*primals), slope(*primals) * tangents[0]))
    return f


MAKERS: dict[str, Callable[[], Callable[[Any], Any]]] = {
    "custom_vjp": with_vjp,
    "custom_jvp": with_jvp,
    "checkpoint": lambda: tg.checkpoint(body),
}


def forward(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: tg.jvp(f, (x,), (tg.ones_like(x) if isinstance(x, tg.Tensor) else 1.0,))[1]


@pytest.mark.parametrize("name", MAKERS)
def test_derivatives_everywhere(xp: Place, name: str) -> None:
    f, x = MAKERS[name](), xp.tensor([0.3, 0.7, -1.2])
    xp.check(f(x), xp.values(body(x)))
    gradcheck(f, [x], name=name)
    if xp.double:
        gradgradcheck(f, [x], name=name)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("shape", [(2,), (0,), (2, 2)])
def test_many_tangents_at_once(name: str, shape: tuple[int, ...]) -> None:
    f, x = MAKERS[name](), tg.reshape(tg.linspace(0.1, 0.9, int(np.prod(shape))), shape)
    expected = tg.jacobian(body)(x)
    for mode in ("forward", "reverse"):
        np.testing.assert_allclose(tg.jacobian(f, mode=mode)(x), expected)


@pytest.mark.parametrize(("name", "modes"), list(product(MAKERS, product([tg.grad, forward], repeat=3))))
def test_third_derivatives_in_any_nesting(name: str, modes: Any) -> None:
    f, g = MAKERS[name](), body
    for mode in modes:
        f, g = mode(f), mode(g)
    np.testing.assert_allclose(float(f(0.7)), float(g(0.7)), rtol=1e-12)


def test_several_arguments_and_results_in_containers() -> None:
    @tg.custom_vjp
    def f(p: Any, scale: float) -> Any:
        return {"a": p[0] * scale, "b": p[0] * p[1]}

    f.defvjp(
        lambda p, scale: (f.function(p, scale), (p, scale)),
        lambda kept, t: ([t["a"] * kept[1] + t["b"] * kept[0][1], t["b"] * kept[0][0]], None),
    )
    x, y = tg.asarray([1.0, 2.0]), tg.asarray([3.0, 5.0])

    def total(x: Any, y: Any) -> Any:
        out = f([x, y], 7.0)
        return tg.sum(out["a"] + out["b"])

    gx, gy = tg.grad(total, (0, 1))(x, y)
    assert (gx.tolist(), gy.tolist()) == ([10.0, 12.0], [1.0, 2.0])
    assert tg.grad(lambda x: tg.sum(f([x, y], 7.0)["a"]))(x).tolist() == [7.0, 7.0]


def test_a_rule_is_the_rule() -> None:
    """The declared rule is used, right or wrong; gradcheck says so."""
    f = tg.custom_vjp(lambda x: x * x)
    f.defvjp(lambda x: (x * x, x), lambda x, t: (t * 100.0,))
    assert float(tg.grad(f)(1.0)) == 100.0
    with pytest.raises(AssertionError, match="the rule is wrong"):
        gradcheck(f, [np.asarray([1.0])])
    h = tg.custom_vjp(lambda x: x * x)
    h.defvjp(lambda x: (x * x, x), lambda x, t: (t * t * 2.0 * x,))
    with pytest.raises(AssertionError, match="reverse mode says .* forward mode says .* not linear in its cotangent"):
        gradcheck(h, [np.asarray([1.0])])
    g = tg.custom_jvp(lambda x: x * x)
    g.defjvp(lambda primals, tangents: (primals[0], 100.0 * tangents[0]))
    assert float(tg.grad(g)(1.0)) == float(forward(g)(1.0)) == 100.0


def test_outside_a_recording_the_function_is_just_called() -> None:
    f = tg.custom_vjp(lambda x: x * 2.0)
    f.defvjp(lambda x: (x * 0.0, None), lambda _, t: (t,))
    assert f(tg.asarray(3.0)).item() == 6.0
    with tg.no_grad():
        assert f(tg.tensor(3.0, requires_grad=True)).item() == 6.0


# -- checkpoint --------------------------------------------------------------------------------------------


def test_parameters_a_checkpoint_closes_over_get_their_gradients() -> None:
    w = tg.tensor([2.0, 3.0], requires_grad=True)
    v = w * 1.5  # not a leaf
    x = tg.tensor([0.3, 0.4], requires_grad=True)
    tg.sum(tg.checkpoint(lambda x: tg.sin(v * x) * w)(x)).backward()
    assert w.grad is not None
    assert x.grad is not None
    got = (w.grad.tolist(), x.grad.tolist())
    w.grad, x.grad = None, None
    v = w * 1.5
    tg.sum(tg.sin(v * x) * w).backward()
    again = [leaf.grad for leaf in (w, x)]
    assert list(got) == [g.tolist() for g in again if g is not None]


def test_a_checkpoint_without_arguments() -> None:
    """Tensors made inside are not mistaken for some from outside."""
    w = tg.tensor(2.0, requires_grad=True)
    tg.checkpoint(lambda: tg.sin(w * 2.0))().backward()
    assert w.grad is not None
    np.testing.assert_allclose(w.grad.item(), 2 * np.cos(4.0))


def test_a_checkpoint_keeps_arguments_and_results_only() -> None:
    n, depth = 10_000, 20
    x = tg.tensor(np.ones(n), requires_grad=True)

    def block(x: Any) -> Any:
        for _ in range(depth):
            x = tg.tanh(x)
        return x

    def held(f: Callable[[Any], Any]) -> int:
        gc.collect()
        y = f(x)
        seen, stack, total = set(), [y._record], 0
        while stack:
            r = stack.pop()
            if r is None or id(r) in seen:
                continue
            seen.add(id(r))
            stack += r.parents
            for v in r.saved:
                arrays = (*v.inputs, *v.outs) if hasattr(v, "inputs") else (v,)
                total += sum(a.nbytes for a in arrays if hasattr(a, "nbytes"))
        return total

    assert held(block) == depth * n * 8
    assert held(tg.checkpoint(block)) == 2 * n * 8
    g = tg.grad(lambda x: tg.sum(block(x)))(x)
    h = tg.grad(lambda x: tg.sum(tg.checkpoint(block)(x)))(x)
    np.testing.assert_array_equal(np.asarray(g.detach()), np.asarray(h.detach()))


def test_a_checkpoint_that_computes_something_else_raises() -> None:
    ws = [tg.tensor(2.0, requires_grad=True), tg.tensor(3.0, requires_grad=True)]
    y = tg.checkpoint(lambda x: x * ws.pop())(tg.tensor(1.0, requires_grad=True))
    with pytest.raises(RuntimeError, match="computed again, it used other Tensors"):
        y.backward()


def dropped(rng: Any) -> Callable[[Any], Any]:
    return lambda x: tg.sum(x * tg.asarray(rng.random(x.shape), dtype=x.dtype, device=x.device))


def leaf_gradient(f: Callable[[Any], Any], x: Any) -> Any:
    leaf = tg.tensor(x, requires_grad=True)
    f(leaf).backward()
    return leaf.grad


TRANSFORMS: dict[str, Callable[[Any, Any], Any]] = {
    "grad": lambda f, x: tg.grad(f)(x),
    "vjp": lambda f, x: tg.vjp(f, x)[1](f(x))[0],
    "jvp": lambda f, x: tg.jvp(f, (x,), (x,))[1],
    "hessian": lambda f, x: tg.hessian(f)(x),
    "vmap of grad": lambda f, x: tg.vmap(tg.grad(f))(tg.stack([x, x])),
    "grad of another": lambda f, x: tg.grad(tg.checkpoint(f))(x),
    "backward": leaf_gradient,
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_checkpoint_that_draws_random_numbers_raises(xp: Place, transform: str) -> None:
    """It would give the value of one draw and the gradient of another."""
    f = tg.checkpoint(dropped(np.random.default_rng(0)))
    match = r"<lambda>: computed again.*other values than the first time. If it draws random numbers, draw them from a"
    with pytest.raises(RuntimeError, match=match):
        xp.values(TRANSFORMS[transform](f, xp.tensor(np.ones(32))))


def test_a_checkpoint_of_random_numbers_from_outside(xp: Place) -> None:
    rng = np.random.default_rng(0)
    x, mask = xp.tensor(np.ones(32)), xp.tensor(np.where(rng.random(32) > 0.5, 1.0, 0.0))
    f = tg.checkpoint(lambda x, mask: tg.sum(x * mask))
    value, gradient = tg.value_and_grad(f)(x, mask)
    xp.check(gradient, xp.values(mask))
    xp.check(value, np.sum(xp.values(mask)))


@pytest.mark.parametrize("kind", ["fewer results", "another shape", "another dtype"])
def test_a_checkpoint_of_other_results_raises(kind: str) -> None:
    calls: list[int] = []

    def f(x: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            return x, x * 2.0
        return {"fewer results": x, "another shape": (x, x[:2]), "another dtype": (x, tg.astype(x, "float32"))}[kind]

    with pytest.raises(RuntimeError, match="other values than the first time"):
        tg.grad(lambda x: tg.sum(tg.checkpoint(f)(x)[0]))(tg.asarray([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("x", [np.inf, -np.inf, np.nan, 0.0])
def test_a_checkpoint_of_values_that_are_not_finite(xp: Place, x: float) -> None:
    """They are the same again, though inf - inf and NaN are not equal to themselves."""
    with np.errstate(all="ignore"):
        got = tg.grad(tg.checkpoint(lambda x: tg.sum(x * 2.0)))(xp.tensor([x, 1.0]))
    xp.check(got, [2.0, 2.0])


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_vmap_draws_once_for_all_examples(outside: bool, wrapped: bool) -> None:
    """Value and gradient are of the same draw: a checkpoint in a vmap that is differentiated is computed once."""
    f: Any = dropped(np.random.default_rng(0))
    x = tg.ones((3, 32))
    if outside:
        mapped = tg.vmap(tg.checkpoint(f) if wrapped else f)
        (_, values), gradient = tg.value_and_grad(lambda x: (tg.sum(y := mapped(x)), y), has_aux=True)(x)
    else:
        values, gradient = tg.vmap(tg.value_and_grad(f))(x)
    np.testing.assert_allclose(np.asarray(values), np.sum(np.asarray(gradient), axis=1), rtol=1e-14)
    assert len(set(values.tolist())) == 1


def test_a_compiled_checkpoint_that_draws_random_numbers_raises() -> None:
    f = tg.compile(tg.grad(tg.checkpoint(dropped(np.random.default_rng(0)))))
    with pytest.raises(RuntimeError, match="two calls did not do the same"):
        [f(tg.ones(32)) for _ in range(4)]


# -- implicit derivatives ----------------------------------------------------------------------------------

A, B = np.asarray([[0.3, 0.1], [-0.2, 0.4]]), np.asarray([1.0, 2.0])


def contraction(a: Any, b: Any) -> Any:
    return tg.fixed_point(lambda x, a, b: tg.tanh(a @ x) + b, b * 0.0, a, b)


def equation(a: Any, b: Any) -> Any:
    return tg.root(lambda x, p: p["a"] @ x + x**3 - p["b"], tg.ones_like(b), {"a": a, "b": b})


@pytest.mark.parametrize("f", [contraction, equation])
def test_implicit_derivatives(xp: Place, f: Callable[..., Any]) -> None:
    a, b = xp.tensor(A), xp.tensor(B)
    gradcheck(f, [a, b])
    if xp.double:
        gradgradcheck(f, [a, b])
    _, t = tg.jvp(f, (a, b), (a, b))
    reverse = tg.jacobian(f, (0, 1), mode="reverse")(a, b)
    product_ = tg.tensordot(reverse[0], a, axes=2) + reverse[1] @ b
    xp.check(t, xp.values(product_), rtol=1e-8)


def test_implicit_derivatives_of_closed_forms() -> None:
    cube_root: Any = lambda a: tg.root(lambda x, a: x**3 - a, 2.0, a)  # noqa: E731
    np.testing.assert_allclose(float(tg.hessian(cube_root)(8.0)), -2 / 9 * 8 ** (-5 / 3), rtol=1e-10)
    newton: Any = lambda a: tg.fixed_point(lambda x, a: 0.5 * (x + a / x), 1.0, a)  # noqa: E731
    np.testing.assert_allclose(float(tg.grad(tg.grad(newton))(2.0)), -0.25 * 2**-1.5, rtol=1e-10)


# -- hooks and stop_gradient -------------------------------------------------------------------------------


def test_hooks_see_and_change_gradients() -> None:
    seen = []
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    y = x * x
    y.register_hook(lambda g: seen.append(g.tolist()))
    doubled = y.register_hook(lambda g: g * 2.0)
    y.retain_grad()
    tg.sum(y * 3.0 + y).backward(retain_graph=True)
    assert seen == [[4.0, 4.0]]  # once, when all uses have been added up
    assert x.grad is not None
    assert y.grad is not None
    assert (x.grad.tolist(), y.grad.tolist()) == ([16.0, 32.0], [8.0, 8.0])
    doubled.remove()
    x.grad = None
    tg.sum(y).backward()
    assert x.grad.tolist() == [2.0, 4.0]  # type: ignore[attr-defined]


def test_a_hook_on_a_leaf_and_under_create_graph() -> None:
    x = tg.tensor(3.0, requires_grad=True)
    x.register_hook(lambda g: g * g)
    (x * x).backward(create_graph=True)
    g = x.grad
    assert g is not None
    assert g.item() == 36.0
    x.grad = None
    g.backward()
    assert x.grad is not None
    assert x.grad.item() == (8 * 3.0) ** 2  # of (2 x)^2, and the hook once more


def test_stop_gradient() -> None:
    assert float(tg.grad(lambda x: tg.stop_gradient({"x": x})["x"] * x)(3.0)) == 3.0
    assert float(tg.grad(lambda x: tg.stop_gradient(x) * 2.0)(3.0)) == 0.0


# -- messages ----------------------------------------------------------------------------------------------

W = tg.tensor(2.0, requires_grad=True)
X = tg.tensor(1.0, requires_grad=True)


def unruly(kind: Any, **rule: Any) -> Any:
    f = kind(rule.pop("body", lambda x: x * 2.0))
    if rule:
        getattr(f, "defvjp" if kind is tg.custom_vjp else "defjvp")(*rule.values())
    return f


def cut_by_no_grad(x: Any) -> Any:
    with tg.no_grad():
        return x * 2.0


class Scaled:
    """An object whose methods have rules of their own."""

    scale = 3.0

    @tg.custom_vjp
    def pulled(self, x: Any) -> Any:
        return self.scale * x

    pulled.defvjp(lambda self, x: (self.scale * x, None), lambda _, t: (None, 10.0 * t))

    @tg.custom_jvp
    def pushed(self, x: Any) -> Any:
        return self.scale * x

    pushed.defjvp(lambda primals, tangents: (primals[0].scale * primals[1], 10.0 * tangents[1]))


def test_a_rule_of_a_method(xp: Place) -> None:
    x = xp.tensor([1.0, 2.0])
    for method in (Scaled().pulled, Scaled().pushed):
        xp.check(method(x), [3.0, 6.0])
        xp.check(tg.grad(lambda v, m=method: tg.sum(m(v)))(x), [10.0, 10.0])
        xp.check(tg.grad(lambda v, m=method: tg.sum(tg.vmap(m)(v)))(x), [10.0, 10.0])
    assert isinstance(Scaled.pulled, tg.custom_vjp)
    assert isinstance(Scaled.pushed, tg.custom_jvp)


@pytest.mark.parametrize("make", [with_vjp, with_jvp])
def test_keyword_arguments_of_a_function_with_a_rule(make: Any) -> None:
    with pytest.raises(TypeError, match=r"^custom_[vj]+p of body: its arguments are positional.*without x=, y="):
        make()(x=X, y=1.0)


def test_a_constant_function_may_use_no_grad() -> None:
    @tg.no_grad()
    def unrelated() -> Any:
        return W * 2.0

    for block in (tg.no_grad, lambda: tg.no_grad(), tg.enable_grad):

        def constant(x: Any, block: Any = block) -> Any:
            with block():
                unrelated()
            W.detach()
            return tg.asarray(3.0)

        assert tg.grad(constant)(X).item() == 0.0


def cut_often(x: Any) -> Any:
    x.detach()
    with tg.no_grad():
        y = np.sin(np.asarray(x))
    for _ in range(20_000):
        tg.vmap(tg.no_grad()(lambda v: v * 2.0))(tg.stack([x, x])) if _ == 0 else x.detach()
    return tg.asarray(y)


def test_a_message_names_each_cut_once() -> None:
    with pytest.raises(RuntimeError, match="chain was cut by") as error:
        tg.grad(cut_often)(X)
    text = str(error.value)
    assert text.count("detach() at test_functions.py") == 2
    assert text.count("no_grad() at test_functions.py") == 2
    assert len(text) < 400


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: unruly(tg.custom_vjp)(X), TypeError, r"give its rule first, with defvjp"),
        (lambda: unruly(tg.custom_jvp)(X), TypeError, r"give its rule first, with defjvp"),
        (
            lambda: unruly(tg.custom_vjp, f=lambda x: (x * W, x), b=lambda x, t: (t,))(X),
            TypeError,
            "from outside that requires a gradient.*pass it as an argument",
        ),
        (lambda: unruly(tg.custom_jvp, body=lambda x: x * W, r=lambda p, t: p)(X), TypeError, "from outside"),
        (
            lambda: unruly(tg.custom_vjp, f=lambda x: (x, x), b=lambda x, t: t)(X).backward(),
            ValueError,
            "must return a tuple of 1 cotangents",
        ),
        (
            lambda: unruly(tg.custom_vjp, f=lambda x: (x, x), b=lambda x, t: (tg.ones(3),))(X).backward(),
            ValueError,
            r"a cotangent has shape \(3,\)",
        ),
        (
            lambda: unruly(tg.custom_jvp, r=lambda p, t: p[0])(X).backward(),
            ValueError,
            r"must return a pair \(result, tangent\)",
        ),
        (
            lambda: unruly(tg.custom_vjp, f=lambda x: (None, x), b=lambda x, t: (t,))(X),
            TypeError,
            "least one Tensor",
        ),
        (lambda: tg.fixed_point(lambda x: x * 2.0, 1.0, max_iterations=9), RuntimeError, "last of 9 iterations"),
        (
            lambda: tg.fixed_point(lambda x: tg.ones(2), 1.0),
            ValueError,
            r"f gives float64 of shape \(2,\)",
        ),
        (lambda: tg.fixed_point(lambda x: x * W, 0.0), TypeError, "fixed_point uses a Tensor from outside"),
        (lambda: tg.root(lambda x: x * x + 1.0, 0.5, max_iterations=5), RuntimeError, "last of 5 Newton steps"),
        (lambda: tg.root(lambda x: x, 1j), TypeError, "complex unknowns"),
        (lambda: tg.ones(1).register_hook(print), RuntimeError, "register_hook: .*not recorded"),
        (lambda: tg.grad(lambda x: x.detach() * 2.0)(X), RuntimeError, r"cut by detach\(\) at test_functions.py:\d+"),
        (
            lambda: tg.grad(cut_by_no_grad)(X),
            RuntimeError,
            r"cut by no_grad\(\) at test_functions.*stop_gradient",
        ),
        (lambda: tg.grad(lambda x: tg.astype(x, tg.int64) * 2.0)(X), RuntimeError, r"cut by astype\(int64\)"),
        (lambda: tg.jvp(lambda x: x.detach(), (X,), (X.detach(),)), RuntimeError, r"cut by detach\(\)"),
    ],
)
def test_messages(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


def test_a_hook_that_returns_something_else() -> None:
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    y = x * 2.0
    y.register_hook(lambda g: tg.ones(3))
    with pytest.raises(ValueError, match=r"the result of the hook has shape \(3,\)"):
        tg.sum(y).backward()
    assert x.grad is None


def test_detaching_something_else_is_no_cut() -> None:
    x = tg.tensor(2.0, requires_grad=True)
    assert float(tg.grad(lambda y: x.detach() * 3.0)(1.0)) == 0.0


def test_an_iteration_that_runs_away_has_no_result(xp: Place) -> None:
    with np.errstate(all="ignore"), pytest.raises(RuntimeError, match="fixed_point: .* changed an element by"):
        tg.fixed_point(lambda x, a: a * x * x, xp.tensor(2.0), xp.tensor(1.0))
