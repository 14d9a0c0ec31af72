"""Generated kernels by themselves: nodes and arrays to make them of, run on a CUDA device or its stand-in."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from places import why_not

if why := why_not("cuda"):
    pytest.skip(why, allow_module_level=True)

import cupy

from tapegrad._program.ir import Node, Value
from tapegrad.backends._cupy.codegen import final_reductions as finishing
from tapegrad.backends._cupy.codegen import flat_kernels as kernels
from tapegrad.backends._cupy.codegen.cuda_types import HELPERS, OPTIONS
from tapegrad.backends._cupy.codegen.memory_access import Layout, alignment_of

FLOATS = ("float16", "float32", "float64")
REDUCTIONS = ("sum", "mean", "prod", "max", "min", "any", "all")


def node(op: str, args: tuple[Any, ...], shape: tuple[int, ...], dtype: Any, **kwargs: Any) -> Node:
    n = Node(op, np.positive, args, kwargs)
    n.kind = "reduction" if op in REDUCTIONS else "elementwise"
    n.outs = (Value(shape, np.dtype(dtype), n),)
    return n


def misaligned(x: Any) -> Any:
    """Return an array of the same elements that begins one element after an aligned address."""
    y = np.empty(x.size + 1, x.dtype)[1:].reshape(x.shape)
    y[...] = x
    return y


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
        self.place(v)
        a = self.arrays[v]
        return Layout(a.shape, tuple(s // a.itemsize for s in a.strides), alignment_of(a.ctypes.data))

    def place(self, v: Any) -> None:
        """Make the array of a result, unless it is to be written over another."""
        if v not in self.arrays:
            self.arrays[v] = np.full(v.shape, 77, v.dtype)

    def run(self, made: Iterable[kernels.Kernel]) -> None:
        made = list(made)
        texts = [k.source for k in made]
        texts += [finishing.kernel(f"{k.name}_{i}", [f])[0] for k in made for i, f in enumerate(k.unfinished)]
        functions = _Module(HELPERS + "".join(texts))
        for k in made:
            for v in k.writes:
                self.place(v)
            partials = [np.full(f.shape, 77, f.dtype) for f in k.unfinished]
            functions.launch(k.name, k.grid, k.block, [*self.of(k.reads), *self.of(k.writes), *partials])
            for i, f in enumerate(k.unfinished):
                self.place(f.out)
                functions.launch(f"{k.name}_{i}", f.grid, f.block, [self.arrays[f.out], partials[i]])

    def run_multi(self, made: kernels.Multi) -> None:
        for _, values in made.members:
            for v in values:
                self.place(v)
        memory = _Memory()
        table = made.table(lambda v: memory.address(self.arrays[v]))
        k = made.kernel
        _Module(HELPERS + k.source).launch(k.name, k.grid, k.block, [table], memory)

    def of(self, values: list[Any]) -> list[Any]:
        return [self.arrays[v] for v in values]


class _Memory:
    """Host arrays on the device for the time of a launch: those that share memory share it there too."""

    def __init__(self) -> None:
        self.buffers: dict[int, tuple[Any, Any, int]] = {}  # id of the owner -> owner, buffer, where it begins there

    def address(self, array: np.ndarray[Any, Any]) -> int:
        """Return where an array lies on the device, as aligned as it is here."""
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        assert owner.flags.owndata
        if id(owner) not in self.buffers:
            start = owner.ctypes.data % 512
            buffer = cupy.empty(start + owner.nbytes, "uint8")
            buffer[start:].set(_bytes(owner))
            self.buffers[id(owner)] = (owner, buffer, start)
        _, buffer, start = self.buffers[id(owner)]
        return int(buffer.data.ptr) + start + array.ctypes.data - owner.ctypes.data

    def copy_back(self) -> None:
        for owner, buffer, start in self.buffers.values():
            _bytes(owner)[...] = buffer[start:].get()


def _bytes(owner: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the bytes of an array that owns its memory, in the order in which they lie there."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * owner.nbytes).from_address(owner.ctypes.data))


class _Module:
    """The kernels of a text."""

    def __init__(self, source: str) -> None:
        self.module = cupy.RawModule(code=source, options=OPTIONS)

    def launch(self, name: str, grid: int, block: int, arrays: list[Any], memory: _Memory | None = None) -> None:
        """Launch a kernel on host arrays; memory: arrays that are on the device already."""
        memory = memory or _Memory()
        addresses = tuple(np.uint64(memory.address(a)) for a in arrays)
        self.module.get_function(name)((grid,), (block,), addresses)
        memory.copy_back()
