"""How NumPy computes one node of a compiled program into an array that is there: as calls with `out`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from tapegrad._program.ir import Value
from tapegrad.backends._quiet import quietly

Call = tuple[Callable[..., Any], tuple[Any, ...]]

_NAMES = """
acos acosh add asin asinh atan atan2 atanh bitwise_and bitwise_invert bitwise_left_shift bitwise_or
bitwise_right_shift bitwise_xor ceil copysign cos cosh divide equal exp expm1 floor floor_divide
greater greater_equal hypot isfinite isinf isnan less less_equal log log10 log1p log2 logaddexp
logical_and logical_not logical_or logical_xor multiply negative nextafter not_equal positive
reciprocal remainder sign signbit sin sinh sqrt square subtract tan tanh trunc
"""
UFUNCS: dict[str, Any] = {name: getattr(np, name) for name in _NAMES.split()}
UFUNCS["abs"] = np.absolute
UFUNCS["maximum"] = lambda a, b, out: np.maximum(a, b, out=out)  # no positional `out` for these two
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
_POWERS: dict[Any, Any] = {2: np.square, 0.5: np.sqrt, -1: np.reciprocal, 1: np.positive}  # what ** takes
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
    """Return a number as an array, the same one each time; text: tells 0.0 from -0.0 and 0."""
    return np.asarray(x, dtype=dtype)


def elementwise(op: str, operands: list[Any], out: Any, dtypes: list[Any], dtype: Any) -> list[Call] | None:
    """Return the calls that compute an elementwise operation, None if NumPy has none with `out`.

    operands: whatever stands for arrays, and numbers; dtypes: theirs, None for a number; dtype: of the result. `out`
    may be the first operand that is an array, or, but for "where", any.
    """
    if op == "pow":
        base, power = operands
        if any(d is not None and d.kind == "c" for d in dtypes):
            return None
        if dtypes[1] is None and dtypes[0].kind == "f" and type(power) in (int, float) and power in _POWERS:
            return [(_POWERS[power], (base, out))]
        ufunc = np.power
    elif op == "sigmoid":
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
    if any([d is None for d in dtypes]):
        arrays = [np.empty((), d) for d in dtypes if d is not None]
        operands = [scalar(x, arrays, dtype) if d is None else x for x, d in zip(operands, dtypes, strict=True)]
    return [(ufunc, (*operands, out))]


def _cast(out: Any, x: Any) -> None:
    np.copyto(out, x, "unsafe")


def _where(operands: list[Any], out: Any, dtypes: list[Any], dtype: Any) -> list[Call] | None:
    """Return a selection by bits: np.where takes ten times as long on a mask that jumps."""
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
    to: Any = out.view(bits)
    x: Any = a.view(bits)
    np.multiply(x, mask, to)


def _replaced(a: Any, mask: Any, b: Any, out: Any, bits: Any) -> None:
    """Write `b`, and a number where the mask is true: nowhere, most often, as it guards against a singular point."""
    if mask.any():
        _chosen(a, mask, b, out, bits)
    elif out is not b:
        np.copyto(out, b)


def _chosen(a: Any, mask: Any, b: Any, out: Any, bits: Any) -> None:
    to: Any = out.view(bits)
    other: Any = b.view(bits)
    np.bitwise_xor(a.view(bits), other, to)
    np.multiply(to, mask, to)
    np.bitwise_xor(to, other, to)


def reduction(op: str, x: Any, axes: tuple[int, ...], keepdims: bool, out: Any, count: int, dtype: Any) -> list[Call]:
    """Return the calls that reduce axes of an array; count: how many elements go into one, for a mean."""
    reduce = REDUCES[op]
    kind = dtype if op in ("sum", "mean", "prod") else None
    calls: list[Call] = [(reduce, (x, axes, kind, out, keepdims))]
    if op == "mean":
        calls.append((np.divide, (out, np.asarray(count, dtype), out)))
    return calls


def of_node(node: Any, operands: list[Any], out: Any) -> list[Call] | None:
    """Return the calls for an elementwise node of a program, None if NumPy has none with `out`."""
    if node.kwargs:
        return None
    dtypes = [a.dtype if isinstance(a, Value) else None for a in node.args]
    n = 1 if node.op == "astype" else len(dtypes)
    return elementwise(node.op, operands[:n], out, dtypes[:n], node.outs[0].dtype)


def overwritable(node: Any) -> tuple[Any, ...]:
    """Return the operands of an elementwise node whose array may be its `out`; of "where", not what is read again.

    NumPy rounds the product of two complex numbers otherwise if it is one of them.
    """
    if node.outs[0].dtype.kind == "c":
        return ()
    if node.op != "where":
        return node.args  # type: ignore[no-any-return]
    _, a, b = node.args
    return () if a is b else (a,)


def store(out: Any, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Compute what has no `out`, and copy it there."""
    np.copyto(out, function(*args, **kwargs))


def store_all(outs: tuple[Any, ...], function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> None:
    """Do the same for several results."""
    for out, result in zip(outs, function(*args, **kwargs), strict=True):
        np.copyto(out, result)
