"""What a call of a program moves and computes: bytes read and written, and floating-point operations."""

from __future__ import annotations

from collections.abc import Iterable
from math import isqrt
from typing import Any

from tapegrad import backends
from tapegrad._engine.dtypes import DTYPES, DType, as_dtype
from tapegrad._program.ir import Node, Value

_VIEWS = {
    "T",
    "matrix_transpose",
    "permute_dims",
    "moveaxis",
    "reshape",
    "expand_dims",
    "squeeze",
    "broadcast_to",
    "unstack",
}
_MOVES = _VIEWS | {
    "index_get",
    "index_set",
    "take",
    "take_along_axis",
    "concat",
    "stack",
    "flip",
    "roll",
    "repeat",
    "tile",
    "tril",
    "triu",
    "astype",
    "asarray",
    "to_device",
    "zeros",
    "zeros_like",
    "ones",
    "ones_like",
    "empty",
    "empty_like",
    "full",
    "full_like",
    "eye",
    "arange",
    "linspace",
    "meshgrid",
    "broadcast_arrays",
    "real",
    "imag",
    "where",
    "linalg.diagonal",
    "refuse",
}
_REDUCTIONS = {
    "sum",
    "mean",
    "max",
    "min",
    "prod",
    "var",
    "std",
    "any",
    "all",
    "argmax",
    "argmin",
    "count_nonzero",
    "cumulative_sum",
    "cumulative_prod",
    "linalg.vector_norm",
    "linalg.trace",
}
_PRODUCTS = {"matmul", "tensordot", "vecdot", "linalg.outer"}
_ATTENTION = {"attention": (1, 1), "attention_gradient": (4, 3)}  # products over elements of queries, and of values
_UNKNOWN = {"as_one", "isin", "loop", "argsort", "searchsorted", "sort"}


def dtype_of(v: Value) -> DType:
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
    return sum(v.size * dtype_of(v).itemsize for v in dict.fromkeys(values))


def is_view(node: Node) -> bool:
    """Say whether a call usually moves nothing: its result is the same memory, seen otherwise."""
    if node.op == "index_get":
        return not any(hasattr(i, "shape") for i in node.args[1])
    return node.op in _VIEWS


def flops_of(node: Node) -> int | None:
    """Return the floating-point operations of a call, None where they are not known (sorting, decompositions).

    A product of matrices (n, k) and (k, m) has 2 n k m; an elementwise function, however dear, one for each element of
    its result; a reduction one for each of its operand; what only moves elements has none.
    """
    if node.op in _MOVES:
        return 0
    operands = list(node.values())
    if node.op in _PRODUCTS and len(operands) == 2:
        return 2 * _products(node, *operands)
    if node.op in _REDUCTIONS:
        return operands[0].size
    if node.op in _ATTENTION:
        (*_, queries, size), keys, depth = node.args[0].shape, node.args[1].shape[-1], node.args[2].shape[-1]
        of_size, of_depth = _ATTENTION[node.op]
        count = node.outs[0].size // (queries * node.outs[0].shape[-1])
        return int(2 * count * queries * keys * (of_size * size + of_depth * depth))
    if node.op == "index_add":
        return operands[-1].size
    if node.op in _UNKNOWN or node.op.startswith(("linalg.", "fft.")):
        return None
    return sum(v.size for v in node.outs) if operands else 0


def _products(node: Node, a: Value, b: Value) -> int:
    """Return how many pairs of elements a call multiplies."""
    if node.op == "vecdot":
        k: int = a.shape[node.kwargs.get("axis", -1)]
        return node.out.size * k
    if node.op == "matmul":
        return node.out.size * a.shape[-1]
    return isqrt(a.size * b.size * node.out.size)  # each axis is in two of the three


def total(numbers: Iterable[Any]) -> Any:
    """Return the sum of those that are known."""
    return sum(n for n in numbers if n is not None)
