"""vmap: a function of one example, mapped over many, against a loop over them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad.testing import SAMPLES, Sample

Function = Callable[..., Any]
RNG = np.random.default_rng(7)
X = tg.asarray(RNG.standard_normal((4, 3)))
W = tg.asarray(RNG.standard_normal(3))


def looped(f: Function, in_axes: Any = 0, out_axes: int = 0) -> Function:
    """Return the right result of `tg.vmap`: those for one example after the other, stacked."""

    def run(*args: Any) -> Any:
        axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
        front = [a if axis is None else tg.moveaxis(a, axis, 0) for a, axis in zip(args, axes, strict=True)]
        n = next(a.shape[0] for a, axis in zip(front, axes, strict=True) if axis is not None)
        outs = [f(*[a if axis is None else a[i, ...] for a, axis in zip(front, axes, strict=True)]) for i in range(n)]
        if isinstance(outs[0], tuple):
            return tuple(tg.stack(list(column), axis=out_axes) for column in zip(*outs, strict=True))
        return tg.stack(outs, axis=out_axes)

    return run


def close(got: Any, expected: Any, rtol: float = 1e-8) -> None:
    if isinstance(expected, tuple):
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            close(a, b, rtol)
        return
    assert got.dtype is expected.dtype
    a, b = (np.asarray(x.detach().to_device("cpu")) for x in (got, expected))
    scale = np.abs(b).max(initial=1)
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * 1e-2 * scale)


# -- one integer an example ------------------------------------------------------------------------------------


def written(x: tg.Tensor, key: Any, value: Any) -> tg.Tensor:
    y = x * 1.0
    y[key] = value
    return y


def added(x: tg.Tensor, i: Any) -> tg.Tensor:
    y = x * 1.0
    y[i] += x[0] * x[1]
    y[i] *= 2.0
    return y


# Functions of an array of three axes, and two integers.
BY_NUMBER: dict[str, Function] = {
    "x[i]": lambda x, i, j: x[i],
    "x[:, j]": lambda x, i, j: x[:, j],
    "x[..., i]": lambda x, i, j: x[..., i],
    "x[i, j]": lambda x, i, j: x[i, j],
    "x[i, j, i]": lambda x, i, j: x[i, j, i] * x[0, 0, j],
    "x[i, :, j]": lambda x, i, j: x[i, :, j],
    "x[1, :, j]": lambda x, i, j: x[1, :, j],
    "x[i, ::-1, 0]": lambda x, i, j: x[i, ::-1, 0],
    "x[:, None, i]": lambda x, i, j: x[:, None, i],
    "x[None, i, 1:]": lambda x, i, j: x[None, i, 1:],
    "x[1:, i, :2]": lambda x, i, j: x[1:, i, :2],
    "x[[0, 1, 1], i]": lambda x, i, j: x[[0, 1, 1], i],
    "x[i, [[0], [2]], j]": lambda x, i, j: x[i, [[0], [2]], j],
    "x[-i]": lambda x, i, j: x[-i] * x[i - 3],
    "x[i + j - 2]": lambda x, i, j: x[i + j - 2],
    "x[argmax]": lambda x, i, j: x[tg.argmax(x[:, 0, 0]), tg.argmin(x[0, :, 1])],
    "x[int8]": lambda x, i, j: x[tg.astype(i, tg.int8), tg.astype(j, tg.uint8)],
    "cross entropy": lambda x, i, j: -tg.log_softmax(x[0, 0])[j],
    "take": lambda x, i, j: tg.take(x, i, axis=1),
    "x[i] = 0": lambda x, i, j: written(x, i, 0.0),
    "x[:, j] = row": lambda x, i, j: written(x, (slice(None), j), x[0] ** 2),
    "x[i, :, j] = number": lambda x, i, j: written(x, (i, slice(None), j), x[0, 1, 2] ** 2),
    "x[i, j, 0] = number": lambda x, i, j: written(x, (i, j, 0), x[2, 1, 0] * 3.0),
    "x[[0, 2], j] = rows": lambda x, i, j: written(x, ([0, 2], j), x[1:, 0] * 3.0),
    "x[i] += y": lambda x, i, j: added(x, i),
}


@pytest.mark.parametrize("name", BY_NUMBER)
def test_index_of_one_number(name: str) -> None:
    """As in a loop: values, derivatives of both modes and orders, one mapped argument or all, nested and compiled."""
    f = BY_NUMBER[name]
    x = tg.asarray(np.random.default_rng(9).standard_normal((4, 3, 3, 3)))
    i, j = tg.asarray([2, 0, 1, 2]), tg.asarray([0, 1, 1, 2])

    def loss(x: tg.Tensor, i: tg.Tensor, j: tg.Tensor) -> tg.Tensor:
        return tg.sum(f(x, i, j) ** 3)

    for axes in ((0, 0, 0), (None, 0, 0), (0, None, 0), (0, 0, None)):
        args = tuple(a if axis == 0 else a[1] for a, axis in zip((x, i, j), axes, strict=True))
        expected = looped(f, axes)(*args)
        close(tg.vmap(f, axes)(*args), expected)
        close(tg.vmap(tg.grad(loss), axes)(*args), looped(tg.grad(loss), axes)(*args))
        outside = lambda x, axes=axes, args=args: tg.sum(tg.vmap(f, axes)(x, *args[1:]) ** 3)  # noqa: E731
        inside = lambda x, axes=axes, args=args: tg.sum(looped(f, axes)(x, *args[1:]) ** 3)  # noqa: E731
        close(tg.grad(outside)(args[0]), tg.grad(inside)(args[0]))
        close(tg.hvp(outside, (args[0],), (args[0],)), tg.hvp(inside, (args[0],), (args[0],)))
        close(tg.jvp(outside, (args[0],), (args[0],)), tg.jvp(inside, (args[0],), (args[0],)))
    close(
        tg.vmap(tg.vmap(f, (0, None, 0)), (None, 0, None))(x, i, j),
        looped(looped(f, (0, None, 0)), (None, 0, None))(x, i, j),
    )
    compiled = tg.compile(tg.vmap(f))
    for k in range(4):
        close(compiled(x, tg.roll(i, k), j), looped(f)(x, tg.roll(i, k), j))


def test_index_of_one_number_everywhere(xp: Place) -> None:
    x = np.random.default_rng(9).standard_normal((3, 3, 3, 3))
    i, j = np.asarray([2, 0, 1]), np.asarray([0, 1, 1])
    some = ("x[-i]", "x[int8]", "x[i] += y") if xp.device != "jax:cpu" else ("x[-i]",)  # JAX compiles each operation
    for name in ("x[i, :, j]", *some):
        loss = lambda x, i, j, f=BY_NUMBER[name]: tg.sum(f(x, i, j) ** 3)  # noqa: E731
        got = tg.vmap(tg.value_and_grad(loss))(xp.tensor(x), xp.tensor(i), xp.tensor(j))
        expected = looped(tg.value_and_grad(loss))(*map(tg.asarray, (x, i, j)))
        for a, b in zip(got, expected, strict=True):
            xp.check(a, np.asarray(b), rtol=1e-9)


# -- every operation -------------------------------------------------------------------------------------------

# Functions with another shape for each example, or in need of a value, when the second argument (or the only one) is
# mapped.
REFUSED = {"repeat counts", "getitem mask", "getitem mask of rows", "nonzero"}
REFUSED |= {s.name for s in SAMPLES if s.operation.startswith("unique_")}
MAPPABLE = [s for s in SAMPLES if s.args]
FIRST = list({(s.operation, s.args[0].dtype.kind): s for s in reversed(MAPPABLE)}.values())


def which_mapped(sample: Sample) -> list[tuple[int | None, ...]]:
    """Return in_axes: all arguments mapped, then each alone."""
    n = len(sample.args)
    alone = [tuple(0 if i == k else None for i in range(n)) for k in range(n)] if n > 1 else []
    every = [(0,) * n, *alone]
    return [axes for axes in every if sample.name not in REFUSED or (n > 1 and axes[-1] is None)]


def examples(sample: Sample, axes: tuple[int | None, ...], device: str) -> list[tg.Tensor]:
    """Return the sample's arguments, those that are mapped as two examples with somewhat different values."""
    args = []
    for a, axis in zip(sample.args, axes, strict=True):
        both = np.stack([a, a if a.dtype.kind in "biu" else a * 1.01])
        args.append(tg.tensor(a if axis is None else both, device=device))
    return args


