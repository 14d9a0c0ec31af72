"""Random numbers of a key and a counter on PyTorch: NumPy's on the CPU, composed ones elsewhere.

Where PyTorch traces a program, each draw is one operation of it, whose inside the compiler does not look at: of its 300
operations it would take minutes to make one kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tapegrad.backends import _host_philox as host
from tapegrad.backends import _philox
from tapegrad.backends._array import Array
from tapegrad.backends._torch_functions import tracing


def draw(backend: Any, key: Array, count: Array, form: str, shape: tuple[int, ...], dtype: str, least: int) -> Array:
    """Return random numbers, see `_philox.draw`."""
    if tracing.depth:
        return torch.ops.tapegrad.draw(key, count, form, list(shape), dtype, least)
    return _drawn(backend, key, count, form, shape, dtype, least)


def skip(backend: Any, count: Array, shape: tuple[int, ...], start: int, step: int) -> Array:
    """Return counters, see `_philox.skip`."""
    if tracing.depth:  # integers of 64 bits with a sign, as PyTorch takes them
        return torch.ops.tapegrad.skip(count, list(shape), *[_signed(n) for n in (start, step)])
    return _skipped(backend, count, shape, start, step)


def install(backend: Any) -> None:
    """Register the two as operations of PyTorch, for the adapter."""
    if hasattr(torch.ops.tapegrad, "draw"):
        return

    def drawn(key: Array, count: Array, form: str, shape: list[int], dtype: str, least: int) -> Array:
        return _drawn(backend, key, count, form, tuple(shape), dtype, least).contiguous()  # as like_drawn says

    def skipped(count: Array, shape: list[int], start: int, step: int) -> Array:
        return _skipped(backend, count, tuple(shape), start % (1 << 64), step % (1 << 64))

    def like_drawn(key: Array, count: Array, form: str, shape: list[int], dtype: str, least: int) -> Array:
        lead = np.broadcast_shapes(key.shape[:-1], count.shape[:-1])
        return count.new_empty([*lead, *shape], dtype=getattr(torch, dtype))

    def like_skipped(count: Array, shape: list[int], start: int, step: int) -> Array:
        return count.new_empty([*count.shape[:-1], *shape, _philox.BLOCK])

    words = "(Tensor key, Tensor count, str form, int[] shape, str dtype, int least) -> Tensor"
    for name, schema, function, fake in (
        ("draw", words, drawn, like_drawn),
        ("skip", "(Tensor count, int[] shape, int start, int step) -> Tensor", skipped, like_skipped),
    ):
        made = torch.library.custom_op(f"tapegrad::{name}", function, mutates_args=(), schema=schema)
        made.register_fake(fake)


def _drawn(backend: Any, key: Array, count: Array, form: str, shape: tuple[int, ...], dtype: str, least: int) -> Array:
    if count.device.type != "cpu":
        return _philox.draw(backend, key, count, form, shape, dtype, least)
    out = torch.from_numpy(host.draw(key.numpy(), count.numpy(), form, shape, dtype, least))
    return out.to(torch.bfloat16) if dtype == "bfloat16" else out


def _skipped(backend: Any, count: Array, shape: tuple[int, ...], start: int, step: int) -> Array:
    if count.device.type != "cpu":
        return _philox.skip(backend, count, shape, start, step)
    return torch.from_numpy(host.skip(count.numpy(), shape, start, step))


def _signed(n: int) -> int:
    return n - (1 << 64) if n >> 63 else n
