"""Every sample of the table in a compiled function: values and derivatives to the bit, as arguments and as state."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from compiling import values
from places import Place

import tapegrad as tg
from tapegrad._namespace import CaptureError
from tapegrad.testing import SAMPLES, Sample

FIRST = set({s.operation: s.name for s in reversed(SAMPLES)}.values())
# Their shape depends on values, or they need one on the host.
REFUSED = r"nonzero|unique|mask|matrix_rank|repeat|^det"


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)
def test_replayed(xp: Place, sample: Sample) -> None:
    if xp.device.startswith("jax"):
        pytest.skip("JAX compiles each call for each shape")
    if xp.device != "cpu" and sample.name not in FIRST:
        pytest.skip("one sample of an operation is enough there")
    state = [xp.tensor(a, requires_grad=sample.order > 0 and a.dtype.kind in "fc") for a in sample.args]

    def step(xs: list[tg.Tensor], eager: bool = False) -> Any:
        out = []
        for given in (xs, state):
            for x in given:
                x.grad = None
            y = sample.f(*given)
            if sample.order:
                y.backward(tg.ones_like(y))
            out += [y.detach(), *[x.grad for x in given]]
        return out

    f = tg.compile(step)
    for i in range(5):
        scaled = [a * (1 - i * 1e-3) if a.dtype.kind in "fc" else a for a in sample.args]
        xs = [xp.tensor(a, requires_grad=x.requires_grad) for a, x in zip(scaled, state, strict=True)]
        expected = values(step(xs))
        try:
            found = f(xs)
        except CaptureError as error:
            message = str(error)
            break
        assert values(found) == expected, f"call {i}"
    else:
        assert f.program.nodes or np.size(expected)
        return
    assert re.search(REFUSED, sample.name), message
    assert re.search(r"at [\w_]+.py:\d+", message)
