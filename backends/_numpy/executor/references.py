"""References: arrays that are other objects from call to call, such as inputs, outputs or views of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tapegrad._program.ir import Value

NDArray = np.ndarray[Any, Any]
View = Callable[[Any], Any]  # from an array to a view of it

LONG = 1000  # items of a list that is taken for data, not searched for references


class Ref:
    """An array that changes from call to call: a root, or a view of one.

    root: the input or output; parent: the reference that this is a view of, None for a root; function: the view;
    array: the array of the present call.
    """

    __slots__ = ("array", "function", "parent", "root")

    def __init__(self, root: Value, parent: Ref | None = None, function: View | None = None) -> None:
        self.root, self.parent = root, parent
        self.function: Any = function
        # Between calls the executor sets it. While planning it is an array laid out alike, which tells views from
        # copies.
        self.array: Any = None


Operand = NDArray | Ref


def roots_of(args: Any) -> Iterator[Value]:
    """Go through the roots of the references among nested arguments of a call."""
    for x in args:
        kind = type(x)
        if kind is Ref:
            yield x.root
        elif kind is tuple or (kind is list and not _is_data(x)):
            yield from roots_of(x)
        elif kind is dict:
            yield from roots_of(x.values())


def _is_data(x: list[Any]) -> bool:
    """Say whether a list among arguments is long, or is the code of a thread: neither holds references."""
    return len(x) >= LONG or (len(x) > 0 and type(x[0]) is tuple)


def actual(args: Any) -> Any:
    """Return nested arguments with the present arrays in the places of references."""
    kind = type(args)
    if kind is Ref:
        return args.array
    if kind is tuple:
        return tuple([actual(x) for x in args])
    if kind is list:
        return [actual(x) for x in args]
    if kind is dict:
        return {k: actual(v) for k, v in args.items()}
    return args
