"""Samples of sums over labels, groups and prefixes: Einstein sums, segments, scans."""

from __future__ import annotations

import numpy as np

import tapegrad as tg
from tapegrad.testing._sample import Sample, complexes, normal, reseed


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


def samples() -> list[Sample]:
    """Return the rows of this family."""
    reseed(41)
    return _contractions()