@pytest.fixture
def jax() -> None:
    pytest.importorskip("jax").config.update("jax_enable_x64", True)


def check_values(sample: Sample, device: str) -> None:
    with tg.default_device(device):
        for axes in which_mapped(sample):
            args = examples(sample, axes, device)
            close(tg.vmap(sample.f, axes)(*args), looped(sample.f, axes)(*args))


@pytest.mark.parametrize("device", ["cpu", "strict:CPU_DEVICE"])
@pytest.mark.parametrize("sample", MAPPABLE, ids=lambda s: s.name)
def test_values(sample: Sample, device: str) -> None:
    check_values(sample, device)


@pytest.mark.parametrize("sample", FIRST, ids=lambda s: s.name)
def test_values_on_torch(sample: Sample) -> None:
    pytest.importorskip("torch")
    check_values(sample, "torch:cpu")


@pytest.mark.usefixtures("jax")
@pytest.mark.parametrize("sample", FIRST[::24], ids=lambda s: s.name)
def test_values_on_jax(sample: Sample) -> None:
    check_values(sample, "jax:cpu")


@pytest.mark.parametrize("sample", [s for s in MAPPABLE if s.name in REFUSED], ids=lambda s: s.name)
def test_what_depends_on_values_is_refused(sample: Sample) -> None:
    args = examples(sample, (0,) * len(sample.args), "cpu")
    with pytest.raises(TypeError, match=r"differs between examples.*leave it outside the mapped function"):
        tg.vmap(sample.f)(*args)


