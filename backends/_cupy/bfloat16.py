"""bfloat16 on CuPy: its functions as far as they have it, and the rest computed in float32 and rounded once.

CuPy takes the dtype of the package ml_dtypes, and most of its functions compute with it as they should. What they do
otherwise is mended here: Python's floats are weak, functions that lack the dtype run in float32, those that only move
elements take them as integers of 16 bits, and sums are added up in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any

import cupy
import numpy as np

from tapegrad.backends._array import Array
from tapegrad.backends._base import Namespace
from tapegrad.backends._cupy.codegen.cuda_types import BFLOAT16, result_type

Function = Callable[..., Any]

# Functions that CuPy has in bfloat16 with another dtype of the result, with roundings in between, or not at all.
_WIDE = """
argsort clip cumulative_prod cumulative_sum floor_divide remainder round searchsorted sort std unique_all
unique_counts unique_inverse unique_values var
"""
_JOINED = "concat stack"
_MOVED = "tril triu where"


def hint() -> str:
    """Return the advice in a message about a missing dtype."""
    return "" if BFLOAT16 is not None else ", or have bfloat16 by pip install ml_dtypes"


def install(xp: Namespace) -> None:
    """Have the functions of a namespace take bfloat16; those that are not named here do already."""
    if BFLOAT16 is None:
        return
    _have_weak_floats()
    xp.replace(bfloat16=BFLOAT16, result_type=result_type)
    xp.replace(isdtype=_isdtype(xp.isdtype), index_add=_adding(xp.index_add))
    for names, wrapper in ((_WIDE, wide), (_MOVED, moved), (_JOINED, joined)):
        xp.replace(**{name: wrapper(getattr(xp, name)) for name in names.split()})
    xp.replace(linalg=Wide(xp.linalg), fft=Wide(xp.fft))


def _have_weak_floats() -> None:
    """Have CuPy's functions and operators compute in bfloat16 where an operand is a Python float.

    As NumPy's do, and as CuPy's do beside any other dtype. CuPy looks for a function's loop in float32 and up, since
    NumPy does not count the dtype among the floating ones, and keeps the loop it found for the dtypes: this puts
    the right loop there.
    """
    double = np.dtype(np.float64)  # as which a Python float is looked up
    for function in vars(cupy).values():
        if not isinstance(function, cupy.ufunc) or function.nin != 2:
            continue
        with suppress(AttributeError):  # should a later CuPy keep its loops elsewhere
            for loop in function._ops.ops:
                if loop.in_types == (BFLOAT16, BFLOAT16):
                    function._routine_cache[(BFLOAT16, double), (False, float)] = loop
                    function._routine_cache[(double, BFLOAT16), (float, False)] = loop


class Wide(Namespace):
    """The functions of an extension, on bfloat16 in float32."""

    def __getattr__(self, name: str) -> Any:
        value = wide(getattr(self._base, name))
        self.__dict__[name] = value
        return value


def _is(x: Any) -> bool:
    return getattr(x, "dtype", None) is BFLOAT16


def wide(function: Function) -> Function:
    """Return a function that computes with bfloat16 in float32, and rounds its results to the operands' dtype."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        dtype = kwargs.get("dtype")
        if dtype is not BFLOAT16 and not any([_is(a) for a in args]):
            return function(*args, **kwargs)
        if dtype is BFLOAT16:
            kwargs["dtype"] = np.dtype(np.float32)
        out = function(*map(_widened, args), **kwargs)
        dtype = dtype or result_type(*[a for a in args if hasattr(a, "dtype")])
        return _narrowed(out) if dtype is BFLOAT16 else out

    return call


def _widened(x: Any) -> Any:
    """Return an operand in float32; a Python float is one that bfloat16 holds."""
    if _is(x):
        return x.astype(np.float32)
    return float(BFLOAT16.type(x)) if type(x) is float else x


def _narrowed(x: Any) -> Any:
    if isinstance(x, tuple):
        parts = map(_narrowed, x)
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return x.astype(BFLOAT16) if getattr(x, "dtype", None) == np.float32 else x


def moved(function: Function) -> Function:
    """Return a function that moves elements of bfloat16 as integers of 16 bits."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Array:
        if not any([_is(a) for a in args]):
            return function(*args, **kwargs)
        dtype = result_type(*[a for a in args if hasattr(a, "dtype") and a.dtype != bool])
        args = tuple([a.astype(dtype, copy=False) if hasattr(a, "dtype") and a.dtype != bool else a for a in args])
        return function(*map(_bits, args), **kwargs).view(BFLOAT16) if dtype is BFLOAT16 else function(*args, **kwargs)

    return call


def _bits(x: Any) -> Any:
    """Return an operand as the integers that its elements are in memory."""
    if _is(x):
        return x.view(np.uint16)
    return int(BFLOAT16.type(x).view(np.uint16)) if type(x) in (int, float) else x


def joined(function: Function) -> Function:
    """Return a function of a sequence of arrays that promotes bfloat16 beside other dtypes."""

    @wraps(function)
    def call(arrays: Any, /, **kwargs: Any) -> Array:
        if any([a.dtype is BFLOAT16 for a in arrays]):
            dtype = result_type(*arrays)
            arrays = [a.astype(dtype, copy=False) for a in arrays]
        return function(arrays, **kwargs)

    return call


def _adding(index_add: Function) -> Function:
    """Return a function that adds at repeated indices to bfloat16 in float32, so that each element is rounded once."""

    def call(array: Array, key: tuple[Any, ...], value: Array) -> Array:
        if array.dtype is not BFLOAT16 or not any([hasattr(i, "shape") for i in key]):
            return index_add(array, key, value)
        array[...] = index_add(array.astype(np.float32), key, value.astype(np.float32))
        return array

    return call


def _isdtype(isdtype: Function) -> Function:
    def call(dtype: Any, kind: Any) -> bool:
        if dtype is BFLOAT16:
            kinds = kind if isinstance(kind, tuple) else (kind,)
            return any([k is BFLOAT16 or k in ("real floating", "numeric") for k in kinds])
        return bool(isdtype(dtype, kind))

    return call
