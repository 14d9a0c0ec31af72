"""NumPy's functions, ufuncs, scalars and arrays beside Tensors: recorded, or an error with the fix."""

from __future__ import annotations

import math
import pickle
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad._engine.dtypes import DTYPES

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
    ("copy", lambda x: np.copy(x)),
    ("diag", lambda x: np.diag(x[0])),
    ("diag above", lambda x: np.diag(x[0], 2)),
    ("diag below", lambda x: np.diag(x[0], k=-1)),
    ("diag of a matrix", lambda x: np.diag(x, 1)),
    ("einsum", lambda x: np.einsum("ij,kj->ik", x, A, optimize=True)),
    ("kron", lambda x: np.kron(x, A)),
    ("kron of fewer axes", lambda x: np.kron(x[0], x)),
    ("ravel", lambda x: np.ravel(x)),
    ("split", lambda x: np.split(x, 2)[1]),
    ("split at", lambda x: np.split(x, [1], axis=1)[1]),
    ("swapaxes", lambda x: np.swapaxes(x, 0, -1)),
    ("vdot", lambda x: np.vdot(x, A)),
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
    ("none at all", lambda x: np.partition(x, 1), "numpy.partition with a Tensor has no counterpart"),
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
    ("einsum out", lambda x: np.einsum("ij->j", x, out=np.zeros(2)), "numpy.einsum.*these arguments"),
    ("no such ufunc", lambda x: np.cbrt(x), "numpy.cbrt"),
    ("slot of an array", lambda x: A.copy().__setitem__(0, x[0]), r"NumPy array.*x.detach\(\)"),
]


