"""A guard of random numbers: a call that draws some cannot be replayed."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np

GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)


class RngGuard:
    """The state of the global generators, and of some others, when this is made.

    A number that goes into an array differs from call to call, which is refused with its line; one that Python decides
    by, seldom for the other case, is noticed here only. It may have been another thread that drew.
    """

    def __init__(self, generators: Iterable[Any] = ()) -> None:
        self._before = [(name, g, _state(g)) for name, g in (("random", random), ("numpy.random", np.random))]
        self._before += [(f"a {type(g).__qualname__}", g, _state(g)) for g in generators]

    def drawn_from(self) -> str | None:
        """Return the name of a generator that gave numbers since, if one did."""
        return next((name for name, g, before in self._before if _state(g) != before), None)


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return _plain(generator.bit_generator.state)
    return _plain(generator.getstate() if hasattr(generator, "getstate") else generator.get_state())


def _plain(x: Any) -> Any:
    """Return nested containers as tuples that can be compared."""
    if isinstance(x, dict):
        return tuple(map(_plain, x.values()))
    if isinstance(x, (tuple, list)):
        return tuple(map(_plain, x))
    return x.tobytes() if isinstance(x, np.ndarray) else x
