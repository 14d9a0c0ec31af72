"""Functions that write to their arguments, in every transform and nested, against the same functions without a write."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad._tree import flatten
from tapegrad.testing import gradcheck

Function = Callable[..., Any]
N = 4
X, Y = np.asarray([0.3, -0.7, 1.1, 0.5]), np.asarray([0.9, 0.4, -0.2, 0.8])
ONES = np.ones(N)
KEYS: tuple[Any, ...] = (
    0,
    -2,
    slice(1, 3),
    slice(None, None, -2),
    ...,
    (slice(1, None),),
    [2, 0],
    [1, 1, 3],  # the last write stays
    [False, True, True, False],
)


# -- programs: lines that write to two variables of N elements, which are the arguments ------------------------


def lines(r: random.Random) -> list[tuple[Any, ...]]:
    """Return the lines of a program: (kind, variable that is written, operator, key, expression)."""
    kinds = ("update", "set", "set", "update part")
    return [(r.choice(kinds), r.randrange(2), r.choice("+-*/"), r.choice(KEYS), expression(r)) for _ in range(3)]


def expression(r: random.Random) -> tuple[Any, ...]:
    return r.choice((("number", 0.5), ("other",), ("self",), ("sin",), ("product",), ("reversed",)))


def evaluated(e: tuple[Any, ...], x: Any, y: Any) -> Any:
    """Return the value of an expression in the variable that is written and the other one."""
    match e[0]:
        case "number":
            return e[1]
        case "other":
            return y
        case "self":
            return x
        case "sin":
            return tg.sin(y)
        case "product":
            return x * y
        case _:
            return y[::-1]


def applied(op: str, x: Any, y: Any) -> Any:
    match op:
        case "+":
            return x + y
        case "-":
            return x - y
        case "*":
            return x * y
        case _:
            return x / (y * y + 1.0)


def indexed(x: tg.Tensor, key: Any) -> Any:
    """Return a key with the arrays in it on the device of a Tensor."""
    return tg.asarray(key, device=x.device) if isinstance(key, list) else key


def writing(program: list[tuple[Any, ...]], *xs: tg.Tensor) -> tg.Tensor:
    """Run a program that writes to its arguments."""
    for kind, i, op, key, e in program:
        x = xs[i]
        v = evaluated(e, x, xs[1 - i])
        if kind == "update":
            if op == "+":
                x += v
            elif op == "-":
                x -= v
            elif op == "*":
                x *= v
            else:
                x /= v * v + 1.0
            continue
        key = indexed(x, key)
        if isinstance(v, tg.Tensor):
            v = tg.sum(v) * tg.ones_like(x[key])
        if kind == "set":
            x[key] = v
        else:
            x[key] = applied(op, x[key], v)
    return combined(*xs)


def pure(program: list[tuple[Any, ...]], *given: tg.Tensor) -> tg.Tensor:
    """Run the same program without a write: what it would write is chosen by a mask."""
    xs = list(given)
    for kind, i, op, key, e in program:
        x = xs[i]
        v = evaluated(e, x, xs[1 - i])
        new = applied(op, x, v)
        if kind != "update":
            chosen = np.zeros(N, dtype=bool)
            chosen[key] = True
            if isinstance(v, tg.Tensor):
                v = tg.sum(v)
            new = v * tg.ones_like(x) if kind == "set" else applied(op, x, v)
            new = tg.where(tg.asarray(chosen, device=x.device), new, x)
        xs[i] = new
    return combined(*xs)


def combined(x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
    return tg.tanh(x) * 0.7 + tg.sin(y)


# -- from functions of two vectors to others, each through a transform --------------------------------------------


def total(f: Function, *xs: Any) -> Any:
    return tg.sum(tg.sin(f(*xs)))


def ones(*xs: Any) -> tuple[Any, ...]:
    return tuple(tg.ones_like(x) for x in xs)


def with_vjp(f: Function) -> Function:
    g = tg.custom_vjp(f)
    g.defvjp(lambda *xs: (f(*xs), xs), lambda xs, t: tg.vjp(f, *xs)[1](t))
    return g


def with_jvp(f: Function) -> Function:
    g = tg.custom_jvp(f)
    g.defvjp(lambda xs, ts: tg.jvp(f, xs, ts))
    return g


def written_before(f: Function, writes: bool) -> Function:
    """Return a function that writes to its argument, and then calls the other one."""

    def g(x: Any, y: Any) -> Any:
        if writes:
            x *= 0.5
            y[0] = 0.25
            return f(x, y)
        return f(x * 0.5, tg.concat([0.25 * tg.ones_like(y[:1]), y[1:]]))

    return g


def contained(f: Function) -> Function:
    def g(p: Any) -> Any:
        return total(f, p["x"], p["y"][0])

    def both(x: Any, y: Any) -> Any:
        d = tg.grad(g)({"x": x, "y": [y]})
        return d["x"] - 0.5 * d["y"][0]

    return both


def settled(f: Function) -> Function:
    def step(u: Any, x: Any, y: Any) -> Any:
        v = 0.1 * tg.tanh(u)
        return v + 0.05 * f(x, y) if f.func is pure else v + 0.05 * f(x, y) + erased(u, x, y)

    return lambda x, y: tg.fixed_point(step, tg.zeros_like(x), x, y)


def erased(*xs: Any) -> Any:
    """Write to arguments that nobody reads any more, and return 0."""
    for x in xs:
        x[...] = 0.0
    return 0.0


def solved(f: Function) -> Function:
    def equation(u: Any, x: Any, y: Any) -> Any:
        z = u + 0.1 * tg.sin(u) - f(x, y)
        return z if f.func is pure else z + erased(u, x, y)

    return lambda x, y: tg.root(equation, tg.zeros_like(x), x, y)


BETWEEN: dict[str, Callable[[Function], Function]] = {
    "checkpoint": tg.checkpoint,
    "grad": lambda f: tg.grad(partial(total, f)),
    "both": lambda f: lambda x, y: sum(tg.grad(partial(total, f), (0, 1))(x, y)),
    "value": lambda f: lambda x, y: tg.value_and_grad(partial(total, f), 1)(x, y)[0] * ONES[0] + y * 0.0,
    "vjp": lambda f: lambda x, y: tg.vjp(f, x, y)[1](tg.cos(x + y))[0],
    "jvp": lambda f: lambda x, y: tg.jvp(f, (x, y), (tg.cos(y), tg.sin(x)))[1],
    "linearize": lambda f: lambda x, y: tg.linearize(f, x, y)[1](tg.cos(y), tg.sin(x)),
    "hvp": lambda f: lambda x, y: tg.hvp(partial(total, f), (x, y), (tg.cos(y), tg.sin(x)))[1],
    "jacobian": lambda f: lambda x, y: tg.sum(tg.jacobian(f, 1)(x, y), axis=0),
    "hessian": lambda f: lambda x, y: tg.sum(tg.hessian(partial(total, f), (0, 1))(x, y)[0][1], axis=1),
    "vmap": lambda f: lambda x, y: tg.sum(tg.vmap(f, (None, 0))(x, tg.stack([y, x])), axis=0),
    "vmap of grad": lambda f: lambda x, y: tg.vmap(tg.grad(partial(total, f)))(x[None, :], y[None, :])[0, :],
    "custom_vjp": with_vjp,
    "custom_jvp": with_jvp,
    "container": contained,
}
LAST: dict[str, Callable[[Function], Function]] = {
    "fixed_point": settled,
    "root": solved,
}
OUTSIDE: dict[str, Callable[[Function], Function]] = {
    "grad": lambda f: tg.grad(partial(total, f), (0, 1)),
    "value_and_grad": lambda f: tg.value_and_grad(partial(total, f)),
    "vjp": lambda f: lambda x, y: pulled(tg.vjp(f, x, y), ones(x)[0]),
    "jvp": lambda f: lambda x, y: tg.jvp(f, (x, y), ones(x, y)),
    "linearize": lambda f: lambda x, y: pulled(tg.linearize(f, x, y), *ones(x, y)),
    "jacobian": lambda f: tg.jacobian(f, (0, 1), mode="forward"),
    "jacobian in reverse": lambda f: tg.jacobian(f, (0, 1), mode="reverse"),
    "hessian": lambda f: tg.hessian(partial(total, f), (0, 1)),
    "hvp": lambda f: lambda x, y: tg.hvp(partial(total, f), (x, y), ones(x, y)),
    "vmap": lambda f: lambda x, y: tg.vmap(f)(tg.stack([x, y]), tg.stack([y, x])),
    "vmap of grad": lambda f: lambda x, y: tg.vmap(tg.grad(partial(total, f)))(tg.stack([x, y]), tg.stack([y, x])),
    "checkpoint": tg.checkpoint,
    "custom_vjp": with_vjp,
    "custom_jvp": with_jvp,
    "backward": lambda f: lambda x, y: backward(f, x, y),
}


def pulled(pair: Any, *ts: Any) -> Any:
    """Return a value and what its function gives at two calls, between which the value is written to."""
    y, pull = pair
    value, first = y * 1.0, pull(*ts)
    y *= 2.0
    return value, first, pull(*ts)


def backward(f: Function, x: Any, y: Any) -> Any:
    a, b = tg.tensor(x, requires_grad=True), tg.tensor(y, requires_grad=True)
    total(tg.checkpoint(f), a, b).backward()
    return a.grad, b.grad


Recipe = tuple[list[tuple[Any, ...]], list[str], str, bool]


def recipes(seed: int) -> Iterator[Recipe]:
    """Yield (program, transforms of it from the innermost, the outermost one, whether more is written before it)."""
    r = random.Random(seed)
    while True:
        between = [r.choice([*BETWEEN, *LAST])] if r.random() < 0.7 else []
        between += [r.choice(list(BETWEEN))] if between and r.random() < 0.4 else []
        yield lines(r), between, r.choice(list(OUTSIDE)), r.random() < 0.5


def made(recipe: Recipe, writes: bool) -> Function:
    """Return the function of a recipe, with or without writes."""
    program, between, outside, before = recipe
    f: Function = partial(writing if writes else pure, program)
    for name in between:
        f = (BETWEEN.get(name) or LAST[name])(f)
        if before:
            f = written_before(f, writes)
    return OUTSIDE[outside](f)


def values(tree: Any) -> list[Any]:
    return [np.asarray(x.detach().to_device("cpu") if isinstance(x, tg.Tensor) else x) for x in flatten(tree)[0]]


def compare(recipe: Recipe, place: Place) -> None:
    given = [place.tensor(X), place.tensor(Y)]
    if recipe[2] in ("checkpoint", "custom_vjp", "custom_jvp"):  # recorded, or they would be plain calls
        for x in given:
            x.requires_grad = True
    records, before = [x._record for x in given], values(given)
    expected = values(made(recipe, False)(*given))
    got = values(made(recipe, True)(*given))
    bound = 1e-8 if place.double else 2e-2
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=bound, atol=bound, err_msg=str(recipe))
    assert [x._record for x in given] == records
    np.testing.assert_array_equal(values(given), before)


def run(seed: int, count: int, place: Place) -> None:
    programs = recipes(seed)
    for _ in range(count):
        compare(next(programs), place)


def test_programs_that_write_to_their_arguments(xp: Place) -> None:
    run(0, {"cpu": 400, "torch:cpu": 60, "jax:cpu": 5}.get(xp.device, 30), xp)
