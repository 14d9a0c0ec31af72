"""Random training programs, eager and compiled: the same results, effects and objects that the user keeps.

A program is made by trial: lines that raise an error are left out. It runs in two worlds that begin alike, and between
calls the same is done to both from outside.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from places import why_not

import tapegrad as tg
from tapegrad import backends
from tapegrad._compile.plan import accumulate, fusion, merge_matmuls, stacking
from tapegrad._engine.dispatch import CaptureError
from tapegrad._engine.tree import flatten
from tapegrad.backends._numpy.executor import aliasing, axpy, nodes, sharing, tiling

WHY_NOT_CUDA = why_not("cuda")
Random = random.Random
Array = np.ndarray[Any, Any]
SETTINGS: dict[str, list[tuple[Any, str, int]]] = {
    "stacks": [(stacking, "FEWEST", 2), (accumulate, "FEWEST", 2)],
    "runs": [
        (backends.Backend, "smallest_run", 2),
        (fusion, "FEWEST_ROWS", 2),
        (tiling, "TILE", 3),
        (tiling, "CACHE", 1),
        (tiling, "PARALLEL", 10),
    ],
    "updates": [(sharing, "WAKES_BLAS", 1), (axpy, "LARGE", 1)],
    "products": [
        (merge_matmuls, "FEWEST", 2),
        (sharing, "WORTH_THREADS", 1),
        (nodes, "WORTH_COPYING", 1),
        (aliasing, "SMALL_PART", 2),
    ],
}


# -- lines of a program: each makes its random choices by `r`, the same at each call -----------------------


def _axis(r: Random, x: tg.Tensor) -> Any:
    return r.choice([None, *range(-x.ndim, x.ndim)])


def _key(r: Random, x: tg.Tensor) -> Any:
    """Return an index of any kind but masks."""
    key: list[Any] = []
    for n in x.shape:
        some = [r.randrange(-n, n) for _ in range(3)]
        part = slice(r.choice([None, 1, -1]), r.choice([None, n, -1]), r.choice([None, 2, -1]))
        key.append(r.choice([some[0], part, slice(None), tg.asarray(some)]))
    return tuple(key[: r.randint(0, x.ndim)])


def _written(r: Random, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
    z, how = x * r.choice([1, 0.5]), r.randrange(5)
    if how == 0:
        z[_key(r, x)] = r.choice([0.0, 1.5])
    elif how == 1:
        z[_key(r, x)] += y
    elif how == 2:
        z[...] = y
    elif how == 3:
        z -= 0.5 * y
    else:
        key = _key(r, x)
        z[key] = tg.sin(x)[key]
    return z


def _loop(r: Random, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
    """Go through many small operations, which may become stacks, folds and scans."""
    total, kept = x, []
    kinds, length = [r.randrange(6) for _ in range(r.randint(1, 4))], r.randint(2, 10)
    for i in range(length):
        for kind in kinds:
            if kind == 0:
                y = tg.tanh(y * x)
            elif kind == 1:
                y = y * tg.cos(x + i)
            elif kind == 2:
                total = total + tg.sin(x * (i + 0.5))
            elif kind == 3:
                kept.append(y - total)
            elif kind == 4:
                total = total + 0.1 * tg.sum(y)
            else:
                y = y * 0.5 + total * 0.1
    return tg.tanh(y + total + sum(tg.square(b - a) for a, b in pairwise(kept)))


def _cell(r: Random, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
    """Multiply each row by the same matrix, again and again."""
    w, h, outs = tg.tanh(x.T @ x) * 0.3, tg.zeros((1, x.shape[1])), []
    for row in range(x.shape[0]):
        h = tg.tanh(h @ w + x[row : row + 1] @ w)
        outs.append(h)
    return tg.concat(outs)


Line = Callable[[Random, tg.Tensor, tg.Tensor], tg.Tensor]
LINES: list[Line] = [
    *(lambda r, x, y, f=f: f(x) for f in (tg.sin, tg.tanh, tg.square, tg.sigmoid, tg.gelu, tg.negative, tg.positive)),
    lambda r, x, y: r.choice([2, -1, 0.5, 1]) * x + r.choice([0, 1.5]),
    lambda r, x, y: (tg.abs(x) + 0.5) ** r.choice([2, 0.5, -1, 1.5]),
    lambda r, x, y: x + y,
    lambda r, x, y: x - y,
    lambda r, x, y: x * y,
    lambda r, x, y: x / (1.5 + y * y),
    lambda r, x, y: tg.where(x > 100, y, x),
    lambda r, x, y: tg.where(y < 100, x, x),
    lambda r, x, y: tg.hypot(x, y),
    lambda r, x, y: tg.real(tg.exp(1j * x) * (y + 2j)),
    lambda r, x, y: 0.3 * (x @ y),
    lambda r, x, y: 0.3 * (x.T @ y),
    lambda r, x, y: tg.stack([x, y, x], axis=r.choice([0, -1])),
    lambda r, x, y: tg.concat([x, y], axis=r.choice([0, -1])),
    lambda r, x, y: tg.sum(x, axis=_axis(r, x), keepdims=r.random() < 0.5),
    lambda r, x, y: tg.mean(x, axis=_axis(r, x), keepdims=r.random() < 0.5),
    lambda r, x, y: tg.softmax(x, axis=r.randrange(-x.ndim, x.ndim)),
    lambda r, x, y: tg.flip(tg.roll(x, r.choice([1, -1]), axis=0), axis=-1),
    lambda r, x, y: tg.permute_dims(x, tuple(r.sample(range(x.ndim), x.ndim))),
    lambda r, x, y: tg.reshape(x, r.choice([(-1,), (x.size, 1), x.shape[::-1]])),
    lambda r, x, y: tg.broadcast_to(x, (r.choice([1, 3]), *x.shape)),
    lambda r, x, y: tg.take(x, tg.asarray([r.randrange(x.shape[0]) for _ in range(4)]), axis=0),
    lambda r, x, y: sum((tg.sin(part) * i for i, part in enumerate(tg.unstack(x))), y),
    lambda r, x, y: tg.ones_like(x) * r.choice([0.5, 1]) + tg.full((x.shape[0],), 2.0) * x,
    lambda r, x, y: x[_key(r, x)],
    lambda r, x, y: x.detach(),
    *(_written, _written, _loop, _loop, _cell),
]


def _transformed(r: Random, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
    """Differentiate, map or run again a few lines inside the program."""
    seed, chosen = r.randrange(10**6), r.choices(LINES, k=r.randint(1, 3))

    def f(v: tg.Tensor) -> Any:
        again, out = Random(seed), v
        for line in chosen:
            out = line(again, out, v)
        return out

    def loss(v: tg.Tensor) -> Any:
        return tg.sum(tg.tanh(f(v)))

    how = r.randrange(5)
    if how == 0:
        return tg.grad(loss)(x)  # type: ignore[no-any-return]
    if how == 1:
        return tg.jvp(f, (x,), (tg.sin(x),))[1]  # type: ignore[no-any-return]
    if how == 2:
        return tg.jvp(tg.grad(loss), (x,), (tg.sin(x),))[1]  # type: ignore[no-any-return]
    if how == 3:
        return tg.vmap(f)(x)  # type: ignore[no-any-return]
    return tg.checkpoint(f)(x)  # type: ignore[no-any-return]


# -- worlds ---------------------------------------------------------------------------------------------------


class World:
    """Parameters, state beside them, and objects that the user keeps of earlier calls."""

    def __init__(self, seed: int, shapes: list[tuple[int, ...]]) -> None:
        rng = np.random.default_rng(seed)
        self.params = [tg.tensor(rng.normal(size=s), requires_grad=True) for s in shapes[:2]]
        self.moments = [tg.zeros(s) for s in shapes[:2]]
        self.buffers = [tg.tensor(rng.normal(size=s)) for s in shapes]
        self.raw = rng.normal(size=shapes[0])
        self.kept: list[Any] = []

    def tensors(self) -> list[tg.Tensor]:
        return [*self.params, *self.moments, *self.buffers]


def _backward(r: Random, w: World, values: list[Any]) -> None:
    loss = sum(tg.sum(tg.tanh(r.choice(values[-6:]))) for _ in range(2))
    assert isinstance(loss, tg.Tensor)
    loss.backward(retain_graph=True)
    values.append(loss.detach())


def _update(r: Random, w: World, values: list[Any]) -> None:
    how, rate, clear = r.randrange(5), r.choice([0.1, 0.01]), r.random() < 0.3
    with tg.no_grad():
        for p, m in zip(w.params, w.moments, strict=True):
            if p.grad is None:
                continue
            if how == 0:
                p -= rate * p.grad
            elif how == 1:
                p[...] = tg.tanh(p) - rate * p.grad
            elif how == 2:
                m *= 0.9
                m += p.grad
                p -= rate * m
            elif how == 3 and p.ndim:
                p[:1] -= rate * p.grad[:1]
            else:
                p += tg.tanh(p.grad)
            if clear:
                p.grad = None


def _written_outside(r: Random, w: World, values: list[Any]) -> None:
    x, y, how = r.choice([*w.params, *w.buffers, *w.buffers]), r.choice(values).detach(), r.randrange(5)
    with tg.no_grad():
        if how == 0:
            x[...] = y
        elif how == 1:
            x[...] = tg.sin(x) * 0.9
        elif how == 2:
            x[_key(r, x)] = 0.5
        elif how == 3:
            x *= 0.9
        else:
            x -= 0.1 * tg.tanh(y)


def _clear(r: Random, w: World, values: list[Any]) -> None:
    for p in w.params:
        p.grad = None


OUTSIDE = (_backward, _update, _written_outside, _clear)  # those that take the world


class Program:
    """A step function, of a world and an argument."""

    def __init__(self, seed: int) -> None:
        r = Random(seed)
        n, m = r.randint(1, 5), r.randint(1, 5)
        self.seed, self.steps = seed, list[tuple[Any, int]]()
        self.shapes = [*r.sample([(n, m), (m,), (n, 1), (), (m, m), (2, n, m)], 2), (n, m)]
        self.results, self.gradients = list[int](), False
        kinds: list[Any] = r.choices([*LINES, *[_transformed] * 6], k=r.randint(4, 14))
        kinds += [_backward, _update, *r.choices(OUTSIDE, k=4)]
        r.shuffle(kinds)
        for kind in [*r.choice([[], [_clear]]), *kinds, _backward, _update]:
            self.steps.append((kind, r.randrange(10**9)))
            try:
                self(World(seed, self.shapes), tg.ones(self.shapes[0]))
            except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, ZeroDivisionError):
                self.steps.pop()
        self.results = [r.randrange(20) for _ in range(r.randint(0, 4))]
        self.gradients = r.random() < 0.3

    def __call__(self, w: World, x: Any) -> Any:
        values: list[Any] = [*w.params, *w.buffers, *(tg.asarray(a, device=tg.default_device()) for a in (x, w.raw))]
        for kind, seed in self.steps:
            r = Random(seed)
            if kind in OUTSIDE:
                kind(r, w, values)
            else:
                values.append(kind(r, r.choice(values[-5:]), r.choice(values)))
                if values[-1].size > 500:
                    raise ValueError("too large")
        results = [values[i % len(values)] for i in self.results]
        kept = [y if any(y is x for x in w.tensors()) else y.detach() for y in results]
        return {"results": kept, "gradients": [p.grad for p in w.params] if self.gradients else ()}


def outside(r: Random, w: World, result: Any) -> None:
    """Act as a user does between calls: keep results, change them, set parameters and gradients."""
    results = [y for y in flatten(result)[0] if isinstance(y, tg.Tensor)]
    p = r.choice(w.params)
    choices: list[Callable[[], Any]] = [
        lambda: w.kept.extend(results),
        lambda: w.kept.append(p.grad),
        lambda: w.kept.append(p.detach()),
        lambda: w.kept.append(np.asarray(p.detach())),
        lambda: w.kept.clear(),
        lambda: setattr(p, "grad", None),
        lambda: setattr(p, "grad", tg.ones_like(p.detach())),
        lambda: p.__imul__(0.5),
        lambda: w.raw.__iadd__(0.5),
        lambda: w.buffers[0].__setitem__(..., 0.25),
        *[lambda y=y: y.__iadd__(1.0) for y in results if not y.requires_grad],
    ]
    with tg.no_grad():
        for change in r.sample(choices, 2):
            change()


def seen(w: World, result: Any) -> Iterator[Any]:
    """Go through all values that the user can see, and whether they are the same Tensors."""
    known: dict[int, int] = {}
    tensors = [*w.tensors(), *w.kept, *flatten(result)[0]]
    for x in [*tensors, *(p.grad for p in w.params)]:
        yield known.setdefault(id(x), len(known)) if isinstance(x, tg.Tensor) else None
        yield np.asarray(x.detach()) if isinstance(x, tg.Tensor) else x


def check(found: Any, expected: Any, rtol: float, where: str) -> None:
    """Check that all values agree, but for rounding."""
    for a, b in zip(found, expected, strict=True):
        if not isinstance(b, np.ndarray):
            assert a == b, where
        else:
            scale = float(np.max(np.abs(b), initial=0))
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * (scale + 1e-3), strict=True, err_msg=where)


def run(seed: int, **options: Any) -> bool:
    """Compare the calls of a program; return whether it was compiled."""
    program = Program(seed)
    eager, other = (World(seed, program.shapes) for _ in range(2))
    compiled = tg.compile(lambda x: program(other, x), **options)
    for n in range(7):
        x = np.random.default_rng(n).normal(size=program.shapes[0])
        given = (x, x.copy()) if seed % 3 == 0 else (tg.tensor(x), tg.tensor(x))
        expected = program(eager, given[0])
        try:
            found = compiled(given[1])
        except CaptureError:
            return False
        rtol = 1e-11 * 10 ** max(0, n - 2)  # rounding spreads
        check(seen(other, found), seen(eager, expected), rtol, f"program {seed}, call {n}")
        for w, result in ((eager, expected), (other, found)):
            outside(Random(seed + n), w, result)
        check(seen(other, found), seen(eager, expected), rtol, f"program {seed}, after call {n}")
        del found, expected, result
    return compiled._last is not None


@pytest.mark.parametrize("reassociate", [False, True])
@pytest.mark.parametrize("setting", SETTINGS)
def test_random_programs(monkeypatch: pytest.MonkeyPatch, setting: str, reassociate: bool) -> None:
    for place, name, value in SETTINGS[setting]:
        monkeypatch.setattr(place, name, value)
    first = 1000 * list(SETTINGS).index(setting) + 500 * reassociate
    with np.errstate(all="ignore"):
        done = [run(seed, threads=2, reassociate=reassociate) for seed in range(first, first + 25)]
    assert sum(done) > 15


@pytest.mark.skipif(bool(WHY_NOT_CUDA), reason=WHY_NOT_CUDA or "")
def test_random_programs_on_cupy() -> None:
    with tg.default_device("cuda"), np.errstate(all="ignore"):
        done = [run(seed) for seed in range(20)]
    assert sum(done) > 12