def weighted(f: Function, seed: int = 3) -> Function:
    """Return f with its results summed up to one real number, by weights."""

    def g(*args: Any) -> Any:
        y = f(*args)
        weights = tg.asarray(np.random.default_rng(seed).standard_normal(y.shape), device=y.device)
        y = y * weights
        return tg.sum(tg.real(y) if tg.isdtype(y.dtype, "complex floating") else y)

    return g


def derivatives(sample: Sample, axes: tuple[int | None, ...], args: list[Any], vmap: Any) -> dict[str, Any]:
    """Return derivatives of a mapped sample, taken inside, outside and both, as functions to call."""
    floating = tuple(i for i, a in enumerate(sample.args) if a.dtype.kind in "fc")
    loss = weighted(sample.f)

    def by(f: Function, args: Any) -> Function:
        """Return f as a function of its floating arguments."""
        return lambda *given: f(*[given[floating.index(i)] if i in floating else a for i, a in enumerate(args)])

    def tangents(args: Any) -> list[Any]:
        draw = np.random.default_rng(1).standard_normal
        return [tg.astype(tg.asarray(draw(args[i].shape)), args[i].dtype) for i in floating]

    def push(f: Function, args: Any) -> Any:
        return tg.jvp(by(f, args), [args[i] for i in floating], tangents(args))

    def slopes(*args: Any) -> Any:
        return sum(weighted(lambda g: g, 5)(g) for g in tg.grad(loss, floating)(*args))

    programs = {
        "grad inside": lambda: vmap(tg.grad(loss, floating), axes)(*args),
        "grad outside": lambda: tg.grad(lambda *a: tg.sum(vmap(loss, axes)(*a)), floating)(*args),
        "jvp inside": lambda: vmap(lambda *a: push(sample.f, a), axes)(*args),
        "jvp outside": lambda: push(lambda *a: vmap(sample.f, axes)(*a), args),
    }
    if sample.order > 1:
        programs["twice inside"] = lambda: vmap(tg.grad(slopes, floating), axes)(*args)
        programs["inside and outside"] = lambda: tg.grad(lambda *a: tg.sum(vmap(slopes, axes)(*a)), floating)(*args)
    return programs


@pytest.mark.parametrize("sample", [s for s in MAPPABLE if s.order], ids=lambda s: s.name)
def test_derivatives(sample: Sample) -> None:
    for axes in which_mapped(sample):
        args = examples(sample, axes, "cpu")
        expected = derivatives(sample, axes, args, looped)
        for name, program in derivatives(sample, axes, args, tg.vmap).items():
            if sample.name.startswith("unique") and name == "jvp inside":
                continue
            close(program(), expected[name]())


