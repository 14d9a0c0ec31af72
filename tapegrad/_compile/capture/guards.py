"""Guards: whether what a captured call found outside is still what a call finds there now.

They are generated code, one line a place, that looks at identities, types, lengths and plain values: 10 to 30 ns each.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any, NamedTuple
from weakref import ref

from tapegrad._compile.capture.bytecode import is_read, item_is_read, length_is_read
from tapegrad._compile.capture.equality import same_constant
from tapegrad._compile.capture.guard_sources import PLAIN, READ, Place, Places, contents
from tapegrad._compile.capture.slots import StateBox
from tapegrad._compile.capture.tracer import Held, is_marked, mark_of
from tapegrad._engine.tensor import Tensor, host, wrap
from tapegrad.backends import Array

Check = Callable[[list[Any]], Any]

_SOURCES = {
    "attribute": "{holder}.{name}",
    "hidden attribute": "hidden_attribute({holder}, {key})",
    "item": "{holder}[{key}]",
    "dict item": "dict_item({holder}, {key})",
    "list item": "list_item({holder}, {key})",
    "tuple item": "tuple_item({holder}, {key})",
    "cell": "{holder}.__closure__[{key}].cell_contents",
    "default": "{holder}.__defaults__[{key}]",
    "keyword default": "{holder}.__kwdefaults__[{key}]",
    "context": "{holder}.get(None)",
    "referent": "{holder}()",
}
_ITEMS = ("item", "dict item", "list item")


class Guards:
    """Guards: the values a captured call found, except those it changed itself, which a replayed call does not.

    places: those that are looked at; counted: names of what the call gave another number, and reads. Nothing found is
    held but plain values, functions, and classes of modules.
    """

    def __init__(self, places: Places, leaves: list[Any], held: Iterable[Held], pinned: set[int]) -> None:
        unchanged = _unchanged(places, leaves)
        self.counted = _counted(places, unchanged, leaves)
        bases = {id(base) for h in held if h.place is None for base in _bases(h.array)}
        self.places: list[Place] = []
        self._checks: dict[Place, Any] = {}
        for place in places.all:
            if place in unchanged:
                self.places.append(place)
                self._checks[place] = _what(place, bases, pinned)
        places.forget()

    def function(self, held: list[Held], states: dict[int, StateBox], growing: Iterable[str] = ()) -> Check:
        """Return a check of the leaves of a call: it gives the raw arrays to read, or the number of a place that fails.

        states: the boxes of the Tensors that a program has as state, by identity; growing: containers, by where they
        are, that may have further items.
        """
        code = _Code()
        referred = {p.parent for p in self.places} | {p.other for p in self.places if p.kind == "same"}
        read = [h.place for h in held if h.place is not None]
        known = set(self.places)
        for place in self.places:
            code.items.setdefault(place.parent, []).append(place)
        for place in self.places:
            if place.kind == "space" or (place.how == "fixed" and place.parent is None):
                code.names[place] = code.constant(place.key)
                continue
            assert place.parent is None or place.parent in known
            named = place in referred or place in read
            self._write(code, place, named, states, known, place.where in growing)
        arrays = [code.names[h.place] if h.place in known else code.constant(h.array) for h in held]
        return code.function(f"return ({''.join([f'{a}, ' for a in arrays])})")

    def _write(
        self, code: _Code, place: Place, named: bool, states: dict[int, StateBox], known: set[Place], growing: bool
    ) -> None:
        x = code.source(place)
        check = self._checks[place]
        kind = place.kind
        if kind == "absent":
            code.fails(f"{place.key!r} in {code.names[place.parent]}.__dict__", place)
            return
        if named or kind not in ("tensor", "same", "whole"):
            name = code.names[place] = f"v{place.number}"
            if x != name and (named or kind != "plain"):
                code.line(f"{name} = {x}", place)
                x = name
        if kind == "plain":
            c = code.constant(check)
            code.fails(f"(v := {x}) is not {c} and not same(v, {c})", place)
        elif kind == "same":
            if place.other in known:
                code.fails(f"{x} is not {code.names[place.other]}", place)
        elif kind == "tensor":
            was = check[0]()
            box = None if was is None else states.get(id(was))
            if box is not None and box.tensor is was:
                code.fails(f"{x} is not {code.constant(box)}.tensor", place)
            else:
                c = code.constant(check[0])
                code.fails(f"((v := {x}) is not {c}() or v is None) and unlike(v, {code.constant(check)})", place)
        elif kind == "whole":
            c = code.constant(check.thing)
            code.fails(f"(v := {x}) is not {c}() or v is None" if check.weak else f"{x} is not {c}", place)
        elif kind == "array":
            code.fails(check.source(x, code.constant), place)
        elif type(check) is _Function:
            code.fails(f"{x}.__code__ is not {code.constant(check.code)}", place)
        elif place.parent is not None:
            contents = ""
            items = [p for p in code.items.get(place, ()) if p.how == "item"]
            if check.type in (list, tuple) and len(items) == check.contents > 0 and not growing:
                code.fails(f"type({x}) is not {code.kind(check.held)}", place)
                code.unpack(x, place, items)
                return
            if type(check.contents) is int:
                contents = f" or len({x}) {'<' if growing else '!='} {check.contents}"
            elif type(check.contents) is list:
                contents = f" or {x} != {code.constant(check.contents)}"
            elif check.contents is not None and not growing:
                contents = f" or not holds({x}, {code.constant(check.contents)})"
            code.fails(f"type({x}) is not {code.kind(check.held)}{contents}", place)

    def grown(self, leaves: list[Any], states: dict[int, StateBox]) -> set[str] | None:
        """Return where the containers are that have got further items, None if something else has changed as well."""
        growing: set[str] = set()
        while True:
            number = self.function([], states, growing)(leaves)
            if type(number) is tuple:
                return growing
            where = self._grown(number, leaves)
            if where is None or where in growing:
                return None
            growing.add(where)

    def _grown(self, number: int, leaves: list[Any]) -> str | None:
        place = next(p for p in self.places if p.number == number)
        was = self._checks[place]
        if type(was) is not _Type or was.contents is None:
            return None
        try:
            x = _now(place, leaves)
        except Exception:
            return None
        if type(x) is not was.type:
            return None
        now = contents(x)
        if type(was.contents) is int:
            return place.where if type(now) is int and now > was.contents else None
        if type(was.contents) is list:
            return None
        return place.where if type(now) is type(was.contents) and set(now) > set(was.contents) else None

    def changed(self, number: int, leaves: list[Any]) -> str:
        """Say in words what is at a place now, and what was."""
        place = next(p for p in self.places if p.number == number)
        was = self._checks[place]
        try:
            now = _now(place, leaves)
        except Exception:
            return f"{place.name} is gone"
        if place.kind == "plain":
            return f"{place.name} was {_short(was)} and is {_short(now)}"
        if place.kind == "parts" and type(was) is _Type and type(now) is was.type:
            return f"{place.name} has other items"
        return f"{place.name} is another {type(now).__name__}"


class _Function(NamedTuple):
    code: Any


class _Whole(NamedTuple):
    """An object that must be the same one, or a weak reference to it."""

    thing: Any
    weak: bool


class _Type(NamedTuple):
    """A type that an object must have, and what a container must hold."""

    held: _Whole
    contents: Any

    @property
    def type(self) -> Any:
        return self.held.thing() if self.held.weak else self.held.thing


class _Alike(NamedTuple):
    """A guard of an array: its type, shape, dtype and device.

    was: which one it must be; contents: what must be in it; mark: what tells that this is so; each None if all will do.
    """

    type: type
    shape: tuple[int, ...]
    dtype: Any
    device: Any
    was: Any
    contents: bytes | None
    mark: Any

    def source(self, x: str, constant: Callable[[Any], str]) -> str:
        """Return the condition under which an array is another one."""
        if self.was is not None:
            found = f"{x} is None or {x} is not {constant(self.was)}()"
        else:
            found = f"type({x}) is not {constant(self.type)} or {x}.shape != {constant(self.shape)}"
            found += f" or {x}.dtype != {constant(self.dtype)}"
            if self.device is not None:
                found += f" or {x}.device != {constant(self.device)}"
        if self.mark is not None:
            found += f" or mark_of({x}) != {constant(self.mark)}"
        return found if self.contents is None else f"{found} or contents_of({x}) != {constant(self.contents)}"


class _Code:
    """A function that is being written: its lines, which place each looks at, and its constants.

    items: places by their holders; names: of variables.
    """

    def __init__(self) -> None:
        self.items: dict[Place | None, list[Place]] = {}
        self._unpacked: set[Place] = set()
        self.names: dict[Place | None, str] = {}
        self._lines: list[str] = ["def check(leaves):", " try:"]
        self._places: list[int] = [-1, -1]
        self._space: dict[str, Any] = {
            "same": _same,
            "unlike": _unlike,
            "holds": _holds,
            "contents_of": contents_of,
            "mark_of": mark_of,
            "failed": self._failed,
            **{how.replace(" ", "_"): READ[how] for how in READ if how not in ("item", "attribute", "cell")},
        }
        self._constants: dict[int, str] = {}

    def constant(self, x: Any) -> str:
        """Return the name of a constant."""
        name = self._constants.get(id(x))
        if name is None:
            name = self._constants[id(x)] = f"c{len(self._constants)}"
            self._space[name] = x
        return name

    def kind(self, cls: _Whole) -> str:
        """Return what gets at a class, which is held weakly unless it is one of its module's."""
        return f"{self.constant(cls.thing)}()" if cls.weak else self.constant(cls.thing)

    def source(self, place: Place) -> str:
        """Return what gets at a place."""
        if place in self._unpacked:
            return f"v{place.number}"
        if place.how == "weak":
            return f"{self.constant(place.key)}()"
        if place.how == "argument":
            return f"leaves[{place.key}]"
        parent = place.parent
        if place.how == "cell" and parent is not None and parent.how == "fixed":
            return f"{self.constant(parent.key.__closure__[place.key])}.cell_contents"
        key = repr(place.key) if type(place.key) in (int, str) else self.constant(place.key)
        return _SOURCES[place.how].format(holder=self.names[place.parent], name=place.key, key=key)

    def line(self, text: str, place: Place) -> None:
        """Write a line."""
        self._lines.append(f"  {text}")
        self._places.append(place.number)

    def unpack(self, x: str, place: Place, items: list[Place]) -> None:
        """Write that a list or tuple holds so many items, which get names."""
        self.line(f"{''.join([f'v{item.number}, ' for item in items])}= {x}", place)
        self._unpacked.update(items)

    def fails(self, condition: str, place: Place) -> None:
        """Write that a place fails under a condition."""
        self.line(f"if {condition}: return {place.number}", place)

    def function(self, end: str) -> Check:
        """Return the function, which ends with a line."""
        text = "\n".join([*self._lines, f"  {end}", " except Exception as error: return failed(error)"])
        exec(compile(text, "<guards>", "exec"), self._space)
        return self._space["check"]  # type: ignore[no-any-return]

    def _failed(self, error: Exception) -> int:
        assert error.__traceback__ is not None
        return self._places[error.__traceback__.tb_lineno - 1]


