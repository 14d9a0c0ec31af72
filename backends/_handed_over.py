"""Captured programs run by what a library's own compiler makes of their replay."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tapegrad._program.interpreter import LOOKING, PlainExecutor, large_constants, replay_of
from tapegrad.backends._array import Array

ROUNDINGS = 3  # replays with results rounded otherwise, to see what rounding may do
SPREAD = 10.0  # how often the largest of the differences that these make is still put down to rounding


class HandedOver:
    """Has a library's own compiler make one function of the replay, on the first run.

    Where it cannot, or gives other values on the first run than the replay, every run replays call by call; a
    RuntimeWarning and `how` say why. So it is, without a warning, where a call looks at values, which a compiler does
    not know, but for a loop that it can run. A call that is to raise if a condition holds cannot do so inside: the
    conditions are further results, looked at before the others are handed out. Constants of more than one element are
    arguments: a compiler would copy them into the program, and compute with them at length.

    compiler: takes a function of (inputs, constants) and example arguments, returns what is called in its place;
    to_host: gives an array as NumPy's; loop: runs a loop there, see `replay_of`; from_host: gives a NumPy array as one
    that can be multiplied with an array.
    """

    def __init__(
        self,
        program: Any,
        name: str,
        compiler: Callable[..., Callable[..., Any]],
        to_host: Callable[[Array], Any],
        loop: Callable[..., Any] | None = None,
        from_host: Callable[[Any, Array], Any] = lambda values, like: values,
    ) -> None:
        self.program, self.name, self.compiler, self._loop = program, name, compiler, loop
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
        """Return the outputs of the program for these inputs; the first run waits for the compiler."""
        if self._plain is not None:
            return self._plain.run(arrays)
        if self._function is None:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the compiler's own, of what nobody here wrote
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
            except Exception:  # of an index out of range, say, before the conditions can be looked at
                return PlainExecutor(self.program).run(arrays)  # which raises what an eager call does
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
        """Say which output is not that of the calls, up to rounding; None if all are, or are no floating numbers.

        Compilers have bugs. What rounding does is seen from the size of the values, and where that does not excuse
        a difference, from the calls with all results rounded otherwise: a sum may be 0 of terms that are not.
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
        """Return a result with each number changed by a few units in the last place."""
        dtype = self._to_host(array).dtype
        if dtype.kind not in "fc" or dtype.itemsize < 4:
            return array
        units = rng.choice(np.asarray([-2.0, -1.0, 1.0, 2.0]), size=tuple(array.shape))
        factor = np.asarray(1 + units * np.finfo(dtype).eps, np.finfo(dtype).dtype)
        return array * self._from_host(factor, array)


def _close(a: Any, b: Any, most: float, more: float = 0.0) -> bool:
    """Say whether two arrays agree to half of their digits, but for rounding of the largest number of any.

    more: what they may differ by for other reasons.
    """
    finite, eps = np.isfinite(b), np.finfo(b.dtype).eps
    bound = eps**0.5 * np.max(np.abs(b), where=finite, initial=0) + 100 * eps * most + more
    return bool(_off(a, b) <= bound and np.array_equal(np.isfinite(a), finite))


def _off(a: Any, b: Any) -> float:
    """Return the largest difference of finite numbers of two arrays."""
    with np.errstate(all="ignore"):
        return float(np.max(np.abs(a - b), where=np.isfinite(b) & np.isfinite(a), initial=0))


def _error(node: Any) -> Callable[[Array], Exception] | None:
    """Return what makes the error of a node from its condition, if there is one."""
    if node.op == "loop":
        return lambda change: node.args[0].until.error(float(change))
    return (lambda condition: node.args[1]()) if node.effect else None


def _looks(node: Any, runs_loops: bool) -> bool:
    """Say whether a node looks at values as it runs; a loop that a compiler runs does so if a round of it may raise."""
    if node.op == "loop" and runs_loops:
        return any(n.effect or n.op in LOOKING for n in node.args[0].nodes)
    return node.op in LOOKING
