"""Lifetimes: compiled functions keep few programs alive, and no objects that they are called with."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any
from weakref import ref

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad._compile.function import LIMIT


class Model:
    def __init__(self, xp: Place | None = None) -> None:
        values = np.ones(8)
        self.w = tg.asarray(values) if xp is None else xp.tensor(values)

    def loss(self, x: Any) -> tg.Tensor:
        return tg.sum(self.w * x)


class Decorated(Model):
    @tg.compile
    def step(self, x: Any) -> tg.Tensor:
        self.w -= 0.1 * tg.grad(lambda w: tg.sum(w * w))(self.w)
        return self.loss(x)


class Holding(Model):
    def __init__(self, xp: Place | None = None) -> None:
        super().__init__(xp)
        self.step = tg.compile(self.loss)


class Slotted:
    __slots__ = ("__weakref__", "w")

    def __init__(self, xp: Place | None = None) -> None:
        self.w = Model(xp).w


@tg.compile
def of_object(model: Any, x: Any) -> tg.Tensor:
    return tg.sum(model.w * x)


@tg.compile
def of_function(f: Callable[[Any], tg.Tensor], x: Any) -> tg.Tensor:
    return f(x) * 2.0


@tg.compile
def of_rest(x: Any, **options: Any) -> Any:
    return options["model"].loss(x) * len(options)


@tg.compile
def of_loop(model: Model, x: Any) -> tg.Tensor:
    return tg.fixed_point(lambda y: tg.cos(y) * tg.mean(model.w) / 100.0, x)


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "a compiled method": lambda model, x: model.step(x),
    "an attribute": lambda model, x: model.step(x),
    "an argument": of_object,
    "an argument with slots": of_object,
    "a bound method": lambda model, x: of_function(model.loss, x),
    "a keyword argument": lambda model, x: of_rest(x, model=model, more=1),
    "a loop inside": of_loop,
}
TYPES: dict[str, Callable[..., Any]] = {
    "a compiled method": Decorated,
    "an attribute": Holding,
    "an argument with slots": Slotted,
}


@pytest.mark.parametrize("calls", [1, 2, 5])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore:compile. .* was called with")
def test_objects_that_are_arguments_are_not_kept(way: str, calls: int) -> None:
    alive, programs = [], []
    for n in range(3 * LIMIT):
        model = TYPES.get(way, Model)()
        model.w[...] = float(n + 1)
        eager = WAYS[way](model, tg.asarray(1.0)).item()
        for _ in range(calls - 1):
            result = WAYS[way](model, tg.asarray(1.0)).item()
            assert way == "a compiled method" or result == eager
        alive.append(ref(model))
        programs.append(ref(model.w))
        del model
    gc.collect()
    assert sum(r() is not None for r in alive) == 0
    assert sum(r() is not None for r in programs) == 0


@pytest.mark.parametrize("of", ["lambda", "partial", "class", "namespace"])
@pytest.mark.filterwarnings("ignore:compile. .* was called with")
def test_what_static_arguments_hold_is_not_kept(of: str) -> None:
    alive = []
    for _ in range(2 * LIMIT):
        model = Model()
        made: dict[str, Any] = {
            "lambda": lambda x, model=model: model.loss(x),
            "partial": partial(Model.loss, model),
            "class": type("Layer", (), {"__new__": lambda cls, x, model=model: model.loss(x)}),
            "namespace": SimpleNamespace(loss=model.loss),
        }
        f = made[of]
        for _ in range(4):
            if of == "namespace":
                of_rest(tg.asarray(1.0), model=f)
            else:
                of_function(f, tg.asarray(1.0))
        alive.append(ref(model))
        del model, f, made
    for _ in range(2):  # a class is a cycle, and so may be the objects of a program for it
        gc.collect()
    # A namespace cannot be held weakly, and is let go of where its place is needed.
    assert sum(r() is not None for r in alive) <= (LIMIT if of == "namespace" else 0)


def test_a_program_is_for_as_long_as_its_object() -> None:
    f = tg.compile(lambda model, x: model.loss(x))
    model = Model()
    for _ in range(4):
        f(model, tg.asarray(2.0))
    assert f.program is not None
    w = ref(model.w)
    del model
    gc.collect()
    assert w() is None
    with pytest.raises(RuntimeError, match="a program is dropped with the object that is its argument"):
        f.program  # noqa: B018
    model = Model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            f(model, tg.asarray(2.0))
    assert len(f._keys) == 1


def test_numbers_are_kept_up_to_the_limit() -> None:
    f = tg.compile(lambda x, rate: x * rate)

    def steps() -> None:
        for n in range(50):
            assert f(tg.asarray(2.0), float(n)).item() == 2.0 * n

    with pytest.warns(RuntimeWarning, match="combinations"):
        steps()
    assert len({*f._programs, *f._pending, *f._watched}) <= LIMIT


def test_objects_that_never_come_back_warn_and_later_ones_are_compiled() -> None:
    f = tg.compile(lambda g, x: g(x))

    def steps() -> None:
        for n in range(3 * LIMIT):
            assert f(lambda x, n=n: x * n, tg.asarray(2.0)).item() == 2.0 * n

    with pytest.warns(RuntimeWarning, match=r"was called with 9 combi.* has 0 .*another object at each call") as found:
        steps()
    assert len(found) == 1
    model = Model()
    for _ in range(5):
        assert f(model.loss, tg.asarray(2.0)).item() == 16.0
    assert f._last is not None


def test_another_object_at_the_same_address_is_another_one() -> None:
    f = tg.compile(lambda scale, x: x * scale.by)
    for n in range(30):
        scale = SimpleNamespace(by=float(n))
        for _ in range(3):
            assert f(scale, tg.asarray(1.0)).item() == n
        del scale


def test_a_function_does_not_outlive_its_user(xp: Place) -> None:
    model: Any = Holding(xp)
    for _ in range(4):
        model.step(xp.tensor(1.0))
    found = [ref(model), ref(model.w), ref(model.step), ref(model.step._last)]
    del model
    gc.collect()
    assert [r() for r in found] == [None] * 4