def _unchanged(places: Places, leaves: list[Any]) -> set[Place]:
    """Return the places where a call has left what it found."""
    found: set[Place] = set()
    for place in places.all:
        if place.parent is not None and place.parent not in found:
            continue
        if place.parent is None:
            found.add(place)
            continue
        try:
            now = place.read(place.parent.value, leaves)
        except Exception:
            if place.kind == "absent":
                found.add(place)
            continue
        if now is place.value or (place.kind == "plain" and _same(place.value, now)):
            found.add(place)
    return {p for p in found if p.kind != "same" or p.other in found}


def _counted(places: Places, unchanged: set[Place], leaves: list[Any]) -> list[str]:
    """Return the names of what a call gave another plain value, or another length, and that its code reads."""
    found = []
    for place in places.all:
        if place.kind == "parts" and place in unchanged:
            if _is_other_length(place) and length_is_read(places.codes, _last(place.name), _is_sequence(place.value)):
                found.append(f"len({place.name})")
            continue
        holder = place.parent
        if place.kind != "plain" or place in unchanged or holder is None or holder not in unchanged:
            continue
        try:
            now = place.read(holder.value, leaves)
        except Exception:
            continue
        if type(now) in PLAIN and _is_read(places, place, holder):
            found.append(place.name)
    return found


