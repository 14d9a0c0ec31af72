"""A step: floating-point operations a second of matrix products, beside PyTorch's, in each precision."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

import tapegrad as tg
from benchmarks._arrays import wait
from benchmarks._columns import first_line
from benchmarks.gpu._libraries import device_columns, of_library
from benchmarks.gpu._precision import FLOAT32, TF32, precise, why_not
from benchmarks.gpu._records import Output, output_of

Shape = tuple[int, ...]


class Product(NamedTuple):
    """A product of matrices, or of batches of them. transposed: the right one's rows are multiplied."""

    name: str
    left: Shape
    right: Shape
    transposed: bool = False

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * prod(self.left) * self.right[-2 if self.transposed else -1]


@cache
def _operands(product: Product) -> list[np.ndarray[Any, Any]]:
    """Return random matrices: a device multiplies zeros faster, as they take less power."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, dtype=np.float32) for shape in (product.left, product.right)]


PRECISIONS = ("float64", FLOAT32, TF32, "float16", "bfloat16")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure products of matrices and of batches; return the exit status."""
    output, _ = output_of(argv, argparse.ArgumentParser(description=__doc__))
    found, status = device_columns(output, ("torch",), compiled=False)
    places = {library: of_library(found, library) for library in ("tapegrad", "torch")}
    n, heads, length, size = (16, 4, 8, 4) if output.tiny else (8192, 96, 1024, 64)
    products = (
        Product("x @ y", (n, n), (n, n)),
        Product("x @ y.mT of batches", (heads, length, size), (heads, length, size), transposed=True),
        Product("x @ y of batches", (heads, length, length), (heads, length, size)),
    )
    for product in products:
        for precision in PRECISIONS:
            with precise(precision):
                for library, place in places.items():
                    if place is not None:
                        status = max(status, _measure(output, product, precision, library, place))
    return status


def _measure(output: Output, product: Product, precision: str, library: str, place: str) -> int:
    """Print and record one product in one library; return 1 if it fails."""
    name = f"{product.name}, {precision}"
    label = f"{library} {place}"
    why = why_not(precision) if library == "tapegrad" else None
    if why is not None:
        output.write(f"skipped: {name}: {label}: {why}", kind="skipped", what=f"{name}, {label}", why=why)
        return 0
    record = {"kind": "product", "name": name, "column": label}
    try:
        call = CALLS[library](place, product, FLOAT32 if precision == TF32 else precision)
        seconds = _time(call, output.tiny)
    except Exception as error:  # of as many kinds as there are libraries
        output.write(f"{name:34}{label:18} failed  {first_line(error)}", **record, failed=first_line(error))
        return 1
    rate = product.flops / seconds / 1e12
    output.write(f"{name:34}{label:18}{seconds * 1e6:12.1f} us {rate:10.3f} TFLOP/s", **record, tflops=rate)
    return 0


def _tapegrad(place: str, product: Product, dtype: str) -> Callable[[], Any]:
    a, b = (tg.astype(tg.tensor(x, device=place), dtype) for x in _operands(product))
    return (lambda: a @ b.mT) if product.transposed else (lambda: a @ b)


def _torch(place: str, product: Product, dtype: str) -> Callable[[], Any]:
    import torch

    a, b = (torch.tensor(x, device=place).to(getattr(torch, dtype)) for x in _operands(product))
    return (lambda: a @ b.mT) if product.transposed else (lambda: a @ b)


CALLS = {"tapegrad": _tapegrad, "torch": _torch}


def _time(call: Callable[[], Any], tiny: bool) -> float:
    """Return the seconds of a product, at best, from the call to the result over a queue of calls."""
    calls = 1 if tiny else 10
    for _ in range(2):
        wait([call()])
    best = float("inf")
    for _ in range(3):
        start = perf_counter()
        for _ in range(calls):
            result = call()
        wait([result])
        best = min(best, (perf_counter() - start) / calls)
    return best


if __name__ == "__main__":
    sys.exit(main())
