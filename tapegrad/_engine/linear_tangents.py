"""Push-forward through common linear operations: the operation itself, applied to the tangent.

The general way, transposition of the rule, takes 100 us to set up, whatever the size. Axes count from the end, so that
most operations take a tangent with batch axes as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from tapegrad._engine.backward import as_tensors_of
from tapegrad._engine.bound import bound
from tapegrad._engine.dispatch import namespace_of, native_device
from tapegrad._engine.record import Operation, Record
from tapegrad._engine.rules import OPERATIONS

Push = Callable[[Record, dict[Record, Any], bool], Any]
ALL = slice(None)


def _batch_shape(t: Any, p: Record) -> tuple[int, ...]:
    return tuple(t.shape[: len(t.shape) - len(p.shape)])


def _namespace(t: Any, create_graph: bool) -> Any:
    return bound.tensor_namespace if create_graph else namespace_of[type(t)]


def _of_one(apply: Callable[..., Any]) -> Push:
    """Return the push of an operation of one operand by `apply(xp, t, batch_shape, *saved)`."""

    def push(r: Record, tangents: dict[Record, Any], create_graph: bool) -> Any:
        (p,) = r.parents
        t = None if p is None else tangents.get(p)
        if t is None:
            return None
        assert p is not None
        return apply(_namespace(t, create_graph), t, _batch_shape(t, p), *r.saved)

    return push


def _concat(r: Record, tangents: dict[Record, Any], create_graph: bool) -> Any:
    shapes, axis = r.saved
    known = {p: tangents[p] for p in r.parents if p is not None and p in tangents}
    if not known:
        return None
    p, t = next(iter(known.items()))
    xp, batch_shape = _namespace(t, create_graph), _batch_shape(t, p)
    device = t.device if create_graph else native_device(t)
    parts = []
    for parent, shape in zip(r.parents, shapes, strict=True):
        part = None if parent is None else known.get(parent)
        if part is None:
            part = xp.zeros((*batch_shape, *shape), dtype=r.dtype, device=device)
        elif parent.dtype != r.dtype:  # type: ignore[union-attr]
            part = xp.astype(part, r.dtype)
        parts.append(part)
    return xp.concat(parts, axis=axis)


def _matmul(r: Record, tangents: dict[Record, Any], create_graph: bool) -> Any:
    """Push through a product of matrices by the product rule."""
    x1, x2 = as_tensors_of(r) if create_graph else r.saved
    total = None
    for i, p in enumerate(r.parents):
        t = None if p is None else tangents.get(p)
        if t is None:
            continue
        assert p is not None
        xp, batch_shape = _namespace(t, create_graph), _batch_shape(t, p)
        if p.dtype != r.dtype:
            t = xp.astype(t, r.dtype)
        s = _times_all(xp, t, (x2, x1)[i], i, batch_shape, p, r)
        total = s if total is None else total + s
    return total


def _times_all(xp: Any, t: Any, other: Any, i: int, batch_shape: tuple[int, ...], p: Record, r: Record) -> Any:
    """Return the product of `other` with the tangent of the first (i = 0) or second operand."""
    if batch_shape and len(other.shape) == 2 == len(p.shape):  # one large product instead of many small ones
        (rows, columns), n = p.shape, prod(batch_shape)
        if i == 0:
            return xp.reshape(xp.matmul(xp.reshape(t, (n * rows, columns)), other), (*batch_shape, *r.shape))
        last = len(batch_shape) + 1
        beside = xp.reshape(xp.permute_dims(t, (last - 1, *range(last - 1), last)), (rows, n * columns))
        s = xp.reshape(xp.matmul(other, beside), (r.shape[0], *batch_shape, columns))
        return xp.permute_dims(s, (*range(1, last), 0, last))
    if batch_shape and len(p.shape) < len(r.shape):  # keep the operand's axes apart from the batch axes
        t = xp.reshape(t, (*batch_shape, *(1,) * (len(r.shape) - len(p.shape)), *p.shape))
    s = xp.matmul(t, other) if i == 0 else xp.matmul(other, t)
    shape = (*batch_shape, *r.shape)
    return s if tuple(s.shape) == shape else xp.broadcast_to(s, shape)


PUSHES: dict[str, Push] = {
    "getitem": _of_one(lambda xp, t, batch_shape, key: xp.index_get(t, (*(ALL,) * len(batch_shape), *key))),
    "take": _of_one(lambda xp, t, batch_shape, indices, axis: xp.take(t, indices, axis=axis)),
    "reshape": _of_one(lambda xp, t, batch_shape, x_shape, shape: xp.reshape(t, (*batch_shape, *shape))),
    "permute_dims": _of_one(
        lambda xp, t, batch_shape, axes: xp.permute_dims(
            t, (*range(len(batch_shape)), *[len(batch_shape) + i for i in axes])
        )
    ),
    "sum": _of_one(lambda xp, t, batch_shape, x_shape, axis, keepdims: xp.sum(t, axis=axis, keepdims=keepdims)),
    "concat": _concat,
}


def direct(op: Operation) -> Push | None:
    """Return the push of an operation that needs no transposition, or None."""
    if op.name == "matmul" and op.saves == ("x1", "x2"):  # the product of matrices, not that of vectors
        return _matmul
    return PUSHES.get(op.name) if OPERATIONS.get(op.name) is op else None
