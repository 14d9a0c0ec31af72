"""vmap: axes and containers, Tensors from outside, updates in place, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from places import Place
from test_vmap import close, looped

import tapegrad as tg

RNG = np.random.default_rng(11)
X = tg.asarray(RNG.standard_normal((4, 3)))
W = tg.asarray(RNG.standard_normal(3))


def leaf(values: Any) -> tg.Tensor:
    return tg.tensor(values, requires_grad=True)


# -- equations -------------------------------------------------------------------------------------------------


def settled(a: tg.Tensor, b: tg.Tensor) -> tg.Tensor:
    return tg.fixed_point(lambda x, p: tg.cos(p["a"] * x) * 0.4 + p["b"][0], tg.zeros_like(a), {"a": a, "b": [b]})


def newton(a: tg.Tensor, b: tg.Tensor) -> tg.Tensor:
    return tg.root(lambda x, a, b: x**3 + x * (1.0 + b**2) - tg.flip(a), tg.ones_like(a), a, b)


def by_value(a: tg.Tensor, b: tg.Tensor) -> tg.Tensor:
    """An equation that reads a constant of each example beside its arguments, and a start of each example."""
    c = tg.stop_gradient(a * b)
    return tg.fixed_point(lambda x, a: tg.sin(x * a) * 0.3 + 0.1 * c, c, a) * b


def twice(a: tg.Tensor, b: tg.Tensor) -> tg.Tensor:
    """A solution within an equation."""
    inner = lambda y, x, a: 0.5 * tg.cos(y) + 0.1 * x * a  # noqa: E731
    return tg.fixed_point(lambda x, a, b: 0.5 * tg.fixed_point(inner, x * 0.0, x, a) + b, a * 0.0, a, b)


EQUATIONS = {"fixed_point": settled, "root": newton, "captured": by_value, "nested": twice}
A = tg.asarray(RNG.uniform(0.3, 0.9, (3, 2)))
B = tg.asarray(RNG.uniform(0.1, 0.5, (3, 2)))


@pytest.mark.parametrize("name", EQUATIONS)
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_an_equation_an_example(name: str, axes: tuple[int | None, int | None]) -> None:
    """As in a loop: values to the last digit, and derivatives taken inside, outside and on both sides."""
    f = EQUATIONS[name]
    args = tuple(x if axis == 0 else x[0] for x, axis in zip((A, B), axes, strict=True))

    def loss(a: tg.Tensor, b: tg.Tensor) -> tg.Tensor:
        return tg.sum(f(a, b) ** 2)

    def alike(run: Callable[[Callable[..., Any]], Any], given: tuple[tg.Tensor, ...] = args) -> None:
        """Compare a function of `vmap` with that of the loop."""
        close(run(tg.vmap)(*given), run(looped)(*given), 1e-7)

    def total(f: Callable[..., Any]) -> Callable[..., tg.Tensor]:
        return lambda a, b: tg.sum(f(a, b) ** 2)

    grad: Callable[..., Any] = tg.grad(loss, (0, 1))
    np.testing.assert_array_equal(tg.vmap(f, axes)(*args), looped(f, axes)(*args))
    if name != "nested" or axes == (0, 0):
        alike(lambda vmap: vmap(grad, axes))
        alike(lambda vmap: tg.grad(total(vmap(loss, axes)), (0, 1)))
    if name != "root":  # whose iterations are few
        return
    alike(lambda vmap: vmap(tg.hessian(loss), axes))
    alike(lambda vmap: tg.hessian(total(vmap(loss, axes))))
    alike(lambda vmap: lambda *args: tg.jvp(total(vmap(loss, axes)), args, args))
    alike(lambda vmap: tg.grad(total(vmap(lambda a, b: sum(tg.sum(g**2) for g in grad(a, b)), axes))))
    if axes == (0, 0):
        stacked = tuple(tg.stack([x, x * 0.9]) for x in args)
        alike(lambda vmap: vmap(vmap(grad)), stacked)
        alike(lambda vmap: tg.grad(total(vmap(vmap(loss))), (0, 1)), stacked)
        alike(lambda vmap: vmap(tg.grad(total(vmap(loss)), (0, 1))), stacked)


@pytest.mark.parametrize("name", ["fixed_point", "root"])
def test_an_equation_an_example_compiled(xp: Place, name: str) -> None:
    f = EQUATIONS[name]

    def step(a: tg.Tensor, b: tg.Tensor) -> Any:
        return tg.value_and_grad(lambda a: tg.sum(tg.vmap(f)(a, b) ** 2))(a)

    compiled = tg.compile(step)
    for k in range(4):
        a, b = (xp.tensor(np.asarray(x) * (1 - 0.05 * k)) for x in (A, B))
        for got, expected in zip(compiled(a, b), step(a, b), strict=True):
            xp.check(got, xp.values(expected), rtol=1e-7)


def test_an_equation_of_no_examples() -> None:
    assert tg.vmap(settled)(A[:0], B[:0]).shape == (0, 2)
    assert tg.grad(lambda a: tg.sum(tg.vmap(newton)(a, B[:0])))(A[:0]).shape == (0, 2)


def test_a_pull_of_equations_is_mapped() -> None:
    _, pull = tg.vjp(lambda a: tg.vmap(newton)(a, B), A)
    ts = tg.asarray(RNG.standard_normal((4, 3, 2)))
    close(tg.vmap(lambda t: pull(t)[0])(ts), looped(lambda t: pull(t)[0])(ts))
    close(tg.jacobian(lambda a: tg.vmap(newton)(a, B))(A), tg.jacobian(lambda a: looped(newton)(a, B))(A))


# -- axes and containers ---------------------------------------------------------------------------------------


def test_axes() -> None:
    a, b = tg.asarray(RNG.standard_normal((2, 3, 5))), tg.asarray(RNG.standard_normal((3, 2)))
    f = lambda a, b: a * b[:, None]  # noqa: E731
    for out in (0, 1, -1, -3):
        close(tg.vmap(f, (-1, None), out)(a, b[:2, 0]), looped(f, (-1, None), out)(a, b[:2, 0]))
    close(tg.vmap(f, (1, 0), 1)(a, b), looped(f, (1, 0), 1)(a, b))
    close(tg.vmap(lambda x: x * 2, [0])(b), b * 2)
    assert tg.vmap(lambda x: None)(b) is None


@dataclass
class Pair:
    left: Any
    right: Any


def test_containers() -> None:
    x = {"a": X, "b": (X * 2, tg.arange(5.0))}
    out = tg.vmap(lambda x, k: {"s": x["a"] + x["b"][0], "k": [k, 3.0]}, ({"a": 0, "b": (0, None)}, None))(x, W)
    close(out["s"], X * 3)
    close(out["k"][0], tg.broadcast_to(W, (4, 3)))
    close(out["k"][1], tg.full(4, 3.0))
    pair = tg.vmap(lambda p: Pair(p.right, p.left))(Pair(X, X * 2))
    close(pair.left, X * 2)
    same, rows = tg.vmap(lambda x: (W * 2, x), out_axes=(None, 1))(X)
    close(same, W * 2)
    close(rows, X.T)


def test_raw_arrays_in_give_raw_arrays_out() -> None:
    raw = np.asarray(X)
    assert isinstance(tg.vmap(tg.sin)(raw), np.ndarray)
    w = leaf(W)
    assert isinstance(tg.vmap(lambda x: x * w)(raw), tg.Tensor)
    np.testing.assert_array_equal(tg.vmap(lambda x, k: x * k, (0, None))(raw, 2.0), raw * 2)
    both = tg.vmap(lambda x: tg.vmap(tg.sin)(np.asarray([1.0, 2.0])) * x[:2])(raw)
    np.testing.assert_allclose(both, np.sin([1.0, 2.0]) * raw[:, :2])
    gradient = tg.vmap(lambda x: tg.grad(lambda u: tg.sum(u * x))(np.ones(3)))(X)
    close(gradient, X)


def test_no_examples() -> None:
    none = tg.zeros((0, 3))
    assert tg.vmap(lambda x: tg.sum(x) + tg.matmul(tg.ones((2, 3)), x))(none).shape == (0, 2)
    assert tg.vmap(tg.grad(lambda x: tg.sum(tg.sin(x) * W)))(none).shape == (0, 3)


def test_what_is_the_same_for_all() -> None:
    close(tg.vmap(lambda x: tg.ones(2))(X), tg.ones((4, 2)))
    close(tg.vmap(lambda x: float(tg.sum(tg.ones(2))))(X), tg.full(4, 2.0))
    close(tg.vmap(lambda x, *, k: x * k)(X, k=W), X * W)


def test_per_example_gradients_of_a_network(xp: Place) -> None:
    shapes = {"w1": (3, 5), "b1": (5,), "w2": (5, 2), "b2": (2,)}
    parameters = {name: xp.tensor(RNG.standard_normal(s)) for name, s in shapes.items()}
    x, labels = xp.tensor(RNG.standard_normal((4, 3))), xp.tensor(np.asarray([0, 1, 1, 0]))

    def loss(p: Any, x: Any, label: Any) -> Any:
        h = tg.tanh(x @ p["w1"] + p["b1"])
        return tg.cross_entropy(h @ p["w2"] + p["b2"], label)

    gradient = tg.grad(loss)
    mapped = tg.vmap(gradient, (None, 0, 0))(parameters, x, labels)
    for name in shapes:
        expected = np.stack([xp.values(gradient(parameters, x[i], labels[i])[name]) for i in range(4)])
        xp.check(mapped[name], expected, rtol=1e-10)
    closed = tg.vmap(lambda x, label: tg.grad(lambda p: loss(p, x, label))(parameters))(x, labels)
    for name in shapes:
        xp.check(closed[name], xp.values(mapped[name]))


def test_matrices_of_derivatives() -> None:
    f = lambda x: tg.sum(tg.sin(x) * x[::-1] ** 2)  # noqa: E731
    close(tg.vmap(lambda v: tg.hvp(f, (W,), (v,)))(tg.eye(3)), tg.hessian(f)(W))
    _, pull = tg.vjp(lambda x: x[:2] * x[1:], W)
    close(tg.vmap(pull)(tg.eye(2))[0], tg.jacobian(lambda x: x[:2] * x[1:])(W))
    close(tg.vmap(tg.hessian(f))(X), tg.stack([tg.hessian(f)(x) for x in X]))
    close(tg.jacobian(tg.vmap(f))(X), tg.jacobian(looped(f))(X))


# -- Tensors from outside ----------------------------------------------------------------------------------------


def test_a_tensor_recorded_outside() -> None:
    for f in (lambda w, x: w * x, lambda w, x: (w * w) * x, lambda w, x: tg.where(x > 0, w * w, x)):
        results = [
            tg.grad(lambda w, vmap=vmap, f=f: tg.sum(tg.sin(vmap(lambda x: f(w, x))(X))))(W)
            for vmap in (looped, tg.vmap)
        ]
        close(results[1], results[0])
    w = leaf([1.0, 2.0, 3.0])
    tg.sum(tg.vmap(lambda x: x * (w * w))(X)).backward()
    close(w.grad, 2 * w.detach() * tg.sum(X, axis=0))


def test_a_tensor_recorded_inside_only() -> None:
    y = tg.vmap(lambda x: tg.grad(lambda u: tg.sum(u * u * x))(W))(X)
    assert not y.requires_grad
    close(y, 2 * W * X)
    inside = tg.vmap(lambda x: tg.value_and_grad(lambda u: tg.sum(u * u * x))(W)[0])(X)
    assert not inside.requires_grad


def test_a_tensor_recorded_inside_and_outside() -> None:
    def f(w: Any, vmap: Any) -> Any:
        return tg.sum(vmap(lambda x: tg.grad(lambda u: tg.sum((u * w) ** 3 * x))(w * 2))(X))

    close(tg.grad(lambda w: f(w, tg.vmap))(W), tg.grad(lambda w: f(w, looped))(W))


def test_requires_grad_says_so_inside() -> None:
    seen: list[bool] = []
    tg.vmap(lambda x: seen.append(x.requires_grad))(X)
    tg.vmap(lambda x: seen.append(x.requires_grad))(leaf(X))
    assert seen == [False, True]


def test_cut_inside_is_cut_outside() -> None:
    for cut in (tg.stop_gradient, tg.Tensor.detach):
        f = lambda x, cut=cut: tg.sum(x * cut(x * x))  # noqa: E731
        close(tg.grad(lambda x, f=f: tg.sum(tg.vmap(f)(x)))(X), X * X)

    def off(x: Any) -> Any:
        with tg.no_grad():
            y, slope = tg.value_and_grad(lambda u: tg.sum(u * u * x))(x)
        return x * y + slope

    loss = lambda x, vmap: tg.sum(vmap(off)(x))  # noqa: E731
    close(tg.grad(loss)(X, tg.vmap), tg.grad(loss)(X, looped))
    with tg.no_grad():
        assert not tg.vmap(tg.grad(lambda x: tg.sum(x * x)))(leaf(X)).requires_grad
    with pytest.raises(RuntimeError, match=r"chain was cut by detach\(\) at test_vmap_calls.py:\d+"):
        tg.grad(lambda x: tg.sum(tg.vmap(lambda x: x.detach() * 2)(x)))(X)


def test_backward_inside() -> None:
    def slope(x: Any) -> Any:
        u = leaf([1.0, 2.0, 3.0])
        tg.sum(u * u * x).backward()
        return u.grad

    close(tg.vmap(slope)(X), tg.stack([slope(x) for x in X]))
    with pytest.raises(RuntimeError, match="backward: inside vmap, this Tensor is recorded outside"):
        tg.grad(lambda x: tg.sum(tg.vmap(slope)(x)))(X)


# -- updates in place ----------------------------------------------------------------------------------------------


def test_updates_of_what_is_made_inside() -> None:
    def f(x: Any, w: Any) -> Any:
        y = tg.zeros(3)
        y[0] = x[1]
        y[1:] += x[:2]
        y *= w
        w += 1.0  # an argument is a value of its own
        y[x > 0] = 7.0
        z = tg.asarray(W, copy=True)
        z[1] = x[0]
        return y + z * w

    before = W.tolist()
    close(tg.vmap(f, (0, None))(X, W), tg.stack([f(x, W * 1) for x in X]))
    assert W.tolist() == before


UPDATES: list[Callable[[Any, Any], Any]] = [
    lambda w, x: w.__setitem__(0, x[0]),
    lambda w, x: w.__setitem__(tg.argsort(x), 0.0),
    lambda w, x: w.__setitem__(x > 0, 0.0),
    lambda w, x: w.__iadd__(x),
    lambda w, x: w.__imul__(x[0]),
]


@pytest.mark.parametrize("update", UPDATES)
def test_updates_of_a_tensor_from_outside_are_refused(update: Callable[[Any, Any], Any]) -> None:
    w = W * 1
    with pytest.raises(
        RuntimeError,
        match=r"at test_vmap_calls.py:\d+ would write a value for each example.*copy=True",
    ):
        tg.vmap(lambda x: update(w, x))(X)
    close(w, W)
    w += 1.0
    close(w, W + 1)


def test_a_saved_value_is_not_changed_by_an_update_outside() -> None:
    def f(x: Any) -> Any:
        w = tg.ones(3)
        y = tg.sum(x * x * w)
        w += 1.0
        return y

    close(tg.vmap(tg.grad(f))(X), 2 * X)
    w = W * 1

    def g(x: Any) -> Any:
        nonlocal w
        y = tg.sum(x * w)
        w += 1.0
        return y

    close(tg.vmap(tg.grad(g))(X), tg.broadcast_to(W, (4, 3)))


# -- refusals ------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    ("nothing mapped", lambda: tg.vmap(tg.sin, None)(X), ValueError, "no argument is mapped.*in_axes"),
    (
        "numbers of examples",
        lambda: tg.vmap(tg.add)(X, W),
        ValueError,
        "vmap of add: .*different numbers of examples: argument 0 has 4, argument 1 has 3",
    ),
    (
        "numbers in one argument",
        lambda: tg.vmap(lambda d: d["a"])({"a": X, "b": W}),
        ValueError,
        "argument 0 has 4, argument 0 has 3",
    ),
    ("no such axis", lambda: tg.vmap(tg.sin, 2)(X), ValueError, r"argument 0 has no axis 2.*\(4, 3\)"),
    ("a scalar", lambda: tg.vmap(tg.add)(X, tg.asarray(1.0)), ValueError, "argument 1 has no axis 0"),
    ("a number", lambda: tg.vmap(tg.add)(X, 1.0), TypeError, "argument 1 has axis 0 in in_axes, but is no Tensor"),
    ("count of in_axes", lambda: tg.vmap(tg.add, (0,))(X, X), ValueError, "in_axes has 1 axes for 2 arguments"),
    ("structure", lambda: tg.vmap(tg.sin, ({"a": 0},))(X), ValueError, "in_axes must hold integers and None.*Tensor"),
    ("no integer", lambda: tg.vmap(tg.sin, "a")(X), ValueError, "in_axes must hold integers"),
    ("out_axes structure", lambda: tg.vmap(tg.sin, 0, (0, 0))(X), ValueError, "out_axes must hold integers"),
    ("out axis", lambda: tg.vmap(tg.sum, 0, 1)(X), ValueError, "out_axes has 1, but.* 1 axes"),
    ("out None", lambda: tg.vmap(tg.sin, 0, None)(X), ValueError, "differs between examples.*out_axes, not None"),
    ("a result", lambda: tg.vmap(lambda x: "a")(X), TypeError, "must return a Tensor.*str"),
    (
        "condition",
        lambda: tg.vmap(lambda x: x if x[0] > 0 else -x)(X),
        TypeError,
        r"at test_vmap_calls.py:\d+ needs the",
    ),
    ("item", lambda: tg.vmap(lambda x: x[0].item())(X), TypeError, "tapegrad.where, or leave it outside"),
    ("float()", lambda: tg.vmap(lambda x: float(x[0]))(X), TypeError, "reading a value at"),
    ("tolist", lambda: tg.vmap(lambda x: x.tolist())(X), TypeError, "reading a value at"),
    ("index", lambda: tg.vmap(lambda i: [1, 2][i])(tg.asarray([0, 1])), TypeError, "reading a value at"),
    ("NumPy", lambda: tg.vmap(lambda x: np.asarray(x))(X), TypeError, "reading a value at"),
    (".array", lambda: tg.vmap(lambda x: x.array)(X), TypeError, "the array below at"),
    ("DLPack", lambda: tg.vmap(lambda x: np.from_dlpack(x))(X), TypeError, "DLPack export at"),
    ("DLPack capsule", lambda: tg.vmap(lambda x: x.__dlpack__())(X), TypeError, "DLPack export at"),
    ("DLPack memory", lambda: tg.vmap(lambda x: x.__dlpack__(copy=False))(X), TypeError, "DLPack export at"),
    ("raw condition", lambda: tg.vmap(lambda x: bool(x._array > 0))(X), TypeError, "a condition at"),
    ("raw conversion", lambda: tg.vmap(lambda x: np.asarray(x._array))(X), TypeError, "a conversion to a NumPy array"),
    ("mask", lambda: tg.vmap(lambda x: x[x > 0])(X), TypeError, r"x\[mask\] at .*use tapegrad.where"),
    ("written mask", lambda: tg.vmap(lambda x: x.__setitem__(x > 0, tg.ones(2)))(X), ValueError, "shape depends on"),
    ("sparsity", lambda: tg.vmap(tg.jacobian(tg.sin, sparsity="detect"))(X), TypeError, "needs the value"),
    ("nonzero", lambda: tg.vmap(tg.nonzero)(X), TypeError, "shape depends on values"),
    ("unique", lambda: tg.vmap(tg.unique_values)(X), TypeError, "nonzero, unique"),
    ("labels", lambda: tg.vmap(tg.cross_entropy)(X, tg.asarray([0, 1, 2, 3])), ValueError, "a label is out of range"),
    (
        "fixed_point",
        lambda: tg.vmap(lambda a: tg.fixed_point(lambda x: a * x + a, a, max_iterations=9))(tg.asarray([0.1, 2.0])),
        RuntimeError,
        "fixed_point: the last of . iterations still changed an element by [1-9]",
    ),
    (
        "fixed_point that leaves",
        lambda: tg.vmap(lambda a: tg.fixed_point(tg.cos, a))(tg.asarray([1.0, np.nan])),
        RuntimeError,
        "fixed_point: .* changed an element by (inf|nan)",
    ),
    (
        "root",
        lambda: tg.vmap(lambda a: tg.root(lambda x: x * x + a, 0.5, max_iterations=5))(tg.asarray([-1.0, 1.0])),
        RuntimeError,
        "root: the last of 5 Newton steps",
    ),
]


@pytest.mark.parametrize(("call", "kind", "match"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_refused(call: Callable[[], Any], kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match):
        call()


def test_leaks_are_refused() -> None:
    kept: list[Any] = []
    tg.vmap(lambda x: kept.append(x))(X)
    for use in (lambda x: x + 1.0, tg.sum, lambda x: x[0], lambda x: tg.vmap(lambda y: y * x)(X), lambda x: x * X):
        with pytest.raises(RuntimeError, match=r"at test_vmap_calls.py:\d+ a Tensor from inside .* return it from"):
            use(kept[0])
    with pytest.raises(RuntimeError, match="a Tensor from inside"):
        tg.vmap(lambda x: tg.vmap(lambda y: kept.append(y * x))(X) or kept[1])(X)


def test_an_error_inside_leaves_nothing_behind() -> None:
    with pytest.raises(ZeroDivisionError):
        tg.vmap(lambda x: 1 / 0)(X)
    assert tg.zeros(2).tolist() == [0.0, 0.0]


@tg.custom_vjp
def twice_vjp(x: Any, k: float, w: Any) -> Any:
    """A function whose derivative in x is, wrongly and on purpose, twice the true one."""
    return {"y": tg.sin(x) * w * k}


twice_vjp.defvjp(
    lambda x, k, w: (twice_vjp.function(x, k, w), (x, k, w)),
    lambda r, t: (2 * r[1] * t["y"] * tg.cos(r[0]) * r[2], None, r[1] * t["y"] * tg.sin(r[0])),
)


@tg.custom_jvp
def twice_jvp(x: Any, w: Any) -> Any:
    return tg.sin(x) * w


twice_jvp.defjvp(lambda p, t: (twice_jvp(*p), 2 * tg.cos(p[0]) * p[1] * t[0] + tg.sin(p[0]) * t[1]))


@pytest.mark.parametrize("f", [lambda x, w: twice_vjp(x, 3.0, w)["y"], twice_jvp], ids=["vjp", "jvp"])
def test_rules_of_the_users_own(f: Any) -> None:
    """They hold inside, outside, both, through two levels, and for Tensors that are the same for all."""
    slope = tg.grad(lambda u, x, w: tg.sum(tg.sin(f(u * w, w + x))))
    losses: list[Callable[..., Any]] = [
        lambda vmap, x, w: vmap(f, (0, None))(x, w),
        lambda vmap, x, w: vmap(lambda x: slope(x, x, w))(x),
        lambda vmap, x, w: vmap(lambda x: f(w, w) * x)(x),
        lambda vmap, x, w: vmap(lambda x: vmap(lambda y: f(x, y) * f(y, w))(tg.stack([x, w])))(x),
        lambda vmap, x, w: vmap(tg.vjp(lambda x: f(x, w), x[0])[1])(x)[0],
    ]
    for loss in losses:
        results = []
        for vmap in (tg.vmap, looped):

            def total(x: Any, w: Any, vmap: Any = vmap, loss: Any = loss) -> Any:
                return tg.sum(tg.tanh(loss(vmap, x, w)))

            def squares(x: Any, w: Any, total: Any = total) -> Any:
                return sum(tg.sum(g**2) for g in tg.grad(total, (0, 1))(x, w))

            results.append((*tg.grad(total, (0, 1))(X, W), *tg.grad(squares, (0, 1))(X, W)))
        close(results[0], results[1])


def test_hooks() -> None:
    def f(x: Any) -> Any:
        y = x * x
        y.register_hook(lambda g: g * 10.0)
        return tg.sum(y)

    close(tg.vmap(tg.grad(f))(X), 20 * X)
    with pytest.raises(RuntimeError, match="register_hook"):
        tg.grad(lambda x: tg.sum(tg.vmap(f)(x)))(X)


# -- beside the rest of tapegrad -------------------------------------------------------------------------------------


def test_compiled() -> None:
    w = leaf(W)
    slope = tg.grad(lambda w, x: tg.sum(tg.sin(w * x + tg.ones(3))))

    def step(x: Any) -> Any:
        return tg.vmap(slope, (None, 0))(w.detach(), x)

    compiled = tg.compile(step)
    for k in range(5):
        close(compiled(X * k), step(X * k))
        with tg.no_grad():
            w += 0.1
    inside = tg.compile(lambda x: tg.sin(x) * 2)
    for k in range(4):
        close(tg.vmap(inside)(X * k), tg.sin(X * k) * 2)


def test_the_tape_lists_operations_on_all_examples() -> None:
    with tg.Tape() as tape:
        tg.vmap(tg.grad(lambda x: tg.sum(x * x)))(X)
    assert {tuple(e.results[0].shape) for e in tape if e.operation.name == "multiply"} == {(4, 3)}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_debug_names_the_line_inside() -> None:
    with tg.debug(), pytest.raises(FloatingPointError, match=r"divide, recorded at test_vmap_calls.py:\d+"):
        tg.vmap(tg.grad(lambda x: tg.sum((x * 0) / (x * 0))))(X)


def test_another_device() -> None:
    pytest.importorskip("array_api_strict")
    there = lambda x: tg.sum(tg.sin(x.to_device("strict:CPU_DEVICE")) ** 2)  # noqa: E731
    assert tg.vmap(there)(X).device == "strict:CPU_DEVICE"
    there_and_back = tg.compile(tg.vmap(lambda x: (x.to_device("strict:CPU_DEVICE") * 2).to_device("cpu")))
    for k in range(4):
        close(there_and_back(X * k), X * (2 * k))
    close(tg.vmap(tg.grad(there))(X), looped(tg.grad(there))(X))


def test_printing_shows_all_examples(capsys: pytest.CaptureFixture[str]) -> None:
    tg.vmap(lambda x: print(x))(tg.asarray([1.0, 2.0]))
    assert capsys.readouterr().out == "Tensor([1., 2.])\n"


def test_numpy_functions_and_arrays_inside() -> None:

    def f(x: Any) -> Any:
        return np.sin(x) * np.asarray([1.0, 2.0, 3.0]) + np.asarray(2.0) * x

    close(tg.vmap(f)(X), f(X))
    close(tg.vmap(tg.grad(lambda x: tg.sum(f(x))))(X), looped(tg.grad(lambda x: tg.sum(f(x))))(X))


@pytest.mark.parametrize("hidden", ["mapped", "closed over", "both", "updated"])
def test_compiled_with_tensors_that_turn_up_late(hidden: str) -> None:
    class Kept:
        """Places that the search before the first call leaves out: attributes of classes."""

        w = tg.tensor([1.0, 2.0, 3.0], requires_grad=True)
        xs = tg.asarray(np.arange(6.0).reshape(2, 3))
        total = tg.asarray(0.0)

    seen, xs = tg.tensor([0.5, 0.25, 2.0], requires_grad=True), tg.asarray(np.ones((4, 3)))

    def loss(w: Any, x: Any) -> Any:
        return tg.sum(tg.tanh(w * x) * Kept.w)

    def step(xs: Any) -> Any:
        for p in (seen, Kept.w):
            p.grad = None
        if hidden == "mapped":
            out = tg.vmap(lambda x: tg.sum(x * seen))(Kept.xs)
        elif hidden == "closed over":
            out = tg.vmap(lambda x: loss(seen, x))(xs)
        elif hidden == "both":
            out = tg.vmap(lambda k: tg.sum(tg.vmap(lambda x: loss(k + seen, x))(xs)))(Kept.xs)
        else:
            out = tg.vmap(tg.grad(loss), in_axes=(None, 0))(seen, xs)
            Kept.total[...] = Kept.total + tg.sum(out).detach()
        tg.sum(out * out).backward()
        return out.detach(), seen.grad, Kept.w.grad, Kept.total

    def values(results: Any) -> list[Any]:
        return [None if x is None else np.asarray(x) for x in results]

    expected = values(step(xs))
    if hidden == "updated":
        Kept.total[...] = tg.asarray(0.0)
    compiled = tg.compile(step)
    for i in range(5):
        got = values(compiled(xs))
        for a, b in zip(got[:3], expected[:3], strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(got[3], (i + 1) * expected[3])
    assert compiled.program.outputs


def test_compiled_derivative_that_looks_at_values() -> None:
    xs = tg.asarray(np.stack([np.eye(3), np.diag([2.0, 3.0, 0.0])]))
    slopes = tg.vmap(tg.grad(tg.linalg.det))
    compiled = tg.compile(slopes)
    for _ in range(4):
        got = np.asarray(compiled(xs))
        np.testing.assert_allclose(got, np.asarray(slopes(xs)), atol=1e-14)
    np.testing.assert_allclose(got[1], np.diag([0.0, 0.0, 6.0]), atol=1e-14)
    assert compiled.program.outputs
