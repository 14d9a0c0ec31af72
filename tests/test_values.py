"""A Tensor is a value: nothing aliases, and no mutation corrupts a gradient."""

from __future__ import annotations

import contextlib
import copy
import math
import operator as python
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad import backends


def test_slices_do_not_alias(xp: Place) -> None:
    x = xp.tensor([[1.0, 2.0], [3.0, 4.0]])
    row = x[0]
    with pytest.warns(RuntimeWarning, match="NumPy would change that one too"):
        row += 10.0
    row[0] = 0.0
    xp.check(x, [[1.0, 2.0], [3.0, 4.0]])
    x[0] = 7.0
    xp.check(row, [0.0, 12.0])
    xp.check(x, [[7.0, 7.0], [3.0, 4.0]])


@pytest.mark.parametrize(
    "view",
    [
        lambda x: tg.reshape(x, (4,)),
        lambda x: tg.permute_dims(x, (1, 0)),
        lambda x: tg.broadcast_to(x, (2, 2, 2)),
        lambda x: x.detach(),
        lambda x: tg.asarray(x, copy=True),
        lambda x: tg.asarray(x, copy=False),
        lambda x: +x,
        lambda x: tg.flip(x),
        lambda x: tg.unstack(x)[0],
        lambda x: x.mT,
    ],
)
@pytest.mark.filterwarnings("ignore:.*NumPy would change that one too:RuntimeWarning")
def test_no_function_gives_a_view_that_writes_through(xp: Place, view: Any) -> None:
    x = xp.tensor([[1.0, 2.0], [3.0, 4.0]])
    y = view(x)
    if y is x:
        return
    before = xp.values(y).copy()
    x[...] = 0.0
    x += 1.0
    np.testing.assert_array_equal(xp.values(y), before)
    kept = xp.values(x).copy()
    y[...] = 5.0
    y *= 2.0
    np.testing.assert_array_equal(xp.values(x), kept)


def test_overlapping_write(xp: Place) -> None:
    x = xp.tensor([1.0, 2.0, 3.0])
    x[1:] = x[:-1]
    xp.check(x, [1.0, 1.0, 2.0])


def test_foreign_memory_is_copied_on_the_way_in() -> None:
    a = np.asarray([1.0, 2.0])
    x, y, z = tg.tensor(a), tg.asarray(a), tg.asarray(a, copy=False)
    a[0] = 9.0
    assert x[0].item() == y[0].item() == 1.0
    assert z[0].item() == 9.0
    z[0] = 3.0  # even then, the Tensor takes a copy before it writes
    assert a[0] == 9.0


def test_a_constant_operand_is_copied_if_a_rule_saves_it() -> None:
    a = np.asarray([2.0, 3.0])
    x = tg.tensor([1.0, 1.0], requires_grad=True)
    y = tg.sum(x * a + a)
    z = tg.sum(tg.reshape(x, (1, 2)) @ a)
    a[...] = 100.0
    (y + z).backward()
    np.testing.assert_array_equal(np.asarray(x.grad), [4.0, 6.0])


def test_what_leaves_is_read_only_or_a_copy(xp: Place) -> None:
    x = xp.tensor([1.0, 2.0])
    out = np.asarray(x)
    assert not out.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        out[0] = 5.0
    own = np.array(x)
    own[0] = 5.0
    xp.check(x, [1.0, 2.0])
    raw = x.array
    if xp.device.partition(":")[0] in ("torch", "strict", "cuda"):
        raw[0] = 5.0
    xp.check(x, [1.0, 2.0])


def test_dlpack_gives_no_way_to_write() -> None:
    x = tg.asarray([1.0, 2.0])
    a = np.from_dlpack(x)
    a[0] = 9.0
    b = np.from_dlpack(x, copy=False)
    with pytest.raises(ValueError, match="read-only"):
        b[0] = 9.0
    torch = pytest.importorskip("torch")
    t = torch.from_dlpack(x)  # which ignores the read-only flag
    t[0] = 9.0
    assert x[0].item() == 1.0


