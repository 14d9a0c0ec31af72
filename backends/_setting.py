"""A value for the whole process that a `with` block overrides; what adapters ask of it lives in this folder."""

from __future__ import annotations

import os
from contextvars import ContextVar, Token
from typing import Generic, TypeVar

T = TypeVar("T")


class Setting(Generic[T]):
    """A value for the whole process, which a `with` block overrides for its own context."""

    def __init__(self, name: str, value: T) -> None:
        self.everywhere = value
        self.here: ContextVar[T] = ContextVar(f"tapegrad.{name}")

    def get(self) -> T:
        """Return the value that holds here and now."""
        return self.here.get(self.everywhere)


class Scope(Generic[T]):
    """What setting a default returns: leave it and it stays set, or use it in a `with` block."""

    def __init__(self, setting: Setting[T], value: T) -> None:
        self._setting, self._value, self._previous = setting, value, setting.everywhere
        self._tokens: list[Token[T]] = []
        setting.everywhere = value

    def __enter__(self) -> T:
        if not self._tokens:
            self._setting.everywhere = self._previous
        self._tokens.append(self._setting.here.set(self._value))
        return self._value

    def __exit__(self, *error: object) -> None:
        self._setting.here.reset(self._tokens.pop())

    def __repr__(self) -> str:
        return f"<default {self._value!r}>"


# Whether products of float32 on CuPy round their factors to TF32; CuPy has a variable for its own.
TF32 = Setting("tf32", os.environ.get("CUPY_TF32") == "1")
DETERMINISTIC = Setting("deterministic", False)  # whether repeated indices are added and written in a fixed order
