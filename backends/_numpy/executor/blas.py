"""BLAS libraries that are loaded, as far as threadpoolctl finds them.

BLAS has threads of its own, which keep spinning for a while after each product. Where products are split among threads
of this process, the two sets would compete for the same cores, so that BLAS is held to one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

# Wheels rename the symbols of the OpenBLAS that they bring: texts put before and behind, the latter if its integers
# have 64 bits.
SYMBOLS = (("", ""), ("scipy_", "64_"), ("scipy_", ""), ("", "64_"))


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
    switches = _switches()
    before = [get() for get, _ in switches]
    for _, put in switches:
        put(1)
    try:
        yield
    finally:
        # The user's own setting comes back, also after an error.
        for (_, put), n in zip(switches, before, strict=True):
            put(n)


@cache
def _switches() -> list[tuple[Callable[[], int], Callable[[int], object]]]:
    """Return the functions that get and set the number of threads of each library.

    Those of OpenBLAS are called directly: threadpoolctl looks up their symbols each time.
    """
    found = []
    for blas in loaded():
        get, put = blas.get_num_threads, blas.set_num_threads
        if blas.internal_api == "openblas":
            for before, after in SYMBOLS:
                names = [f"{before}openblas_{what}_num_threads{after}" for what in ("get", "set")]
                own = [getattr(blas.dynlib, name, None) for name in names]
                if None not in own:
                    get, put = own
                    break
        found.append((get, put))
    return found
