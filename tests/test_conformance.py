"""Edges of the array API standard, on every backend; the official suite found these."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cuda_stand_in
import numpy as np
import pytest
from places import Place, why_not
from run_conformance import run
from run_conformance import why_not as no_suite

import tapegrad as tg

XFAILS = Path(__file__).parent / "array_api_xfails"


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_a_boolean_of_no_axes_is_a_mask(xp: Place, taken: bool, shape: tuple[int, ...]) -> None:
    values = np.arange(6.0).reshape(-1)[: int(np.prod(shape))].reshape(shape)
    x = xp.tensor(values, requires_grad=True)
    mask = xp.tensor(taken)
    y = x[mask]
    xp.check(y, values[np.asarray(taken)])
    tg.sum(y * y).backward()
    xp.check(x.grad, 2 * values * taken)
    z = x * 1.0
    z[mask] = 7.0
    xp.check(z, np.full(shape, 7.0) if taken else values)
    with pytest.raises(IndexError, match="alone, not beside others"):
        xp.tensor([1.0])[mask, 0]


def test_a_mask_beside_other_entries_is_checked(xp: Place) -> None:
    values = np.arange(6.0).reshape(2, 3)
    x = xp.tensor(values)
    mask = xp.tensor([True, False, True])
    xp.check(x[:, mask], values[:, [True, False, True]])
    xp.check(x[..., mask], values[:, [True, False, True]])
    xp.check(x[None, 1, mask], values[None, 1, [True, False, True]])
    for key in ((mask, 0), (slice(None), xp.tensor([True, False])), (..., mask, 0), (0, 0, mask)):
        with pytest.raises(IndexError):
            x[key]


def test_an_empty_mask_takes_nothing(xp: Place) -> None:
    x = xp.tensor(np.zeros((0, 1)))
    assert x[tg.zeros((0, 0), dtype=tg.bool)].shape == (0,)


def test_sums_and_products_of_small_integers(xp: Place) -> None:
    if xp.device.partition(":")[0] == "torch":
        pytest.skip("PyTorch has no sums of unsigned integers but uint8")
    for name, wide in (("int8", "int64"), ("uint8", "uint64"), ("uint32", "uint64"), ("int64", "int64")):
        x = tg.asarray([[1, 2], [3, 4]], dtype=name)
        for f in (tg.sum, tg.prod):
            assert f(x).dtype.name == f(x, axis=0).dtype.name == f(x[0, 0]).dtype.name == wide
            assert f(x, axis=(), keepdims=True).dtype.name == wide
            assert f(x, dtype=getattr(tg, name)).dtype.name == name
            assert f(x, axis=1, dtype=tg.float32).dtype is tg.float32
        for running in (tg.cumulative_sum, tg.cumulative_prod):
            assert running(x, axis=1).dtype.name == wide
            assert running(x, axis=1, dtype=getattr(tg, name), include_initial=True).dtype.name == name


def test_statistics_of_one_number_keep_nan(xp: Place) -> None:
    for f in (tg.mean, tg.var, tg.std, tg.sum, tg.prod, tg.max, tg.min):
        assert np.isnan(f(xp.tensor(np.nan)).item())
    x = xp.tensor(2.0, requires_grad=True)
    assert tg.var(x).item() == 0.0
    (tg.var(x) + tg.std(x)).backward()
    xp.check(x.grad, 0.0)


def test_the_correction_may_be_any_number(xp: Place) -> None:
    x = xp.tensor([1.0, 2.0, 6.0], requires_grad=True)
    xp.check(tg.std(x, correction=1.5) ** 2, 14.0 / 1.5)
    tg.std(x, correction=0.5).backward()
    xp.check(x.grad, np.asarray([-2.0, -1.0, 3.0]) / np.sqrt(14.0 * 2.5))


def test_expand_dims_takes_several_axes(xp: Place) -> None:
    x = xp.tensor([[1.0, 2.0]], requires_grad=True)
    assert tg.expand_dims(x, 0).shape == (1, 1, 2)
    assert tg.expand_dims(x, axis=(0, -1)).shape == (1, 1, 2, 1)
    assert tg.expand_dims(x, axis=(2, 0)).shape == (1, 1, 1, 2)
    assert tg.expand_dims(x, axis=()).shape == (1, 2)
    tg.sum(tg.expand_dims(x, axis=(0, 2)) * 3.0).backward()
    xp.check(x.grad, [[3.0, 3.0]])
    with pytest.raises(ValueError, match="expand_dims.*twice"):
        tg.expand_dims(x, axis=(0, 0))
    for kind in (ValueError, IndexError):
        with pytest.raises(kind, match="expand_dims: axis 3"):
            tg.expand_dims(x, axis=3)


def test_several_results_are_tuples(xp: Place) -> None:
    a, b = xp.tensor([1.0]), xp.tensor([1.0, 2.0])
    for out in (tg.broadcast_arrays(a, b), tg.meshgrid(a, b), tg.unstack(b), tg.nonzero(b)):
        assert type(out) is tuple


def test_lists_of_tensors_are_stacked_and_recorded(xp: Place) -> None:
    x = xp.tensor([1.0, 2.0], requires_grad=True)
    y = tg.asarray([[x[0], x[1] * x[1]], [x[1], 5.0]])
    xp.check(y, [[1.0, 4.0], [2.0, 5.0]])
    tg.sum(y).backward()
    xp.check(x.grad, [1.0, 5.0])
    assert tg.asarray([x[0]], dtype=tg.float32).dtype is tg.float32


def test_copy_false_is_kept_or_raises(xp: Place) -> None:
    x = xp.tensor([1.0, 2.0])
    assert tg.asarray(x, copy=False)._array is x._array
    with pytest.raises(ValueError, match="needs a copy"):
        tg.asarray(x, dtype=tg.int64, copy=False)
    with pytest.raises(ValueError, match="needs a copy"):
        tg.asarray(x, device="cpu" if xp.device != "cpu" else "strict:CPU_DEVICE", copy=False)


def test_numbers_of_creation_functions_may_be_scalars_of_any_kind(xp: Place) -> None:
    n = tg.asarray(3)
    assert tg.arange(n).tolist() == tg.arange(np.int64(3)).tolist() == [0, 1, 2]
    assert tg.arange(np.int64(3)).dtype is tg.arange(3).dtype
    assert tg.linspace(np.float64(0.0), n, 4).tolist() == [0.0, 1.0, 2.0, 3.0]
    assert tg.full((2,), np.int64(3)).tolist() == [3, 3]
    z = tg.linspace(0.0, 1j, 3)
    assert tg.isdtype(z.dtype, "complex floating")
    assert z.tolist() == [0.0, 0.5j, 1j]


def test_an_integer_out_of_range_says_so() -> None:
    for x, number in ((tg.asarray([1], dtype=tg.uint8), 300), (tg.asarray([1], dtype=tg.int8), -200)):
        with pytest.raises(OverflowError, match=r"add of operands of shape \(1,\)"):
            x + number


class Foreign:
    """An object of no known library that speaks DLPack."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        array: Any = self.array
        return array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def test_from_dlpack_stays_where_the_array_is(xp: Place) -> None:
    raw = xp.tensor([1.0, 2.0])._array
    y = tg.from_dlpack(raw)
    assert y.device == tg.zeros((), device=xp.device).device
    xp.check(y, [1.0, 2.0])
    a = np.asarray([1.0, 2.0], dtype=np.float32)
    z, shared = tg.from_dlpack(Foreign(a)), tg.from_dlpack(Foreign(a), copy=False)
    a[0] = 9.0
    assert (z.device, z.tolist(), shared.tolist()) == ("cpu", [1.0, 2.0], [9.0, 2.0])
    assert tg.from_dlpack(Foreign(a), device=xp.device).device == y.device
    with pytest.raises(AttributeError, match="has no __dlpack__.*asarray"):
        tg.from_dlpack([1.0])  # type: ignore[arg-type]


