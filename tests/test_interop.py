"""NumPy's functions, ufuncs, scalars and arrays beside Tensors: recorded, or an error that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg

A = np.asarray([[1.0, 2.0], [3.0, 5.0]])
SAME: list[tuple[str, Callable[[Any], Any]]] = [
    ("all", lambda x: np.all(x > 0, axis=0)),
    ("amax", lambda x: np.amax(x, axis=1)),
    ("argmax", lambda x: np.argmax(x)),
    ("argsort", lambda x: np.argsort(x, axis=None)),
    ("around", lambda x: np.around(x)),
    ("broadcast_arrays", lambda x: np.broadcast_arrays(x[0], x)[0]),
    ("broadcast_to", lambda x: np.broadcast_to(x, (2, 2, 2))),
    ("clip", lambda x: np.clip(x, 1.5, 4.0)),
    ("clip one side", lambda x: np.clip(x, None, 4.0)),
    ("clip keywords", lambda x: np.clip(x, min=2.5)),
    ("concatenate", lambda x: np.concatenate([x, x * 2], axis=1)),
    ("concatenate flat", lambda x: np.concatenate((x, x), axis=None)),
    ("concatenate constant", lambda x: np.concatenate([x, A])),
    ("count_nonzero", lambda x: np.count_nonzero(x - 1.0, axis=0)),
    ("cumprod", lambda x: np.cumprod(x, axis=1)),
    ("cumsum", lambda x: np.cumsum(x)),
    ("cumulative_sum", lambda x: np.cumulative_sum(x, axis=0)),
    ("dot", lambda x: np.dot(x, x)),
    ("dot number", lambda x: np.dot(2.0, x)),
    ("dot vector", lambda x: np.dot(x, x[0])),
    ("dot three axes", lambda x: np.dot(x, np.stack([x, x]))),
    ("expand_dims", lambda x: np.expand_dims(x, (0, -1))),
    ("flip", lambda x: np.flip(x, 1)),
    ("full_like", lambda x: np.full_like(x, 3.0)),
    ("full_like of a Tensor", lambda x: np.full_like(x, x[0, 1])),
    ("linspace", lambda x: np.linspace(x[0, 0], x[1, 0], 3)),
    ("sinc", np.sinc),
    ("i0", np.i0),
    ("diff from a number", lambda x: np.diff(x, prepend=0.5)),
    ("diff to a Tensor", lambda x: np.diff(x, axis=0, append=x[0, 1])),
    ("take a column", lambda x: np.take(x, 1, axis=1)),
    ("matrix_transpose", lambda x: np.matrix_transpose(x)),
    ("max", lambda x: np.max(x, axis=0, keepdims=True)),
    ("mean", lambda x: np.mean(x, 0)),
    ("meshgrid", lambda x: np.meshgrid(x[0], x[1], indexing="ij")[1]),
    ("min", lambda x: np.min(x)),
    ("moveaxis", lambda x: np.moveaxis(x, 0, 1)),
    ("nonzero", lambda x: np.nonzero(x - 1.0)[0]),
    ("outer", lambda x: np.outer(x, x[0])),
    ("prod", lambda x: np.prod(x, axis=1)),
    ("ravel by reshape", lambda x: np.reshape(x, -1)),
    ("real", lambda x: np.real(x)),
    ("repeat", lambda x: np.repeat(x, 2, axis=1)),
    ("reshape", lambda x: np.reshape(x, (4, 1), order="C")),
    ("roll", lambda x: np.roll(x, 1, axis=0)),
    ("sort", lambda x: np.sort(-x, kind="stable")),
    ("squeeze", lambda x: np.squeeze(x[:, None])),
    ("squeeze axis", lambda x: np.squeeze(x[None], axis=0)),
    ("stack", lambda x: np.stack([x, x + 1], axis=-1)),
    ("std", lambda x: np.std(x, axis=0, ddof=1)),
    ("sum", lambda x: np.sum(x, axis=1, keepdims=True)),
    ("take", lambda x: np.take(x, np.asarray([3, 0]))),
    ("take_along_axis", lambda x: np.take_along_axis(x, np.asarray([[1], [0]]), axis=1)),
    ("tensordot", lambda x: np.tensordot(x, x, axes=1)),
    ("tile", lambda x: np.tile(x, 2)),
    ("transpose", lambda x: np.transpose(x)),
    ("transpose axes", lambda x: np.transpose(x[None], (2, 0, 1))),
    ("tril", lambda x: np.tril(x, -1)),
    ("var", lambda x: np.var(x)),
    ("where", lambda x: np.where(x > 1.5, x, 0.0)),
    ("where alone", lambda x: np.where(x > 1.5)[0]),
    ("zeros_like", lambda x: np.zeros_like(x, dtype=np.float32)),
    # ufuncs and operators
    ("number * tensor", lambda x: np.float64(2) * x),
    ("number ** tensor", lambda x: np.float32(2) ** x),
    ("ndarray + tensor", lambda x: A + x),
    ("tensor - ndarray", lambda x: x - A),
    ("ndarray @ tensor", lambda x: A @ x),
    ("tensor @ ndarray", lambda x: x @ A),
    ("ndarray < tensor", lambda x: x * 1.5 > A),
    ("np.matmul", lambda x: np.matmul(A, x)),
    ("np.vecdot", lambda x: np.vecdot(x, A)),
    ("np.arctan2", lambda x: np.arctan2(x, A)),
    ("np.hypot", lambda x: np.hypot(1.0, x)),
]
CONSTANTS = (
    *("all", "argmax", "argsort", "around", "count_nonzero", "full_like", "nonzero", "where alone", "zeros_like"),
    "ndarray < tensor",
)


@pytest.mark.parametrize(("name", "f"), SAME, ids=[name for name, _ in SAME])
def test_numpy_functions_run_and_are_recorded(name: str, f: Callable[[Any], Any]) -> None:
    x = tg.tensor(A, requires_grad=True)
    y = f(x)
    expected = np.asarray(f(A))
    assert isinstance(y, tg.Tensor)
    np.testing.assert_allclose(y.tolist(), expected)
    assert y.shape == expected.shape
    assert y.requires_grad == (name not in CONSTANTS)
    if not y.requires_grad:
        return
    tg.sum(y * y).backward()
    direction = np.asarray([[0.3, -0.7], [0.2, 0.5]])
    h = 1e-6
    change = (np.sum(f(A + h * direction) ** 2) - np.sum(f(A - h * direction) ** 2)) / (2 * h)
    assert x.grad is not None
    np.testing.assert_allclose(np.sum(np.asarray(x.grad) * direction), change, rtol=1e-6, atol=1e-9)


def test_an_array_beside_a_tensor_is_a_constant(xp: Place) -> None:
    x = xp.tensor([[1.0, 2.0]], requires_grad=True)
    xp.check(np.float64(2.0) * x, [[2.0, 4.0]])
    xp.check(np.sum(x, axis=1), [3.0])
    joined: Any = np.concatenate([x, A])
    xp.check(joined, [[1.0, 2.0], *A])
    a = A.copy()
    y = tg.sum(x @ a) + tg.sum(a @ x.mT)
    a[...] = 0.0
    y.backward()
    xp.check(x.grad, [A.sum(axis=1) + A.sum(axis=0)])


RAISE: list[tuple[str, Callable[[tg.Tensor], Any], str]] = [
    ("no counterpart", lambda x: np.percentile(x, 50), r"numpy.percentile.*keeps the gradient.*x.detach\(\)"),
    ("none at all", lambda x: np.pad(x, 1), "numpy.pad with a Tensor has no counterpart"),
    ("in an extension", lambda x: np.linalg.cond(x), r"numpy.linalg.cond.*x.detach\(\)"),
    ("option", lambda x: np.mean(x, dtype=np.float32), "numpy.mean.*these arguments"),
    ("where", lambda x: np.sum(x, where=np.asarray(True) & (A > 1)), "numpy.sum"),
    ("out", lambda x: np.sum(x, out=np.zeros(())), "numpy.sum"),
    ("order", lambda x: np.reshape(x, (4,), order="F"), "numpy.reshape"),
    ("copyto", lambda x: np.copyto(np.zeros((2, 2)), x), "numpy.copyto"),
    ("in a list", lambda x: np.vstack([A, x]), "numpy.vstack"),
    ("reduce", lambda x: np.add.reduce(x), r"numpy.add.reduce.*np.asarray\(x.detach\(\)\)"),
    ("accumulate", lambda x: np.add.accumulate(x), "numpy.add.accumulate"),
    ("at", lambda x: np.add.at(A.copy(), 0, x), "numpy.add.at"),
    ("ufunc out", lambda x: np.add(x, 1.0, out=np.zeros((2, 2))), "numpy.add.*out=.*write y = y"),
    ("ufunc where", lambda x: np.add(x, 1.0, where=A > 1), "numpy.add.*options where"),
    ("no such ufunc", lambda x: np.cbrt(x), "numpy.cbrt"),
    ("slot of an array", lambda x: A.copy().__setitem__(0, x[0]), r"NumPy array.*x.detach\(\)"),
]


@pytest.mark.parametrize(("call", "message"), [c[1:] for c in RAISE], ids=[c[0] for c in RAISE])
def test_what_has_no_counterpart_raises(call: Callable[[tg.Tensor], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call(tg.tensor(A, requires_grad=True))


def test_an_array_is_not_updated_in_place_by_a_tensor() -> None:
    for x in (tg.ones((2, 2)), tg.tensor(A, requires_grad=True)):
        a = A.copy()
        with pytest.raises(TypeError, match=r"ndarray \+= tensor.*write y = y \+ x"):
            a += x
        np.testing.assert_array_equal(a, A)


def test_a_constant_tensor_goes_to_numpy_as_an_array(xp: Place) -> None:
    x = xp.tensor([1.0, 2.0, 4.0])
    tracked = xp.tensor([1.0, 2.0, 4.0], requires_grad=True)
    assert np.percentile(x, 50) == np.percentile(tracked.detach(), 50) == 2.0
    assert np.vstack([x, np.ones(3)]).shape == (2, 3)
    with tg.no_grad():
        assert np.median(tracked) == 2.0


def test_looking_by_numpy_is_no_error(xp: Place) -> None:
    x = xp.tensor([[1.0, 2.0]], requires_grad=True)
    assert np.shape(x) == (1, 2)
    assert np.ndim(x) == np.size(x) == 2
    assert np.allclose(x, [[1.0, 2.0]])
    assert np.array_equal(x, x)
    assert not np.iscomplexobj(x)


def test_linear_algebra_by_numpy() -> None:
    """np.linalg calls tapegrad.linalg where that is, and raises where it is not."""
    x = tg.tensor(A, requires_grad=True)
    calls: list[Callable[[Any], Any]] = [
        lambda x: np.linalg.norm(x),
        lambda x: np.linalg.norm(x, axis=1),
        lambda x: np.linalg.norm(x, ord=1, axis=(0, 1), keepdims=True),
        lambda x: np.linalg.det(x),
        lambda x: np.linalg.inv(x),
        lambda x: np.linalg.solve(x, A),
        lambda x: np.trace(x),
        lambda x: np.diagonal(x, 1),
        lambda x: np.fft.fft(x, axis=0),
        lambda x: np.diff(x),
        lambda x: np.unique(x),
    ]
    for f in calls:
        try:
            y = f(x)
        except TypeError as error:
            if "keeps the gradient" not in str(error):
                raise
        else:
            assert isinstance(y, tg.Tensor)
            np.testing.assert_allclose(y.tolist(), f(A))
