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
from typing import Any, ClassVar, NamedTuple, cast
from weakref import ref

from tapegrad._compile._places import Place
from tapegrad._compile._refusals import array_needed, shape_needed, stranger, value_needed, written_to
from tapegrad._engine.dispatch import CaptureError, backend_of, computed, find_backend
from tapegrad._engine.levels import capturing
from tapegrad._engine.operator_names import BINARY, COMPARISONS, NUMPY_NAMES, UNARY
from tapegrad._engine.source_line import inside, user_line
from tapegrad._engine.tensor import Tensor
from tapegrad._program.ir import Node, Value
from tapegrad.backends import Array, Backend

SMALL = 128  # elements of an array whose contents are compared at each call, should NumPy have computed with it
_VIEWS = ("T", "matrix_transpose", "index_get")
_PLAIN = frozenset((int, float, complex, bool, str, slice, type(None), type(...)))


class Held(NamedTuple):
    """A raw array from outside that a call reads: a copy of what it was, and where it was found, if it was."""

    array: Array
    copy: Array
    place: Place | None

    def found_like(self, other: Held) -> bool:
        """Say whether two calls found an array at the same place: what is there may be another one each time."""
        return self.place is not None and other.place is not None and self.place.where == other.place.where


class Graph:
    """The program that is being recorded.

    tentative: whether the call is to come out as an eager one whatever it does: what a program cannot do is then done,
    and the graph is void; why: the first thing that was, unless another call may do without it. ended: whether the call
    is over, though a copy of its context may still run. nodes: so far; handed: all arrays that were handed out, held
    weakly; held: the raw arrays from outside that no Tensor holds, which are read again at each call; found: the places
    of those that a search has found, by identity; pinned: those that a library computed with, and marks of what they
    were, by identity; foreign: values in memory that others may write to; apart: raw arrays that the user has as they
    are, and their values, by identity; values: the contents of all results, for `debug` only; loops: whether there are
    any; flaw: why there is to be no program, though nothing was raised.
    """

    everywhere: ClassVar[Graph | None] = None  # of a tentative call, for threads that the function starts
    library: ClassVar[Callable[[Backend], Backend]]  # the adapter for traced arrays: set by `tapegrad/_bind.py`

    def __init__(self, tentative: bool = False, debug: bool = False) -> None:
        self.tentative, self.void, self.ended = tentative, False, False
        self.why: CaptureError | None = None
        self.nodes: list[Node] = []
        self.handed: list[ref[Traced]] = []
        self.held: dict[Value, Held] = {}
        self.found: dict[int, Place] = {}
        self.pinned: dict[int, tuple[Array, Any]] = {}
        self.foreign: set[Value] = set()
        self.apart: dict[int, tuple[Array, Value]] = {}
        self.values: dict[Value, Array] | None = {} if debug else None
        self.loops = False
        self.flaw: CaptureError | None = None

    def give_up(self, error: Callable[[], CaptureError]) -> None:
        """Raise the error of what a program cannot do; in a tentative call, go on without making a program."""
        if not self.tentative:
            raise error()
        self.void = True
        if self.why is None and error is not stranger:
            self.why = error()

    def traced(self, value: Value, raw: Array) -> Traced:
        """Return an array of this library for a value of the program and its contents."""
        kind = type(raw)
        if kind not in _types:
            raw = backend_of[kind].as_array(raw)  # of a subclass of the library's array type
            kind = type(raw)
        x: Traced = object.__new__(_types[kind] if kind in _types else _traced_type(kind))
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
        if self.ended or isinstance(array, Traced) or not _is_array(array):
            return array
        backend = backend_of[type(array)]
        if backend.as_scalar(array) is not None:
            return self.constant(backend.as_array(array))
        if id(array) in self.apart:
            value = self.apart[id(array)][1]
            return self.traced(value, array if value in self.foreign else backend.copy(array))
        return self.hold(array, self.found.get(id(array)))

    def hold(self, array: Array, place: Place | None) -> Traced:
        """Return a raw array from outside as one of this library."""
        x = self.input(array)
        self.foreign.add(x.value)
        self.held[x.value] = Held(array, array if place else backend_of[type(array)].copy(array), place)
        return x

    def pin(self, value: Value) -> bool:
        """Say whether a value is computed from arrays alone that a search has found: it then stays what it is.

        Whether these arrays are what they were is looked at in each call; those that have no mark have to be small.
        """
        used: dict[int, tuple[Array, Any]] = {}
        todo, seen = [value], set()
        while todo:
            v = todo.pop()
            if v in seen:
                continue
            seen.add(v)
            if v.node is not None:
                todo += v.node.reads
            elif v.constant is None:
                held = self.held.get(v)
                if held is None or held.place is None or (v.size > SMALL and not is_marked(held.array)):
                    return False
                used[id(held.array)] = held.array, mark_of(held.array)
        self.pinned = used | self.pinned
        return True

    def alike(self, array: Array, like: Array) -> Array:
        """Return one of two operands as the other one is, which must be traced both: nobody knew of a raw one."""
        if isinstance(array, Traced) is isinstance(like, Traced):
            return array
        self.give_up(stranger)
        return array.raw if isinstance(array, Traced) else self.input(array)

    def lifted(self, saved: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return what a record saved with traced arrays in the places of raw ones."""
        return tuple([self.lifted(v) if type(v) is tuple else self._lifted(v) for v in saved])

    def _lifted(self, v: Any) -> Any:
        return v if isinstance(v, Traced) or type(v) not in _types else self.input(v)

    def unmixed(self, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Return arguments of a tentative call that are both raw and traced without traced ones; None for others."""
        if not self.tentative or type(args[0]) not in _types or not holds_traced(args):
            return None
        self.give_up(stranger)
        return tuple([lowered(x) for x in args])

    def keep_apart(self, raw: Array) -> Value:
        """Return the value of a raw argument that a tentative call gets as it is."""
        value = Value(tuple(raw.shape), raw.dtype)
        self.foreign.add(value)
        self.apart[id(raw)] = raw, value
        return value

    def untrace(self, array: Array) -> Array:
        """Return an array for the user, in a tentative call as a raw one."""
        if not self.tentative or not isinstance(array, Traced):
            return array
        raw = backend_of[type(array.raw)].copy(array.raw)
        self.apart[id(raw)] = raw, array.value
        return raw

    def backend(self, backend: Backend) -> Backend:
        """Return the recording adapter for a library."""
        return backend if self.ended else _backends.get(backend) or _trace_backend(backend)

    def call(
        self, op: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], effect: bool = False
    ) -> Any:
        """Compute and record `function(*args, **kwargs)`; what gives no array is only computed.

        The user's line is not looked for in a tentative call: nobody is told it.
        """
        raw: list[Any] = []
        named: list[Any] = []
        reads: list[Value] = []
        for x in args:
            if isinstance(x, Traced):
                raw.append(x.raw)
                named.append(x.value)
                reads.append(x.value)
            elif type(x) in _PLAIN:
                raw.append(x)
                named.append(x)
            else:
                a, b = _split(x, reads)
                raw.append(a)
                named.append(b)
        if kwargs:
            split = {k: _split(v, reads) for k, v in kwargs.items()}
            result = computed(function, raw, {k: v for k, (v, _) in split.items()})
            kwargs = {k: v for k, (_, v) in split.items()}
        else:
            result = computed(function, raw, {})
        if effect or _is_array(result):
            node = Node(op, function, tuple(named), kwargs, "" if self.tentative else user_line(3), effect, reads)
            self.nodes.append(node)
            return None if effect else self.out(node, result)
        if isinstance(result, (tuple, list)) and result and all(map(_is_array, result)):
            node = Node(op, function, tuple(named), kwargs, "" if self.tentative else user_line(3), reads=reads)
            node.many = True
            self.nodes.append(node)
            outs: list[Any] = [self.out(node, r) for r in result]
            return type(result)(*outs) if hasattr(result, "_fields") else type(result)(outs)
        return result

    def out(self, node: Node, raw: Array) -> Traced:
        """Return the result of a node, or one of several, as an array of this library."""
        if type(raw) not in _types:  # it may be a scalar
            raw = backend_of[type(raw)].as_array(raw)
        value = Value(tuple(raw.shape), raw.dtype, node)
        node.outs = (*node.outs, value) if node.many else (value,)
        if self.values is not None:
            self.values[value] = raw
        if self.foreign and node.op in _VIEWS and not self.foreign.isdisjoint(node.reads):
            self.foreign.add(value)
        return self.traced(value, raw)


