"""jvp, vjp, linearize, jacobian, hessian, hvp: against each other, and nested in any order."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad._transforms.forward import tangents_of
from tapegrad._transforms.reverse import TransformCall
from tapegrad.testing import SAMPLES, Sample

differentiable = pytest.mark.parametrize("sample", [s for s in SAMPLES if s.order], ids=lambda s: s.name)
FLOATING = ("real floating", "complex floating")


def random_like(rng: np.random.Generator, x: tg.Tensor, *lead: int) -> tg.Tensor:
    v = np.asarray(rng.standard_normal((*lead, *x.shape)))
    if x.dtype is tg.complex128:
        v = v + 1j * rng.standard_normal(v.shape)
    return tg.asarray(v).to_device(x.device)


def split(sample: Sample, xs: list[tg.Tensor]) -> tuple[Callable[..., Any], list[tg.Tensor]]:
    """Return the sample as a function of its floating arguments, and these."""
    where = [i for i, x in enumerate(xs) if tg.isdtype(x.dtype, FLOATING)]

    def f(*given: tg.Tensor) -> Any:
        args = list(xs)
        for i, x in zip(where, given, strict=True):
            args[i] = x
        return sample.f(*args)

    return f, [xs[i] for i in where]


def inner(a: Any, b: Any) -> float:
    return float(np.sum(np.conj(np.asarray(a)) * np.asarray(b)).real)


@differentiable
def test_both_directions_agree(sample: Sample) -> None:
    """<w, J v> = <J' w, v>; and two tangents at once are pushed as each alone."""
    rng = np.random.default_rng(3)
    f, primals = split(sample, [tg.asarray(a) for a in sample.args])
    tangents = [random_like(rng, x) for x in primals]
    y, out = tg.jvp(f, primals, tangents)
    value, pull = tg.vjp(f, *primals)
    np.testing.assert_array_equal(np.asarray(y), np.asarray(value))
    assert (out.shape, out.dtype, out.device) == (y.shape, y.dtype, y.device)
    w = random_like(rng, y)
    np.testing.assert_allclose(
        inner(w, out), sum(inner(g, t) for g, t in zip(pull(w), tangents, strict=True)), rtol=1e-9, atol=1e-9
    )
    both = [tg.stack([t, random_like(rng, t)]) for t in tangents]
    (pushed,) = tangents_of(TransformCall("test", f, primals, {}), both, False)
    np.testing.assert_allclose(np.asarray(pushed)[0], np.asarray(out), rtol=1e-9, atol=1e-12)


JOINED = [s for s in SAMPLES if s.order and sum(np.asarray(a).dtype.kind in "fc" for a in s.args) > 1]
NARROW = {tg.float64: tg.float32, tg.complex128: tg.complex64}


@pytest.mark.parametrize("sample", JOINED, ids=lambda s: s.name)
def test_tangents_of_operands_of_two_dtypes(sample: Sample) -> None:
    """A tangent has the dtype of the result, whichever operands have one; a gradient that of its operand."""
    f, primals = split(sample, [tg.asarray(a) for a in sample.args])
    for narrow, moving in product(range(len(primals)), range(len(primals))):
        xs = [tg.astype(x, NARROW[x.dtype]) if i == narrow else x for i, x in enumerate(primals)]

        def of_one(x: Any, xs: Any = xs, moving: int = moving) -> Any:
            return f(*xs[:moving], x, *xs[moving + 1 :])

        x = xs[moving]
        y, t = tg.jvp(of_one, (x,), (tg.ones_like(x),))
        assert (t.dtype, t.shape) == (y.dtype, y.shape)
        (g,) = tg.vjp(of_one, x)[1](tg.ones_like(y))
        assert (g.dtype, g.shape) == (x.dtype, x.shape)


def list_with_a_rule(n: int) -> Callable[[tg.Tensor], list[tg.Tensor]]:
    """Return a function with a rule for reverse mode and a list of n results."""
    f = tg.custom_vjp(lambda x: [x * i for i in range(n)])
    f.defvjp(lambda x: (f.function(x), None), lambda _, ts: (sum(t * i for i, t in enumerate(ts)),))
    return f


def list_with_a_tangent(n: int) -> Callable[[tg.Tensor], list[tg.Tensor]]:
    """Return a function with a rule for forward mode and a list of n results."""
    f = tg.custom_jvp(lambda x: [x * i for i in range(n)])
    f.defjvp(lambda xs, ts: (f.function(*xs), [ts[0] * i for i in range(n)]))
    return f