def test_mutation_after_saving_does_not_change_the_gradient(xp: Place) -> None:
    x = xp.tensor([3.0, 4.0], requires_grad=True)
    y = x * 1.0
    z = tg.sum(y * y)  # saves y
    y[0] = 100.0
    y += 1.0
    z.backward()
    xp.check(x.grad, [6.0, 8.0])


def test_setitem_gradients(xp: Place) -> None:
    x = xp.tensor([1.0, 2.0, 3.0], requires_grad=True)
    v = xp.tensor([10.0], requires_grad=True)
    y = x * x
    y[1:2] = v * v
    tg.sum(y).backward()
    xp.check(x.grad, [2.0, 0.0, 6.0])
    xp.check(v.grad, [20.0])


def test_the_last_write_wins_and_gets_the_gradient() -> None:
    v = tg.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = tg.zeros(2)
    y[[0, 0, 1]] = v
    tg.sum(y * tg.asarray([5.0, 7.0])).backward()
    np.testing.assert_array_equal(np.asarray(y.detach()), [2.0, 3.0])
    np.testing.assert_array_equal(np.asarray(v.grad), [0.0, 5.0, 7.0])


def test_an_untracked_tensor_becomes_tracked_by_a_write(xp: Place) -> None:
    x = xp.tensor([2.0], requires_grad=True)
    y = xp.tensor([0.0, 0.0])
    y[0] = x[0] * 3.0
    y += x
    assert y.requires_grad
    tg.sum(y).backward()
    xp.check(x.grad, [5.0])


def test_in_place_operators_record(xp: Place) -> None:
    x = xp.tensor([2.0, 3.0], requires_grad=True)
    y = x * 1.0
    same = y
    y *= x
    y -= 1.0
    y /= 2.0
    y **= 2
    assert y is same
    tg.sum(y).backward()
    v = np.asarray([2.0, 3.0])
    xp.check(x.grad, 2 * (v * v - 1) / 2 * v)


def test_a_leaf_is_trained_under_no_grad(xp: Place) -> None:
    w = xp.tensor([1.0, 2.0], requires_grad=True)
    for _ in range(3):
        w.grad = None
        tg.sum(w * w).backward()
        assert w.grad is not None
        with tg.no_grad():
            w -= 0.25 * w.grad
            w[0] = 0.5
        assert w.is_leaf
        assert w.requires_grad
    xp.check(w, [0.5, 0.25])


def test_an_in_place_update_of_a_result_under_no_grad_raises(xp: Place) -> None:
    x = xp.tensor([2.0, 3.0], requires_grad=True)
    y = x * 3.0
    first = xp.tensor([0])
    message = r"no_grad\(\) on the result of an operation would cut it.*x.detach\(\)"

    def write(y: tg.Tensor) -> tg.Tensor:
        y[0] = 5.0
        return y

    def write_by_index(y: tg.Tensor) -> tg.Tensor:
        y[first] = 5.0
        return y

    def add(y: tg.Tensor) -> tg.Tensor:
        y += 1.0
        return y

    for update in (write, write_by_index, add):
        with tg.no_grad(), pytest.raises(RuntimeError, match=message):
            update(y)
        with pytest.raises(RuntimeError, match=message):
            tg.grad(lambda v, u=update: tg.sum(tg.vmap(lambda e: tg.no_grad()(u)(e * 2.0))(tg.stack([v, v]))))(x)
    xp.check(y, [6.0, 9.0])
    tg.sum(y * y).backward()
    xp.check(x.grad, [36.0, 54.0])
    with tg.no_grad():
        xp.check(add(y.detach()), [7.0, 10.0])


def test_a_tape_walked_after_training_still_has_the_old_values(xp: Place) -> None:
    w = xp.tensor([2.0], requires_grad=True)
    y = tg.sum(w * w * w)
    with tg.no_grad():
        w += 5.0
    y.backward()
    xp.check(w.grad, [12.0])