active = cast("ContextVar[Graph | None]", capturing)


def graph_now() -> Graph:
    """Return the program that is being recorded here."""
    graph = active.get()
    if graph is None and Graph.everywhere is not None:
        graph = Graph.everywhere
        graph.void = True
    if graph is None:
        raise RuntimeError("an array from inside a compiled function was used outside: return it from the function")
    return graph


def contents_of(x: Traced, what: str) -> Array:
    """Return the contents of an array, which only a tentative call may know, unless they can be pinned."""
    graph = graph_now()
    if not (graph.held and graph.pin(x.value)):
        graph.give_up(lambda: value_needed(what))
    return x.raw


def for_library(x: Any) -> Any:
    """Return what a library is to compute with in the place of a raw array: its contents, if they can be pinned.

    They are a copy that cannot be written to, or an array that tells whether it was.
    """
    if type(x) is tuple or type(x) is list:
        return type(x)(map(for_library, x))
    if not isinstance(x, Traced):
        return x
    backend = backend_of[type(x.raw)]
    graph = graph_now()
    if not (graph.held and graph.pin(x.value)):
        raise array_needed()
    if is_marked(x.raw):
        return x.raw
    if not hasattr(x.raw, "setflags"):
        raise array_needed()
    found = backend.copy(x.raw)
    found.setflags(write=False)
    return found


