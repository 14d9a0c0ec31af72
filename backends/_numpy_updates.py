"""Updates of state by a sum on NumPy, w <- w - lr dC/dw: added in its place by the threads of BLAS."""

from __future__ import annotations

from typing import Any

from tapegrad.backends import _numpy_blas as blas
from tapegrad.backends._items import is_value

LARGE = 16384  # elements of an update that is worth it; BLAS itself shares one from 10,000
KEPT = 1 << 20  # bytes of a step that stays in the cache until it is added


def update(planner: Any, item: Any) -> bool:
    """Append the calls for an item that only adds to a state array, in its place; False if it is another.

    What is added is computed before, and rounded as NumPy rounds it. In a program that is reassociated, a multiple of
    an array is added as it is, and rounded once.
    """
    nodes = [item] if hasattr(item, "op") else item.nodes if hasattr(item, "lead") else []
    if not planner.shares or len(nodes) not in (1, 2) or nodes[-1].op not in ("add", "subtract"):
        return False
    v = nodes[-1].outs[0]
    state = planner.root_of(v)
    if planner.donated.get(state) is not v or v.size < LARGE or blas.axpy(v.dtype) is None:
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
            if _like(y, v) and planner.root_of(y) is not state and (not is_value(c) or c.shape == ()):
                _add(planner, v, sign, y, planner.array(c) if is_value(c) else c)
                return True
    if v.size * v.dtype.itemsize > KEPT:
        return False
    planner.emit_node(nodes[0], planner.code)
    _add(planner, v, sign, step)
    planner.release(step)
    return True


def _like(x: Any, v: Any) -> bool:
    return is_value(x) and tuple(x.shape) == tuple(v.shape) and x.dtype == v.dtype


def _add(planner: Any, v: Any, sign: int, x: Any, c: Any = 1) -> None:
    planner.emit(planner.code, blas.add_multiple, (blas.axpy(v.dtype), sign, c, planner.array(x), planner.array(v)))
