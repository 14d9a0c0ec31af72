"""bfloat16 on CuPy: its functions as far as they have it, and the rest computed in float32 and rounded once.

CuPy takes the dtype of the package ml_dtypes, and most of its functions compute with it as they should. What they do
otherwise is mended here: Python's floats are weak, functions that lack the dtype run in float32, those that only move
elements take them as integers of 16 bits, and sums are added up in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import cupy
import numpy as np

from tapegrad.backends._base import Array, Namespace
from tapegrad.backends._cupy_types import BFLOAT16, result_type

Function = Callable[..., Any]

# Functions that CuPy has in bfloat16 with another dtype of the result, with roundings in between, or not at all.
_WIDE = """
argsort clip cumulative_prod cumulative_sum mean prod round searchsorted sigmoid sort std sum unique_all unique_counts
unique_inverse unique_values var vecdot
"""
_JOINED = "concat stack"
_MOVED = "tril triu where"


def install(xp: Namespace) -> None:
    """Have the functions of a namespace take bfloat16; those that are not named here do already."""
    if BFLOAT16 is None:
        return
    _have_weak_floats()
    isdtype = xp.isdtype
    xp.replace(
        bfloat16=BFLOAT16,
        isdtype=lambda dtype, kind: isdtype(
            np.float32 if dtype is BFLOAT16 and type(kind) in (str, tuple) else dtype, kind
        ),
        result_type=result_type,
    )
    for names, wrapper in ((_WIDE, wide), (_MOVED, moved), (_JOINED, joined)):
        xp.replace(**{name: wrapper(getattr(xp, name)) for name in names.split()})
    xp.replace(linalg=Wide(xp.linalg), fft=Wide(xp.fft))


def _have_weak_floats() -> None:
    """Have CuPy's functions and operators compute in bfloat16 where an operand is a Python float.

    As NumPy's do, and as CuPy's do beside any other dtype. CuPy looks for a function's loop in float32 and up, since
    NumPy does not count the dtype among the floating ones, and keeps what it found for the dtypes of a call: this puts
    the right loop there.
    """
    double = np.dtype(np.float64)  # as which a Python float is looked up
    for function in vars(cupy).values():
        if isinstance(function, cupy.ufunc) and function.nin == 2:
            loop = next((loop for loop in function._ops.ops if loop.in_types == (BFLOAT16, BFLOAT16)), None)
            if loop is not None:
                function._routine_cache[(BFLOAT16, double), (False, float)] = loop
                function._routine_cache[(double, BFLOAT16), (float, False)] = loop


class Wide:
    """The functions of an extension, on bfloat16 in float32."""

    def __init__(self, base: Any) -> None:
        self._base = base

    def __getattr__(self, name: str) -> Any:
        value = wide(getattr(self._base, name))
        self.__dict__[name] = value
        return value


def _is(x: Any) -> bool:
    return getattr(x, "dtype", None) is BFLOAT16


def wide(function: Function) -> Function:
    """Return a function that computes with bfloat16 in float32, and gives it where no operand is of another float."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not any([_is(a) for a in args]) and kwargs.get("dtype") is not BFLOAT16:
            return function(*args, **kwargs)
        floats = [a.dtype for a in args if hasattr(a, "dtype") and (_is(a) or a.dtype.kind in "fc")]
        dtype = kwargs.get("dtype") or (BFLOAT16 if all([d is BFLOAT16 for d in floats]) else None)
        if "dtype" in kwargs and dtype is BFLOAT16:
            kwargs["dtype"] = np.dtype(np.float32)
        out = function(*[a.astype(np.float32) if _is(a) else a for a in args], **kwargs)
        return _narrowed(out) if dtype is BFLOAT16 else out

    return call


def moved(function: Function) -> Function:
    """Return a function that moves elements of bfloat16 as integers of 16 bits."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Array:
        arrays = [a for a in args if hasattr(a, "dtype") and a.dtype != bool]
        if not any([_is(a) for a in arrays]):
            return function(*args, **kwargs)
        if not all([_is(a) for a in arrays]):
            dtype = result_type(*arrays)
            return function(*[a.astype(dtype) if _is(a) else a for a in args], **kwargs)
        return function(*map(_bits, args), **kwargs).view(BFLOAT16)

    return call


def _bits(x: Any) -> Any:
    """Return an operand as the integers that its elements are in memory."""
    if _is(x):
        return x.view(np.uint16)
    return int(BFLOAT16.type(x).view(np.uint16)) if type(x) in (float, int) else x


def _narrowed(x: Any) -> Any:
    if isinstance(x, tuple):
        parts = map(_narrowed, x)
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return x.astype(BFLOAT16) if getattr(x, "dtype", None) == np.float32 else x


def joined(function: Function) -> Function:
    """Return a function of a sequence of arrays that promotes bfloat16 beside other dtypes."""

    @wraps(function)
    def call(arrays: Any, /, **kwargs: Any) -> Array:
        if any([a.dtype is BFLOAT16 for a in arrays]):
            dtype = result_type(*arrays)
            arrays = [a.astype(dtype, copy=False) for a in arrays]
        return function(arrays, **kwargs)

    return call


def add_at(array: Array, key: tuple[Any, ...], value: Array) -> None:
    """Add values at an index into an array of bfloat16, in float32: its elements are rounded once."""
    total = array.astype(np.float32)
    cupy.add.at(total, key, value.astype(np.float32))
    array[...] = total