def test_private_buffers_are_written_in_place() -> None:
    """The optimisation is there, where nobody can see it."""
    x = tg.zeros(4)
    before = x._array.ctypes.data
    x[0] = 1.0
    x += 1.0
    assert x._array.ctypes.data == before
    y = x.detach()
    x[0] = 3.0
    assert x._array.ctypes.data != before
    assert y[0].item() == 2.0


def hold_array(x: tg.Tensor) -> Any:
    return x._array


HOLDERS = [
    hold_array,
    lambda x: (x._array,),
    lambda x: x._array[1:],
    lambda x: x._array[1:][1:].T,
    lambda x: np.broadcast_to(x._array, (2, 4, 4)),
    lambda x: np.lib.stride_tricks.as_strided(x._array, (2,), (8,)),
    lambda x: memoryview(x._array),
    lambda x: np.asarray(memoryview(x._array)),
    lambda x: np.from_dlpack(x._array),
    lambda x: x._array.ctypes,
    lambda x: x._array.flat,
    lambda x: np.nditer(x._array),
    lambda x: x._array.reshape(-1),
    lambda x: x._array.sum,
    lambda x: tg.reshape(x, (16,)),
    lambda x: x.detach(),
    lambda x: np.asarray(x),
]


@pytest.mark.parametrize("hold", HOLDERS)
def test_a_buffer_somebody_holds_is_not_private(hold: Any) -> None:
    backend = backends.load("cpu")
    x = tg.zeros((4, 4))
    assert backend.is_private(x)
    held = hold(x)
    assert not backend.is_private(x)
    del held
    assert backend.is_private(x)


def test_hash_is_by_identity_and_equality_by_element(xp: Place) -> None:
    x, y = xp.tensor([1.0, 2.0]), xp.tensor([1.0, 3.0])
    assert {x: "x", y: "y"}[x] == "x"
    assert (x == y).tolist() == [True, False]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_of_leaves_are_leaves(xp: Place, copied: Any) -> None:
    x = xp.tensor([1.0, 2.0], requires_grad=True)
    y = copied(x)
    assert y.requires_grad
    assert y.is_leaf
    assert (y.dtype, y.device) == (x.dtype, x.device)
    tg.sum(y * y).backward()
    assert x.grad is None
    xp.check(y.grad, [2.0, 4.0])
    assert not copied(xp.tensor([1.0])).requires_grad


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda x: copy.deepcopy({"x": x})["x"]])
def test_copies_of_results_are_recorded(xp: Place, copied: Any) -> None:
    x = xp.tensor([1.0, 3.0])
    xp.check(tg.grad(lambda v: tg.sum(copied(v * 2.0) * v))(x), [4.0, 12.0])
    xp.check(tg.grad(lambda v: tg.sum(copied(v) * v))(x), [2.0, 6.0])
    xp.check(tg.grad(lambda v: tg.sum(tg.vmap(lambda w: copied(w) * w)(v)))(x), [2.0, 6.0])
    w = xp.tensor([1.0, 3.0], requires_grad=True)
    y = w * 2.0
    z = copied(y)
    z[0] = 7.0
    xp.check(y, [2.0, 6.0])
    with tg.no_grad():
        assert not copied(y).requires_grad


def test_pickling_a_result_raises_while_recording(xp: Place) -> None:
    y = xp.tensor([1.0], requires_grad=True) * 2.0
    with pytest.raises(TypeError, match=r"pickling would take this Tensor off the tape.*x.detach\(\)"):
        pickle.dumps(y)
    with tg.no_grad():
        z = pickle.loads(pickle.dumps(y))
    assert not z.requires_grad
    xp.check(z, [2.0])


def test_looking_at_values_is_no_error(xp: Place) -> None:
    x = xp.tensor([2.0], requires_grad=True)
    y = x * x
    assert "4." in repr(y)
    assert f"{y:.1f}" == "4.0"
    assert str(y) == f"{y}"
    assert y.item() == 4.0
    assert bool(y > 3.0)
    assert len(y) == 1
    assert [r.item() for r in y] == [4.0]
    assert y.tolist() == [4.0]
    assert y.requires_grad


