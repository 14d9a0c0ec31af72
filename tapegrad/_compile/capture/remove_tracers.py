"""Removal of tracers: all that holds one when a call ends gets its contents back."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from types import CellType
from typing import Any

from tapegrad._compile.capture.graph import Graph, Tracer, holds_tracer, lowered
from tapegrad._compile.capture.leaks import surviving
from tapegrad._engine.backward import collect
from tapegrad._engine.record import RELEASED, Record
from tapegrad._engine.tensor import Tensor
from tapegrad._program.ir import Value

_DEPTH = 4  # of tuples that hold arrays
_PATIENCE = 5  # how often Ctrl-C may come while arrays are given back


def remove_tracer(x: Tensor) -> Value | None:
    """Give a Tensor the contents of the tracer it holds, as an eager call would; return that one's value."""
    if not isinstance(getattr(x, "_array", None), Tracer):  # of one that is being made, there is none yet
        return None
    value: Value = x._array.value
    x._array = x._array.raw
    x._base = None  # a slice or reshape that outlives the call does not keep its base
    return value


def remove_all_tracers(graph: Graph, tensors: Iterable[Tensor] = ()) -> None:
    """Give everything that still holds tracers their contents: Tensors, records, lists of arrays.

    tensors: those that are known; the heap is only searched for others if there are any. Ctrl-C meanwhile is raised at
    the end: a Tensor that holds a tracer is of no use to anybody.
    """
    tensors = list(tensors)
    interrupt: KeyboardInterrupt | None = None
    for _ in range(_PATIENCE):
        try:
            _remove_all(graph, tensors)
            break
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


def _remove_all(graph: Graph, tensors: list[Tensor]) -> None:
    for x in tensors:
        remove_tracer(x)
    for r in collect([r for x in tensors if (r := x._record) is not None and hasattr(r, "parents")], 0):
        _clean_record(r)
    if not surviving(graph):
        return
    for x in gc.get_objects():
        if type(x) is Tensor:
            remove_tracer(x)
        elif type(x) is Record:
            _clean_record(x)
    held: tuple[Any, ...] = tuple(surviving(graph))
    seen = {id(held)}
    for _ in range(_DEPTH):
        if not held:
            return
        around = [x for x in gc.get_referrers(*held) if id(x) not in seen]
        seen.update(map(id, around))
        for x in around:
            _clean_holder(x)
        held = tuple([x for x in around if type(x) is tuple])  # which cannot be changed, but their holders can
        seen.add(id(held))


def _clean_record(r: Record) -> None:
    saved = getattr(r, "saved", None)  # another thread, or an interrupted frame, may be making this one
    if saved and saved is not RELEASED and holds_tracer(saved):
        r.saved = lowered(saved)


def _clean_holder(x: Any) -> None:
    kind = type(x)
    if kind is list:
        x[:] = lowered(x)
    elif kind is dict:
        x.update({k: lowered(v) for k, v in x.items()})
    elif kind is CellType:
        x.cell_contents = lowered(x.cell_contents)
    elif issubclass(kind, BaseException):
        x.args = lowered(x.args)
        _clean_holder(x.__dict__)
    elif hasattr(kind, "__dict__") and type(getattr(x, "__dict__", None)) is dict:
        _clean_holder(x.__dict__)
