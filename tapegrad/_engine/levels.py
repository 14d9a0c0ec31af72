"""Protocols of what the engine sees of `vmap` and of a capture while they run."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

from tapegrad.backends import Array, Backend


class Level(Protocol):
    """A call of `vmap` while its function runs.

    size: how many examples there are; depth: how many calls are nested, this one included; outer: the call around it.
    """

    @property
    def size(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def outer(self) -> Any: ...
    def array(self, whole: Any, mapped: bool) -> Array:
        """Return the array of one example: along the first axis of a Tensor if it is mapped, else all of it."""

    def lift(self, x: Any) -> Array:
        """Return the array of a Tensor from outside, the same for all examples."""

    def backend(self, backend: Backend) -> Backend:
        """Return the adapter for arrays of this level over those of a library."""


class Tracing(Protocol):
    """A program that `tapegrad.compile` is recording, whose arrays are tracers."""

    def lift(self, array: Array) -> Array:
        """Return the tracer of a raw array that comes in."""

    def untrace(self, array: Array) -> Array:
        """Return the raw array of a tracer that leaves."""

    def backend(self, backend: Backend) -> Backend:
        """Return the adapter for tracers over the arrays of a library."""

    def alike(self, array: Array, like: Array) -> Array:
        """Return an array as a tracer, or as none, as another one is."""

    def unmixed(self, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Return operands without tracers, None if none was mixed with arrays."""

    def call(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what a function gives, recorded as one node of the program."""


# The program that tapegrad.compile is recording in this context: raw arrays that come in are lifted into it.
capturing: ContextVar[Tracing | None] = ContextVar("tapegrad.capturing", default=None)
# The innermost call of tapegrad.vmap whose function is running in this context: new arrays are made for it.
mapping: ContextVar[Level | None] = ContextVar("tapegrad.mapping", default=None)
