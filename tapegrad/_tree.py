"""Nested containers: flatten to a list of leaves, and rebuild the same structure from new ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

Rebuild = Callable[[list[Any]], Any]


def flatten(tree: Any) -> tuple[list[Any], Rebuild]:
    """Return the leaves of dicts, lists, tuples, named tuples and dataclasses, and the way back.

    None is an empty container. The way back takes a list of as many leaves.

    >>> from tapegrad._tree import flatten
    >>> leaves, rebuild = flatten({"w": 1.0, "b": (2.0, None)})
    >>> leaves, rebuild([10, 20])
    ([1.0, 2.0], {'w': 10, 'b': (20, None)})
    """
    leaves: list[Any] = []
    rebuild = _flatten(tree, leaves)
    return leaves, lambda new: rebuild(list(reversed(new)))


def _flatten(tree: Any, leaves: list[Any]) -> Rebuild:
    """Append the leaves; return a function that pops new ones off the end of a list, and does not hold the tree."""
    if tree is None:
        return lambda new: None
    kind: Any = type(tree)
    if isinstance(tree, dict):
        keys = list(tree)
        items = [_flatten(tree[k], leaves) for k in keys]
        new_dict = partial(kind, tree.default_factory) if isinstance(tree, defaultdict) else kind
        make: Callable[[list[Any]], Any] = lambda values: new_dict(zip(keys, values, strict=True))  # noqa: E731
    elif isinstance(tree, tuple) and hasattr(tree, "_fields"):
        items = [_flatten(v, leaves) for v in tree]
        make = lambda values: kind(*values)  # noqa: E731
    elif isinstance(tree, (list, tuple)):
        items = [_flatten(v, leaves) for v in tree]
        make = kind
    elif is_dataclass(tree) and not isinstance(tree, type):
        names = [f.name for f in fields(tree)]
        items = [_flatten(getattr(tree, n), leaves) for n in names]
        make = lambda values: kind(**dict(zip(names, values, strict=True)))  # noqa: E731
    else:
        leaves.append(tree)
        return lambda new: new.pop()
    return lambda new: make([item(new) for item in items])
