"""Placement of values: the array of each, in a buffer that it shares with values of other lifetimes.

Every value has one place for good, since a CUDA graph has pointers baked in:
- an argument is copied into a buffer of the plan, as a batch is another array at each call;
- state that the program only reads is read where it is, as long as it stays there;
- state that it updates stays in a buffer of the plan, which its Tensor then holds (see `donation`);
- a result lies in a buffer of the pool, which is used again when the result is dead (see `liveness`).

For `a = exp x; b = a.T; c = matmul a b; w' = w - c`, with x an argument and w state that is updated::

    x     buffer 1, copied in at each call          a     buffer 2 of the pool
    b     a view of buffer 2                        c     buffer 3; buffer 2 is free from here on
    w     its own buffer, which the Tensor holds    w'    written over w, its last reader
"""

from __future__ import annotations

from math import prod
from typing import Any

import cupy

from tapegrad._program.ir import Node, Program, Value
from tapegrad.backends._array import Array
from tapegrad.backends._cupy.codegen.memory_access import Layout, alignment_of
from tapegrad.backends._cupy.cublas import matrix_of
from tapegrad.backends._cupy.executor.liveness import Liveness
from tapegrad.backends._pool import Pool


class Placement:
    """The arrays of values; bound: inputs by number that are read where they are."""

    def __init__(self, program: Program, liveness: Liveness, bound: dict[int, Array]) -> None:
        self._liveness = liveness
        self._pool = Pool(lambda nbytes: cupy.empty((max(nbytes, 1),), "uint8"))
        self._buffer: dict[Value, Array] = {}  # a root -> the buffer that it has now
        self._scratch: list[Array] = []  # buffers of the group at hand
        self._constants: dict[Value, Node] = {}
        # Inputs are never freed: arguments are copied into the same buffer at each call.
        self._place: dict[Value, Array] = {
            v: bound[k] if k in bound else cupy.empty(v.shape, v.dtype) for k, v in enumerate(program.inputs)
        }
        self.inputs = [self._place[v] for v in program.inputs]

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers for results."""
        return self._pool.nbytes

    def __contains__(self, v: Value) -> bool:
        """Say whether a value has an array already."""
        return v in self._place

    def array(self, v: Value) -> Array:
        """Return the array of a value."""
        if v.constant is not None:
            return v.constant
        if v not in self._place and v in self._constants:  # made only if something reads the array
            node = self._constants[v]
            self._place[v] = node.function(*node.args, **node.kwargs)
        return self._place[v]

    def layout(self, v: Value) -> Layout:
        """Return how the array of a value lies in memory."""
        a = self.array(v)
        return Layout(*matrix_of(a), alignment_of(a.data.ptr))

    def target(self, v: Value) -> Array:
        """Return the array that a result is to be written into."""
        if v not in self._place:
            # A part of a larger value: place that first, which may be a part in turn.
            part = self._liveness.part.get(v)
            if part is not None:
                self._place[v] = part.array(self.target(part.whole))
            else:
                self._buffer[v] = buffer = self._pool.take(v.size * v.dtype.itemsize)
                self._place[v] = _shaped(buffer, v.shape, v.dtype)
        return self._place[v]

    def set(self, v: Value, array: Array) -> None:
        """Have a value lie in an array: a view, or the state that it is written over."""
        self._place[v] = array

    def set_constant(self, node: Node) -> None:
        """Have the result of a node be computed once, by the first reader of the array."""
        self._constants[node.out] = node

    def scratch(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return an array that is free again after this group."""
        array, buffer = self.take(shape, dtype)
        self._scratch.append(buffer)
        return array

    def take(self, shape: tuple[int, ...], dtype: Any) -> tuple[Array, Array]:
        """Return an array, and the buffer to `give` back that it lies in."""
        buffer = self._pool.take(prod(shape) * dtype.itemsize)
        return _shaped(buffer, shape, dtype), buffer

    def give(self, buffers: list[Array]) -> None:
        """Take buffers back whose contents nobody needs."""
        for buffer in buffers:
            self._pool.give(buffer)

    def release(self, i: int) -> None:
        """Give back the buffers of values that no group after number `i` needs."""
        # Best-fit reuse: a buffer goes back to the pool with the last group that reads the memory of its root.
        last = self._liveness.last
        self.give([self._buffer.pop(v) for v in list(self._buffer) if last.get(v, i) <= i])
        self.give(self._scratch)
        self._scratch = []

    def has_buffer(self, v: Value) -> bool:
        """Say whether a value has a buffer of the pool now."""
        return v in self._buffer


def is_contiguous(a: Array) -> bool:
    """Say whether the elements of an array are in row-major order, without gaps."""
    return bool(a.flags.c_contiguous)


def _shaped(buffer: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return the start of a buffer as an array."""
    return buffer[: prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
