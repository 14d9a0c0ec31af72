"""The step of an eager program that calls a function of CuPy: of a view, or without generated text."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from tapegrad._program.ir import Node, Value, put_in
from tapegrad.backends._array import Array
from tapegrad.backends._cupy.eager.kernel_text import Rename, Run


class CallStep:
    """A call of a function of CuPy: a view, which launches nothing, or an operation without generated text."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.nodes = [node]
        self.outs = list(node.outs)

    def suits(self, rename: Rename) -> bool:
        """Say that it takes any size."""
        return True

    def arguments(self, rename: Rename) -> tuple[Any, ...]:
        """Return the arguments, with other sizes."""
        node = self.node
        # Only these calls have sizes among their arguments.
        shapes = node.op in ("reshape", "broadcast_to") and type(node.args[1]) is tuple
        return (node.args[0], rename(node.args[1]), *node.args[2:]) if shapes else node.args

    def size_key(self, rename: Rename, place: dict[Value, int]) -> Hashable:
        """Return a key that is equal for programs that differ in sizes alone; KeyError for other calls than views."""
        if self.node.kind != "view":
            raise KeyError
        put: Callable[[Value], Any] = lambda v: ("value", place[v])  # noqa: E731
        return self.node.op, repr((put_in(self.arguments(rename), put), self.node.kwargs))

    def run(self, place: dict[Value, int], rename: Rename) -> Run:
        """Return the function that runs the step; place: of values in the list of all."""
        node, arguments = self.node, self.arguments(rename)

        def run(values: list[Array]) -> None:
            put: Callable[[Value], Any] = lambda v: values[place[v]]  # noqa: E731
            result = node.function(*put_in(arguments, put), **{k: put_in(x, put) for k, x in node.kwargs.items()})
            for v, out in zip(node.outs, result if node.many else (result,), strict=not node.effect):
                values[place[v]] = out

        return run
