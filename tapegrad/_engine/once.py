"""A cache that calls its function once for the same arguments, even if several threads make the first call."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, update_wrapper
from threading import RLock
from typing import Any, TypeVar

T = TypeVar("T")


def once(function: Callable[..., T]) -> Callable[..., T]:
    """Return a cached function that gives all threads the same object; `functools.cache` does not."""
    lock = RLock()
    made: dict[tuple[Any, ...], T] = {}

    def call(*args: Any) -> T:
        with lock:
            if args not in made:
                made[args] = function(*args)
            return made[args]

    return cache(update_wrapper(call, function))
