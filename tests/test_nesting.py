"""Random nested programs: derivatives of derivatives that close over every variable around them.

A program is an expression tree, evaluated by one interpreter over tapegrad, JAX or sympy. A node ("d", kind, body,
points) is the derivative of `body`, in which there is one more variable for each of the points, at these points.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest

import tapegrad as tg

Tree = tuple[Any, ...]
KINDS = ("grad", "jvp", "vjp", "linearize")
BINARY, UNARY = ("add", "mul", "mul", "mul", "div", "pow"), ("sin", "exp", "tanh", "square", "cube")
VALUES = (0.4, 0.9)
VECTORS = (np.asarray([0.4, -0.3, 0.8]), np.asarray([0.9, 0.2, -0.6]))


def tree(rng: random.Random, size: int, variables: int, nesting: int, vectors: bool, new: int = 0) -> Tree:
    """Return a random tree of at most this depth, in which derivatives stand in each other up to `nesting` times.

    The last `new` variables are in it.
    """
    while True:
        e = _tree(rng, size, variables, nesting, vectors)
        if all(uses(e, i) for i in range(variables - new, variables)):
            return e


def _tree(rng: random.Random, size: int, variables: int, nesting: int, vectors: bool) -> Tree:
    if size == 0 or rng.random() < 0.05:
        if rng.random() < 0.1:
            return ("number", rng.randint(3, 12) / 10)
        return ("variable", variables - 1 if rng.random() < 0.4 else rng.randrange(variables))
    kind = rng.choice([*BINARY, *UNARY, *["d"] * (4 if nesting else 0), *["sum"] * vectors])
    if kind == "d":
        n = rng.choice((1, 1, 2))
        body = tree(rng, max(size - 1, 2), variables + n, nesting - 1, vectors, n)
        points = [_tree(rng, max(size - 2, 0), variables, nesting - 1, vectors) for _ in range(n)]
        return ("d", rng.choice(KINDS), body, *points)
    operands = 2 if kind in BINARY else 1
    return (kind, *[_tree(rng, size - 1, variables, nesting, vectors) for _ in range(operands)])


def uses(e: Tree, i: int) -> bool:
    """Say whether a variable stands in a tree."""
    return e == ("variable", i) or any(uses(x, i) for x in e[1:] if isinstance(x, tuple))


def derivatives(e: Tree) -> int:
    """Return how many derivatives stand in each other."""
    return int(e[0] == "d") + max([derivatives(x) for x in e[1:] if isinstance(x, tuple)], default=0)


def nodes(e: Tree) -> int:
    return 1 + sum(nodes(x) for x in e[1:] if isinstance(x, tuple))


def programs(seed: int, size: int = 4, nesting: int = 3, vectors: bool = False) -> Iterator[Tree]:
    """Yield derivatives by a variable of programs that hold a derivative themselves."""
    rng = random.Random(seed)
    while True:
        body = tree(rng, size, 3, nesting - 1, vectors, 1)
        if derivatives(body):
            yield ("d", rng.choice(KINDS), body, ("variable", 1))


def evaluate(e: Tree, scope: Sequence[Any], library: Any) -> Any:
    kind, *operands = e
    if kind == "variable":
        return scope[operands[0]]
    if kind == "number":
        return library.number(operands[0])
    if kind == "d":
        how, body, *points = operands
        at = [evaluate(p, scope, library) for p in points]
        return library.derivative(how, lambda *new: evaluate(body, [*scope, *new], library), at)
    xs = [evaluate(x, scope, library) for x in operands]
    match kind:
        case "add":
            return xs[0] + xs[1]
        case "mul":
            return xs[0] * xs[1]
        case "div":
            return xs[0] / (library.sin(xs[1]) + 1.5)
        case "pow":
            return (library.sin(xs[0]) + 1.5) ** library.tanh(xs[1])
        case "exp":
            return library.exp(library.sin(xs[0]))
        case "square":
            return library.tanh(xs[0]) ** 2
        case "cube":
            return library.sin(xs[0]) ** 3
        case _:
            return getattr(library, kind)(xs[0])


def in_one(f: Callable[..., Any]) -> Callable[[Any], Any]:
    """Return a function of several variables as one of a container of them."""
    return lambda p: f(p["first"], *p["rest"])


class Numeric:
    """The common part of tapegrad and JAX: derivatives of functions of a container where they have two variables."""

    def derivative(self, how: str, f: Callable[..., Any], at: list[Any]) -> Any:
        one: Any = at[0] if len(at) == 1 else {"first": at[0], "rest": at[1:]}
        g = f if len(at) == 1 else in_one(f)
        d = getattr(self, how)(g, one, [self.ones(x) for x in at])
        return d if how in ("jvp", "linearize") or len(at) == 1 else d["first"] * 0.7 + d["rest"][0]

    def jvp(self, f: Any, at: Any, ones: list[Any]) -> Any:
        return self.transforms.jvp(f, (at,), (self.shaped(ones),))[1]

    def vjp(self, f: Any, at: Any, ones: list[Any]) -> Any:
        y, pull = self.transforms.vjp(f, at)
        return pull(self.ones(y))[0]

    def linearize(self, f: Any, at: Any, ones: list[Any]) -> Any:
        return self.transforms.linearize(f, at)[1](self.shaped(ones))

    def grad(self, f: Any, at: Any, ones: list[Any]) -> Any:
        return self.transforms.grad(lambda p: self.sum(f(p)))(at)

    def shaped(self, ones: list[Any]) -> Any:
        return ones[0] if len(ones) == 1 else {"first": ones[0], "rest": ones[1:]}

    transforms: Any
    ones: Any
    sum: Any


class Tapegrad(Numeric):
    transforms = tg
    sin = staticmethod(tg.sin)
    exp = staticmethod(tg.exp)
    tanh = staticmethod(tg.tanh)
    number = float

    def sum(self, x: Any) -> Any:
        return tg.sum(x) if isinstance(x, (tg.Tensor, np.ndarray)) else x

    def ones(self, x: Any) -> Any:
        return tg.ones_like(x) if isinstance(x, tg.Tensor) else np.ones(np.shape(x))


class Jax(Numeric):
    def __init__(self) -> None:
        jax = pytest.importorskip("jax")
        jax.config.update("jax_enable_x64", True)
        jnp = jax.numpy
        self.eager = jax.disable_jit  # five times as fast here, where every program is new
        self.transforms, self.sum, self.ones, self.number = jax, jnp.sum, jnp.ones_like, jnp.asarray
        self.sin, self.exp, self.tanh, self.asarray = jnp.sin, jnp.exp, jnp.tanh, jnp.asarray


class Sympy:
    """Derivatives in closed form; all four kinds are one."""

    def __init__(self) -> None:
        self.sympy = sympy = pytest.importorskip("sympy")
        self.sin, self.exp, self.tanh = sympy.sin, sympy.exp, sympy.tanh

    def number(self, x: float) -> Any:
        return self.sympy.Rational(round(10 * x), 10)

    def derivative(self, how: str, f: Callable[..., Any], at: list[Any]) -> Any:
        new = [self.sympy.Dummy(real=True) for _ in at]
        y = self.sympy.sympify(f(*new))
        weights = [1] * len(at) if len(at) == 1 or how in ("jvp", "linearize") else [self.number(0.7), 1]
        d = sum(w * self.sympy.diff(y, s) for w, s in zip(weights, new, strict=True))
        return self.sympy.sympify(d).xreplace(dict(zip(new, map(self.sympy.sympify, at), strict=True)))


def check(e: Tree, got: Any, expected: Any) -> None:
    """Fail unless these agree to 1e-9 of the value, or of 1 if that is larger."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert np.all(np.isfinite(expected))
    assert got.shape == expected.shape, e
    bound = 1e-9 * np.maximum(1.0, np.max(np.abs(expected), initial=0.0))
    assert np.all(np.abs(got - expected) <= bound), f"{got} is not {expected}: {e}"


