"""Protocols of a level of `vmap` and of a capture, as the engine sees them."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

from tapegrad.backends import Array, Backend


class Level(Protocol):
    """A call of `vmap` while its function runs.

    Attributes
    ----------
    size : int
        The number of examples.
    depth : int
        The number of nested calls, this one included.
    outer : Level or None
        The enclosing call.
    """

    @property
    def size(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def outer(self) -> Any: ...
    def array(self, whole: Any, mapped: bool) -> Array:
        """Return a batched array: along the first axis of `whole` if it is mapped, else `whole` for all."""

    def lift(self, x: Any) -> Array:
        """Return a Tensor from outside as a batched array, the same for all examples."""

    def backend(self, backend: Backend) -> Backend:
        """Return the adapter for arrays of this level over those of a library."""


class Tracing(Protocol):
    """A program that `tapegrad.compile` is recording, whose arrays are tracers."""

    def lift(self, array: Array) -> Array:
        """Return the tracer of a raw array from outside."""

    def untrace(self, array: Array) -> Array:
        """Return the raw array behind a tracer."""

    def backend(self, backend: Backend) -> Backend:
        """Return the adapter for tracers over the arrays of a library."""

    def alike(self, array: Array, like: Array) -> Array:
        """Return an array as a tracer if `like` is one, else as a raw array."""

    def unmixed(self, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Return operands as raw arrays if tracers and raw arrays are mixed, else None."""

    def call(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function and record the call as one node of the program."""


# The program that tapegrad.compile is capturing in this context: raw arrays from outside become its tracers.
capturing: ContextVar[Tracing | None] = ContextVar("tapegrad.capturing", default=None)
# The innermost call of tapegrad.vmap whose function runs in this context: new arrays belong to it.
mapping: ContextVar[Level | None] = ContextVar("tapegrad.mapping", default=None)