def test_dlpack_export(xp: Place) -> None:
    x = xp.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(TypeError, match=r"DLPack export.*x.detach\(\)"):
        x.__dlpack__()
    if xp.device.startswith("strict:") and xp.device != "strict:CPU_DEVICE":
        return  # made-up devices have no memory
    x = x.detach()
    kind = [int(getattr(i, "value", i)) for i in x.__dlpack_device__()]
    assert kind == [1 if "cuda" not in xp.device else 2, 0]
    for options in ({}, {"copy": True}, {"max_version": (1, 0)}, {"dl_device": (1, 0)}):
        x.__dlpack__(**options)
    a = np.from_dlpack(x, device="cpu")
    if a.flags.writeable:
        a[0] = 9.0
    xp.check(x, [1.0, 2.0])
    with pytest.raises(BufferError, match="to_device"):
        x.__dlpack__(dl_device=(10, 0))


def test_dlpack_without_a_copy_is_read_only_or_raises(xp: Place) -> None:
    if xp.device.startswith("strict:") and xp.device != "strict:CPU_DEVICE":
        return
    x = xp.tensor([1.0, 2.0])
    if xp.device.partition(":")[0] in ("torch", "cuda"):
        with pytest.raises(BufferError, match="needs a copy"):
            x.__dlpack__(copy=False)
        return
    a = np.from_dlpack(x, copy=False)
    with pytest.raises(ValueError, match="read-only"):
        a[0] = 9.0


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "strict:CPU_DEVICE", "torch:cpu", "cuda"])
def test_the_official_suite(device: str) -> None:
    why = no_suite()
    if why is not None:
        pytest.skip(why)
    why = why_not(device)
    if why is not None:
        pytest.skip(why)
    plugin = ("-p", "cuda_stand_in") if device == "cuda" and cuda_stand_in.is_installed() else ()
    assert run(device, "--max-examples", "5", *plugin) == 0


