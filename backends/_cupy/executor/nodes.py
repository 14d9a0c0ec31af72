"""Classification of nodes: the way in which the executor computes each that is no generated kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

from tapegrad._program.ir import Node, Value
from tapegrad._program.op_kinds import is_plain_key
from tapegrad.backends._array import Array
from tapegrad.backends._cupy.cublas import can_multiply


@runtime_checkable
class WritesInto(Protocol):
    """A function of a node that can write its results into arrays it is given, of any strides."""

    def into(self, outs: list[Array], *arrays: Array) -> None:
        """Compute the results of some arrays into others."""


@runtime_checkable
class WritesCopy(Protocol):
    """A function of a node that writes to a copy of its first argument; in_place writes to the argument itself."""

    in_place: Callable[..., Array]


class Gather(NamedTuple):
    """Items of an array, taken along an axis by one array of integers."""

    array: Value
    indices: Value
    axis: int


def is_view(node: Node) -> bool:
    """Say whether a node's results lie in the memory of its first argument."""
    # An unstack gives several views, which no kernel of the program computes.
    return node.kind == "view" or node.op == "unstack"


def is_constant(node: Node) -> bool:
    """Say whether a node gives the same at each call."""
    return not node.effect and not node.reads


def is_product(node: Node) -> bool:
    """Say whether a node is a matrix product that cuBLAS computes."""
    if node.op != "matmul":
        return False
    # cuBLAS does not promote, and has no call for empty operands.
    (a, b), dtype = node.args, node.out.dtype
    return bool(can_multiply(dtype) and a.dtype == b.dtype == dtype and a.size and b.size)


def is_transpose(node: Node) -> bool:
    """Say whether a node exchanges the last two axes."""
    return node.op == "matrix_transpose" or (node.op == "T" and len(node.out.shape) == 2)


def is_concatenation(node: Node) -> bool:
    """Say whether a node puts its operands side by side."""
    if node.op == "concat":
        return node.kwargs.get("axis", 0) is not None and bool(node.out.size)
    return node.op in ("stack", "rows")


def pieces_of(node: Node) -> list[Value]:
    """Return the operands that a node puts one after the other in memory; none if it does something else."""
    # Along the first axis only: along others the operands alternate in memory.
    if not is_concatenation(node) or node.kwargs.get("axis", 0) % len(node.out.shape):
        return []
    return list(node.args[0]) if all(isinstance(v, Value) for v in node.args[0]) else []


def is_write(node: Node) -> bool:
    """Say whether a node writes or adds to a part of an array that slices and numbers select."""
    return node.op in ("index_set", "index_add") and is_plain_key(node.args[1])


def is_whole_write(node: Node) -> bool:
    """Say whether a node writes a value to all elements of an array."""
    if node.op != "index_set":
        return False
    x, key, value = node.args
    # The value broadcasts to the array, not the other way round.
    whole = all(i is Ellipsis or (type(i) is slice and i == slice(None)) for i in key)
    return whole and isinstance(value, Value) and isinstance(x, Value) and len(value.shape) <= len(x.shape)


def gather_of(node: Node) -> Gather | None:
    """Return the gather that a node is: `take`, or an index whose only array holds integers and comes first."""
    # Other dtypes are masks, whose true elements would have to be counted.
    array, indices, axis = _gathered(node) or (None, None, 0)
    if not isinstance(array, Value) or not isinstance(indices, Value):
        return None
    return Gather(array, indices, axis) if getattr(indices.dtype, "kind", "") in "iu" else None


def _gathered(node: Node) -> tuple[Any, Any, int] | None:
    if node.op == "take":
        return *node.args[:2], node.kwargs.get("axis", 0) % max(len(node.args[0].shape), 1)
    if node.op == "index_get":
        first, *rest = node.args[1]
        whole = all(i is Ellipsis or (isinstance(i, slice) and i == slice(None)) for i in rest)
        return (node.args[0], first, 0) if whole else None
    return None
