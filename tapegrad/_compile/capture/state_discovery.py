"""State discovery: a search for the Tensors that a function can reach.

Tensors that it does not use do no harm, and those that are not found are seen when they are used: a search that stops
early costs a call more.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable
from functools import partial
from itertools import islice
from types import BuiltinFunctionType, CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

from tapegrad._engine.dispatch import backend_of
from tapegrad._engine.tensor import Tensor

LIMIT = 5_000  # objects that are looked at
_PLAIN = frozenset((int, float, complex, bool, str, bytes, type(None), range, slice, property))
# Modules whose functions name no Tensors, but for those in their closures.
_KNOWN = sys.stdlib_module_names | {"numpy", "tapegrad"}


def reachable(roots: Iterable[Any], others: tuple[type, ...] = ()) -> tuple[list[Tensor], list[Any]]:
    """Return Tensors that objects can reach, near ones first, and objects of other types.

    No code of the user's is run.
    """
    todo = deque(roots)
    seen: dict[int, Any] = {}  # they are held, so that the numbers stay theirs
    tensors: list[Tensor] = []
    found: list[Any] = []
    left = LIMIT
    while todo and left > 0:
        x = todo.popleft()
        left -= 1
        kind = type(x)
        if kind in _PLAIN or id(x) in seen:
            continue
        seen[id(x)] = x
        if kind is Tensor:
            tensors.append(x)
        elif kind in others:
            found.append(x)
        elif kind not in backend_of:
            todo.extend(islice(_items_of(x, kind), left))
    return tensors, found


def _items_of(x: Any, kind: type) -> Iterable[Any]:
    """Go through the parts of an object, by its own means and none that a class may have changed."""
    if kind is FunctionType:
        yield from _parts_of_function(x)
    elif kind is MethodType:
        yield from (x.__func__, x.__self__)
    elif kind is BuiltinFunctionType:
        yield x.__self__
        return
    elif issubclass(kind, ModuleType):
        return
    elif issubclass(kind, type):
        yield from [] if _is_known(x.__module__) else [f for f in list(vars(x).values()) if type(f) is FunctionType]
        return
    elif issubclass(kind, partial):
        yield from (x.func, *x.args, *x.keywords.values())
    elif issubclass(kind, dict):
        yield from list(dict.values(x))
    elif issubclass(kind, (list, tuple, set, frozenset, deque)):
        base = next(c for c in (list, tuple, set, frozenset, deque) if issubclass(kind, c))
        yield from list(islice(base.__iter__(x), LIMIT))
    if kind not in _CONTAINERS:
        yield from _attributes(x, kind)


_CONTAINERS = frozenset((dict, list, tuple, set, frozenset, deque, MethodType))


def _attributes(x: Any, kind: type) -> Iterable[Any]:
    try:
        own = object.__getattribute__(x, "__dict__")
    except AttributeError:
        own = {}
    if _root(kind.__module__) == "tapegrad" and "__wrapped__" in own:
        yield own["__wrapped__"]  # of a compiled function: its programs hold Tensors that it may not use any more
        return
    if type(own) is dict:
        yield from list(own.values())
    for cls in kind.__mro__:
        yield cls
        if "__slots__" in vars(cls):
            for member in list(vars(cls).values()):
                if type(member) is MemberDescriptorType:
                    try:
                        yield member.__get__(x, kind)
                    except AttributeError:
                        continue


def _root(module: Any) -> str:
    return str(module).partition(".")[0]


def _is_known(module: Any) -> bool:
    return _root(module) in _KNOWN


def _parts_of_function(f: FunctionType) -> Iterable[Any]:
    """Go through all that a function's code can name: its closure, defaults, and globals."""
    for cell in f.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    yield from f.__defaults__ or ()
    yield from (f.__kwdefaults__ or {}).values()
    if not _is_known(f.__module__):
        names = _names(f.__code__)
        yield from _named(f.__globals__, names, names)


def _names(code: CodeType) -> set[str]:
    """Return the names of globals and attributes in code, and in that of functions inside it."""
    names = set(code.co_names)
    for inner in code.co_consts:
        if type(inner) is CodeType:
            names |= _names(inner)
    return names


def _named(space: dict[str, Any], names: set[str], inside: set[str]) -> Iterable[Any]:
    """Go through the objects of names in a module; of modules among these, the attributes that the code names."""
    for name in names & space.keys():
        x = space[name]
        if isinstance(x, ModuleType):
            if vars(x) is not space and _root(x.__name__) != "tapegrad":
                yield from _named(vars(x), inside - {name}, inside - {name})
        else:
            yield x