@pytest.mark.parametrize("device", ["cpu", "torch:cpu"])
@pytest.mark.parametrize("sample", [s for s in FIRST if s.order], ids=lambda s: s.name)
def test_pulls_and_pushes_from_outside(sample: Sample, device: str) -> None:
    """Cotangents and tangents of a call that was made outside: many, beside one of each value that rules read."""
    if device == "torch:cpu":
        pytest.importorskip("torch")
    args = [tg.tensor(a, device=device) for a in sample.args]
    floating = [i for i, a in enumerate(sample.args) if a.dtype.kind in "fc"]
    given = [args[i] for i in floating]

    def f(*given: Any) -> Any:
        return sample.f(*[given[floating.index(i)] if i in floating else a for i, a in enumerate(args)])

    def draw(x: Any) -> Any:
        return tg.astype(tg.asarray(RNG.standard_normal((2, *x.shape)), device=device), x.dtype)

    with tg.default_device(device):
        y, pull = tg.vjp(f, *given)
        _, slope = tg.linearize(f, *given)
        cotangents, tangents = draw(y), [draw(x) for x in given]
        close(tg.vmap(pull)(cotangents), looped(pull)(cotangents))
        close(tg.vmap(lambda *ts: slope(*ts))(*tangents), looped(lambda *ts: slope(*ts))(*tangents))


def test_matrix_products_of_all_ranks() -> None:
    shapes = [(3,), (3, 3), (2, 3, 3), (4, 1, 3, 3)]
    for (s1, s2), axes in product(product(shapes, shapes), [(0, 0), (0, None), (None, 0)]):
        a, b = (
            tg.asarray(RNG.standard_normal((5, *s) if axis == 0 else s)) for s, axis in zip((s1, s2), axes, strict=True)
        )
        close(tg.vmap(tg.matmul, axes)(a, b), looped(tg.matmul, axes)(a, b))
        if len(s1) > 1:
            close(tg.vmap(tg.linalg.solve, axes)(a, b), looped(tg.linalg.solve, axes)(a, b))


def test_searching() -> None:
    rows, values = tg.sort(X), tg.asarray(RNG.standard_normal((4, 2, 2)))
    order = tg.argsort(X)
    for axes in ((0, 0), (0, None), (None, 0)):
        args = [a if axis == 0 else a[1, ...] for a, axis in zip((rows, values), axes, strict=True)]
        close(tg.vmap(tg.searchsorted, axes)(*args), looped(tg.searchsorted, axes)(*args))
        close(tg.vmap(tg.isin, axes)(*args), looped(tg.isin, axes)(*args))
        inverted = lambda a, b: tg.isin(a, b, invert=True)  # noqa: E731
        close(tg.vmap(inverted, axes)(*args), looped(inverted, axes)(*args))
    by_order = lambda x, v, o: tg.searchsorted(x, v, sorter=o, side="right")  # noqa: E731
    close(tg.vmap(by_order)(X, values, order), looped(by_order)(X, values, order))
    none = tg.zeros((0, 3))
    assert tg.vmap(tg.searchsorted)(none, none).shape == (0, 3)
    flat = lambda x: tg.argmax(x, keepdims=True)  # noqa: E731
    close(tg.vmap(flat)(values), looped(flat)(values))


KEYS: list[Function] = [
    lambda i, j: (i,),
    lambda i, j: (slice(None), i),
    lambda i, j: (slice(1, None), i, j),
    lambda i, j: (..., i),
    lambda i, j: (None, slice(None), i, slice(None, None, -1)),
    lambda i, j: (i, slice(None), j),
    lambda i, j: (i[:, None], j),
    lambda i, j: (1, i, j),
    lambda i, j: (slice(None), 1, i),
    lambda i, j: (i, None, j),
    lambda i, j: (slice(0, 0), i),
    lambda i, j: (slice(None), None, i, [0, 2]),
]


