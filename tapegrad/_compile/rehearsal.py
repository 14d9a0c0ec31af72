"""Rehearsal: captured calls whose effects are taken back, so that all calls that count are replays.

Some compilers round otherwise than eager calls do. A training that was stopped and goes on in another process then
differs by rounding: its first calls there are eager ones. With a rehearsal all its calls are replays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tapegrad._compile.capture.state_discovery import reachable
from tapegrad._engine.dispatch import CaptureError, backend_of
from tapegrad._engine.tensor import Tensor

MOST = 6  # calls of a rehearsal: two for most functions, a few more where gradients are None at first


class Snapshot:
    """The values and gradients of Tensors at one time."""

    def __init__(self, function: Callable[..., Any], leaves: list[Any], known: Iterable[Tensor]) -> None:
        found = [*reachable((function, *leaves))[0], *known]
        tensors = {id(x): x for x in found}
        for x in found:
            if hasattr(x, "_grad") and x._grad is not None:
                tensors[id(x._grad)] = x._grad
        self._kept = {
            i: (x, x._array, backend_of[type(x._array)].copy(x._array), getattr(x, "_grad", None))
            for i, x in tensors.items()
        }

    def restore(self) -> None:
        """Put the values back into the same buffers, where a library's arrays can be written to."""
        for x, array, copy, grad in self._kept.values():
            if copy is not array:
                array[...] = copy
            x._array = array
            if hasattr(x, "_grad"):
                x._grad = grad

    def lacks(self, tensors: Iterable[Tensor]) -> bool:
        """Return whether there are Tensors that it does not hold."""
        return any([id(x) not in self._kept for x in tensors])


def unknown_state() -> CaptureError:
    """Return the error for state that a rehearsal cannot take back."""
    return CaptureError(
        "rehearse: the call makes or changes state that no search through closures, globals, attributes and containers "
        "found before it, so that it cannot be taken back: make state before the first call (the moments of an "
        "optimiser, for example), or compile without rehearse"
    )
