"""Random programs: indexing, writing, broadcasting, reducing and reshaping against NumPy.

What only moves elements has one oracle: the same call on an array of numbers says where each element of the result
came from, and the gradient adds each cotangent up there.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import Place

import tapegrad as tg
from tapegrad._engine.backward import Walk

NumPyArray = np.ndarray[Any, Any]
pytestmark = pytest.mark.parametrize(
    "xp", ["numpy", "strict-device1", "strict-no_float64", "cupy", "torch", "torch-cuda", "jax"], indirect=True
)
Move = Callable[..., Any]  # of (namespace, how to make an index array, array, ...): moves elements


def each(xp: Place, strategy: st.SearchStrategy[Any]) -> Callable[[Callable[[Any], None]], None]:
    """Run a check on examples of a strategy, always the same: many on NumPy, few on the others."""
    examples = 120 if xp.device == "cpu" else 6 if xp.device.startswith("jax") else 25
    fixed = settings(max_examples=examples, derandomize=True, database=None, deadline=None, report_multiple_bugs=False)

    def run(check: Callable[[Any], None]) -> None:
        fixed(given(strategy)(check))()

    return run


def values(*shape: int) -> NumPyArray:
    """Return values that differ all, none near zero."""
    n = prod(shape)
    signs = np.where(np.arange(n) % 3 == 1, -1, 1)
    return np.asarray(signs * (0.75 + (np.arange(n) * 7 % 31) / 16 + np.arange(n) / 256)).reshape(shape)


# -- moves of elements ------------------------------------------------------------------------------------


def check_move(xp: Place, move: Move, *shapes: tuple[int, ...]) -> None:
    """Compare value and gradients of a call that moves elements of arrays of these shapes."""
    data = [values(*shape) + i for i, shape in enumerate(shapes)]
    numbers, start = [], 1
    for shape in shapes:
        numbers.append(np.arange(start, start + prod(shape)).reshape(shape))
        start += prod(shape)
    origin = np.asarray(move(np, np.asarray, *numbers))  # 0: a zero that came from nowhere

    def moved_back(t: NumPyArray) -> list[NumPyArray]:
        sums = np.bincount(origin.reshape(-1), t.reshape(-1), start)
        return [sums[n] for n in numbers]

    def moved(*arrays: NumPyArray) -> NumPyArray:
        flat: NumPyArray = np.concatenate([np.zeros(1), *[a.reshape(-1) for a in arrays]])
        return np.asarray(flat[origin])

    leaves = [xp.tensor(a, requires_grad=True) for a in data]
    y = move(tg, xp.tensor, *leaves)
    assert y.shape == origin.shape
    xp.check(y, moved(*data))
    t = values(*y.shape)
    y.backward(xp.tensor(t), retain_graph=True)
    for x, expected in zip(leaves, moved_back(t), strict=True):
        xp.check(zeros_for_none(x), expected)
    if xp.device != "cpu":
        return
    # Two cotangents at once; then the walk recorded: the derivative by t of <u, gradient> is the call on u.
    both = np.stack([t, 2 - t])
    found = dict(Walk({y._record: both}, None, False).run(retain=True)) if y._record is not None else {}
    for x, one, other in zip(leaves, moved_back(both[0]), moved_back(both[1]), strict=True):
        if x._record in found:
            np.testing.assert_allclose(found[x._record], np.stack([one, other]), rtol=1e-12)
    seed = xp.tensor(t, requires_grad=True)
    for x in leaves:
        x.grad = None
    y.backward(seed, create_graph=True)
    us = [values(*shape) * (3 + i) for i, shape in enumerate(shapes)]
    total = sum((tg.sum(x.grad * u) for x, u in zip(leaves, us, strict=True) if x.grad is not None), tg.sum(seed) * 0)
    seed.grad = None
    total.backward()
    xp.check(seed.grad, moved(*us))


def zeros_for_none(x: tg.Tensor) -> tg.Tensor:
    """Return a leaf's gradient; zeros where the result did not depend on it."""
    return tg.zeros_like(x.detach()) if x.grad is None else x.grad


lengths = st.integers(0, 4)
shapes = st.lists(lengths, max_size=3).map(tuple)
full_shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)


def slices(n: int) -> st.SearchStrategy[slice]:
    """Return slices of an axis, of either direction, within it and beyond."""
    bound = st.none() | st.integers(-n - 2, n + 2)
    return st.builds(slice, bound, bound, st.none() | st.sampled_from([1, 2, 3, -1, -2, -3]))