@pytest.mark.parametrize("device", ["cpu", "strict:CPU_DEVICE", "torch:cpu"])
@pytest.mark.parametrize("key", KEYS)
def test_indices_of_each_example(key: Function, device: str) -> None:
    """Reading and writing with integer arrays, with x, the indices and the value mapped or not, and their gradients."""
    if device == "torch:cpu":
        pytest.importorskip("torch")

    def tensor(a: Any) -> tg.Tensor:
        return tg.asarray(a, device=device)

    x, i, j, v = (
        RNG.standard_normal((3, 3, 3, 3)),
        RNG.integers(0, 3, (3, 2)),
        RNG.permuted(np.asarray([[0, 1, 2]] * 3), axis=1)[:, :2],
        RNG.standard_normal(3),
    )

    def read(x: Any, i: Any, j: Any, v: Any) -> Any:
        return x[key(i, j)] * v

    def write(x: Any, i: Any, j: Any, v: Any) -> Any:
        y = x * 1.0
        y[key(j, j)] = v * y[key(j, j)]
        return y

    def outside(vmap: Any, f: Function, axes: Any) -> Function:
        return tg.grad(lambda *a: tg.sum(vmap(weighted(f), axes)(*a)), (0, 3))

    for axes in [(0, 0, 0, 0), (0, None, None, None), (None, 0, 0, None), (None, None, 0, 0), (None, 0, None, None)]:
        args = [tensor(a if axis == 0 else a[0, ...]) for a, axis in zip((x, i, j, v), axes, strict=True)]
        for f in (read, write):
            close(tg.vmap(f, axes)(*args), looped(f, axes)(*args))
            if device != "cpu" and axes != (0, 0, 0, 0):
                continue
            with tg.default_device(device):
                inside = tg.grad(weighted(f), (0, 3))
                close(tg.vmap(inside, axes)(*args), looped(inside, axes)(*args))
                close(outside(tg.vmap, f, axes)(*args), outside(looped, f, axes)(*args))


# -- nesting ---------------------------------------------------------------------------------------------------

KINDS = [
    *(
        "leaf",
        "leaf",
        "two",
        "vmap",
        "some",
        "axes",
        "grad",
        "both",
        "aux",
        "hvp",
        "jvp",
        "jacobian",
        "pull",
        "linearize",
    ),
    *("no_grad", "detach", "stop", "in-place", "index", "checkpoint", "own", "rule"),
]
LEAVES: list[Function] = [
    lambda a, b, c: tg.sin(a) * b + 0.3 * c,
    lambda a, b, c: a * a * b,
    lambda a, b, c: tg.matmul(tg.stack([a, b, c]), c),
    lambda a, b, c: tg.concat([a[1:], b[:1]]) * c,
    lambda a, b, c: tg.tanh(a) + tg.sum(b) * c,
    lambda a, b, c: tg.where(a > 0.1, b, c * b),
]


@tg.custom_vjp
def by_vjp(a: Any, b: Any) -> Any:
    return tg.sin(a) * b


by_vjp.defvjp(  # twice the derivative in b, so that it is seen whether the rule is used
    lambda a, b: (tg.sin(a) * b, (a, b)), lambda r, t: (t * tg.cos(r[0]) * r[1], 2 * t * tg.sin(r[0]))
)


@tg.custom_jvp
def by_jvp(a: Any, b: Any) -> Any:
    return tg.sin(a) * b


by_jvp.defjvp(lambda p, t: (by_jvp(*p), 2 * tg.cos(p[0]) * p[1] * t[0] + tg.sin(p[0]) * t[1]))


