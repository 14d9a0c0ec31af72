"""Captured programs run by a library's own compiler, as `jax.jit` or `torch.compile` of their replay."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tapegrad._program.interpreter import LOOKING, PlainExecutor, large_constants, replay_of
from tapegrad._program.ir import Node, Program
from tapegrad.backends._array import Array

ROUNDINGS = 3  # replays with perturbed results, to measure the effect of rounding
SPREAD = 10.0  # a difference of up to so many times the measured effect is put down to rounding


class CompiledExecutor:
    """Runs a program by one function that a library's own compiler makes of the replay, on the first run.

    Every run replays call by call if the compiler fails, or if its first results differ from those of the replay. A
    RuntimeWarning and `how` say why. The same holds, without a warning, for a program with a call that reads values,
    except a loop that the compiler can run.

    A call that raises if a condition holds cannot do so inside. Its condition is a further result, which is read before
    the other results are returned. Constants of more than one element are arguments: a compiler would copy them into
    the program, and spend long on computing with them.

    compiler: takes a function of (inputs, constants) and example arguments, and returns the compiled function; to_host:
    converts an array to a NumPy array; loop: runs a loop on the device, see `replay_of`; from_host: converts a NumPy
    array to one that can be multiplied with an array.
    """

    def __init__(
        self,
        program: Program[Node],
        name: str,
        compiler: Callable[..., Callable[..., Any]],
        to_host: Callable[[Array], Any],
        loop: Callable[..., Any] | None = None,
        from_host: Callable[[Any, Array], Any] = lambda values, like: values,
    ) -> None:
        self.program: Program[Node] = program
        self.name, self.compiler, self._loop = name, compiler, loop
        self._to_host, self._from_host = to_host, from_host
        self.how = f"compiled by {name}"
        self._errors = [error for n in program.nodes if (error := _error(n)) is not None]
        self._given = [v.constant for v in large_constants(program)]
        self._function: Callable[..., Any] | None = None
        self._plain: PlainExecutor | None = None
        looking = next((n.op for n in program.nodes if _looks(n, loop is not None)), None)
        if looking is not None:
            self._plain = PlainExecutor(program)
            self.how = f"{self._plain.how}, as {looking} looks at values"

    def run(self, arrays: list[Array]) -> list[Array]:
        """Return the outputs of the program for some inputs; the first run waits for the compiler."""
        if self._plain is not None:
            return self._plain.run(arrays)
        if self._function is None:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # warnings of the compiler about its own code
                    function = self.compiler(replay_of(self.program, None, True, self._loop), arrays, self._given)
                    outs, conditions = function(arrays, self._given)
            except TimeoutError as error:
                return self._fall_back(str(error), arrays)
            except Exception as error:
                why = next(iter(str(error).splitlines()), type(error).__name__)
                return self._fall_back(f"refused: {why}", arrays)
            if not any(conditions):
                differs = self._difference(outs, arrays)
                if differs is not None:
                    return self._fall_back(f"made other values of the same calls: {differs}", arrays)
                self._function = function
        else:
            try:
                outs, conditions = self._function(arrays, self._given)
            except Exception:  # for example an index out of range, before the conditions are read
                return PlainExecutor(self.program).run(arrays)  # raises as an eager call does
        for condition, error_of in zip(conditions, self._errors, strict=True):
            if condition:
                raise error_of(condition)
        return list(outs)

    def _fall_back(self, why: str, arrays: list[Array]) -> list[Array]:
        self._plain = PlainExecutor(self.program)
        self.how = f"{self._plain.how}, as {self.name} {why}"
        text = f"compile: calls are replayed one by one, as {self.name} {why}"
        warnings.warn(text, RuntimeWarning, stacklevel=3)
        return self._plain.run(arrays)

    def _difference(self, outs: Any, arrays: list[Array]) -> str | None:
        """Return a text on the first floating output that differs from the replayed calls beyond rounding, or None.

        Compilers have bugs. The effect of rounding is estimated from the size of the values. Where a difference is
        larger, it is measured by replays with perturbed results, as terms of a sum may cancel.
        """
        expected = self._hosted(replay_of(self.program)(arrays))
        found = self._hosted(outs)
        checked = [n for n, b in enumerate(expected) if b.size and b.dtype.kind in "fc" and b.dtype.itemsize >= 4]
        most = max((np.max(np.abs(expected[n]), where=np.isfinite(expected[n]), initial=0) for n in checked), default=0)
        differ = [n for n in checked if not _close(found[n], expected[n], most)]
        if not differ:
            return None
        rng = np.random.default_rng(0)
        spread = dict.fromkeys(differ, 0.0)
        for _ in range(ROUNDINGS):
            rounded = partial(self._rounded, rng=rng)
            other = self._hosted(replay_of(self.program, rounded)([rounded(a) for a in arrays]))
            for n in differ:
                spread[n] = max(spread[n], _off(other[n], expected[n]))
        for n in differ:
            if not _close(found[n], expected[n], most, SPREAD * spread[n]):
                return self._named(n, found[n], expected[n])
        return None

    def _named(self, n: int, found: Any, expected: Any) -> str:
        node = self.program.outputs[n].node
        what = "an input" if node is None else f"{node.op} at {node.line}"
        finite = np.isfinite(expected)
        if not np.array_equal(np.isfinite(found), finite):
            by = "it is not finite in the same places"
        else:
            most = np.max(np.abs(expected), where=finite, initial=0)
            by = f"the largest difference is {_off(found, expected):.3g}, of values up to {most:.3g}"
        return f"{what}: {by}. Replayed calls are right; write that operation otherwise to have the program compiled"

    def _hosted(self, arrays: Any) -> list[Any]:
        return [self._to_host(a) for a in arrays]

    def _rounded(self, array: Array, rng: np.random.Generator) -> Array:
        """Perturb each number of a result by a few units in the last place."""
        dtype = self._to_host(array).dtype
        if dtype.kind not in "fc" or dtype.itemsize < 4:
            return array
        units = rng.choice(np.asarray([-2.0, -1.0, 1.0, 2.0]), size=tuple(array.shape))
        factor = np.asarray(1 + units * np.finfo(dtype).eps, np.finfo(dtype).dtype)
        return array * self._from_host(factor, array)


def _close(a: Any, b: Any, most: float, more: float = 0.0) -> bool:
    """Return whether two arrays agree to half of their digits, or within rounding of the largest number of any output.

    most: that number; more: a further tolerance.
    """
    finite, eps = np.isfinite(b), np.finfo(b.dtype).eps
    bound = eps**0.5 * np.max(np.abs(b), where=finite, initial=0) + 100 * eps * most + more
    return bool(_off(a, b) <= bound and np.array_equal(np.isfinite(a), finite))


def _off(a: Any, b: Any) -> float:
    """Return the largest difference between finite numbers of two arrays."""
    with np.errstate(all="ignore"):
        return float(np.max(np.abs(a - b), where=np.isfinite(b) & np.isfinite(a), initial=0))


def _error(node: Node) -> Callable[[Array], Exception] | None:
    """Return a function from a node's condition to its error, or None for a node without a condition."""
    if node.op == "loop":
        return lambda change: node.args[0].until.error(float(change))
    return (lambda condition: node.args[1]()) if node.effect else None


def _looks(node: Node, runs_loops: bool) -> bool:
    """Return whether a node reads values as it runs; a loop that the compiler runs does if a round may raise."""
    if node.op == "loop" and runs_loops:
        return any(n.effect or n.op in LOOKING for n in node.args[0].nodes)
    return node.op in LOOKING
