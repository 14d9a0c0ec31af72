"""Leak check: a Tensor that a call made must not outlive it, except as a result."""

from __future__ import annotations

import gc
import time

from tapegrad._compile.capture.graph import Graph, Tracer
from tapegrad._engine.dispatch import CaptureError


def surviving(graph: Graph) -> list[Tracer]:
    """Return the arrays of a call that somebody holds."""
    return [x for r in graph.handed if (x := r()) is not None]


def check_survivors(graph: Graph) -> None:
    """Raise CaptureError if somebody keeps a Tensor that was made inside, other than by returning it."""
    if not surviving(graph):
        return
    gc.collect(1 if graph.tentative else 2)  # only in a cycle that nobody holds? of a tentative call, a short look
    for pause in (0.0,) if graph.tentative else (0.0, 0.001, 0.01):  # or another thread that just looked?
        time.sleep(pause)
        kept = surviving(graph)
        if not kept:
            return
    node = kept[0].value.node
    made = "" if node is None else f", made at {node.line},"
    raise CaptureError(
        f"a Tensor of shape {tuple(kept[0].shape)}{made} is kept by something outside the function when the call "
        "ends, which replay cannot do: return it, or update state in place (x *= ..., x[...] = ...) so that it "
        "stays the same Tensor"
    )
