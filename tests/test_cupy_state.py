"""Random programs that share memory and write to it, on NumPy eagerly, on CuPy eagerly, and on CuPy compiled.

Lines give views, assign one Tensor to another, write to parts, and update parameters by gradients. Between calls the
same is done to all three worlds from outside.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from places import why_not

import tapegrad as tg
from tapegrad._engine.dispatch import CaptureError

if why := why_not("cuda"):
    pytest.skip(why, allow_module_level=True)

Random = random.Random
ERRORS = (ValueError, TypeError, RuntimeError, IndexError)  # of lines that do not fit their operands


def at(r: Random, x: tg.Tensor) -> Any:
    """Return an index, which gives a view or all of it."""
    if not x.ndim:
        return ...
    return r.choice([..., 0, -1, r.randrange(x.shape[0]), slice(None, None, -1), slice(1, None), slice(None)])


def written(r: Random, x: tg.Tensor, y: tg.Tensor) -> list[tg.Tensor]:
    """Write to a Tensor, and return other Tensors made of it."""
    z, key = tg.exp(-y * y), at(r, x)
    writes: list[Callable[[], Any]] = [
        lambda: x.__setitem__(..., y),
        lambda: x.__setitem__(..., x),
        lambda: x.__setitem__(..., tg.tanh(y)),
        lambda: x.__setitem__(..., tg.matrix_transpose(x)),
        lambda: x.__setitem__(key, y[key]),
        lambda: x.__setitem__(key, 0.5),
        lambda: x.__iadd__(y),
        lambda: x.__iadd__(x),
        lambda: x.__imul__(0.5),
        lambda: x.__isub__(0.1 * y),
    ]
    r.choice(writes)()
    if r.random() < 0.3:  # the assigned array changes, or its target
        x[...] = other = r.choice([y, z])
        r.choice([x, other]).__imul__(0.5)
    return [z]


def viewed(r: Random, x: tg.Tensor, y: tg.Tensor) -> list[tg.Tensor]:
    """Return a Tensor that may share the memory of another one, or is computed from it."""
    key = at(r, x)
    views: list[Callable[[], tg.Tensor]] = [
        x.detach,
        lambda: x[key],
        lambda: tg.reshape(x, (-1,)),
        lambda: tg.permute_dims(x, tuple(range(x.ndim))[::-1]),
        lambda: tg.broadcast_to(x, (2, *x.shape)),
        lambda: tg.squeeze(tg.expand_dims(x, axis=0), axis=0),
        lambda: tg.sin(x) + y,
    ]
    return [r.choice(views)()]


class World:
    """State, of which some is trained, and objects that are kept of calls."""

    def __init__(self, seed: int, device: str) -> None:
        r, rng = Random(seed), np.random.default_rng(seed)
        n, dtype = r.randint(1, 4), r.choice(["float32", "float64"])
        shapes = [(n, n)] * 4 + [(), (n,)]
        self.state = [tg.asarray(rng.normal(size=s).astype(dtype), device=device) for s in shapes]
        self.params = r.sample(self.state[:3], r.randint(0, 2))
        self.kept: list[tg.Tensor] = []
        for p in self.params:
            p.requires_grad = True

    def line(self, seed: int, values: list[tg.Tensor]) -> None:
        """Run a line of a program, the same for a seed."""
        r = Random(seed)
        kind, x, y = r.choice([written, written, viewed]), r.choice(values), r.choice(values)
        if r.random() > 0.3 or not self.params:
            with tg.no_grad():
                values += kind(r, x, y)
            return
        p, q, how = r.choice(self.params), r.choice(self.state[:4]), r.randrange(5)
        if how < 2:
            tg.sum(p * q if how else tg.sin(p) @ q).backward()
        elif how == 2:
            p.grad = None
        elif p.grad is not None and how == 3:
            values.append(p.grad)
        elif p.grad is not None:
            with tg.no_grad():
                p -= 0.1 * p.grad

    def outside(self, seed: int, results: list[tg.Tensor]) -> None:
        """Keep results, change them, and write to state."""
        r = Random(seed)
        x, y = r.sample(self.state, 2)
        result, kept = r.choice(results), r.choice([*self.kept, *results])
        changes: list[Callable[[], Any]] = [
            lambda: x.__setitem__(..., y),
            lambda: x.__setitem__(..., result),
            lambda: x.__iadd__(1.0),
            lambda: self.kept.append(result),
            lambda: kept.__imul__(0.5),
        ]
        with tg.no_grad():
            for change in r.sample(changes, 2):
                try:
                    change()
                except ERRORS:
                    continue

    def seen(self, results: list[tg.Tensor]) -> list[Any]:
        """Return all values that the user can see."""
        tensors = [*self.state, *self.kept, *results, *[p.grad for p in self.params]]
        return [None if x is None else np.array(tg.asarray(x.detach(), device="cpu")) for x in tensors]


def check(found: list[Any], expected: list[Any], where: str) -> None:
    for a, b in zip(found, expected, strict=True):
        if b is None or a is None:
            assert a is b, where
        else:
            tol = 1e-3 if b.dtype == np.float32 else 1e-8
            np.testing.assert_allclose(a, b, rtol=tol, atol=tol, strict=True, err_msg=where)


def run(seed: int) -> bool:
    """Compare the calls of a program; return whether it was compiled."""
    r = Random(seed)
    lines: list[int] = []
    for _ in range(r.randint(3, 10)):
        world = World(seed, "cpu")
        values = [*world.state, tg.ones_like(world.state[0].detach())]
        lines.append(r.randrange(10**9))
        try:
            for line in lines:
                world.line(line, values)
        except ERRORS:
            lines.pop()
    chosen = [r.randrange(12) for _ in range(r.randint(1, 3))]

    def step(world: World, x: tg.Tensor) -> list[tg.Tensor]:
        values = [*world.state, x]
        for line in lines:
            world.line(line, values)
        results = [values[i % len(values)] for i in chosen]
        return [y.detach() if y.requires_grad else y for y in results]

    expected, eager, world = (World(seed, device) for device in ("cpu", "cuda", "cuda"))
    compiled = tg.compile(lambda x: step(world, x))
    for n in range(7):
        x = np.random.default_rng(n).normal(size=expected.state[0].shape).astype(expected.state[0].dtype.name)
        calls: list[tuple[World, Any]] = [
            (expected, lambda x: step(expected, x)),
            (eager, lambda x: step(eager, x)),
            (world, compiled),
        ]
        right: list[list[Any]] = []
        for w, call in calls:
            given = tg.asarray(x.copy(), device="cpu" if w is expected else "cuda")
            try:
                results = call(given)
            except CaptureError:
                return False
            seen = [w.seen([*results, given])]
            w.outside(seed + n, results)
            seen.append(w.seen([*results, given]))
            right = right or seen
            for a, b in zip(seen, right, strict=True):
                check(a, b, f"program {seed}, call {n}, {['eager', 'compiled'][w is world]}")
    return True


@pytest.mark.filterwarnings("ignore:.*on a slice, reshape or transpose")
def test_programs_that_share_memory_and_write_to_it() -> None:
    with np.errstate(all="ignore"):
        done = [run(seed) for seed in range(50)]
    assert sum(done) > 40
