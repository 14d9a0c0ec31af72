"""Subclasses of NumPy's array: taken everywhere where they are plain numbers, refused where they mean more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tapegrad as tg


class Plain(np.ndarray):
    """A subclass that adds nothing to the numbers."""


class WithUnits(np.ndarray):
    """A subclass with arithmetic of its own."""

    def __array_ufunc__(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("not to be called")


NUMBERS = [1.0, 2.0]


def memmap(path: Path, dtype: Any = np.float64) -> np.memmap[Any, Any]:
    values = np.memmap(path / "numbers", dtype=dtype, mode="w+", shape=(2,))
    values[:] = NUMBERS
    return values


def ones() -> tg.Tensor:
    return tg.tensor([1.0, 3.0])


def assigned(value: Any) -> tg.Tensor:
    x = ones()
    x[:] = value
    return x


def assigned_where(mask: Any) -> tg.Tensor:
    x = ones()
    x[mask] = 5.0
    return x


def leaf_gradient(gradient: Any) -> Any:
    x = tg.tensor([1.0, 3.0], requires_grad=True)
    (x * x).backward(gradient)
    return x.grad


def added_in_place(value: Any) -> tg.Tensor:
    x = ones()
    x += value
    return x


def compiled(f: Callable[..., Any], *args: Any) -> Any:
    compiled_f = tg.compile(f)
    return [compiled_f(*args) for _ in range(4)][-1]


# Each place where an array comes in: the call, and its result for the numbers.
ENTRIES: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "asarray": (tg.asarray, [1.0, 2.0]),
    "asarray without a copy": (lambda a: tg.asarray(a, copy=False), [1.0, 2.0]),
    "asarray to another dtype": (lambda a: tg.asarray(a, dtype=tg.float32), [1.0, 2.0]),
    "asarray to another library": (lambda a: tg.asarray(a, device="strict:device1").to_device("cpu"), [1.0, 2.0]),
    "tensor": (tg.tensor, [1.0, 2.0]),
    "a list": (lambda a: tg.asarray([a, a]), [[1.0, 2.0], [1.0, 2.0]]),
    "nested lists": (lambda a: tg.asarray([[a], [[3.0, 4.0]]]), [[[1.0, 2.0]], [[3.0, 4.0]]]),
    "a list with a Tensor": (lambda a: tg.asarray([a, ones()]), [[1.0, 2.0], [1.0, 3.0]]),
    "an operand": (lambda a: ones() * a, [1.0, 6.0]),
    "an operand on the left": (lambda a: np.add(a, ones()), [2.0, 5.0]),
    "an operand of a gradient": (lambda a: tg.grad(lambda x: tg.sum(x * x * a))(ones()), [2.0, 12.0]),
    "an operand of a function": (lambda a: tg.maximum(ones(), a), [1.0, 3.0]),
    "an operand of where": (lambda a: tg.where(a > 1, a, ones()), [1.0, 2.0]),
    "an argument": (lambda a: tg.sum(a), 3.0),
    "one of several": (lambda a: tg.concat([a, ones()]), [1.0, 2.0, 1.0, 3.0]),
    "an index": (lambda a: ones()[a.astype(int) - 1], [1.0, 3.0]),
    "a mask": (lambda a: ones()[a > 1], [3.0]),
    "a value that is assigned": (assigned, [1.0, 2.0]),
    "a mask to assign at": (lambda a: assigned_where(a > 1), [1.0, 5.0]),
    "an in-place operand": (added_in_place, [2.0, 5.0]),
    "take": (lambda a: tg.take(ones(), a.astype(int) - 1), [1.0, 3.0]),
    "a gradient": (leaf_gradient, [2.0, 12.0]),
    "grad": (tg.grad(lambda x: tg.sum(x * x)), [2.0, 4.0]),
    "grad of a container": (lambda a: tg.grad(lambda p: tg.sum(p["a"] ** 2))({"a": a})["a"], [2.0, 4.0]),
    "a cotangent": (lambda a: tg.vjp(lambda x: x * x, ones())[1](a)[0], [2.0, 12.0]),
    "a tangent": (lambda a: tg.jvp(lambda x: x * x, (ones(),), (a,))[1], [2.0, 12.0]),
    "vmap": (lambda a: tg.vmap(lambda x: x * x)(a), [1.0, 4.0]),
    "closed over in vmap": (lambda a: tg.vmap(lambda x: tg.sum(x * a))(ones()), [3.0, 9.0]),
    "compile": (lambda a: compiled(lambda x: x * x, a), [1.0, 4.0]),
    "compile, beside a Tensor": (
        lambda a: compiled(lambda x, a: tg.grad(lambda x: tg.sum(x * a))(x), ones(), a),
        [1, 2],
    ),
    "closed over in compile": (lambda a: compiled(lambda x: x * a, ones()), [1.0, 6.0]),
    "checkpoint": (lambda a: tg.checkpoint(lambda x, a: x * a)(ones(), a), [1.0, 6.0]),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("kind", ["memmap", "plain"])
def test_plain_numbers_are_taken_everywhere(entry: str, kind: str, tmp_path: Path) -> None:
    call, expected = ENTRIES[entry]
    array: Any = memmap(tmp_path) if kind == "memmap" else np.asarray(NUMBERS).view(Plain)
    got = call(array)
    raw = got._array if isinstance(got, tg.Tensor) else got
    assert type(raw) is np.ndarray
    np.testing.assert_array_equal(raw, expected)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("kind", ["masked", "matrix", "units"])
def test_what_means_more_is_refused_everywhere(entry: str, kind: str) -> None:
    """Also where nothing is masked: a program must not depend on that."""
    call, _ = ENTRIES[entry]
    if kind == "masked":
        arrays: list[Any] = [np.ma.masked_array(NUMBERS, [True, False]), np.ma.masked_array(NUMBERS)]
        match = r"x.filled\(0.0\), or x.data and the mask beside it, as in tapegrad.where\(x.mask, 0.0, x.data\)"
    elif kind == "matrix":
        arrays, match = [np.asmatrix(NUMBERS)], r"matrix means products of matrices by \*: pass numpy.asarray\(x\)"
    else:
        if entry in ("an operand of where", "an index", "a mask", "a mask to assign at", "take"):
            pytest.skip("it computes on the array first")
        arrays = [np.asarray(NUMBERS).view(WithUnits)]
        match = "WithUnits has arithmetic of its own, such as units"
        if entry == "an operand on the left":
            pytest.skip("the left operand answers")
    for array in arrays:
        with pytest.raises(TypeError, match=match):
            call(array)


def test_the_masked_number_is_refused() -> None:
    for call in (tg.asarray, lambda a: ones() * a, lambda a: tg.asarray([1.0, a]), lambda a: assigned(a)):
        with pytest.raises(TypeError, match="would lose its mask"):
            call(np.ma.masked)


def test_masked_arrays_that_are_not_used_disturb_nobody() -> None:
    table = {"masked": np.ma.masked_array(NUMBERS, [True, False])}

    def f(x: tg.Tensor) -> tg.Tensor:
        return x * 2.0 if table else x

    np.testing.assert_array_equal(np.asarray(compiled(f, ones())), [2.0, 6.0])


def test_a_compiled_call_reads_a_memmap_again(tmp_path: Path) -> None:
    numbers = memmap(tmp_path)
    f = tg.compile(lambda x, a: x * a)
    for factor in (1.0, 2.0, 3.0, 4.0):
        numbers[:] = factor
        np.testing.assert_array_equal(np.asarray(f(ones(), numbers)), [factor, 3.0 * factor])
