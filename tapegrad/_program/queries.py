"""Questions about nodes that the executors of several libraries ask."""

from __future__ import annotations

from typing import Any

from tapegrad._program.ir import Node, Value


def reduction_axes(node: Node) -> tuple[int, ...]:
    """Return the axes that a reduction reduces, counted from the start."""
    axis, ndim = node.kwargs.get("axis"), len(node.args[0].shape)
    axes = range(ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return tuple(i % ndim for i in axes) if ndim else ()


def is_total(node: Node) -> bool:
    """Say whether a node is a reduction over the rows."""
    return node.kind == "reduction" and 0 in reduction_axes(node)


def constant_of(v: Value) -> Any:
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
