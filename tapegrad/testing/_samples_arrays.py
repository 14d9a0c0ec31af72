"""Samples of sums over labels, groups and prefixes: Einstein sums, segments, scans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import tapegrad as tg
from tapegrad.testing._sample import Sample, apart, complexes, normal, reseed


def _contractions() -> list[Sample]:
    def einsum(subscripts: str, *args: np.ndarray) -> Sample:
        return Sample(
            f"einsum {subscripts}",
            lambda *xs: tg.einsum(subscripts, *xs),
            lambda *xs: np.einsum(subscripts, *xs),
            args,
        )

    return [
        einsum("bij,jk,ik->bk", normal(2, 3, 4), normal(4, 5), normal(3, 5)),
        Sample("kron", tg.kron, np.kron, (normal(2, 3), normal(3, 1, 2))),
        einsum("...ii,ij->...j", complexes(2, 3, 3), complexes(3, 2)),
    ]


def _scans() -> list[Sample]:
    def by_loop(reduce: Callable[..., Any], x: Any, axis: int) -> Any:
        rows = np.moveaxis(x, axis, 0)
        out = [reduce(rows[: i + 1], axis=0) for i in range(len(rows))]
        return np.moveaxis(np.reshape(out, rows.shape), 0, axis)

    rows = [
        Sample(
            name,
            lambda x, n=name: getattr(tg, n)(x, axis=1),
            lambda x, r=reduce: by_loop(r, x, 1),
            (apart(2, 5, 3),),
        )
        for name, reduce in (
            ("cumulative_max", np.max),
            ("cumulative_min", np.min),
            ("cumulative_logsumexp", np.logaddexp.reduce),
        )
    ]

    def decayed(m: Any, pair: Any, other: Any) -> Any:
        (a, b), (c, d) = pair, other
        return a * c, b * c + d

    def one_by_one(a: Any, b: Any) -> Any:
        out = [b[0]]
        for factor, term in zip(a[1:], b[1:], strict=True):
            out.append(factor * out[-1] + term)
        return np.stack(out)

    return [
        *rows,
        Sample("top_k", lambda x: tg.top_k(x, 2, axis=0)[0], lambda x: -np.sort(-x, axis=0)[:2], (apart(4, 3),)),
        Sample(
            "associative_scan",
            lambda a, b: tg.associative_scan(lambda x, y: decayed(tg, x, y), (a, b))[1],
            one_by_one,
            (normal(5, 2), normal(5, 2)),
        ),
        Sample(
            "scan",
            lambda a, b: tg.scan(lambda c, x: (x[0] * c + x[1],) * 2, b[0] * 0, (a, b))[1],
            one_by_one,
            (normal(4, 2), normal(4, 2)),
        ),
    ]


def _segments() -> list[Sample]:
    ids = np.asarray([2, 0, 2, 3])

    def by_loop(reduce: Callable[..., Any], x: Any, ids: Any) -> Any:
        parts = [x[ids == i] for i in range(4)]
        return np.stack([reduce(p, axis=0) if len(p) else np.zeros(x.shape[1:]) for p in parts])

    def without_empty(m: Any, out: Any) -> Any:
        return m.where(m.isfinite(out), out, 0.0)

    return [
        Sample(
            name,
            lambda x, i, n=name: without_empty(tg, getattr(tg, n)(x, i, 4)),
            lambda x, i, r=reduce: by_loop(r, x, i),
            (apart(4, 3), ids),
        )
        for name, reduce in (
            ("segment_sum", np.sum),
            ("segment_mean", np.mean),
            ("segment_max", np.max),
            ("segment_min", np.min),
        )
    ]


def samples() -> list[Sample]:
    """Return the rows of this family."""
    reseed(41)
    return [*_contractions(), *_scans(), *_segments()]
