"""Functions that write to their arguments, in every transform and nested, against the same without a write."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from places import Place

import tapegrad as tg
from tapegrad._engine.tree import flatten
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
    """Run the same program without a write: a mask chooses the elements that it would write."""
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


def with_vjp(f: Function, writes: bool) -> Function:
    def forward(*xs: Any) -> Any:
        kept = [x * 1.0 for x in xs]  # f may write to xs
        return f(*xs), kept

    def backward(xs: Any, t: Any) -> Any:
        return tuple(s + erased(writes, t, *xs) for s in tg.vjp(f, *xs)[1](t))

    g = tg.custom_vjp(f)
    g.defvjp(forward, backward)
    return g


def with_jvp(f: Function, writes: bool) -> Function:
    def rule(xs: Any, ts: Any) -> Any:
        value, tangent = tg.jvp(f, xs, ts)
        return value, tangent + erased(writes, *xs, *ts)

    g = tg.custom_jvp(f)
    g.defjvp(rule)
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


def settled(f: Function, writes: bool) -> Function:
    def step(u: Any, x: Any, y: Any) -> Any:
        return 0.1 * tg.tanh(u) + 0.05 * f(x, y) + erased(writes, u, x, y)

    return lambda x, y: tg.fixed_point(step, tg.zeros_like(x), x, y)


def erased(writes: bool, *xs: Any) -> Any:
    """Write to arguments that nobody is to read any more, and return 0."""
    for x in xs if writes else ():
        x[...] = 0.0
    return 0.0


def solved(f: Function, writes: bool) -> Function:
    def equation(u: Any, x: Any, y: Any) -> Any:
        return u + 0.1 * tg.sin(u) - f(x, y) + erased(writes, u, x, y)

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
    "container": contained,
}
RULES: dict[str, Callable[[Function, bool], Function]] = {
    "custom_vjp": with_vjp,
    "custom_jvp": with_jvp,
    "fixed_point": settled,
    "root": solved,
}
OUTSIDE: dict[str, Callable[[Function], Function]] = {
    "grad": lambda f: tg.grad(partial(total, f), (0, 1)),
    "value_and_grad": lambda f: tg.value_and_grad(partial(total, f), (1, 0)),
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
    "compile": lambda f: lambda x, y: called(tg.compile(tg.grad(partial(total, f), (0, 1))), x, y),
    "scipy_objective": lambda f: lambda x, y: minimised(f, x, y),
    "sparse jacobian": lambda f: lambda x, y: sparse(f, x, y),
    "backward": lambda f: lambda x, y: backward(f, x, y),
}


def pulled(pair: Any, *ts: Any) -> Any:
    """Return a value and the results of its function at two calls, between which the value is written to."""
    y, pull = pair
    value, first = y * 1.0, pull(*ts)
    y *= 2.0
    return value, first, pull(*ts)


def called(f: Function, *xs: Any) -> Any:
    """Return the results of four calls, the last of which are replayed."""
    return [f(*xs) for _ in range(4)]


def minimised(f: Function, x: Any, y: Any) -> Any:
    """Return the numbers for an optimiser: value, gradient and Hessian times a vector."""
    problem = tg.scipy_objective(lambda p: total(f, p["x"], p["y"]), {"x": x, "y": y})
    return problem.fun(problem.x0), problem.hessp(problem.x0, problem.x0), problem.fun(problem.x0)


def sparse(f: Function, x: Any, y: Any) -> Any:
    with tg.no_grad():
        return [tg.jacobian(f, i, sparsity=np.ones((N, N)))(x * 1.0, y * 1.0).toarray() for i in (0, 1)]


def backward(f: Function, x: Any, y: Any) -> Any:
    a, b = tg.tensor(x, requires_grad=True), tg.tensor(y, requires_grad=True)
    total(tg.checkpoint(f), a, b).backward()
    return a.grad, b.grad


Recipe = tuple[list[tuple[Any, ...]], list[str], str, bool]


def recipes(seed: int) -> Iterator[Recipe]:
    """Yield (program, transforms of it from the innermost, the outermost one, whether more is written before it)."""
    r = random.Random(seed)
    while True:
        between = [r.choice([*BETWEEN, *RULES]) for _ in range(r.choice((0, 1, 1, 2)))]
        outside, before = r.choice([*OUTSIDE, *RULES]), r.random() < 0.5
        program = lines(r)
        if outside == "compile" and any(key == KEYS[-1] for _, _, _, key, _ in program):
            continue  # x[mask] has a shape that depends on values
        yield program, between, outside, before


def made(recipe: Recipe, writes: bool) -> Function:
    """Return the function of a recipe, with or without writes."""
    program, between, outside, before = recipe
    f: Function = partial(writing if writes else pure, program)
    for name in between:
        f = RULES[name](f, writes) if name in RULES else BETWEEN[name](f)
        if before:
            f = written_before(f, writes)
    return RULES[outside](f, writes) if outside in RULES else OUTSIDE[outside](f)


def values(tree: Any) -> list[Any]:
    return [np.asarray(x.detach().to_device("cpu") if isinstance(x, tg.Tensor) else x) for x in flatten(tree)[0]]


def compare(recipe: Recipe, place: Place) -> None:
    given = [place.tensor(X), place.tensor(Y)]
    if recipe[2] in (*RULES, "checkpoint"):
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
    run(0, 300 if xp.device == "cpu" and not xp.readonly else 5 if xp.device == "jax:cpu" else 30, xp)


# -- the caller's view --------------------------------------------------------------------------------------------


def doubled(x: Any, y: Any) -> Any:
    x *= 2.0
    y += x
    return tg.sum(x * y)


def test_only_other_arguments_are_updated_for_the_caller(xp: Place) -> None:
    x, y = xp.tensor([1.0, 2.0]), xp.tensor([3.0, 4.0])
    xp.check(tg.grad(doubled)(x, y), [14.0, 24.0], 1e-6)
    xp.check(x, [1.0, 2.0])  # differentiated by: the function had a Tensor of its own
    xp.check(y, [5.0, 8.0])  # passed as it is, as in a plain call
    assert not y.requires_grad
    tg.grad(doubled)(x, y=y)
    xp.check(y, [7.0, 12.0])


def test_a_raw_array_is_not_updated() -> None:
    x = np.asarray([1.0, 2.0])
    tg.grad(doubled)(x, tg.asarray([3.0, 4.0]))
    tg.vmap(lambda x: doubled(x, x * 1.0))(x[None])
    np.testing.assert_array_equal(x, [1.0, 2.0])


def test_an_update_of_another_argument_is_recorded_for_who_differentiates_outside(xp: Place) -> None:
    def outside(x: Any) -> Any:
        y = x * 3.0
        z = tg.zeros_like(x)
        tg.grad(doubled)(x, y)
        tg.grad(doubled)(x, z)
        return tg.sum(y * y * z)  # of 5 x and 2 x

    xp.check(tg.grad(outside)(xp.tensor([1.0, 2.0])), [150.0, 600.0], 1e-6)


def test_one_buffer_for_many_calls_does_not_keep_their_tapes(xp: Place) -> None:
    buffer = tg.zeros(2)

    def f(x: Any, buffer: Any) -> Any:
        buffer[0] = tg.sum(x)
        buffer[1] = tg.sum(x * x)
        return tg.sum(buffer)

    for _ in range(2):
        g = tg.grad(f)(np.asarray([1.0, 2.0]), buffer) if xp.device == "cpu" else tg.grad(f)(tg.ones(2), buffer)
        assert isinstance(g, np.ndarray if xp.device == "cpu" else tg.Tensor)
        assert not buffer.requires_grad


def test_results_are_not_updated_by_updates_of_one_another(xp: Place) -> None:
    w = xp.tensor([1.0, 2.0], requires_grad=True)
    x, y = w * 2.0, w * 3.0
    gx, gy = tg.grad(lambda x, y: tg.sum(w * (x + y)), (0, 1))(x, y)  # the same cotangent
    gx *= 2.0
    xp.check(gy, [1.0, 2.0])
    t = w * 1.0
    value, pull = tg.vjp(lambda x: x, x)
    value *= 0.0
    (s,) = pull(t)
    s *= 2.0
    xp.check(t, [1.0, 2.0])
    xp.check(s, [2.0, 4.0])
    value, tangent = tg.jvp(lambda x: x, (x,), (t,))
    value *= 2.0
    tangent *= 2.0
    xp.check(x, [2.0, 4.0])
    xp.check(t, [1.0, 2.0])


def test_gradients_of_two_leaves_are_not_one_tensor(xp: Place) -> None:
    x, y = (xp.tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    seen = []
    middle = x * 1.0
    middle.register_hook(lambda g: seen.append(g) or g.__imul__(3.0))  # type: ignore[func-returns-value]
    t = xp.tensor([1.0, 2.0])
    (middle + y).backward(t, create_graph=True)
    xp.check(x.grad, [3.0, 6.0])
    xp.check(y.grad, [1.0, 2.0])
    assert y.grad is not None
    y.grad *= 2.0
    xp.check(x.grad, [3.0, 6.0])
    xp.check(t, [1.0, 2.0])


def test_rules_may_write_to_what_they_are_given(xp: Place) -> None:
    @tg.custom_jvp
    def cube(x: Any) -> Any:
        return x * x * x

    def rule(primals: Any, tangents: Any) -> Any:
        (x,), (t,) = primals, tangents
        y = x * x * x
        t *= 3.0
        x *= x
        return y, t * x

    cube.defjvp(rule)
    x = xp.tensor([1.0, 2.0])
    xp.check(tg.jacobian(cube, mode="forward")(x), [[3.0, 0.0], [0.0, 12.0]], 1e-6)
    xp.check(tg.jacobian(cube, mode="reverse")(x), [[3.0, 0.0], [0.0, 12.0]], 1e-6)
    xp.check(tg.hessian(lambda x: tg.sum(cube(x)))(x), [[6.0, 0.0], [0.0, 12.0]], 1e-6)


def test_checkpoint_computes_again_what_it_wrote_to(xp: Place) -> None:
    @tg.checkpoint
    def f(x: Any, *, scale: Any) -> Any:
        x *= scale
        scale *= 2.0
        return tg.sum(x * x * scale)

    x, scale = xp.tensor([1.0, 2.0], requires_grad=True), xp.tensor(3.0)
    f(x, scale=scale).backward()
    xp.check(x.grad, [108.0, 216.0], 1e-6)
    xp.check(scale, 3.0)
    with tg.no_grad():
        f(x, scale=scale)
    xp.check(x, [1.0, 2.0])
    xp.check(scale, 3.0)


def test_a_program_against_finite_differences() -> None:
    r = random.Random(1)
    for _ in range(100):
        gradcheck(partial(writing, lines(r)), [X, Y])
