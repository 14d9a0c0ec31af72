"""Machines on which CuPy cannot work: each gets advice, and nothing is left half done."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from compiling import CALLS, Model
from places import why_not

import tapegrad as tg
from tapegrad import backends

if why := why_not("cuda"):
    pytest.skip(why, allow_module_level=True)

import cupy
from cuda_stand_in import is_installed, simulated
from cupy_backends.cuda.libs import nvrtc

stand_in = pytest.mark.skipif(not is_installed(), reason="simulates faults: run with -p cuda_stand_in")


def train(model: Model, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
    model.zero()
    loss = model.loss(x, y)
    loss.backward()
    model.sgd(0.1)
    return loss


def parameters(model: Model) -> list[list[float]]:
    return [x.detach().tolist() for x in (model.w, model.b)]


def reason() -> str:
    why = type(backends.load("cuda")).why_not()
    assert why is not None
    return why


@stand_in
def test_no_driver() -> None:
    with simulated(driver_version=0):
        assert "finds no CUDA device; install the NVIDIA driver" in reason()


@stand_in
def test_a_driver_that_is_too_old() -> None:
    with simulated(driver_version=12080):
        assert (
            "driver is for CUDA 12.8 and CuPy for 13.0; update the driver, or pip install 'tapegrad[cuda12]'"
            in reason()
        )
    with simulated(driver_version=14010):
        assert type(backends.load("cuda")).why_not() is None


@stand_in
def test_no_device() -> None:
    with simulated(device_count=0):
        assert "finds no CUDA device" in reason()


def test_no_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise RuntimeError("CuPy failed to load libnvrtc.so.13")

    monkeypatch.setattr(nvrtc, "getVersion", missing)
    assert "CuPy finds no CUDA libraries; pip install 'cupy-cuda" in reason()
    assert "libnvrtc.so.13" in reason()


@stand_in
def test_memory_runs_out() -> None:
    x = tg.tensor(np.ones(3), device="cuda", requires_grad=True)
    cupy.get_default_memory_pool().free_all_blocks()
    advice = "Out of memory allocating 80,000,000 bytes.*let go of Tensors.*tapegrad.checkpoint"
    with simulated(memory_limit=1 << 20), pytest.raises(MemoryError, match=advice):
        tg.sum(tg.broadcast_to(x[0], (10**7,)) * 2.0).backward()
    assert x.grad is None
    tg.sum(x * 2.0).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0] * 3


@stand_in
def test_a_device_goes_away() -> None:
    x = tg.tensor(np.ones(3), device="cuda", requires_grad=True)
    y = tg.sum(x * 2.0)
    with simulated(fault=46):
        for call in (y.backward, y.item, lambda: x + 1.0):
            with pytest.raises(RuntimeError, match="cudaErrorDevicesUnavailable"):
                call()
        with pytest.raises(RuntimeError, match="this process cannot use the device any more: start another one"):
            x + 1.0
    assert x.grad is None
    assert y.item() == 6.0


# Calls of a compiled step: eager ones, planning, launches one by one, capture, graphs.
@stand_in
@pytest.mark.parametrize("call", range(8))
@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"fault": 46}, "this process cannot use the device any more"),
        ({"fault": 719}, "this process cannot use the device any more"),
        ({"memory_limit": 0}, "CuPy's pool holds"),
    ],
)
def test_a_compiled_step_fails(settings: dict[str, int], advice: str, call: int) -> None:
    """A call that fails at any stage changes nothing, and the next ones work as they would have."""
    eager, other = Model("cuda"), Model("cuda")
    compiled = tg.compile(lambda x, y: train(other, x, y))
    for i in range(CALLS):
        given = other.batch(i)
        if i == call:
            before = parameters(other)
            cupy.get_default_memory_pool().free_all_blocks()
            raised: Any = None
            try:
                with simulated(**settings):
                    compiled(*given)
            except (MemoryError, RuntimeError) as error:
                raised = error
            if raised is not None:
                assert advice in "\n".join([str(raised), *getattr(raised, "__notes__", ())])
                assert parameters(other) == before
                compiled(*given)
        else:
            compiled(*given)
        train(eager, *eager.batch(i))
        for found, expected in zip(parameters(other), parameters(eager), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-12)
