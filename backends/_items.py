"""What executors of several libraries ask of the items of a compiled program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def is_value(x: Any) -> bool:
    """Say whether an argument of a node is a value of the program, which stands for an array."""
    return hasattr(x, "uniform")


def axes_of(node: Any) -> tuple[int, ...]:
    """Return the axes that a reduction reduces, counted from the start."""
    axis, ndim = node.kwargs.get("axis"), len(node.args[0].shape)
    axes = range(ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return tuple(i % ndim for i in axes) if ndim else ()


def is_total(node: Any) -> bool:
    """Say whether a node is a reduction over the rows."""
    return node.kind == "reduction" and 0 in axes_of(node)


def put_in(tree: Any, put: Callable[[Any], Any]) -> Any:
    """Return nested arguments with something else in the place of each value."""
    kind = type(tree)
    if kind is tuple or kind is list:
        return kind([put_in(x, put) for x in tree])
    return put(tree) if is_value(tree) else tree


def constant_of(v: Any) -> Any:
    """Return the Python number that a value is everywhere, None if it is not known to be one."""
    scalar = v if v.uniform is None else v.uniform
    return None if scalar.constant is None or scalar.shape != () else scalar.constant.item()


def is_put_where(array: Any, key: tuple[Any, ...], value: Any) -> bool:
    """Say whether `array[key] = value` writes a value that broadcasts where a mask holds, the key's only array.

    Then it needs not be known how many true ones there are.
    """
    arrays = [i for i in key if hasattr(i, "shape")]
    whole = all(hasattr(i, "shape") or i == slice(None) for i in key)
    if len(arrays) != 1 or not whole or arrays[0].dtype != bool:
        return False
    rest = len(array.shape) - len(arrays[0].shape) - next(n for n, i in enumerate(key) if hasattr(i, "shape"))
    return len(getattr(value, "shape", ())) <= rest
