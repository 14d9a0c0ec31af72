"""Tracers in the places of raw arrays that a search has found, while a call is captured."""

from __future__ import annotations

from math import prod
from typing import Any

from tapegrad._compile.capture.errors import written_in
from tapegrad._compile.capture.graph import SMALL, Graph, is_marked, mark_of
from tapegrad._compile.capture.guard_sources import Place, Places
from tapegrad._engine.dispatch import backend_of


class RawArrayTracers:
    """Tracer arrays in the places of raw ones; there are none where the call is tentative.

    fresh: whether a library, which takes no others than its own arrays, has made some in the call before: then those
    that cannot be written to stay.
    """

    def __init__(self, graph: Graph, places: Places, fresh: bool = False) -> None:
        self.graph, self.fresh = graph, fresh
        self.types: set[type] = set()  # of the arrays that they stand for
        self._put: list[tuple[Place, Any]] = []
        self._left: list[Place] = []  # of arrays that stay
        graph.found = dict(places.arrays)
        if graph.tentative:
            return
        try:
            self._put_all(places)
        except BaseException:
            self.put_back()
            raise

    def _put_all(self, places: Places) -> None:
        """Put a stand-in in each place of an array; of a tuple that holds one, which cannot be written to, another."""
        other: dict[int, Any] = {}
        for i, place in places.arrays.items():
            if not (self.fresh and not backend_of[type(place.value)].mutable):
                other[i] = self.graph.hold(place.value, place)
        tuples: dict[Place, list[Place]] = {}
        for place in places.all:
            if place.parent is not None and issubclass(type(place.parent.value), tuple):
                tuples.setdefault(place.parent, []).append(place)
        for place, items in reversed(tuples.items()):  # inner ones come first
            if any(id(item.value) in other for item in items):
                values = [other.get(id(x), x) for x in tuple.__iter__(place.value)]
                other[id(place.value)] = tuple.__new__(type(place.value), values)
        there: set[Place] = set()
        for place in places.all:
            if id(place.value) in other and (place.has_array or issubclass(type(place.value), tuple)):
                new = other[id(place.value)]
                if place.parent in there and issubclass(type(place.parent.value), tuple):
                    there.add(place)
                elif place.write(new):
                    there.add(place)
                    self._put.append((place, new))
            if place.has_array:
                if place in there:
                    self.types.add(type(place.value))
                else:
                    self._left.append(place)

    def put_back(self) -> None:
        """Put the arrays back in their places, unless the function has put something else there."""
        while self._put:
            place, new = self._put.pop()
            try:
                if place.parent is not None and place.read(place.parent.value, []) is new:
                    place.write(place.value)
            except Exception:
                continue  # the function has taken it away

    def pinned(self) -> set[int]:
        """Return the raw arrays that must be the same at each call, by identity.

        These are arrays that a library computed with, and those that stayed in their places, with which it may have.
        Raises CaptureError where the call has written to one.
        """
        for array, mark in self.graph.pinned.values():
            if mark != mark_of(array):
                raise written_in(self.graph.found[id(array)].name)
        if self.graph.tentative:
            return set()
        stayed = {id(p.value) for p in self._left if prod(p.value.shape) <= SMALL or is_marked(p.value)}
        return stayed | set(self.graph.pinned)
