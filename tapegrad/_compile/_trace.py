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
from typing import Any, ClassVar
from weakref import ref

from tapegrad._compile._program import Node, Value
from tapegrad._compile._refusals import shape_needed, stranger, value_needed, written_to
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

    tentative: whether the call is to come out as an eager one whatever it does: what a program cannot do is then done,
    and the graph is void. nodes: so far; handed: all arrays that were handed out, held weakly; held: the raw arrays
    from outside that no Tensor holds, each with a copy of what it was, which are read again at each call; foreign:
    values in memory that others may write to; apart: raw arrays that the user has as they are, and their values, by
    identity; values: the contents of all results, for `debug` only.
    """

    everywhere: ClassVar[Graph | None] = None  # of a tentative call, for threads that the function starts

    def __init__(self, tentative: bool = False, debug: bool = False) -> None:
        self.tentative, self.void = tentative, False
        self.nodes: list[Node] = []
        self.handed: list[ref[Traced]] = []
        self.held: dict[Value, tuple[Array, Array]] = {}
        self.foreign: set[Value] = set()
        self.apart: dict[int, tuple[Array, Value]] = {}
        self.values: dict[Value, Array] | None = {} if debug else None

    def give_up(self, error: Callable[[], CaptureError]) -> None:
        """Raise the error of what a program cannot do; in a tentative call, go on without making a program."""
        if not self.tentative:
            raise error()
        self.void = True

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
        if id(array) in self.apart:
            value = self.apart[id(array)][1]
            return self.traced(value, array if value in self.foreign else backend.copy(array))
        x = self.input(array)
        self.foreign.add(x.value)
        self.held[x.value] = array, backend.copy(array)
        return x

    def alike(self, array: Array, like: Array) -> Array:
        """Return one of two operands as the other one is, which must be traced both: nobody knew of a raw one."""
        if isinstance(array, Traced) is isinstance(like, Traced):
            return array
        self.give_up(stranger)
        return array.raw if isinstance(array, Traced) else self.input(array)

    def keep_apart(self, raw: Array) -> Value:
        """Return the value of a raw argument that a tentative call gets as it is."""
        value = Value(tuple(raw.shape), raw.dtype)
        self.foreign.add(value)
        self.apart[id(raw)] = raw, value
        return value

    def given_out(self, array: Array) -> Array:
        """Return an array for the user, in a tentative call as a raw one."""
        if not self.tentative or not isinstance(array, Traced):
            return array
        raw = backend_of[type(array.raw)].copy(array.raw)
        self.apart[id(raw)] = raw, array.value
        return raw

    def backend(self, backend: Backend) -> Backend:
        """Return the recording adapter for a library."""
        return backend if isinstance(backend, TraceBackend) else _trace_backend(backend)

    def call(
        self, op: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], effect: bool = False
    ) -> Any:
        """Compute and record `function(*args, **kwargs)`; what gives no array is only computed."""
        result = function(*lowered(args), **{k: lowered(v) for k, v in kwargs.items()})
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
    if graph is None and Graph.everywhere is not None:
        graph = Graph.everywhere
        graph.void = True
    if graph is None:
        raise RuntimeError("an array from inside a compiled function was used outside: return it from the function")
    return graph


def _contents(x: Traced, what: str) -> Array:
    """Return the contents of an array, which only a tentative call may know."""
    _graph().give_up(lambda: value_needed(what))
    return x.raw


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype") and find_backend(x) is not None


def lowered(x: Any) -> Any:
    """Return nested arguments with the contents of traced arrays in their places."""
    if isinstance(x, Traced):
        return x.raw
    if type(x) is tuple or type(x) is list:
        return type(x)([lowered(i) for i in x])
    return x


def _refer(x: Any) -> Any:
    if isinstance(x, Traced):
        return x.value
    if type(x) is tuple or type(x) is list:
        return type(x)([_refer(i) for i in x])
    if _is_array(x):
        if backend_of[type(x)].as_scalar(x) is None:
            _graph().give_up(stranger)  # all that is known has been lifted
        return Value((), x.dtype, constant=x)
    return x


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
        raise written_to()

    def __bool__(self) -> bool:
        return bool(_contents(self, "a condition"))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise value_needed("a conversion to a NumPy array")

    def item(self) -> Any:
        """Raise: the value is another at each call."""
        raise value_needed("item()")

    def __float__(self) -> float:
        return float(_contents(self, "float()"))

    def __int__(self) -> int:
        return int(_contents(self, "int()"))

    def __index__(self) -> int:
        return operator.index(_contents(self, "an index"))

    def __complex__(self) -> complex:
        return complex(_contents(self, "complex()"))

    def __len__(self) -> int:
        return int(self.raw.shape[0])

    def __repr__(self) -> str:
        return f"<traced {self.raw!r}>"


def _namespace_of(x: Traced) -> Any:
    return backend_of[type(x.raw)].xp


def _check_key(key: tuple[Any, ...]) -> None:
    if any([hasattr(i, "shape") and _is_bool(i) for i in key]):
        _graph().give_up(lambda: shape_needed("x[mask]", "tapegrad.where(mask, x, 0)"))


def _is_bool(i: Any) -> bool:
    return "bool" in str(i.dtype)


def _operator(op: str, function: Callable[..., Any]) -> tuple[Any, Any, Any]:
    def forward(x: Traced, other: Any) -> Any:
        if isinstance(other, Tensor):
            return NotImplemented
        return _graph().call(op, function, (x, other), {})

    def reflected(x: Traced, other: Any) -> Any:
        return _graph().call(op, function, (other, x), {})

    def in_place(x: Traced, other: Any) -> Any:
        if not inside(sys._getframe(1)):
            raise written_to()
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
            made = partial(_data_dependent, self._prefix + name, value)
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


def _data_dependent(op: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    _graph().give_up(lambda: shape_needed(op))
    return _graph().call(op, function, args, kwargs)


def _repeat(function: Callable[..., Any], x: Any, repeats: Any, /, **kwargs: Any) -> Any:
    if isinstance(repeats, Traced) and repeats.shape:
        _graph().give_up(lambda: shape_needed("repeat"))
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
        return self.base.to_host(_contents(array, "reading a value"))

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
        return self.base.export(_contents(array, "the array below"))

    def copied_dlpack(self, array: Array, **options: Any) -> Any:
        return self.base.copied_dlpack(_contents(array, "DLPack export"), **options)

    def readonly_dlpack(self, array: Array, stream: Any) -> Any:
        return self.base.readonly_dlpack(_contents(array, "DLPack export"), stream)

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
