"""Trees: nested containers, flattened to a list of leaves and rebuilt from new leaves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache, cached_property, partial
from types import BuiltinFunctionType, FunctionType, MemberDescriptorType, MethodType
from typing import Any

import numpy as np

from tapegrad._engine.dtypes import DType

Rebuild = Callable[[list[Any]], Any]


def flatten(tree: Any) -> tuple[list[Any], Rebuild]:
    """Return the leaves of dicts, lists, tuples, named tuples and dataclasses, and a function that rebuilds the tree.

    None is an empty container. A dataclass field is not a leaf and keeps its value if it has metadata {"static": True},
    or its value is an integer, a string, a function or a container of such. So is a function in a list. The function
    returned takes a list of as many leaves.

    >>> from tapegrad._engine.tree import flatten
    >>> leaves, rebuild = flatten({"w": 1.0, "b": (2.0, None)})
    >>> leaves, rebuild([10, 20])
    ([1.0, 2.0], {'w': 10, 'b': (20, None)})
    """
    leaves: list[Any] = []
    rebuild = _flatten(tree, leaves)
    return leaves, lambda new: rebuild(list(reversed(new)))


def _flatten(tree: Any, leaves: list[Any]) -> Rebuild:
    """Append the leaves; return a function that pops new leaves off the end of a list.

    The function does not keep the tree alive.
    """
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
        make = kind._make  # the class may have a __new__ with other arguments
    elif isinstance(tree, list):
        items = [_kept(v) if is_function(v) else _flatten(v, leaves) for v in tree]
        make = kind
    elif isinstance(tree, tuple):
        items = [_flatten(v, leaves) for v in tree]
        make = kind
    elif is_dataclass(tree) and not isinstance(tree, type):
        names = leaf_fields(tree)
        items = [_flatten(getattr(tree, n), leaves) for n in names]
        make = _maker(tree, names)
    else:
        leaves.append(tree)
        return lambda new: new.pop()
    return lambda new: make([item(new) for item in items])


def _kept(value: Any) -> Rebuild:
    return lambda new: value


def leaf_fields(tree: Any) -> list[str]:
    """Return the names of a dataclass's fields that hold leaves, without unset fields.

    The fields of a layer, a class with the mark LAYER, are all attributes of the object.
    """
    kind: Any = type(tree)
    layer = is_layer(kind)
    names = _own_names(tree) if layer else [n for n in _fields(kind)[0] if hasattr(tree, n)]
    return [n for n in names if not _is_static(getattr(tree, n), layer)]


def static_fields(tree: Any) -> list[str]:
    """Return the names of a dataclass's static fields."""
    kind: Any = type(tree)
    layer = is_layer(kind)
    names = _own_names(tree) if layer else [n for n in _fields(kind)[0] if hasattr(tree, n)]
    return [n for n in _fields(kind)[1] if hasattr(tree, n)] + [n for n in names if _is_static(getattr(tree, n), layer)]


LAYER = "_is_layer"  # the class attribute of layers
# The class attribute of our own objects whose attributes a compiled function looks at: the names of those that stay.
UNGUARDED = "_unguarded"


def is_layer(kind: type) -> bool:
    """Return whether a class is one of layers, which `tapegrad.nn.layer` makes."""
    return getattr(kind, LAYER, False) is True


def _own_names(tree: Any) -> list[str]:
    """Return the attributes of a layer that are not marked as static, without cached ones."""
    kind: Any = type(tree)
    marked = _fields(kind)[1]
    return [n for n in vars(tree) if n not in marked and not isinstance(getattr(kind, n, None), cached_property)]


_FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodType, partial, np.ufunc, type)
_STATIC = (int, str, bytes, Enum, DType, np.integer, np.bool_)


def is_function(value: Any) -> bool:
    """Return whether a value is a function, which holds nothing to differentiate by."""
    return isinstance(value, _FUNCTIONS)


def _is_static(value: Any, layer: bool) -> bool:
    """Return whether a field's value is no leaf: an integer, text, a function; in a layer also a float."""
    if isinstance(value, (*_STATIC, *_FUNCTIONS)) or (layer and isinstance(value, (float, complex))):
        return True
    if isinstance(value, (list, tuple, dict)) and value and not hasattr(value, "shape"):
        parts = value.values() if isinstance(value, dict) else value
        return all([v is None or _is_static(v, layer) for v in parts]) and any([v is not None for v in parts])
    return False


