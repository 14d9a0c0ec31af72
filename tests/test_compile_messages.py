"""Refusals by compiled functions: each names the line and a way out."""

from __future__ import annotations

import pickle
import random
import threading
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest
from compiling import Model

import tapegrad as tg
from tapegrad._engine.dispatch import CaptureError

kept: list[Any] = []


def keep(x: Any) -> Any:
    kept.append(x)
    return x


def mutate(x: Any) -> Any:
    x += 1.0
    return tg.asarray(x)


def write(x: Any) -> Any:
    x[0] = 1.0
    return tg.asarray(x)


LOOK = r"test_compile_messages.py:\d+.*needs the value.*tapegrad.where"
SHAPE = r"test_compile_messages.py:\d+.*shape depends on values.*outside the function"
REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "if": (lambda x: x if x[0] > 0 else -x, LOOK),
    "bool": (lambda x: bool(x[0]), LOOK),
    "float": (lambda x: float(x[0]), LOOK),
    "int": (lambda x: int(x[0]), LOOK),
    "complex": (lambda x: complex(x[0]), LOOK),
    "item": (lambda x: x[0].item(), LOOK),
    "tolist": (lambda x: x.tolist(), LOOK),
    "format": (lambda x: f"{x[0]:.3f}", LOOK),
    "array": (lambda x: x.array, LOOK),
    "np.asarray": (lambda x: np.asarray(x), LOOK),
    "dlpack": (lambda x: np.from_dlpack(x), LOOK),
    "pickle": (lambda x: pickle.dumps(x), LOOK),
    "range": (lambda x: range(tg.astype(x, tg.int64)[0]), LOOK),
    "slice": (lambda x: x[: tg.argmax(x)], LOOK),
    "index": (lambda x: x * [1.0, 2.0, 3.0][tg.argmax(x)], LOOK),
    "nonzero": (lambda x: tg.nonzero(x), SHAPE),
    "unique": (lambda x: tg.unique_values(x), SHAPE),
    "mask": (lambda x: x[x > 0], SHAPE),
    "repeat": (lambda x: tg.repeat(x, tg.astype(x, tg.int64)), LOOK),
    "kept": (lambda x: kept.append(x * 2.0), r"made at test_compile_messages.py:\d+, is kept.*return it, or update"),
    "kept detached": (lambda x: kept.append((x * 2.0).detach()), r"made at test_compile_messages.py:\d+, is kept"),
    "kept zeros": (lambda x: kept.append(tg.zeros(2)), r"made at test_compile_messages.py:\d+, is kept"),
    "kept and returned": (
        lambda x: keep(x * 2.0),
        r"made at test_compile_messages.py:\d+, is also kept by something outside.*keep the function's results",
    ),
    "recorded": (
        lambda x: x * tg.tensor(2.0, requires_grad=True),
        r"result of multiply that is recorded, as it depends on a leaf of shape \(\).*inside it.*detach",
    ),
    "random": (
        lambda x: x + np.random.default_rng().normal(size=3),
        r"add at test_compile_messages.py:\d+: an array that is no Tensor.*as an argument",
    ),
    "random Tensor": (
        lambda x: x + tg.asarray(np.random.default_rng().normal(size=3).tolist()),
        r"add at test_compile_messages.py:\d+: a constant made inside is another.*as an argument",
    ),
    "random number": (
        lambda x: x + np.random.default_rng().normal(),
        r"add at test_compile_messages.py:\d+: the number .* became .*as an argument",
    ),
    "random start of a walk": (
        lambda x: tg.vjp(tg.sin, x)[1](tg.asarray(np.random.default_rng().normal(size=3))),
        r"test_compile_messages.py:\d+: an array that is no Tensor",
    ),
    "an object": (lambda x: object(), r"a result: the argument <object.*became"),
    "a generator": (lambda x: (i for i in [x]), r"."),
}


def repeated(f: Any) -> None:
    """Call a function as often as it takes to have a program."""
    for i in range(4):
        f(tg.asarray([1.0, 2.0, 3.0 + i]))


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    function, match = REFUSED[name]
    f = tg.compile(function)
    kept.clear()
    with pytest.raises(CaptureError, match=f"(?s){match}"):
        repeated(f)
    for x in kept:
        assert "Tracer" not in type(x._array).__name__


@pytest.mark.parametrize("function", [mutate, write, lambda x: np.sin(x), lambda x: np.sum(x), lambda x: float(x[0])])
def test_raw_arguments_refused(function: Any) -> None:
    f = tg.compile(function)
    f(np.asarray([1.0, 2.0]))
    with pytest.raises(CaptureError, match=r"test_compile_messages.py:\d+"):
        f(np.asarray([1.0, 2.0]))


def test_state_left_recorded_is_refused() -> None:
    w, s = tg.tensor([1.0], requires_grad=True), tg.asarray([0.0])

    @tg.compile
    def step(x: Any) -> None:
        s[...] = w * 2.0

    step(1)
    s._record = None
    with pytest.raises(CaptureError, match=r"recorded at test_compile_messages.py:\d+.*no_grad"):
        step(1)
    with pytest.raises(CaptureError, match=r"a Tensor from outside.*is recorded.*detach"):
        step(1)


