"""Captured programs run by what a library's own compiler makes of their replay."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from tapegrad.backends._base import Array
from tapegrad.backends._replay import LOOKING, PlainExecutor, large_constants, replay_of


class HandedOver:
    """Has a library's own compiler make one function of the replay, on the first run.

    Where it cannot, every run replays call by call; a RuntimeWarning and `how` say why. So it is, without a warning,
    where a call looks at values, which a compiler does not know. A call that is to raise if a condition holds cannot do
    so inside: the conditions are further results, looked at before the others are handed out. Constants of more than
    one element are arguments: a compiler would copy them into the program, and compute with them at length.

    compiler: takes a function of (inputs, constants) and example arguments, returns what is called in its place.
    """

    def __init__(self, program: Any, name: str, compiler: Callable[..., Callable[..., Any]]) -> None:
        self.program, self.name, self.compiler = program, name, compiler
        self.how = f"compiled by {name}"
        self._errors = [n.args[1] for n in program.nodes if n.effect]
        self._given = [v.constant for v in large_constants(program)]
        self._function: Callable[..., Any] | None = None
        self._plain: PlainExecutor | None = None
        looking = next((n.op for n in program.nodes if n.op in LOOKING), None)
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
                    function = self.compiler(replay_of(self.program, None, True), arrays, self._given)
                    outs, conditions = function(arrays, self._given)
            except Exception as error:
                self._plain = PlainExecutor(self.program)
                why = next(iter(str(error).splitlines()), type(error).__name__)
                self.how = f"{self._plain.how}, as {self.name} refused: {why}"
                text = f"compile: {self.name} refused, so that calls are replayed one by one: {why}"
                warnings.warn(text, RuntimeWarning, stacklevel=2)
                return self._plain.run(arrays)
            self._function = function
        else:
            outs, conditions = self._function(arrays, self._given)
        for condition, refused in zip(conditions, self._errors, strict=True):
            if condition:
                raise refused()
        return list(outs)
