"""Captured programs run by what a library's own compiler makes of their replay."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.backends._base import Array
from tapegrad.backends._replay import LOOKING, PlainExecutor, large_constants, replay_of


class HandedOver:
    """Has a library's own compiler make one function of the replay, on the first run.

    Where it cannot, or gives other values on the first run than the replay, every run replays call by call; a
    RuntimeWarning and `how` say why. So it is, without a warning, where a call looks at values, which a compiler does
    not know, but for a loop that it can run. A call that is to raise if a condition holds cannot do so inside: the
    conditions are further results, looked at before the others are handed out. Constants of more than one element are
    arguments: a compiler would copy them into the program, and compute with them at length.

    compiler: takes a function of (inputs, constants) and example arguments, returns what is called in its place;
    to_host: gives an array as NumPy's; loop: runs a loop there, see `replay_of`.
    """

    def __init__(
        self,
        program: Any,
        name: str,
        compiler: Callable[..., Callable[..., Any]],
        to_host: Callable[[Array], Any],
        loop: Callable[..., Any] | None = None,
    ) -> None:
        self.program, self.name, self.compiler, self._loop = program, name, compiler, loop
        self._to_host = to_host
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
            except Exception as error:
                why = next(iter(str(error).splitlines()), type(error).__name__)
                return self._fall_back(f"refused: {why}", arrays)
            if not any(conditions):
                if not self._agrees(outs, arrays):
                    return self._fall_back("made other values of the same calls", arrays)
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

    def _agrees(self, outs: Any, arrays: list[Array]) -> bool:
        """Say whether outputs that are not integers are those of the calls, up to rounding: compilers have bugs."""
        expected = replay_of(self.program)(arrays)
        pairs = [(self._to_host(a), self._to_host(b)) for a, b in zip(outs, expected, strict=True)]
        pairs = [(a, b) for a, b in pairs if b.size and b.dtype.kind in "fc" and b.dtype.itemsize >= 4]
        most = max((np.max(np.abs(b), where=np.isfinite(b), initial=0) for _, b in pairs), default=0)
        return all(_close(a, b, most) for a, b in pairs)


def _close(a: Any, b: Any, most: float) -> bool:
    """Say whether two arrays agree to half of their digits, but for rounding of the largest number of any."""
    finite, eps = np.isfinite(b), np.finfo(b.dtype).eps
    bound = eps**0.5 * np.max(np.abs(b), where=finite, initial=0) + 100 * eps * most
    with np.errstate(all="ignore"):
        off = np.max(np.abs(a - b), where=finite & np.isfinite(a), initial=0)
    return bool(off <= bound and np.array_equal(np.isfinite(a), finite))


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
