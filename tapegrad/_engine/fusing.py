"""Fusion of forward functions and rules on raw arrays, for libraries where each call is a kernel launch.

The choice is made when a function is bound to an array type, so that calls of other libraries pay nothing. The tracer
stands on a higher floor and installs itself here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tapegrad._engine.dispatch import backend_of, namespace_of

Function = Callable[..., Any]  # of a namespace, raw arrays and static arguments
_installed: list[Callable[[str, Function], Function]] = []


def install(fuse: Callable[[str, Function], Function]) -> None:
    """Set the maker of fused functions, which is called with a name and a function."""
    _installed[:] = [fuse]


def fused(name: str, function: Function) -> Function:
    """Return a fused version of a function."""
    return _installed[0](name, function)


def bound(name: str, function: Function, kind: type) -> Function:
    """Return a function bound to the namespace of an array type; fused if the library asks for it."""
    if backend_of[kind].fuses:
        function = fused(name, function)
    return partial(function, namespace_of[kind])


class Forwards(dict[type, Function]):
    """A mapping from array type to the forward function of an operation, bound to the type's namespace."""

    def __init__(self, name: str, function: Function, fuses: bool) -> None:
        super().__init__()
        self._name, self._function, self._fuses = name, function, fuses

    def __missing__(self, kind: type) -> Function:
        if self._fuses:
            return self.setdefault(kind, bound(self._name, self._function, kind))
        return self.setdefault(kind, partial(self._function, namespace_of[kind]))
