"""Derivatives of leaves: right when they are differentiated again, and walked on raw arrays until then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad._engine.backward import Walk
from tapegrad._transforms import later

X, V = np.asarray([0.3, -0.7, 1.1]), np.asarray([0.5, 2.0, -1.0])
Function = Callable[[Any, Any], Any]


def f(x: Any, w: Any) -> Any:
    return tg.sum(tg.sin(x * w) * x) + tg.sum(tg.exp(w[:2] * x[1:])) ** 2


def g(x: Any, w: Any) -> Any:
    return tg.concat([tg.sin(x) * w, tg.exp(x[:1] * w[1:2])])


def both(x: Any, w: Any) -> Any:
    value, (a, b) = tg.value_and_grad(f, (0, 1))(x, w)
    return value + tg.sum(a * b)


def penalised(x: Any, w: Any) -> Any:
    slope = tg.grad(lambda x: tg.sum(w * x**3))(x)  # of the outer x, closing over w
    return tg.sum(slope**2) + tg.sum(slope * w)


def twice(x: Any, w: Any) -> Any:
    y, pull = tg.vjp(g, x, w)
    first, second = pull(tg.ones_like(y)), pull(y)  # the second cotangent is recorded
    return tg.sum(first[0] * second[1]) + tg.sum(y)


def nested(x: Any, w: Any) -> Any:
    inner = tg.grad(lambda x: tg.sum(tg.grad(lambda w: f(x, w))(w) ** 2))
    return tg.sum(inner(x) * w)


def with_aux(x: Any, w: Any) -> Any:
    slope, y = tg.grad(lambda x: (f(x, w), tg.sin(x) * w), has_aux=True)(x)
    return tg.sum(slope * y)


SECOND: dict[str, Function] = {
    "grad": lambda x, w: tg.sum(tg.grad(f)(x, w) ** 2),
    "value_and_grad": both,
    "closure": penalised,
    "vjp": twice,
    "jvp": lambda x, w: tg.sum(tg.jvp(g, (x, w), (tg.flip(w.detach()), tg.ones_like(w)))[1] ** 2),
    "jvp along itself": lambda x, w: tg.sum(tg.jvp(g, (x, w), (w, x))[1] ** 2),
    "linearize": lambda x, w: tg.sum(tg.linearize(g, x, w)[1](tg.ones_like(x), tg.ones_like(w)) ** 2),
    "jacobian": lambda x, w: tg.sum(tg.jacobian(g, (0, 1))(x, w)[1] ** 2),
    "jacobian in reverse": lambda x, w: tg.sum(tg.jacobian(g, (0, 1), mode="reverse")(x, w)[0] ** 2),
    "hessian": lambda x, w: tg.sum(tg.hessian(f, (0, 1))(x, w)[0][1] ** 2),
    "hvp": lambda x, w: tg.sum(tg.hvp(f, (x, w), (tg.ones_like(x), tg.ones_like(w)))[1] ** 2),
    "aux": with_aux,
    "nested": nested,
    "checkpoint": lambda x, w: tg.sum(tg.grad(tg.checkpoint(f))(x, w) ** 2),
    "vmap": lambda x, w: tg.sum(tg.vmap(tg.grad(f), (0, None))(tg.stack([x, w]), w) ** 2),
    "of vmap": lambda x, w: tg.sum(tg.grad(lambda x: tg.sum(tg.vmap(f, (0, None))(tg.stack([x, w]), w)))(x) ** 2),
}


def by_leaves(h: Function, *values: tg.Tensor) -> list[Any]:
    leaves = [tg.tensor(v, requires_grad=True) for v in values]
    h(*leaves).backward()
    return [x.grad for x in leaves]


@pytest.mark.parametrize("name", SECOND)
def test_differentiated_again(xp: Place, name: str) -> None:
    if xp.device == "jax:cpu" and name not in ("grad", "closure", "jacobian"):
        pytest.skip("enough for JAX")
    h, x, w = SECOND[name], xp.tensor(X), xp.tensor(V)
    expected = tg.grad(h, (0, 1))(x, w)  # an outer transform: walks that are recorded at once
    for a, b in zip(by_leaves(h, x, w), expected, strict=True):
        xp.check(a, xp.values(b), rtol=1e-11)


@pytest.mark.parametrize("name", ["grad", "closure", "jacobian", "vjp", "nested"])
def test_a_third_time(name: str) -> None:
    h, x, w = SECOND[name], tg.asarray(X), tg.asarray(V)
    expected = tg.grad(lambda x, w: sum(tg.sum(d**2) for d in tg.grad(h, (0, 1))(x, w)), (0, 1))(x, w)
    leaves = [tg.tensor(v, requires_grad=True) for v in (x, w)]
    h(*leaves).backward(create_graph=True)
    slopes = [v.grad for v in leaves]
    for v in leaves:
        v.grad = None
    tg.sum(tg.stack([d**2 for d in slopes if d is not None])).backward()
    for v, e in zip(leaves, expected, strict=True):
        np.testing.assert_allclose(np.asarray(v.grad), np.asarray(e), rtol=1e-10)


def test_value_and_gradient_in_one_backward_pass() -> None:
    x = tg.tensor(X, requires_grad=True)
    value, slope = tg.value_and_grad(lambda x: tg.sum(tg.exp(x)))(x)
    (value + tg.sum(slope**2)).backward()
    np.testing.assert_allclose(np.asarray(x.grad), np.exp(X) + 2 * np.exp(2 * X), rtol=1e-13)
    with pytest.raises(RuntimeError, match="released by an earlier backward pass"):
        tg.sum(slope).backward()


def test_twice_with_retain_graph() -> None:
    x = tg.tensor(X, requires_grad=True)
    slope = tg.grad(lambda x: tg.sum(x**3))(x)
    for n in (1, 2):
        tg.sum(slope).backward(retain_graph=True)
        np.testing.assert_allclose(np.asarray(x.grad), n * 6 * X, rtol=1e-13)


def test_a_write_to_the_leaf_in_between() -> None:
    x = tg.tensor(X, requires_grad=True)
    slope = tg.grad(lambda x: tg.sum(x**3))(x)
    with tg.no_grad():
        x[...] = 0.0
    tg.sum(slope).backward()
    np.testing.assert_allclose(np.asarray(x.grad), 6 * X, rtol=1e-13)


def test_a_leaf_made_inside() -> None:
    made = []

    def h(x: Any) -> Any:
        made.append(tg.tensor(V, requires_grad=True))
        return tg.sum(x**2 * made[0])

    x = tg.tensor(X, requires_grad=True)
    tg.sum(tg.grad(h)(x) ** 2).backward()
    np.testing.assert_allclose(np.asarray(x.grad), 8 * X * V**2, rtol=1e-13)
    np.testing.assert_allclose(np.asarray(made[0].grad), 8 * X**2 * V, rtol=1e-13)


def test_a_hook_inside_runs_once() -> None:
    seen = []

    def doubled(t: Any) -> Any:
        seen.append(t)
        return t * 2.0

    def h(x: Any) -> Any:
        y = x * x
        y.register_hook(doubled)
        return tg.sum(y)

    x = tg.tensor(X, requires_grad=True)
    slope = tg.grad(h)(x)
    tg.sum(slope).backward()
    assert len(seen) == 1
    np.testing.assert_allclose(np.asarray(x.grad), [4.0] * 3)


@pytest.mark.parametrize("name", ["grad", "jacobian", "vjp", "jvp"])
def test_nothing_is_recorded_until_then(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    create_graph: list[bool] = []
    start = Walk.__init__

    def spy(self: Walk, seeds: Any, path: Any, recorded: bool, *rest: Any) -> None:
        create_graph.append(recorded)
        start(self, seeds, path, recorded, *rest)

    monkeypatch.setattr(Walk, "__init__", spy)
    monkeypatch.setattr(later, "_again", WeakSet())
    x, w = tg.tensor(X, requires_grad=True), tg.asarray(V)
    calls: dict[str, Callable[[], Any]] = {
        "grad": lambda: tg.grad(f)(x, w),
        "jacobian": lambda: tg.jacobian(g, mode="reverse")(x, w),
        "vjp": lambda: tg.vjp(g, x, w)[1](tg.ones(4))[0],
        "jvp": lambda: tg.jvp(lambda x: tg.cumulative_prod(x), (x,), (w,))[1],
    }
    slope = calls[name]()
    assert slope.requires_grad
    assert not any(create_graph) or name == "jvp"
    tg.sum(slope**2).backward()
    assert any(create_graph)
    assert x.grad is not None
    once = np.asarray(x.grad)
    if name in ("grad", "jacobian", "vjp"):  # the next time it is recorded at once
        create_graph.clear()
        slope = calls[name]()
        assert all(create_graph)
        tg.sum(slope**2).backward()
        np.testing.assert_allclose(np.asarray(x.grad), 2 * once, rtol=1e-12)


def test_records_of_a_gradient() -> None:
    x = tg.tensor(X, requires_grad=True)
    slope = tg.grad(lambda x: tg.sum(x**3))(x)
    assert "op=" in repr(slope)
    with tg.Tape() as tape:
        tg.grad(lambda x: tg.sum(x**3))(x)
    assert len(list(tape)) > 4  # a tape shows the walk
    with tg.no_grad():
        assert not tg.grad(lambda x: tg.sum(x**3))(x).requires_grad
