"""Sources of guards: the places where a function finds objects from outside, by holder and key.

It goes by names: from a function to the globals, closure cells and defaults that its code can name, from an object to
the attributes that any code found so far names, and to the methods of these names, whose code names more. The items of
containers are all taken. Counters and lists that only other methods use are so left out.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import is_dataclass
from dis import get_instructions
from enum import Enum
from functools import cached_property, lru_cache, partial
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any, final
from weakref import ref

from tapegrad import backends
from tapegrad._engine.dispatch import backend_of
from tapegrad._engine.tensor import Tensor
from tapegrad._engine.tree import UNGUARDED, is_layer
from tapegrad.backends import Array

LIMIT = 5_000  # places that are looked at
MOST = 256  # items of a container that are looked at: of longer ones, only the length is
FEW, MANY = 16, 2_000  # lists of plain values of such lengths are compared as a whole
PLAIN = frozenset((int, float, complex, bool, str, bytes, type(None), type(...), slice, range))
_NUMBERS = (int, float, complex, str, bytes, Enum)  # these and types derived from them
_SEQUENCES = (list, tuple, deque)
_SETS = (set, frozenset)
# Libraries whose code names nothing of the user's, except in closures and attributes.
_LIBRARIES = sys.stdlib_module_names | {
    "numpy", "tapegrad", "scipy", "torch", "jax", "jaxlib", "cupy", "cupyx", "dask", "array_api_strict", "ndonnx",
    "array_api_compat", "array_api_extra", "pandas", "sklearn", "matplotlib", "threadpoolctl", "pytest", "_pytest",
}  # fmt: skip
# Methods that code calls without their names; those that make an object are called by the name of its class.
_UNNAMED = frozenset({
    "__call__", "__getattr__", "__getattribute__", "__setattr__", "__iter__", "__next__", "__len__", "__getitem__",
    "__setitem__", "__contains__", "__enter__", "__exit__", "__bool__", "__eq__", "__hash__", "__float__", "__int__",
    "__index__", "__array__", "__neg__", "__pos__", "__abs__", "__add__", "__radd__", "__iadd__", "__sub__", "__rsub__",
    "__isub__", "__mul__", "__rmul__", "__imul__", "__truediv__", "__rtruediv__", "__itruediv__", "__matmul__",
    "__rmatmul__", "__pow__", "__rpow__", "__lt__", "__le__", "__gt__", "__ge__",
})  # fmt: skip
_PACKAGES = "site-packages"  # in the names of installed files
_MAKING = frozenset(("__new__", "__init__", "__post_init__"))
# Names of functions that read attributes by strings, and of means to read all of them.
_BY_STRING = frozenset(("getattr", "hasattr", "setattr", "attrgetter"))
_ALL = frozenset(("vars", "__dict__", "__slots__", "fields", "asdict", "astuple"))


@final
class Place:
    """A place where something is found: reached from a holder, another place, by a key.

    how: the way from the holder, a name in `READ`, or "fixed" for one object for good, "weak" for one that
    is held weakly, and "argument" for a leaf of the arguments; value: the object there, while a call is captured; kind:
    of that object, "plain", "tensor", "array", "same" (as at the place `other`), "whole" (by identity), "parts" (a
    holder of places), "absent" (nothing) or "space" (the globals of a module); contents: the number of items of a
    container, the elements of a set, or those of a list of many plain values; name: in words.
    """

    __slots__ = ("contents", "how", "key", "kind", "name", "number", "other", "parent", "value", "where")

    def __init__(self, number: int, parent: Place | None, how: str, key: Any, name: str, value: Any) -> None:
        self.number, self.parent, self.how, self.key, self.name, self.value = number, parent, how, key, name, value
        self.kind = ""
        self.other: Place | None = None
        self.contents = contents(value)
        keyed = repr(key) if type(key) in PLAIN else str(id(key))  # a fixed object's, which the function holds
        self.where: str = f"{'' if parent is None else parent.where}/{how} {keyed}"

    def read(self, holder: Any, leaves: list[Any]) -> Any:
        """Return the object at this place now, read from the holder of now."""
        if self.how == "fixed":
            return self.key
        if self.how == "weak":
            return self.key()
        return leaves[self.key] if self.how == "argument" else READ[self.how](holder, self.key)

    @property
    def has_array(self) -> bool:
        """True if a raw array is at this place, perhaps one that is at another one as well."""
        return self.kind == "array" or (self.other is not None and self.other.kind == "array")

    def write(self, value: Any) -> bool:
        """Put something else at this place; return whether that can be done."""
        if self.how not in _WRITE or self.parent is None:
            return False
        try:
            _WRITE[self.how](self.parent.value, self.key, value)
        except Exception:
            return False
        return True


READ: dict[str, Callable[[Any, Any], Any]] = {
    "attribute": getattr,
    "hidden attribute": object.__getattribute__,
    "item": lambda x, i: x[i],
    "dict item": dict.__getitem__,
    "list item": list.__getitem__,
    "tuple item": tuple.__getitem__,
    "cell": lambda f, i: f.__closure__[i].cell_contents,
    "default": lambda f, i: f.__defaults__[i],
    "keyword default": lambda f, k: f.__kwdefaults__[k],
    "context": lambda v, _: v.get(None),
    "referent": lambda r, _: r(),
}


def _write_attribute(x: Any, name: str, value: Any) -> None:
    if isinstance(x, type):
        type.__setattr__(x, name, value)
        return
    own = _own(x)
    if name in own:
        own[name] = value
    else:
        member = _of_class(type(x), name)
        if type(member) is not MemberDescriptorType:
            raise AttributeError(name)  # of its class
        member.__set__(x, value)


def _write_default(f: FunctionType, i: int, value: Any) -> None:
    values = list(f.__defaults__ or ())
    values[i] = value
    f.__defaults__ = tuple(values)


def _write_cell(f: FunctionType, i: int, value: Any) -> None:
    f.__closure__[i].cell_contents = value  # type: ignore[index]


_WRITE: dict[str, Callable[[Any, Any, Any], None]] = {
    "attribute": _write_attribute,
    "hidden attribute": _write_attribute,
    "item": lambda x, i, v: x.__setitem__(i, v),
    "dict item": dict.__setitem__,
    "list item": list.__setitem__,
    "cell": _write_cell,
    "default": _write_default,
    "keyword default": lambda f, k, v: f.__kwdefaults__.__setitem__(k, v),
}


class Places:
    """The places that a function can reach, near ones first; holders come before their contents.

    all: of them; arrays: the first place of each raw array, by the array's identity; codes: code that can be run.
    Values are held until `forget` is called. No code of the user's is run.
    """

    def __init__(self, function: Any, leaves: Iterable[Any] = ()) -> None:
        self.all: list[Place] = []
        self.arrays: dict[int, Place] = {}
        self._at: dict[int, Place] = {}  # the first place of each object that has parts
        self._spaces: dict[int, Place] = {}  # of the globals of modules
        self._fixed: dict[int, Any] = {}
        self.codes: set[CodeType] = set()
        self._names: set[str] = set(_UNNAMED)
        self._everything = False
        self._asked: set[str] = set()
        self._waiting: dict[str, list[Place]] = {}
        self._todo: deque[Place] = deque()
        self._root(function, "fixed", function, "")
        for i, x in enumerate(leaves):
            if type(x) not in PLAIN and type(x) is not Tensor and not _is_array(x):
                self._root(x, "argument", i, f"argument {i}")
        while self._todo and len(self.all) < LIMIT:
            place = self._todo.popleft()
            self._parts(place, place.value)
        for place in [p for p in self.all if p.kind == "parts" and self._asked]:
            self._absent(place, place.value)
        self._waiting.clear()

    def names_of_types(self, types: set[type]) -> tuple[set[str], set[str]]:
        """Return the names of types, of objects that are one or hold some, and of dicts that have one for a key."""
        names, tables = {t.__name__ for t in types}, set()
        for place in self.all:
            x, name = place.value, place.name.rpartition(".")[2]
            if isinstance(x, type):
                if x in types:
                    names.add(name)
            elif isinstance(x, dict):
                if any(isinstance(k, type) and k in types for k in dict.keys(x)):
                    tables.add(name)
            elif isinstance(x, (*_SEQUENCES, *_SETS)) and any(isinstance(v, type) and v in types for v in iter(x)):
                names.add(name)
        return names, tables

    def forget(self) -> None:
        """Let go of all objects that were found."""
        for place in self.all:
            place.value = None
        self.arrays.clear()
        self._at.clear()
        self._fixed.clear()

    def _absent(self, place: Place, x: Any) -> None:
        """Add the attributes that code asks for by strings, as `hasattr` does, and that an object lacks."""
        if isinstance(x, type) or type(x) is FunctionType or type(_own_or_none(x)) is not dict:
            return
        for name in sorted(self._asked - _own(x).keys()):
            if _of_class(type(x), name) is _NOTHING:
                absent = Place(len(self.all), place, "attribute", name, f"{place.name}.{name}", _NOTHING)
                absent.kind = "absent"
                self.all.append(absent)

    def _root(self, x: Any, how: str, key: Any, name: str) -> Place:
        place = Place(len(self.all), None, how, key, name, x)
        self.all.append(place)
        if id(x) in self._at:
            place.kind, place.other = "same", self._at[id(x)]
        else:
            place.kind = "parts"
            self._at[id(x)] = place
            self._todo.append(place)
        return place

    def _function(self, f: Any) -> None:
        """Go on to a function that a class has, which is taken as constant."""
        if id(f) not in self._fixed and id(f) not in self._at:
            self._fixed[id(f)] = f
            try:
                self._root(f, "weak", ref(f), getattr(f, "__name__", ""))
            except TypeError:
                self._root(f, "fixed", f, "")

    def _add(self, parent: Place, how: str, key: Any, name: str, x: Any) -> None:
        if len(self.all) >= LIMIT:
            return
        place = Place(len(self.all), parent, how, key, name, x)
        self.all.append(place)
        kind = type(x)
        if _is_plain(x):
            place.kind = "plain"
        elif kind is Tensor:
            place.kind = "tensor"
        elif _is_array(x):
            place.kind = "array"
            place.other = self.arrays.get(id(x))
            if place.other is None:
                self.arrays[id(x)] = place
            else:
                place.kind = "same"
        elif id(x) in self._at:
            place.kind, place.other = "same", self._at[id(x)]
        else:
            self._at[id(x)] = place
            place.kind = "parts" if _has_parts(x, kind) else "whole"
            self._todo.append(place)

    def _parts(self, place: Place, x: Any) -> None:
        kind = type(x)
        if kind is FunctionType:
            if _may_be_the_users(x):
                self._parts_of_function(place, x)
        elif kind is MethodType:
            owner = x.__func__.__code__.co_varnames[:1] if type(x.__func__) is FunctionType else ()
            self._add(place, "attribute", "__func__", place.name, x.__func__)
            self._add(place, "attribute", "__self__", owner[0] if owner else "self", x.__self__)
        elif kind is BuiltinFunctionType:
            pass
        elif kind is ContextVar:
            self._add(place, "context", None, f"{place.name}.get()", x.get(None))
        elif kind is ref:
            self._add(place, "referent", None, f"{place.name}()", x())
        elif issubclass(kind, type):
            self._parts_of_class(place, x)
        elif issubclass(kind, partial):
            self._add(place, "attribute", "func", f"{place.name}.func", x.func)
            self._add(place, "attribute", "args", f"{place.name}.args", x.args)
            self._add(place, "attribute", "keywords", f"{place.name}.keywords", x.keywords)
        elif issubclass(kind, dict):
            if dict.__len__(x) <= MOST:
                how = "item" if kind is dict else "dict item"
                for key, v in list(dict.items(x)):
                    self._add(place, how, key, f"{place.name}[{_short(key)}]", v)
        elif issubclass(kind, _SEQUENCES):
            base = next(c for c in _SEQUENCES if issubclass(kind, c))
            if type(place.contents) is int and len(x) <= MOST:
                how = "item" if kind is base or base is deque else f"{base.__name__} item"
                for i, v in enumerate(list(base.__iter__(x))):
                    self._add(place, how, i, f"{place.name}[{i}]", v)
        if not (_is_builtin_container(kind) or issubclass(kind, type) or kind in _CALLED):
            self._parts_of_object(place, x, kind)

    def _parts_of_function(self, place: Place, f: FunctionType) -> None:
        ours = _of_library(_module_of(f))
        for i, (name, cell) in enumerate(zip(f.__code__.co_freevars, f.__closure__ or (), strict=True)):
            try:
                x = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
            if ours and not (callable(x) and _may_be_the_users(x)):
                continue
            self._add(place, "cell", i, name, x)
        arguments = f.__code__.co_varnames[: f.__code__.co_argcount]
        defaults = f.__defaults__ or ()
        for i, (name, x) in enumerate(zip(arguments[len(arguments) - len(defaults) :], defaults, strict=True)):
            self._add(place, "default", i, name, x)
        for name, x in (f.__kwdefaults__ or {}).items():
            self._add(place, "keyword default", name, name, x)
        for name in list(_own(f)):
            if name == "__wrapped__":
                self._function(f.__wrapped__)  # type: ignore[attr-defined]
            elif name in self._names:
                self._attribute(place, name)
            else:
                self._waiting.setdefault(name, []).append(place)
        if not ours:
            names = self._code(f.__code__)
            if _PACKAGES in f.__code__.co_filename:
                self._functions(f.__globals__, names)
            else:
                self._globals(f.__globals__, globals_of(f.__code__), names, "")

    def _globals(self, space: dict[str, Any], names: set[str], inside: set[str], prefix: str) -> None:
        """Add the objects of names in a module; of modules among these, the attributes that the code names."""
        root = self._spaces.get(id(space))
        if root is None:
            root = self._spaces[id(space)] = Place(len(self.all), None, "fixed", space, "", space)
            root.kind = "space"
            self.all.append(root)
        for name in sorted(names & space.keys()):
            x = space[name]
            if issubclass(type(x), ModuleType):
                if vars(x) is not space and not _of_library(x.__name__):
                    self._globals(vars(x), inside - {name}, inside - {name}, f"{prefix}{name}.")
                elif x is sys:  # others keep things there, too
                    self._globals(vars(x), (inside - {name}) - _OF_SYS, set(), "sys.")
                continue
            where = (root, name)
            if where not in self._seen_globals:
                self._seen_globals.add(where)
                self._add(root, "item", name, f"{prefix}{name}", x)

    @cached_property
    def _seen_globals(self) -> set[tuple[Place, str]]:
        return set()

    def _functions(self, space: dict[str, Any], names: set[str]) -> None:
        """Go on to the functions and classes that a package names, whose other globals are taken to stay."""
        for name in sorted(names & space.keys()):
            kind = type(space[name])
            if kind is FunctionType or (issubclass(kind, type) and not _of_library(space[name].__module__)):
                self._function(space[name])

    def _code(self, code: CodeType) -> set[str]:
        """Note the names that code has for attributes; return them, which are those of globals too."""
        names, strings = set(code.co_names), []
        codes = [code]
        for c in codes:
            names.update(c.co_names)
            for const in c.co_consts:
                if type(const) is CodeType:
                    codes.append(const)
                elif type(const) is str:
                    strings.append(const)
        if code not in self.codes:
            self.codes.update(codes)
            asked = {s for s in strings if s.isidentifier()} if names & _BY_STRING else set()
            self._asked |= asked
            new = names | asked
            for name in new - self._names:
                self._names.add(name)
                for place in self._waiting.pop(name, ()):
                    self._attribute(place, name)
            if not self._everything and names & _ALL:
                self._everything = True
                waiting, self._waiting = self._waiting, {}
                for name, places in waiting.items():
                    for place in places:
                        if isinstance(place.value, type) or name not in _own(place.value):
                            self._waiting.setdefault(name, []).append(place)
                        else:
                            self._attribute(place, name)
        return names

    def _parts_of_class(self, place: Place, cls: type) -> None:
        if _of_library(cls.__module__):
            return
        for base in cls.__mro__:
            for name in [] if _of_library(base.__module__) else list(vars(base)):
                if name in self._names or name in _MAKING:
                    self._attribute(place, name)
                elif not name.startswith("__"):
                    self._waiting.setdefault(name, []).append(place)

    def _parts_of_object(self, place: Place, x: Any, kind: type) -> None:
        own = _own(x)
        if "__wrapped__" in own:
            self._function(own["__wrapped__"])
        unguarded = () if is_layer(kind) else getattr(kind, UNGUARDED, None)
        if unguarded is not None:  # numbers of layers and optimisers, which our code names
            for name in own:
                if name not in unguarded:
                    self._attribute(place, name)
        if _is_ours(kind):  # a function that holds one of the user's
            for f in list(own.values()):
                if type(f) in (FunctionType, MethodType, partial):
                    self._function(f)
            return
        every = self._everything or is_dataclass(kind)
        names = dict.fromkeys([k for k in own if type(k) is str])
        for base in kind.__mro__:
            if not _of_library(base.__module__) or "__slots__" in vars(base):
                names.update(dict.fromkeys(vars(base)))
        for name in list(names):
            if name in self._names or (every and (name in own or _is_slot(kind, name))):
                self._attribute(place, name)
            elif name not in _MAKING:
                self._waiting.setdefault(name, []).append(place)

    def _attribute(self, place: Place, name: str) -> None:
        """Add an attribute of an object or a class, or go on to the functions behind it."""
        x = place.value
        made = isinstance(x, type)
        own = {} if made else _own(x)
        found = _of_class(x if made else type(x), name)
        if made and type(found) is MemberDescriptorType:
            return
        if type(found) is MemberDescriptorType:
            try:
                v = found.__get__(x, type(x))
            except AttributeError:
                return
        elif name in own and not hasattr(type(found), "__set__"):
            v = own[name]
        elif found is _NOTHING or type(found) is GetSetDescriptorType:
            return
        elif type(found) is not Tensor and (hasattr(type(found), "__get__") or _is_ours(type(found))):
            for f in _functions_of(found):
                self._function(f)
            return
        else:
            v = found
        reader: Any = type(x).__getattribute__
        plain = reader is type.__getattribute__ or reader is object.__getattribute__
        how = "attribute" if plain and name.isidentifier() else "hidden attribute"
        self._add(place, how, name, f"{place.name}.{name}" if place.name else name, v)


_NOTHING = object()
_CALLED = (FunctionType, MethodType, BuiltinFunctionType)
_OF_SYS = frozenset(vars(sys))


def contents(x: Any) -> Any:
    """Return how many items a container has, of a longer list of plain values these.

    Of a set, its elements are returned if they are plain, else their identities.
    """
    kind = type(x)
    if issubclass(kind, dict):
        return dict.__len__(x)
    for base in _SEQUENCES:
        if issubclass(kind, base):
            many = base is list and FEW < len(x) <= MANY and all([type(e) in PLAIN for e in x])
            return list(x) if many else base.__len__(x)
    for some in _SETS:
        if issubclass(kind, some):
            elements = list(some.__iter__(x))
            plain = all([type(e) in PLAIN for e in elements])
            return frozenset(elements) if plain else tuple(sorted(map(id, elements)))
    return None


def _own_or_none(x: Any) -> Any:
    try:
        return object.__getattribute__(x, "__dict__")
    except AttributeError:
        return None


def _own(x: Any) -> dict[str, Any]:
    own = _own_or_none(x)
    return own if type(own) is dict else {}


def _of_class(cls: type, name: str) -> Any:
    for base in cls.__mro__:
        if name in vars(base):
            return vars(base)[name]
    return _NOTHING


def _is_slot(cls: type, name: str) -> bool:
    return type(_of_class(cls, name)) is MemberDescriptorType


def _functions_of(x: Any) -> Iterator[Any]:
    """Go through the functions behind a descriptor: of a method, a property, a compiled method."""
    kind = type(x)
    if kind is FunctionType:
        yield x
    elif isinstance(x, (staticmethod, classmethod)):
        yield x.__func__
    elif isinstance(x, property):
        yield from (f for f in (x.fget, x.fset) if f is not None)
    elif isinstance(x, cached_property):
        yield x.func
    else:
        own = _own(x)
        yield from (f for f in own.values() if type(f) in (FunctionType, MethodType, partial))


def _root_of(module: Any) -> str:
    return str(module).partition(".")[0]


def _module_of(f: FunctionType) -> str:
    """Return the name of the module that a function was written in; `functools.wraps` gives it another `__module__`."""
    return str(f.__globals__.get("__name__"))


def _is_ours(kind: type) -> bool:
    return _root_of(kind.__module__) == "tapegrad"


def _of_library(module: Any) -> bool:
    return _root_of(module) in _LIBRARIES


def _may_be_the_users(x: Any) -> bool:
    """Say whether a function may hold objects of the user's: it is no function that a library has in its modules."""
    if type(x) is not FunctionType or not _of_library(_module_of(x)):
        return True
    modules = (sys.modules.get(_module_of(x)), sys.modules.get(_root_of(_module_of(x))))
    return not any(m is not None and vars(m).get(x.__name__) is x for m in modules)


