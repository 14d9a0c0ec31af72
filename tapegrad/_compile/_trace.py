"""An array library that records: arrays that hold a value and are known in a program.

All of the engine runs on it as on any other library, rules and walk too; what it calls, in order, is the program. The
values are computed at once by the library below, so that the call being captured is an eager call as well.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any
from weakref import ref

from tapegrad._compile._program import Node, Value
from tapegrad._cuts import inside, user_line
from tapegrad._namespace import CaptureError, backend_of, capturing, find_backend
from tapegrad._tensor import Tensor
from tapegrad.backends import Array, Backend

# Functions whose result has a shape that depends on values.
_DATA_DEPENDENT = {
    "argwhere",
    "nonzero",
    "unique_all",
    "unique_counts",
    "unique_inverse",
    "unique_values",
    "unique",
}

_VIEWS = ("T", "matrix_transpose", "index_get")


class Graph:
    """The program that is being recorded.

    nodes: so far; handed: all arrays that were handed out, held weakly; held: the raw arrays from outside that no
    Tensor holds, each with a copy of what it was, which are read again at each call; foreign: values in memory that
    others may write to; values: the contents of all results, for `debug` only.
    """

    def __init__(self, debug: bool = False) -> None:
        self.nodes: list[Node] = []
        self.handed: list[ref[Traced]] = []
        self.held: dict[Value, tuple[Array, Array]] = {}
        self.foreign: set[Value] = set()
        self.values: dict[Value, Array] | None = {} if debug else None

    def traced(self, value: Value, raw: Array) -> Traced:
        """Return an array of this library for a value of the program and its contents."""
        x: Traced = object.__new__(_traced_type(type(raw)))
        x.value = value
        x.raw = raw
        self.handed.append(ref(x))
        return x

    def input(self, raw: Array) -> Traced:
        """Return an array that the program is to get at each call."""
        return self.traced(Value(tuple(raw.shape), raw.dtype), raw)

    def constant(self, raw: Array) -> Traced:
        """Return an array that stays what it is now."""
        return self.traced(Value(tuple(raw.shape), raw.dtype, constant=raw), raw)

    def lift(self, array: Any) -> Any:
        """Return a raw array as one of this library; others as they are."""
        if isinstance(array, Traced) or not _is_array(array):
            return array
        backend = backend_of[type(array)]
        if backend.as_scalar(array) is not None:
            return self.constant(backend.as_array(array))
        x = self.input(array)
        self.foreign.add(x.value)
        self.held[x.value] = array, backend.copy(array)
        return x

    def check_known(self, *arrays: Array) -> None:
        """Raise CaptureError if one of the arrays is of the library below: nobody knew that it would be used."""
        if not all(isinstance(a, Traced) for a in arrays):
            raise stranger()

    def backend(self, backend: Backend) -> Backend:
        """Return the recording adapter for a library."""
        return backend if isinstance(backend, TraceBackend) else _trace_backend(backend)

    def call(
        self, op: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], effect: bool = False
    ) -> Any:
        """Compute and record `function(*args, **kwargs)`; what gives no array is only computed."""
        result = function(*_lower(args), **{k: _lower(v) for k, v in kwargs.items()})
        if effect or _is_array(result):
            node = Node(op, function, _refer(args), {k: _refer(v) for k, v in kwargs.items()}, user_line(), effect)
            self.nodes.append(node)
            return None if effect else self._out(node, result)
        if isinstance(result, (tuple, list)) and result and all(map(_is_array, result)):
            node = Node(op, function, _refer(args), {k: _refer(v) for k, v in kwargs.items()}, user_line())
            node.many = True
            self.nodes.append(node)
            outs: list[Any] = [self._out(node, r) for r in result]
            return type(result)(*outs) if hasattr(result, "_fields") else type(result)(outs)
        return result

    def _out(self, node: Node, raw: Array) -> Traced:
        raw = backend_of[type(raw)].as_array(raw)
        value = Value(tuple(raw.shape), raw.dtype, node)
        node.outs = (*node.outs, value)
        if self.values is not None:
            self.values[value] = raw
        if node.op in _VIEWS and self.foreign and not self.foreign.isdisjoint(node.values()):
            self.foreign.add(value)
        return self.traced(value, raw)


active: ContextVar[Graph | None] = capturing


def _graph() -> Graph:
    graph = active.get()
    if graph is None:
        raise RuntimeError("an array from inside a compiled function was used outside: return it from the function")
    return graph


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype") and find_backend(x) is not None


def _lower(x: Any) -> Any:
    if isinstance(x, Traced):
        return x.raw
    if type(x) is tuple or type(x) is list:
        return type(x)([_lower(i) for i in x])
    return x


def _refer(x: Any) -> Any:
    if isinstance(x, Traced):
        return x.value
    if type(x) is tuple or type(x) is list:
        return type(x)([_refer(i) for i in x])
    if _is_array(x):
        if backend_of[type(x)].as_scalar(x) is None:
            raise stranger()  # all that is known has been lifted
        return Value((), x.dtype, constant=x)
    return x


def stranger() -> CaptureError:
    """Return the error for a Tensor that turned up in the second call only."""
    return CaptureError(
        f"at {user_line()} a Tensor is used that the call before did not use: pass what changes from call to call as "
        "an argument, and keep state in the same Tensors, updated in place"
    )


def _value_needed(what: str) -> CaptureError:
    return CaptureError(
        f"{what} at {user_line()} needs the value of an array, which a compiled function does not know: choose with "
        "tapegrad.where, pass what is fixed as a Python value (it is static), or leave it outside the function"
    )


class Traced:
    """An array of the recording library: `raw`, its contents in this call, and `value`, what stands for it."""

    __slots__ = ("__weakref__", "raw", "value")

    raw: Array
    value: Value
    __array_ufunc__ = None  # NumPy leaves its operators to us

    shape = property(lambda x: x.raw.shape)
    dtype = property(lambda x: x.raw.dtype)
    ndim = property(lambda x: len(x.raw.shape))
    device = property(lambda x: getattr(x.raw, "device", None))
    T = property(lambda x: _graph().call("T", operator.attrgetter("T"), (x,), {}))
    mT = property(lambda x: _graph().call("matrix_transpose", _namespace_of(x).matrix_transpose, (x,), {}))

    @property
    def size(self) -> int:
        return self.value.size

    def __getitem__(self, key: Any) -> Any:
        keys = key if isinstance(key, tuple) else (key,)
        _check_key(keys)
        return _graph().call("index_get", operator.getitem, (self, keys), {})

    def __setitem__(self, key: Any, value: Any) -> None:
        raise _written_to()

    def __bool__(self) -> bool:
        raise _value_needed("a condition")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise _value_needed("a conversion to a NumPy array")

    def item(self) -> Any:
        """Raise: the value is another at each call."""
        raise _value_needed("item()")

    def __float__(self) -> float:
        raise _value_needed("float()")

    def __int__(self) -> int:
        raise _value_needed("int()")

    def __index__(self) -> int:
        raise _value_needed("an index")

    def __complex__(self) -> complex:
        raise _value_needed("complex()")

    def __len__(self) -> int:
        return int(self.raw.shape[0])

    def __repr__(self) -> str:
        return f"<traced {self.raw!r}>"


def _written_to() -> CaptureError:
    return CaptureError(
        f"at {user_line()} a raw array is updated in place, which replay cannot do: pass a Tensor instead, or make a "
        "new array, as in x = x + y"
    )


def _namespace_of(x: Traced) -> Any:
    return backend_of[type(x.raw)].xp


def _check_key(key: tuple[Any, ...]) -> None:
    if any(hasattr(i, "shape") and _is_bool(i) for i in key):
        raise _shape_needed("x[mask]", "tapegrad.where(mask, x, 0)")


def _is_bool(i: Any) -> bool:
    return "bool" in str(i.dtype)


def _shape_needed(what: str, instead: str = "") -> CaptureError:
    return CaptureError(
        f"{what} at {user_line()} has a result whose shape depends on values, which a compiled function does not know: "
        + (f"use {instead}, or " if instead else "")
        + "leave it outside the function"
    )


def _operator(op: str, function: Callable[..., Any]) -> tuple[Any, Any, Any]:
    def forward(x: Traced, other: Any) -> Any:
        if isinstance(other, Tensor):
            return NotImplemented
        return _graph().call(op, function, (x, other), {})

    def reflected(x: Traced, other: Any) -> Any:
        return _graph().call(op, function, (other, x), {})

    def in_place(x: Traced, other: Any) -> Any:
        if not inside(sys._getframe(1)):
            raise _written_to()
        return forward(x, other)

    return forward, reflected, in_place


def _one(op: str, function: Callable[..., Any]) -> Any:
    return lambda x: _graph().call(op, function, (x,), {})


for _symbol, _op in {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "pow",
    "matmul": "matmul",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "bitwise_left_shift",
    "rshift": "bitwise_right_shift",
}.items():
    _forward, _reflected, _updating = _operator(
        _op, getattr(operator, _symbol + "_" if _symbol in ("and", "or") else _symbol)
    )
    setattr(Traced, f"__{_symbol}__", _forward)
    setattr(Traced, f"__r{_symbol}__", _reflected)
    setattr(Traced, f"__i{_symbol}__", _updating)
for _symbol, _op in {
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
}.items():
    setattr(Traced, f"__{_symbol}__", _operator(_op, getattr(operator, _symbol))[0])
for _symbol, _op in {"neg": "negative", "pos": "positive", "abs": "abs", "invert": "bitwise_invert"}.items():
    setattr(Traced, f"__{_symbol}__", _one(_op, getattr(operator, _symbol)))


class TraceNamespace:
    """A library's namespace whose functions record what they compute."""

    def __init__(self, base: Any, prefix: str = "") -> None:
        self._base, self._prefix = base, prefix

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._base, name)
        made: Any = value
        if name in _DATA_DEPENDENT:
            made = partial(_refuse_shape, name)
        elif name == "repeat":
            made = partial(_repeat, value)
        elif callable(value) and not isinstance(value, type):
            made = partial(_call, self._prefix + name, value)
        elif hasattr(value, "erf") or hasattr(value, "solve") or hasattr(value, "fft"):
            made = TraceNamespace(value, f"{self._prefix}{name}.")
        self.__dict__[name] = made
        return made


