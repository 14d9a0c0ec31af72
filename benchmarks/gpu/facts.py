"""A step: facts that only a device can show, each a line of PASS or FAIL: kernels, captured graphs, libraries.

Values are compared with those of the same function on NumPy.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

import tapegrad as tg
from benchmarks._columns import first_line
from benchmarks.gpu._clock import CAPTURED, graphs_of
from benchmarks.gpu._libraries import DEVICE, device_columns
from benchmarks.gpu._records import Output, output_of
from tapegrad import backends

Fact = tuple[str, Callable[[], object]]

LINALG = ("inv", "det", "slogdet", "cholesky", "qr", "svd", "eigh", "eig")
SPECIAL = ("erf", "erfinv", "gammaln", "digamma", "i0e", "i1e", "log_ndtr", "ndtri")


def main(argv: Sequence[str] | None = None) -> int:
    """Check all facts; return the exit status."""
    output, _ = output_of(argv, argparse.ArgumentParser(description=__doc__))
    _, status = device_columns(output, peers=(), compiled=False)
    if status:
        return status
    return max(_check(output, name, fact) for name, fact in facts())


def _check(output: Output, name: str, fact: Callable[[], object]) -> int:
    """Print and record whether a fact holds, and its warnings; return 1 if it does not."""
    start = perf_counter()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            seen = fact()
    except Exception as error:  # of all kinds: that is the fact
        passed, detail = False, f"{type(error).__name__}: {first_line(error)}"
    else:
        said = [f"warned: {w.category.__name__}: {w.message}" for w in caught]
        passed, detail = True, "; ".join([str(seen)] * (seen is not None) + said)
    seconds = perf_counter() - start
    line = f"{'PASS' if passed else 'FAIL'} {name}{': ' if detail else ''}{detail} [{seconds:.2f} s]"
    output.write(line, kind="fact", name=name, passed=passed, detail=detail, seconds=seconds)
    return int(not passed)


def facts() -> Iterator[Fact]:
    """Return the facts by name: each raises if it does not hold, and may return an observation."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 48), dtype=np.float32)
    square = x @ x.T / np.float32(48) + np.eye(64, dtype=np.float32)
    labels = np.arange(64) % 48

    yield "eager step", partial(_as_on_numpy, tg.grad(lambda v: tg.sum(tg.tanh(v @ v.mT) ** 2)), x)
    for dtype in ("float16", "float32", "float64", "complex64"):
        yield f"gradient at repeated indices, {dtype}", partial(_gather, dtype)
    yield "an index out of range raises under debug()", _index_out_of_range
    if _torch_has_cuda():
        yield "DLPack to PyTorch and back", _dlpack
    for name in SPECIAL:
        yield f"special.{name}", partial(_as_on_numpy, getattr(tg.special, name), np.linspace(0.05, 0.95, 64))
    for name in LINALG:
        for shape in ((3, 3), (2, 4, 3, 3), (2, 40, 40)):
            yield f"linalg.{name} of {shape}", partial(_linalg, name, shape)
    captured: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "elementwise, softmax, total": (lambda v: (tg.exp(v) * tg.softmax(v, axis=-1), tg.sum(v)), (x,)),
        "matmul": (lambda v: tg.tanh(v @ tg.matrix_transpose(v)), (x,)),
        "matmul of batches": (_batches, (x,)),
        "matmul, float64": (lambda v: v @ tg.matrix_transpose(v), (x.astype(np.float64),)),
        "take and its gradient": (tg.grad(lambda v, i: tg.sum(tg.take(v, i, axis=1) ** 2)), (x, labels)),
        "cumulative_sum, argmax, roll": (_assorted, (x,)),
        "stack of 10": (lambda v: tg.stack([v * float(k) for k in range(10)]) + 1.0, (x,)),
        "concat of 12": (lambda v: tg.concat([v * float(k) for k in range(12)]) + 1.0, (x,)),
        "a mask written": (_masked, (x,)),
        "unstack": (lambda v: sum(tg.unstack(v)), (x,)),
        "cross_entropy and its gradient": (tg.value_and_grad(tg.cross_entropy), (x, labels)),
        "linalg between products": (lambda v: tg.linalg.inv(v @ v) * 2.0, (square,)),
        "many sums of columns": (lambda v: tuple(tg.sum(tg.exp(v * 0.1 * k), axis=0) for k in range(9)), (x,)),
    }
    for name, (function, args) in captured.items():
        yield f"compiled: {name}", partial(_compiled, function, *args)
    yield "compiled: matmul, float16", partial(_compiled, _half_product, x, rtol=1e-2)
    yield "updated state over 2000 replays", _state


def _half_product(x: Any) -> Any:
    half = tg.astype(x, tg.float16)
    return tg.astype(half @ tg.matrix_transpose(half), tg.float32)


