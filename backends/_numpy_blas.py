"""The BLAS that NumPy calls: holding it to one thread, and having its threads add large arrays.

BLAS has threads of its own, which keep spinning for a while after each product. Where products are split among threads
of this process, the two sets would stand in each other's way on the same cores, so that BLAS is held to one. Where they
are left to BLAS, its threads are awake after a product, and half of what it made lies in the caches of their cores: an
addition is shared with them at once, while waking a thread of ours would take longer than it. All of it needs
threadpoolctl, which finds the library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_double, c_float, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

from tapegrad.backends._base import Array

AXPY = {"float32": ("saxpy", c_float), "float64": ("daxpy", c_double)}


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


@cache
def axpy(dtype: Any) -> Callable[..., None] | None:
    """Return NumPy's own BLAS function that adds a multiple of a vector to another, None if it is not to be found.

    It takes n, alpha, x, 1, y, 1, where x and y are addresses. Only of OpenBLAS is it known that its threads share it.
    """
    if str(dtype) not in AXPY:
        return None
    name, number = AXPY[str(dtype)]
    found = [blas for blas in loaded() if blas.internal_api == "openblas"]
    own = [blas for blas in found if "numpy" in Path(blas.filepath).parts[-2] + Path(blas.filepath).parts[-3]]
    for blas in own or (found if len(loaded()) == 1 else []):
        for before, after in (("", ""), ("scipy_", "64_"), ("scipy_", ""), ("", "64_")):
            function = getattr(blas.dynlib, f"{before}cblas_{name}{after}", None)
            if function is not None:
                # Where its integers have 32 bits, it takes them from registers that hold 64.
                function.argtypes = [c_int64, number, c_void_p, c_int64, c_void_p, c_int64]
                function.restype = None
                return function  # type: ignore[no-any-return]
    return None


def add_multiple(function: Callable[..., None], sign: int, c: Any, x: Array, y: Array) -> None:
    """Add c x to `y`, or subtract it, in its place."""
    if x.flags.c_contiguous and y.flags.c_contiguous:
        function(y.size, sign * float(c), x.ctypes.data, 1, y.ctypes.data, 1)
    else:
        y += y.dtype.type(sign * float(c)) * x
