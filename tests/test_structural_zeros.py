"""Elements that a selection leaves out get no gradient; a zero that is a number times infinity is NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg

Function = Callable[[tg.Tensor], tg.Tensor]

# A function, and a place where it, its value or its slope is no finite number, and its slope at 0.5 or 2.
FUNCTIONS: dict[str, tuple[Function, float]] = {
    "exp": (tg.exp, 1000.0),
    "expm1": (tg.expm1, 1000.0),
    "cosh": (tg.cosh, 1000.0),
    "sinh": (tg.sinh, -1000.0),
    "x ** 300": (lambda x: x**300 * 1e-9, 1e10),
    "x ** y": (lambda x: x ** (x * 0 - 1.5), 0.0),
    "x * x": (lambda x: x * tg.exp(x), 1000.0),
    "square": (lambda x: tg.square(tg.exp(x)), 1000.0),
    "log": (tg.log, 0.0),
    "log1p": (lambda x: tg.log1p(x - 1), 0.0),
    "sqrt": (tg.sqrt, 0.0),
    "sqrt of a negative number": (tg.sqrt, -1.0),
    "1 / x": (lambda x: 1 / x, 0.0),
    "x / x": (lambda x: x / x**2, 0.0),
    "reciprocal": (tg.reciprocal, 0.0),
    "asin": (lambda x: tg.asin(x / 4), 5.0),
    "acos": (lambda x: tg.acos(x / 4), -8.0),
    "acosh": (lambda x: tg.acosh(x + 1), 0.0),
    "atanh": (lambda x: tg.atanh(x / 4), 4.0),
    "tan": (tg.tan, np.inf),
    "sin": (tg.sin, np.inf),
    "tanh of nan": (tg.tanh, np.nan),
    "sigmoid of nan": (tg.sigmoid, np.nan),
    "silu": (tg.silu, -np.inf),
    "gelu": (tg.gelu, np.nan),
    "hypot": (lambda x: tg.hypot(x, x), np.inf),
    "logaddexp": (lambda x: tg.logaddexp(tg.log(x), x), 0.0),
    "norm": (lambda x: tg.sqrt(x * x), 0.0),
    "chain": (lambda x: tg.log(tg.exp(tg.log(x)) * tg.sqrt(x)), 0.0),
    "erfinv": (lambda x: tg.special.erfinv(x / 4), 4.0),
    "logit": (lambda x: tg.special.logit(x / 4), 0.0),
    "gammaln": (tg.special.gammaln, np.inf),
    "entr": (tg.special.entr, 0.0),
    "xlogy": (lambda x: tg.special.xlogy(x + 1, x), 0.0),
}
GOOD = (0.5, 2.0)


def _written(h: tg.Tensor) -> tg.Tensor:
    h = h * 1.0
    h[0] = 7.0
    return h


def _written_by_mask(h: tg.Tensor) -> tg.Tensor:
    h = h * 1.0
    h[mask(h)] = 7.0
    return h


def mask(h: tg.Tensor) -> tg.Tensor:
    return tg.asarray([True, False, False], device=h.device)


def integers(h: tg.Tensor, *values: int) -> tg.Tensor:
    return tg.asarray(list(values), device=h.device, dtype=tg.int32)


# Of three entries, leave the first one out.
SELECTIONS: dict[str, Function] = {
    "where, first branch": lambda h: tg.where(~mask(h), h, 0.0),
    "where, second branch": lambda h: tg.where(mask(h), 3.0, h),
    "where of where": lambda h: tg.where(mask(h), 1.0, tg.where(~mask(h), h, 2.0)),
    "slice": lambda h: h[1:],
    "numbers": lambda h: tg.stack([h[1], h[2]]),
    "iteration": lambda h: tg.stack(list(h)[1:]),
    "mask": lambda h: h[~mask(h)],
    "index array": lambda h: h[integers(h, 2, 1, 2)],
    "take": lambda h: tg.take(h, integers(h, 1, 2)),
    "take_along_axis": lambda h: tg.take_along_axis(h, integers(h, 1, 2)),
    "unstack": lambda h: tg.unstack(h)[1] * tg.unstack(h)[2],
    "write": _written,
    "write by a mask": _written_by_mask,
    "flip and slice": lambda h: tg.flip(h)[:2],
    "roll and slice": lambda h: tg.roll(h, 1)[[0, 2]] if h.device.startswith("cpu") else tg.roll(h, -1)[:2],
    "reshape and slice": lambda h: tg.reshape(h, (1, 3))[:, 1:],
    "expand, permute and slice": lambda h: tg.permute_dims(h[None, :], (1, 0))[1:],
    "concat and slice": lambda h: tg.concat([h * 2, h])[4:],
    "stack and slice": lambda h: tg.stack([h, -h])[:, 1:],
    "broadcast and where": lambda h: tg.where(~mask(h), tg.broadcast_to(h, (2, 3)), 0.0),
    "sum of rows and where": lambda h: tg.where(~mask(h), tg.sum(h[:, None] * 2.0, axis=1), 0.0),
    "astype and slice": lambda h: tg.astype(h, tg.float32)[1:],
    "tril": lambda h: tg.tril(tg.stack([tg.flip(h), tg.flip(h)]))[:, :2],
    "diagonal": lambda h: tg.linalg.diagonal(tg.stack([tg.roll(h, -1), tg.roll(h, -1)])),
    "sum with a constant and slice": lambda h: (h + 2.0)[1:] - 1.0,
    "scaled and slice": lambda h: (-3.0 * h / 2.0)[1:],
    "prod of rows": lambda h: tg.where(~mask(h), tg.prod(tg.stack([h, h]), axis=0), 0.0),
    "norm of rows": lambda h: tg.where(~mask(h), tg.linalg.vector_norm(tg.stack([h, h]), axis=0), 0.0),
    "logsumexp of rows": lambda h: tg.where(~mask(h), tg.logsumexp(tg.stack([h, h]), axis=0), 0.0),
    "softmax of rows": lambda h: tg.where(
        ~mask(h),
        tg.softmax(tg.stack([h, h * 2.0]), axis=0) * tg.asarray([[1.0], [3.0]], device=h.device, dtype=h.dtype),
        0.0,
    ),
    "std of rows": lambda h: tg.where(~mask(h), tg.std(tg.stack([h, h * 2.0]), axis=0), 0.0),
    "cumulative_prod of rows": lambda h: tg.where(~mask(h), tg.cumulative_prod(tg.stack([h, h]), axis=0), 0.0),
    "determinants": lambda h: tg.where(
        ~mask(h), tg.linalg.det(h[:, None, None] * tg.eye(2, device=h.device, dtype=h.dtype)), 0.0
    ),
}


def total(selection: Function, f: Function) -> Function:
    """Return a function whose result depends on all but the first entry."""

    def g(x: tg.Tensor) -> tg.Tensor:
        return tg.sum(selection(f(x)) ** 2)

    return g


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with np.errstate(all="ignore"):
        yield


def slopes(g: Function, x: Any) -> list[Any]:
    """Return first and second derivatives of a scalar function, in all modes: a Jacobian or Hessian each."""
    n = x.shape[0]
    first = [tg.grad(g)(x), tg.jacobian(g, mode="forward")(x)]
    unit = [tg.asarray(row.tolist(), device=x.device, dtype=x.dtype) for row in np.eye(n)]

    def directional(v: Any) -> Function:
        return lambda x: tg.jvp(g, (x,), (v,))[1]

    second = [
        tg.hessian(g)(x),
        tg.stack([tg.grad(lambda x, v=v: tg.sum(tg.grad(g)(x) * v))(x) for v in unit]),
        tg.stack([tg.grad(directional(v))(x) for v in unit]),
        tg.stack([tg.stack([tg.jvp(directional(v), (x,), (w,))[1] for w in unit]) for v in unit]),
    ]
    return [first, second]


def expected(g: Function, data: Any) -> list[np.ndarray[Any, Any]]:
    """Return the gradient and the Hessian where all is finite: one way, on NumPy, is enough for these."""
    x = tg.asarray(data)
    return [np.asarray(tg.grad(g)(x)), np.asarray(tg.hessian(g)(x))]


def agree(xp: Place, selection: Function, f: Function, bad: float) -> None:
    g = total(selection, f)
    data = np.asarray([bad, *GOOD])
    good = np.asarray([1.25, *GOOD])
    left_out = np.asarray([0.0, 1.0, 1.0])
    for found, reference in zip(slopes(g, xp.tensor(data)), expected(g, good), strict=True):
        assert np.all(reference[..., 0] == 0)  # the selection leaves the first entry out
        for way in found:
            xp.check(way, reference * left_out, rtol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_where_of_any_function(xp: Place, name: str) -> None:
    f, bad = FUNCTIONS[name]
    if not xp.double and name == "x ** 300":
        f = lambda x: x**30 * 1e-6  # noqa: E731
    agree(xp, SELECTIONS["where, first branch"], f, bad)


@pytest.mark.parametrize("name", ["exp", "log", "chain", "1 / x"])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_any_selection(selection: str, name: str) -> None:
    agree(Place("cpu"), SELECTIONS[selection], *FUNCTIONS[name])


@pytest.mark.parametrize("selection", SELECTIONS)
def test_any_selection_everywhere(xp: Place, selection: str) -> None:
    agree(xp, SELECTIONS[selection], *FUNCTIONS["log"])


# A zero that is a number: the true gradient, and that of the chain rule.
NUMBERS: dict[str, tuple[Callable[[Any], Any], list[float]]] = {
    "logsumexp of a log": (lambda x: tg.logsumexp(tg.stack([tg.log(x[0]), tg.log(x[1])])), [0.0, 0.5]),
    "exp of a sum of logs": (lambda x: tg.exp(tg.sum(tg.log(x))), [0.0, 2.0, 3.0]),
    "mixture": (lambda x: tg.log(tg.sum(tg.exp(tg.log(x) - x**2 / 2))), [0.0, 0.3]),
    "zero times a root": (lambda x: tg.sum(0.0 * tg.sqrt(x)), [0.0, 1.0]),
    "product with a constant zero": (lambda x: tg.sum(tg.log(x) * tg.asarray([0.0, 1.0])), [0.0, 1.0]),
    "root of a sum of squares": (lambda x: tg.sqrt(tg.sum(x * x)), [0.0, 0.0]),
}
SECOND: dict[str, tuple[Callable[[Any], Any], list[float]]] = {
    "square of a norm": (lambda x: tg.linalg.vector_norm(x) ** 2, [0.0, 0.0]),
    "exp of a square of a norm": (lambda x: tg.exp(-(tg.linalg.vector_norm(x) ** 2)), [0.0, 0.0]),
    "hypot": (lambda x: tg.hypot(x[0], x[1]), [0.0, 0.0]),
    "square of hypot": (lambda x: tg.hypot(x[0], x[1]) ** 2, [0.0, 0.0]),
    "square of std": (lambda x: tg.std(x) ** 2, [3.0, 3.0]),
    "square of a complex absolute value": (lambda x: tg.sum(tg.abs(x * (1 + 1j)) ** 2), [0.0, 1.0]),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_zero_that_is_a_number_is_never_a_finite_wrong_gradient(name: str) -> None:
    f, data = NUMBERS[name]
    x = tg.asarray(data)
    assert np.isnan(np.asarray(tg.grad(f)(x))[0])
    assert np.isnan(np.asarray(tg.jacobian(f, mode="forward")(x))[0])
    with tg.debug(), pytest.raises(FloatingPointError, match=r"of \w+, recorded at .*: 0 times infinity"):
        tg.grad(f)(x)


@pytest.mark.parametrize("name", SECOND)
def test_a_kink_has_no_second_derivative(name: str) -> None:
    """Its first derivative is the subgradient of the table in the guide; its second is NaN in every mode, not 0."""
    f, data = SECOND[name]
    first, second = slopes(f, tg.asarray(data))
    for way in first:
        assert np.asarray(way)[0] == 0.0
    for way in second:
        assert np.isnan(np.asarray(way)[0, 0])


def test_debug_names_a_nan_of_forward_mode() -> None:
    with (
        tg.debug(),
        pytest.raises(FloatingPointError, match=r"in the tangent of \w+, recorded at .*: 0 times infinity"),
    ):
        tg.jvp(lambda x: tg.sqrt(0.0 * x), (tg.asarray(1.0),), (tg.asarray(1.0),))
    with tg.debug(), pytest.raises(FloatingPointError, match=r"in the gradient of \w+, recorded at [^:]*:\d+$"):
        tg.grad(lambda x: tg.sum(tg.asarray([[np.inf, -np.inf]]) @ tg.stack([x, x])))(tg.asarray([1.0]))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("selection", ["where, second branch", "slice", "write by a mask"])
def test_compiled(name: str, selection: str) -> None:
    f, bad = FUNCTIONS[name]
    g = total(SELECTIONS[selection], f)
    data = tg.asarray([bad, *GOOD])
    eager = np.asarray(tg.grad(g)(data))
    compiled = tg.compile(lambda x: tg.grad(g)(x))
    for _ in range(4):
        np.testing.assert_allclose(np.asarray(compiled(data)), eager, rtol=1e-12)
    assert eager[0] == 0


def _moved_to_another_library(x: tg.Tensor) -> tg.Tensor:
    return tg.log(x).to_device("strict:device1").to_device("cpu")


with_own_tangent = tg.custom_jvp(tg.log)
with_own_tangent.defjvp(lambda primals, tangents: (tg.log(primals[0]), tangents[0] / primals[0]))

# Wrappers of a call: the support goes on inside.
WRAPPED: dict[str, Function] = {
    "checkpoint": tg.checkpoint(tg.log),
    "custom_jvp": with_own_tangent,
    "vmap": tg.vmap(tg.log),
    "another library": _moved_to_another_library,
    "derivative": lambda x: tg.grad(lambda x: tg.sum(x * tg.log(x) - x))(x),
    "tangent": lambda x: tg.jvp(lambda x: x * tg.log(x) - x, (x,), (tg.ones_like(x),))[1],
    "sort": lambda x: tg.sort(tg.log(x)),
    "cumulative sum": lambda x: tg.flip(tg.diff(tg.cumulative_sum(tg.flip(tg.log(x))), prepend=tg.zeros(1))),
    "complex": lambda x: tg.real(tg.log(tg.astype(x, tg.complex128))),
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("selection", ["where, first branch", "slice", "write", "take"])
def test_wrapped(name: str, selection: str) -> None:
    g = total(SELECTIONS[selection], WRAPPED[name])
    x = tg.asarray([0.0, *GOOD])
    wanted = np.asarray([0.0, *[2 * np.log(v) / v for v in GOOD]])
    np.testing.assert_allclose(np.asarray(tg.grad(g)(x)), wanted, rtol=1e-12)
    np.testing.assert_allclose(np.asarray(tg.vmap(tg.grad(g))(tg.stack([x, x]))), [wanted, wanted], rtol=1e-12)
    leaf = tg.tensor([0.0, *GOOD], requires_grad=True)
    g(leaf).backward()
    np.testing.assert_allclose(np.asarray(leaf.grad), wanted, rtol=1e-12)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_many_cotangents_in_one_walk(xp: Place, mode: str) -> None:
    x = xp.tensor([0.0, *GOOD])
    wanted = np.diag([0.0, *[1 / v for v in GOOD]])
    for f in (
        lambda x: tg.where(mask(x), 0.0, tg.log(x)),
        lambda x: tg.log(tg.where(mask(x), 0.0, x)),
        lambda x: _written(tg.log(x)),
    ):
        xp.check(tg.jacobian(f, mode=mode)(x), wanted)
    xp.check(tg.jacobian(lambda x: tg.log(x)[1:], mode=mode)(x), wanted[1:])


# The mirror image: entries of a constant, whose tangent is no number either.
PLACED: dict[str, Function] = {
    "where": lambda x: tg.where(mask(x), 0.0, x),
    "write": lambda x: _zero_written(x),
    "into zeros": lambda x: _into_zeros(x),
    "concat": lambda x: tg.concat([tg.zeros_like(x[:1]), x[1:]]),
    "stack": lambda x: tg.reshape(tg.stack([tg.zeros_like(x[1:]), x[1:]]), (-1,))[1:],
    "unstack": lambda x: tg.stack(list(tg.unstack(tg.where(mask(x), 0.0, x)))),
    "flip": lambda x: tg.flip(tg.where(tg.flip(mask(x)), 0.0, tg.flip(x))),
    "clip": lambda x: tg.clip(tg.where(mask(x), 0.0, x), 0.0, 10.0),
    "relu": lambda x: tg.relu(tg.where(mask(x), -1.0, x)),
    "maximum": lambda x: tg.maximum(tg.where(mask(x), -1.0, x), 0.0),
    "sum": lambda x: tg.sum(tg.where(mask(x), 0.0, x)[:, None] * 1.0, axis=1),
    "tril": lambda x: tg.flip(tg.tril(tg.stack([tg.flip(x), tg.flip(x)]), k=1)[0, :] * 1.0),
}


def _zero_written(x: tg.Tensor) -> tg.Tensor:
    x = x * 1.0
    x[0] = 0.0
    return x


def _into_zeros(x: tg.Tensor) -> tg.Tensor:
    y = tg.zeros_like(x)
    y[1:] = x[1:]
    return y


@pytest.mark.parametrize("name", PLACED)
def test_constants_that_are_put_beside(xp: Place, name: str) -> None:
    """log of a constant 0 has no derivative to speak of, in either mode, and to second order."""
    for h in (tg.log, tg.reciprocal):

        def g(x: tg.Tensor, h: Function = h) -> tg.Tensor:
            y = h(PLACED[name](x))
            return tg.sum(y[1:] ** 2) + y[0]

        x = xp.tensor([3.0, *GOOD])

        def plain(x: tg.Tensor, h: Function = h) -> tg.Tensor:
            return tg.sum(h(x[1:]) ** 2)

        for found, wanted in zip(slopes(g, x), expected(plain, [3.0, *GOOD]), strict=True):
            for way in found:
                xp.check(way, wanted, rtol=1e-9)
