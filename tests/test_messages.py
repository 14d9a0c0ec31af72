"""Bad input: a clear error that names the operation and the fix, and nothing half done."""

from __future__ import annotations

import builtins
import math
import re
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad._protocols import hints


def leaf(*values: float) -> tg.Tensor:
    return tg.tensor([float(v) for v in values], requires_grad=True)


CASES: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    (
        "broadcast",
        lambda: leaf(1, 2) * leaf(1, 2, 3),
        ValueError,
        r"multiply of operands of shape \(2,\), \(3,\)",
    ),
    (
        "matmul",
        lambda: tg.ones((2, 3)) @ tg.ones((2, 3)),
        ValueError,
        r"matmul of operands of shape \(2, 3\)",
    ),
    (
        "non-scalar",
        lambda: (leaf(1, 2) * 2).backward(),
        RuntimeError,
        r"shape \(2,\) is not a scalar.*tapegrad.sum",
    ),
    (
        "no record",
        lambda: tg.sum(tg.ones(2)).backward(),
        RuntimeError,
        r"no record.*requires_grad=True.*detach",
    ),
    (
        "integer leaf",
        lambda: tg.tensor([1, 2], requires_grad=True),
        TypeError,
        r"floating dtype, not int64.*astype",
    ),
    ("bool leaf", lambda: tg.tensor([True], requires_grad=True), TypeError, "floating dtype, not bool"),
    ("complex backward", lambda: tg.sum(leaf(1) * 1j).backward(), RuntimeError, r"tapegrad.real\(x\).*gradient="),
    ("complex grad", lambda: tg.grad(lambda x: x * 1j)(2.0), TypeError, r"real number, as tapegrad.real\(y\)"),
    (
        "grad shape",
        lambda: (leaf(1, 2) * 2).backward(tg.ones(3)),
        ValueError,
        r"gradient has shape \(3,\).*\(2,\)",
    ),
    (
        "grad dtype",
        lambda: (leaf(1) * 2).backward(tg.ones(1, dtype=tg.float32)),
        TypeError,
        "float32.*astype",
    ),
    (
        "grad device",
        lambda: (leaf(1) * 2).backward(tg.ones(1, device="strict:device1")),
        ValueError,
        "strict:device1.*cpu.*to_device",
    ),
    ("objects", lambda: tg.tensor([object()]), TypeError, "numbers and booleans"),  # type: ignore[list-item]
    ("object array", lambda: tg.asarray(np.asarray([None])), TypeError, "is not a dtype of the array API"),
    ("strings", lambda: tg.tensor(["a"]), TypeError, "numbers and booleans"),  # type: ignore[list-item]
    ("string array", lambda: tg.asarray(np.asarray(["a"])), TypeError, "is not a dtype of the array API"),
    ("ragged", lambda: tg.tensor([[1.0], [1.0, 2.0]]), TypeError, "inhomogeneous"),
    ("list of Tensors", lambda: tg.tensor([leaf(1), leaf(2)]), TypeError, "tapegrad.stack"),
    ("unknown device", lambda: tg.zeros(1, device="gpu"), ValueError, "unknown device 'gpu'.*cuda.*torch"),
    ("load", lambda: tg.backends.load("x"), ValueError, "unknown device 'x'.*cuda.*torch"),
    ("unknown strict", lambda: tg.zeros(1, device="strict:x"), ValueError, "unknown device 'strict:x'"),
    ("device type", lambda: tg.zeros(1, device=3), TypeError, "a device is a string"),  # type: ignore[arg-type]
    ("cpu:1", lambda: tg.zeros(1, device="cpu:1"), ValueError, "no 'cpu:1'"),
    ("default device", lambda: tg.default_device("gpu"), ValueError, "unknown device 'gpu'"),
    ("default dtype", lambda: tg.default_dtype(tg.int32), TypeError, "real floating"),
    ("tf32", lambda: tg.tf32("on"), TypeError, "tf32: True or False, not str"),  # type: ignore[arg-type]
    ("no dtype", lambda: tg.zeros(1, dtype="float80"), TypeError, "use one of"),
    (
        "dtype not there",
        lambda: tg.zeros(1, dtype=tg.bfloat16),
        TypeError,
        "bfloat16 is not available on cpu.*: pass dtype=tapegrad.float32, or convert",
    ),
    ("float()", lambda: float(leaf(1)), TypeError, r"float\(\).*x.detach\(\).*x.item\(\)"),
    ("int()", lambda: int(leaf(1)), TypeError, r"x.detach\(\)"),
    ("complex()", lambda: complex(leaf(1)), TypeError, r"x.detach\(\)"),
    ("float() and item()", lambda: float(leaf(1)), TypeError, r"x.item\(\) to look at one number, a constant"),
    (
        "math.floor",
        lambda: math.floor(leaf(1)),
        TypeError,
        r"Python's floor\(\).*or tapegrad.floor\(x\)$",
    ),
    ("math.ceil", lambda: math.ceil(leaf(1)), TypeError, r"Python's ceil\(\).*or tapegrad.ceil\(x\)$"),
    ("math.trunc", lambda: math.trunc(leaf(1)), TypeError, r"Python's trunc\(\).*or tapegrad.trunc\(x\)$"),
    ("round()", lambda: round(leaf(1), 2), TypeError, r"Python's round\(\).*or tapegrad.round\(x\)$"),
    ("round() of many", lambda: round(tg.ones(2)), ValueError, "2 elements, not one"),
    ("divmod", lambda: divmod(leaf(1), "a"), TypeError, "unsupported operand"),
    (
        "no float64",
        lambda: tg.tensor(np.ones(2), device="strict:no_x64"),
        TypeError,
        r"float64 is not available on strict device .*: pass dtype=tapegrad.float32, or convert.*first",
    ),
    ("math.sqrt", lambda: math.sqrt(leaf(1)), TypeError, r"tapegrad.sqrt"),
    ("np.asarray", lambda: np.asarray(leaf(1)), TypeError, r"NumPy array.*x.detach\(\)"),
    ("dlpack", lambda: np.from_dlpack(leaf(1)), TypeError, r"DLPack export.*x.detach\(\)"),
    (".array", lambda: leaf(1).array, TypeError, r"x.detach\(\)"),
    ("np.vstack", lambda: np.vstack([leaf(1), leaf(2)]), TypeError, r"numpy.vstack.*x.detach\(\)"),
    ("np reduction", lambda: np.add.reduce(leaf(1)), TypeError, r"numpy.add.reduce.*keeps the gradient"),
    ("np out", lambda: np.sin(leaf(1), out=np.zeros(1)), TypeError, r"numpy.sin.*out.*keeps the gradient"),
    ("np unknown", lambda: np.spacing(leaf(1)), TypeError, r"numpy.spacing.*keeps the gradient"),
    ("index", lambda: [1, 2][leaf(1)], TypeError, "only a Tensor of integers"),
    (
        "leaf setitem",
        lambda: leaf(1).__setitem__(0, 1.0),
        RuntimeError,
        r"leaf that requires.*would lose its gradient.*tapegrad.no_grad\(\)",
    ),
    ("leaf iadd", lambda: leaf(1).__iadd__(1.0), RuntimeError, r"x \+= y on a leaf.*tapegrad.no_grad\(\)"),
    ("unset", lambda: setattr(leaf(1) * 2, "requires_grad", False), RuntimeError, r"x.detach\(\)"),
    ("retain_grad", lambda: tg.ones(1).retain_grad(), RuntimeError, "not recorded"),
    ("item", lambda: leaf(1, 2).item(), ValueError, "2 elements, not one"),
    ("truth", lambda: bool(leaf(1, 2) > 0), ValueError, "2 elements"),
    ("len", lambda: len(tg.tensor(1.0)), TypeError, "no axes"),
    ("iterate", lambda: list(tg.tensor(1.0)), TypeError, "no axes is not iterable"),
    ("method", lambda: attrgetter("sum")(leaf(1)), AttributeError, r"tapegrad.sum\(x\)"),
    ("attribute", lambda: attrgetter("nothing")(leaf(1)), AttributeError, "no attribute 'nothing'"),
    ("constructor", lambda: tg.Tensor([1.0]), TypeError, "tapegrad.tensor"),
    (
        "operand",
        lambda: tg.add(leaf(1), "a"),  # type: ignore[arg-type]
        TypeError,
        "add: an operand is a Tensor, an array or a number, not str",
    ),
    ("operator operand", lambda: leaf(1) + "a", TypeError, "unsupported operand"),
    ("reflected operand", lambda: "a" + leaf(1), TypeError, "str|unsupported operand"),
    ("matmul operand", lambda: leaf(1) @ "a", TypeError, "unsupported operand"),
    ("reflected matmul", lambda: "a" @ leaf(1), TypeError, "unsupported operand"),
    ("axis", lambda: tg.sum(leaf(1), axis=1), ValueError, "sum: axis 1 is out of range for a Tensor of 1 axes"),
    ("axis twice", lambda: tg.sum(leaf(1), axis=(0, -1)), ValueError, "named twice"),
    ("index range", lambda: leaf(1, 2)[2], IndexError, r"index 2 is out of range for axis 0.*\(2,\)"),
    (
        "index range in tuple",
        lambda: tg.ones((2, 2))[0, -3],
        IndexError,
        "index -3 is out of range for axis 1",
    ),
    ("too many indices", lambda: leaf(1)[0, 0], IndexError, "2 indices"),
    ("two ellipses", lambda: tg.ones((2, 2))[..., ...], IndexError, "more than one"),
    ("float index", lambda: leaf(1)[1.0], IndexError, "an index is an integer"),
    ("bool index", lambda: leaf(1)[True], IndexError, "boolean array"),
    ("float array index", lambda: leaf(1)[leaf(1)], IndexError, "float64 is no index"),
    ("mask shape", lambda: tg.ones((2, 2))[tg.asarray([True])], IndexError, r"mask of shape \(1,\)"),
    (
        "setitem kind",
        lambda: tg.zeros(2, dtype=tg.int32).__setitem__(0, 0.5),
        TypeError,
        "does not fit.*int32.*astype",
    ),
    ("setitem shape", lambda: tg.zeros(2).__setitem__(0, tg.ones(3)), ValueError, r"x\[...\] = v .*\(3,\)"),
    ("setitem operand", lambda: tg.zeros(2).__setitem__(0, "a"), TypeError, "an operand is"),
    ("in-place shape", lambda: tg.ones(2).__iadd__(tg.ones((2, 2))), ValueError, r"x \+= y.*x = x \+ y"),
    (
        "in-place dtype",
        lambda: tg.ones(2, dtype=tg.int32).__iadd__(0.5),
        ValueError,
        r"int32: write x = x \+ y",
    ),
    (
        "in-place dtype of the same kind",
        lambda: tg.ones(2, dtype=tg.float32).__isub__(tg.asarray(0.5)),
        ValueError,
        r"float64, which do not fit x with \(2,\) and float32: cast y, as in x -= tapegrad.astype\(y, x.dtype\)$",
    ),
    (
        "in-place shape",
        lambda: tg.ones(2).__imul__(tg.ones((2, 2))),
        ValueError,
        r"write x = x \* y, which makes another Tensor and leaves a parameter as it was, or sum y",
    ),
    ("reshape", lambda: tg.reshape(leaf(1, 2), (3,)), ValueError, "2 elements, the shape"),
    ("reshape -1", lambda: tg.reshape(leaf(1, 2), (-1, 3)), ValueError, "do not fill"),
    ("negative length", lambda: tg.zeros((2, -3)), ValueError, "negative lengths"),
    ("permute_dims", lambda: tg.permute_dims(leaf(1), (0, 0)), ValueError, "no permutation"),
    ("expand_dims axis", lambda: tg.expand_dims(leaf(1), 2), IndexError, "^expand_dims: axis 2"),
    ("expand_dims", lambda: tg.expand_dims(leaf(1), (0, 0)), ValueError, "^expand_dims: an axis is named twice"),
    ("squeeze", lambda: tg.squeeze(leaf(1, 2), axis=0), ValueError, "length 2, not 1"),
    ("moveaxis", lambda: tg.moveaxis(tg.ones((2, 2)), (0, 1), 0), ValueError, "as many axes"),
    ("roll", lambda: tg.roll(tg.ones((2, 2)), (1, 2, 3), axis=(0, 1)), ValueError, "3 shifts for 2 axes"),
    ("repeat", lambda: tg.repeat(leaf(1, 2), tg.asarray([1, 2, 3])), ValueError, "needs 2 counts"),
    ("concat nothing", lambda: tg.concat([]), ValueError, "at least one"),
    (
        "concat shapes",
        lambda: tg.concat([tg.ones((2, 2)), tg.ones((3, 3))]),
        ValueError,
        "concat of operands",
    ),
    ("broadcast_shapes", lambda: tg.broadcast_shapes((2,), (3,)), ValueError, "could not be broadcast together"),
    ("transpose", lambda: tg.ones(2).T, ValueError, "two axes"),
    ("matrix_transpose", lambda: tg.matrix_transpose(tg.ones(2)), ValueError, "fewer than two axes"),
    ("vecdot", lambda: tg.vecdot(tg.ones(2), tg.ones(3)), ValueError, "differ in length"),
    ("tensordot", lambda: tg.tensordot(tg.ones((2, 3)), tg.ones((2, 3)), axes=1), ValueError, "do not fit"),
    ("tensordot axes", lambda: tg.tensordot(tg.ones(2), tg.ones(2), axes=2), ValueError, "axes=2"),
    ("cumulative axis", lambda: tg.cumulative_sum(tg.ones((2, 2))), ValueError, "needs axis="),
    ("take axis", lambda: tg.take(tg.ones((2, 2)), tg.asarray([0])), ValueError, "needs axis="),
    ("take dtype", lambda: tg.take(leaf(1), tg.asarray([0.0])), TypeError, "indices must be integers"),
    (
        "take_along_axis",
        lambda: tg.take_along_axis(tg.ones((2, 2)), tg.asarray([0])),
        ValueError,
        "1 axes of indices",
    ),
    ("max of nothing", lambda: tg.max(tg.zeros(0)), ValueError, "max of operands"),
    ("meshgrid", lambda: tg.meshgrid(tg.ones(2), indexing="ji"), ValueError, "'xy' or 'ij'"),
    ("nonzero", lambda: tg.nonzero(tg.asarray(1.0)), ValueError, "no axes"),
    ("one_hot", lambda: tg.one_hot(tg.asarray([0.5]), 2), TypeError, "labels must be integers"),
    (
        "labels dtype",
        lambda: tg.cross_entropy(tg.ones((2, 3)), tg.ones(2)),
        TypeError,
        "labels must be integers",
    ),
    (
        "labels shape",
        lambda: tg.cross_entropy(tg.ones((2, 3)), tg.asarray([0, 1, 2])),
        ValueError,
        r"need labels of shape \(2,\), not \(3,\)",
    ),
    (
        "label range",
        lambda: tg.cross_entropy(tg.ones((1, 2)), tg.asarray([2])),
        ValueError,
        "out of range: with 2 classes they are 0 to 1",
    ),
    (
        "label negative",
        lambda: tg.cross_entropy(tg.ones((1, 2)), tg.asarray([-1])),
        ValueError,
        "out of range",
    ),
    ("astype complex", lambda: tg.astype(tg.asarray([1j]), tg.float64), TypeError, "imaginary parts"),
    ("asarray complex", lambda: tg.asarray([1j], dtype=tg.float64), TypeError, "does not fit in float64"),
    (
        "asarray object",
        lambda: tg.asarray([tg.ones(()), "a"]),  # type: ignore[list-item]
        TypeError,
        "asarray: an operand is a Tensor.*not str",
    ),
    ("asarray ragged", lambda: tg.asarray([tg.ones(()), [1.0]]), ValueError, "stack of operands of shape"),
    ("asarray no copy", lambda: tg.asarray([1.0], copy=False), ValueError, "always needs a copy"),
    (
        "asarray dtype no copy",
        lambda: tg.asarray(np.ones(1), dtype=tg.float32, copy=False),
        ValueError,
        "from float64 to float32 needs a copy",
    ),
    (
        "asarray device no copy",
        lambda: tg.asarray(np.ones(1), device="strict:device1", copy=False),
        ValueError,
        "needs a copy",
    ),
    ("stream", lambda: tg.ones(1).to_device("cpu", stream=1), ValueError, "stream"),
    (
        "api version",
        lambda: tg.ones(1).__array_namespace__(api_version="2099.12"),
        ValueError,
        "2025.12, not 2099.12",
    ),
    ("fft norm", lambda: tg.fft.fft(tg.ones(2), norm="unitary"), ValueError, "^fft: norm is.*'ortho'.*'unitary'"),
    ("ifftn norm", lambda: tg.fft.ifftn(tg.ones(2), norm=None), ValueError, "^ifftn: norm is.*not None"),  # type: ignore[arg-type]
    ("rfftn norm", lambda: tg.fft.rfftn(tg.ones(2), norm=""), ValueError, "^rfftn: norm is"),
    ("hfft norm", lambda: tg.fft.hfft(tg.ones(2), norm=""), ValueError, "^hfft: norm is"),
    ("rfft n", lambda: tg.fft.rfft(tg.ones(2), n=0), ValueError, "^rfft: .* length of 1 or more, not 0"),
    ("fft of nothing", lambda: tg.fft.fft(tg.ones((2, 0))), ValueError, "^fft: .* length of 1 or more, not 0"),
    ("irfft of one", lambda: tg.fft.irfft(tg.ones(1)), ValueError, "^irfft: .* length of 1 or more, not 0"),
    ("fftn s", lambda: tg.fft.fftn(tg.ones(2), s=(-2,), axes=(0,)), ValueError, "^fftn: .* 1 or more, not -2"),
    ("fftfreq n", lambda: tg.fft.fftfreq(0), ValueError, "^fftfreq: .* length of 1 or more"),
    ("rfftfreq dtype", lambda: tg.fft.rfftfreq(3, dtype=tg.int32), TypeError, "^rfftfreq: .*floating.*not int32"),
    (
        "fft axis",
        lambda: tg.fft.ifft(tg.ones(2), axis=1),
        ValueError,
        "^ifft: axis 1 is out of range for a Tensor of 1 axes",
    ),
    ("fftshift axis", lambda: tg.fft.fftshift(tg.ones(2), axes=1), ValueError, "^fftshift: axis 1"),
    ("fftn axes", lambda: tg.fft.fftn(tg.ones((2, 2)), axes=(1, -1)), ValueError, r"^fftn: .*named twice in \(1, -1\)"),
    ("irfftn axes", lambda: tg.fft.irfftn(tg.ones(3), axes=()), ValueError, "^irfftn: at least one axis"),
    ("fftn no axes", lambda: tg.fft.rfftn(tg.ones(3), s=(3,)), ValueError, r"^rfftn: s=\(3,\) needs axes="),
    (
        "fftn lengths",
        lambda: tg.fft.irfftn(tg.ones((2, 2)), s=(3,), axes=(0, 1)),
        ValueError,
        r"^irfftn: 1 lengths in s=\(3,\) for 2 axes",
    ),
    ("rfft complex", lambda: tg.fft.rfft(tg.asarray([1j])), TypeError, "^rfft of operands of shape"),
    ("finfo", lambda: tg.finfo(tg.int32), TypeError, "^finfo: int32 is not a floating dtype.*iinfo"),
    ("iinfo", lambda: tg.iinfo(tg.float32), TypeError, "^iinfo: float32 is not an integer dtype.*finfo"),
    ("result_type", lambda: tg.result_type("a"), TypeError, "'a' is not a dtype"),
    (
        "searchsorted side",
        lambda: tg.searchsorted(tg.ones(2), 1, side="up"),
        ValueError,
        "^searchsorted: side is.*'up'",
    ),
    ("searchsorted axes", lambda: tg.searchsorted(tg.ones((2, 2)), 1), ValueError, "^searchsorted: .*one axis, not 2"),
    (
        "searchsorted sorter",
        lambda: tg.searchsorted(tg.ones(2), 1, sorter=tg.ones(2)),
        TypeError,
        "^searchsorted: sorter holds indices.*not float64",
    ),
    (
        "searchsorted sorter shape",
        lambda: tg.searchsorted(tg.ones(2), 1, sorter=tg.asarray([0])),
        ValueError,
        r"^searchsorted: sorter has shape \(1,\).*\(2,\)",
    ),
    ("diff n", lambda: tg.diff(tg.ones(2), n=-1), ValueError, "^diff: .*not negative, as -1 is"),
    ("setitem number", lambda: tg.zeros(2, dtype=tg.bool).__setitem__(0, 1), TypeError, "an? int value does not fit"),
    ("isdtype", lambda: tg.isdtype(tg.float32, "real"), ValueError, "unknown kind"),
    ("array copy", lambda: np.array(tg.ones(1), dtype=np.float32, copy=False), ValueError, "needs a copy"),
    (
        "grad attribute",
        lambda: setattr(leaf(1), "grad", 1.0),
        TypeError,
        "the gradient must be a Tensor, not float",
    ),
    ("unknown library", lambda: tg.ones(1) * object(), TypeError, "unsupported operand"),
    ("not square", lambda: tg.linalg.inv(tg.ones((2, 3))), ValueError, r"inv: square matrices .*\(2, 3\)"),
    (
        "singular",
        lambda: tg.linalg.inv(tg.zeros((2, 2))),
        ValueError,
        r"inv of operands of shape \(2, 2\): [Ss]ingular",
    ),
    ("not definite", lambda: tg.linalg.cholesky(-tg.ones((2, 2))), ValueError, "cholesky of operands.*definite"),
    ("solve shapes", lambda: tg.linalg.solve(tg.ones((2, 2)), tg.ones(3)), ValueError, r"solve: matrices \(2, 2\)"),
    ("qr mode", lambda: tg.linalg.qr(tg.ones((2, 2)), mode="full"), ValueError, "'reduced' or 'complete', not 'full'"),
    ("norm ord", lambda: tg.linalg.matrix_norm(tg.ones((2, 2)), ord=3), ValueError, "matrix_norm: ord is 'fro'.*not 3"),
    ("matrix", lambda: tg.linalg.matrix_norm(tg.ones(2)), ValueError, r"matrix_norm: matrices .*\(2,\)"),
    ("svd of a vector", lambda: tg.linalg.svd(tg.ones(2)), ValueError, r"svd: matrices"),
    ("qr of a vector", lambda: tg.linalg.qr(tg.ones(2)), ValueError, r"qr: matrices"),
    ("diagonal of a vector", lambda: tg.linalg.diagonal(tg.ones(2)), ValueError, r"diagonal: matrices"),
    ("outer", lambda: tg.linalg.outer(tg.ones((2, 2)), tg.ones(2)), ValueError, r"outer: two vectors.*\(2, 2\)"),
    ("cross", lambda: tg.linalg.cross(tg.ones(2), tg.ones(2)), ValueError, r"cross: vectors of length 3"),
]