SEVERAL: dict[str, Callable[[int], Callable[[tg.Tensor], Any]]] = {
    "unstack": lambda n: lambda x: tg.unstack(tg.stack([x * i for i in range(n)])),
    "iteration": lambda n: lambda x: list(tg.stack([x * i for i in range(n)])),
    "checkpoint": lambda n: tg.checkpoint(lambda x: [x * i for i in range(n)]),
    "custom_vjp": list_with_a_rule,
    "custom_jvp": list_with_a_tangent,
}


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("transform", ["jvp", "hvp", "hessian", "grad of jvp", "jvp of grad"])
def test_several_results_are_pushed_at_once(name: str, transform: str) -> None:
    """Twice as many results take twice as many calls of functions, and the numbers are right."""

    def run(n: int) -> None:
        made = SEVERAL[name](n)

        def f(x: tg.Tensor) -> tg.Tensor:
            return tg.sum(tg.stack([tg.sum(v**3) for v in made(x)]))

        x, v = tg.asarray([0.5, 2.0]), tg.asarray([1.0, -0.5])
        factor = sum(i**3 for i in range(n))
        along = 3 * factor * np.asarray([0.25, 4.0]) @ np.asarray(v)
        twice = 6 * factor * np.diag([0.5, 2.0])
        if transform == "jvp":
            np.testing.assert_allclose(tg.jvp(f, (x,), (v,))[1], along)
        elif transform == "hvp":
            np.testing.assert_allclose(tg.hvp(f, (x,), (v,)), twice @ np.asarray(v))
        elif transform == "hessian":
            np.testing.assert_allclose(tg.hessian(f)(x), twice)
        elif transform == "grad of jvp":
            np.testing.assert_allclose(tg.grad(lambda x: tg.jvp(f, (x,), (v,))[1])(x), twice @ np.asarray(v))
        else:
            np.testing.assert_allclose(tg.jvp(tg.grad(f), (x,), (v,))[1], twice @ np.asarray(v))

    run(2)  # makes all that is made at first use
    assert calls_of(run, 80) < 2.5 * calls_of(run, 40)


