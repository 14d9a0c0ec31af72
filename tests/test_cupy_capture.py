"""Every operation in a compiled step on CuPy: captured as a whole, without waits and copies, or known not to be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from places import Place, why_not
from test_compile_samples import FIRST, REFUSED, arguments, value_and_gradients

import tapegrad as tg
from tapegrad.testing import SAMPLES, Sample

if why := why_not("cuda"):
    pytest.skip(why, allow_module_level=True)

from cuda_stand_in import Counts, counted, is_installed

from tapegrad.backends._cupy.executor.executor import Executor

CUDA = Place("cuda")
WARM = 5  # calls: two eager ones, two launched one by one, one that captures

# Launches between graphs, and the reasons.
APART = {
    "argsort": "the sort of Thrust waits for the device",
    "linalg.": "cuSOLVER cannot be captured",
    "segment_": "a scan by doubling behind a sort, composed of many functions",
    "fft.": "cuFFT's work areas would have to be the graph's",
}


def executor_of(compiled: Any) -> Executor | None:
    """Return the executor of the program; None for one without arrays, which is not planned."""
    executor = compiled._last.executor
    return executor if isinstance(executor, Executor) else None


def apart(compiled: Any) -> set[str]:
    """Return the operations that are launched by themselves."""
    executor = executor_of(compiled)
    if executor is None:
        return set()
    steps = [step for piece in executor._graphs.segments for step in piece]
    assert all(
        (graph is not None) is piece[0].captured
        for piece, graph in zip(executor._graphs.segments, executor._graphs.graphs, strict=True)
    )
    return {step.name.partition(" at ")[0] for step in steps if not step.captured}


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.name in FIRST - REFUSED], ids=lambda s: s.name)
def test_operations(sample: Sample) -> None:
    """A step that failed to be captured would warn, which is an error here."""
    with tg.default_device("cuda"):
        compiled = tg.compile(value_and_gradients(CUDA, sample))
        calls = [arguments(CUDA, sample, call) for call in range(WARM + 1)]
        for xs in calls[:WARM]:
            compiled(*xs)
        counts: Counts | None = None
        if is_installed():
            with counted() as counts:
                compiled(*calls[WARM])
        else:
            compiled(*calls[WARM])
    operations = apart(compiled)
    assert all(name.startswith(tuple(APART)) for name in operations), operations
    if counts is not None and not operations:
        assert (counts.waits, counts.copies_in, counts.copies_out) == (0, 0, 0)


def test_writing_where_a_mask_holds_is_captured() -> None:
    mask = tg.tensor(np.asarray([[True, False], [False, True]]), device="cuda")

    def written(y: tg.Tensor, v: tg.Tensor) -> tg.Tensor:
        y[mask] = v
        return y

    @tg.compile
    def step(x: tg.Tensor, v: tg.Tensor) -> Any:
        return written(x * 2.0, v), tg.grad(lambda x: tg.sum(written(x * x, v) ** 2))(x)

    for i in range(WARM + 1):
        y, gradient = step(CUDA.tensor([[1.0, 2.0], [3.0, 4.0]]), CUDA.tensor(7.0 + i))
        CUDA.check(y, [[7.0 + i, 4.0], [6.0, 7.0 + i]])
        CUDA.check(gradient, [[0.0, 32.0], [108.0, 0.0]])
    assert not apart(step)
