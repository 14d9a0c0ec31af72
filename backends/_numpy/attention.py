"""Attention on NumPy, block by block: the scores of all queries and keys are never held at once.

Rabe and Staats, arXiv:2112.05682; Dao et al., arXiv:2205.14135. Here a block is some rows of queries, with all keys
that they see, so that softmax needs one pass. The gradient computes a block of scores again. A block fits the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tapegrad.backends._numpy.executor import blas
from tapegrad.backends._numpy.executor.threads import run_ranges, thread_count

Array = np.ndarray[Any, Any]
BLOCK = 1 << 16  # scores of a block
LEAST_ROWS = 16  # queries of a block, however many keys there are
SHARED = 1 << 20  # scores from which on threads share the work


class Rule(NamedTuple):
    """The keys that a query sees by their places: up to its own if causal, and those nearer than window."""

    causal: bool
    window: int | None

    def keys(self, first: int, last: int, keys: int) -> tuple[int, int]:
        """Return the range of keys that any of the queries from first up to last sees."""
        start = 0 if self.window is None else max(0, first - self.window + 1)
        stop = keys
        if self.causal:
            stop = min(stop, last)
        elif self.window is not None:
            stop = min(stop, last + self.window - 1)
        return min(start, stop), stop

    def hide(self, scores: Array, row: int, column: int) -> None:
        """Set scores of keys that are not seen to -inf; row, column: the places of the first score."""
        rows, columns = scores.shape[-2:]
        if self.causal and column + columns - 1 > row:
            # Only the columns right of the first query's own may be hidden.
            skip = max(0, row + 1 - column)
            later = np.arange(column + skip, column + columns) > np.arange(row, row + rows)[:, None]
            np.copyto(scores[..., skip:], -np.inf, where=later)
        if self.window is not None:
            distance = np.arange(row, row + rows)[:, None] - np.arange(column, column + columns)
            np.copyto(scores, -np.inf, where=np.abs(distance) >= self.window)


class Problem:
    """Queries, keys and values with their leading axes made one, the mask as it is, and the blocks of the scores."""

    def __init__(
        self, q: Array, k: Array, v: Array, mask: Array | None, rule: Rule, scale: float, *more: Array
    ) -> None:
        self.lead = np.broadcast_shapes(*[a.shape[:-2] for a in (q, k, v, mask, *more) if a is not None])
        self.rule, self.scale = rule, scale
        self.queries, self.keys = q.shape[-2], k.shape[-2]
        self.count = prod(self.lead)
        self.dtype = np.dtype(np.float32) if q.dtype == np.float16 else q.dtype
        self.q = self.flat(q) * self.dtype.type(scale)
        self.k, self.v = self.flat(k), self.flat(v)
        self.mask = None if mask is None else np.broadcast_to(mask, (*self.lead, self.queries, self.keys))
        self.boolean = mask is not None and mask.dtype == np.bool
        # Some leading places with all queries, or some queries of one place.
        size = max(1, self.queries * self.keys)
        self.places = max(1, BLOCK // size)
        self.rows = max(1, self.queries) if self.places > 1 else max(LEAST_ROWS, BLOCK // max(1, self.keys))
        self.may_hide_all = mask is not None or rule.window is not None or self.keys == 0

    def flat(self, a: Array) -> Array:
        """Return an array of matrices with one leading axis, in the dtype to compute in."""
        a = a if a.dtype == self.dtype else a.astype(self.dtype)
        return np.broadcast_to(a, (*self.lead, *a.shape[-2:])).reshape(self.count, *a.shape[-2:])

    def blocks(self, places: range) -> Iterator[tuple[slice, slice, slice]]:
        """Go through the blocks of a range of places: slices of places, of queries and of the keys that they see."""
        for p in range(places.start, places.stop, self.places):
            here = slice(p, min(p + self.places, places.stop))
            for r in range(0, self.queries, self.rows):
                last = min(r + self.rows, self.queries)
                yield here, slice(r, last), slice(*self.rule.keys(r, last, self.keys))

    def buffer(self) -> Array:
        """Return memory for the scores of a block."""
        return np.empty(min(self.places, self.count) * min(self.rows, self.queries) * self.keys, self.dtype)

    def scores(self, buffer: Array, p: slice, r: slice, c: slice) -> Array:
        """Return a block of scores, -inf where a key is not seen."""
        shape = (p.stop - p.start, r.stop - r.start, c.stop - c.start)
        out = buffer[: prod(shape)].reshape(shape)
        np.matmul(self.q[p, r], self.k[p, c].swapaxes(-1, -2), out=out)
        if self.mask is not None:
            for place, part in zip(range(p.start, p.stop), out, strict=True):
                mask = self.mask[np.unravel_index(place, self.lead)][r, c]
                if self.boolean:
                    np.copyto(part, -np.inf, where=~mask)
                else:
                    part += mask
        self.rule.hide(out, r.start, c.start)
        return out

    def exponentials(self, s: Array) -> tuple[Array, Array]:
        """Replace a block of scores by exponentials of their distance to the row's maximum; return this, and their sum.

        In a row that sees no key, exponentials are 0, and their sum is called 1.
        """
        top = s.max(axis=-1, keepdims=True)
        if self.may_hide_all:
            top[top == -np.inf] = 0
        s -= top
        np.exp(s, out=s)
        total = s.sum(axis=-1, keepdims=True)
        if self.may_hide_all:
            total[total == 0] = 1
        return top, total

    def share(self, work: Any) -> None:
        """Call work(places) for all places, on threads if it is much."""
        threads = min(thread_count(None), self.count)
        if threads < 2 or self.count * self.queries * self.keys < SHARED or not blas.can_hold():
            work(range(self.count))
            return
        with blas.held():
            run_ranges(work, self.count, threads)


def attend(
    q: Array, k: Array, v: Array, mask: Array | None, causal: bool, window: int | None, scale: float
) -> tuple[Array, Array]:
    """Return attention, and the logarithm of each row's sum of exponentials, 0 for a row without keys."""
    problem = Problem(q, k, v, mask, Rule(causal, window), scale)
    out = np.zeros((problem.count, problem.queries, v.shape[-1]), problem.dtype)
    logs = np.zeros((problem.count, problem.queries, 1), problem.dtype)

    def work(places: range) -> None:
        buffer = problem.buffer()
        for p, r, c in problem.blocks(places):
            if c.start == c.stop:
                continue
            s = problem.scores(buffer, p, r, c)
            top, total = problem.exponentials(s)
            part = out[p, r]
            np.matmul(s, problem.v[p, c], out=part)
            part /= total
            logs[p, r] = top + np.log(total)

    problem.share(work)
    return (
        out.reshape(*problem.lead, *out.shape[1:]).astype(q.dtype, copy=False),
        logs.reshape(*problem.lead, problem.queries),
    )


