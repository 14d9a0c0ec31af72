"""Replaying a captured program call by call: what every array library can do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapegrad.backends._base import Array


def run_nodes(program: Any, arrays: list[Array], keep: Callable[[Array], Array] | None = None) -> list[Array]:
    """Call the nodes of a program one after the other; return its outputs.

    keep: applied to results that a library may return as scalars.
    """
    env: dict[Any, Array] = dict(zip(program.inputs, arrays, strict=True))

    def fill(x: Any) -> Any:
        kind = type(x)
        if kind is tuple or kind is list:
            return kind([fill(i) for i in x])
        if kind.__name__ == "Value":
            return env[x] if x.constant is None else x.constant
        return x

    for node in program.nodes:
        result = node.function(*fill(node.args), **{k: fill(v) for k, v in node.kwargs.items()})
        if node.many:
            env.update(zip(node.outs, result, strict=True))
        elif not node.effect:
            env[node.outs[0]] = result if keep is None else keep(result)
    return [fill(v) for v in program.outputs]


class PlainExecutor:
    """Runs a program by its library's functions as they are."""

    how = "replayed call by call"

    def __init__(self, program: Any, keep: Callable[[Array], Array] | None = None) -> None:
        self.program, self.keep = program, keep

    def run(self, arrays: list[Array]) -> list[Array]:
        """Return the outputs of the program for these inputs."""
        return run_nodes(self.program, arrays, self.keep)
