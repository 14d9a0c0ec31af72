"""The graph of a captured call: each array call is computed, and recorded as a node.

The library of tracers calls it, so that all of the engine runs on it as on any other library, rules and walk too. The
values are computed at once by the library below, so that the call being captured is an eager call as well.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ClassVar, NamedTuple, cast
from weakref import ref

from tapegrad._compile.capture.errors import array_needed, unknown_tensor, value_needed
from tapegrad._compile.capture.guard_sources import Place
from tapegrad._engine.dispatch import CaptureError, backend_of, computed, find_backend
from tapegrad._engine.levels import capturing
from tapegrad._engine.source_line import user_line
from tapegrad._program.ir import Node, Value
from tapegrad._program.op_kinds import VIEWS_OF_RAW
from tapegrad.backends import Array, Backend

SMALL = 128  # elements of an array whose contents are compared at each call, should NumPy have computed with it
_PLAIN = frozenset((int, float, complex, bool, str, slice, type(None), type(...)))
TYPES: dict[type, type] = {}  # of tracers, by the types of libraries' arrays
_backends: dict[Backend, Backend] = {}  # each adapter's recording one, and those themselves


class Tracer:
    """An array of the recording library: `raw`, its contents in this call, and `value`, which it stands for.

    `tapegrad/_compile/capture/tracer.py` has the rest of its behaviour as an array.
    """

    __slots__ = ("__weakref__", "raw", "value")

    raw: Array
    value: Value
    shape = property(lambda x: x.raw.shape)
    dtype = property(lambda x: x.raw.dtype)


class Held(NamedTuple):
    """A raw array from outside that a call reads, a copy of its contents, and the place where it was found, if any."""

    array: Array
    copy: Array
    place: Place | None

    def found_like(self, other: Held) -> bool:
        """Say whether two calls found an array at the same place: it may hold another one each time."""
        return self.place is not None and other.place is not None and self.place.where == other.place.where


class Graph:
    """The program that is being recorded.

    tentative: whether the call is to come out as an eager one whatever it does: things no program can do are then done,
    and the graph is void; why: the first thing that was, unless another call may do without it. ended: whether the call
    is over, though a copy of its context may still run. nodes: so far; handed: all arrays that were handed out, held
    weakly; held: the raw arrays from outside that no Tensor holds, which are read again at each call; found: the places
    of those that a search has found, by identity; pinned: those that a library computed with, and marks of how they
    were, by identity; foreign: values in memory that others may write to; apart: raw arrays that the user has as they
    are, and their values, by identity; values: the contents of all results, for `debug` only; loops: whether there are
    any; flaw: why there is to be no program, though nothing was raised.
    """

    everywhere: ClassVar[Graph | None] = None  # of a tentative call, for threads that the function starts
    # The adapter for tracers, and the type of tracers over a library's type: set by `tapegrad/_bind.py`.
    library: ClassVar[Callable[[Backend], Backend]]
    array_type: ClassVar[Callable[[type], type]]

    def __init__(self, tentative: bool = False, debug: bool = False) -> None:
        self.tentative, self.void, self.ended = tentative, False, False
        self.why: CaptureError | None = None
        self.nodes: list[Node] = []
        self.handed: list[ref[Tracer]] = []
        self.held: dict[Value, Held] = {}
        self.found: dict[int, Place] = {}
        self.pinned: dict[int, tuple[Array, Any]] = {}
        self.foreign: set[Value] = set()
        self.apart: dict[int, tuple[Array, Value]] = {}
        self.values: dict[Value, Array] | None = {} if debug else None
        self.loops = False
        self.flaw: CaptureError | None = None

    def give_up(self, error: Callable[[], CaptureError]) -> None:
        """Raise an error for something that a program cannot do; in a tentative call, go on, and make no program."""
        if not self.tentative:
            raise error()
        self.void = True
        if self.why is None and error is not unknown_tensor:
            self.why = error()

    def tracer(self, value: Value, raw: Array) -> Tracer:
        """Return an array of this library for a value of the program and its contents."""
        kind = type(raw)
        if kind not in TYPES:
            raw = backend_of[kind].as_array(raw)  # of a subclass of the library's array type
            kind = type(raw)
        x: Tracer = object.__new__(TYPES[kind] if kind in TYPES else Graph.array_type(kind))
        x.value = value
        x.raw = raw
        self.handed.append(ref(x))
        return x

    def input(self, raw: Array) -> Tracer:
        """Return an array that the program is to get at each call."""
        return self.tracer(Value(tuple(raw.shape), raw.dtype), raw)

    def constant(self, raw: Array) -> Tracer:
        """Return an array that is constant from now on."""
        return self.tracer(Value(tuple(raw.shape), raw.dtype, constant=raw), raw)

    def lift(self, array: Any) -> Any:
        """Return a raw array as one of this library; others as they are."""
        if self.ended or isinstance(array, Tracer) or not _is_array(array):
            return array
        backend = backend_of[type(array)]
        if backend.as_scalar(array) is not None:
            return self.constant(backend.as_array(array))
        if id(array) in self.apart:
            value = self.apart[id(array)][1]
            return self.tracer(value, array if value in self.foreign else backend.copy(array))
        return self.hold(array, self.found.get(id(array)))

    def hold(self, array: Array, place: Place | None) -> Tracer:
        """Return a raw array from outside as one of this library."""
        x = self.input(array)
        self.foreign.add(x.value)
        self.held[x.value] = Held(array, array if place else backend_of[type(array)].copy(array), place)
        return x

    def pin(self, value: Value) -> bool:
        """Say whether a value is computed from arrays alone that a search has found: it is then a constant.

        Guards compare these arrays in each call; those without a mark have to be small.
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
        if isinstance(array, Tracer) is isinstance(like, Tracer):
            return array
        self.give_up(unknown_tensor)
        return array.raw if isinstance(array, Tracer) else self.input(array)

    def lifted(self, saved: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arrays that a record saved, with tracers in the places of raw ones."""
        return tuple([self.lifted(v) if type(v) is tuple else self._lifted(v) for v in saved])

    def _lifted(self, v: Any) -> Any:
        return v if isinstance(v, Tracer) or type(v) not in TYPES else self.input(v)

    def unmixed(self, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Return arguments of a tentative call that are both raw and traced without traced ones; None for others."""
        if not self.tentative or type(args[0]) not in TYPES or not holds_tracer(args):
            return None
        self.give_up(unknown_tensor)
        return tuple([lowered(x) for x in args])

    def keep_apart(self, raw: Array) -> Value:
        """Return the value of a raw argument that a tentative call gets as it is."""
        value = Value(tuple(raw.shape), raw.dtype)
        self.foreign.add(value)
        self.apart[id(raw)] = raw, value
        return value

    def untrace(self, array: Array) -> Array:
        """Return an array for the user, in a tentative call as a raw one."""
        if not self.tentative or not isinstance(array, Tracer):
            return array
        raw = backend_of[type(array.raw)].copy(array.raw)
        self.apart[id(raw)] = raw, array.value
        return raw

    def backend(self, backend: Backend) -> Backend:
        """Return the recording adapter for a library."""
        return backend if self.ended else _backends.get(backend) or recording_backend(backend)

    def call(
        self, op: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], effect: bool = False
    ) -> Any:
        """Compute and record `function(*args, **kwargs)`; a call that gives no array is only computed.

        The user's line is not looked for in a tentative call: nobody is told it.
        """
        raw: list[Any] = []
        named: list[Any] = []
        reads: list[Value] = []
        for x in args:
            if isinstance(x, Tracer):
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

    def out(self, node: Node, raw: Array) -> Tracer:
        """Return the result of a node, or one of several, as an array of this library."""
        if type(raw) not in TYPES:  # it may be a scalar
            raw = backend_of[type(raw)].as_array(raw)
        value = Value(tuple(raw.shape), raw.dtype, node)
        node.outs = (*node.outs, value) if node.many else (value,)
        if self.values is not None:
            self.values[value] = raw
        if self.foreign and node.op in VIEWS_OF_RAW and not self.foreign.isdisjoint(node.reads):
            self.foreign.add(value)
        return self.tracer(value, raw)