@pytest.mark.parametrize(("call", "kind", "message"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_message(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


def test_bad_input_loses_nothing(xp: Place) -> None:
    """After an error the Tensor, its gradient and the tape are as they were."""
    x = xp.tensor([1.0, 2.0], requires_grad=True)
    y = x * x
    with pytest.raises(RuntimeError, match="not a scalar"):
        y.backward()
    with pytest.raises(ValueError, match="gradient has shape"):
        y.backward(xp.tensor([1.0]))
    with pytest.raises(ValueError, match="write x = x"):
        y += xp.tensor([[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(ValueError, match="= v"):
        y[0] = xp.tensor([1.0, 2.0, 3.0])
    assert x.grad is None
    tg.sum(y).backward()
    xp.check(x.grad, [2.0, 4.0])


def test_mixing_libraries_names_both(xp: Place) -> None:
    x = xp.tensor([1.0], requires_grad=True)
    other = tg.ones(1, device="cpu" if xp.device != "cpu" else "strict:device1")
    for call in (lambda: x + other, lambda: tg.where(x > 0, other, x), lambda: tg.concat([x, other])):
        with pytest.raises(TypeError, match=r"cpu.*asarray\(x, device=") as error:
            call()
        assert xp.device.partition(":")[0] in str(error.value)


def test_mixing_devices_of_one_library_names_both() -> None:
    x = tg.ones(2, device="strict:device1")
    y = tg.ones(2, device="strict:device2")
    for call in (lambda: x + y, lambda: tg.matmul(x, y), lambda: tg.concat([x, y])):
        with pytest.raises(TypeError, match=r"strict:device1 and strict:device2.*asarray\(x, device="):
            call()


def test_a_raw_array_of_another_device_library_raises(xp: Place) -> None:
    x = xp.tensor([1.0])
    other = pytest.importorskip("array_api_strict" if xp.device.startswith("torch") else "torch").ones(1)
    with pytest.raises(TypeError, match=xp.device.partition(":")[0]):
        x * other


def test_jax_and_torch_devices_that_are_not_there() -> None:
    if tg.backends.is_available("torch"):
        with pytest.raises(ValueError, match="unknown device 'torch:nowhere'"):
            tg.zeros(1, device="torch:nowhere")
        if not tg.backends.is_available("torch:cuda"):
            with pytest.raises(RuntimeError, match="no CUDA device; install a driver"):
                tg.zeros(1, device="torch:cuda")
    if tg.backends.is_available("jax"):
        with pytest.raises(ValueError, match="unknown device 'jax:cpu:99'"):
            tg.zeros(1, device="jax:cpu:99")
        with pytest.raises(RuntimeError, match="install the JAX build"):
            tg.zeros(1, device="jax:nowhere")


def test_a_tensor_recorded_by_pytorch_is_refused() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"PyTorch's own autograd.*tensor.detach\(\)"):
        tg.asarray(torch.ones(2, requires_grad=True))


def test_a_missing_library_gives_the_install_command() -> None:
    why = tg.backends.available()["cuda"]
    if why is None:
        return
    assert "pip install" in why or "driver" in why
    with pytest.raises(RuntimeError, match="device 'cuda' is not available here: .*(pip install|driver)"):
        tg.zeros(1, device="cuda")


HINTED = [
    (tg, "array", "module 'tapegrad' has no attribute 'array': use tapegrad.asarray"),
    (tg, "concatenate", r"use tapegrad.concat\("),
    (tg, "dot", "use tapegrad.matmul, tapegrad.vecdot"),
    (tg, "randn", "tapegrad.random.Generator"),
    (tg, "conv2d", r"tapegrad.conv\(x, w\)"),
    (tg, "inv", "use tapegrad.linalg.inv"),
    (tg, "nothing", "no attribute 'nothing'$"),
    (tg.ones(1), "numpy", r"no attribute 'numpy': use numpy.asarray\(x.detach\(\)\)"),
    (tg.ones(1), "data", r"use x.detach\(\) to read"),
    (tg.ones(1), "zero_grad", "use x.grad = None"),
    (tg.ones(1), "flatten", r"use tapegrad.reshape\(x, \(-1,\)\)"),
    (tg.ones(1), "norm", "use tapegrad.linalg.vector_norm"),
    (tg.ones(1), "nothing", "no attribute 'nothing'$"),
]


@pytest.mark.parametrize(("where", "name", "message"), HINTED, ids=[f"{type(h[0]).__name__} {h[1]}" for h in HINTED])
def test_names_of_other_libraries(where: Any, name: str, message: str) -> None:
    assert not hasattr(where, name)
    assert name not in dir(where)
    with pytest.raises(AttributeError, match=message):
        getattr(where, name)


def test_hints_name_what_is_there() -> None:
    for table, where in ((hints.FUNCTIONS, tg), (hints.ATTRIBUTES, tg.Tensor)):
        for name, hint in table.items():
            assert name == "testing" or not hasattr(where, name), name
            for path in re.findall(r"tapegrad\.([\w.]+\w)", hint):
                assert path == "testing" or attrgetter(path)(tg), (name, path)


@pytest.mark.parametrize(
    "use",
    [
        lambda w, t: tg.add(w, t),
        lambda w, t: t + w,
        lambda w, t: w - t,
        lambda w, t: w.__iadd__(t),
        lambda w, t: w.__setitem__(..., t),
        lambda w, t: tg.less(w, t),
        lambda w, t: tg.sin(t),
        lambda w, t: w @ t,
        lambda w, t: tg.where(w > 0, t, 0.0),
        lambda w, t: tg.asarray(t, copy=False),
        lambda w, t: tg.asarray(t, device="cpu"),
    ],
)
def test_a_tensor_recorded_by_pytorch_is_refused_by_all(use: Any) -> None:
    torch = pytest.importorskip("torch")
    w = tg.asarray([1.0, 2.0], device="torch:cpu")
    with pytest.raises(TypeError, match="recorded by PyTorch's own autograd"):
        use(w, torch.ones(2, requires_grad=True))


ERRORS: dict[str, tuple[Callable[[tg.Tensor], Any], str, str]] = {
    "cholesky": (lambda x: tg.linalg.cholesky(-x), "LinAlgError", "cholesky of operands of shape"),
    "solve": (lambda x: tg.linalg.solve(0.0 * x, x), "LinAlgError", "solve of operands of shape"),
    "inv": (lambda x: tg.linalg.inv(0.0 * x), "LinAlgError", "inv of operands of shape"),
    "svd": (lambda x: tg.linalg.svd(x / (0.0 * x)), "LinAlgError", "svd of operands of shape"),
    "vmap": (lambda x: tg.vmap(tg.linalg.cholesky)(tg.stack([x, -x])), "LinAlgError", "cholesky of"),
    "rule": (lambda x: tg.grad(lambda x: tg.sum(tg.linalg.cholesky(x) * 0))(-x), "LinAlgError", "cholesky of"),
    "divide": (lambda x: 1.0 / x, "FloatingPointError", "divide of operands of shape"),
    "log": (lambda x: tg.log(0.0 * x), "FloatingPointError", "log of operands of shape"),
    "power": (lambda x: (x * 1e300) ** 2, "FloatingPointError", "of operands of shape"),
    "sum": (lambda x: tg.sum(0.0 * x + 1e308), "FloatingPointError", "sum of operands of shape"),
    "matmul": (lambda x: (x * 1e200) @ (x * 1e200), "FloatingPointError", "matmul of operands of shape"),
    "gradient": (lambda x: tg.grad(lambda x: tg.sum(tg.sqrt(x)))(0.0 * x), "FloatingPointError", "divide"),
    "astype": (lambda x: tg.astype(x * 1e300, tg.int32), "FloatingPointError", "astype of operands of shape"),
    "index": (lambda x: x[[7]], "IndexError", "getitem of operands of shape"),
    "written index": (lambda x: x.__setitem__([7], 0.0), "IndexError", r"x\[...\] = v of"),
    "size": (lambda x: tg.broadcast_to(x, (1 << 20, 1 << 20, 2, 2)) * 1.0, "MemoryError", "of operands of shape"),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("device", ["cpu", "strict", "torch:cpu"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_errors_keep_their_type(name: str, device: str, compiled: bool) -> None:
    """A handler of the library's errors catches those of Tensors; one of LinAlgError catches those of any library."""
    for module in {"strict": ["array_api_strict"], "torch:cpu": ["torch"]}.get(device, []):
        pytest.importorskip(module)
    f, kind, match = ERRORS[name]
    if (kind == "FloatingPointError" and device == "torch:cpu") or (device != "cpu" and kind == "MemoryError"):
        pytest.skip("the library has no such errors")
    if compiled and kind in ("IndexError", "MemoryError"):
        pytest.skip("nothing to compile")
    expected = np.linalg.LinAlgError if kind == "LinAlgError" else getattr(builtins, kind)
    x = tg.asarray(np.eye(2), device=device)
    with np.errstate(all="raise" if kind == "FloatingPointError" else "ignore"):
        g = tg.compile(f) if compiled else f
        for _ in range(4 if compiled else 1):
            with pytest.raises(expected, match=match) as caught:
                g(x)
    if kind == "LinAlgError":
        assert isinstance(caught.value, ValueError)
        if device == "torch:cpu":
            assert isinstance(caught.value, pytest.importorskip("torch").linalg.LinAlgError)