@pytest.mark.parametrize("path", sorted(XFAILS.iterdir()), ids=lambda path: path.stem)
def test_every_expected_failure_has_a_reason(path: Path) -> None:
    for block in path.read_text().strip().split("\n\n"):
        assert block.startswith("# ")
        assert all(line.startswith(("# ", "array_api_tests/")) for line in block.splitlines())


def test_take_at_numbers_and_lists(xp: Place) -> None:
    """An index is an integer whatever x holds; one alone takes the axis away, as in NumPy."""
    values = np.arange(6.0).reshape(2, 3)
    x = xp.tensor(values)
    xp.check(tg.take(x, 1, axis=1), values[:, 1])
    xp.check(tg.take(x, np.int64(-1), axis=0), values[-1])
    xp.check(tg.take(x, [2, 0], axis=1), values[:, [2, 0]])
    xp.check(np.take(x, 1, axis=1), values[:, 1])
    xp.check(tg.take_along_axis(x, [[2], [0]]), [[2.0], [3.0]])
    xp.check(tg.grad(lambda x: tg.sum(tg.take(x, 1, axis=1)))(x), [[0, 1, 0], [0, 1, 0]])
    with pytest.raises(TypeError, match="take: indices must be integers, not float"):
        tg.take(x, 1.0, axis=0)


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (lambda x: x * [1, 2], [2, 4]),
        (lambda x: [1, 2] * x, [2, 4]),
        (lambda x: x * (1, 2), [2, 4]),
        (lambda x: [1, 2] + x, [3, 4]),
        (lambda x: x < [1, 3], [False, True]),
        (lambda x: x == [1, 2], [False, True]),
        (lambda x: tg.reshape(x, (1,)) @ [[1, 2]], [2, 4]),
        (lambda x: [[1], [2]] @ tg.reshape(x, (1,)), [2, 4]),
        (lambda x: [x // x, 2] * x, [2, 4]),
    ],
)
def test_a_list_is_a_constant_in_operators(xp: Place, f: Callable[[Any], Any], expected: Any) -> None:
    """An integer Tensor does not repeat it."""
    for value in (2, 2.0):
        x = xp.tensor(value, requires_grad=isinstance(value, float)) * 1
        assert f(x).tolist() == expected
        assert f(x).device == x.device


def test_a_list_of_no_numbers_is_no_operand(xp: Place) -> None:
    x = xp.tensor([1.0, 2.0])
    with pytest.raises(TypeError, match="asarray: list gives an array of str"):
        x + ["a", "b"]
    words: Any = ["a", "b"]
    assert not isinstance(x == words, tg.Tensor)
    assert x != words


def test_a_list_updates_in_place(xp: Place) -> None:
    x = xp.tensor([1.0, 2.0], requires_grad=True)
    with tg.no_grad():
        y = x
        y -= [0.5, 1.0] if xp.double else np.asarray([0.5, 1.0], np.float32)
    assert y is x
    xp.check(x, [0.5, 1.0])
    z = x * 1.0
    z *= [x[0], 3.0]
    tg.sum(z).backward()
    xp.check(x.grad, [1.0, 3.0])


@pytest.mark.parametrize("name", ["add", "maximum", "less", "where", "copysign", "atan2"])
def test_shapes_that_do_not_broadcast(xp: Place, name: str) -> None:
    """One error on all libraries, in vmap too."""
    a, b = xp.tensor(np.ones((2, 3))), xp.tensor(np.ones((2, 4)))
    f = (lambda a, b: tg.where(a > 0, b, 0.0)) if name == "where" else getattr(tg, name)
    with pytest.raises(ValueError, match=rf"^{name} of operands of shape \(2, 3\), \(2, 4\).*: the shapes could not"):
        f(a, b)
    with pytest.raises(
        ValueError, match=rf"^{name} of operands of shape \(3,\), \(4,\).*: the shapes could not be broadcast together"
    ):
        tg.vmap(f)(a, b)
