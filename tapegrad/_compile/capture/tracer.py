"""Tracers: arrays with contents, each of which stands for a value of the graph that is recorded."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from tapegrad._compile.capture.errors import array_needed, shape_needed, value_needed, written_to
from tapegrad._compile.capture.graph import (
    TYPES,
    Tracer,
    active,
    contents_of,
    for_library,
    graph_now,
    holds_tracer,
    recording_backend,
)
from tapegrad._engine.dispatch import backend_of
from tapegrad._engine.operator_names import BINARY, COMPARISONS, NUMPY_NAMES, UNARY
from tapegrad._engine.source_line import inside
from tapegrad._engine.tensor import Tensor


class TracerArray(Tracer):
    """A tracer as an array: operators, attributes and conversions, each of which is recorded or refused."""

    __slots__ = ()

    base = None
    __class__ = property(lambda x: type(x.raw))  # to isinstance, an array of its library
    ndim = property(lambda x: len(x.raw.shape))
    device = property(lambda x: getattr(x.raw, "device", None))
    T = property(lambda x: graph_now().call("T", operator.attrgetter("T"), (x,), {}))
    mT = property(lambda x: graph_now().call("matrix_transpose", _namespace_of(x).matrix_transpose, (x,), {}))

    @property
    def size(self) -> int:
        return self.value.size

    def __getitem__(self, key: Any) -> Any:
        keys = key if isinstance(key, tuple) else (key,)
        check_key(keys)
        return graph_now().call("index_get", operator.getitem, (self, keys), {})

    def __setitem__(self, key: Any, value: Any) -> None:
        raise written_to()

    def __bool__(self) -> bool:
        return bool(contents_of(self, "a condition"))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if not self.pinned():
            raise value_needed("a conversion to a NumPy array")
        found = backend_of[type(self.raw)].to_host(self.raw)
        return found.copy() if dtype is None else found.astype(dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if any(isinstance(x, Tensor) for x in inputs):
            return NotImplemented
        graph = graph_now()
        if holds_tracer(tuple(kwargs.values())):
            raise written_to()
        if method == "__call__" and not kwargs and ufunc.__name__ in _UFUNCS:
            op, function = _UFUNCS[ufunc.__name__]
            return graph.call(op, function, tuple([graph.lift(x) for x in inputs]), {})
        return getattr(ufunc, method)(*map(for_library, inputs), **kwargs)

    def pinned(self) -> bool:
        """Say whether the contents are those of small arrays from outside alone, which are compared at each call."""
        graph = graph_now()
        return bool(graph.held) and graph.pin(self.value)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute that only arrays of the library have: a method raises when it is called."""
        if name.startswith("__") or not hasattr(type(self), "value") or not hasattr(self.raw, name):
            raise AttributeError(name)
        if callable(getattr(self.raw, name)):
            return partial(_method, self, name)
        return getattr(for_library(self), name)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*map(for_library, args), **{k: for_library(v) for k, v in (kwargs or {}).items()})

    def __dlpack_device__(self) -> Any:
        return self.raw.__dlpack_device__()

    def item(self) -> Any:
        """Raise: the value is another at each call."""
        if not self.pinned():
            raise value_needed("item()")
        return self.raw.item()

    def __float__(self) -> float:
        return float(contents_of(self, "float()"))

    def __int__(self) -> int:
        return int(contents_of(self, "int()"))

    def __index__(self) -> int:
        return operator.index(contents_of(self, "an index"))

    def __complex__(self) -> complex:
        return complex(contents_of(self, "complex()"))

    def __len__(self) -> int:
        return int(self.raw.shape[0])

    def __repr__(self) -> str:
        return f"<tracer {self.raw!r}>"


def _method(x: Tracer, name: str, /, *args: Any, **kwargs: Any) -> Any:
    if holds_tracer(tuple(kwargs.values())):
        raise array_needed()
    return getattr(for_library(x), name)(*map(for_library, args), **kwargs)


def _namespace_of(x: Tracer) -> Any:
    return backend_of[type(x.raw)].xp


def check_key(key: tuple[Any, ...]) -> None:
    """Refuse a key with a mask in it."""
    if any([hasattr(i, "shape") and _is_bool(i) for i in key]):
        graph_now().give_up(lambda: shape_needed("x[mask]", "tapegrad.where(mask, x, 0)"))


def _is_bool(i: Any) -> bool:
    return "bool" in str(i.dtype)


def _operator(op: str, function: Callable[..., Any]) -> tuple[Any, Any, Any]:
    def forward(x: Tracer, other: Any) -> Any:
        if isinstance(other, Tensor):
            return NotImplemented
        return (active.get() or graph_now()).call(op, function, (x, other), {})

    def reflected(x: Tracer, other: Any) -> Any:
        return (active.get() or graph_now()).call(op, function, (other, x), {})

    def in_place(x: Tracer, other: Any) -> Any:
        if not inside(sys._getframe(1)):
            raise written_to()
        return forward(x, other)

    return forward, reflected, in_place


def _unary(op: str, function: Callable[..., Any]) -> Any:
    return lambda x: graph_now().call(op, function, (x,), {})


for _symbol, _op in BINARY.items():
    _forward, _reflected, _updating = _operator(
        _op, getattr(operator, _symbol + "_" if _symbol in ("and", "or") else _symbol)
    )
    setattr(TracerArray, f"__{_symbol}__", _forward)
    setattr(TracerArray, f"__r{_symbol}__", _reflected)
    setattr(TracerArray, f"__i{_symbol}__", _updating)
for _symbol, _op in COMPARISONS.items():
    setattr(TracerArray, f"__{_symbol}__", _operator(_op, getattr(operator, _symbol))[0])
for _symbol, _op in UNARY.items():
    setattr(TracerArray, f"__{_symbol}__", _unary(_op, getattr(operator, _symbol)))


# Operators that NumPy is asked for first: an array of its own is on the left.
_UFUNCS = {
    op: (op, getattr(operator, symbol + "_" * (symbol in ("and", "or"))))
    for symbol, op in {**BINARY, **COMPARISONS}.items()
}
_UFUNCS |= {other: _UFUNCS[op] for other, op in NUMPY_NAMES.items()}


class _TracerType(type):
    """The type of types of tracers, which have the names and bases of the types that they stand for: code may ask."""

    stands_for: type
    __name__ = property(lambda cls: cls.stands_for.__name__)
    __mro__ = property(lambda cls: (cls, *cls.stands_for.__mro__))

    def mro(cls) -> list[type]:
        """Return the bases, real ones while the type is made."""
        made = type.__dict__["__mro__"].__get__(cls)
        return list(cls.__mro__) if made else super().mro()

    def __repr__(cls) -> str:
        return repr(cls.stands_for)


def tracer_type(array_type: type) -> type:
    """Return the type of tracers over a library's type, known to the engine as an array type."""
    made = TYPES.get(array_type)
    if made is None:
        own = {"__slots__": (), "stands_for": array_type, "__qualname__": array_type.__qualname__}
        own["__module__"] = array_type.__module__
        made = _TracerType(f"Tracer_{array_type.__name__}", (TracerArray,), own)
        backend_of[made] = recording_backend(backend_of[array_type])
        made = TYPES.setdefault(array_type, made)
    return made
