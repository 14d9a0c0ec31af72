"""cuBLAS over NumPy, as its documentation has it: column-major, by leading dimension and stride."""

from __future__ import annotations

from typing import Any

import numpy as np


def gemm(plan: Any, a: Any, b: Any, out: Any) -> None:
    """Do what the planned calls do, in column-major terms."""
    for place in plan.places:
        for i in range(plan.batch):
            starts = [p + i * s for p, s in zip(place, (*plan.stride, plan.stride_c), strict=True)]
            x = _columns(b, starts[0], plan.m, plan.k, plan.ld[0], plan.transposed[0])
            y = _columns(a, starts[1], plan.k, plan.n, plan.ld[1], plan.transposed[1])
            z = _columns(out, starts[2], plan.m, plan.n, plan.ldc, False)
            z[...] = x @ y


def _columns(array: Any, start: int, rows: int, columns: int, ld: int, transposed: bool) -> Any:
    if transposed:
        return _columns(array, start, columns, rows, ld, False).T
    assert ld >= max(1, rows)
    flat = np.lib.stride_tricks.as_strided(array, (start + ld * max(columns - 1, 0) + rows,), (array.itemsize,))
    return np.lib.stride_tricks.as_strided(flat[start:], (rows, columns), (array.itemsize, ld * array.itemsize))