def _is_array(x: Any) -> bool:
    kind = type(x)
    if kind in backend_of:
        return True
    try:
        backend = backends.of_type(kind)
    except TypeError:  # a masked array, which is refused where it is used
        return False
    return backend is not None and isinstance(getattr(x, "shape", None), tuple) and hasattr(x, "dtype")


def _is_plain(x: Any) -> bool:
    """Say whether a value can never change, nor its parts."""
    kind = type(x)
    if kind is tuple:
        return len(x) <= MOST and all(map(_is_plain, x))
    return kind in PLAIN or issubclass(kind, _NUMBERS) or _is_scalar(x)


def _is_scalar(x: Array) -> bool:
    return type(x) in backend_of and backend_of[type(x)].as_scalar(x) is not None


def _is_builtin_container(kind: type) -> bool:
    return kind in (dict, list, tuple, set, frozenset, deque, MappingProxyType, partial)


def _has_parts(x: Any, kind: type) -> bool:
    """Say whether an object's parts are looked at, so that another object with the same parts is as good."""
    if kind is FunctionType:
        return _may_be_the_users(x)
    if kind is MethodType:
        return True
    if issubclass(kind, (dict, list, tuple, set, frozenset, deque, partial)):
        return True
    if issubclass(kind, type) or kind is BuiltinFunctionType:
        return False
    if _of_library(kind.__module__) and kind is not SimpleNamespace:
        return False
    return type(_own_or_none(x)) is dict or any(vars(base).get("__slots__") for base in kind.__mro__)


def _short(key: Any) -> str:
    return repr(key) if type(key) in PLAIN else f"<{type(key).__name__}>"


@lru_cache(4096)
def globals_of(code: CodeType) -> set[str]:
    """Return the globals that code, and code inside it, names; all names and strings in it if it may ask by strings."""
    found: set[str] = set()
    codes = [code]
    for c in codes:
        found.update(str(i.argval) for i in get_instructions(c) if "GLOBAL" in i.opname or i.opname == "LOAD_NAME")
        if not _ASKING.isdisjoint(c.co_names):
            found.update(c.co_names, [s for s in c.co_consts if type(s) is str and s.isidentifier()])
        codes.extend(const for const in c.co_consts if type(const) is CodeType)
    return found


_ASKING = frozenset(("globals", "eval", "exec", "vars", "__globals__", "__dict__"))