def test_python_functions_of_numbers(xp: Place) -> None:
    x = xp.tensor(2.5)
    assert (math.floor(x), math.ceil(x), math.trunc(-x), round(x), round(x, 1)) == (2, 3, -2, 2, 2.5)
    assert type(round(x)) is int
    v = xp.tensor([5.0, 7.5], requires_grad=True)
    for quotient, remainder, expected in ((*divmod(v, 3.0), ([1, 2], [2, 1.5])), (*divmod(16.0, v), ([3, 2], [1, 1]))):
        xp.check(quotient, expected[0])
        xp.check(remainder, expected[1])
    tg.sum(divmod(v, 3.0)[1]).backward()
    xp.check(v.grad, [1.0, 1.0])


@pytest.mark.parametrize("chosen", [False, True])
def test_a_mask_of_no_axes_indexes_a_tensor_of_none(xp: Place, chosen: bool) -> None:
    x = xp.tensor(3.0, requires_grad=True)
    y = x[xp.tensor(chosen)]
    assert y.shape == (int(chosen),)
    tg.sum(y * 2.0).backward()
    xp.check(x.grad, 2.0 * chosen)
    z = x * 1.0
    z[xp.tensor(chosen)] = 5.0
    xp.check(z, 5.0 if chosen else 3.0)


def test_from_dlpack_takes_arrays_of_others() -> None:
    x = tg.from_dlpack(np.asarray([1.0, 2.0]))
    assert (x.tolist(), x.device, x.requires_grad) == ([1.0, 2.0], "cpu", False)


def test_lists_of_recorded_tensors(xp: Place) -> None:
    """A list may mix numbers and Tensors, nested too; each Tensor gets its gradient."""
    x = xp.tensor([3.0, 5.0])
    xp.check(tg.asarray([0.0, x[0]]), [0.0, 3.0])
    xp.check(tg.asarray([[0, 1.5], (x[0], True)]), [[0.0, 1.5], [3.0, 1.0]])
    g = tg.grad(lambda v: tg.sum(tg.asarray([[2, 1], [v[1], v[0]]]) ** 2))(x)
    xp.check(g, [6.0, 10.0])


def test_writing_lists_of_recorded_tensors(xp: Place) -> None:
    """A list that is written is recorded like a Tensor, by slices, arrays and masks."""
    x = xp.tensor([1.0, 1.0])
    keys = slice(2), tg.asarray([2, 0], device=xp.device), tg.asarray([True, False, True], device=xp.device)
    for key in keys:

        def square(v: tg.Tensor, key: object = key) -> tg.Tensor:
            z = tg.zeros(3, dtype=v.dtype, device=v.device)
            z[key] = [v[0], v[1]]
            return tg.sum(z * z)

        xp.check(tg.grad(square)(x), [2.0, 2.0])
        xp.check(tg.jvp(square, (x,), (x,))[1], 4.0)
    z = tg.zeros((2, 2), dtype=x.dtype, device=x.device)
    z[...] = [[1.0, x[0]], (0, 2)]
    xp.check(z, [[1.0, 1.0], [0.0, 2.0]])