def value(x: Any) -> Any:
    return np.asarray(x.detach() if isinstance(x, tg.Tensor) else x)


def compare_with_jax(seed: int, count: int, vectors: bool = False) -> None:
    """Compare programs given as Tensors, raw arrays or floats, by turns."""
    jax, tape, start = Jax(), Tapegrad(), VECTORS if vectors else VALUES
    for i, e in enumerate(islice(programs(seed, vectors=vectors), count)):
        given = [tg.asarray(v) if i % 2 else v for v in start]
        with jax.eager():
            expected = evaluate(e, [jax.asarray(v) for v in start], jax)
        check(e, value(evaluate(e, given, tape)), expected)


def compare_leaves_with_jax(seed: int, count: int, vectors: bool = False) -> None:
    """Differentiate programs twice more by leaves, with `backward`, the second time through the first."""
    jax, tape, start = Jax(), Tapegrad(), VECTORS if vectors else VALUES
    grad = jax.transforms.grad

    def gradients(leaves: list[tg.Tensor]) -> list[Any]:
        return [np.zeros(x.shape) if x.grad is None else value(x.grad) for x in leaves]

    for e in islice(programs(seed, size=3, nesting=2, vectors=vectors), count):

        def f(*x: Any, e: Tree = e) -> Any:
            return jax.sum(evaluate(e, x, jax))

        def norm(*x: Any, f: Any = f) -> Any:
            return jax.sum(grad(f)(*x) ** 2)

        points = [jax.asarray(v) for v in start]
        with jax.eager():
            once, twice = grad(f, (0, 1))(*points), grad(norm, (0, 1))(*points)
        leaves = [tg.tensor(v, requires_grad=True) for v in start]
        y = tg.sum(tg.asarray(evaluate(e, leaves, tape)))
        if y.requires_grad:
            y.backward(create_graph=True)
        check(e, gradients(leaves), once)
        g = leaves[0].grad
        for x in leaves:
            x.grad = None
        if g is not None and g.requires_grad:
            tg.sum(g**2).backward()
        check(e, gradients(leaves), twice)


