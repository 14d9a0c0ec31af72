"""Types of the functions that transforms return, for type checkers.

They are plain functions when the program runs. A class of its own, not a Callable, is what lets a checker infer a
lambda also where its result goes to a place for any callable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Transformed(Generic[P, R_co]):
    """A function of the arguments of another one, or a method."""

    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call it."""
        raise NotImplementedError

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Transformed[P, R_co]: ...
    @overload
    def __get__(
        self: Transformed[Concatenate[Any, Q], R], instance: object, owner: type | None = None
    ) -> Callable[Q, R]: ...
    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Bind as a method."""
        raise NotImplementedError


class CompiledFunction(Transformed[P, R_co]):
    """A compiled function, which has a program: see `Compiled`."""

    function: Any
    program: Any
    threads: int | None
    # For tests.
    _keys: Any
    _last: Any
    _pending: Any
    _programs: Any
    _replayed: Any
    _watched: Any
