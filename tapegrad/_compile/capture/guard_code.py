"""Code generation for guards: one line a place, in a function of its own for each program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapegrad._compile.capture.equality import same_constant
from tapegrad._compile.capture.graph import mark_of
from tapegrad._compile.capture.guard_conditions import Identical, TensorCondition, contents_of
from tapegrad._compile.capture.guard_sources import READ, Place, contents
from tapegrad._engine.tensor import Tensor

Check = Callable[[list[Any]], Any]  # from leaves of a call to arrays that it reads, or the number of a place that fails

# The code of a guard that reads the value at a place from its holder.
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


class GuardCode:
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
            "same": same_value,
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

    def kind(self, cls: Identical) -> str:
        """Return the code of a class, which is held weakly unless it is one of its module's."""
        return f"{self.constant(cls.thing)}()" if cls.weak else self.constant(cls.thing)

    def source(self, place: Place) -> str:
        """Return the code that reads a place."""
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
        """Return the number of the place whose line raised, as an attribute or an item is gone."""
        assert error.__traceback__ is not None
        return self._places[error.__traceback__.tb_lineno - 1]


def same_value(x: Any, y: Any) -> bool:
    """Say whether two plain values, or tuples of such, are the same for good."""
    if type(x) is tuple and type(y) is tuple:
        return len(x) == len(y) and all(map(same_value, x, y))
    return same_constant(x, y)


def _unlike(x: Any, was: TensorCondition) -> bool:
    """Say whether a Tensor that no program reads is replaced by something unlike it."""
    return type(x) is not Tensor or (x.shape, x._array.dtype, type(x._array)) != (was.shape, was.dtype, was.type)


def _holds(x: Any, were: Any) -> bool:
    """Say whether a container holds the same as another one did."""
    return bool(contents(x) == were)