def _batches(x: Any) -> Any:
    b = tg.reshape(x, (4, 16, 48))
    return b @ tg.matrix_transpose(b) * 2.0


def _assorted(x: Any) -> Any:
    return tg.cumulative_sum(x, axis=1), tg.argmax(x, axis=1), tg.roll(x, 1, axis=1), tg.repeat(x, 2, axis=0)


def _masked(x: Any) -> Any:
    y = x * 1.0
    y[x > 0] = 0.0
    return y + 1.0


def _leaves(results: Any) -> list[Any]:
    return [leaf for r in results for leaf in _leaves(r)] if isinstance(results, tuple) else [results]


def _same(got: Any, want: Any, rtol: float) -> None:
    for a, b in zip(_leaves(got), _leaves(want), strict=True):
        host = np.asarray(a.detach().to_device("cpu"))
        np.testing.assert_allclose(host, np.asarray(b.detach()), rtol=rtol, atol=rtol)


def _as_on_numpy(function: Callable[..., Any], *arrays: Any) -> None:
    there = [tg.tensor(a, device=DEVICE) for a in arrays]
    _same(
        function(*there),
        function(*[tg.tensor(a, device="cpu") for a in arrays]),
        1e-10 if arrays[0].dtype == np.float64 else 1e-4,
    )


def _compiled(function: Callable[..., Any], *arrays: Any, rtol: float = 1e-4) -> str:
    """Compare the last replay with NumPy; return how the program is run."""
    step = tg.compile(function)
    there = [tg.tensor(a, device=DEVICE) for a in arrays]
    for _ in range(CAPTURED):
        got = step(*there)
    _same(got, function(*[tg.tensor(a, device="cpu") for a in arrays]), rtol)
    assert graphs_of(step), step.program.how
    return f"{len(graphs_of(step))} graphs of {len(step.program)} operations"


def _gather(dtype: str) -> None:
    w = tg.tensor(np.arange(12).reshape(6, 2).astype(dtype), device=DEVICE, requires_grad=True)
    tg.sum(tg.real(w[tg.tensor([0, 1, 1], device=DEVICE)])).backward()
    assert w.grad is not None
    np.testing.assert_array_equal(np.asarray(w.grad.to_device("cpu"))[:, 0].real, [1, 2, 0, 0, 0, 0])


def _index_out_of_range() -> str:
    x = tg.tensor(np.arange(3.0), device=DEVICE)
    try:
        with tg.debug():
            tg.take(x, tg.tensor([5], device=DEVICE)).tolist()
    except IndexError as error:
        return first_line(error)
    raise AssertionError("nothing was raised")


def _torch_has_cuda() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def _dlpack() -> str:
    import torch

    there = torch.from_dlpack(tg.tensor(np.arange(3.0), device=DEVICE))
    back = tg.from_dlpack(there * 2)
    assert back.tolist() == [0.0, 2.0, 4.0]
    return str(there.device)


def _linalg(name: str, shape: tuple[int, ...]) -> None:
    """Check a decomposition by the product of its factors."""
    a = np.random.default_rng(1).normal(size=shape)
    a = a @ np.swapaxes(a, -1, -2) + 3 * np.eye(shape[-1])
    out = getattr(tg.linalg, name)(tg.tensor(a, device=DEVICE))
    parts = [np.asarray(x.to_device("cpu")) for x in (out if isinstance(out, tuple) else (out,))]
    if name in ("inv", "det"):
        got, want = parts[0], getattr(np.linalg, name)(a)
    elif name == "slogdet":
        got, want = parts[1], np.linalg.slogdet(a)[1]
    elif name == "cholesky":
        got, want = parts[0] @ np.swapaxes(parts[0], -1, -2), a
    elif name == "qr":
        got, want = parts[0] @ parts[1], a
    elif name == "svd":
        u, s, v = parts
        got, want = u[..., : s.shape[-1]] * s[..., None, :] @ v, a
    else:
        values, vectors = parts
        got, want = a @ vectors, values[..., None, :] * vectors
    np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-8)


def _state() -> str:
    """Replay an update of state often, while others take and give back memory."""
    w = tg.zeros((1 << 12,), dtype=tg.float32, device=DEVICE)

    def step(x: Any) -> Any:
        w[...] = w * 0.5 + x
        return tg.sum(w)

    update = tg.compile(step)
    x = tg.ones((1 << 12,), dtype=tg.float32, device=DEVICE)
    for k in range(2000):
        total = update(x)
        tg.zeros((1 << 10,), dtype=tg.float32, device=DEVICE)
        if k % 500 == 499:
            backends.of_device(DEVICE)[0].synchronize(total._array)
    assert abs(total.item() - 2 * (1 << 12)) < 1e-2, total.item()
    return f"{len(graphs_of(update))} graphs"


if __name__ == "__main__":
    sys.exit(main())
