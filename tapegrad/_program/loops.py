"""The contract of a loop in a program, which ends when values say so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tapegrad._program.ir import Node, Program, Value

Round = Callable[[Any], Sequence[Any]]  # from an array to the next one, the largest change and the largest element


class Criterion(Protocol):
    """A stopping criterion: no element changes by more than `scale` times the largest one, or 1.

    Called with a round and an array, it iterates until it holds, and returns the last array.
    """

    @property
    def name(self) -> str:
        """The function that iterates, for messages."""

    @property
    def scale(self) -> float:
        """The tolerance."""

    @property
    def limit(self) -> int:
        """The largest number of rounds."""

    def __call__(self, step: Round, x: Any, /) -> Any:
        """Iterate from an array; raise the error of the criterion if the limit is reached."""

    def error(self, change: float, /) -> Exception:
        """Return the error of an iteration that did not converge; change: that of its last round."""


class LoopNode(Protocol):
    """The first argument of a node "loop": the criterion, and one round as a program.

    Attributes
    ----------
    until : Criterion
        The criterion that ends the loop.
    state : Value
        The array that a round starts from.
    nodes : list of Node
        The calls of a round.
    outs : list of Value
        The results of a round: the next state, the largest change and the largest element.
    program : Program
        The program of a round. Its inputs are the state and the values from outside, its outputs are `outs`.
    """

    until: Criterion
    state: Value
    nodes: list[Node]
    outs: list[Value]

    @property
    def program(self) -> Program[Node]:
        """The program of one round."""
