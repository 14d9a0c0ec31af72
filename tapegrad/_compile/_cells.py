"""What programs know Tensors by, from call to call, and what a captured call is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple, final
from weakref import WeakValueDictionary

from tapegrad._compile._program import Value
from tapegrad._compile._trace import Graph
from tapegrad._record import LEAF
from tapegrad._tensor import Hooks, Tensor
from tapegrad._tree import Rebuild

if TYPE_CHECKING:
    from tapegrad._compile._guards import Guards


@final
class Cell:
    """A Tensor whose value a program reads, or replaces: an argument, or state.

    What it is known by at another call, all that hold: tensor, the same one, in a `State`; arguments, its numbers among
    the leaves; owners, the cells whose `.grad` it was at the start. before, after: its values.
    """

    __slots__ = ("after", "arguments", "before", "owners", "tensor")

    def __init__(self, tensor: Tensor, before: Value) -> None:
        self.tensor: Any = tensor
        self.arguments: tuple[int, ...] = ()
        self.owners: tuple[Cell, ...] = ()
        self.before = self.after = before


@final
class State:
    """A box for a Tensor that programs use as state; they share it, so that together they are one holder."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def count(self) -> int:
        """Return how often the Tensor is held."""
        return sys.getrefcount(self.tensor)


ALONE = State(object.__new__(Tensor)).count()  # a Tensor that nobody else holds


_states: WeakValueDictionary[int, State] = WeakValueDictionary()


def state_of(x: Tensor) -> State:
    """Return the box of a Tensor."""
    box = _states.get(id(x))
    if box is None or box.tensor is not x:
        box = _states[id(x)] = State(x)
    return box


class Fresh(NamedTuple):
    """A new Tensor that a call leaves behind; tracked: whether it was recorded (and its tape released)."""

    value: Value
    tracked: bool


class Capture(NamedTuple):
    """A captured call.

    cells: all Tensors used or updated; raw: the values of the argument leaves that are raw arrays; grads: (cell, what
    its `.grad` becomes: a Cell, Fresh or None), where that changes; outputs: leaves of the result (a Cell, Fresh, a
    Value for a raw array, or a constant), which `rebuild` puts together; guards: what cells must be like at a call;
    found: what else was found outside.
    """

    graph: Graph
    cells: list[Cell]
    raw: dict[int, Value]
    grads: list[tuple[Cell, Any]]
    outputs: list[Any]
    rebuild: Rebuild
    guards: list[tuple[Cell, Cell | None, Any, Any, Any, type]]
    found: Guards


def kind_of(record: Any) -> Any:
    """Return what must be the same of a Tensor's record: None, whether it is a leaf's, or its hooks."""
    if record is None:
        return None
    if type(record.tensor) is Hooks:
        return tuple(record.tensor.functions)
    return record.op is LEAF
