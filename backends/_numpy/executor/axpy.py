"""Updates of state by a sum on NumPy, w <- w - lr dC/dw: added in its place by the threads of BLAS.

These are awake after a product, and half of what it made lies in the caches of their cores; waking a thread of ours
would take longer than the addition.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_double, c_float, c_int64, c_void_p
from functools import cache
from pathlib import Path
from sys import maxsize
from typing import Any

from tapegrad._program.ir import Node, Run, Value
from tapegrad.backends._array import Array
from tapegrad.backends._numpy.executor import blas

AXPY = {"float32": ("saxpy", c_float), "float64": ("daxpy", c_double)}
LARGE = 16384  # elements of an update that is worth it; BLAS itself shares one from 10,000
KEPT = 1 << 20  # bytes of a step that stays in the cache until it is added


def update(planner: Any, item: Any) -> bool:
    """Append the calls for an item that only adds to a state array, in its place; False if it is another.

    What is added is computed before, and rounded as NumPy rounds it. In a program that is reassociated, a multiple of
    an array is added as it is, and rounded once.
    """
    nodes = [item] if isinstance(item, Node) else item.nodes if isinstance(item, Run) else []
    if not planner.shares or len(nodes) not in (1, 2) or nodes[-1].op not in ("add", "subtract"):
        return False
    v = nodes[-1].outs[0]
    state = planner.root_of(v)
    if planner.donated.get(state) is not v or v.size < LARGE or axpy(v.dtype) is None:
        return False
    x, step = nodes[-1].args
    if step is state and nodes[-1].op == "add":
        x, step = step, x
    if x is not state or not _like(step, v) or planner.root_of(step) is state:
        return False
    sign = 1 if nodes[-1].op == "add" else -1
    if len(nodes) == 1:
        _add(planner, v, sign, step)
        return True
    if step.node is not nodes[0] or item.outs != (v,) or nodes[0].kind != "elementwise":
        return False
    if planner.program.reassociated and nodes[0].op == "multiply":
        for c, y in (nodes[0].args, nodes[0].args[::-1]):
            if _like(y, v) and planner.root_of(y) is not state and (not isinstance(c, Value) or c.shape == ()):
                _add(planner, v, sign, y, planner.array(c) if isinstance(c, Value) else c)
                return True
    if v.size * v.dtype.itemsize > KEPT:
        return False
    planner.emit_node(nodes[0], planner.code)
    _add(planner, v, sign, step)
    planner.release(step)
    return True


def _like(x: Any, v: Any) -> bool:
    return isinstance(x, Value) and tuple(x.shape) == tuple(v.shape) and x.dtype == v.dtype


def _add(planner: Any, v: Any, sign: int, x: Any, c: Any = 1) -> None:
    planner.emit(planner.code, add_multiple, (axpy(v.dtype), sign, c, planner.array(x), planner.array(v)))


@cache
def axpy(dtype: Any) -> Callable[..., None] | None:
    """Return NumPy's own BLAS function that adds a multiple of a vector to another, None if it is not to be found.

    It takes n, alpha, x, 1, y, 1, where x and y are addresses. Only of OpenBLAS is it known that its threads share it.
    """
    if str(dtype) not in AXPY or maxsize < 1 << 32:
        return None
    name, number = AXPY[str(dtype)]
    found = [b for b in blas.loaded() if b.internal_api == "openblas"]
    own = [b for b in found if any("numpy" in part for part in Path(b.filepath).parts[-3:-1])]
    for b in own or (found if len(blas.loaded()) == 1 else []):
        for before, after in (("", ""), ("scipy_", "64_"), ("scipy_", ""), ("", "64_")):
            function = getattr(b.dynlib, f"{before}cblas_{name}{after}", None)
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
