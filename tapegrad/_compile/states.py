"""The states of a compiled call, from unknown to replayed or abandoned."""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

from tapegrad._compile.capture.capture import Known
from tapegrad._compile.capture.captured_call import Capture
from tapegrad._compile.capture.trace_equivalence import difference
from tapegrad._engine.dispatch import CaptureError
from tapegrad._engine.tensor import Tensor

ATTEMPTS = 3  # captured calls, except for tentative ones, that two in a row must have done the same in
KEPT = 8  # attempts of one key


class State(Enum):
    """The state of calls of one kind: of one key, where the function finds the same outside.

    | state       | a call of this kind                | and then                                               |
    |-------------|------------------------------------|--------------------------------------------------------|
    | `UNKNOWN`   | runs eagerly, captured tentatively | `TENTATIVE`; `UNKNOWN` if a program could not do it    |
    | `TENTATIVE` | runs eagerly, captured             | `AGREED` if it did the same, else `CAPTURED`           |
    | `CAPTURED`  | runs eagerly, captured             | `AGREED` if it did the same; else `CAPTURED` again,    |
    |             |                                    | or CaptureError: always, or after `ATTEMPTS` calls     |
    | `AGREED`    | (the end of that same call)        | `REPLAYING`, with a program; `CAPTURED` if it drew     |
    |             |                                    | random numbers, and CaptureError after `ATTEMPTS`      |
    | `REPLAYING` | replays its program                | `ABANDONED` if state was replaced by another Tensor    |
    | `ABANDONED` | as `UNKNOWN`, without the program; | as there                                               |
    |             | as `CAPTURED` if that Tensor was   |                                                        |
    |             | an argument or gradient as well    |                                                        |

    A tentative capture differs without harm: state is made in the first call. Where guards of a program fail, a call is
    of another kind, which is `UNKNOWN`; if it turns out to have done the same, the program holds for both.
    """

    UNKNOWN = "unknown"
    TENTATIVE = "tentative"
    CAPTURED = "captured once"
    AGREED = "agreed"
    REPLAYING = "replaying"
    ABANDONED = "abandoned"


class Attempt(NamedTuple):
    """A captured call, the state of calls like it, and how many captured calls in a row did not do the same."""

    capture: Capture
    state: State
    tries: int = 0

    @property
    def is_binding(self) -> bool:
        """True if the next call must do the same."""
        return self.state is not State.TENTATIVE


class Pending:
    """Calls of one key that have no program yet.

    known: the Tensors that a tentative call used; generators: those of random numbers, that it can reach; draws: how
    many captured calls drew some; attempts: captured calls, the latest ones last.
    """

    def __init__(self) -> None:
        self.known: Known | None = None
        self.generators: list[Any] = []
        self.draws = 0
        self.attempts: list[Attempt] = []

    def tensors(self, lasting: bool = False) -> list[Tensor]:
        """Return the Tensors that the tentative call used and that are still there; lasting: see `Known`."""
        held = () if self.known is None else self.known.lasting if lasting else self.known.tensors
        return [x for r in held if (x := r()) is not None]

    def keep(self, attempt: Attempt) -> None:
        """Keep an attempt, and forget the oldest ones."""
        self.attempts = [*self.attempts[-KEPT:], attempt]

    def forget(self, attempts: list[Attempt]) -> None:
        """Forget attempts that another call was compared with."""
        self.attempts = [a for a in self.attempts if all(a.capture is not other.capture for other in attempts)]


def judged(capture: Capture, like: list[Attempt]) -> Attempt:
    """Return a captured call as an attempt: the one that it agrees with, as `AGREED`, or itself, as `CAPTURED`.

    like: attempts of calls of the same kind. Raises CaptureError where it will not agree with one that binds it.
    """
    found = [(attempt, difference(attempt.capture, capture)) for attempt in like]
    same = next((attempt for attempt, differs in found if differs is None), None)
    if same is not None:
        return same._replace(state=State.AGREED)
    tries = max([attempt.tries for attempt in like], default=0) + 1
    for attempt, differs in found:
        if attempt.is_binding and differs is not None:
            in_vain = tries >= ATTEMPTS and not differs.aliased
            if in_vain or not differs.again:
                raise CaptureError(f"two calls did not do the same: {differs.message}")
    return Attempt(capture, State.CAPTURED, tries)
