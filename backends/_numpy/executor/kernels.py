"""Kernels: the NumPy calls that compute a node into an existing array.

Most operations are one ufunc. Those that NumPy computes in several steps are written out here::

    exp(x)             exp(x, out)
    sigmoid(x)         negative(x, out); exp(out, out); add(out, 1, out); reciprocal(out, out)
    pow(x, 2)          square(x, out)
    where(m, x, 0)     multiply(bits of x, m, bits of out)
    mean(x, axis=0)    add.reduce(x, (0,), dtype, out); divide(out, count, out)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from tapegrad._program.ir import Node, Value
from tapegrad.backends._numpy.executor.references import Operand
from tapegrad.backends._numpy.executor.threads import Call
from tapegrad.backends._quiet import quietly

_NAMES = """
acos acosh add asin asinh atan atan2 atanh bitwise_and bitwise_invert bitwise_left_shift bitwise_or
bitwise_right_shift bitwise_xor ceil copysign cos cosh divide equal exp expm1 floor floor_divide
greater greater_equal hypot isfinite isinf isnan less less_equal log log10 log1p log2 logaddexp
logical_and logical_not logical_or logical_xor multiply negative nextafter not_equal positive
reciprocal remainder sign signbit sin sinh sqrt square subtract tan tanh trunc
"""
UFUNCS: dict[str, Any] = {name: getattr(np, name) for name in _NAMES.split()}
UFUNCS["abs"] = np.absolute
# These two take no positional `out`.
UFUNCS["maximum"] = lambda a, b, out: np.maximum(a, b, out=out)
UFUNCS["minimum"] = lambda a, b, out: np.minimum(a, b, out=out)
REDUCES: dict[str, Any] = {
    "sum": np.add.reduce,
    "mean": np.add.reduce,
    "prod": np.multiply.reduce,
    "max": np.maximum.reduce,
    "min": np.minimum.reduce,
    "any": np.logical_or.reduce,
    "all": np.logical_and.reduce,
}
_POWERS: dict[Any, Any] = {2: np.square, 0.5: np.sqrt, -1: np.reciprocal, 1: np.positive}  # the functions that ** calls
# Integers that hold the bits of a float, by its size: products of bits and masks select without a branch.
_BITS = {4: np.dtype(np.int32), 8: np.dtype(np.int64)}


def scalar(x: Any, others: list[Any], dtype: Any) -> Any:
    """Return a Python number as the array of no axes that NumPy would make of it beside other operands, if it can."""
    try:
        kind = np.result_type(*[o.dtype for o in others], x) if others else dtype
        return _constant(repr(x), x, kind)
    except (OverflowError, TypeError, ValueError):
        return x


@cache
def _constant(text: str, x: Any, dtype: Any) -> Any:
    """Return a number as an array, the same one each time; text: the number, which tells 0.0 from -0.0 and 0."""
    return np.asarray(x, dtype=dtype)


def elementwise(op: str, operands: list[Any], out: Any, dtypes: list[Any], dtype: Any) -> list[Call] | None:
    """Return the calls that compute an elementwise operation, None if NumPy has none with `out`.

    operands: arrays or references, and numbers; dtypes: theirs, None for a number; dtype: of the result. `out` may be
    any operand that is an array, except for "where": there it may be the first of those to select from.
    """
    if op == "pow":
        # A power that ** takes for another ufunc is that ufunc, so that values are equal to the bit.
        base, power = operands
        if any(d is not None and d.kind == "c" for d in dtypes):
            return None
        if dtypes[1] is None and dtypes[0].kind == "f" and type(power) in (int, float) and power in _POWERS:
            return [(_POWERS[power], (base, out))]
        ufunc = np.power
    elif op == "sigmoid":
        # 1 / (1 + exp(-x)) in one buffer.
        one = _constant("1", 1, dtype)
        exp: list[Call] = [(np.negative, (operands[0], out)), (quietly, (np.exp, out, out))]  # inf gives 0 below
        return [*exp, (np.add, (out, one, out)), (np.reciprocal, (out, out))]
    elif op in ("sigmoid_slope", "tanh_slope"):
        if dtype.kind != "f":
            return None
        cosh: Call = (quietly, (np.cosh, operands[0], out))
        if op == "tanh_slope":
            return [cosh, (np.reciprocal, (out, out)), (np.square, (out, out))]
        one, half = _constant("1", 1, dtype), _constant("0.5", 0.5, dtype)
        return [cosh, (np.add, (out, one, out)), (np.divide, (half, out, out))]
    elif op == "where":
        return _where(operands, out, dtypes, dtype)
    elif op == "astype":
        return [(_cast, (out, operands[0]))]
    elif op in UFUNCS:
        ufunc = UFUNCS[op]
    else:
        return None
    # Numbers become arrays here, once, and not at each call.
    if any([d is None for d in dtypes]):
        arrays = [np.empty((), d) for d in dtypes if d is not None]
        operands = [scalar(x, arrays, dtype) if d is None else x for x, d in zip(operands, dtypes, strict=True)]
    return [(ufunc, (*operands, out))]


def _cast(out: Any, x: Any) -> None:
    np.copyto(out, x, "unsafe")


def _where(operands: list[Any], out: Any, dtypes: list[Any], dtype: Any) -> list[Call] | None:
    """Return a selection by bits, None if dtypes differ: np.where takes ten times as long on a mask that jumps.

    Of integers, a times 1 or 0 is a or 0; b ^ ((a ^ b) times 1 or 0) is a or b.
    """
    mask, a, b = operands
    bits = _BITS.get(dtype.itemsize) if dtype.kind == "f" else None
    if bits is None or dtypes[0].kind != "b":
        return None
    if any(d is not None and d != dtype for d in dtypes[1:]):
        return None
    a, b = [_constant(repr(x), x, dtype) if d is None else x for x, d in zip((a, b), dtypes[1:], strict=True)]
    if dtypes[2] is None and b.view(bits) == 0:
        return [(_masked, (a, mask, out, bits))]
    if dtypes[1] is None:
        return [(_replaced, (a, mask, b, out, bits))]
    return [(_chosen, (a, mask, b, out, bits))]


def _masked(a: Any, mask: Any, out: Any, bits: Any) -> None:
    """Write `a` where a mask is true, else 0."""
    to: Any = out.view(bits)
    x: Any = a.view(bits)
    np.multiply(x, mask, to)


def _replaced(a: Any, mask: Any, b: Any, out: Any, bits: Any) -> None:
    """Write a number where a mask is true, else `b`."""
    # Most masks are true nowhere, as they guard against singular points: then this is a copy at most.
    if mask.any():
        _chosen(a, mask, b, out, bits)
    elif out is not b:
        np.copyto(out, b)


def _chosen(a: Any, mask: Any, b: Any, out: Any, bits: Any) -> None:
    """Write `a` where a mask is true, else `b`; `out` may be `a`."""
    to: Any = out.view(bits)
    other: Any = b.view(bits)
    np.bitwise_xor(a.view(bits), other, to)
    np.multiply(to, mask, to)
    np.bitwise_xor(to, other, to)


def reduction(
    op: str, x: Operand, axes: tuple[int, ...], keepdims: bool, out: Operand, count: int, dtype: Any
) -> list[Call]:
    """Return the calls that reduce axes of an array; count: how many elements go into one, for a mean."""
    reduce = REDUCES[op]
    kind = dtype if op in ("sum", "mean", "prod") else None
    calls: list[Call] = [(reduce, (x, axes, kind, out, keepdims))]
    if op == "mean":
        calls.append((np.divide, (out, np.asarray(count, dtype), out)))
    return calls


def of_node(node: Node, operands: list[Any], out: Operand) -> list[Call] | None:
    """Return the calls for an elementwise node of a program, None if NumPy has none with `out`."""
    if node.kwargs:
        return None  # such as the dtype that a result is asked for
    dtypes = [a.dtype if isinstance(a, Value) else None for a in node.args]
    n = 1 if node.op == "astype" else len(dtypes)
    return elementwise(node.op, operands[:n], out, dtypes[:n], node.out.dtype)


def overwritable(node: Node) -> tuple[Any, ...]:
    """Return the operands of an elementwise node whose array may be its `out`."""
    if node.out.dtype.kind == "c":
        return ()  # NumPy rounds a product of complex numbers otherwise if `out` is an operand
    if node.op != "where":
        return node.args
    _, a, b = node.args  # `b` is read again once `out` is written
    return () if a is b else (a,)


def can_take_over(v: Value, x: Value) -> bool:
    """Say whether a result can be written to the buffer of an operand."""
    return v.shape == x.shape and v.dtype.itemsize == x.dtype.itemsize


def store(out: Any, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Call a function that has no `out`, and copy its result there."""
    np.copyto(out, function(*args, **kwargs))


def store_all(outs: tuple[Any, ...], function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> None:
    """Do the same with a function of several results."""
    for out, result in zip(outs, function(*args, **kwargs), strict=True):
        np.copyto(out, result)
