"""A step: the time of generated kernels, by the bytes that they have to move, as a share of a copy's.

The time is that of a program's CUDA graphs alone, without the copies of arguments and results around them.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

import tapegrad as tg
from benchmarks._columns import first_line
from benchmarks.gpu._clock import CAPTURED, device_time, graphs_of
from benchmarks.gpu._libraries import DEVICE, device_columns
from benchmarks.gpu._precision import BFLOAT16, why_not
from benchmarks.gpu._records import Output, output_of

COPY, ELEMENTWISE, ROWS, COLUMNS, SUM = "copy", "elementwise", "rows", "columns", "sum"


class Kernel(NamedTuple):
    """A function to compile: its family, the shapes and the dtype of its arguments, and the bytes it has to move."""

    name: str
    family: str
    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    nbytes: int
    dtype: Any = tg.float32


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the copy, then all kernels; return the exit status."""
    output, _ = output_of(argv, argparse.ArgumentParser(description=__doc__))
    _, status = device_columns(output, peers=(), compiled=False)
    if status:
        return status
    copied = _copy(output, 1 << (12 if output.tiny else 28))
    for kernel in kernels(output.tiny):
        status = max(status, _measure(output, kernel, copied))
    return status


def kernels(tiny: bool) -> Iterator[Kernel]:
    """Return the kernels, each for about 64M numbers."""
    n = 1 << (10 if tiny else 26)

    def elementwise(
        name: str, function: Callable[..., Any], operands: int, dtype: Any = tg.float32, size: int = 4
    ) -> Kernel:
        return Kernel(f"{name} of {n}", ELEMENTWISE, function, ((n,),) * operands, (operands + 1) * size * n, dtype)

    yield elementwise("gelu", _own_gelu, 1)
    yield elementwise("x * y + z", lambda x, y, z: x * y + z, 3)
    yield elementwise("gradient of gelu", lambda x: tg.grad(lambda x: tg.sum(_gelu(x)))(x), 1)
    yield elementwise("gelu, float16,", _own_gelu, 1, tg.float16, 2)
    if why_not(BFLOAT16) is None:
        yield elementwise("gelu, bfloat16,", _own_gelu, 1, tg.bfloat16, 2)
    yield Kernel(f"sum of squares of {n}", SUM, lambda x: tg.sum(x * x), ((n,),), 4 * n)
    for length in (48,) if tiny else (768, 1024, 4096, 16384, 32768, 50257):
        shape = (max(16, n // length), length)
        once = 4 * prod(shape)
        yield Kernel(f"softmax {shape}", ROWS, lambda x: tg.softmax(x, axis=-1), (shape,), 2 * once)
    for length in (48,) if tiny else (768, 1024, 4096):
        shape = (max(16, n // length), length)
        once = 4 * prod(shape)
        affine = ((length,), (length,))
        yield Kernel(f"layer norm {shape}", ROWS, _norm, (shape, *affine), 2 * once)
        yield Kernel(f"gradient of layer norm {shape}", ROWS, _norm_gradient, (shape, *affine, shape), 3 * once)
    scores = (2, 2, 16, 16) if tiny else (16, 16, 512, 512)
    yield Kernel(f"masked softmax {scores}", ROWS, _masked_softmax, (scores, scores[2:]), 8 * prod(scores))
    shape = (16, 48) if tiny else (n // 1024, 1024)
    yield Kernel(f"column sums {shape}", COLUMNS, lambda x: tg.sum(x, axis=0), (shape,), 4 * prod(shape))


def _own_gelu(x: Any) -> Any:
    return tg.gelu(x, approximate="tanh")


def _gelu(x: Any) -> Any:
    return 0.5 * x * (1.0 + tg.tanh(0.7978845608 * (x + 0.044715 * (x * x * x))))


def _norm(x: Any, gain: Any, bias: Any) -> Any:
    x = x - tg.mean(x, axis=-1, keepdims=True)
    return x / tg.sqrt(tg.mean(x * x, axis=-1, keepdims=True) + 1e-5) * gain + bias


def _norm_gradient(x: Any, gain: Any, bias: Any, cotangent: Any) -> Any:
    return tg.grad(lambda x, gain, bias: tg.sum(_norm(x, gain, bias) * cotangent), (0, 1, 2))(x, gain, bias)


def _masked_softmax(scores: Any, mask: Any) -> Any:
    return tg.softmax(scores * 0.125 + mask, axis=-1)


def _copy(output: Output, nbytes: int) -> float:
    """Return the bytes a second that a copy on the device reads and writes."""
    import cupy

    source = cupy.ones(nbytes, cupy.uint8)
    target = cupy.empty_like(source)
    seconds = device_time(lambda: cupy.copyto(target, source), 10)
    rate = 2 * nbytes / seconds
    line = f"{'copy of ' + str(nbytes) + ' bytes':48}{seconds * 1e6:12.1f} us {rate / 1e12:8.3f} TB/s"
    output.write(line, kind="bandwidth", name="copy", family=COPY, us=seconds * 1e6, share=1.0, rate=rate)
    return rate


def _measure(output: Output, kernel: Kernel, copied: float) -> int:
    """Print and record one kernel; return 1 if it fails."""
    try:
        seconds, steps = _time(kernel)
    except Exception as error:  # out of memory, a kernel that does not compile, ...
        why = f"{type(error).__name__}: {first_line(error)}"
        output.write(
            f"{kernel.name:48}failed  {why}", kind="bandwidth", name=kernel.name, family=kernel.family, failed=why
        )
        return 1
    finally:
        gc.collect()  # before the next kernel takes as much memory
    rate = kernel.nbytes / seconds
    share = rate / copied
    line = f"{kernel.name:48}{seconds * 1e6:12.1f} us {rate / 1e12:8.3f} TB/s {share:5.0%} of a copy, {steps} steps"
    record = {"us": seconds * 1e6, "share": share, "rate": rate, "steps": steps}
    output.write(line, kind="bandwidth", name=kernel.name, family=kernel.family, **record)
    return 0


def _time(kernel: Kernel) -> tuple[float, int]:
    """Return the seconds of a kernel's graphs, and how many steps its program has."""
    rng = np.random.default_rng(0)
    args = [
        tg.astype(tg.tensor(rng.standard_normal(shape, dtype=np.float32), device=DEVICE), kernel.dtype)
        for shape in kernel.shapes
    ]
    step = tg.compile(kernel.function)
    for _ in range(CAPTURED):
        step(*args)
    graphs = graphs_of(step)
    if not graphs:
        raise RuntimeError(f"not captured: {step.program.how}")

    def replay() -> None:
        for graph in graphs:
            graph.launch()

    return device_time(replay, 10), len(step.program)


if __name__ == "__main__":
    sys.exit(main())
