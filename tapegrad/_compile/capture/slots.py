"""Slots: the Tensors that a program reads or replaces, with the roles by which each call finds them."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple, final
from weakref import WeakValueDictionary

from tapegrad._engine.record import LEAF
from tapegrad._engine.tensor import Hooks, Tensor
from tapegrad._program.ir import Value


@final
class Slot:
    """A Tensor whose value a program reads, or replaces: an argument, or state.

    At another call it is known by any of these: tensor, the same one, in a `StateBox`; arguments, its numbers among the
    leaves; owners, the slots whose `.grad` it was at the start. before, after: its values.
    """

    __slots__ = ("after", "arguments", "before", "owners", "tensor")

    def __init__(self, tensor: Tensor, before: Value) -> None:
        self.tensor: Any = tensor
        self.arguments: tuple[int, ...] = ()
        self.owners: tuple[Slot, ...] = ()
        self.before = self.after = before


@final
class StateBox:
    """A box for a Tensor that programs use as state; they share it, so that together they are one holder."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def count(self) -> int:
        """Return how often the Tensor is held."""
        return sys.getrefcount(self.tensor)


ALONE = StateBox(object.__new__(Tensor)).count()  # a Tensor that nobody else holds


_states: WeakValueDictionary[int, StateBox] = WeakValueDictionary()


def state_of(x: Tensor) -> StateBox:
    """Return the box of a Tensor."""
    box = _states.get(id(x))
    if box is None or box.tensor is not x:
        box = _states[id(x)] = StateBox(x)
    return box


class NewTensor(NamedTuple):
    """A new Tensor that a call leaves behind; tracked: whether it was recorded (and its tape released)."""

    value: Value
    tracked: bool


class SlotGuard(NamedTuple):
    """A guard of a Tensor that a program reads or replaces: it must be like this at each call.

    grad: the slot of its gradient, None if it had none; record: see `record_kind`; shape, dtype, type: of its array.
    """

    slot: Slot
    grad: Slot | None
    record: Any
    shape: tuple[int, ...]
    dtype: Any
    type: type


def record_kind(record: Any) -> Any:
    """Return the part of a Tensor's record that must stay the same: None, whether it is a leaf's, or its hooks."""
    if record is None:
        return None
    if type(record.tensor) is Hooks:
        return tuple(record.tensor.functions)
    return record.op is LEAF
