"""Random structures that a compiled function goes through, changed at random between its calls, against eager calls."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tapegrad as tg

PROGRAMS, CALLS = 10, 24


class Node:
    pass


class Slots:
    __slots__ = ("a", "b")


def leaf(r: random.Random) -> Any:
    number = r.choice([0.5, 1.0, 2.0])
    kinds: list[Callable[[], Any]] = [
        lambda: r.choice([0.5, 2, -1.0, 0.0, True, None]),
        lambda: tg.asarray([number, 3.0]),
        lambda: tg.tensor([number, 1.0], requires_grad=True),
        lambda: np.asarray([number, 0.5]),
        lambda: r.choice(["sin", "cos", "exp"]),
        lambda: r.choice([tg.sin, tg.cos]),
    ]
    return r.choice(kinds)()


def tree(r: random.Random, depth: int) -> Any:
    if depth == 0 or r.random() < 0.2:
        return leaf(r)
    parts = {name: tree(r, depth - 1) for name in "abc"[: r.randrange(1, 4)]}
    kind: Any = r.choice([dict, list, tuple, deque, SimpleNamespace, Node, Slots, Callable])
    if kind is dict:
        return parts
    if kind in (list, tuple, deque):
        return kind(parts.values())
    if kind is Callable:
        return lambda: parts
    made = kind()
    for name in ("a", "b") if kind is Slots else parts:
        setattr(made, name, parts.get(name))
    return made


def fold(t: Any, x: Any) -> Any:
    """Return the result of a structure for a Tensor."""
    if t is None or isinstance(t, (bool, int, float)):
        return x if t is None else x * 3.0 if t is True else x * t + 1.0
    if isinstance(t, str):
        return x + getattr(tg, t)(x * 0.1)
    if isinstance(t, tg.Tensor):
        return x * 0.5 + t.detach()
    if isinstance(t, np.ndarray):
        return x - t if t[0] == 1.0 else x + np.sqrt(t) * 0.25 + t
    if isinstance(t, dict):
        for v in t.values():
            x = fold(v, x)
        return x
    if isinstance(t, (list, tuple, deque)):
        for v in t:
            x = fold(v, x)
        return x / max(len(t), 1)
    if isinstance(t, (Node, SimpleNamespace, Slots)):
        x = fold(t.a, x) if hasattr(t, "a") else x + 1.0
        return fold(getattr(t, "c", None), fold(getattr(t, "b", 2.0), x))
    return t(x) if t in (tg.sin, tg.cos) else fold(t(), x)


def changes(t: Any, r: random.Random) -> list[Callable[[Any], Any]]:
    """Return the changes that can be made in a structure, each by a new part."""
    found: list[Callable[[Any], Any]] = []
    parts: list[Any] = []
    if isinstance(t, dict):
        found += [partial(t.__setitem__, k) for k in (*t, r.choice("defg"))]
        parts = list(t.values())
    elif isinstance(t, (list, deque)):
        found += [partial(t.__setitem__, i) for i in range(len(t))]
        found += [t.append, lambda v: t.pop() if t else None]
        parts = list(t)
    elif isinstance(t, tuple):
        parts = list(t)
    elif isinstance(t, (Node, SimpleNamespace, Slots)):
        names = ("a", "b") if isinstance(t, Slots) else (*vars(t), r.choice("abc"))
        found += [partial(setattr, t, k) for k in names]
        parts = [getattr(t, k, None) for k in names]
    elif isinstance(t, np.ndarray):
        found.append(lambda v: t.__setitem__(0, t[1] * 2.0))
    elif callable(t) and t not in (tg.sin, tg.cos):
        parts = [t()]
    return [*found, *[change for part in parts for change in changes(part, r)]]


@pytest.mark.parametrize("first", range(0, 4 * PROGRAMS, PROGRAMS))
@pytest.mark.filterwarnings("ignore:compile. things outside that .* uses change too often")
def test_structures_that_change(first: int) -> None:
    replayed = 0
    for seed in range(first, first + PROGRAMS):
        eager, other = ({"root": tree(random.Random(seed), 3)} for _ in range(2))
        step = tg.compile(lambda x, other=other: fold(other["root"], x))
        r = random.Random(seed)
        for n in range(CALLS):
            if n >= 3 and r.random() < 0.3:
                again = r.randrange(10**9)
                for structure in (eager, other):
                    q = random.Random(again)
                    q.choice(changes(structure, q))(tree(q, 1))
            x = tg.asarray([1.0, n % 5 + 0.5])
            np.testing.assert_array_equal(step(x).detach(), fold(eager["root"], x).detach(), f"{seed}, call {n}")
        replayed += step._replayed
    assert replayed > 5 * PROGRAMS