def compare_with_sympy(seed: int, count: int) -> None:
    closed, tape = Sympy(), Tapegrad()
    x, y = closed.sympy.symbols("x y", real=True)
    for e in islice((e for e in programs(seed, size=3) if nodes(e) <= 12), count):
        expected = closed.sympy.sympify(evaluate(e, [x, y], closed))
        numbers = closed.sympy.lambdify((x, y), expected, "math")
        check(e, value(evaluate(e, VALUES, tape)), float(numbers(*VALUES)))


def compare_kinds(seed: int, count: int) -> None:
    """Compare a program with itself, where each derivative is taken another way: of numbers, all are one."""

    def other(e: Tree) -> Tree:
        rest = tuple(other(x) if isinstance(x, tuple) else x for x in e[1:])
        kind = rest[0] if e[0] == "d" else None
        pairs = ("grad", "vjp"), ("jvp", "linearize")
        group = KINDS if len(rest) == 3 else next((p for p in pairs if kind in p), ())
        return ("d", rng.choice(group), *rest[1:]) if kind else (e[0], *rest)

    tape, rng = Tapegrad(), random.Random(seed)
    for e in islice(programs(seed), count):
        check(e, value(evaluate(other(e), VALUES, tape)), value(evaluate(e, VALUES, tape)))


vectors = pytest.mark.parametrize("vectors", [False, True], ids=["numbers", "vectors"])


@vectors
def test_programs_against_jax(vectors: bool) -> None:
    compare_with_jax(0, 25, vectors)


@vectors
def test_leaves_against_jax(vectors: bool) -> None:
    compare_leaves_with_jax(0, 12, vectors)


def test_programs_against_closed_forms() -> None:
    compare_with_sympy(0, 60)


def test_programs_against_themselves() -> None:
    compare_kinds(0, 1000)


def test_programs_are_as_promised() -> None:
    """The programs are the same for the same seed, deep, of all kinds, and nearly all depend on their variables."""
    some = list(islice(programs(0), 200))
    assert some == list(islice(programs(0), 200))
    assert sum(derivatives(e) == 3 for e in some) > 100
    assert all(repr(kind) in repr(some) for kind in (*KINDS, *BINARY, *UNARY))
    assert sum(float(value(evaluate(e, VALUES, Tapegrad()))) == 0 for e in some) < 20
