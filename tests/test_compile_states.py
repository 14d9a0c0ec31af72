"""The states of a compiled call, one transition a test; see `State`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tapegrad as tg
from tapegrad._compile.states import State


def states(f: Any) -> list[State]:
    """Return the states of a function's attempts, then of its programs."""
    attempts = [a.state for pending in f._pending.values() for a in pending.attempts]
    return attempts + [program.state for programs in f._programs.values() for program in programs]


def test_the_same_twice_is_replayed() -> None:
    f = tg.compile(lambda x: x * 2.0)
    assert states(f) == []
    f(tg.ones(3))
    assert states(f) == [State.TENTATIVE]
    f(tg.ones(3))
    assert states(f) == [State.REPLAYING]
    f(tg.ones(3))
    assert (states(f), f._replayed) == ([State.REPLAYING], 1)


def test_state_that_the_first_call_makes_takes_a_call_more() -> None:
    made: list[tg.Tensor] = []

    @tg.compile
    def f(x: tg.Tensor) -> tg.Tensor:
        if not made:
            made.append(tg.zeros(3))
            made[0][...] = x + 1.0
        made[0][...] = made[0] + x
        return made[0] * 1.0

    f(tg.ones(3))
    assert states(f) in ([], [State.TENTATIVE])
    f(tg.ones(3))
    assert states(f) == [State.CAPTURED]
    f(tg.ones(3))
    assert states(f) == [State.REPLAYING]
    assert f(tg.ones(3)).tolist() == [6.0] * 3


def test_a_first_call_that_no_program_could_do_leaves_it_unknown() -> None:
    calls: list[float] = []

    @tg.compile
    def f(x: tg.Tensor) -> tg.Tensor:
        if not calls:
            calls.append(x[0].item())
        return x * 2.0

    f(tg.ones(3))
    assert states(f) == []


def test_calls_that_never_do_the_same_are_refused() -> None:
    rng = np.random.default_rng(0)
    f = tg.compile(lambda x: x * float(rng.standard_normal()))
    f(tg.ones(3))
    f(tg.ones(3))
    assert states(f) == [State.CAPTURED]
    with pytest.raises(tg.CaptureError, match="two calls did not do the same"):
        f(tg.ones(3))


def test_replaced_state_abandons_a_program() -> None:
    class Model:
        def __init__(self) -> None:
            self.w = tg.ones(3)

    model = Model()
    f = tg.compile(lambda x: model.w * x)
    f(tg.ones(3))
    f(tg.ones(3))
    assert states(f) == [State.REPLAYING]
    model.w = tg.ones(3) * 5.0
    (program,) = next(iter(f._programs.values()))
    assert f(tg.ones(3)).tolist() == [5.0] * 3
    assert program.state is State.ABANDONED
    assert states(f) == [State.TENTATIVE]
    f(tg.ones(3))
    assert states(f) == [State.REPLAYING]


def test_a_failed_guard_begins_anew() -> None:
    class Model:
        scale = 2.0

    model = Model()
    f = tg.compile(lambda x: x * model.scale)
    f(tg.ones(3))
    f(tg.ones(3))
    model.scale = 3.0
    f(tg.ones(3))
    assert states(f) == [State.TENTATIVE, State.REPLAYING]
    f(tg.ones(3))
    assert states(f) == [State.REPLAYING] * 2
