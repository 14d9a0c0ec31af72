"""Triangular systems of NumPy arrays, by SciPy's LAPACK where SciPy is installed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from tapegrad.backends._array import Array

_SMALL = 32  # rows of matrices of which several are solved in one call of NumPy, faster than one by one
_CALLS = {"f": "strtrs", "d": "dtrtrs", "F": "ctrtrs", "D": "ztrtrs"}


@cache
def _lapack() -> Any:
    try:
        from scipy.linalg import lapack
    except ImportError:
        return None
    return lapack


def solve_triangular(
    general: Callable[..., Array],
    a: Array,
    b: Array,
    /,
    *,
    upper: bool = False,
    trans: str = "N",
    unit_diagonal: bool = False,
) -> Array:
    """Return x of op(a) x = b, matrix by matrix; general: the function for matrices that are better done otherwise."""
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    call = _CALLS.get(a.dtype.char)
    lapack = _lapack()
    if lapack is None or call is None or not (a.size and b.size) or (lead and a.shape[-1] <= _SMALL):
        return general(a, b, upper=upper, trans=trans, unit_diagonal=unit_diagonal)
    out = np.empty((*lead, *b.shape[-2:]), a.dtype)
    several, right = np.broadcast_to(a, (*lead, *a.shape[-2:])), np.broadcast_to(b, out.shape)
    for i in np.ndindex(lead):
        out[i] = _solved(getattr(lapack, call), several[i], right[i], upper, trans == "C", unit_diagonal)
    return out


def _solved(trtrs: Any, a: Array, b: Array, upper: bool, adjoint: bool, unit: bool) -> Array:
    """Call LAPACK, which reads columns: of rows in C order it sees the transpose, which needs no copy."""
    if a.flags.f_contiguous:
        x, info = trtrs(a, b, lower=not upper, trans=2 * adjoint, unitdiag=unit)
    elif adjoint and a.dtype.kind == "c":  # conj(a^T) x = b
        x, info = trtrs(a.T, np.conj(b), lower=upper, trans=0, unitdiag=unit)
        x = np.conj(x)
    else:
        x, info = trtrs(a.T, b, lower=upper, trans=not adjoint, unitdiag=unit)
    if info:
        raise np.linalg.LinAlgError("Singular matrix")
    return x
