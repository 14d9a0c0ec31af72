"""Which Tensors a function can reach: what its code names, and from there through objects and containers.

Those that it does not use do no harm, and those that are not found are seen when they are used: a search that stops
early costs a call more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import partial
from itertools import islice
from types import BuiltinFunctionType, CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

from tapegrad._namespace import backend_of
from tapegrad._tensor import Tensor

LIMIT = 10_000  # objects that are looked at
_PLAIN = frozenset((int, float, complex, bool, str, bytes, type(None), type, range, slice, BuiltinFunctionType))
_OURS = ("tapegrad.", "tapegrad")


def reachable(roots: Iterable[Any]) -> list[Tensor]:
    """Return Tensors that objects can reach, near ones first; no code of the user's is run."""
    todo = deque(roots)
    seen: dict[int, Any] = {}  # they are held, so that the numbers stay theirs
    tensors: list[Tensor] = []
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
        elif kind not in backend_of:
            todo.extend(islice(_parts(x, kind), left))
    return tensors


def _parts(x: Any, kind: type) -> Iterable[Any]:
    """Go through what an object holds, by its own means and none that a class may have changed."""
    if kind is FunctionType:
        yield from _parts_of_function(x)
    elif kind is MethodType:
        yield from (x.__func__, x.__self__)
    elif kind is property or issubclass(kind, (type, ModuleType)):
        return
    elif issubclass(kind, partial):
        yield from (x.func, *x.args, *x.keywords.values())
    elif issubclass(kind, dict):
        yield from list(dict.values(x))
    elif issubclass(kind, (list, tuple, set, frozenset, deque)):
        base = next(c for c in (list, tuple, set, frozenset, deque) if issubclass(kind, c))
        yield from list(base.__iter__(x))
    if kind not in _CONTAINERS:
        yield from _attributes(x, kind)


_CONTAINERS = frozenset((dict, list, tuple, set, frozenset, deque, MethodType))


def _attributes(x: Any, kind: type) -> Iterable[Any]:
    try:
        own = object.__getattribute__(x, "__dict__")
    except AttributeError:
        own = {}
    if type(own) is dict:
        # Of a compiled function, only the function: its programs hold Tensors that it may not use any more.
        yield from [own["__wrapped__"]] if kind.__module__.startswith(_OURS) and "__wrapped__" in own else own.values()
    for cls in kind.__mro__:
        if "__slots__" in vars(cls):
            for member in list(vars(cls).values()):
                if type(member) is MemberDescriptorType:
                    try:
                        yield member.__get__(x, kind)
                    except AttributeError:
                        continue


def _parts_of_function(f: FunctionType) -> Iterable[Any]:
    """Go through what a function's code can name: its closure, defaults, and globals."""
    for cell in f.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    yield from f.__defaults__ or ()
    yield from (f.__kwdefaults__ or {}).values()
    if not f.__module__ or not f.__module__.startswith(_OURS):
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
    """Go through what names stand for in a module; in modules among these, what attributes the code names."""
    for name in names & space.keys():
        x = space[name]
        if isinstance(x, ModuleType):
            if not x.__name__.startswith(_OURS) and vars(x) is not space:
                yield from _named(vars(x), inside - {name}, inside - {name})
        else:
            yield x
