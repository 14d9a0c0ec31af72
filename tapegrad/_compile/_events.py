"""What a call does, as its Tensors see it: enough to tell whether two calls did the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple
from weakref import ref

from tapegrad._compile._program import Value
from tapegrad._compile._trace import Traced, stranger
from tapegrad._cuts import user_line
from tapegrad._namespace import CaptureError
from tapegrad._record import LEAF, RELEASED, Operation
from tapegrad._tensor import Tensor, host, wrap


class Outside(NamedTuple):
    """An operand that no operation of the call made: the array it held, or its value in a traced call.

    tensor: the Tensor that came from outside with this array, None for one that was made inside by something that is no
    operation, such as tapegrad.zeros.
    """

    tensor: Tensor | None
    array: Any


class Made(NamedTuple):
    """An operand that an operation of the call made: the number of that event."""

    event: int


class Event(NamedTuple):
    """One operation: its operands (Made, Outside, or a constant), its static arguments and its line."""

    operation: Operation
    operands: tuple[Any, ...]
    static: tuple[Any, ...]
    line: str


class Events:
    """The operations of one call, noted as they come; it is told of them as an open Tape is.

    inputs: in a traced call the values that the Tensors from outside start with; then all Tensors are to hold traced
    arrays, so that one that does not is a stranger.
    """

    def __init__(self, inputs: dict[Value, Tensor] | None = None) -> None:
        self.list: list[Event] = []
        self.outside: dict[int, Tensor] = {}
        self._made: dict[int, tuple[int, ref[Tensor]]] = {}
        self._inputs = inputs
        self._owners: dict[int, tuple[Tensor, Any]] = {}  # the identity of an array -> the Tensor that came with it

    def know(self, x: Tensor) -> None:
        """Note a Tensor from outside: others that hold its array, as `detach` makes them, stand for it."""
        self._owners[id(x._array)] = x, x._array

    def __call__(self, operation: Operation, operands: Any, static: Any, result: Any) -> None:
        event = Event(operation, tuple([self._describe(x) for x in operands]), _without_contents(static), user_line())
        n = len(self.list)
        self.list.append(event)
        for y in result if isinstance(result, tuple) else (result,):
            self._made[id(y)] = (n, ref(y))

    def _describe(self, x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        made = self._made.get(id(x))
        if made is not None and made[1]() is x:
            return Made(made[0])
        array = x._array
        if self._inputs is None:
            if id(array) in self._owners:
                x, _ = self._owners[id(array)]
            elif is_recorded(x):  # made inside by a walk that is recorded; else it is a stranger in the next call
                return Outside(None, array)
            else:
                self.know(x)
        else:
            if not isinstance(array, Traced):
                raise recorded_outside(x) if is_recorded(x) else stranger()
            array = array.value
            if array not in self._inputs:
                return Outside(None, array)
            x = self._inputs[array]
        self.outside[id(x)] = x
        return Outside(x, array)

    def survivors(self) -> Iterator[Tensor]:
        """Go through the results that somebody still holds."""
        for _, x in self._made.values():
            tensor = x()
            if tensor is not None:
                yield tensor


class Difference(NamedTuple):
    """How two calls differ; again: whether a third may still agree with the second (state made on the first call)."""

    message: str
    again: bool


def is_recorded(x: Tensor) -> bool:
    """Say whether a Tensor is a result on a tape that can still be walked."""
    return x._record is not None and x._record.op is not LEAF and x._record.saved is not RELEASED


def recorded_outside(x: Tensor) -> CaptureError:
    """Return the error for a Tensor whose tape began outside."""
    assert x._record is not None
    return CaptureError(
        f"a Tensor from outside, a result of {x._record.op.name}, is recorded: a compiled function walks no tape that "
        "began outside; pass it detached, as in x.detach(), or compute it inside"
    )


def difference(before: Events, now: Events, arguments: dict[int, int]) -> Difference | None:
    """Say how two calls differ, None if they do the same.

    arguments: the identity of every Tensor that either call was given -> which argument it was.
    """
    for a, b in zip(before.list, now.list, strict=False):
        if a.operation is not b.operation or len(a.operands) != len(b.operands) or a.line != b.line:
            return Difference(f"{b.operation.name} at {b.line}, where the call before did {_text(a)}", True)
        for x, y in zip(a.operands, b.operands, strict=True):
            why = _operand(x, y, arguments)
            if why is not None:
                return Difference(f"{b.operation.name} at {b.line}: {why}", False)
        if not _same(a.static, b.static):
            return Difference(f"{b.operation.name} at {b.line}: {a.static!r} became {b.static!r}", True)
    if len(before.list) != len(now.list):
        longer = max(before.list, now.list, key=len)[min(len(before.list), len(now.list))]
        return Difference(f"{_text(longer)} is done in only one of the calls", True)
    return None


def _text(event: Event) -> str:
    return f"{event.operation.name} at {event.line}"


_STATE = "keep what changes in a Tensor that is updated in place (x *= ..., x[...] = ...), or pass it as an argument"


def _operand(x: Any, y: Any, arguments: dict[int, int]) -> str | None:
    if isinstance(x, Outside) and isinstance(y, Outside):
        if y.tensor is None:
            if y.array.constant is None and (y.array.node is None or any(True for _ in y.array.node.values())):
                return None  # computed inside, by a walk, or a raw array that was given
            return None if equal(x.array, y.array) else f"a constant made inside is another one in each call: {_STATE}"
        if x.tensor is y.tensor or arguments.get(id(x.tensor), -1) == arguments.get(id(y.tensor), -2):
            return None
        return f"an operand is another Tensor than in the call before: {_STATE}"
    if isinstance(x, (Made, Outside)) or isinstance(y, (Made, Outside)):
        return None if type(x) is type(y) and x == y else f"an operand came from elsewhere in the call before: {_STATE}"
    if _same(x, y):
        return None
    if hasattr(x, "shape") or hasattr(y, "shape"):
        return f"an array that is no Tensor is another one in each call: {_STATE}"
    return f"the number {x} became {y}: {_STATE}"


def _without_contents(static: Any) -> Any:
    """Return static arguments with the values of traced arrays in their places: nobody else may hold those."""
    if isinstance(static, Traced):
        return static.value
    return tuple(map(_without_contents, static)) if type(static) is tuple else static


def _same(x: Any, y: Any) -> bool:
    if isinstance(x, (tuple, list)) and type(x) is type(y) and len(x) == len(y):
        return all(map(_same, x, y))
    if isinstance(y, Value) and y.constant is None and hasattr(x, "shape"):
        return True  # an input, or computed inside
    if hasattr(x, "shape") and hasattr(y, "shape"):
        return equal(x, y)
    if isinstance(x, float) and isinstance(y, float) and math.isnan(x):
        return math.isnan(y)
    try:
        return type(x) is type(y) and bool(x == y)
    except Exception:
        return x is y


def equal(a: Any, b: Any) -> bool:
    """Say whether two raw arrays, or constants of a program, hold the same."""
    a, b = map(_contents, (a, b))
    if a is b:
        return True
    if tuple(a.shape) != tuple(b.shape) or a.dtype != b.dtype:
        return False
    return bool(host(wrap(a)).tobytes() == host(wrap(b)).tobytes())


def _contents(x: Any) -> Any:
    if not isinstance(x, Value):
        return x
    return x.constant if x.node is None else x.node.function(*x.node.args, **x.node.kwargs)
