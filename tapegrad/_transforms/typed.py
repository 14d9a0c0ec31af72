"""Types of the functions that transforms return, for type checkers.

They are plain functions when the program runs. A class of its own, not a Callable, lets a checker infer a
lambda also where its result goes to a place for any callable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from tapegrad._engine.tensor import Tensor
from tapegrad._program.ir import Node, Program, Value

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


class ProgramView(Protocol):
    """The program of a compiled function, as `compiled.program` shows it; `str` of it is its table.

    Attributes
    ----------
    program : Program
        The program as its executor runs it.
    nodes : list of Node
        The calls, in order.
    items : list
        The entries of the table: a call, or several fused ones.
    outputs : list of Value
        The values that stay: new state, gradients and results.
    seconds : list of float or None
        The time of each item, once profiled.
    how : str
        The way in which the program is run, in words.
    """

    program: Program
    items: list[Any]
    seconds: list[float] | None

    @property
    def nodes(self) -> list[Node]:
        """The calls, in order."""

    @property
    def outputs(self) -> list[Value]:
        """The values that stay."""

    @property
    def how(self) -> str:
        """The way in which the program is run."""

    def __len__(self) -> int:
        """Return the number of operations."""

    def table(self, names: Mapping[str, Tensor] | None = None) -> str:
        """Return the program as a table, one line an operation; names: of state."""

    def profile(self, *args: Any, repeats: int = 5, **kwargs: Any) -> ProgramView:
        """Time each item on the arguments of a call, and return this view, which then shows the times."""

    def to_dot(self, names: Mapping[str, Tensor] | None = None) -> str:
        """Return the program in Graphviz's DOT language."""

    def to_mermaid(self, names: Mapping[str, Tensor] | None = None) -> str:
        """Return the program as a Mermaid flowchart."""


class CompiledFunction(Transformed[P, R_co]):
    """A compiled function, which has a program: see `Compiled`."""

    function: Any
    program: ProgramView
    threads: int | None
    # For tests.
    _keys: Any
    _last: Any
    _pending: Any
    _programs: Any
    _replayed: Any
    _watched: Any