def attend_gradient(
    t: Array,
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    out: Array,
    logs: Array | None,
    causal: bool,
    window: int | None,
    scale: float,
    wanted: tuple[bool, ...],
) -> tuple[Array, ...]:
    """Return the cotangents of those of queries, keys, values and mask that are wanted, given that of the result.

    logs: as `attend` returns them; None if they were not kept.
    """
    problem = Problem(q, k, v, mask, Rule(causal, window), scale, t)
    ts, outs = problem.flat(t), problem.flat(out)
    tops = None if logs is None else problem.flat(logs[..., None])
    made: list[Any] = [
        np.zeros(a.shape, problem.dtype) if want else None
        for a, want in zip((problem.q, problem.k, problem.v), wanted, strict=False)
    ]
    of_q, of_k, of_v = made
    of_mask = MaskGradient(problem, mask, t.ndim - out.ndim) if wanted[3] else None
    inner = (ts * outs).sum(axis=-1, keepdims=True)

    def work(places: range) -> None:
        first, second = problem.buffer(), problem.buffer()
        for p, r, c in problem.blocks(places):
            if c.start == c.stop:
                continue
            s = problem.scores(first, p, r, c)
            if tops is None:
                s /= problem.exponentials(s)[1]
            else:
                s -= tops[p, r]
                np.exp(s, out=s)
            t_rows = ts[p, r]
            if of_v is not None:
                _add_product(of_v[p, c], s.swapaxes(-1, -2), t_rows)
            if of_q is None and of_k is None and of_mask is None:
                continue
            d = second[: s.size].reshape(s.shape)
            np.matmul(t_rows, problem.v[p, c].swapaxes(-1, -2), out=d)
            d -= inner[p, r]
            d *= s
            if of_q is not None:
                np.matmul(d, problem.k[p, c], out=of_q[p, r])
            if of_k is not None:
                _add_product(of_k[p, c], d.swapaxes(-1, -2), problem.q[p, r])
            if of_mask is not None:
                of_mask.add(d, p, r, c)

    if of_mask is None:
        problem.share(work)
    else:
        work(range(problem.count))  # threads would add to the same places
    if of_q is not None:
        of_q *= scale
    found = [a.reshape(*problem.lead, *a.shape[1:]).astype(q.dtype, copy=False) for a in made if a is not None]
    return (*found, of_mask.total.astype(q.dtype, copy=False)) if of_mask is not None else tuple(found)


def _add_product(total: Array, a: Array, b: Array) -> None:
    total += np.matmul(a, b)


class MaskGradient:
    """The cotangent of an additive mask, summed block by block over the axes that it is broadcast along.

    batch_ndim: the number of leading axes that cotangents have in front of those of the result.
    """

    def __init__(self, problem: Problem, mask: Array | None, batch_ndim: int) -> None:
        assert mask is not None
        self.lead = problem.lead
        ones = len(self.lead) - batch_ndim - mask.ndim + 2
        self.sizes = (*self.lead[:batch_ndim], *(1,) * ones, *mask.shape)
        self.total = np.zeros(self.sizes, problem.dtype)

    def add(self, d: Array, p: slice, r: slice, c: slice) -> None:
        """Add a block of cotangents of scores."""
        for place, part in zip(range(p.start, p.stop), d, strict=True):
            axes = tuple([i for i in (0, 1) if self.sizes[i - 2] == 1])
            where = [
                int(i) if n > 1 else 0 for i, n in zip(np.unravel_index(place, self.lead), self.sizes, strict=False)
            ]
            rows, columns = (slice(0, 1) if i in axes else s for i, s in ((0, r), (1, c)))
            self.total[(*where, rows, columns)] += part.sum(axis=axes, keepdims=True) if axes else part
