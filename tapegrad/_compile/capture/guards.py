"""Guards: checks that things outside of the function are as a captured call found them.

They are generated code, one line a place, that looks at identities, types, lengths and plain values: 10 to 30 ns each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from tapegrad._compile.capture.bytecode import is_read, item_is_read, length_is_read
from tapegrad._compile.capture.graph import Held
from tapegrad._compile.capture.guard_code import Check, GuardCode, same_value
from tapegrad._compile.capture.guard_conditions import (
    FunctionCondition,
    TypeCondition,
    bases_of,
    condition_of,
)
from tapegrad._compile.capture.guard_sources import PLAIN, Place, Places, contents
from tapegrad._compile.capture.slots import StateBox

_ITEMS = ("item", "dict item", "list item")


class Guards:
    """The guards of a captured call: values that it found, except those that it changed, as a replayed call does not.

    places: those that are looked at; counted: names to which the call gave another number, and reads. Nothing found is
    held but plain values, functions, and classes of modules.
    """

    def __init__(self, places: Places, leaves: list[Any], held: Iterable[Held], pinned: set[int]) -> None:
        unchanged = _unchanged(places, leaves)
        self.counted = _counted(places, unchanged, leaves)
        bases = {id(base) for h in held if h.place is None for base in bases_of(h.array)}
        self.places: list[Place] = []
        self._conditions: dict[Place, Any] = {}
        for place in places.all:
            if place in unchanged:
                self.places.append(place)
                self._conditions[place] = condition_of(place, bases, pinned)
        places.forget()

    def function(self, held: list[Held], states: dict[int, StateBox], growing: Iterable[str] = ()) -> Check:
        """Return a check of the leaves of a call: it gives the raw arrays to read, or the number of a place that fails.

        states: the boxes of the Tensors that a program has as state, by identity; growing: containers, by where they
        are, that may have further items.
        """
        code = GuardCode()
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
        self, code: GuardCode, place: Place, named: bool, states: dict[int, StateBox], known: set[Place], growing: bool
    ) -> None:
        x = code.source(place)
        check = self._conditions[place]
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
            was = check.was()
            box = None if was is None else states.get(id(was))
            if box is not None and box.tensor is was:
                code.fails(f"{x} is not {code.constant(box)}.tensor", place)
            else:
                c = code.constant(check.was)
                code.fails(f"((v := {x}) is not {c}() or v is None) and unlike(v, {code.constant(check)})", place)
        elif kind == "whole":
            c = code.constant(check.thing)
            code.fails(f"(v := {x}) is not {c}() or v is None" if check.weak else f"{x} is not {c}", place)
        elif kind == "array":
            code.fails(check.source(x, code.constant), place)
        elif type(check) is FunctionCondition:
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
        was = self._conditions[place]
        if type(was) is not TypeCondition or was.contents is None:
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
        """Describe how a place has changed."""
        place = next(p for p in self.places if p.number == number)
        was = self._conditions[place]
        try:
            now = _now(place, leaves)
        except Exception:
            return f"{place.name} is gone"
        if place.kind == "plain":
            return f"{place.name} was {_short(was)} and is {_short(now)}"
        if place.kind == "parts" and type(was) is TypeCondition and type(now) is was.type:
            return f"{place.name} has other items"
        return f"{place.name} is another {type(now).__name__}"


def _unchanged(places: Places, leaves: list[Any]) -> set[Place]:
    """Return the places that a call has left as it found them."""
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
        if now is place.value or (place.kind == "plain" and same_value(place.value, now)):
            found.add(place)
    return {p for p in found if p.kind != "same" or p.other in found}


def _counted(places: Places, unchanged: set[Place], leaves: list[Any]) -> list[str]:
    """Return the names to which a call gave another plain value, or another length, and which its code reads."""
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
    """Return the last part of a dotted name."""
    return name.rpartition(".")[2]


def _is_sequence(x: Any) -> bool:
    return isinstance(x, (list, deque))


def _is_other_length(place: Place) -> bool:
    """Say whether a container has got, or lost, items while a call was captured."""
    was, now = place.contents, contents(place.value)
    sizes = [v if type(v) is int else len(v) for v in (was, now) if v is not None]
    return len(sizes) == 2 and sizes[0] != sizes[1]


def _now(place: Place, leaves: list[Any]) -> Any:
    return place.read(None if place.parent is None else _now(place.parent, leaves), leaves)


def _short(x: Any) -> str:
    text = repr(x)
    return text if len(text) <= 40 else f"{text[:37]}..."
