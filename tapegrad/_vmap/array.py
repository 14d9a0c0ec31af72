"""Batched arrays: an array library whose arrays look like one example and hold all, for the functions of `vmap`.

A batched array holds a Tensor, `whole`, with the examples along its first axis. The engine runs on batched arrays as on
those of any library, rules and walk included. Each function on them is an operation on Tensors, which a tape outside
records.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, ClassVar, final

from tapegrad._engine.dispatch import backend_of, detached_array, device_of, namespace_of, on_level, outer_record
from tapegrad._engine.levels import mapping
from tapegrad._engine.mode import notify_use
from tapegrad._engine.once import once
from tapegrad._engine.operator_names import BINARY, COMPARISONS, UNARY
from tapegrad._engine.record import Record
from tapegrad._engine.source_line import user_line
from tapegrad._engine.tensor import Tensor, host, wrap
from tapegrad._program.loops import Criterion, Round
from tapegrad.backends import Array, Backend
from tapegrad.ops._keys import full_key
from tapegrad.ops.conversion import to_device
from tapegrad.ops.shaping import broadcast_to, reshape

new = object.__new__


@final
class Level:
    """One call of `vmap` while it runs.

    Attributes
    ----------
    size : int
        The number of examples.
    outer : Level or None
        The enclosing call.
    depth : int
        The number of nested calls, this one included.
    open : bool
        Whether the function is still running.
    """

    __slots__ = ("depth", "open", "outer", "size")

    def __init__(self, size: int, outer: Any) -> None:
        self.size, self.outer, self.open = size, outer, False
        self.depth: int = 1 if outer is None else outer.depth + 1

    def array(self, whole: Tensor, mapped: bool) -> Batched:
        """Return a batched array: along the first axis of `whole` if it is mapped, else `whole` for all examples."""
        x: Batched = new(_type(self.depth, backend_of[type(whole._array)].root))
        x.level, x.whole, x.mapped = self, whole, mapped
        shape = tuple(whole._array.shape)
        x.shape = shape[1:] if mapped else shape
        return x

    def lift(self, x: Tensor) -> Array:
        """Lift a Tensor from outside to a batched array, the same for all examples.

        The array holds a Tensor with the same record, so that the tape outside records its uses.
        """
        if backend_of[type(x._array)].depth >= self.depth:
            return x._array
        notify_use(x)
        return self.array(wrap(x._array, x._record), mapped=False)

    def outside(self, whole: Tensor) -> Array:
        """Return the array of a Tensor of all examples, lifted to the enclosing level if there is one."""
        return whole._array if self.outer is None else self.outer.lift(whole)

    def backend(self, backend: Backend) -> Backend:
        """Return the adapter for batched arrays of this depth over a library."""
        return _backend(self.depth, backend.root)


class Batched:
    """An array of examples; its attributes, such as `shape`, are those of one example."""

    __slots__ = ("level", "mapped", "shape", "whole")
    __array_ufunc__ = None  # NumPy leaves its operators to us
    __hash__ = object.__hash__

    level: Level
    whole: Tensor
    mapped: bool
    shape: tuple[int, ...]

    dtype = property(lambda x: x.whole._array.dtype)
    device = property(lambda x: getattr(x.whole._array, "device", None))
    ndim = property(lambda x: len(x.shape))
    size = property(lambda x: prod(x.shape))
    T = property(lambda x: namespace_of[type(x)].matrix_transpose(x))

    def lined_up(self, ndim: int) -> Tensor:
        """Return the whole, reshaped to broadcast with the wholes of arrays of up to `ndim` axes."""
        missing = ndim - len(self.shape)
        if not self.mapped or missing <= 0:
            return self.whole
        return reshape(self.whole, (self.level.size, *(1,) * missing, *self.shape))

    def spread(self) -> Tensor:
        """Return the whole with a batch axis, even if all examples are the same."""
        if self.mapped:
            return self.whole
        return broadcast_to(self.whole, (self.level.size, *self.shape))

    def __getitem__(self, key: Any) -> Any:
        return namespace_of[type(self)].index_get(self, full_key(wrap(self), key))

    def __len__(self) -> int:
        return self.shape[0]

    def __bool__(self) -> bool:
        raise value_needed("a condition")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise value_needed("a conversion to a NumPy array")

    def __dlpack_device__(self) -> Any:
        raise value_needed("DLPack export")


def _binary_operator(name: str) -> tuple[Any, Any]:
    def forward(x: Batched, other: Any) -> Any:
        return getattr(namespace_of[type(x)], name)(x, other)

    def reflected(x: Batched, other: Any) -> Any:
        return getattr(namespace_of[type(x)], name)(other, x)

    return forward, reflected


def _unary_operator(name: str) -> Any:
    return lambda x: getattr(namespace_of[type(x)], name)(x)


for _symbol, _name in (BINARY | COMPARISONS).items():
    _forward, _reflected = _binary_operator(_name)
    setattr(Batched, f"__{_symbol}__", _forward)
    setattr(Batched, f"__r{_symbol}__", _reflected)
for _symbol, _name in UNARY.items():
    setattr(Batched, f"__{_symbol}__", _unary_operator(_name))


def value_needed(what: str) -> TypeError:
    """Return the error for an operation that needs a single value of a batched array."""
    return TypeError(
        f"{what} at {user_line()} needs the value of an array, which inside vmap differs between examples: choose "
        "with tapegrad.where, or leave it outside the mapped function"
    )


def shape_needed(what: str, instead: str = "") -> TypeError:
    """Return the error for an operation whose result has another shape for each example."""
    return TypeError(
        f"{what} at {user_line()} has a result whose shape depends on values, so that inside vmap it differs between "
        "examples: " + (f"use {instead}, or " if instead else "") + "leave it outside the mapped function"
    )


def leaked() -> RuntimeError:
    """Return the error for a batched array that is used outside of its vmap."""
    return RuntimeError(
        f"at {user_line()} a Tensor from inside a function mapped by vmap is used outside of that call: return it from "
        "the function"
    )


class BatchedBackend(Backend):
    """The adapter for batched arrays of one depth over a library; `root` is the library's adapter."""

    mutable = False
    namespace: ClassVar[Callable[[BatchedBackend], Any]]  # of functions on these arrays: set by `_bind`

    def __init__(self, depth: int, root: Backend) -> None:
        self.depth, self._root = depth, root
        self.name, self.prefix, self.dtype_hint = root.name, root.prefix, root.dtype_hint
        self.dtype_names = root.dtype_names
        for same in ("native_dtype", "has_dtype", "native_device", "devices", "full_name", "philox_dtype"):
            setattr(self, same, getattr(root, same))
        self.xp: Any = type(self).namespace(self)

    @property
    def root(self) -> Backend:
        return self._root

    def made(self, array: Array) -> Array:
        """Return a new array of the library below as a batched array of the running level."""
        level = mapping.get()
        while level is not None and level.depth > self.depth:
            level = level.outer
        if level is None or level.depth < self.depth:
            raise leaked()
        return level.array(wrap(array), mapped=False)

    def device_string(self, array: Array) -> str:
        return device_of(array.whole._array)

    def to_host(self, array: Array) -> Any:
        if array.mapped:
            raise value_needed("reading a value")
        return host(array.whole)

    def peek(self, array: Array) -> Any:
        below = array.whole._array
        return backend_of[type(below)].peek(below)

    def from_host(self, array: Any, device: Any) -> Array:
        return self.made(self.root.from_host(array, device))

    def transfer(self, array: Array, device: str) -> Array:
        return array.level.array(to_device(array.whole, device), array.mapped)

    def export(self, array: Array) -> Array:
        raise value_needed("the array below")

    def copied_dlpack(self, array: Array, **options: Any) -> Any:
        raise value_needed("DLPack export")

    def readonly_dlpack(self, array: Array, stream: Any) -> Any:
        raise value_needed("DLPack export")

    def refuse(self, condition: Array, error: Callable[[], Exception]) -> None:
        some = _any(condition)
        backend_of[type(some)].refuse(some, error)

    def is_symbolic(self, array: Array) -> bool:
        below = array.whole._array
        return backend_of[type(below)].is_symbolic(below)

    def holds(self, condition: Array) -> bool:
        some = _any(condition)
        return backend_of[type(some)].holds(some)

    def synchronize(self, array: Array) -> None:
        below = array.whole._array
        backend_of[type(below)].synchronize(below)

    def loop(self, until: Criterion, step: Round, x: Array) -> Array:
        level = x.level
        if level.size == 0:
            return step(x)[0]
        if not x.mapped and not any([out.mapped for out in step(x)]):

            def below(a: Array) -> list[Array]:
                return [level.outside(out.whole) for out in step(level.array(wrap(a), mapped=False))]

            a = level.outside(x.whole)
            return level.array(wrap(backend_of[type(a)].loop(until, below, a)), mapped=False)

        def all_below(a: Array) -> list[Array]:
            """Take a step in the examples that have not converged, and return their largest change.

            A converged example waits before its last step. At the end all take that step together, so that each ends
            where it would end alone.
            """
            examples = level.array(wrap(a), mapped=True)
            outs = step(examples)
            with on_level(level.outer):
                y, change, size = [level.outside(out.spread()) for out in outs]
                xp = namespace_of[type(change)]
                size = xp.where(size > 1, size, xp.ones_like(size))
                done = xp.isfinite(change) & (change <= until.scale * size)
                stay = done & xp.logical_not(xp.all(done))
                y = xp.where(xp.reshape(stay, (level.size, *(1,) * len(examples.shape))), a, y)
                change = xp.max(xp.where(done, xp.zeros_like(change), change))
                return [y, change, xp.ones_like(change)]

        with on_level(level.outer):
            a = level.outside(x.spread())
        return level.array(wrap(backend_of[type(a)].loop(until, all_below, a)), mapped=True)

    def memory(self, array: Array) -> int | None:
        below = array.whole._array
        return backend_of[type(below)].memory(below)

    def outer_record(self, array: Array) -> Record | None:
        whole = array.whole
        record: Record | None = whole._record or outer_record(whole._array)
        return record

    def detached(self, array: Array) -> Array:
        return array.level.array(wrap(detached_array(array.whole._array)), array.mapped)


def _any(condition: Batched) -> Array:
    below = condition.whole._array
    return namespace_of[type(below)].any(below)


@once
def _backend(depth: int, root: Backend) -> BatchedBackend:
    return BatchedBackend(depth, root)


@once
def _type(depth: int, root: Backend) -> type[Batched]:
    """Return the type of batched arrays of a depth over a library, registered with the engine.

    Each depth has its own type, so that the engine notices operands of different levels.
    """
    kind = type(f"Batched{depth}_{root.name}", (Batched,), {"__slots__": ()})
    backend_of[kind] = _backend(depth, root)
    return kind