def integer_arrays(n: int, shape: tuple[int, ...]) -> st.SearchStrategy[NumPyArray]:
    """Return indices of an axis, some negative, some repeated."""
    numbers = st.lists(st.integers(-n, n - 1) if n else st.nothing(), min_size=prod(shape), max_size=prod(shape))
    return numbers.map(lambda v: np.asarray(v, np.int64).reshape(shape))


def masks(shape: tuple[int, ...]) -> st.SearchStrategy[NumPyArray]:
    """Return boolean arrays."""
    bits = st.lists(st.booleans(), min_size=prod(shape), max_size=prod(shape))
    return bits.map(lambda v: np.asarray(v, bool).reshape(shape))


@st.composite
def keys(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    """Return any key of an array of this shape."""
    if draw(st.integers(0, 7)) == 0:
        return draw(masks(shape))
    batch = draw(st.sampled_from([(2,), (3,), (1,), (2, 2), (3, 1), (0,), ()]))
    entries: list[Any] = []
    axis, masked, dots = 0, False, draw(st.booleans())
    while axis < len(shape):
        n = shape[axis]
        kind = draw(st.sampled_from(["slice", "slice", "int", "array", "mask", "none", "stop"]))
        if kind == "int" and n:
            entries.append(draw(st.integers(-n, n - 1)))
        elif kind == "array" and (n or 0 in batch) and not masked:
            entries.append(draw(integer_arrays(n, draw(st.sampled_from([batch, (1,) if n else (0,), batch[-1:]])))))
            if entries[-1].ndim == 0:
                entries[-1] = int(entries[-1])
        elif kind == "mask" and not any(isinstance(i, np.ndarray) for i in entries):
            masked = True
            entries.append(draw(masks(shape[axis : axis + draw(st.integers(1, 2))])))
            axis += entries[-1].ndim - 1
        elif kind == "none":
            entries.append(None)
            continue
        elif kind == "stop":
            if dots:
                entries.append(...)
                dots = False
                axis += draw(st.integers(0, len(shape) - axis))
                continue
            break
        else:
            entries.append(draw(slices(n)))
        axis += 1
    if dots and draw(st.booleans()):
        entries.append(...)
    rest = len(shape) - axis
    if ... in [i for i in entries if not isinstance(i, np.ndarray)] and rest:
        entries += [slice(None)] * rest
    used = sum(i.ndim if isinstance(i, np.ndarray) and i.dtype == bool else i is not None for i in entries)
    if any(isinstance(i, np.ndarray) for i in entries) and used > len(shape):
        entries = [i for i in entries if i is not ...]  # for no axes: it parts index arrays in NumPy, is nothing here
    return entries[0] if len(entries) == 1 and draw(st.booleans()) else tuple(entries)


def placed(key: Any, make: Callable[[NumPyArray], Any]) -> Any:
    """Return a key with its index arrays made where they belong."""
    entries = tuple(make(i) if isinstance(i, np.ndarray) else i for i in (key if isinstance(key, tuple) else (key,)))
    return entries if isinstance(key, tuple) else entries[0]


reads = shapes.flatmap(lambda shape: st.tuples(st.just(shape), keys(shape)))


def test_reading(xp: Place) -> None:
    @each(xp, reads)
    def _(case: Any) -> None:
        shape, key = case
        check_move(xp, lambda m, make, x: x[placed(key, make)], shape)


def broadcasting_to(shape: tuple[int, ...]) -> st.SearchStrategy[tuple[int, ...]]:
    """Return shapes that broadcast to a shape."""
    thin = st.tuples(*[st.sampled_from([n, n, 1]) for n in shape])
    return st.tuples(thin, st.integers(0, len(shape))).map(lambda c: c[0][c[1] :])


@st.composite
def writes(draw: st.DrawFn) -> Any:
    """Return (shape, key, shape of the values to write there)."""
    shape, key = draw(reads)
    return shape, key, draw(broadcasting_to(np.empty(shape)[key].shape))


def write(m: Any, x: Any, key: Any, v: Any) -> Any:
    """Return a copy of x with v written into it."""
    y = x.copy() if m is np else m.positive(x)
    y[key] = v
    return y


def test_writing(xp: Place) -> None:
    @each(xp, writes())
    def _(case: Any) -> None:
        shape, key, written = case
        check_move(xp, lambda m, make, x, v: write(m, x, placed(key, make), v), shape, written)


def test_writing_over_what_was_written(xp: Place) -> None:
    """Reads and writes follow each other; each reads the array that the last one left."""
    two = writes().flatmap(lambda case: st.tuples(st.just(case), keys(case[0])))

    @each(xp, two)
    def _(case: Any) -> None:
        (shape, key, written), second = case

        def move(m: Any, make: Any, x: Any, v: Any) -> Any:
            y = write(m, x, placed(key, make), v)
            y[placed(second, make)] = v[(0,) * v.ndim] if v.size else x[placed(second, make)]
            return y[placed(key, make)]

        check_move(xp, move, shape, written)


@st.composite
def moves(draw: st.DrawFn) -> tuple[Move, tuple[tuple[int, ...], ...]]:
    """Return a function of the standard that moves elements, with the shapes of its operands."""
    shape = draw(shapes)
    n = len(shape)
    size = prod(shape)
    axes: st.SearchStrategy[int] = st.integers(-n, n - 1) if n else st.nothing()
    names = [
        "reshape",
        "flip",
        "roll flat",
        "stack",
        "concat flat",
        "repeat flat",
        "tile",
        "expand_dims",
        "broadcast_to",
    ]
    if n:
        names += ["permute_dims", "moveaxis", "roll", "concat", "take", "repeat", "unstack", "squeeze", "swap"]
        names += ["take_along_axis", "repeat counts"]
    if n > 1:
        names += ["tril", "triu", "matrix_transpose"]
    name = draw(st.sampled_from(names))
    several = draw(st.integers(1, 3))
    k = draw(st.integers(-4, 4))
    if name == "reshape":
        divisors = [d for d in range(1, size + 1) if size % d == 0] or [0, 3]
        d = draw(st.sampled_from(divisors))
        to = draw(st.sampled_from([(d, -1), (-1,), (1, -1, 1)])) if size else (0, d)
        return lambda m, make, x: m.reshape(x, to), (shape,)
    if name == "flip":
        axis = draw(st.none() | axes if n else st.none())
        return lambda m, make, x: m.flip(x, axis=axis), (shape,)
    if name == "roll flat":
        return lambda m, make, x: m.roll(x, k), (shape,)
    if name == "stack":
        axis = draw(st.integers(-n - 1, n))
        return lambda m, make, *xs: m.stack(xs, axis=axis), (shape,) * several
    if name == "concat flat":
        return lambda m, make, *xs: m.concat(xs, axis=None), (*(shape,) * several, draw(shapes))
    if name == "repeat flat":
        return lambda m, make, x: m.repeat(x, abs(k)), (shape,)
    if name == "tile":
        times = draw(st.lists(st.integers(0, 2), max_size=4).map(tuple))
        return lambda m, make, x: m.tile(x, times), (shape,)
    if name == "expand_dims":
        axis = draw(st.integers(-n - 1, n))
        return lambda m, make, x: m.expand_dims(x, axis=axis), (shape,)
    if name == "broadcast_to":
        return lambda m, make, x: m.broadcast_to(x, shape), (draw(broadcasting_to(shape)),)
    axis = draw(axes)
    length = shape[axis]
    if name == "permute_dims":
        order = tuple(draw(st.permutations(range(n))))
        order = tuple(i - n if i % 2 else i for i in order)
        return lambda m, make, x: m.permute_dims(x, order), (shape,)
    if name in ("moveaxis", "swap"):
        other = draw(axes)
        source, target = (
            (axis, other) if name == "moveaxis" or axis % n == other % n else ((axis, other), (other, axis))
        )
        return lambda m, make, x: m.moveaxis(x, source, target), (shape,)
    if name == "roll":
        shift, along = draw(st.sampled_from([(k, axis), ((k, several), (axis, axis))]))
        return lambda m, make, x: m.roll(x, shift, axis=along), (shape,)
    if name == "concat":
        lengths_ = draw(st.lists(lengths, min_size=1, max_size=3))
        parts = tuple((*shape[: axis % n], i, *shape[axis % n + 1 :]) for i in lengths_)
        return lambda m, make, *xs: m.concat(xs, axis=axis), parts
    if name == "take":
        indices = draw(integer_arrays(length, (draw(lengths) if length else 0,)))
        return lambda m, make, x: m.take(x, make(indices), axis=axis), (shape,)
    if name == "take_along_axis":
        wide = (*shape[: axis % n], several if length else 0, *shape[axis % n + 1 :])
        places = draw(integer_arrays(length, wide))
        return lambda m, make, x: m.take_along_axis(x, make(places), axis=axis), (shape,)
    if name == "repeat":
        return lambda m, make, x: m.repeat(x, abs(k), axis=axis), (shape,)
    if name == "repeat counts":
        counts = np.asarray(draw(st.lists(st.integers(0, 3), min_size=length, max_size=length)), np.int64)
        return lambda m, make, x: m.repeat(x, make(counts), axis=axis), (shape,)
    if name == "unstack":
        longer = (*shape[: axis % n], length + 1, *shape[axis % n + 1 :])
        return lambda m, make, x: m.stack([m.unstack(x, axis=axis)[k % (length + 1)]] * 2), (longer,)
    if name == "squeeze":
        thin = (*shape[: axis % n], 1, *shape[axis % n + 1 :])
        return lambda m, make, x: m.squeeze(x, axis=axis), (thin,)
    if name == "matrix_transpose":
        return lambda m, make, x: m.matrix_transpose(x), (shape,)
    return lambda m, make, x: getattr(m, name)(x, k=k), (shape,)


def test_moving(xp: Place) -> None:
    @each(xp, moves())
    def _(case: Any) -> None:
        check_move(xp, case[0], *case[1])


# -- broadcasting ----------------------------------------------------------------------------------------

BINARY: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {  # the derivatives by both operands
    "add": (lambda a, b: 1 + 0 * a * b, lambda a, b: 1 + 0 * a * b),
    "subtract": (lambda a, b: 1 + 0 * a * b, lambda a, b: -1 + 0 * a * b),
    "multiply": (lambda a, b: b + 0 * a, lambda a, b: a + 0 * b),
    "divide": (lambda a, b: 1 / b + 0 * a, lambda a, b: -a / b**2),
    "maximum": (lambda a, b: np.heaviside(a - b, 0.5), lambda a, b: np.heaviside(b - a, 0.5)),
    "minimum": (lambda a, b: np.heaviside(b - a, 0.5), lambda a, b: np.heaviside(a - b, 0.5)),
    "hypot": (lambda a, b: a / np.hypot(a, b), lambda a, b: b / np.hypot(a, b)),
    "atan2": (lambda a, b: b / (a**2 + b**2), lambda a, b: -a / (a**2 + b**2)),
    "logaddexp": (lambda a, b: 1 / (1 + np.exp(b - a)), lambda a, b: 1 / (1 + np.exp(a - b))),
}


def summed_to(t: NumPyArray, shape: tuple[int, ...]) -> NumPyArray:
    """Return the sum over the axes that broadcasting had added or stretched."""
    t = np.sum(t, axis=tuple(range(t.ndim - len(shape))))
    return np.asarray(np.sum(t, axis=tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True))


@st.composite
def broadcasts(draw: st.DrawFn) -> Any:
    """Return an operation with two shapes that broadcast."""
    shape = draw(shapes)
    one = draw(broadcasting_to(shape))
    return draw(st.sampled_from(sorted(BINARY))), *draw(st.permutations([shape, one])), draw(st.booleans())


def test_broadcasting(xp: Place) -> None:
    @each(xp, broadcasts())
    def _(case: Any) -> None:
        name, shape1, shape2, thin = case
        if thin and shape2 and 1 not in shape2:  # both sides stretched
            shape1, shape2 = (*shape1, 1), (*shape2[:-1], 1, shape2[-1])
            shape1 = shape1 if len(shape1) <= 1 or shape1[:-1] == shape2[:-1] else (1,)
        a, b = values(*shape1), values(*shape2) + 0.1
        x1, x2 = xp.tensor(a, requires_grad=True), xp.tensor(b, requires_grad=True)
        y = getattr(tg, name)(x1, x2)
        expected = getattr(np, name)(a, b)
        assert y.shape == expected.shape
        xp.check(y, expected)
        t = values(*y.shape)
        y.backward(xp.tensor(t))
        for x, derivative in zip((x1, x2), BINARY[name], strict=True):
            xp.check(x.grad, summed_to(t * derivative(a, b), x.shape))


def test_where_broadcasts_three_ways(xp: Place) -> None:
    @each(xp, shapes.flatmap(lambda s: st.tuples(*[broadcasting_to(s)] * 3)))
    def _(case: Any) -> None:
        condition = values(*case[0]) > 0
        a, b = values(*case[1]), values(*case[2]) * 2
        x1, x2 = xp.tensor(a, requires_grad=True), xp.tensor(b, requires_grad=True)
        y = tg.where(xp.tensor(condition), x1, x2)
        xp.check(y, np.where(condition, a, b))
        t = values(*y.shape)
        y.backward(xp.tensor(t))
        xp.check(x1.grad, summed_to(np.where(condition, t, 0), a.shape))
        xp.check(x2.grad, summed_to(np.where(condition, 0, t), b.shape))


# -- reductions ------------------------------------------------------------------------------------------


def _extreme(x: NumPyArray, out: NumPyArray, axis: Any) -> NumPyArray:
    ties = x == out
    return np.asarray(ties / ties.sum(axis=axis, keepdims=True))


# The derivative by each element, of (x, result with its axes kept, axis, how many are reduced).
REDUCTIONS: dict[str, Callable[..., Any]] = {
    "sum": lambda x, out, axis, n: np.ones_like(x),
    "prod": lambda x, out, axis, n: out / x,
    "mean": lambda x, out, axis, n: np.ones_like(x) / n,
    "var": lambda x, out, axis, n: 2 * (x - x.mean(axis=axis, keepdims=True)) / n,
    "std": lambda x, out, axis, n: (x - x.mean(axis=axis, keepdims=True)) / n / np.where(out == 0, 1, out),
    "max": lambda x, out, axis, n: _extreme(x, out, axis),
    "min": lambda x, out, axis, n: _extreme(x, out, axis),
}


@st.composite
def reductions(draw: st.DrawFn) -> Any:
    """Return a reduction with a shape, axes and keepdims."""
    name = draw(st.sampled_from(sorted(REDUCTIONS)))
    shape = draw(shapes if name in ("sum", "prod") else full_shapes)
    n = len(shape)
    some = st.lists(st.integers(0, n - 1), unique=True, max_size=n) if n else st.just([])
    axes = some.flatmap(lambda found: st.tuples(*[st.sampled_from([i, i - n]) for i in found]))
    single = st.integers(-n, n - 1) if n else st.none()
    return name, shape, draw(st.none() | single | axes), draw(st.booleans()), draw(st.booleans())


def test_reductions(xp: Place) -> None:
    @each(xp, reductions())
    def _(case: Any) -> None:
        name, shape, axis, keepdims, tied = case
        a = np.round(values(*shape)) if tied and name in ("max", "min") else values(*shape)
        x = xp.tensor(a, requires_grad=True)
        y = getattr(tg, name)(x, axis=axis, keepdims=keepdims)
        kept = np.asarray(getattr(np, name)(a, axis=axis, keepdims=True))
        expected = np.asarray(getattr(np, name)(a, axis=axis, keepdims=keepdims))
        assert y.shape == expected.shape
        xp.check(y, expected, rtol=1e-10)
        t = values(*y.shape)
        y.backward(xp.tensor(t))
        n = a.size / kept.size if kept.size else 1
        xp.check(x.grad, t.reshape(kept.shape) * REDUCTIONS[name](a, kept, axis, n), rtol=1e-10)


def test_cumulative(xp: Place) -> None:
    choices = st.tuples(
        st.sampled_from(["cumulative_sum", "cumulative_prod"]), shapes, st.integers(0, 2), st.booleans()
    )

    @each(xp, choices)
    def _(case: Any) -> None:
        name, shape, axis, initial = case
        shape = (*shape, 3)
        axis %= len(shape)
        a = values(*shape)
        x = xp.tensor(a, requires_grad=True)
        y = getattr(tg, name)(x, axis=axis, include_initial=initial)
        expected = getattr(np, name)(a, axis=axis, include_initial=initial)
        xp.check(y, expected, rtol=1e-10)
        t = values(*y.shape)
        y.backward(xp.tensor(t))
        weighted = t if name == "cumulative_sum" else t * expected
        rest = np.flip(np.cumsum(np.flip(weighted, axis), axis), axis)  # from each place to the end
        rest = np.take(rest, range(int(initial), rest.shape[axis]), axis=axis)
        xp.check(x.grad, rest if name == "cumulative_sum" else rest / a, rtol=1e-10)