def recording_backend(base: Backend) -> Backend:
    """Return the recording adapter in front of a library's."""
    found = _backends.get(base)
    if found is None:
        made = Graph.library(base)
        found = _backends.setdefault(base, made)
        _backends.setdefault(found, found)
    return found


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


def contents_of(x: Tracer, what: str) -> Array:
    """Return the contents of an array, which only a tentative call may know, unless they can be pinned."""
    graph = graph_now()
    if not (graph.held and graph.pin(x.value)):
        graph.give_up(lambda: value_needed(what))
    return x.raw


def for_library(x: Any) -> Any:
    """Return the operand for a library in the place of a raw array: its contents, if they can be pinned.

    They are a copy that cannot be written to, or an array that tells whether it was.
    """
    if type(x) is tuple or type(x) is list:
        return type(x)(map(for_library, x))
    if not isinstance(x, Tracer):
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
    """Return nested arguments with the contents of tracers in their places."""
    if isinstance(x, Tracer):
        return x.raw
    if type(x) is tuple or type(x) is list:
        return type(x)([lowered(i) for i in x])
    return x


def holds_tracer(x: Any) -> bool:
    """Say whether there is a tracer in nested arguments."""
    return isinstance(x, Tracer) or (type(x) in (tuple, list) and any(map(holds_tracer, x)))


def _split(x: Any, reads: list[Value]) -> tuple[Any, Any]:
    """Return nested arguments with contents in the places of arrays, and with values; append the values to `reads`."""
    if isinstance(x, Tracer):
        reads.append(x.value)
        return x.raw, x.value
    kind = type(x)
    if kind is tuple or kind is list:
        pairs = [_split(i, reads) for i in x]
        return kind([raw for raw, _ in pairs]), kind([named for _, named in pairs])
    if kind in _PLAIN or not _is_array(x):
        return x, x
    if backend_of[kind].as_scalar(x) is None:
        graph_now().give_up(unknown_tensor)  # all that is known has been lifted
    value = Value((), x.dtype, constant=x)
    reads.append(value)
    return x, value
