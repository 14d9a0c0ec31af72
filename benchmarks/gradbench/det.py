"""det: a determinant by expansion by minors, and its gradient."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from typing import Any, NamedTuple

import tapegrad as tg
from benchmarks.gradbench._function import Function, floats, integers


class Level(NamedTuple):
    """Expansion of the minors of the last m rows along the first of them: arrays of shape (minors, m).

    places: where in the flat matrix each factor stands; smaller: the minor of m - 1 rows it is multiplied by; signs:
    1 and -1, by turns.
    """

    places: tg.Tensor
    smaller: tg.Tensor
    signs: tg.Tensor


class Task(NamedTuple):
    """a: the matrix, flat; levels: the expansion for its size, the smallest minors first."""

    a: tg.Tensor
    levels: tuple[Level, ...]


def prepare(given: Any, device: str) -> Task:
    return Task(floats(given["A"], device), expansion(given["ell"], device))


@cache
def expansion(n: int, device: str) -> tuple[Level, ...]:
    """Return the levels for n rows, from the minors of two rows up."""
    numbers: dict[tuple[int, ...], int] = {(j,): j for j in range(n)}
    levels = []
    for m in range(2, n + 1):
        row = (n - m) * n
        minors = list(combinations(range(n), m))
        places = [[row + j for j in columns] for columns in minors]
        smaller = [[numbers[columns[:i] + columns[i + 1 :]] for i in range(m)] for columns in minors]
        signs = [(-1.0) ** i for i in range(m)]
        levels.append(Level(integers(places, device), integers(smaller, device), floats(signs, device)))
        numbers = {columns: i for i, columns in enumerate(minors)}
    return tuple(levels)


def determinant(a: tg.Tensor, levels: tuple[Level, ...]) -> tg.Tensor:
    """Return the determinant, expanding all minors of one size at once and each of them once."""
    minors = a[a.shape[0] - len(levels) - 1 :]  # the last row
    for level in levels:
        minors = tg.sum(a[level.places] * level.signs * minors[level.smaller], axis=1)
    return minors[0]


FUNCTIONS = {
    "primal": Function(prepare, lambda task: determinant(*task)),
    "gradient": Function(prepare, lambda task: tg.grad(determinant)(*task)),
}
