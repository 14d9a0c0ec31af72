"""Rows less their mean over their deviation, on NumPy: some rows at a time, so that passes meet the cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.backends._numpy.rows import BLOCK, Array, blocks, rows_of, share


def standardise(x: Array, ndim: int, eps: float, centred: bool) -> tuple[Array, ...]:
    """Return (x - mean) / sqrt(var + eps), mean and var over the last `ndim` axes.

    Without centring, nothing is subtracted and no mean returned. A mean is corrected by that of the differences from
    it.
    """
    rows = rows_of(x, ndim)
    n = rows.shape[1]
    out = np.empty(rows.shape, x.dtype)
    mean, var = (np.empty((len(rows), 1), x.dtype) for _ in range(2))

    def work(part: range) -> None:
        for a, z, m, v in blocks(n, part, rows, out, mean, var):
            if centred:
                np.divide(np.add.reduce(a, axis=1, keepdims=True), n, out=m)
                np.subtract(a, m, out=z)
                rest = np.add.reduce(z, axis=1, keepdims=True)
                rest /= n
                m += rest
                z -= rest
                a = z
            np.divide(np.einsum("ij,ij->i", a, a)[:, None], n, out=v)
            np.multiply(a, 1 / np.sqrt(v + x.dtype.type(eps)), out=z)

    share(work, rows)
    kept = (*x.shape[: x.ndim - ndim], *(1,) * ndim)
    numbers = (mean, var) if centred else (var,)
    return (out.reshape(x.shape), *[a.reshape(kept) for a in numbers])


def standardise_gradient(t: Array, out: Array, var: Array, ndim: int, eps: float, centred: bool) -> Array:
    """Return (t - mean(t) - out mean(t out)) / sqrt(var + eps); without mean(t) if x was not centred."""
    ts, outs = rows_of(t, ndim), rows_of(out, ndim)
    n = ts.shape[1]
    found = np.empty(ts.shape, out.dtype)
    scale = 1 / np.sqrt(var.reshape(-1, 1) + out.dtype.type(eps))

    def work(part: range) -> None:
        for a, z, s, r in blocks(n, part, ts, outs, found, scale):
            share = np.einsum("ij,ij->i", a, z)[:, None]
            share /= -n
            np.multiply(z, share, out=s)
            s += a
            if centred:
                s -= np.add.reduce(a, axis=1, keepdims=True) / n
            s *= r

    share(work, ts)
    return found.reshape(out.shape)


def layer_norm_rows(x: Array, w: Array, b: Array, ndim: int, eps: float) -> tuple[Array, Array]:
    """Return the standardised rows times w, plus b, and for each row its mean and 1 / sqrt(var + eps)."""
    rows = rows_of(x, ndim)
    n = rows.shape[1]
    out = np.empty(rows.shape, x.dtype)
    kept = np.empty((len(rows), 2), x.dtype)
    factor, term = _tiles(w, len(rows), n), _tiles(b, len(rows), n)
    one = x.dtype.type(1)
    small = np.finfo(x.dtype).eps

    def work(part: range) -> None:
        for a, z, numbers in blocks(n, part, rows, out, kept):
            mean, scale = numbers[:, :1], numbers[:, 1:]
            np.divide(np.add.reduce(a, axis=1, keepdims=True), n, out=mean)
            np.subtract(a, mean, out=z)
            rest = np.einsum("ij->i", z)[:, None] / x.dtype.type(n)
            _scale(z, n, eps, one, scale)
            if (np.abs(rest) * scale).max() > small:  # else the mean is as good as its digits
                mean += rest
                z -= rest
                _scale(z, n, eps, one, scale)
            z *= scale
            z *= factor[: len(z)]
            z += term[: len(z)]

    share(work, rows)
    return out.reshape(x.shape), kept


def _tiles(w: Array, rows: int, n: int) -> Array:
    """Return weights of a row for each row of a block: NumPy multiplies whole blocks faster than row by row."""
    return np.broadcast_to(w.reshape(n), (min(rows, max(1, BLOCK // n)), n)).copy()


def _scale(z: Array, n: int, eps: float, one: Any, out: Array) -> None:
    """Set 1 / sqrt(var + eps) of centred rows."""
    var = np.einsum("ij,ij->i", z, z)[:, None] / one.dtype.type(n)
    np.divide(one, np.sqrt(var + one.dtype.type(eps)), out=out)


def layer_norm_rows_gradient(
    t: Array, x: Array, w: Array, kept: Array, ndim: int, wanted: tuple[bool, ...]
) -> tuple[Array, ...]:
    """Return the cotangents of those of x, w and b that are wanted, by the statistics of `layer_norm_rows`."""
    ts, rows = rows_of(t, ndim), rows_of(x, ndim)
    n = rows.shape[1]
    found = np.empty(rows.shape, x.dtype)
    factor = _tiles(w, len(rows), n)
    parts: list[tuple[Array, Array]] = []  # sums over the rows of each thread

    def work(part: range) -> None:
        of_w, of_b = (np.zeros(n, x.dtype) for _ in range(2))
        parts.append((of_w, of_b))
        buffer = np.empty((max(1, BLOCK // n), n), x.dtype)
        for a, r, s, numbers in blocks(n, part, ts, rows, found, kept):
            mean, scale = numbers[:, :1], numbers[:, 1:]
            z = np.subtract(r, mean, out=buffer[: len(r)])
            z *= scale
            if wanted[1]:
                of_w += np.einsum("ij,ij->j", a, z)
            if wanted[2]:
                of_b += np.add.reduce(a, axis=0)
            if wanted[0]:
                np.multiply(a, factor[: len(a)], out=s)
                share = np.einsum("ij,ij->i", s, z)[:, None]
                share /= n
                s -= np.einsum("ij->i", s)[:, None] / x.dtype.type(n)
                z *= share
                s -= z
                s *= scale

    share(work, rows)
    sums = [sum(column[1:], column[0]).reshape(w.shape) for column in zip(*parts, strict=True)]
    return tuple([a for a, want in zip((found.reshape(x.shape), *sums), wanted, strict=True) if want])
