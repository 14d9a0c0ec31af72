"""The array library of tracers: an adapter whose namespace records each call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tapegrad._compile.capture.errors import shape_needed
from tapegrad._compile.capture.graph import Tracer, active, contents_of, graph_now
from tapegrad._compile.capture.loop import captured
from tapegrad._compile.capture.tracer import check_key
from tapegrad._program.loops import Criterion, Round
from tapegrad._program.op_kinds import DATA_DEPENDENT
from tapegrad.backends import Array, Backend


class TraceNamespace:
    """A library's namespace whose functions record their calls."""

    elsewhere = None  # a program has one device
    softmax_rows = softmax_rows_gradient = None  # a program has the parts of softmax, which passes look for

    def __init__(self, base: Any, prefix: str = "") -> None:
        self._base, self._prefix = base, prefix

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._base, name)
        made: Any = value
        if name in DATA_DEPENDENT:
            made = partial(_data_dependent, self._prefix + name, value)
        elif name == "repeat":
            made = partial(_repeat, value)
        elif callable(value) and not isinstance(value, type):
            made = _recording(self._prefix + name, value)
        elif hasattr(value, "erf") or hasattr(value, "solve") or hasattr(value, "fft"):
            made = TraceNamespace(value, f"{self._prefix}{name}.")
        self.__dict__[name] = made
        return made


def _recording(op: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of a library that records its calls."""
    return lambda *args, **kwargs: (active.get() or graph_now()).call(op, function, args, kwargs)


def _data_dependent(op: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    graph_now().give_up(lambda: shape_needed(op))
    return graph_now().call(op, function, args, kwargs)


def _repeat(function: Callable[..., Any], x: Any, repeats: Any, /, **kwargs: Any) -> Any:
    if isinstance(repeats, Tracer) and repeats.shape:
        graph_now().give_up(lambda: shape_needed("repeat"))
    return graph_now().call("repeat", function, (x, repeats), kwargs)


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
            setattr(xp, op, _recording(op, _Write(base, getattr(base.xp, op))))
        self.xp = xp

    def native_dtype(self, name: str) -> Any:
        return self.base.native_dtype(name)

    def has_dtype(self, name: str, device: Any) -> bool:
        return self.base.has_dtype(name, device)

    def native_device(self, text: str) -> Any:
        return self.base.native_device(text)

    def philox_dtype(self, device: Any) -> str:
        return self.base.philox_dtype(device)

    def devices(self) -> list[str]:
        return self.base.devices()

    def full_name(self, device: Any) -> str:
        return self.base.full_name(device)

    def device_string(self, array: Array) -> str:
        return self.base.device_string(array.raw)

    def as_scalar(self, operand: Any) -> Any:
        return None

    def to_host(self, array: Array) -> Any:
        return self.base.to_host(contents_of(array, "reading a value"))

    def peek(self, array: Array) -> Any:
        return self.base.to_host(array.raw)

    def from_host(self, array: Any, device: Any) -> Array:
        return graph_now().constant(self.base.from_host(array, device))

    def move(self, array: Array, device: Any) -> Array:
        return graph_now().call("to_device", self.base.move, (array, device), {})

    def memory(self, array: Array) -> int | None:
        return self.base.memory(array.raw)

    def copy(self, array: Array) -> Array:
        graph = graph_now()
        return graph.call("copy", self.base.copy, (array,), {}) if array.value in graph.foreign else array

    def export(self, array: Array) -> Array:
        return self.base.export(contents_of(array, "the array below"))

    def copied_dlpack(self, array: Array, **options: Any) -> Any:
        return self.base.copied_dlpack(contents_of(array, "DLPack export"), **options)

    def readonly_dlpack(self, array: Array, stream: Any) -> Any:
        return self.base.readonly_dlpack(contents_of(array, "DLPack export"), stream)

    def races(self, array: Array) -> bool:
        return self.base.races(array.raw)

    def refuse(self, condition: Array, error: Callable[[], Exception]) -> None:
        graph_now().call("refuse", self.base.refuse, (condition, error), {}, effect=True)

    def loop(self, until: Criterion, step: Round, x: Array) -> Array:
        return captured(graph_now(), until, step, x)

    def index_get(self, array: Array, key: tuple[Any, ...]) -> Array:
        check_key(key)
        return graph_now().call("index_get", self.base.xp.index_get, (array, key), {})


class _Write:
    """A function that writes to a copy of an array; in_place: that which writes to the array."""

    def __init__(self, base: Backend, in_place: Callable[..., Any]) -> None:
        self.base, self.in_place = base, in_place

    def __call__(self, array: Array, key: tuple[Any, ...], value: Array) -> Array:
        return self.in_place(self.base.copy(array), key, value)