def test_swapped_state_is_refused() -> None:
    def step(m: Any, x: Any, y: Any) -> Any:
        m.w, m.old = m.old, m.w
        with tg.no_grad():
            m.w -= 0.5 * m.old
        return m.w * 1.0

    def make() -> Any:
        m: Any = Model()
        m.old = tg.ones((4, 3))
        m.w.requires_grad = False
        return m

    m = make()
    f = tg.compile(lambda x, y: step(m, x, y))
    with pytest.raises(CaptureError, match=r"at test_compile_messages.py:\d+: an operand is another Tensor"):
        repeated(lambda x: f(*m.batch(0)))


def test_containers_that_are_changed_are_refused() -> None:
    def step(params: dict[str, tg.Tensor], x: Any) -> None:
        params["w"] = params["w"] * 2.0 + x

    for x in (tg.asarray(1.0), np.ones(())):
        f = tg.compile(step)
        params = {"w": tg.asarray(1.0)}
        f(params, x)
        assert params["w"].item() == 3.0
        with pytest.raises(CaptureError, match="a container that it is given.*return it, or update the Tensors"):
            f(params, x)
        assert "Tracer" not in type(params["w"]._array).__name__


def test_gradients_that_are_recorded_are_refused() -> None:
    w = tg.tensor([1.0, 2.0], requires_grad=True)

    @tg.compile
    def step(x: tg.Tensor) -> None:
        w.grad = None
        tg.sum(w * w * w * x).backward(create_graph=True)

    step(tg.asarray(1.0))
    with pytest.raises(CaptureError, match="is recorded"):
        step(tg.asarray(1.0))
    assert "Tracer" not in type(w._array).__name__


def test_a_result_with_a_gradient_of_its_own_is_refused() -> None:
    w = tg.tensor([1.0, 2.0], requires_grad=True)

    @tg.compile
    def step(x: tg.Tensor) -> tg.Tensor:
        y = w * x
        y.retain_grad()
        tg.sum(y * y).backward()
        return y

    step(tg.asarray(1.0))
    with pytest.raises(CaptureError, match=r"made at test_compile_messages.py:\d+, has a gradient of its own"):
        step(tg.asarray(1.0))


def test_flags_that_python_flips_in_the_first_calls_are_refused() -> None:
    calls: list[int] = []

    @tg.compile
    def step(x: tg.Tensor) -> tg.Tensor:
        calls.append(1)
        return x * 2.0 if len(calls) % 2 else x + 2.0

    with pytest.raises(CaptureError, match=r"add at test_compile_messages.py:\d+, where the call before did multiply"):
        repeated(step)


def test_what_came_first_is_named() -> None:
    w = tg.tensor(2.0, requires_grad=True)

    def step(x: Any) -> Any:
        loss = w * x
        if loss < 1:
            return loss
        loss.backward()
        return loss

    with pytest.raises(CaptureError, match=r" at test_compile_messages.py:\d+ needs the value"):
        tg.compile(step)(tg.asarray(0.25))


class Noisy:
    """A step that draws random numbers, and seldom does otherwise for them."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.w = tg.tensor([1.0, 2.0])

    def __call__(self, x: Any) -> Any:
        return self.w * x if self.draw() < 1.0 else self.w


DRAWS = {
    "random": random.random,
    "numpy.random": np.random.rand,
    "a Generator": np.random.default_rng(0).random,
    "a RandomState": np.random.RandomState(0).rand,
    "a Random": random.Random(0).random,
}


@pytest.mark.parametrize("name", DRAWS)
def test_random_numbers_are_refused_even_if_nothing_came_of_them(name: str) -> None:
    f = tg.compile(Noisy(DRAWS[name]).__call__)
    for _ in range(3):
        assert f(tg.asarray(2.0)).tolist() == [2.0, 4.0]
    with pytest.raises(CaptureError, match=rf"draws random numbers from {name}, .*pass them as an argument"):
        f(tg.asarray(2.0))


def test_random_numbers_of_the_first_call_are_forgiven() -> None:
    made: list[tg.Tensor] = []

    def step(x: Any) -> Any:
        if not made:
            made.append(tg.asarray(np.random.rand(3)))  # noqa: NPY002
        return made[0] * x

    f = tg.compile(step)
    for n in range(5):
        np.testing.assert_array_equal(f(tg.asarray(float(n))), np.asarray(made[0]) * n)
    assert f.program is not None


@pytest.mark.parametrize("calls", [{2}, {3}, {2, 3}])
def test_random_numbers_of_other_threads_are_forgiven(calls: set[int]) -> None:
    numbers = count(1)

    def step(x: Any) -> Any:
        if next(numbers) in calls:
            thread = threading.Thread(target=np.random.rand)
            thread.start()
            thread.join()
        return x * 2

    f = tg.compile(step)
    for i in range(7):
        assert f(tg.asarray(float(i))).item() == 2.0 * i
    assert f.program is not None
