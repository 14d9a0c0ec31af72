"""Opaque operations: functions that read values, as one operation on Tensors without a tape inside.

The derivative of an opaque operation is an opaque operation, so that a compiled program holds derivatives of any order
as single nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tapegrad._engine.bound import bound
from tapegrad._engine.coercion import as_tensors
from tapegrad._engine.dispatch import namespace_of, on_level
from tapegrad._engine.levels import capturing
from tapegrad._engine.mode import mode, mode_set
from tapegrad._engine.once import once
from tapegrad._engine.primitive import recorded_result
from tapegrad._engine.record import STATIC, Operation
from tapegrad._engine.tensor import Tensor, wrap
from tapegrad._transforms.reverse import TransformCall, is_recorded

Function = Callable[..., Any]


def as_one(function: Function, *operands: Tensor) -> Tensor:
    """Return `function(xp, *arrays)`, recorded as one operation; the function must take batch axes."""
    xs = as_tensors("as_one", *operands)
    arrays = [x._array for x in xs]
    out = namespace_of[type(arrays[0])].as_one(function, *arrays)
    return recorded_result(_operation(len(xs)), xs, (function,), (function, *arrays), out)


@once
def _operation(n: int) -> Operation:
    saves = ("function", *[f"x{i + 1}" for i in range(n)])
    return Operation("as_one", (None,) * n, saves, (STATIC, *range(n)), pull=_pull)


def _pull(walk: Any, r: Any, t: Any, saved: Any) -> None:
    function, *xs = saved
    batch_shape = tuple(t.shape[: len(t.shape) - len(r.shape)])
    if batch_shape:
        xs = [walk.xp.broadcast_to(x, (*batch_shape, *x.shape)) for x in xs]
    for n, p in enumerate(r.parents):
        if walk.wants(p):
            walk.accumulate(p, walk.fit(walk.xp.as_one(Cotangent(function, n), t, *xs), p, r, t))


@dataclass(frozen=True)
class Cotangent:
    """A function from the cotangent of an opaque result to that of operand `n`; on raw arrays or Tensors."""

    function: Function
    n: int

    def __call__(self, xp: Any, t: Any, *xs: Any) -> Any:
        if type(t) is not Tensor:
            with _apart():
                return self(bound.tensor_namespace, *map(wrap, (t, *xs)))._array
        call = TransformCall(
            "as_one", lambda x: self.function(xp, *xs[: self.n], x, *xs[self.n + 1 :]), (xs[self.n],), {}
        )
        return call.pull([t], mode().recording and (call.create_graph or is_recorded(t)))[0]

    def __repr__(self) -> str:
        return f"cotangent {self.n} of {getattr(self.function, '__name__', self.function)}"


@contextmanager
def _apart() -> Iterator[None]:
    """A context in which Tensors are private: no capture, no vmap and no watcher sees them."""
    token = capturing.set(None)
    try:
        with on_level(None), mode_set(unwatched=True):
            yield
    finally:
        capturing.reset(token)