@pytest.mark.parametrize("index", [3, -4])
def test_indices_in_arrays_are_checked(xp: Place, index: int) -> None:
    x, i = xp.tensor([[1.0, 2.0, 3.0]]), xp.tensor(np.asarray([[index]]))
    takes: list[Callable[[], Any]] = [
        lambda: tg.take_along_axis(x, i, axis=1),
        lambda: tg.take(x, tg.reshape(i, (1,)), axis=1),
        lambda: x[0, tg.reshape(i, (1,))],
    ]
    for take in takes:
        with tg.debug(), pytest.raises(IndexError, match=r"out of range for axis 1 of shape \(1, 3\)"):
            take()
        if not xp.device.startswith(("jax", "cuda")):  # these do not check them: see the guide "Differences from NumPy"
            with pytest.raises((IndexError, RuntimeError), match="out of (DATA )?(bounds|range)"):
                take()
    xp.check(tg.take_along_axis(x, xp.tensor(np.asarray([[-3]])), axis=1), [[1.0]])


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda x: tg.linalg.inv(x), r"inv of operands of shape \(2, 2, 2\)"),
        (lambda x: tg.linalg.solve(x, tg.ones_like(x)), r"solve of operands of shape \(2, 2, 2\), \(2, 2, 2\)"),
        (lambda x: tg.linalg.cholesky(-x), r"cholesky of operands of shape \(2, 2, 2\)"),
    ],
)
def test_debug_raises_for_singular_matrices(xp: Place, f: Any, message: str) -> None:
    """Everywhere, if one in a batch is; a result of operands that are not finite is left alone."""
    singular = np.asarray([[[1.0, 2.0], [2.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]]])
    with tg.debug(), pytest.raises(ValueError, match=message):
        f(xp.tensor(singular))
    with tg.debug(), contextlib.suppress(ValueError):  # libraries that look for NaN
        assert not np.isfinite(xp.values(f(xp.tensor(singular * np.nan)))).all()


@pytest.mark.parametrize("key", [0, ...])
def test_a_zero_that_is_written_keeps_its_sign(xp: Place, key: Any) -> None:
    x = xp.tensor([1.0, 2.0])
    x[key] = -0.0
    assert np.signbit(xp.values(x)[0])


@pytest.mark.parametrize("divisor", [np.inf, -np.inf, 0.1, -2.0, [np.inf, -2.0, 0.1, 0.3], 2, [2, 3, -2, 5]])
def test_division_with_rest_in_place_is_the_operator(xp: Place, divisor: Any) -> None:
    numbers = [1, -1, 0, 7] if np.asarray(divisor).dtype.kind == "i" else [1.0, -1.0, -0.0, 0.3]
    y = divisor if isinstance(divisor, (int, float)) else xp.tensor(divisor)
    pairs: Any = ((python.imod, python.mod), (python.ifloordiv, python.floordiv))
    for update, operator in pairs:
        expected = xp.values(operator(xp.tensor(numbers), y))
        found = xp.values(update(xp.tensor(numbers), y))
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "uint64"])
def test_shifts_by_the_width_or_more_shift_all_bits_out(xp: Place, dtype: str) -> None:
    if xp.device.startswith(("torch", "jax", "strict")):
        pytest.skip("the standard leaves these to the library: CuPy is to give what NumPy gives")
    numbers, counts = np.asarray([1, 5, 100, 1], dtype), np.asarray([7, 8, 64, 100], dtype)
    x, n = tg.tensor(numbers, device=xp.device), tg.tensor(counts, device=xp.device)
    pairs: Any = ((python.lshift, python.ilshift), (python.rshift, python.irshift))
    for f, g in pairs:
        expected = f(numbers, counts)
        np.testing.assert_array_equal(xp.values(f(x, n)), expected)
        np.testing.assert_array_equal(xp.values(g(tg.tensor(numbers, device=xp.device), n)), expected)
    assert (x << 3).dtype is x.dtype


@pytest.mark.parametrize("bound", [np.float64(0.5), np.full(3, 0.5), np.asarray(1), 0.5, True])
def test_clip_keeps_the_dtype(xp: Place, bound: Any) -> None:
    x = tg.tensor(np.asarray([0.1, 0.6, 2.0], np.float32), device=xp.device)
    if isinstance(bound, np.ndarray):
        bound = xp.tensor(bound)
    y = tg.clip(x, bound)
    assert y.dtype is tg.float32
    xp.check(
        y, np.maximum([0.1, 0.6, 2.0], np.asarray(xp.values(bound) if isinstance(bound, tg.Tensor) else bound)), 1e-6
    )
    with pytest.raises(
        ValueError, match=r"clip of operands of shape \(3,\), None, \(2,\): the shapes could not be broadcast together"
    ):
        tg.clip(x, None, tg.ones(2, device=xp.device))
