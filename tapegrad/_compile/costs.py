"""Costs of a call in a program: bytes that are read or written, floating-point operations."""

from __future__ import annotations

from collections.abc import Iterable
from math import isqrt, prod
from typing import Any

import numpy as np

from tapegrad import backends
from tapegrad._engine.dtypes import DTYPES, DType, as_dtype
from tapegrad._program.ir import Node, Value
from tapegrad._program.op_kinds import VIEWS, info_of

# Products of attention over elements of queries, and of values, for each pair of a query and a key. The last two are an
# adapter's own, whose keys have the layout of queries.
_ATTENTION = {"attention": (1, 1), "attention_gradient": (4, 3), "attend": (1, 1), "attend_gradient": (3, 2)}


def dtype_of_value(v: Value) -> DType:
    """Return the dtype of a value."""
    return dtype_like(v.dtype) or as_dtype(v.dtype)


def dtype_like(native: Any) -> DType | None:
    """Return the dtype that a library's own dtype object stands for, None for anything else."""
    known = (pair for b in backends.imported() for pair in b.dtype_names.items())
    return next((DTYPES[name] for d, name in known if _root(d) == _root(native) and d == native), None)


def _root(x: object) -> str:
    return type(x).__module__.partition(".")[0]


def bytes_of(values: Iterable[Value]) -> int:
    """Return how many bytes some values take, each once."""
    return sum(v.size * dtype_of_value(v).itemsize for v in dict.fromkeys(values))


def is_view(node: Node) -> bool:
    """Say whether a call usually moves nothing: its result is the same memory, seen otherwise."""
    if node.op == "index_get":
        return not any(hasattr(i, "shape") for i in node.args[1])
    return node.op in VIEWS or node.op == "unstack"


def flops_of(node: Node) -> int | None:
    """Return the floating-point operations of a call, None where they are not known (sorting, decompositions).

    A product of matrices (n, k) and (k, m) has 2 n k m. An elementwise function, however dear, has one for each element
    of its result. A reduction has one for each element of its operand. A call that only moves elements has none.
    """
    flops = info_of(node.op).flops
    operands = node.values()
    if flops == "none" or not operands:
        return None if flops == "unknown" else 0
    if flops == "product" and len(operands) == 2:
        return 2 * _products(node, *operands)
    if flops == "convolution":
        return _convolution(node)
    if flops == "attention":
        return _attention(node)
    if flops in ("operand", "last operand"):
        return operands[0 if flops == "operand" else -1].size
    return None if flops == "unknown" else sum(v.size for v in node.outs)


def _products(node: Node, a: Value, b: Value) -> int:
    """Return how many pairs of elements a call multiplies."""
    if node.op == "vecdot":
        k: int = a.shape[node.kwargs.get("axis", -1)]
        return node.out.size * k
    if node.op == "matmul":
        return node.out.size * a.shape[-1]
    return isqrt(a.size * b.size * node.out.size)  # each axis is in two of the three


def _convolution(node: Node) -> int:
    """Return the floating-point operations of a convolution or an adjoint: a product for each tap of a place."""
    a, b, out = node.args[0], node.args[1], node.out
    places, weights = {
        "convolution": (out, b),
        "convolution_input": (a, b),
        "convolution_weight": (b, out),
    }[node.op]
    return int(2 * places.size * (weights.size // max(weights.shape[0], 1)))


def _attention(node: Node) -> int:
    """Return the floating-point operations of a node of attention, or of its gradient."""
    if node.op.startswith("attend"):
        queries, keys, values = node.args[1:4] if node.op == "attend_gradient" else node.args[:3]
        number = keys.shape[-2]
        batch = prod(np.broadcast_shapes(queries.shape[:-2], keys.shape[:-2], values.shape[:-2]))
    else:
        queries, keys, values, *_ = node.args
        number = keys.shape[-1]
        batch = node.outs[0].size // (queries.shape[-2] * node.outs[0].shape[-1])
    of_size, of_depth = _ATTENTION[node.op]
    count, size = queries.shape[-2:]
    return int(2 * batch * count * number * (of_size * size + of_depth * values.shape[-1]))


def total(numbers: Iterable[Any]) -> Any:
    """Return the sum of those that are known."""
    return sum(n for n in numbers if n is not None)
