"""The debug mode of `compile`: each call runs eagerly as well, so that all values are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapegrad._compile.capture.capture import captured
from tapegrad._compile.capture.equality import gap
from tapegrad._compile.capture.trace_equivalence import Equivalence, held_apart
from tapegrad._compile.run.bound_program import BoundProgram
from tapegrad._engine.dispatch import backend_of, computed
from tapegrad._engine.tensor import Tensor
from tapegrad._engine.tree import flatten
from tapegrad._program.interpreter import results_of
from tapegrad._program.ir import Value

# The largest error of outputs of a planned program, which may add in another order: in units of the last place
# of the greatest value.
UNITS = 1000


def compared(
    function: Callable[..., Any], replay: BoundProgram, xs: list[Tensor], args: Any, kwargs: Any, fresh: bool = False
) -> Any:
    """Run a program and the function on the same inputs, compare all values, and return the function's result.

    xs: the Tensors that the program's slots stand for, which the function only updates; fresh: see `RawArrayTracers`.
    Raises AssertionError, naming the operation and its line, for the first operation or value that differs.
    """
    leaves = flatten((args, kwargs))[0]
    inputs = replay.arrays(leaves, xs)
    outs, failed = _attempt(lambda: replay.run([backend_of[type(a)].copy(a) for a in inputs]))
    values, failed_plainly = _attempt(lambda: _values(replay, [backend_of[type(a)].copy(a) for a in inputs]))
    fails = failed or failed_plainly
    try:
        result, now = captured(function, args, kwargs, xs, debug=True, fresh=fresh)
    except Exception as error:
        if failed is None or failed_plainly is None:
            raise AssertionError(f"compile: the function raises where its program does not: {error}") from error
        raise
    if fails is not None:
        raise AssertionError(f"compile: the program raises where the function does not: {fails}") from fails
    match = Equivalence(replay.capture, now, equal_held=held_apart)
    differs = match.difference()
    if differs is not None:
        raise AssertionError(f"compile: the function does something else than its program: {differs.message}")
    contents = now.graph.values
    assert contents is not None
    for node in replay.program.nodes:
        for v in node.outs:
            _check(f"{node.op} at {node.line}", values[v], contents[match.same[v]], 0)
    for v, out in zip(replay.program.outputs, outs, strict=True):
        at = "an input" if v.node is None else f"{v.node.op} at {v.node.line}"
        expected = contents[match.same[v]] if v.node is not None else values[v]
        _check(f"as planned ({replay.executor.how}), {at}", out, expected, UNITS)
    return result


def _check(what: str, found: Any, expected: Any, units: int) -> None:
    difference = gap(found, expected, units)
    if difference is not None:
        raise AssertionError(
            f"compile: {what}: the program's value differs from the function's, by {difference:.3g} at most: something "
            "in it is not computed from arguments and state"
        )


def _attempt(run: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return run(), None
    except Exception as error:
        return None, error


def _values(replay: BoundProgram, inputs: list[Any]) -> dict[Value, Any]:
    """Call the nodes of a program one after the other; return all values."""
    program = replay.program
    env: dict[Value, Any] = dict(zip(program.inputs, inputs, strict=True))
    env.update({v: v.constant for v in program.outputs if v.constant is not None})

    def fill(v: Value) -> Any:
        return env[v] if v.constant is None else v.constant

    for node in program.nodes:
        results = results_of(node, fill, computed)
        env.update({v: backend_of[type(a)].as_array(a) for v, a in zip(node.outs, results, strict=True)})
    return env
