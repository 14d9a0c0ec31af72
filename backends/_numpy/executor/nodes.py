"""Emitters of single nodes, one for each kind of operation.

Each returns whether it emitted the node. Where it did not, the generic emitter calls the function of the node as it is,
and copies the result to its place (`emit_stored`)::

    %1 = exp(%0)             elementwise: in place if %0 dies here       exp(buffer A, buffer A)
    %2 = sum(%1, axis=0)     reduction                                   add.reduce(buffer A, (0,), ..., buffer B)
    %3 = %2[1:]              view: no call, %3 lies in buffer B
    %4 = cumulative_sum(%3)  anything else: store(buffer C, cumulative_sum, (%3,), {})
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

from tapegrad._program.ir import Node, Value, put_in
from tapegrad._program.op_kinds import is_plain_key
from tapegrad._program.queries import reduction_axes
from tapegrad.backends._array import Array
from tapegrad.backends._numpy.executor import kernels
from tapegrad.backends._numpy.executor.aliasing import part_keys
from tapegrad.backends._numpy.executor.emitter import Emitter
from tapegrad.backends._numpy.executor.kernels import can_take_over
from tapegrad.backends._numpy.executor.references import Operand
from tapegrad.backends._numpy.executor.sharing import is_worth_threads
from tapegrad.backends._numpy.executor.threads import Code
from tapegrad.backends._numpy.functions import add_at, add_rows

WORTH_COPYING = 200_000  # elements of a copy from which it is split among threads


def emit_stored(emitter: Emitter, node: Node, code: Code) -> None:
    """Append a call of the function of a node as it is, and a copy of each result to its place."""
    placement = emitter.placement
    args = put_in(node.args, placement.array)
    kwargs = {k: put_in(v, placement.array) for k, v in node.kwargs.items()}
    if node.effect:
        emitter.writer.emit(code, node.function, args)
    elif node.many:
        outs = tuple([placement.target(v) for v in node.outs])
        emitter.writer.emit(code, kernels.store_all, (outs, node.function, args, kwargs))
    else:
        emitter.writer.emit(code, kernels.store, (placement.target(node.out), node.function, args, kwargs))


def emit_view(emitter: Emitter, node: Node, code: Code) -> bool:
    """Place a view; append a copy for a reshape of elements that do not lie in order."""
    placement, v, x = emitter.placement, node.out, node.args[0]
    if v in placement.aliases.views:
        # No call: of an array that changes, the view is made anew when it does.
        rest, kwargs, function = node.args[1:], node.kwargs, node.function
        placement.put(v, placement.must_view(placement.array(x), lambda a: function(a, *rest, **kwargs)))
        return True
    if node.op != "reshape":
        return False
    # The result lies in order, so that it has a view in the shape of the operand: the copy is one call.
    spot = placement.must_view(placement.target(v), reshape_to(x.shape))
    emit_copy(emitter, spot, placement.array(x), x.shape, code)
    return True


def emit_rows(emitter: Emitter, node: Node, code: Code) -> bool:
    """Place a concatenation of values that are rows of one array, in their order: it is that array."""
    placement, values, v = emitter.placement, node.args[0], node.out
    if v in placement or any(x.row is None for x in values):
        return False
    # The planner laid out these values as rows, so that there is nothing to move; else they are concatenated.
    rows, start = values[0].row
    if [x.row for x in values] != [(rows, start + i) for i in range(len(values))]:
        return False
    placement.put(v, placement.rows(rows)[start : start + len(values)].reshape(v.shape))
    return True


def emit_elementwise(emitter: Emitter, node: Node, code: Code) -> bool:
    """Append the ufuncs of an elementwise node, in place of an operand that dies here if there is one."""
    placement, v = emitter.placement, node.out
    reuse = None
    if v not in placement:  # in no place that it must have
        # Buffer reuse: the result takes over the buffer of an operand that dies here, and of which no view lives.
        for x in kernels.overwritable(node):
            if (
                isinstance(x, Value)
                and placement.dies(x)
                and can_take_over(v, x)
                and placement.aliases.only_alias(x, node)
            ):
                reuse = x
                break
    # The operands are looked up first, as `target` takes the buffer away from the one that dies.
    operands = [placement.array(x) if isinstance(x, Value) else x for x in node.args]
    out = placement.target(v, reuse)
    calls = kernels.of_node(node, operands, out)
    if calls is None:
        emit_stored(emitter, node, code)
    else:
        emitter.writer.emit_all(code, calls)
    return True


def emit_reduction(emitter: Emitter, node: Node, code: Code) -> bool:
    """Append the reduction of a ufunc."""
    placement, x, v = emitter.placement, node.args[0], node.out
    keepdims = bool(node.kwargs.get("keepdims", False))
    wide = x.dtype.itemsize < 4 and node.op == "mean"  # NumPy sums float16 in float32 for a mean
    if x.size == 0 or wide or "dtype" in node.kwargs or v.dtype.kind in "mMO":
        return False
    source = placement.array(x)
    # The number of elements in each sum of a mean is known here, so that it is no part of the call.
    count = x.size // max(v.size, 1)
    calls = kernels.reduction(node.op, source, reduction_axes(node), keepdims, placement.target(v), count, v.dtype)
    emitter.writer.emit_all(code, calls)
    return True


def emit_product(emitter: Emitter, node: Node, code: Code) -> bool:
    """Append a product of matrices, its rows or the matrices of a batch shared among threads."""
    if not all(len(x.shape) > 1 for x in node.args):
        return False
    placement, writer, v = emitter.placement, emitter.writer, node.out
    a, b = map(placement.array, node.args)
    out = placement.target(v)
    # Each thread computes some rows of a matrix, or some matrices of a batch.
    parts = emitter.sharing.parts_of(v.shape[0]) if is_worth_threads(node) else []
    if len(parts) <= 1:
        writer.emit(code, np.matmul, (a, b, out))
        return True
    codes: list[Code] = []
    ndim = len(v.shape)
    for part in parts:
        operands = [a, b, out]
        for i, x in enumerate((*node.args, v)):
            # The leading axis of the result is that of an operand with as many axes, except the right one of two
            # matrices.
            if len(x.shape) == ndim and x.shape[0] == v.shape[0] and (i != 1 or ndim > 2):
                operands[i] = placement.must_view(operands[i], take(part))
        codes.append([])
        writer.emit(codes[-1], np.matmul, tuple(operands))
    writer.emit_threads(code, codes)
    return True


def emit_copy(emitter: Emitter, out: Operand, x: Operand, shape: tuple[int, ...], code: Code) -> None:
    """Append a copy, shared among threads if that is worth it."""
    placement, writer = emitter.placement, emitter.writer
    parts = emitter.sharing.parts_of(shape[0]) if prod(shape) >= WORTH_COPYING else []
    if len(parts) <= 1:
        writer.emit(code, np.copyto, (out, x))
        return
    codes: list[Code] = []
    for part in parts:
        codes.append([])
        args = placement.must_view(out, take(part)), placement.must_view(x, take(part))
        writer.emit(codes[-1], np.copyto, args)
    writer.emit_threads(code, codes)


def emit_convolution(emitter: Emitter, node: Node, code: Code) -> bool:
    """Append a convolution or an adjoint, which shares its strips among the threads that the program may use."""
    args = put_in(node.args, emitter.placement.array)
    function = partial(node.function, threads=emitter.sharing.threads)
    emitter.writer.emit(code, kernels.store, (emitter.placement.target(node.out), function, args, {}))
    return True


def emit_unstack(emitter: Emitter, node: Node, code: Code) -> bool:
    """Place the parts of an array as views of it, or append copies of them."""
    placement, x = emitter.placement, node.args[0]
    for v, key in zip(node.outs, part_keys(node), strict=True):
        if v in placement.aliases.views:
            placement.put(v, placement.must_view(placement.array(x), take(key)))
        else:
            out = placement.target(v)
            emit_copy(emitter, out, placement.must_view(placement.array(x), take(key)), v.shape, code)
    return True


def emit_stack(emitter: Emitter, node: Node, code: Code) -> bool:
    """Append a copy of each array to its place in the stacked one."""
    placement, v = emitter.placement, node.out
    if any(x.dtype != v.dtype for x in node.args[0]):
        return False
    out, before = placement.target(v), (slice(None),) * (node.kwargs.get("axis", 0) % len(v.shape))
    for i, x in enumerate(node.args[0]):
        emit_copy(emitter, placement.must_view(out, take((*before, i, ...))), placement.array(x), x.shape, code)
    return True


def emit_concat(emitter: Emitter, node: Node, code: Code) -> bool:
    """Append a concatenation."""
    arrays = put_in(node.args[0], emitter.placement.array)
    out = emitter.placement.target(node.out)
    emitter.writer.emit(code, _concatenate, (arrays, node.kwargs.get("axis", 0), out))
    return True


def emit_index_write(emitter: Emitter, node: Node, code: Code) -> bool:
    """Append a write to, or an addition at, an index of a copy of an array; of the array itself if it dies here."""
    placement, writer = emitter.placement, emitter.writer
    (x, key, value), v, adds = node.args, node.out, node.op == "index_add"
    in_place = v not in placement and isinstance(x, Value) and placement.dies(x)
    # The operand is looked up first, as the result may take over its buffer: then there is nothing to copy.
    source = placement.array(x)
    out = placement.target(v, x if in_place else None)
    if out is not source:
        writer.emit(code, np.copyto, (out, source))
    part = placement.array(value) if isinstance(value, Value) else value
    # An index of slices and numbers gives a view, to which a ufunc writes.
    if is_plain_key(key):
        spot = placement.must_view(out, lambda a: a[(*key, ...)])
        if adds:
            writer.emit(code, np.add, (spot, part, spot))
        else:
            writer.emit(code, np.copyto, (spot, part))
        return True
    # Rows that several nodes add to are looked up once; any other index is left to NumPy.
    numbers = emitter.row_numbers.find(node, placement, writer)
    if numbers is not None:
        writer.emit(code, add_rows, (out, numbers, part))
    else:
        writer.emit(code, _add_at if adds else _set_at, (out, put_in(key, placement.array), part))
    return True


def reshape_to(shape: tuple[int, ...]) -> Callable[[Any], Any]:
    """Return the function that gives an array a shape."""
    return lambda x: x.reshape(shape)


def take(key: Any) -> Callable[[Any], Any]:
    """Return the function that takes the part of an array at an index."""
    return lambda x: x[key]


def _concatenate(arrays: Any, axis: Any, out: Array) -> None:
    np.concatenate(arrays, axis, out)


def _set_at(out: Array, key: Any, value: Any) -> None:
    out[key] = value


def _add_at(out: Array, key: Any, value: Any) -> None:
    if any(type(i) is np.ndarray and i.dtype != np.bool for i in key):
        add_at(out, key, value)
    else:
        out[key] += value