def _call(op: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return _graph().call(op, function, args, kwargs)


def _refuse_shape(name: str, *args: Any, **kwargs: Any) -> Any:
    raise _shape_needed(name)


def _repeat(function: Callable[..., Any], x: Any, repeats: Any, /, **kwargs: Any) -> Any:
    if isinstance(repeats, Traced) and repeats.shape:
        raise _shape_needed("repeat")
    return _graph().call("repeat", function, (x, repeats), kwargs)


def _refuse_if(condition: Any, error: Callable[[], Exception]) -> None:
    if condition:
        raise error()


class TraceBackend(Backend):
    """The recording adapter in front of a library's."""

    mutable = False

    def __init__(self, base: Backend) -> None:
        self.base = base
        self.name, self.prefix, self.dtype_hint = base.name, base.prefix, base.dtype_hint
        self.dtype_names = base.dtype_names
        xp: Any = TraceNamespace(base.xp)
        xp.index_get = self.index_get
        for op in ("index_set", "index_add"):
            write = partial(_write, base, getattr(base.xp, op))
            setattr(xp, op, partial(_call, op, write))
        self.xp = xp

    def native_dtype(self, name: str) -> Any:
        return self.base.native_dtype(name)

    def has_dtype(self, name: str, device: Any) -> bool:
        return self.base.has_dtype(name, device)

    def native_device(self, text: str) -> Any:
        return self.base.native_device(text)

    def devices(self) -> list[str]:
        return self.base.devices()

    def full_name(self, device: Any) -> str:
        return self.base.full_name(device)

    def device_string(self, array: Array) -> str:
        return self.base.device_string(array.raw)

    def as_scalar(self, operand: Any) -> Any:
        return None

    def to_host(self, array: Array) -> Any:
        raise _value_needed("reading a value")

    def peek(self, array: Array) -> Any:
        return self.base.to_host(array.raw)

    def from_host(self, array: Any, device: Any) -> Array:
        return _graph().constant(self.base.from_host(array, device))

    def move(self, array: Array, device: Any) -> Array:
        return _graph().call("to_device", self.base.move, (array, device), {})

    def copy(self, array: Array) -> Array:
        graph = _graph()
        return graph.call("copy", self.base.copy, (array,), {}) if array.value in graph.foreign else array

    def export(self, array: Array) -> Array:
        raise _value_needed("the array below")

    def copied_dlpack(self, array: Array, **options: Any) -> Any:
        raise _value_needed("DLPack export")

    def readonly_dlpack(self, array: Array, stream: Any) -> Any:
        raise _value_needed("DLPack export")

    def races(self, array: Array) -> bool:
        return self.base.races(array.raw)

    def refuse(self, condition: Array, error: Callable[[], Exception]) -> None:
        _graph().call("refuse", _refuse_if, (condition, error), {}, effect=True)

    def index_get(self, array: Array, key: tuple[Any, ...]) -> Array:
        _check_key(key)
        return _graph().call("index_get", self.base.xp.index_get, (array, key), {})


def _write(base: Backend, write: Callable[..., Any], array: Array, key: tuple[Any, ...], value: Array) -> Array:
    return write(base.copy(array), key, value)


_types: dict[type, type] = {}
_backends: dict[Backend, TraceBackend] = {}


def _traced_type(array_type: type) -> type:
    """Return the type of traced arrays over a library's type, known to the engine as an array type."""
    traced = _types.get(array_type)
    if traced is None:
        traced = type(f"Traced_{array_type.__name__}", (Traced,), {"__slots__": ()})
        backend_of[traced] = _trace_backend(backend_of[array_type])
        traced = _types.setdefault(array_type, traced)
    return traced


def _trace_backend(base: Backend) -> TraceBackend:
    found = _backends.get(base)
    return _backends.setdefault(base, TraceBackend(base)) if found is None else found
