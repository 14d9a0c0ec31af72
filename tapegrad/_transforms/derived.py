"""Copies and pickles of functions that transforms return, as recipes that make them again.

`deepcopy` does not copy a closure. In the deep copy of a model it would still compute with the parameters of the
original.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from copy import deepcopy
from functools import partial, reduce, update_wrapper, wraps
from types import CellType, FunctionType, MethodType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
_HOLDERS = (list, dict, set, frozenset, deque, MethodType)


class Derived:
    """A callable that stands for a function, and for a method in a class.

    As with functions, the copy of one that can be imported by its name is the same object, and pickle keeps the name.
    A deep copy of another one has copies of all that its function can reach by its object, closure and defaults.
    """

    def recipe(self) -> tuple[Any, ...]:
        """Return the arguments of `__init__` that make this object again."""
        raise NotImplementedError

    def wrap(self, function: Any) -> None:
        """Take the name and docstring of a function, and its attributes unless it is a Derived object."""
        update_wrapper(self, function, updated=() if isinstance(function, Derived) else ("__dict__",))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Bind as a method: the instance is the first argument."""
        return self if instance is None else MethodType(self, instance)

    def __copy__(self) -> Any:
        return self if _is_named(self) else type(self)(*self.recipe())

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if _is_named(self):
            return self
        made = memo[id(self)] = object.__new__(type(self))  # the function's closure may hold this object
        type(self).__init__(made, *_copied(self.recipe(), memo))
        return made

    def __reduce__(self) -> Any:
        if _is_named(self):
            return vars(self)["__qualname__"]
        return object.__new__, (type(self),), self.recipe()

    def __setstate__(self, recipe: tuple[Any, ...]) -> None:
        type(self).__init__(self, *recipe)


def _is_named(x: Derived) -> bool:
    """Return whether an object can be imported by its name, as a decorated function of a module can."""
    names = vars(x)
    try:
        found: Any = reduce(getattr, str(names["__qualname__"]).split("."), sys.modules[names["__module__"]])
    except (KeyError, AttributeError):
        return False
    return found is x


def _copied(x: Any, memo: dict[int, Any]) -> Any:
    """Return a deep copy; functions with a closure or defaults are copied too."""
    kind = type(x)
    if kind is tuple:
        return tuple([_copied(i, memo) for i in x])
    if kind is dict:
        return {k: _copied(v, memo) for k, v in x.items()}
    if kind is partial:
        return partial(_copied(x.func, memo), *_copied(x.args, memo), **_copied(x.keywords, memo))
    if kind is FunctionType and (x.__closure__ or x.__defaults__ or x.__kwdefaults__):
        return memo[id(x)] if id(x) in memo else _copied_function(x, memo)
    try:
        return deepcopy(x, memo)
    except Exception:
        if kind.__module__.partition(".")[0] not in sys.stdlib_module_names or isinstance(x, _HOLDERS):
            raise
        return x  # a lock, a file, a module


def _copied_function(f: FunctionType, memo: dict[int, Any]) -> Any:
    cells = tuple([CellType() for _ in f.__closure__ or ()])
    made = memo[id(f)] = FunctionType(f.__code__, f.__globals__, f.__name__, None, cells or None)
    update_wrapper(made, f)
    made.__dict__.pop("__wrapped__", None)
    made.__dict__.update({k: _copied(v, memo) for k, v in vars(f).items()})
    made.__defaults__, made.__kwdefaults__ = _copied(f.__defaults__, memo), _copied(f.__kwdefaults__, memo)
    for new, old in zip(cells, f.__closure__ or (), strict=True):
        try:
            contents = old.cell_contents
        except ValueError:  # not assigned yet
            continue
        new.cell_contents = _copied(contents, memo)
    return made


class Transformed(Derived):
    """The function that a transform, such as `grad`, returns."""

    _recipe: tuple[Any, ...]
    _run: Callable[..., Any]

    def __init__(self, transform: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        run = transform.__wrapped__(*args, **kwargs)
        # An inlined copy of `wrap`, in a third of the time: some programs make a gradient function at each step.
        own = vars(self)
        if not isinstance(run.__wrapped__, Derived):
            own.update(run.__dict__)
        own["__module__"], own["__doc__"] = run.__module__, run.__doc__
        own["__name__"], own["__qualname__"] = run.__name__, run.__qualname__
        own["__wrapped__"], own["_run"], own["_recipe"] = run.__wrapped__, run, (transform, args, kwargs)

    def recipe(self) -> tuple[Any, ...]:
        """Return the transform and its arguments."""
        return self._recipe

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<{self._recipe[0].__name__} of {getattr(self, '__qualname__', 'a function')}>"


def derived(transform: F) -> F:
    """Declare a transform: a public function that returns a closure, with `__wrapped__`, around its argument."""

    @wraps(transform)
    def made(*args: Any, **kwargs: Any) -> Any:
        return Transformed(made, args, kwargs)

    return made  # type: ignore[return-value]