def is_marked(array: Array) -> bool:
    """Say whether an array cannot be written to, or has a mark of whether it was, as PyTorch's have."""
    return not backend_of[type(array)].mutable or hasattr(array, "_version")


def mark_of(array: Array) -> Any:
    """Return PyTorch's mark of how often an array was written to; None for an array that cannot be."""
    return getattr(array, "_version", None)


def _is_array(x: Any) -> bool:
    return type(x) in backend_of or (hasattr(x, "shape") and hasattr(x, "dtype") and find_backend(x) is not None)


def lowered(x: Any) -> Any:
    """Return nested arguments with the contents of traced arrays in their places."""
    if isinstance(x, Traced):
        return x.raw
    if type(x) is tuple or type(x) is list:
        return type(x)([lowered(i) for i in x])
    return x


def holds_traced(x: Any) -> bool:
    """Say whether there is a traced array in nested arguments."""
    return isinstance(x, Traced) or (type(x) in (tuple, list) and any(map(holds_traced, x)))


def _split(x: Any, reads: list[Value]) -> tuple[Any, Any]:
    """Return nested arguments with contents in the places of arrays, and with values; append the values to `reads`."""
    if isinstance(x, Traced):
        reads.append(x.value)
        return x.raw, x.value
    kind = type(x)
    if kind is tuple or kind is list:
        pairs = [_split(i, reads) for i in x]
        return kind([raw for raw, _ in pairs]), kind([named for _, named in pairs])
    if kind in _PLAIN or not _is_array(x):
        return x, x
    if backend_of[kind].as_scalar(x) is None:
        graph_now().give_up(stranger)  # all that is known has been lifted
    value = Value((), x.dtype, constant=x)
    reads.append(value)
    return x, value


class Traced:
    """An array of the recording library: `raw`, its contents in this call, and `value`, what stands for it."""

    __slots__ = ("__weakref__", "raw", "value")

    raw: Array
    value: Value
    base = None
    __class__ = property(lambda x: type(x.raw))  # to isinstance, an array of its library
    shape = property(lambda x: x.raw.shape)
    dtype = property(lambda x: x.raw.dtype)
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
        if holds_traced(tuple(kwargs.values())):
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
        return f"<traced {self.raw!r}>"


