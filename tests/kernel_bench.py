"""Generated kernels by themselves: nodes and arrays to make them of, run on the host."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from cuda_on_host import HostKernel

from tapegrad._compile._program import Node, Value
from tapegrad.backends import _cupy_kernels as kernels
from tapegrad.backends._cupy_access import Layout, alignment_of
from tapegrad.backends._cupy_types import HELPERS

FLOATS = ("float16", "float32", "float64")
REDUCTIONS = ("sum", "mean", "prod", "max", "min", "any", "all")
SOURCES: dict[str, None] = {}  # all that tests generated


def node(op: str, args: tuple[Any, ...], shape: tuple[int, ...], dtype: Any, **kwargs: Any) -> Node:
    n = Node(op, np.positive, args, kwargs)
    n.kind = "reduction" if op in REDUCTIONS else "elementwise"
    n.outs = (Value(shape, np.dtype(dtype), n),)
    return n


class Bench:
    """Arrays for values, and kernels run on them."""

    def __init__(self) -> None:
        self.arrays: dict[Any, np.ndarray[Any, Any]] = {}
        self.places = kernels.Places(self.layout, lambda v: None)

    def value(self, array: Any) -> Value:
        v = Value(array.shape, array.dtype)
        self.arrays[v] = array
        return v

    def layout(self, v: Any) -> Layout:
        a = self.arrays[v]
        return Layout(a.shape, tuple(s // a.itemsize for s in a.strides), alignment_of(a.ctypes.data))

    def place(self, v: Any) -> None:
        """Make the array of a result, unless it is to be written over another."""
        if v not in self.arrays:
            self.arrays[v] = np.full(v.shape, 77, v.dtype)

    def run(self, made: Iterable[kernels.Kernel]) -> None:
        made = list(made)
        source = HELPERS + "".join(k.source + "".join(t.source for _, t in k.then) for k in made)
        SOURCES[source] = None
        for k in made:
            for v in k.writes:
                self.place(v)
            partials = [np.full(shape, 77, dtype) for dtype, shape in k.partials]
            HostKernel(source, k.name)((k.grid,), (k.block,), (*self.of(k.reads), *self.of(k.writes), *partials))
            for i, t in k.then:
                (v,) = t.writes
                self.place(v)
                HostKernel(source, t.name)((t.grid,), (t.block,), (self.arrays[v], partials[i]))

    def run_multi(self, made: kernels.Multi) -> None:
        for _, values in made.members:
            for v in values:
                self.place(v)
        source = HELPERS + made.kernel.source
        SOURCES[source] = None
        table = made.table(lambda v: self.arrays[v].ctypes.data)
        HostKernel(source, made.kernel.name)((made.kernel.grid,), (made.kernel.block,), (table,))

    def of(self, values: list[Any]) -> list[Any]:
        return [self.arrays[v] for v in values]
