"""The open tape: its list, its text, and additions by debug."""

from __future__ import annotations

import numpy as np
import pytest

import tapegrad as tg
from tapegrad._engine import rules
from tapegrad._inspect.tape import show, show_static


def test_it_lists_every_operation_in_order() -> None:
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    with tg.Tape() as tape:
        y = x * 2.0
        with tg.no_grad():
            z = tg.exp(y)
        mask = z > 1.0
        y[0] = 5.0
        y += 1.0
        a, _ = tg.unstack(y)
        tg.concat([tg.reshape(a, (1,)), x])
    tg.sum(x)
    names = [e.operation.name for e in tape]
    assert names == ["multiply", "exp", "greater", "setitem", "add", "unstack", "reshape", "concat"]
    assert [e.record is not None for e in tape] == [True, False, False, True, True, True, True, True]
    assert mask.tolist() == [True, True]
    assert len(tape) == 8


def test_values_on_it_are_those_of_the_moment() -> None:
    x = tg.asarray([1.0])
    with tg.Tape() as tape:
        y = x * 2.0
        y[0] = 7.0
        y += 1.0
    assert [e.results[0].item() for e in tape] == [2.0, 7.0, 8.0]


def test_it_prints_a_table() -> None:
    x = tg.tensor(np.ones((2, 3), np.float32), requires_grad=True)
    w = tg.tensor(np.ones((3, 4), np.float32), requires_grad=True)
    with tg.Tape() as tape:
        tg.sum(tg.tanh(x @ w), axis=0)
    lines = str(tape).splitlines()
    assert lines[0].split() == ["operation", "inputs", "shape", "dtype", "saved", "line"]
    assert lines[2].split()[:4] == ["%0", "matmul", "a,", "b"]
    assert lines[3].split()[:3] == ["%1", "tanh", "%0"]
    assert "(2, 4)" in lines[2]
    assert "float32" in lines[2]
    assert f"{(6 + 12) * 4} B" in lines[2]
    assert "test_tape.py:" in lines[2]
    assert lines[-1] == "3 operations, 104 bytes saved; from outside: a, b"


def test_tapes_nest_and_a_closed_one_hears_nothing() -> None:
    x = tg.ones(1)
    with tg.Tape() as outer:
        x + 1.0
        with tg.Tape() as inner:
            x * 2.0
        x - 3.0
    x / 4.0
    assert [e.operation.name for e in inner] == ["multiply"]
    assert [e.operation.name for e in outer] == ["add", "multiply", "subtract"]


def test_a_recorded_backward_pass_is_listed() -> None:
    x = tg.tensor([2.0], requires_grad=True)
    with tg.Tape() as tape:
        y = tg.sum(x * x)
        n = len(tape)
        y.backward(create_graph=True)
    assert n == 2
    assert len(tape) > n


def test_lines_are_kept_only_under_a_tape_or_debug() -> None:
    x = tg.tensor([2.0], requires_grad=True)
    y = x * x
    assert not hasattr(y._record, "line")
    with tg.debug():
        y = x * x
    assert y._record is not None
    assert y._record.line.startswith("test_tape.py:")


def test_debug_names_the_forward_line_of_a_backward_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise MemoryError("no room")

    x = tg.tensor([2.0], requires_grad=True)
    with tg.debug():
        y = tg.sum(tg.exp(x))
        monkeypatch.setattr(rules.OPERATIONS["exp"], "vjps", ((broken, 0, None),))
        with pytest.raises(MemoryError, match="no room") as error:
            y.backward()
    assert any("exp, recorded at test_tape.py:" in note for note in error.value.__notes__)


def test_debug_stops_where_a_gradient_turns_into_nan() -> None:
    x = tg.tensor([0.0], requires_grad=True)
    with tg.debug(), np.errstate(all="ignore"):
        y = tg.sum(tg.sqrt(x) * 0.0 / x)
        with pytest.raises(
            FloatingPointError, match=r"gradient of (divide|multiply|sqrt), recorded at test_tape.py:\d+"
        ):
            y.backward()
    assert x.grad is None


def test_names_and_static_arguments_in_the_table() -> None:
    x = tg.asarray([[1.0, 2.0], [3.0, 4.0]])
    with tg.Tape() as tape:
        x[x > 0]
        x[1:, 0]
        tg.sum(x, axis=0)
    lines = tape.table({"x": x}).splitlines()
    assert [line.split()[1] for line in lines[2:-1]] == ["greater", "getitem", "getitem", "sum"]
    assert "x, (array(2, 2),)" in lines[3]
    assert "x, (1:2:1, 0)" in lines[4]
    assert "x, (-2,)" in lines[5]
    assert lines[-1].endswith("from outside: x")


def test_a_dtype_of_numpy_is_shown_by_its_name() -> None:
    """A class has an attribute `shape`, too, which is no shape."""
    assert show_static(np.float64) == "float64"
    assert show_static((np.float32, 1, slice(None, 2))) == "(float32, 1, :2)"
    assert "float64" in show(np.float64, {})