@pytest.mark.parametrize(("call", "message"), [c[1:] for c in RAISE], ids=[c[0] for c in RAISE])
def test_what_has_no_counterpart_raises(call: Callable[[tg.Tensor], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call(tg.tensor(A, requires_grad=True))


def test_parts_that_are_not_equal() -> None:
    with pytest.raises(ValueError, match="split: 2 elements along axis 1 do not make 3 equal parts"):
        np.split(tg.tensor(A), 3, axis=1)


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


def test_ufuncs_of_constants_make_tensors(xp: Place) -> None:
    """Those that tapegrad has not, on the device of the operand; one that writes elsewhere raises."""
    x = xp.tensor([1.0, 8.0])
    double: Any = np.float64 if xp.double else np.float32
    made = [
        (np.cbrt(x), [1.0, 2.0]),
        (np.add.reduce(x), 9.0),
        (np.modf(x)[1], [1.0, 8.0]),
        (np.fmax(2.0, x), [2.0, 8.0]),
    ]
    for y, expected in [*made, (np.subtract(x, 1.0, dtype=double), [0.0, 7.0])]:
        assert isinstance(y, tg.Tensor)
        assert y.device == x.device
        xp.check(y, expected)
    with tg.no_grad():
        root: Any = np.cbrt(xp.tensor([8.0], requires_grad=True))
        xp.check(root, [2.0])
    with pytest.raises(TypeError, match="numpy.add.at"):
        np.add.at(x, 0, 1.0)
    with pytest.raises(TypeError, match="numpy.cbrt with a Tensor and out="):
        np.cbrt(x, out=np.zeros(2))


def test_a_ufunc_of_another_library_is_not_called_numpys() -> None:
    special: Any = pytest.importorskip("scipy.special")
    with pytest.raises(TypeError, match="^the ufunc agm with a Tensor has no counterpart"):
        special.agm(tg.tensor([1.0], requires_grad=True), 2.0)


HOLES = np.asarray([[1.0, np.nan, 3.0], [np.nan, np.nan, 2.0], [4.0, -5.0, 0.5]])
NAN_CALLS: list[dict[str, Any]] = [{}, {"axis": 0}, {"axis": 1}, {"axis": 1, "keepdims": True}, {"axis": (0, 1)}]


@pytest.mark.parametrize("name", ["sum", "prod", "mean", "var", "std", "max", "min", "cumsum", "cumprod"])
def test_reductions_without_nan(xp: Place, name: str) -> None:
    """Values and gradients of NumPy's functions; elements that are NaN get none."""
    if xp.device.startswith("jax"):
        pytest.skip("functions of the standard, which take JAX seconds to compile")
    f = getattr(np, f"nan{name}")
    rtol = 1e-7 if xp.double else 1e-5
    for options in [*NAN_CALLS, {"axis": 1, "ddof": 1}] if name in ("var", "std") else NAN_CALLS:
        if name.startswith("cum") and (options.get("keepdims") or isinstance(options.get("axis"), tuple)):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of slices without elements
            expected = f(HOLES, **options)
            y = f(xp.tensor(HOLES), **options)
            np.testing.assert_allclose(xp.values(y), expected, rtol=rtol)
        assert y.shape == expected.shape
    g = xp.values(tg.grad(lambda x: tg.sum(f(x, axis=1)[::2] ** 2))(xp.tensor(HOLES)))
    assert np.all(g[np.isnan(HOLES)] == 0.0)
    direction, h = np.cos(np.arange(9.0)).reshape(3, 3), 1e-6
    above, below = (np.sum(f(HOLES + sign * h * direction, axis=1)[::2] ** 2) for sign in (1, -1))
    np.testing.assert_allclose(np.sum(g * direction), (above - below) / (2 * h), rtol=1e-6 if xp.double else 1e-4)
    whole = np.asarray([[1, 2], [5, 3]])
    np.testing.assert_allclose(xp.values(f(xp.tensor(whole), axis=0)), f(whole, axis=0), rtol=rtol)


def test_places_without_nan(xp: Place) -> None:
    x = xp.tensor(HOLES)
    assert np.nanargmax(x, axis=1).tolist() == [2, 2, 0]
    assert np.nanargmin(x, axis=0).tolist() == [0, 2, 2]
    with pytest.raises(ValueError, match="All-NaN slice"):
        np.nanargmax(x[1, :2])
    assert np.isnan(xp.values(np.nanmax(x[1, :2])))


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


# -- dtypes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in DTYPES if n != "bfloat16"])
def test_numpy_takes_a_dtype(name: str) -> None:
    dtype: Any = DTYPES[name]
    assert np.dtype(dtype) is np.dtype(name)
    assert tg.numpy_dtype(dtype) is tg.numpy_dtype(name) is np.dtype(name)
    assert np.zeros(2, dtype).dtype == np.asarray([0, 1]).astype(dtype).dtype == name
    assert np.result_type(dtype, np.bool) == name
    assert np.can_cast(np.bool, dtype)
    assert np.issubdtype(dtype, np.floating) is (dtype.kind == "real floating")
    assert np.dtype(name) == dtype
    assert dtype == np.dtype(name)
    assert tg.asarray([0, 1], dtype=np.dtype(dtype)).dtype is dtype


def test_numpy_and_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype: Any = tg.bfloat16
    assert np.dtype(dtype) == tg.numpy_dtype(dtype) == np.dtype(ml_dtypes.bfloat16)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    for call in (np.dtype, tg.numpy_dtype):
        with pytest.raises(TypeError, match=r"no bfloat16 of its own: pip install ml_dtypes, or .*tapegrad.astype"):
            call(dtype)


def test_what_has_no_numpy_dtype() -> None:
    with pytest.raises(TypeError, match="not a dtype of the array API standard"):
        tg.numpy_dtype("datetime64[s]")


def test_other_libraries_take_a_dtype() -> None:
    x = tg.ones(2, dtype=tg.float32)
    jax = pytest.importorskip("jax")
    assert jax.ShapeDtypeStruct(x.shape, x.dtype).dtype == np.float32
    safetensors = pytest.importorskip("safetensors.numpy")
    saved = safetensors.save({"x": np.asarray(x).astype(x.dtype)})
    assert tg.asarray(safetensors.load(saved)["x"]).dtype is tg.float32


# -- after a backward pass -------------------------------------------------------------------------------


def trained(xp: Place) -> tuple[list[Any], Any]:
    """Return the losses of some steps, and the last prediction."""
    w, losses, y = xp.tensor([1.0, 2.0], requires_grad=True), [], None
    for _ in range(3):
        w.grad = None
        y = w * 2.0
        loss = tg.sum(y**2)
        loss.backward()
        losses.append(loss)
        with tg.no_grad():
            w -= 0.125 * w.grad  # type: ignore[operator]
    return losses, y


def test_what_a_backward_pass_released_leaves_the_tape(xp: Place) -> None:
    losses, y = trained(xp)
    assert all(x.requires_grad for x in (*losses, y))
    assert float(losses[0]) == 20.0
    assert (int(losses[0]), complex(losses[0]), round(losses[0]), math.floor(losses[0])) == (20, 20.0, 20, 20)
    assert math.sqrt(losses[0]) == math.sqrt(20.0)
    values = [x.item() for x in losses]
    np.testing.assert_allclose(np.mean(losses), np.mean(values), rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(losses), values)
    np.testing.assert_array_equal(np.asarray(y), y.tolist())
    np.testing.assert_allclose(np.percentile(y, 50), np.percentile(y.tolist(), 50), rtol=1e-6)
    assert pickle.loads(pickle.dumps(losses[0])).item() == 20.0
    assert float(tg.max(tg.abs(y)) + 1.0) == max(map(abs, y.tolist())) + 1.0  # and results of it


def test_losses_are_plotted(xp: Place) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    losses, y = trained(xp)
    lines = Figure().subplots().plot(losses)
    found: Any = lines[0].get_ydata()
    np.testing.assert_allclose(found, [x.item() for x in losses], rtol=1e-6)
    np.testing.assert_array_equal(Figure().subplots().plot(y)[0].get_ydata(), y.tolist())


def test_what_can_be_differentiated_again_does_not_leave_the_tape(xp: Place) -> None:
    w = xp.tensor([1.0, 2.0], requires_grad=True)
    for options in ({"retain_graph": True}, {"create_graph": True}):
        loss = tg.sum(w * w)
        loss.backward(**options)
        with pytest.raises(TypeError, match=r"float\(\) would take this Tensor off the tape"):
            float(loss)
    loss = tg.sum(w * w)
    loss.backward()
    for other in (tg.sum(w), tg.sum(w) + loss.detach()):
        with pytest.raises(TypeError, match="off the tape"):
            float(other)

    def f(x: tg.Tensor) -> Any:
        y = tg.sum(x * x)
        y.backward()
        return float(y) * tg.sum(x)

    with pytest.raises(TypeError, match=r"float\(\) would take this Tensor off the tape"):
        tg.grad(f)(w.detach())


def test_a_second_backward_pass_still_raises(xp: Place) -> None:
    w = xp.tensor([1.0, 2.0], requires_grad=True)
    loss = tg.sum(w * w)
    loss.backward()
    assert float(loss) == 5.0
    with pytest.raises(RuntimeError, match="retain_graph"):
        loss.backward()
    with pytest.raises(RuntimeError, match="retain_graph"):
        (loss * 2.0).backward()


class Metres:
    """Numbers with a unit, which take part in NumPy's protocols."""

    def __init__(self, numbers: Any) -> None:
        self.numbers = numbers

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Metres:
        return Metres(ufunc(*[getattr(x, "numbers", x) for x in inputs]))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Metres:
        return Metres(function(*[getattr(x, "numbers", x) for x in args]))


def test_the_protocols_of_a_wrapper_have_their_turn() -> None:
    x: Any = tg.tensor([1.0, 2.0], requires_grad=True)
    metres: Any = Metres
    for y in (np.add(x, metres(x)), np.where(x > 1.5, metres(x), metres(x * 3.0)), np.outer(x, metres(x))):
        assert type(y) is Metres
        assert y.numbers.requires_grad
    with pytest.raises(TypeError, match="unsupported operand"):
        x + object()


def test_a_range_is_an_index(xp: Place) -> None:
    """As code for NumPy writes it, beside an index of each row."""
    x = xp.tensor(A, requires_grad=True)
    y = x[range(2), tg.asarray([1, 0], device=x.device)]
    xp.check(y, [2.0, 3.0])
    tg.sum(y * y).backward()
    xp.check(x.grad, [[0.0, 4.0], [6.0, 0.0]])
    assert x[range(0)].shape == (0, 2)