def program(rng: np.random.Generator, depth: int, n: int) -> Function:
    """Return a random function `f(vmap, variables)` of n vectors of length 3 that closes over all of them."""
    kind = "leaf" if depth == 0 else KINDS[rng.integers(len(KINDS))]
    i, j, k = (int(a) for a in rng.integers(n, size=3))
    leaf = LEAVES[rng.integers(len(LEAVES))]
    if kind == "leaf":
        return lambda vmap, v: leaf(v[i], v[j], v[k])
    new = {"some": 2}.get(kind, kind not in ("two", "no_grad", "detach", "stop", "in-place", "index", "rule"))
    p = program(rng, depth - 1, n + int(new))
    q = program(rng, depth - 1, n) if kind == "two" else p

    def run(vmap: Any, v: list[Any]) -> Any:
        def of(*more: Any) -> Any:
            return p(vmap, [*v, *more])

        a, b, c = v[i], v[j], v[k]
        if kind == "two":
            return p(vmap, v) * 0.5 + q(vmap, v)
        if kind == "grad":
            return tg.grad(lambda u: tg.sum(of(u)))(a)
        if kind == "both":
            value, (g, h) = tg.value_and_grad(lambda u, w: tg.sum(of(u * w)), (0, 1))(a, b)
            return value * g + h
        if kind == "aux":
            g, y = tg.grad(lambda u: (tg.sum(of(u)), of(u * b)), has_aux=True)(a)
            return g + y
        if kind == "hvp":
            return tg.hvp(lambda u: tg.sum(of(u)), (a,), (b,))
        if kind == "jvp":
            return tg.jvp(of, (a,), (b,))[1]
        if kind == "vmap":
            return tg.sum(vmap(of)(tg.stack([a, b * 0.5])), axis=0)
        if kind == "some":
            return tg.sum(vmap(of, (0, None))(tg.stack([a, b * 0.5]), c), axis=0)
        if kind == "axes":
            return tg.mean(vmap(of, 1, 1)(tg.stack([a, b, c], axis=1)), axis=1)
        if kind == "pull":
            y, pull = tg.vjp(of, a)
            return tg.sum(vmap(lambda t: pull(t)[0])(tg.stack([b, c])), axis=0) + pull(y)[0]
        if kind == "linearize":
            y, slope = tg.linearize(of, a)
            return tg.sum(vmap(slope)(tg.stack([b, c])), axis=0) + y
        if kind == "no_grad":
            with tg.no_grad():
                y = of()
            return y * a
        if kind == "detach":
            return of().detach() * a
        if kind == "stop":
            return tg.stop_gradient(of()) + a
        if kind == "in-place":
            y = tg.zeros(3)
            y[1:] = of()[:2]
            y += a
            y[0] = b[2]
            y *= c
            return y
        if kind == "index":
            y, at = of(), tg.argsort(a)
            z = tg.asarray(tg.take(y, at) * y[at], copy=True)
            z[at] = y
            z[b > 0] = 0.5
            return z
        if kind == "rule":
            return by_vjp(of(), a) + by_jvp(b, of())
        if kind == "checkpoint":
            return tg.checkpoint(of)(a)
        if kind == "jacobian":
            return tg.matmul(tg.jacobian(of)(a), b)
        return tg.grad(lambda u: tg.sum(of(u)))(tg.tensor([0.1, 0.2, 0.3])) * a  # own

    return run


@pytest.mark.parametrize("seed", range(400))
def test_random_programs(seed: int) -> None:
    """Programs that nest transforms, closing over all variables around: values, first and second derivatives."""
    rng = np.random.default_rng(seed)
    body = program(rng, 2 + seed % 3, 2)
    x, w = (tg.asarray(rng.standard_normal(3) * 0.7) for _ in range(2))
    scales = tg.asarray(rng.standard_normal((2, 3)) * 0.7)
    results = []
    for vmap in (looped, tg.vmap):

        def f(x: Any, w: Any, vmap: Any = vmap) -> Any:
            return tg.sum(tg.sin(vmap(lambda u: body(vmap, [u, w]))(scales * x)))

        def g(x: Any, w: Any, f: Any = f) -> Any:
            value, (a, b) = tg.value_and_grad(f, (0, 1))(x, w)
            return tg.sum(a * w) + tg.sum(b * a) + value

        found: list[Any] = []
        for derivative in (tg.value_and_grad(f, (0, 1)), tg.value_and_grad(g, (0, 1))):
            try:
                value, gradients = derivative(x, w)
                found += [value, *gradients]
            except RuntimeError as error:  # the chain was cut
                found.append(str(error).partition(":")[2][:40])
        results.append(found)
    assert len(results[0]) == len(results[1])
    for a, b in zip(*results, strict=True):
        assert type(a) is type(b)
        if isinstance(a, str):
            assert a == b
        else:
            assert not b.requires_grad
            close(b, a, rtol=1e-7)
