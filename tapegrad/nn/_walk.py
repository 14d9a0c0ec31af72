"""The walk through a model: every Tensor that it holds, with the names of the ways to it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence, ValuesView
from dataclasses import is_dataclass
from fnmatch import fnmatchcase
from functools import partial
from types import MemberDescriptorType, ModuleType
from typing import Any, NamedTuple

from tapegrad._engine.dispatch import backend_of
from tapegrad._engine.tensor import Tensor
from tapegrad._engine.tree import is_function, static_fields

_PLAIN = frozenset((int, float, complex, bool, str, bytes, type(None), range, slice))
_SYSTEM = sys.stdlib_module_names | {"numpy"}


class Found(NamedTuple):
    """A Tensor of a model: its dotted name, and whether a static field holds it, so that it is no parameter."""

    name: str
    tensor: Tensor
    static: bool


def settled(model: Any) -> Any:
    """Return a model that can be looked at again: a list in place of an iterator or of a view of a dict."""
    return list(model) if isinstance(model, (Iterator, ValuesView)) else model


def found(model: Any) -> list[Found]:
    """Return the Tensors of a model, each once, in the order of attributes and items."""
    seen: dict[int, Any] = {}
    todo: list[tuple[Any, str, bool]] = [(settled(model), "", False)]
    tensors: list[Found] = []
    while todo:
        x, name, static = todo.pop()
        if type(x) in _PLAIN or type(x) in backend_of or id(x) in seen:
            continue
        seen[id(x)] = x
        if type(x) is Tensor:
            tensors.append(Found(name, x, static))
        else:
            todo += reversed(list(_inside(x, name, static)))
    return tensors


def every_name(model: Any) -> list[Found]:
    """Return the Tensors of a tree of containers and dataclasses by all their names, shared ones by several.

    Other objects are looked at once.
    """
    objects: dict[int, Any] = {}
    tensors: list[Found] = []

    def visit(x: Any, name: str, static: bool, above: tuple[int, ...]) -> None:
        if type(x) is Tensor:
            tensors.append(Found(name, x, static))
        elif type(x) not in _PLAIN and type(x) not in backend_of and id(x) not in above and id(x) not in objects:
            if not isinstance(x, (Mapping, Sequence)) and not is_dataclass(x):
                objects[id(x)] = x
            for value, inner, constant in _inside(x, name, static):
                visit(value, inner, constant, (*above, id(x)))

    visit(model, "", False, ())
    return tensors


def _inside(x: Any, name: str, static: bool) -> Iterator[tuple[Any, str, bool]]:
    constant = frozenset(static_fields(x)) if is_dataclass(x) and not isinstance(x, type) else ()
    for key, value in parts(x):
        yield value, f"{name}.{key}" if name else key, static or key in constant


def parts(x: Any) -> Iterator[tuple[str, Any]]:
    """Go through the parts of a container or object, by name."""
    if isinstance(x, Mapping):
        yield from ((str(key), value) for key, value in list(x.items()))
    elif isinstance(x, tuple) and hasattr(x, "_fields"):
        yield from zip(x._fields, x, strict=True)
    elif isinstance(x, Sequence) and not isinstance(x, (str, bytes)):
        yield from ((str(i), value) for i, value in enumerate(x))
    elif isinstance(x, partial):
        yield from (("func", x.func), ("args", x.args), ("keywords", x.keywords))
    elif isinstance(x, (type, ModuleType)) or type(x).__module__.partition(".")[0] in _SYSTEM:
        return
    elif callable(getattr(x, "__wrapped__", None)):  # a transform of a layer, as by tapegrad.checkpoint
        yield from parts(x.__wrapped__)
    else:
        yield from list(getattr(x, "__dict__", {}).items())
        for base in reversed(type(x).__mro__):
            for key, member in list(vars(base).items()):
                if type(member) is MemberDescriptorType and hasattr(x, key):
                    yield key, getattr(x, key)


def matches(pattern: str, name: str) -> bool:
    """Return whether a name fits a pattern with `*`; one that begins with "*." fits a name without a dot, too."""
    return fnmatchcase(name, pattern) or fnmatchcase("." + name, pattern)


def matching(what: str, patterns: Sequence[str] | str, names: Sequence[str]) -> set[str]:
    """Return the names that fit one of the patterns; ValueError for a pattern that none fits."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"{what}: a pattern is a string such as '*.weight', not {type(pattern).__name__}")
        if not any([matches(pattern, name) for name in names]):
            raise ValueError(f"{what}: no name fits the pattern {pattern!r}: the names are {listed(names)}")
    return {name for name in names if any([matches(p, name) for p in patterns])}


def listed(names: Sequence[str] | set[str], most: int = 8) -> str:
    """Return names as text, with the number of those that are left out."""
    shown = [repr(name) for name in list(names)[:most]]
    return ", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "") if shown else "none"


def objects(model: Any) -> list[tuple[str, Any]]:
    """Return the callable objects of a model, itself first, by name; without functions."""
    seen: dict[int, Any] = {}
    todo: list[tuple[Any, str]] = [(model, "")]
    callables: list[tuple[str, Any]] = []
    while todo:
        x, name = todo.pop()
        if type(x) in _PLAIN or type(x) in backend_of or type(x) is Tensor or id(x) in seen:
            continue
        seen[id(x)] = x
        if not name or (callable(x) and not is_function(x)):
            callables.append((name, x))
        todo += reversed([(value, f"{name}.{key}" if name else key) for key, value in parts(x)])
    return callables
