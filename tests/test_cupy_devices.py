"""Operations on a second CUDA device while the first is current: results there, and the first stays current."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import Place, why_not
from test_compile_samples import FIRST, REFUSED, arguments, value_and_gradients
from test_samples import first_derivatives, floating

import tapegrad as tg
from tapegrad.testing import SAMPLES, Sample

if why := why_not("cuda:1"):
    pytest.skip(why, allow_module_level=True)

import cupy
from cuda_stand_in import is_installed

FIRST_DEVICE, SECOND = Place("cuda:0"), Place("cuda:1")


@pytest.fixture(autouse=True)
def _stays_current() -> Iterator[None]:
    """Have new Tensors on the second device, and assert that the first is the current one before and after a test."""
    assert cupy.cuda.runtime.getDevice() == 0
    with tg.default_device("cuda:1"):
        yield
    assert cupy.cuda.runtime.getDevice() == 0


def assert_there(xs: Iterable[Any]) -> None:
    for x in xs:
        assert x is None or (x.device, x._array.data.device_id) == ("cuda:1", 1)
        assert cupy.cuda.runtime.getDevice() == 0


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.name in FIRST], ids=lambda s: s.name)
def test_operations(sample: Sample) -> None:
    """CuPy warns where it computes on a device with arrays of another, and warnings are errors here."""
    step = value_and_gradients(SECOND, sample)
    assert_there(step(*arguments(SECOND, sample, 0)))
    if sample.order and floating(sample):
        assert_there(first_derivatives(SECOND, sample))
    if sample.name not in REFUSED:
        compiled = tg.compile(step)
        for call in range(4):
            assert_there(compiled(*arguments(SECOND, sample, call)))


@tg.custom_vjp
def cubed(x: Any) -> Any:
    return x * x * x


cubed.defvjp(lambda x: (x * x * x, x), lambda x, t: (3 * x * x * t,))


def curve(x: Any) -> Any:
    return tg.sum(tg.softmax(x * x) * tg.sin(x)) + x[0] * x[1]


TRANSFORMS: dict[str, Callable[[tg.Tensor], Any]] = {
    "jacobian": tg.jacobian(lambda x: tg.sin(x) * x[::-1]),
    "jacobian forward": tg.jacobian(lambda x: tg.sin(x) * x[::-1], mode="forward"),
    "sparse jacobian": lambda x: tg.asarray(tg.jacobian(lambda x: x * x, sparsity="detect")(x).data, device=x.device),
    "hessian": tg.hessian(curve),
    "hvp": lambda x: tg.hvp(curve, (x,), (x,)),
    "linearize": lambda x: tg.linearize(curve, x)[1](x),
    "vmap": lambda x: tg.vmap(tg.grad(curve))(tg.stack([x, x + 1])),
    "checkpoint": tg.grad(tg.checkpoint(curve)),
    "fixed_point": tg.grad(lambda x: tg.sum(tg.fixed_point(lambda z, x: tg.cos(z * x) * 0.5, x * 0, x))),
    "custom_vjp": tg.grad(lambda x: tg.sum(cubed(x) * cubed(x))),
    "repeated indices": tg.grad(lambda x: tg.sum(x[tg.asarray([0, 0, 1])] ** 2)),
    "writing": tg.grad(lambda x: tg.sum(written(x * x) ** 2)),
}


def written(x: Any) -> Any:
    x[1:] = x[:-1] * 3.0
    return x


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.name in FIRST], ids=lambda s: s.name)
def test_kernels_traced_on_the_other_device(sample: Sample) -> None:
    """A trace serves both devices, with constants on each of them: CuPy warns of arrays of another device."""
    for place in (FIRST_DEVICE, SECOND, FIRST_DEVICE):
        with tg.default_device(place.device):
            results = value_and_gradients(place, sample)(*arguments(place, sample, 0))
        assert {x.device for x in results if x is not None} == {place.device}


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name: str, ordered: bool) -> None:
    with tg.deterministic(ordered):
        got = TRANSFORMS[name](tg.asarray([0.5, 0.25, 0.125]))
    with tg.default_device("cpu"):
        expected = TRANSFORMS[name](tg.asarray([0.5, 0.25, 0.125]))
    assert_there([got])
    SECOND.check(got, np.asarray(expected), rtol=1e-10)


def test_state_of_a_compiled_step() -> None:
    w = tg.tensor([1.0, 2.0], requires_grad=True)

    @tg.compile
    def step(x: tg.Tensor) -> tg.Tensor:
        w.grad = None
        loss = tg.sum((w - x) ** 2)
        loss.backward()
        with tg.no_grad():
            assert w.grad is not None
            w[...] = w - 0.25 * w.grad
        return loss

    for expected in (5.0, 1.25, 0.3125, 0.078125, 0.01953125):
        loss = step(tg.zeros(2))
        assert_there([loss, w, w.grad])
        assert loss.item() == expected


def test_both_devices_in_one_graph() -> None:
    """Records of both devices take turns in a walk, forward and backward."""

    def f(x: tg.Tensor) -> tg.Tensor:
        y = (x * x).to_device("cuda:0")
        z = tg.sin(x)
        for _ in range(2):
            y = y * y + z.to_device("cuda:0")
            z = z * tg.exp(z) + y.to_device("cuda:1")
        return tg.sum(z * x)

    x = tg.tensor([0.5, 0.25], requires_grad=True)
    f(x).backward()
    on_host = tg.tensor([0.5, 0.25], device="cpu")
    expected = tg.grad(lambda x: f_on_host(x))(on_host)
    assert_there([x, x.grad])
    SECOND.check(x.grad, np.asarray(expected))
    _, tangent = tg.jvp(f, (x.detach(),), (tg.ones(2),))
    assert_there([tangent])
    SECOND.check(tangent, np.sum(np.asarray(expected)))
    second = tg.grad(lambda x: tg.sum(tg.grad(f)(x) ** 2))(x.detach())
    assert_there([second])
    SECOND.check(second, np.asarray(tg.grad(lambda x: tg.sum(tg.grad(f_on_host)(x) ** 2))(on_host)))


def f_on_host(x: tg.Tensor) -> tg.Tensor:
    y, z = x * x, tg.sin(x)
    for _ in range(2):
        y = y * y + z
        z = z * tg.exp(z) + y
    return tg.sum(z * x)


@pytest.mark.parametrize(
    "f",
    [
        lambda x, y: x * y,
        lambda x, y: x @ y,
        lambda x, y: tg.where(x > 0, x, y),
        lambda x, y: tg.concat([x, y]),
        lambda x, y: tg.linalg.solve(x, y),
        lambda x, y: tg.take(x, tg.astype(y[0], tg.int64), axis=0),
        lambda x, y: tg.cross_entropy(x, tg.astype(y[0], tg.int64)),
    ],
)
def test_operands_on_two_devices(f: Any) -> None:
    x, y = tg.ones((2, 2)), tg.ones((2, 2), device="cuda:0")
    for a, b in ((x, y), (y, x)):
        with pytest.raises(TypeError, match=r"operands on cuda:\d and cuda:\d; move one first, as in tapegrad.asarray"):
            f(a, b)
        assert_there([x])
        assert y._array.data.device_id == 0


def test_writing_values_of_another_device() -> None:
    x, y = tg.zeros(2), tg.ones(2, device="cuda:0")
    with pytest.raises(ValueError, match=r"x\[...\] = v of a value .* operands on cuda:0 and cuda:1; move one first"):
        x[...] = y
    SECOND.check(x, [0.0, 0.0])


def test_moving() -> None:
    x = tg.asarray([1.0, 2.0])
    there = x.to_device("cuda:0")
    assert (there.device, there._array.data.device_id) == ("cuda:0", 0)
    assert_there([there.to_device("cuda:1"), tg.asarray(there, device="cuda:1"), tg.asarray(x, copy=True)])
    assert there.tolist() == [1.0, 2.0]
    assert cupy.from_dlpack(x).data.device_id == 1
    assert_there([tg.asarray(x._array), tg.asarray(x._array, copy=False), tg.zeros_like(x), tg.full_like(x, 2.0)])


ALONE = """
import cuda_stand_in
cuda_stand_in.install()
with cuda_stand_in.simulated(device_count=1):
    import tapegrad as tg
    from tapegrad import backends
    from tapegrad.backends._base import Namespace
    assert type(backends.load("cuda").xp) is Namespace
    assert not backends.is_available("cuda:1")
    x = tg.tensor([1.0, 2.0], device="cuda", requires_grad=True)
    slope = tg.grad(lambda v: tg.sum(tg.softmax(v * v) * tg.gelu(v)))
    step = tg.compile(slope)
    for _ in range(5):
        assert abs(tg.sum(step(x.detach()) - slope(x.detach())).item()) < 1e-12
"""


@pytest.mark.skipif(not is_installed(), reason="simulates a machine: run with -p cuda_stand_in")
def test_one_device_alone_pays_nothing() -> None:
    """Functions are CuPy's own where there is no other device."""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(tg.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
