"""Copies and pickles of compiled functions, of functions that transforms make, and of objects that hold these."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import copying
import numpy as np
import pytest
from copying import Local, Methods, Model
from places import Place

import tapegrad as tg

WAYS: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "deepcopy in a list": lambda x: copy.deepcopy([x, {"x": x}])[1]["x"],
    **{f"pickle {n}": partial(lambda n, x: pickle.loads(pickle.dumps(x, n)), n) for n in range(6)},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [Model, Local])
@pytest.mark.parametrize("calls", [0, 1, 4])
def test_a_copied_model_computes_with_its_own_parameters(kind: type[Model], way: str, calls: int) -> None:
    if kind is Local and way.startswith("pickle"):
        with pytest.raises((AttributeError, pickle.PicklingError), match="(local|lambda)"):
            WAYS[way](kind())
        return
    model, x = kind(), tg.asarray([1.0, 1.0], dtype=tg.float32)
    for _ in range(calls):
        model.step(x)
        model.grad(x)
    other = WAYS[way](model)
    assert (None if other.w.grad is None else other.w.grad.tolist()) == (None if not calls else [1.0, 1.0])
    for _ in range(4):
        other.step(x)
    assert model.w.tolist() == [1.0 - calls * 0.5, 2.0 - calls * 0.5]
    assert other.w.tolist() == [1.0 - (calls + 4) * 0.5, 2.0 - (calls + 4) * 0.5]
    assert other.step.program is not None
    expected = kind()
    for _ in range(calls + 4):
        expected.step(x)
    for _ in range(4):
        assert other.results(x) == expected.results(x)
    for _ in range(2):
        model.step(x)  # the original goes on with its own
    assert model.w.tolist() == [1.0 - (calls + 2) * 0.5, 2.0 - (calls + 2) * 0.5]


@pytest.mark.parametrize("way", ["deepcopy", "pickle 4"])
def test_copies_everywhere(xp: Place, way: str) -> None:
    model = Model(xp.device)
    x = tg.asarray(np.ones(2, np.float32), device=xp.device)
    for _ in range(3):
        model.step(x)
    other = WAYS[way](model)
    for _ in range(3):
        other.step(x)
    assert model.w.tolist() == [-0.5, 0.5]
    assert other.w.tolist() == [-2.0, -1.0]
    assert other.w.device == model.w.device


def test_the_copy_of_a_function_of_a_model_is_that_of_the_copied_model() -> None:
    for way in ("deepcopy", "pickle 4"):
        step = WAYS[way](Model().step)
        model = step.function.__self__
        assert model.step is step
        step(tg.asarray([1.0, 1.0], dtype=tg.float32))
        assert model.w.tolist() == [0.5, 1.5]


@pytest.mark.parametrize("way", [*WAYS, "copy"])
@pytest.mark.parametrize("name", ["twice", "saving", "straight", "slope", "fast", "fast_slope"])
def test_functions_of_a_module(name: str, way: str) -> None:
    f, x = getattr(copying, name), tg.asarray([1.0, 2.0])
    expected = f(x).tolist()
    other = copy.copy(f) if way == "copy" else WAYS[way](f)
    assert (other is f) is (name in ("twice", "saving", "straight"))
    for _ in range(4):
        assert other(x).tolist() == expected
    assert other.__name__ == f.__name__
    assert other.__doc__ == f.__doc__
    if name == "fast":
        assert (other.threads, other.reassociate, other.debug) == (1, True, False)
        assert other._last is not f._last


@pytest.mark.parametrize("way", [*WAYS, "copy"])
@pytest.mark.parametrize("name", ["step", "layer"])
def test_methods(name: str, way: str) -> None:
    m = Methods(2.0)
    found = copy.copy(m) if way == "copy" else WAYS[way](m)
    bound = WAYS["deepcopy" if way == "copy" else way](getattr(m, name))
    m.w += 1.0
    for _ in range(4):
        assert getattr(m, name)(tg.asarray(1.0)).item() == 3.0
        assert getattr(found, name)(tg.asarray(1.0)).item() == (3.0 if way == "copy" else 2.0)
        assert bound(tg.asarray(1.0)).item() == 2.0


def test_a_shallow_copy_shares_parameters_and_no_programs() -> None:
    model, x = Model(), tg.asarray([1.0, 1.0], dtype=tg.float32)
    step = copy.copy(model.step)
    for _ in range(4):
        step(x)
        model.step(x)
    assert model.w.tolist() == [-3.0, -2.0]
    assert step._last is not model.step._last
    for name in ("value_and_grad", "mapped", "saving", "own", "pushed"):
        assert tg.sum(flat(copy.copy(getattr(model, name))(x))).item() == tg.sum(flat(getattr(model, name)(x))).item()


def flat(y: Any) -> Any:
    return tg.concat([tg.reshape(v, (-1,)) for v in y]) if isinstance(y, tuple) else y


def test_closures_are_copied_with_what_they_hold() -> None:
    w, lock, text = tg.asarray(2.0), threading.Lock(), io.StringIO()

    def inner(x: Any, *, by: Any = w) -> Any:
        with lock:
            print("called", file=text)
        return x * w * by

    late: Any

    def outer(x: Any) -> Any:
        return inner(x) if x.ndim == 0 else late(x)

    f = tg.grad(outer)
    other: dict[str, Any] = copy.deepcopy({"w": w, "f": f})
    other["w"] += 1.0
    assert float(f(1.0)) == 4.0
    assert float(other["f"](1.0)) == 9.0
    assert other["f"].__wrapped__.__qualname__ == outer.__qualname__
    late = inner
    assert float(f(1.0)) == 4.0


def test_what_cannot_be_copied_says_so() -> None:
    model: Any = Model()
    model.lock = threading.Lock()
    with pytest.raises(TypeError, match="lock"):
        copy.deepcopy(model.step)


@pytest.mark.parametrize("way", ["deepcopy", "pickle 4", "copy"])
def test_gradients_are_copied(xp: Place, way: str) -> None:
    w = xp.tensor([1.0, 2.0], requires_grad=True)
    tg.sum(w * w).backward()
    other: Any = copy.copy(w) if way == "copy" else WAYS[way](w)
    xp.check(other.grad, [2.0, 4.0])
    assert other.grad is not w.grad
    assert other.grad.device == w.device
    tg.sum(other * 1.0).backward()
    xp.check(other.grad, [3.0, 5.0])
    xp.check(w.grad, [2.0, 4.0])


def test_nested_ones_take_no_state_from_each_other() -> None:
    def f(x: Any) -> Any:
        return x * x * x

    vars(f)["mark"] = 1
    twice = tg.compile(tg.compile(f, threads=1))
    third = tg.compile(tg.grad(tg.grad(tg.checkpoint(f))))
    own = tg.custom_jvp(tg.compile(f))
    own.defjvp(lambda primals, tangents: (f(*primals), tangents[0]))
    for _ in range(4):
        assert twice(tg.asarray(2.0)).item() == 8.0
        assert third(tg.asarray(2.0)).item() == 12.0
        assert tg.grad(own)(tg.asarray(2.0)).item() == 1.0
    assert twice.threads is None
    assert twice.function.threads == 1
    assert twice.function.mark == 1
    assert twice.function._last is None  # a part of the captured call
    for made, name in ((tg.grad(f), "grad"), (tg.vmap(f), "vmap"), (tg.hessian(f), "hessian")):
        assert repr(made) == f"<{name} of {f.__qualname__}>"


def test_linear_maps_are_constants_to_deepcopy() -> None:
    _, slope = tg.linearize(lambda x: x * x, 3.0)
    _, pull = tg.vjp(lambda x: x * x, 3.0)
    assert float(copy.deepcopy(slope)(1.0)) == 6.0
    assert float(copy.deepcopy({"pull": pull})["pull"](1.0)[0]) == 6.0


MAPS: dict[str, Callable[..., Any]] = {
    "vjp": lambda f, *xs: tg.vjp(f, *xs)[1],
    "vjp with has_aux": lambda f, *xs: tg.vjp(partial(copying.with_auxiliary, f), *xs, has_aux=True)[1],
    "linearize": lambda f, *xs: tg.linearize(f, *xs)[1],
}


def same_results(one: Any, other: Any) -> None:
    one, other = ([np.asarray(x) for x in (y if isinstance(y, tuple) else (y,))] for y in (one, other))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("way", [*WAYS, "copy"])
@pytest.mark.parametrize("name", MAPS)
def test_linear_maps(name: str, way: str) -> None:
    x = tg.asarray([1.0, 2.0])
    given = (tg.asarray(1.0),) if name.startswith("vjp") else (x,)
    for f, point in ((copying.square, x), (copying.square, np.asarray([1.0, 2.0])), (Model().loss, x)):
        found = MAPS[name](f, point)
        other = copy.copy(found) if way == "copy" else WAYS[way](found)
        assert (other is found) is not way.startswith("pickle")
        same_results(other(*given), found(*given))
        assert type(other(*given)) is type(found(*given))
        assert repr(other) == repr(found)
        assert "linear map" in repr(found)
        squares = [tg.grad(lambda t, m=m: tg.sum(part(m(t)) ** 2)) for m in (other, found)]
        same_results(squares[0](*given).detach(), squares[1](*given).detach())


def part(y: Any) -> Any:
    return y[0] if isinstance(y, tuple) else y


@pytest.mark.parametrize("name", MAPS)
def test_linear_maps_everywhere(xp: Place, name: str) -> None:
    found = MAPS[name](copying.square, xp.tensor([1.0, 2.0]))
    given = xp.tensor(1.0) if name.startswith("vjp") else xp.tensor([1.0, 2.0])
    for other in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        xp.check(part(other(given)), xp.values(part(found(given))))


@pytest.mark.parametrize("name", MAPS)
def test_linear_maps_that_cannot_be_pickled_say_so(name: str) -> None:
    transform = name.partition(" ")[0]
    w = tg.tensor([1.0, 2.0], requires_grad=True)
    for point in (w, w * 2.0):
        found = MAPS[name](copying.square, point)
        assert copy.deepcopy(found) is found
        with pytest.raises(TypeError, match=rf"part of a tape.*call tapegrad\.{transform} where.*x\.detach\(\)"):
            pickle.dumps(found)
    model = Model()
    pickled = pickle.dumps(MAPS[name](model.loss, w.detach()))
    assert part(pickle.loads(pickled)(w.detach() if transform == "linearize" else tg.asarray(1.0))) is not None
    found = MAPS[name](model.loss, w.detach())
    with tg.no_grad():
        model.w *= 2.0
    pickled = pickle.dumps(found)
    with pytest.raises(RuntimeError, match="computed again to load its map, it gave other values.*as arguments"):
        pickle.loads(pickled)


def test_a_linear_map_in_what_is_copied() -> None:
    """The records of a map are not to be copied with a function that holds it."""
    for name, given in (("vjp", tg.asarray(1.0)), ("linearize", tg.asarray([1.0, 2.0]))):
        found = MAPS[name](copying.square, tg.asarray([1.0, 2.0]))
        holder = tg.grad(lambda t, m=found: tg.sum(part(m(t)) ** 2))
        same_results(copy.deepcopy({"f": holder})["f"](given).detach(), holder(given).detach())


def test_another_process_by_spawn() -> None:
    x = tg.asarray([1.0, 2.0], dtype=tg.float32)
    model = Model()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        slope = tg.linearize(copying.square, x)[1]
        given = [(model.step, x), (copying.fast, x), (model.saving, x), (slope, x)]
        found = pool.map_async(copying.work, given).get(timeout=300)
    assert found[0] == copying.work((Model().step, x))
    assert found[1] == [5.0] * 4
    assert found[2] == [9.0] * 4
    assert found[3] == [10.0] * 4


def test_a_script_s_own_functions_by_spawn(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing\n"
        "import tapegrad as tg\n"
        "@tg.compile\n"
        "def twice(x):\n"
        "    return x * 2.0\n"
        "def run(f):\n"
        "    return [f(tg.asarray(float(i))).item() for i in range(4)]\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.map_async(run, [twice]).get(timeout=300))\n"
    )
    root = str(Path(tg.__file__).parents[1])
    found = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env={"PYTHONPATH": root}, timeout=600
    )
    assert found.stdout.strip() == "[[0.0, 2.0, 4.0, 6.0]]", found.stderr
