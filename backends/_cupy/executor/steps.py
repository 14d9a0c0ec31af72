"""Steps of a plan: launches and calls in order, and one module of the kernels that they launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import cupy

from tapegrad.backends._array import Array
from tapegrad.backends._cupy.codegen.cuda_types import HELPERS, OPTIONS
from tapegrad.backends._cupy.executor import refusals


class Step(NamedTuple):
    """Something to do; name: the operations it does; captured: whether it may be part of a CUDA graph."""

    name: str
    function: Callable[..., None]
    args: tuple[Any, ...]
    captured: bool = True


class Steps:
    """The steps of a plan in order.

    refused: the refusals of the program, None if it has none; source: the text of all kernels, once loaded.
    """

    def __init__(self, refused: refusals.Refusals | None) -> None:
        self.refused = refused
        self.steps: list[Step] = []
        self.source = ""
        self.functions: dict[str, Any] = {}  # name of a kernel -> the function of the module
        self._sources: list[str] = []
        self._names: dict[str, str] = {}  # text of a kernel -> its name in the module

    def add(self, name: str, function: Callable[..., None], *args: Any, captured: bool = True) -> None:
        """Add a call."""
        self.steps.append(Step(name, function, args, captured))

    def launch(
        self, name: str, text: str, grid: tuple[int, ...], block: int, args: tuple[Any, ...], guarded: bool = False
    ) -> None:
        """Add a launch of a kernel; guarded: whether it is to write nothing once the call has been refused."""
        # The kernel takes one more argument, the mark of a refusal, which it looks at first.
        if guarded and self.refused is not None:
            text, args = refusals.guarded(text), (*args, self.refused.stop)
        self.add(name, _Launch(self, self.kernel(text)), grid, (block,), args)

    def kernel(self, text: str) -> str:
        """Return the name in the module of a kernel that is called "@" in its text: one for all of the same text."""
        # Text without a name as the key: layers of a network have the same kernels, which are compiled once.
        if text not in self._names:
            self._names[text] = f"tg_{len(self._names)}"
            self._sources.append(text.replace(" @(", f" {self._names[text]}(", 1))
        return self._names[text]

    def load(self) -> None:
        """Compile all kernels as one module, which takes less time than many."""
        self.source = HELPERS + "".join(self._sources)
        if self._sources:
            module = cupy.RawModule(code=self.source, options=OPTIONS)
            self.functions = {name: module.get_function(name) for name in self._names.values()}

    def copy(self, to: Array, source: Array) -> None:
        """Add a copy of an array into another one of its shape."""
        self.add("copy", cupy.copyto, to, source)


class _Launch:
    """A launch of a kernel of the module, which is loaded once all kernels are known."""

    def __init__(self, steps: Steps, name: str) -> None:
        self.steps, self.name = steps, name

    def __call__(self, *args: Any) -> None:
        self.steps.functions[self.name](*args)