def calls_of(f: Callable[[int], None], n: int) -> int:
    """Return how many functions are called in `f(n)`, those of C among them."""
    count = 0

    def note(_: Any, event: str, __: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        f(n)
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("used", [(0,), (2,), (0, 2), (2, 1, 0, 1)])
@pytest.mark.parametrize("complex_values", [False, True])
def test_some_of_several_results(used: tuple[int, ...], complex_values: bool) -> None:
    """Results that nobody picks have no part in a tangent; real and complex results go together."""
    rng = np.random.default_rng(4)
    x = tg.asarray(rng.standard_normal((3, 3)) + (1j * rng.standard_normal((3, 3)) if complex_values else 0.0))

    def f(x: tg.Tensor) -> tg.Tensor:
        values, vectors = tg.linalg.eigh(x + tg.matrix_transpose(tg.conj(x)))
        outs = (values, tg.abs(vectors) ** 2, *tg.unstack(tg.real(x) ** 2))
        return tg.stack([tg.sum(tg.cumulative_sum(tg.reshape(outs[i], (-1,)))) for i in used])

    t = random_like(rng, x)
    y, out = tg.jvp(f, (x,), (t,))
    w = random_like(rng, y)
    (g,) = tg.vjp(f, x)[1](w)
    np.testing.assert_allclose(inner(w, out), inner(g, t), rtol=1e-9)


@pytest.mark.parametrize(
    "name", ["exp", "multiply broadcast", "matmul (5, 2, 3)x(3, 4)", "getitem list", "sort", "qr (4, 2)"]
)
def test_forward_everywhere(xp: Place, name: str) -> None:
    sample = next(s for s in SAMPLES if s.name == name)
    f, primals = split(sample, [xp.tensor(a) for a in sample.args])
    _, out = tg.jvp(f, primals, [tg.ones_like(x) for x in primals])
    g, primals = split(sample, [tg.asarray(a) for a in sample.args])
    xp.check(out, np.asarray(tg.jvp(g, primals, [tg.ones_like(x) for x in primals])[1]), rtol=1e-9)


def test_through_devices() -> None:
    pytest.importorskip("array_api_strict")
    y, t = tg.jvp(lambda x: tg.sin(x.to_device("strict:device1")) * 2.0, (np.ones(2),), (np.ones(2),))
    assert (y.shape, t.shape) == ((2,), (2,))
    np.testing.assert_allclose(np.asarray(tg.asarray(t).to_device("cpu")), 2 * np.cos(np.ones(2)))


# -- nesting -----------------------------------------------------------------------------------------------


def reverse(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return tg.grad(f)


def forward(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: tg.jvp(f, (x,), (tg.ones_like(x) if isinstance(x, tg.Tensor) else 1.0,))[1]


def pulled(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def derivative(x: Any) -> Any:
        y, pull = tg.vjp(f, x)
        return pull(tg.ones_like(y) if isinstance(y, tg.Tensor) else 1.0)[0]

    return derivative


def linear(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: tg.linearize(f, x)[1](tg.ones_like(x) if isinstance(x, tg.Tensor) else 1.0)


MODES = [reverse, forward, pulled, linear]


@pytest.mark.parametrize(("outer", "within"), list(product(MODES, MODES)))
def test_no_perturbation_confusion(outer: Any, within: Any) -> None:
    """The classics of Siskind, Pearlmutter and Manzyuk."""
    assert float(outer(lambda x: x * within(lambda y: x + y)(x))(1.0)) == 1.0
    assert float(outer(lambda x: x * within(lambda y: x * y)(2.0))(3.0)) == 6.0
    assert float(outer(lambda x: x * within(lambda y: x * y * y)(x))(3.0)) == 54.0
    assert float(outer(lambda x: within(lambda y: x * x)(x) + x)(3.0)) == 1.0
    assert float(outer(lambda x: within(lambda y: y * y * y)(x))(2.0)) == 12.0
    shifted = outer(lambda u: within(lambda x: tg.sin(x + u))(0.7))(0.3)
    np.testing.assert_allclose(float(shifted), -np.sin(1.0))


@pytest.mark.parametrize("modes", list(product([reverse, forward], repeat=3)))
def test_third_derivatives(modes: Any) -> None:
    f: Any = lambda x: tg.sin(x) * x * x  # noqa: E731
    for mode in modes:
        f = mode(f)
    x = 0.7
    expected = -x * x * np.cos(x) - 6 * x * np.sin(x) + 6 * np.cos(x)
    np.testing.assert_allclose(float(f(x)), expected, rtol=1e-12)


def test_a_pull_back_may_be_differentiated_in_its_cotangent() -> None:
    _, pull = tg.vjp(tg.sin, tg.asarray(0.5))
    g = tg.grad(lambda t: pull(t)[0] * t)(tg.asarray(3.0))
    np.testing.assert_allclose(float(g.item()), 6 * np.cos(0.5))
    _, push = tg.linearize(tg.sin, tg.asarray(0.5))
    g = tg.grad(lambda t: push(t) * t)(tg.asarray(3.0))
    np.testing.assert_allclose(float(g.item()), 6 * np.cos(0.5))


def test_no_grad_inside_and_outside() -> None:
    with tg.no_grad():
        y, t = tg.jvp(lambda x: x * x, (tg.asarray(3.0),), (tg.asarray(1.0),))
    assert (y.item(), t.item(), t.requires_grad) == (9.0, 6.0, False)
    w = tg.tensor(2.0, requires_grad=True)
    _, t = tg.jvp(lambda x: x * w, (tg.asarray(3.0),), (tg.asarray(5.0),))
    t.backward()
    assert w.grad is not None
    assert w.grad.item() == 5.0


# -- matrices ----------------------------------------------------------------------------------------------


def test_jacobian_modes_agree(xp: Place) -> None:
    a = xp.tensor(np.arange(6.0).reshape(2, 3) / 5)
    x = xp.tensor([0.1, 0.2, 0.3])

    def f(x: tg.Tensor) -> tg.Tensor:
        return tg.tanh(a @ x) * x[0]

    expected = xp.values(tg.jacobian(f, mode="reverse")(x))
    for mode, chunk in (("forward", None), ("auto", None), ("reverse", 1), ("forward", 2)):
        xp.check(tg.jacobian(f, mode=mode, chunk_size=chunk)(x), expected, rtol=1e-6 if not xp.double else 1e-12)
    assert expected.shape == (2, 3)


def test_jacobian_of_containers() -> None:
    def f(p: Any, s: Any) -> Any:
        return {"sum": p["a"] + s, "product": tg.sum(p["a"] * p["b"])}

    p = {"a": np.asarray([1.0, 2.0]), "b": np.asarray([3.0, 5.0])}
    for mode in ("forward", "reverse"):
        j = tg.jacobian(f, (0, 1), mode=mode)(p, 2.0)
        by_p, by_s = j["sum"]
        np.testing.assert_array_equal(by_p["a"], np.eye(2))
        np.testing.assert_array_equal(by_p["b"], np.zeros((2, 2)))
        np.testing.assert_array_equal(by_s, np.ones(2))
        np.testing.assert_array_equal(j["product"][0]["a"], [3.0, 5.0])
        assert type(by_s) is np.ndarray


def test_hessian_and_hvp(xp: Place) -> None:
    x = xp.tensor([0.3, -0.5, 0.9])

    def f(x: tg.Tensor) -> tg.Tensor:
        return tg.sum(tg.exp(x) * x[0]) + tg.prod(x)

    h = xp.values(tg.hessian(f)(x))
    np.testing.assert_allclose(h, h.T, rtol=1e-5 if not xp.double else 1e-12)
    reverse_twice = xp.values(tg.jacobian(tg.grad(f), mode="reverse")(x))
    np.testing.assert_allclose(h, reverse_twice, rtol=1e-5 if not xp.double else 1e-12)
    v = xp.tensor([1.0, 2.0, -1.0])
    xp.check(tg.hvp(f, (x,), (v,)), h @ [1.0, 2.0, -1.0], rtol=1e-5 if not xp.double else 1e-12)
    hx, hy = tg.hvp(lambda x, y: tg.sum(x * y * y), (v, v), (v, v * 0.0))
    xp.check(hx, np.zeros(3))
    xp.check(hy, 2 * np.asarray([1.0, 4.0, 1.0]))


def test_jacobian_of_a_jacobian_and_size_zero() -> None:
    third = tg.jacobian(tg.jacobian(lambda x: x**3))(tg.asarray([1.0, 2.0]))
    assert third.shape == (2, 2, 2)
    np.testing.assert_array_equal(np.asarray(third)[[0, 1], [0, 1], [0, 1]], [6.0, 12.0])
    assert tg.jacobian(lambda x: x * 2.0)(tg.zeros(0)).shape == (0, 0)
    assert tg.jacobian(lambda x: tg.ones(2))(tg.zeros(3)).shape == (2, 3)


def test_auxiliary_results() -> None:
    def f(x: Any) -> Any:
        return tg.sum(x * x), {"twice": x * 2.0, "note": "kept"}

    x = tg.asarray([1.0, 2.0])
    (value, aux), g = tg.value_and_grad(f, has_aux=True)(x)
    assert (value.item(), g.tolist(), aux["note"]) == (5.0, [2.0, 4.0], "kept")
    assert not aux["twice"].requires_grad
    g, aux = tg.grad(f, has_aux=True)(x)
    assert aux["twice"].tolist() == [2.0, 4.0]
    assert tg.vjp(f, x, has_aux=True)[2]["note"] == "kept"
    assert tg.jvp(f, (x,), (x,), has_aux=True)[2]["note"] == "kept"
    assert tg.jacobian(f, has_aux=True)(x)[1]["note"] == "kept"


X: Any = np.ones(2)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: tg.jvp(tg.sin, (X,), (np.ones(3),)), ValueError, r"jvp of sin: the tangent has shape \(3,\)"),
        (lambda: tg.jvp(tg.sin, (X,), (X.astype("f4"),)), TypeError, "jvp of sin: the tangent has dtype float32"),
        (lambda: tg.jvp(tg.sin, (X,), (X, X)), ValueError, "the tangent has 2 leaves, but there are 1"),
        (lambda: tg.jvp(tg.sin, X, X), TypeError, "primals and tangents are tuples or lists"),
        (lambda: tg.vjp(tg.sin, X)[1](np.ones(3)), ValueError, r"vjp of sin: the cotangent has shape \(3,\)"),
        (lambda: tg.vjp(tg.sin, {"a": "text"}), TypeError, "vjp of sin: .* not str"),
        (lambda: tg.vjp(lambda x: "text", X), TypeError, "a Tensor or a container of them, not str"),
        (lambda: tg.vjp(tg.sin, np.asarray([1])), TypeError, "int64, which is not floating"),
        (lambda: tg.jacobian(tg.sin, mode="sideways"), ValueError, "not 'sideways'"),
        (lambda: tg.jacobian(tg.sin, chunk_size=0), ValueError, "chunk_size.* not 0"),
        (lambda: tg.jacobian(lambda x: x * 1j)(X), TypeError, "complex values have no matrix"),
        (lambda: tg.grad(lambda x: (x, x))(1.0), TypeError, "must return one number, not 2 Tensors"),
        (lambda: tg.grad(lambda x: x, has_aux=True)(1.0), TypeError, r"has_aux=True it must return a pair"),
    ],
)
def test_messages(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()
