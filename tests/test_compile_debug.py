"""`tg.compile(f, debug=True)` finds faults of a program."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from compiling import CALLS, Model, values, visible
from test_compile import plain

import tapegrad as tg
from tapegrad._compile.run.bound_program import BoundProgram


def test_what_is_right_passes_and_is_eager() -> None:
    eager, m = Model(), Model()
    f = tg.compile(lambda x, y: plain(m, x, y), debug=True)
    for i in range(CALLS):
        assert values(f(*m.batch(i))) == values(plain(eager, *eager.batch(i)))
        assert visible(m) == visible(eager)
    assert len(f.program.nodes) > 10


def later(change: Any) -> tuple[Any, Any]:
    """Return a compiled function that has a program, and a list that changes it, which no guard looks at."""
    flags = {"on": False, "rate": 0.5, "noise": np.ones(2), "other": tg.ones(2)}
    w = tg.asarray([1.0, 2.0])
    hidden = iter(lambda: flags, None)
    f = tg.compile(lambda x: change(next(hidden), w, x), debug=True)
    for i in range(5):
        f(tg.asarray([1.0, float(i)]))
    return f, flags


def flag(flags: Any, w: Any, x: Any) -> Any:
    y = x * w
    return y + 1.0 if flags["on"] else y - 1.0


def more(flags: Any, w: Any, x: Any) -> Any:
    y = x * w
    return tg.exp(y) if flags["on"] else y


def number(flags: Any, w: Any, x: Any) -> Any:
    return x * flags["rate"]


def noise(flags: Any, w: Any, x: Any) -> Any:
    return x + (np.random.default_rng(3).normal(size=2) if flags["on"] else np.ones(2))


def another(flags: Any, w: Any, x: Any) -> Any:
    return x + (flags["other"] if flags["on"] else w)


def write(flags: Any, w: Any, x: Any) -> Any:
    if flags["on"]:
        w[...] = x
    return x * w


def result(flags: Any, w: Any, x: Any) -> Any:
    return x * 1.0, flags["on"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (flag, r"add at test_compile_debug.py:\d+, where the call before did subtract at test_compile_debug.py:\d+"),
        (more, r"exp at test_compile_debug.py:\d+ is done in only one"),
        (number, r"multiply at test_compile_debug.py:\d+: the number 0.5 became 0.25"),
        (noise, r"add at test_compile_debug.py:\d+: an array that is no Tensor is another one"),
        (another, r"test_compile_debug.py:\d+ a Tensor is used that the call before did not use"),
        (write, r"index_set at test_compile_debug.py:\d+, where the call before did multiply"),
        (result, r"a result: the argument False became True|a result: the number False became True"),
    ],
)
def test_what_python_changes_later_is_found(change: Any, match: str) -> None:
    f, flags = later(change)
    flags["on"], flags["rate"] = True, 0.25
    with pytest.raises(AssertionError, match=f"(?s)compile: the function .*{match}"):
        f(tg.asarray([1.0, 7.0]))


def test_a_raw_array_that_changes_outside_is_right() -> None:
    f, flags = later(lambda flags, w, x: x + flags["noise"])
    flags["noise"] += 1.0
    assert f(tg.asarray([0.0, 0.0])).tolist() == [2.0, 2.0]


def test_an_executor_that_is_wrong_is_found() -> None:
    f, _ = later(lambda flags, w, x: tg.sin(x) * w)
    replay: BoundProgram = f._last
    run = replay.run
    replay.run = lambda arrays: [1e-3 + out for out in run(arrays)]
    with pytest.raises(AssertionError, match=r"multiply at test_compile_debug.py:\d+.* by 0.001 at most"):
        f(tg.asarray([1.0, 7.0]))
    replay.run = lambda arrays: [out * (1 + 1e-14) for out in run(arrays)]
    f(tg.asarray([1.0, 7.0]))


def test_a_value_that_is_not_computed_is_found() -> None:
    f, _ = later(lambda flags, w, x: tg.sin(x) * w)
    node = f._last.program.nodes[0]
    function = node.function
    node.function = lambda *args: function(*args) + 0.5
    with pytest.raises(AssertionError, match=r"sin at test_compile_debug.py:\d+.*differs.* by 0.5 at most"):
        f(tg.asarray([1.0, 7.0]))


def test_errors_of_both_are_the_users() -> None:
    f = tg.compile(lambda x, labels: tg.cross_entropy(x, labels), debug=True)
    x = tg.asarray([[1.0, 2.0]])
    for _ in range(5):
        f(x * 1.0, tg.asarray([1]))
    with pytest.raises(ValueError, match="a label is out of range"):
        f(x * 1.0, tg.asarray([2]))