def _is_read(places: Places, place: Place, holder: Place) -> bool:
    if place.how in ("attribute", "cell") or holder.kind == "space":
        return is_read(places.codes, _last(place.name))
    return place.how in _ITEMS and item_is_read(places.codes, _last(holder.name), place.key)


def _last(name: str) -> str:
    """Return the last name in what is written with points."""
    return name.rpartition(".")[2]


def _is_sequence(x: Any) -> bool:
    return isinstance(x, (list, deque))


def _is_other_length(place: Place) -> bool:
    """Say whether a container has got, or lost, items while a call was captured."""
    was, now = place.contents, contents(place.value)
    sizes = [v if type(v) is int else len(v) for v in (was, now) if v is not None]
    return len(sizes) == 2 and sizes[0] != sizes[1]


def _what(place: Place, bases: set[int], pinned: set[int]) -> Any:
    """Return what must be at a place, without holding what the user may let go."""
    x = place.value
    if place.kind == "plain":
        return x
    if place.kind == "tensor":
        return ref(x), x.shape, x._array.dtype, type(x._array)
    if place.kind == "array":
        device = getattr(x, "device", None) if type(x).__module__ != "numpy" else None
        marked = id(x) in pinned and is_marked(x)
        was = ref(x) if id(x) in bases or marked else None
        held = contents_of(x) if id(x) in pinned and not marked else None
        return _Alike(type(x), x.shape, x.dtype, device, was, held, mark_of(x) if marked else None)
    if place.kind == "whole":
        return _whole(x)
    if place.kind == "parts":
        if type(x) is FunctionType:
            return _Function(x.__code__)
        return _Type(_whole(type(x)), place.contents if place.contents == contents(x) else None)
    return None


