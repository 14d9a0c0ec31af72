"""Launches of nodes that are no generated kernels: views, matrix products, copies, functions of CuPy.

A node is done in the first of these ways that fits it:

| node | way |
|---|---|
| a check of values | its condition is noted; one kernel evaluates all of them |
| a view | no launch: the result is placed in its operand's memory; a reshape may need a copy |
| a constant | computed once, if something reads the array |
| a matrix product | cuBLAS, into the result; operands that it cannot read in place are copied first |
| a concatenation | copies of the operands, except those that were computed in place |
| a write at slices | a copy of the array, then a copy of, or an addition to, the part |
| a gather by one array of integers | `cupy.take` into the result |
| any other | the function of the library; its results are copied to their places, unless it writes there itself |
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import cupy

from tapegrad._program.ir import Node, Value, put_in
from tapegrad._program.queries import is_put_where
from tapegrad.backends._array import Array
from tapegrad.backends._cupy.codegen import copy_kernels
from tapegrad.backends._cupy.cublas import Cublas, matrix_of, product_of, readable
from tapegrad.backends._cupy.executor import refusals
from tapegrad.backends._cupy.executor.liveness import Liveness
from tapegrad.backends._cupy.executor.nodes import (
    WritesCopy,
    WritesInto,
    gather_of,
    is_concatenation,
    is_constant,
    is_product,
    is_view,
    is_write,
)
from tapegrad.backends._cupy.executor.placement import Placement, is_contiguous
from tapegrad.backends._cupy.executor.steps import Steps
from tapegrad.backends._settings import DETERMINISTIC

# Functions of CuPy that read no value on the host, besides those with a `kind`.
_NAMES = """
argmax argmin convolution convolution_input convolution_weight count_nonzero cumulative_max cumulative_min
cumulative_prod cumulative_sum draw dropped gamma_sample index_add index_get index_set linalg.diagonal
linalg.vector_norm max_pool ones_like pad_last pool_gather pool_scatter repeat roll searchsorted skip std take
take_along_axis tile tril triu var vecdot window_spread window_sum windows windows_sum zeros_like
"""
CAPTURED = frozenset(_NAMES.split())


class Piece(NamedTuple):
    """An operand of a concatenation, and the part of the result that it is copied to."""

    to: Array
    source: Array


class LibraryCalls:
    """Adds the launches of nodes to the steps; number: of a constant, or None; cublas: makes cuBLAS at first use."""

    def __init__(
        self,
        steps: Steps,
        placement: Placement,
        liveness: Liveness,
        number: Callable[[Value], Any],
        cublas: Callable[[], Cublas],
    ) -> None:
        self._steps, self._placement, self._liveness = steps, placement, liveness
        self._number, self._cublas = number, cublas
        self._conditions: list[Array] = []

    def add(self, node: Node, end: int) -> None:
        """Add the launches of a node; end: the number of groups, up to which memory of its own is kept."""
        if node.effect:
            self._refuse(node)
        elif is_view(node):
            if node.out not in self._placement:  # as the transpose of a product is
                self._view(node, end)
        elif is_constant(node) and not node.many:
            self._placement.set_constant(node)
        elif is_product(node):
            self._multiply(node)
        elif is_concatenation(node):
            self._concatenate(node)
        elif is_write(node):
            self._write(node)
        elif (gather := gather_of(node)) is not None:
            array, indices = self._placement.array(gather.array), self._placement.array(gather.indices)
            self._steps.add(node.op, cupy.take, array, indices, gather.axis, self._placement.target(node.out))
        else:
            self._library(node)

    def _library(self, node: Node) -> None:
        """Add a call of a function of the library."""
        array, function = self._placement.array, node.function
        outs = [self._placement.target(v) for v in node.outs]
        name = f"{node.op} at {node.line}" if node.line else node.op
        captured = _is_captured(node)
        # A function that writes to a copy: the copy is the result's place, so that nothing is copied twice.
        if isinstance(function, WritesCopy):
            x, *rest = node.args
            self._begin(outs[0], x)
            self._steps.add(name, _written, function.in_place, outs[0], *put_in(rest, array), captured=captured)
            return
        # Arrays in the places of values, once: the same ones at each call.
        args, kwargs = put_in(node.args, array), {k: put_in(x, array) for k, x in node.kwargs.items()}
        if isinstance(function, WritesInto):
            self._steps.add(name, function.into, outs, *args)
        else:
            self._steps.add(name, _stored, outs, function, args, kwargs, node.many, captured=captured)

    def _refuse(self, node: Node) -> None:
        """Note a condition. When the last one has been computed, add the kernel that evaluates all of them."""
        refused = self._steps.refused
        assert refused is not None
        self._conditions.append(self._placement.array(node.args[0]))
        if len(self._conditions) == len(refused.errors):
            source = refusals.kernel("@", len(self._conditions))
            self._steps.launch("refuse", source, (1,), 1, refused.arguments(self._conditions))

    def _view(self, node: Node, end: int) -> None:
        """Place results that are views; a reshape that is a copy has a place of its own."""
        x = self._placement.array(node.args[0])
        results = node.function(x, *node.args[1:], **node.kwargs)
        # Only the library knows whether a reshape of these strides is a view.
        for v, array in zip(node.outs, results if node.many else (results,), strict=True):
            if array.size and not cupy.may_share_memory(array, x):
                self._liveness.separate(v, end)
                self._steps.copy(self._placement.target(v).reshape(x.shape), x)
            else:
                self._placement.set(v, array)

    def _multiply(self, node: Node) -> None:
        arrays, v = [self._placement.array(x) for x in node.args], node.out
        if v in self._liveness.transpose:  # (a @ b).mT is b.mT @ a.mT
            v, arrays = self._liveness.transpose[v], [a.swapaxes(-1, -2) for a in reversed(arrays)]
        # cuBLAS reads rows or columns that are contiguous; other strides are copied to scratch memory.
        out = self._placement.target(v)
        for i, a in enumerate(arrays):
            if readable(matrix_of(a)) is None:
                arrays[i] = self._placement.scratch(tuple(a.shape), a.dtype)
                self._steps.copy(arrays[i], a)
        product = product_of(matrix_of(arrays[0]), matrix_of(arrays[1]), tuple(out.shape))
        self._steps.add("matmul", self._cublas().multiply, product, *arrays, out)

    def _concatenate(self, node: Node) -> None:
        """Copy the operands into the result, except those that were computed there."""
        out = self._placement.target(node.out)
        axis = node.kwargs.get("axis", 0) % len(out.shape)
        # The part of the result for each operand, in order along the axis.
        pieces: list[Piece] = []
        start = 0
        for x in node.args[0]:
            stop = start + (1 if node.op == "stack" else x.shape[axis])
            spot = out[(slice(None),) * axis + (start if node.op == "stack" else slice(start, stop),)]
            if spot.size and not self._liveness.is_in(x, node.out):
                pieces.append(Piece(spot, self._placement.array(x)))
            start = stop
        # Contiguous operands of the result's dtype are copied by one kernel, row by row of the result.
        whole = is_contiguous(out)
        alike = [p for p in pieces if whole and is_contiguous(p.source) and p.source.dtype == p.to.dtype]
        others = [p for p in pieces if not (whole and is_contiguous(p.source) and p.source.dtype == p.to.dtype)]
        inner = prod(out.shape[axis + 1 :]) * out.itemsize
        forms = []
        for to, a in alike:
            row, pitch = a.nbytes // prod(out.shape[:axis]), out.shape[axis] * inner
            word = copy_kernels.word(row, pitch, a.data.ptr, to.data.ptr)
            forms.append(copy_kernels.Copy(a.nbytes, word, False, row, pitch))
        for n in range(0, len(alike), copy_kernels.WIDEST):
            source, grid = copy_kernels.kernel("@", forms[n : n + copy_kernels.WIDEST], False)
            args = tuple(array for piece in alike[n : n + copy_kernels.WIDEST] for array in piece)
            self._steps.launch("join", source, grid, copy_kernels.THREADS, args)
        for to, a in others:
            self._steps.copy(to, a)

    def _write(self, node: Node) -> None:
        x, key, value = node.args
        out = self._placement.target(node.out)
        self._begin(out, x)
        spot = out[(*key, ...)]
        part = self._placement.array(value) if isinstance(value, Value) else value
        if node.op == "index_add":
            self._steps.add("add", cupy.add, spot, part, spot)
        else:
            self._steps.copy(spot, part)

    def _begin(self, out: Array, x: Value) -> None:
        """Give an array the elements of another, to be written to."""
        if self._number(x) == 0:
            self._steps.add("zeros", out.fill, 0)
        else:
            self._steps.copy(out, self._placement.array(x))


def _is_captured(node: Node) -> bool:
    """Say whether a function of the library may be part of a graph: it reads no value on the host."""
    # CuPy computes these by kernels alone.
    if node.kind in ("elementwise", "reduction"):
        return True
    if node.op not in CAPTURED:
        return node.op.startswith("special.")  # of cupyx, or composed of functions of the standard
    # A mask as an index: CuPy counts its true elements on the host, except for a write that broadcasts.
    if node.op in ("index_set", "index_add") and any(map(_is_mask, node.args[1])):
        return node.op == "index_set" and is_put_where(*node.args)
    # Sums at repeated indices in a fixed order sort the indices, which waits for the device.
    keys = node.op.startswith("index_") and any(isinstance(i, Value) for i in node.args[1])
    return not (keys and node.op != "index_get" and DETERMINISTIC.get())


def _is_mask(i: object) -> bool:
    """Say whether an entry of an index is a mask."""
    return isinstance(i, Value) and bool(i.dtype == bool)


def _stored(
    outs: list[Array], function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], many: bool
) -> None:
    """Call a function and copy its results to their places."""
    results = function(*args, **kwargs)
    for out, result in zip(outs, results if many else (results,), strict=True):
        cupy.copyto(out, result)


def _written(write: Callable[..., Array], out: Array, key: Any, value: Any) -> None:
    """Have a function write to an array at its place."""
    result = write(out, key, value)
    if result is not out:  # in a fixed order, see `tapegrad.deterministic`
        cupy.copyto(out, result)
