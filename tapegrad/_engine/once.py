"""A cache whose function is called once for the same arguments, however many threads ask for the first time at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, update_wrapper
from threading import RLock
from typing import Any, TypeVar

T = TypeVar("T")


def once(function: Callable[..., T]) -> Callable[..., T]:
    """Return a function that gives the same object for the same arguments; `functools.cache` does not over threads."""
    lock = RLock()
    made: dict[tuple[Any, ...], T] = {}

    def call(*args: Any) -> T:
        with lock:
            if args not in made:
                made[args] = function(*args)
            return made[args]

    return cache(update_wrapper(call, function))