def _same(x: Any, y: Any) -> bool:
    if type(x) is tuple and type(y) is tuple:
        return len(x) == len(y) and all(map(_same, x, y))
    return same_constant(x, y)


def _now(place: Place, leaves: list[Any]) -> Any:
    return place.read(None if place.parent is None else _now(place.parent, leaves), leaves)


def _whole(x: Any) -> _Whole:
    if type(x) is FunctionType or (isinstance(x, type) and _lasts(x)):
        return _Whole(x, False)
    try:
        return _Whole(ref(x), True)
    except TypeError:
        return _Whole(x, False)


def _lasts(cls: type) -> bool:
    """Say whether a class is one of its module's, and not made by a function."""
    return getattr(sys.modules.get(cls.__module__), cls.__name__, None) is cls


def _bases(array: Array) -> Iterable[Array]:
    """Go through the arrays whose memory an array is a part of."""
    while (array := getattr(array, "base", None)) is not None:
        yield array


def contents_of(array: Array) -> bytes:
    """Return the contents of a small array, for comparison."""
    return array.tobytes() if hasattr(array, "tobytes") else host(wrap(array)).tobytes()


def _unlike(x: Any, was: tuple[Any, ...]) -> bool:
    """Say whether a Tensor that no program reads is replaced by what is not like it."""
    return type(x) is not Tensor or (x.shape, x._array.dtype, type(x._array)) != was[1:]


def _holds(x: Any, were: Any) -> bool:
    return bool(contents(x) == were)


def _short(x: Any) -> str:
    text = repr(x)
    return text if len(text) <= 40 else f"{text[:37]}..."
