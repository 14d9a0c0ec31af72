"""Softmax of rows on NumPy: some rows at a time, so that passes meet the cache.

The passes are those of a compiled program, in the same order, so that both give the same bits.
"""

from __future__ import annotations

import numpy as np

from tapegrad.backends._numpy.rows import Array, blocks, rows_of, share

FEWEST = 1 << 14  # elements of an array from which on blocks gain more than they cost


def softmax_rows(x: Array, axis: int) -> Array | None:
    """Return exp(x - max) / sum(exp(x - max)) along the last axis; None where another way is as good."""
    if not _is_worth_blocks(x, axis):
        return None
    rows = rows_of(x, 1)
    out = np.empty(rows.shape, x.dtype)

    def work(part: range) -> None:
        for a, e in blocks(rows.shape[1], part, rows, out):
            np.subtract(a, np.maximum.reduce(a, axis=1, keepdims=True), out=e)
            np.exp(e, out=e)
            e /= np.add.reduce(e, axis=1, keepdims=True)

    share(work, rows)
    return out.reshape(x.shape)


def softmax_rows_gradient(t: Array, out: Array, axis: int) -> Array | None:
    """Return out (t - sum(t out)) along the last axis; None where another way is as good."""
    if t.shape != out.shape or t.dtype != out.dtype or not _is_worth_blocks(out, axis):
        return None
    ts, outs = rows_of(t, 1), rows_of(out, 1)
    found = np.empty(ts.shape, out.dtype)

    def work(part: range) -> None:
        for a, p, z in blocks(ts.shape[1], part, ts, outs, found):
            np.multiply(a, p, out=z)
            np.subtract(a, np.add.reduce(z, axis=1, keepdims=True), out=z)
            z *= p

    share(work, ts)
    return found.reshape(out.shape)


def _is_worth_blocks(x: Array, axis: int) -> bool:
    # Half precision is added up in single precision by one call, and computed slowly in any case.
    return x.size >= FEWEST and axis in (-1, x.ndim - 1) and x.dtype.itemsize >= 4 and x.flags.c_contiguous
