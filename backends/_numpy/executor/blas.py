"""The BLAS libraries that are loaded, if threadpoolctl is there to find them, and how many threads they use.

BLAS has threads of its own, which keep spinning for a while after each product. Where products are split among threads
of this process, the two sets would stand in each other's way on the same cores, so that BLAS is held to one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@cache
def loaded() -> list[Any]:
    """Return what sets the threads of each BLAS that is loaded, none without threadpoolctl."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return []
    found: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
    return found


def can_hold() -> bool:
    """Say whether BLAS can be held to one thread."""
    return bool(loaded())


@contextmanager
def held() -> Iterator[None]:
    """Hold BLAS to one thread inside this block."""
    before = [blas.get_num_threads() for blas in loaded()]
    for blas in loaded():
        blas.set_num_threads(1)
    try:
        yield
    finally:
        for blas, n in zip(loaded(), before, strict=True):
            blas.set_num_threads(n)
