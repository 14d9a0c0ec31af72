"""The maps that `vjp` and `linearize` return, as objects: copied as they are, pickled as the call that made them."""

from __future__ import annotations

from functools import partial
from typing import Any

from tapegrad._engine.dispatch import backend_of, detached_array
from tapegrad._engine.dtypes import isdtype
from tapegrad._engine.rules import with_operators
from tapegrad._engine.tensor import Tensor, wrap
from tapegrad.ops.dtypes import finfo


class LinearMap:
    """A derivative at one point, as a function.

    apply: a partial function that holds the traced call of `f`. Nothing changes that call later, so that a copy is the
    map itself. A pickle holds the function, the point and the value there; loading it computes the map again.
    """

    def __init__(self, transform: Any, f: Any, apply: partial[Any], **options: Any) -> None:
        self._transform, self._f, self._apply, self._options = transform, f, apply, options

    @property
    def _traced(self) -> Any:
        return self._apply.args[0]

    def __call__(self, *args: Any) -> Any:
        return self._apply(*args)

    def __repr__(self) -> str:
        return f"<linear map: {self._traced.what}>"

    def __copy__(self) -> LinearMap:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> LinearMap:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        traced = self._traced
        if traced.create_graph:
            raise TypeError(
                f"{traced.what}: the map that it returned is part of a tape, which cannot be pickled: pickle the "
                f"function and its arguments, and call tapegrad.{self._transform.__name__} where they are loaded, or "
                "make the map of detached arguments, as in x.detach()"
            )
        primals = traced.arguments([_constant(x) for x in traced.inputs], False)
        return _again, (self._transform, self._f, primals, self._options, [_constant(y) for y in traced.outputs])


def _constant(x: Tensor) -> Tensor:
    return wrap(detached_array(x._array))


def _again(transform: Any, f: Any, primals: list[Any], options: dict[str, Any], values: list[Tensor]) -> Any:
    """Return the map of a pickle; raise RuntimeError unless the function gives the same values as before."""
    made = transform(f, *primals, **options)[1]
    now = [_constant(y) for y in made._traced.outputs]
    if len(now) != len(values) or any(map(_differ, now, values)):
        raise RuntimeError(
            f"{made._traced.what}: computed again to load its map, it gave other values than the first time: "
            "it draws random numbers, or uses values that have changed since. Pass these in as arguments"
        )
    return made


def _differ(x: Tensor, y: Tensor) -> bool:
    a, b = x._array, y._array
    if (x.shape, x.dtype, x.device) != (y.shape, y.dtype, y.device):
        return True
    return x.size > 0 and bool(differ(backend_of[type(a)].xp, a, b))


@with_operators
def differ(xp: Any, a: Any, b: Any) -> Any:
    """Return one boolean: whether values differ by more than half of their digits, relative to the largest one."""
    other = (a != b) & ((a == a) | (b == b))
    if isdtype(a.dtype, ("real floating", "complex floating")):
        other = other & ~(xp.abs(a - b) <= finfo(a.dtype).eps ** 0.5 * xp.max(xp.abs(a)))
    return xp.any(other)
