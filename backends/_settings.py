"""Settings: values for the whole process that a `with` block overrides; here are those that adapters read."""

from __future__ import annotations

import os
from contextvars import ContextVar
from threading import RLock, get_ident
from typing import Generic, TypeVar
from weakref import ref

T = TypeVar("T")


class Setting(Generic[T]):
    """A value for the whole process, which a `with` block overrides for its own context.

    A call that sets it does not know whether a `with` statement follows, so that its value waits. The value takes
    effect for the process when the calling thread reads the setting without having entered a block, or when the object
    that the call returned is garbage.
    """

    def __init__(self, name: str, value: T) -> None:
        self.everywhere = value
        self.here: ContextVar[_Block[T] | None] = ContextVar(f"tapegrad.{name}", default=None)
        self.waiting: list[_Call[T]] = []
        self.last: _Call[T] | None = None  # the call whose value holds for the process
        self.lock = RLock()

    def get(self) -> T:
        """Return the value in this context."""
        if self.waiting:
            self.settle()
        block = self.here.get()
        while block is not None and block.ended:
            block = block.outer
        return self.everywhere if block is None else block.value

    def settle(self) -> None:
        """Apply the values of waiting calls that no block will follow."""
        with self.lock:
            for call in tuple(self.waiting):
                if call.thread == get_ident() or call.scope() is None:
                    self.waiting.remove(call)
                    call.before, call.replaced = self.everywhere, None if self.last is None else ref(self.last)
                    self.everywhere, self.last = call.value, call

    def withdraw(self, call: _Call[T]) -> None:
        """Restrict the value of a call to a block."""
        with self.lock:
            if call in self.waiting:
                self.waiting.remove(call)
            elif self.last is call:
                self.everywhere, self.last = call.before, call.previous()
            else:  # the call after it, if there still is one, takes over the value that it replaced
                later = self.last
                while later is not None and later.previous() is not call:
                    later = later.previous()
                if later is not None:
                    later.before, later.replaced = call.before, call.replaced


class _Call(Generic[T]):
    """A call that sets a value.

    before: the value of the process that it replaced; replaced: the call that had set that one, held weakly, since it
    lives with the object that it returned.
    """

    def __init__(self, scope: Scope[T], value: T) -> None:
        self.scope, self.value, self.thread = ref(scope), value, get_ident()
        self.before = value
        self.replaced: ref[_Call[T]] | None = None

    def previous(self) -> _Call[T] | None:
        """Return the call whose value this one replaced, None if no block can follow that any more."""
        return None if self.replaced is None else self.replaced()


class _Block(Generic[T]):
    """A `with` block in a context; outer: the enclosing block."""

    def __init__(self, value: T, outer: _Block[T] | None) -> None:
        self.value, self.outer, self.ended = value, outer, False


class Scope(Generic[T]):
    """The object that a call of a setting returns: the value stays set, or holds in a `with` block of the object."""

    def __init__(self, setting: Setting[T], value: T) -> None:
        self._setting, self._value = setting, value
        self._blocks: list[_Block[T]] = []
        self._call = _Call(self, value)
        with setting.lock:
            setting.waiting.append(self._call)

    def __enter__(self) -> T:
        self._setting.withdraw(self._call)
        here = self._setting.here
        outer = here.get()
        while outer is not None and outer.ended:
            outer = outer.outer
        block = _Block(self._value, outer)
        self._blocks.append(block)
        here.set(block)
        return self._value

    def __exit__(self, *error: object) -> None:
        block = self._here() or self._blocks[-1]
        self._blocks.remove(block)
        block.ended = True
        if self._setting.here.get() is block:
            self._setting.here.set(block.outer)

    def _here(self) -> _Block[T] | None:
        """Return the innermost block of this scope in this context."""
        block = self._setting.here.get()
        while block is not None and block not in self._blocks:
            block = block.outer
        return block

    def __repr__(self) -> str:
        self._setting.get()
        return f"<default {self._value!r}>"


# Products of float32 on CuPy round their factors to TF32; the variable is CuPy's.
TF32 = Setting("tf32", os.environ.get("CUPY_TF32") == "1")
DETERMINISTIC = Setting("deterministic", False)  # whether repeated indices are added and written in a fixed order
