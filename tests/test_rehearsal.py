"""`tg.compile(rehearse=True)`: every call that counts is a replay, and captured calls leave nothing behind."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg


class Training:
    """A step with momentum, a count, and gradients that stay or go."""

    def __init__(self, xp: Place, keeps_gradients: bool = False) -> None:
        rng = np.random.default_rng(0)
        self.w = xp.tensor(rng.normal(size=(4, 3)), requires_grad=True)
        self.velocity = xp.tensor(np.zeros((4, 3)))
        self.count = xp.tensor(0.0)
        self.keeps_gradients = keeps_gradients
        self.calls = 0

    def step(self, x: tg.Tensor) -> tg.Tensor:
        self.calls += 1
        loss = tg.mean(tg.tanh(x @ self.w) ** 2)
        self.w.grad = None
        loss.backward()
        with tg.no_grad():
            self.count += 1.0
            self.velocity *= 0.9
            self.velocity += self.w.grad
            self.w -= 0.5 / self.count * self.velocity
            if not self.keeps_gradients:
                self.w.grad = None
        return loss

    def values(self, xp: Place) -> list[np.ndarray[Any, Any]]:
        return [xp.values(x) for x in (self.w, self.velocity, self.count)]


@pytest.mark.parametrize("keeps_gradients", [False, True])
@pytest.mark.parametrize("stop", [1, 4])
def test_a_step_compiled_anew_goes_on_to_the_bit(xp: Place, keeps_gradients: bool, stop: int) -> None:
    if xp.readonly:
        pytest.skip("state is written to")
    x = xp.tensor(np.random.default_rng(1).normal(size=(5, 4)))
    unbroken, broken = Training(xp, keeps_gradients), Training(xp, keeps_gradients)
    whole = tg.compile(unbroken.step, rehearse=True)
    losses = [whole(x).item() for _ in range(6)]
    first, second = (tg.compile(broken.step, rehearse=True) for _ in range(2))
    found = [(first if n < stop else second)(x).item() for n in range(6)]
    assert found == losses
    for a, b in zip(unbroken.values(xp), broken.values(xp), strict=True):
        np.testing.assert_array_equal(a, b)
    assert float(unbroken.count) == 6
    assert unbroken.calls == (4 if keeps_gradients else 2)  # another program where gradients are there at the start


def test_buffers_stay_the_same() -> None:
    """An array that shares memory with a Tensor sees each call, but no rehearsal."""
    buffer = np.asarray([1.0, 2.0])
    x = tg.asarray(buffer)
    seen = []

    @tg.compile(rehearse=True)
    def double() -> None:
        seen.append(buffer.copy())
        x[...] = x * 2.0

    double()
    np.testing.assert_array_equal(x, [2.0, 4.0])
    assert all((s == [1.0, 2.0]).all() for s in seen)
    assert len(seen) == 2


def test_an_error_in_a_rehearsal_takes_everything_back() -> None:
    x = tg.asarray([1.0, 2.0])
    raised: list[int] = []

    @tg.compile(rehearse=True)
    def fails() -> None:
        x[...] = x * 2.0
        if len(raised) < 1:
            raised.append(1)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fails()
    np.testing.assert_array_equal(x, [1.0, 2.0])
    fails()
    np.testing.assert_array_equal(x, [2.0, 4.0])


def test_what_cannot_be_captured_still_raises() -> None:
    x = tg.asarray([1.0, 2.0])
    looks = tg.compile(lambda: x if x[0] > 0 else -x, rehearse=True)
    with pytest.raises(tg.CaptureError, match=r"tapegrad\.where"):
        looks()


def test_state_made_by_the_first_call_is_refused() -> None:
    class Lazy:
        def __init__(self) -> None:
            self.w = tg.tensor([1.0, 2.0])
            self.moment: Any = None

        def step(self) -> None:
            if self.moment is None:
                self.moment = tg.zeros(2)
            self.moment += self.w
            self.w -= 0.1 * self.moment

    lazy = Lazy()
    with pytest.raises(tg.CaptureError, match="make state before the first call"):
        tg.compile(lazy.step, rehearse=True)()
    np.testing.assert_array_equal(lazy.w, [1.0, 2.0])


def test_a_new_shape_is_rehearsed_again() -> None:
    total = tg.asarray(0.0)

    @tg.compile(rehearse=True)
    def add(x: tg.Tensor) -> None:
        total[...] = total + tg.sum(x)

    for n in (2, 3, 2, 3):
        add(tg.ones(n))
    assert float(total) == 10


def test_copies_rehearse_too() -> None:
    step: Any = tg.compile(np.negative, rehearse=True)
    for other in (copy.deepcopy(step), pickle.loads(pickle.dumps(step))):
        assert other.rehearse
