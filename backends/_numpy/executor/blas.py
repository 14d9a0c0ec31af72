"""BLAS libraries that are loaded, as far as threadpoolctl finds them.

BLAS has threads of its own, which keep spinning for a while after each product. Where products are split among threads
of this process, the two sets would compete for the same cores, so that BLAS is held to one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@cache
def loaded() -> list[Any]:
    """Return the controllers of all BLAS libraries that are loaded, none without threadpoolctl."""
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
    # A process may have several: that of NumPy, and that of SciPy.
    before = [blas.get_num_threads() for blas in loaded()]
    for blas in loaded():
        blas.set_num_threads(1)
    try:
        yield
    finally:
        for blas, n in zip(loaded(), before, strict=True):
            blas.set_num_threads(n)
