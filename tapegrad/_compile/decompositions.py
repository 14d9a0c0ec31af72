"""Decompositions for eager fusion: functions composed of elementwise ones and reductions, which can be fused."""

from __future__ import annotations

from functools import partial
from math import inf
from typing import Any

from tapegrad._compile.capture.graph import graph_now
from tapegrad._compile.capture.tracer_backend import TraceNamespace
from tapegrad._engine.dispatch import namespace_of, native_device
from tapegrad.backends._norms import of_sizes, std_of


def _var(xp: Any, x: Any, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Any:
    d = x - xp.mean(x, axis=axis, keepdims=True)
    if correction == 0:
        return xp.mean(d * d, axis=axis, keepdims=keepdims)
    n = _count(x, axis) - correction
    total = xp.sum(d * d, axis=axis, keepdims=keepdims)
    # NumPy divides by max(n, 0). Traces with that number would be alike for all small sizes, and be taken for others.
    return total / n if n >= 0 else total / n * -inf


def _std(xp: Any, x: Any, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Any:
    return std_of(xp, lambda x, **options: xp.sqrt(xp.var(x, **options)), x, axis, correction, keepdims)


def _count(x: Any, axis: Any) -> int:
    axes = range(x.ndim) if axis is None else axis if type(axis) is tuple else (axis,)
    n = 1
    for i in axes:
        n *= x.shape[i]
    return n


def _vector_norm(xp: Any, x: Any, axis: Any = None, keepdims: bool = False, ord: float = 2) -> Any:
    if x.dtype.kind in "biu":  # integers, of which the library gives floating norms
        return xp.called.linalg.vector_norm(x, axis=axis, keepdims=keepdims, ord=ord)
    size = xp.abs(x)
    if ord == float("inf"):
        return xp.max(size, axis=axis, keepdims=keepdims)
    if ord == -float("inf"):
        return xp.min(size, axis=axis, keepdims=keepdims)
    if ord == 0:
        return xp.sum(xp.astype(x != 0, size.dtype), axis=axis, keepdims=keepdims)
    if ord == 1:
        return xp.sum(size, axis=axis, keepdims=keepdims)
    return of_sizes(xp, size, axis, keepdims, ord)


def _take_along_axis(xp: Any, x: Any, indices: Any, axis: int = -1) -> Any:
    """Take one element along an axis as a sum, with zeros in the places of the others."""
    n, ndim = x.shape[axis], len(x.shape)
    if indices.shape[axis] != 1:
        return xp.called.take_along_axis(x, indices, axis=axis)
    numbers = xp.arange(n, dtype=indices.dtype, device=native_device(indices))
    numbers = xp.reshape(numbers, (n,) + (1,) * (ndim - 1 - axis % ndim))
    return xp.sum(xp.where(numbers == indices, x, 0), axis=axis, keepdims=True)


def _note_outside(indices: Any, n: int, flag: Any) -> None:
    graph = graph_now()
    graph.call("note_outside", namespace_of[type(indices.raw)].note_outside, (indices, n, flag), {}, effect=True)


class FusingNamespace(TraceNamespace):
    """The library of tracers, with some functions composed of elementwise ones and reductions.

    called: the same with the library's own functions.
    """

    def __init__(self, base: Any) -> None:
        super().__init__(base)
        self.called = TraceNamespace(base)
        self.var, self.std = partial(_var, self), partial(_std, self)
        self.take_along_axis = partial(_take_along_axis, self)
        self.linalg.vector_norm = partial(_vector_norm, self)
        self.note_outside = _note_outside