def _method(x: Traced, name: str, /, *args: Any, **kwargs: Any) -> Any:
    if holds_traced(tuple(kwargs.values())):
        raise array_needed()
    return getattr(for_library(x), name)(*map(for_library, args), **kwargs)


def _namespace_of(x: Traced) -> Any:
    return backend_of[type(x.raw)].xp


def check_key(key: tuple[Any, ...]) -> None:
    """Refuse a key with a mask in it."""
    if any([hasattr(i, "shape") and _is_bool(i) for i in key]):
        graph_now().give_up(lambda: shape_needed("x[mask]", "tapegrad.where(mask, x, 0)"))


def _is_bool(i: Any) -> bool:
    return "bool" in str(i.dtype)


def _operator(op: str, function: Callable[..., Any]) -> tuple[Any, Any, Any]:
    def forward(x: Traced, other: Any) -> Any:
        if isinstance(other, Tensor):
            return NotImplemented
        return (active.get() or graph_now()).call(op, function, (x, other), {})

    def reflected(x: Traced, other: Any) -> Any:
        return (active.get() or graph_now()).call(op, function, (other, x), {})

    def in_place(x: Traced, other: Any) -> Any:
        if not inside(sys._getframe(1)):
            raise written_to()
        return forward(x, other)

    return forward, reflected, in_place


def _one(op: str, function: Callable[..., Any]) -> Any:
    return lambda x: graph_now().call(op, function, (x,), {})


for _symbol, _op in BINARY.items():
    _forward, _reflected, _updating = _operator(
        _op, getattr(operator, _symbol + "_" if _symbol in ("and", "or") else _symbol)
    )
    setattr(Traced, f"__{_symbol}__", _forward)
    setattr(Traced, f"__r{_symbol}__", _reflected)
    setattr(Traced, f"__i{_symbol}__", _updating)
for _symbol, _op in COMPARISONS.items():
    setattr(Traced, f"__{_symbol}__", _operator(_op, getattr(operator, _symbol))[0])
for _symbol, _op in UNARY.items():
    setattr(Traced, f"__{_symbol}__", _one(_op, getattr(operator, _symbol)))


# Operators that NumPy is asked for first: an array of its own is on the left.
_UFUNCS = {
    op: (op, getattr(operator, symbol + "_" * (symbol in ("and", "or"))))
    for symbol, op in {**BINARY, **COMPARISONS}.items()
}
_UFUNCS |= {other: _UFUNCS[op] for other, op in NUMPY_NAMES.items()}
_types: dict[type, type] = {}
_backends: dict[Backend, Backend] = {}  # each adapter's recording one, and those themselves


class _TracedType(type):
    """The type of types of traced arrays, which have the names and bases of what they stand for: code may ask."""

    stands_for: type
    __name__ = property(lambda cls: cls.stands_for.__name__)
    __mro__ = property(lambda cls: (cls, *cls.stands_for.__mro__))

    def mro(cls) -> list[type]:
        """Return the bases, real ones while the type is made."""
        made = type.__dict__["__mro__"].__get__(cls)
        return list(cls.__mro__) if made else super().mro()

    def __repr__(cls) -> str:
        return repr(cls.stands_for)


def _traced_type(array_type: type) -> type:
    """Return the type of traced arrays over a library's type, known to the engine as an array type."""
    traced = _types.get(array_type)
    if traced is None:
        own = {"__slots__": (), "stands_for": array_type, "__qualname__": array_type.__qualname__}
        own["__module__"] = array_type.__module__
        traced = _TracedType(f"Traced_{array_type.__name__}", (Traced,), own)
        backend_of[traced] = _trace_backend(backend_of[array_type])
        traced = _types.setdefault(array_type, traced)
    return traced


def _trace_backend(base: Backend) -> Backend:
    found = _backends.get(base)
    if found is None:
        made = Graph.library(base)
        found = _backends.setdefault(base, made)
        _backends.setdefault(found, found)
    return found
