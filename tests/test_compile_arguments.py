"""Results, arguments and devices of compiled steps."""

from __future__ import annotations

import weakref
from collections import OrderedDict, defaultdict
from functools import partial
from typing import Any

import numpy as np
import pytest
from compiling import CALLS, Model, refused, same, values
from containers import Layer, Pair
from test_compile import plain

import tapegrad as tg
from tapegrad._engine.tree import flatten
from tapegrad.backends import Backend


def test_results_of_static_values() -> None:
    same(Model, lambda m, x, y: (tg.zeros(2), 3.5, "name", None, {"x": x, "n": np.arange(3)}, m.loss(x, y).detach()))


def test_a_raw_result_is_nobodys() -> None:
    c = tg.asarray([1.0, 2.0])
    f = tg.compile(lambda x: (tg.grad(lambda v: tg.sum(v * c))(x), np.arange(2.0)))
    for _ in range(6):
        for out in f(np.asarray([3.0, 4.0])):
            out[...] = 7.0
    assert c.tolist() == [1.0, 2.0]
    assert f(np.asarray([3.0, 4.0]))[1].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("make", [lambda m: m.i, lambda m: float(m.i), lambda m: {m.i}, lambda m: np.arange(m.i)])
def test_results_that_python_counts_are_refused(make: Any) -> None:
    def step(m: Any) -> Any:
        m.i = getattr(m, "i", 0) + 1
        return m.b.detach(), make(m)

    refused(Model, step, r"a result.*became|a result.*another", lambda m, i: ())


def test_results_that_are_state_or_arguments_or_shared() -> None:
    m = Model()

    @tg.compile
    def step(x: tg.Tensor) -> Any:
        a = x + 1.0
        m.zero()
        tg.sum(m.w * 2.0).backward()
        return x, m.w, a, {"again": a}, m.w.grad

    for i in range(6):
        x = tg.asarray(float(i))
        out = step(x)
        assert out[0] is x
        assert out[1] is m.w
        assert out[2] is out[3]["again"]
        assert out[2].item() == i + 1
        assert out[4] is m.w.grad


@pytest.mark.parametrize("kind", [dict, OrderedDict, partial(defaultdict, list), Pair, Layer])
def test_containers_of_raw_arrays_come_in_and_go_out(kind: Any) -> None:
    def gradient(p: Any) -> Any:
        w, b = (p["w"], p["b"]) if isinstance(p, dict) else (p.w, p.b)
        return tg.sum(w**2 * b)

    f = tg.compile(tg.grad(gradient))
    for n in range(5):
        out = f(kind(w=np.arange(3.0) + n, b=np.ones(3)))
        assert type(out) is type(kind(w=0, b=0))
        w, b = (out["w"], out["b"]) if isinstance(out, dict) else (out.w, out.b)
        assert [w.tolist(), b.tolist()] == [[2.0 * (n + i) for i in range(3)], [(n + i) ** 2.0 for i in range(3)]]
    assert f.program is not None


def test_the_way_back_holds_no_container() -> None:
    def seen(tree: Any) -> Any:
        return [flatten(tree)[1], weakref.ref(tree)]

    rebuild, tree = seen(Layer(w=1.0, b=2.0))
    assert tree() is None
    assert rebuild([3.0, 4.0]) == Layer(w=3.0, b=4.0)


def test_new_shapes_and_interleaved_ones() -> None:
    def arguments(m: Model, i: int) -> tuple[tg.Tensor, tg.Tensor]:
        x, y = m.batch(i % CALLS)
        n = 5 if i % 4 else 2
        return x[:n], y[:n]

    compiled = same(Model, plain, arguments, calls=20)
    assert len(compiled._keys) == 2


def test_an_argument_updated_in_place() -> None:
    def step(m: Model, x: tg.Tensor, y: tg.Tensor) -> None:
        x += y[0, 0]
        y[0, ...] = 3.0

    given: dict[int, list[tg.Tensor]] = {}

    def arguments(m: Model, i: int) -> Any:
        given.setdefault(id(m), []).extend(m.batch(i))
        return given[id(m)][-2:]

    same(Model, step, arguments)
    one, other = given.values()
    assert values(one) == values(other)


def test_the_same_tensor_twice_and_state_as_an_argument() -> None:
    m = Model()
    f = tg.compile(lambda x, y: (x * 2.0 + y * m.b.detach(), x, y))
    a, b = tg.asarray([1.0, 2.0, 3.0]), tg.asarray([10.0, 20.0, 30.0])
    c = tg.asarray([5.0, 5.0, 5.0])
    m.b = c
    for x, y in [(a, a)] * 5 + [(a, b), (b, a), (c, a), (a, c), (c, c), (b, c)] * 5:
        z, p, q = f(x, y)
        np.testing.assert_array_equal(np.asarray(z), np.asarray(x * 2.0 + y * c))
        assert p is x
        assert q is y


def test_arguments_that_change_places() -> None:
    total = tg.zeros(())
    a, b = tg.asarray(1.0), tg.asarray(10.0)

    @tg.compile
    def step(x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
        total[...] = total + x - 2.0 * y + a  # a is a closure too
        return total * 1.0

    expected = 0.0
    for i in range(20):
        c = tg.asarray(float(i))
        x, y = [(a, b), (b, a), (c, b), (a, c), (c, a)][i * 7 % 5]
        expected += x.item() - 2 * y.item() + 1.0
        assert step(x, y).item() == expected


def test_gradients_as_arguments() -> None:
    def step(m: Any, g: tg.Tensor) -> None:
        with tg.no_grad():
            m.w -= g

    def before(m: Any, i: int) -> None:
        m.zero()
        m.loss(*m.batch(i)).backward()

    same(Model, step, lambda m, i: (m.w.grad,), before=before)


DEVICES = ["torch:cpu", "jax:cpu", "strict:device1", "strict:CPU_DEVICE"]


def _device(name: str) -> str:
    try:
        tg.backends.of_device(name)
    except (RuntimeError, ValueError) as error:
        pytest.skip(str(error))
    return name


@pytest.mark.parametrize("device", DEVICES)
def test_devices(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if type(tg.backends.of_device(_device(device))[0]).executor is not Backend.executor:
        # Call by call: fusion by XLA changes the last digit.
        monkeypatch.setattr(type(tg.backends.of_device(device)[0]), "executor", Backend.executor)
    with tg.default_device(device):
        same(lambda: Model(device, "float32"), plain)


@pytest.mark.parametrize("device", DEVICES)
def test_several_devices_in_one_step(device: str) -> None:
    _device(device)

    def step(m: Any, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
        m.zero()
        hidden = tg.tanh(x @ m.w).to_device(device)
        loss = tg.sum(tg.square(hidden)).to_device("cpu") + tg.sum(m.b * y)
        loss.backward()
        m.sgd(0.1)
        return loss

    same(lambda: Model(dtype="float32"), step)


def test_settings_make_programs_of_their_own() -> None:
    f = tg.compile(lambda x: x * tg.ones(2))
    g = tg.compile(lambda x: (x * 2.0).requires_grad)
    x = tg.tensor([1.0, 2.0], dtype="float32", requires_grad=False)
    w = tg.tensor([1.0], requires_grad=True)
    for _ in range(6):
        assert f(x).dtype is tg.float64
        with tg.default_dtype("float32"):
            assert f(x).dtype is tg.float32
        assert g(w) is True
        with tg.no_grad():
            assert g(w) is False
