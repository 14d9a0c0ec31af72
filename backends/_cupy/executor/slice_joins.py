"""Recognition of concatenations that are written as additions of slices to zeros, as gradients of slices are.

1. Look for a chain of `index_add`, the first of which adds to zeros, and each of whose results only the next one reads.
2. Note which slice of one axis each node adds to; give up for any other index.
3. If the slices, in order, are the whole axis without overlap, one concatenation takes the place of the chain.

Before:  a = index_add(zeros, [0:2], x);  b = index_add(a, [2:5], y), of 5 rows
After:   b = concat([x, y], axis=0)

The sum of zero and a number is that number (except for the sign of zero), so that nothing need be added.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard

import cupy

from tapegrad._program.ir import Item, Node, Program, Value


class Span(NamedTuple):
    """The slice of one axis that a value is added to."""

    axis: int
    start: int
    stop: int
    value: Value


def joins_of(program: Program, number: Callable[[Value], Any]) -> dict[Item, Node | None]:
    """Return the node in place of the last one of each chain, and None in place of the others.

    number: the Python number that a value is everywhere, or None.
    """
    # A result with one reader may be left out, if that reader is the next of the chain.
    readers: dict[Value, list[Item | None]] = {v: [None] for v in program.outputs}  # None: a reader outside
    for item in program.items:
        for v in item.values():
            readers.setdefault(v, []).append(item)
    found: dict[Item, Node | None] = {}
    for first in program.items:
        if first in found or not _adds(first) or number(first.args[0]) != 0:
            continue
        # Extend the chain as long as its last result is read by one addition, as the array that is added to.
        chain = [first]
        while True:
            after = readers.get(chain[-1].out, [])
            if len(after) != 1 or not _adds(after[0]) or after[0].args[0] is not chain[-1].out:
                break
            chain.append(after[0])
        join = _joined(chain)
        if join is not None:
            found.update(dict.fromkeys(chain[:-1]))
            found[chain[-1]] = join
    return found


def _adds(item: Item | None) -> TypeGuard[Node]:
    return isinstance(item, Node) and item.op == "index_add"


def _joined(chain: list[Node]) -> Node | None:
    """Return the concatenation that a chain computes; None if its slices overlap, or leave something out."""
    last = chain[-1]
    spans = sorted([span for n in chain if (span := _span(n, last.out)) is not None], key=lambda s: s[:3])
    if len(spans) < len(chain) or len({span.axis for span in spans}) > 1:
        return None
    # Sorted slices are the whole axis if each begins where the one before it ends.
    axis, edges = spans[0].axis, [0, *[span.stop for span in spans]]
    if [span.start for span in spans] != edges[:-1] or edges[-1] != last.out.shape[axis]:
        return None
    values = [span.value for span in spans]
    join = Node("concat", cupy.concatenate, (values,), {"axis": axis}, last.line)
    join.outs = last.outs
    return join


def _span(node: Node, out: Value) -> Span | None:
    """Return the slice that a node adds to; None if that is no slice of one axis, or the value has another dtype."""
    _, key, value = node.args
    # An index in full: one slice for each axis.
    if Ellipsis in key:
        at = key.index(Ellipsis)
        key = (*key[:at], *[slice(None)] * (len(out.shape) - len(key) + 1), *key[at + 1 :])
    if not isinstance(value, Value) or value.dtype != out.dtype or not all(isinstance(i, slice) for i in key):
        return None
    bounds = [s.indices(n) for s, n in zip(key, out.shape, strict=False)]
    bounds += [(0, n, 1) for n in out.shape[len(key) :]]
    # Exactly one axis may be cut, by a slice of step one, and the value must not broadcast.
    parts = [axis for axis, (bound, n) in enumerate(zip(bounds, out.shape, strict=True)) if bound != (0, n, 1)]
    if len(parts) != 1 or bounds[parts[0]][2] != 1:
        return None
    start, stop, _ = bounds[parts[0]]
    shape = tuple(stop - start if axis == parts[0] else n for axis, n in enumerate(out.shape))
    return Span(parts[0], start, stop, value) if start < stop and value.shape == shape else None
