"""The key of a call: the structure of its arguments, shapes and dtypes of arrays, static values."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterator
from dataclasses import is_dataclass
from sys import getrefcount
from types import MethodType
from typing import Any, NamedTuple
from weakref import WeakValueDictionary, ref

from tapegrad._engine.dispatch import find_backend
from tapegrad._engine.settings import precision_mode, training_mode
from tapegrad._engine.tensor import Tensor
from tapegrad._engine.tree import is_function, leaf_fields, static_fields
from tapegrad.backends import as_key

# Modules whose hashable objects are equal only if they do the same.
_BY_VALUE = sys.stdlib_module_names | {"numpy", "tapegrad"}


class Array(NamedTuple):
    """An array argument: a program is for one shape, dtype and library."""

    shape: tuple[int, ...]
    dtype: Any
    type: type
    device: Any
    requires_grad: bool | None  # None for a raw array

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


class Static(NamedTuple):
    """An argument that is no array: a program is for one value, or one object."""

    type: type
    value: Any

    def __str__(self) -> str:
        return self.value if self.type in (float, complex) else repr(self.value)


def key_of(tree: Any, leaves: list[Any]) -> Hashable:
    """Append the leaves of nested containers, in the order of `flatten`; return their part of the key of a call."""
    kind = type(tree)
    if kind is Tensor:
        leaves.append(tree)
        a = tree._array
        return Array(a.shape, a.dtype, type(a), as_key(getattr(a, "device", None)), tree._record is not None)
    if tree is None:
        return None
    if kind is tuple:
        return (kind, *[key_of(x, leaves) for x in tree])
    if isinstance(tree, list):
        return (kind, *[Static(type(x), _static(x)) if is_function(x) else key_of(x, leaves) for x in tree])
    if isinstance(tree, dict):
        return (kind, *[(k, key_of(x, leaves)) for k, x in tree.items()])
    if isinstance(tree, tuple):
        return (kind, *[key_of(x, leaves) for x in tree])
    if is_dataclass(tree) and not isinstance(tree, type):
        values = [(n, getattr(tree, n)) for n in static_fields(tree)]
        static = [(n, Static(type(v), _static(v))) for n, v in values]
        return (kind, *static, *[(n, key_of(getattr(tree, n), leaves)) for n in leaf_fields(tree)])
    leaves.append(tree)
    backend = find_backend(tree)
    if backend is not None and backend.as_scalar(tree) is None:
        return Array(tuple(tree.shape), tree.dtype, kind, as_key(getattr(tree, "device", None)), None)
    return Static(kind, _static(tree))


def key_of_modes() -> Hashable:
    """Return the part of the key of a call that stands for the modes of layers."""
    training = training_mode.get()
    return (None if training is None else Identity(training.rng), precision_mode.get())


def _static(x: Any) -> Hashable:
    """Return a static argument as a part of a key: its value if that can never change, else the object itself."""
    if type(x) is Tensor:  # state, as of batch norm
        return Identity(x)
    if type(x) is tuple or type(x) is list:
        return (type(x), *map(_static, x))
    if isinstance(x, (float, complex)) or hasattr(x, "dtype"):
        return repr(x)  # tells -0.0 from 0.0, and NaN is NaN
    if isinstance(x, slice):
        return tuple(map(_static, (x.start, x.stop, x.step)))
    if type(x) is MethodType:  # another object each time that it is asked for
        return MethodType, Identity(x.__self__), Identity(x.__func__)
    by: Any = type(x).__hash__
    if by is object.__hash__:
        return Identity(x)
    if type(x).__module__.partition(".")[0] in _BY_VALUE:
        try:
            hash(x)
        except TypeError:
            return Identity(x)
        return x  # type: ignore[no-any-return]
    return Identity(x)


def same_ones(leaves: list[Any]) -> tuple[int, ...] | None:
    """Say which Tensors among the leaves are the same one, None if all are different."""
    ids = [id(x) for x in leaves if type(x) is Tensor]
    return None if len(set(ids)) == len(ids) else tuple([ids.index(i) for i in ids])


class Identity:
    """An object that is told from others by identity, held weakly where it can be.

    All identities of an object share one holder: Python's one weak reference to it, which stands for it after its end
    as well, or a box.
    """

    __slots__ = ("_holder", "_number")

    def __init__(self, thing: object) -> None:
        self._number = id(thing)
        try:
            self._holder: Any = ref(thing)
        except TypeError:
            self._holder = _boxes.get(id(thing)) or _boxes.setdefault(id(thing), _Box(thing))

    def weakly(self) -> Any:
        """Return the object if it is held weakly and still there, else None."""
        return None if type(self._holder) is _Box else self._holder()

    def forsaken(self) -> bool:
        """Say whether nobody else has the object."""
        return type(self._holder) is _Box and self._holder.count() <= _ALONE

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self._holder is other._holder

    def __repr__(self) -> str:
        thing = self._holder()
        return "an object that is gone" if thing is None else f"a {type(thing).__name__}"


class _Box:
    """A holder of an object that has no weak references."""

    __slots__ = ("__weakref__", "_thing")

    def __init__(self, thing: object) -> None:
        self._thing = thing

    def __call__(self) -> object:
        return self._thing

    def count(self) -> int:
        """Return how often the object is held."""
        return getrefcount(self._thing)


_ALONE = _Box(object()).count()
_boxes: WeakValueDictionary[int, _Box] = WeakValueDictionary()


def identities(key: Any) -> Iterator[Identity]:
    """Go through the objects that a key tells by identity."""
    if isinstance(key, Identity):
        yield key
    elif isinstance(key, tuple):
        for x in key:
            yield from identities(x)


def changed(a: Any, b: Any, where: str = "") -> str:
    """Say where two keys differ, in words for the user."""
    if isinstance(a, (Array, Static)) or isinstance(b, (Array, Static)) or type(a) is not tuple or type(b) is not tuple:
        return f"{where or 'the arguments'}: {a} and {b}"
    if len(a) != len(b) or a[:1] != b[:1]:
        return f"{where or 'the arguments'}: containers of different structure"
    for n, (x, y) in enumerate(zip(a[1:], b[1:], strict=True)):
        if x != y:
            if type(x) is tuple and len(x) == 2 and isinstance(x[0], str) and x[0] == y[0]:
                return changed(x[1], y[1], f"{where} {x[0]!r}".strip())
            return changed(x, y, f"{where} {n}".strip())
    return "nothing"
