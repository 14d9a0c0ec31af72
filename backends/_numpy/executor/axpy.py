"""Updates of state in place, such as w <- w - lr dC/dw, by the BLAS function axpy: y <- a x + y.

It adds in place, by the threads of BLAS. These are awake after a product, and half of the gradient lies in the caches
of their cores. To wake a thread of this process would take longer than the addition::

    0  %0 = multiply(g, 0.1)      multiply(g, 0.1, A)
    1  %1 = subtract(w, %0)       axpy(n, -1, A, 1, w, 1)       %1 is donated the array of w

    reassociated, which rounds once:
    0, 1                          axpy(n, -0.1, g, 1, w, 1)
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_double, c_float, c_int64, c_void_p
from functools import cache
from pathlib import Path
from sys import maxsize
from typing import Any, NamedTuple, TypeGuard

from tapegrad._program.ir import Item, Node, Run, Value
from tapegrad.backends._array import Array
from tapegrad.backends._numpy.executor import blas
from tapegrad.backends._numpy.executor.emitter import Emitter

AXPY = {"float32": ("saxpy", c_float), "float64": ("daxpy", c_double)}
LARGE = 16384  # elements of an update that is worth it; BLAS itself shares one from 10,000
KEPT = 1 << 20  # bytes of a step that stays in the cache until it is added


class _Update(NamedTuple):
    """An update `v = state + sign * step`; before: the node of the same item that computes the step, if any."""

    v: Value
    state: Value
    sign: int
    step: Value
    before: Node | None


def emit_update(emitter: Emitter, item: Item) -> bool:
    """Append the calls for an item that only adds to a state array, in its place; return False for another item.

    The step is computed first, and rounded as NumPy rounds it. In a program that is reassociated, a multiple of an
    array is added as one, and rounded once.
    """
    update = _update_of(emitter, item) if emitter.sharing.wakes else None
    if update is None:
        return False
    v, before = update.v, update.before
    if before is None:
        _add(emitter, update, update.step)
        return True
    if emitter.program.reassociated and before.op == "multiply":
        for c, y in (before.args, before.args[::-1]):
            if _is_like(y, v) and emitter.placement.aliases.root_of(y) is not update.state and _is_number(c):
                _add(emitter, update, y, c)
                return True
    # A step that has left the cache is read again: then a run, tile by tile, takes less time.
    if v.size * v.dtype.itemsize > KEPT:
        return False
    emitter.emit_node(before, emitter.writer.code)
    _add(emitter, update, update.step)
    emitter.placement.release([update.step])
    return True


def _update_of(emitter: Emitter, item: Item) -> _Update | None:
    """Return the update that an item is: the last of its nodes, one or two, adds to a donated input."""
    nodes = [item] if isinstance(item, Node) else item.nodes if isinstance(item, Run) else []
    if len(nodes) not in (1, 2) or nodes[-1].op not in ("add", "subtract"):
        return None
    aliases, v = emitter.placement.aliases, nodes[-1].out
    state = aliases.root_of(v)
    if emitter.donated.get(state) is not v or v.size < LARGE or axpy(v.dtype) is None:
        return None
    x, step = nodes[-1].args
    # A sum may name the state second; a difference cannot, as its sign would change.
    if step is state and nodes[-1].op == "add":
        x, step = step, x
    if x is not state or not _is_like(step, v) or aliases.root_of(step) is state:
        return None
    sign = 1 if nodes[-1].op == "add" else -1
    if len(nodes) == 1:
        return _Update(v, state, sign, step, None)
    # Nothing else reads the step of a run.
    if step.node is not nodes[0] or item.outs != (v,) or nodes[0].kind != "elementwise":
        return None
    return _Update(v, state, sign, step, nodes[0])


def _is_like(x: object, v: Value) -> TypeGuard[Value]:
    return isinstance(x, Value) and x.shape == v.shape and bool(x.dtype == v.dtype)


def _is_number(c: object) -> bool:
    return not isinstance(c, Value) or c.shape == ()


def _add(emitter: Emitter, update: _Update, x: Value, c: Any = 1) -> None:
    """Append the addition of c times an array to the state."""
    placement, v = emitter.placement, update.v
    factor = placement.array(c) if isinstance(c, Value) else c
    args = axpy(v.dtype), update.sign, factor, placement.array(x), placement.array(v)
    emitter.writer.emit(emitter.writer.code, add_multiple, args)


@cache
def axpy(dtype: Any) -> Callable[..., None] | None:
    """Return NumPy's own BLAS function that adds a multiple of a vector to another, None if it is not to be found.

    It takes n, alpha, x, 1, y, 1, where x and y are addresses. Only of OpenBLAS is it known that its threads share it.
    """
    if str(dtype) not in AXPY or maxsize < 1 << 32:
        return None
    name, number = AXPY[str(dtype)]
    # NumPy's own library first; another one only if it is alone, so that there are no two pools of threads.
    found = [b for b in blas.loaded() if b.internal_api == "openblas"]
    own = [b for b in found if any("numpy" in part for part in Path(b.filepath).parts[-3:-1])]
    for b in own or (found if len(blas.loaded()) == 1 else []):
        for before, after in blas.SYMBOLS:
            function = getattr(b.dynlib, f"{before}cblas_{name}{after}", None)
            if function is not None:
                # A BLAS with integers of 32 bits takes them from registers of 64.
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