@cache
def _fields(kind: Any) -> tuple[list[str], list[str]]:
    return tuple([f.name for f in fields(kind) if bool(f.metadata.get("static")) is s] for s in (False, True))  # type: ignore[return-value]


def _maker(tree: Any, names: list[str]) -> Callable[[list[Any]], Any]:
    """Return a function that makes a dataclass like this one with new values for some fields.

    It does not call the class, whose checks a gradient need not pass, and which may lack an argument for a field. The
    exception is an object that keeps an array outside of its fields: its class must compute that array again.
    """
    kind: Any = type(tree)
    static = {n: getattr(tree, n) for n in static_fields(tree)}
    if is_layer(kind):
        order = [n for n in vars(tree) if n in static or n in names]
        return lambda values: _set(
            object.__new__(kind), {n: (static | dict(zip(names, values, strict=True)))[n] for n in order}
        )
    others = {n: v for n, v in _attributes(tree).items() if n not in static and n not in names}
    others = {n: v for n, v in others.items() if not isinstance(getattr(kind, n, None), cached_property)}
    arrays = {n: v for n, v in others.items() if _holds_arrays(v)}
    kept = {n: v for n, v in others.items() if n not in arrays} | static
    if not arrays:
        return lambda values: _set(object.__new__(kind), kept | dict(zip(names, values, strict=True)))
    given = {f.name for f in fields(tree) if f.init}
    elsewhere = list(arrays)

    def constructed(values: list[Any]) -> Any:
        new = kept | dict(zip(names, values, strict=True))
        try:
            made = kind(**{n: v for n, v in new.items() if n in given})
        except Exception as error:
            raise _outside_of_fields(kind, elsewhere, f"it cannot be made of its fields again ({error})") from error
        missing = [n for n in elsewhere if n not in _attributes(made)]
        if missing:
            raise _outside_of_fields(kind, missing, "its class does not make that of the fields")
        return _set(made, {n: v for n, v in new.items() if n not in given})

    own = {n: getattr(tree, n) for n in names}
    if all([type(x) is np.ndarray for x in flatten([own, arrays])[0] if hasattr(x, "shape")]):  # which can be compared
        again = _attributes(constructed(list(own.values())))
        other = [n for n, v in arrays.items() if not _same(v, again[n])]
        if other:
            raise _outside_of_fields(kind, other, "its class does not make it of the fields")
    return constructed


def _holds_arrays(x: Any) -> bool:
    return any([hasattr(leaf, "shape") for leaf in flatten(x)[0]])


def _attributes(x: Any) -> dict[str, Any]:
    """Return the attributes that an object has itself, those in slots too."""
    found = dict(getattr(x, "__dict__", {}))
    for base in type(x).__mro__:
        for n, member in vars(base).items():
            if type(member) is MemberDescriptorType and hasattr(x, n):
                found[n] = getattr(x, n)
    return found


def _same(x: Any, y: Any) -> bool:
    """Return whether two trees have the same arrays."""
    xs, ys = flatten(x)[0], flatten(y)[0]
    same = [
        np.array_equal(a, b, equal_nan=a.dtype.kind in "fc") for a, b in zip(xs, ys, strict=False) if _is_array(a, b)
    ]
    return len(xs) == len(ys) and all(same)


def _is_array(*xs: Any) -> bool:
    return all([type(x) is np.ndarray for x in xs])


def _outside_of_fields(kind: type, names: list[str], why: str) -> TypeError:
    """Return the error for arrays that would be lost, or constants, without a word."""
    return TypeError(
        f"{kind.__name__}: the attribute {', '.join(names)} holds an array, but is no field, and {why}: make it a "
        "field of the dataclass, with field(init=False) if it is no argument, and metadata={'static': True} if it is a "
        "constant"
    )


def _set(made: Any, values: dict[str, Any]) -> Any:
    for n, v in values.items():
        object.__setattr__(made, n, v)  # also if it is frozen
    return made
