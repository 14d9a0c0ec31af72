"""The CUDA expressions of elementwise operations, and the dtypes that they compute in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.backends._cupy.codegen.cuda_types import converted, ctype, literal, result_type

# "{0}", "{1}": operands, in the dtype that the operation computes in; "{s}": "f" for float, "" for double;
# "{T}": the C type.
_SAME = (
    "acos acosh asin asinh atan atanh ceil cos cosh exp expm1 floor log log10 log1p log2 sin sinh sqrt tan tanh trunc"
)
_FLOAT: dict[str, str] = {
    name: f"{name}{{s}}({{0}})" for name in _SAME.split()
} | {
    "abs": "fabs{s}({0})",
    "add": "({0} + {1})",
    "atan2": "atan2{s}({0}, {1})",
    "copysign": "copysign{s}({0}, {1})",
    "divide": "({0} / {1})",
    "floor_divide": "tg_fdiv<{T}>({0}, {1})",
    "hypot": "hypot{s}({0}, {1})",
    "logaddexp": "tg_logaddexp<{T}>({0}, {1})",
    "multiply": "({0} * {1})",
    "negative": "(-{0})",
    "nextafter": "nextafter{s}({0}, {1})",
    "pow": "pow{s}({0}, {1})",
    "reciprocal": "(({T})1 / {0})",
    "remainder": "tg_fmod<{T}>({0}, {1})",
    "round": "rint{s}({0})",
    "sigmoid": "(({T})1 / (({T})1 + exp{s}(-{0})))",
    "sigmoid_slope": "(({T})0.5 / (({T})1 + cosh{s}({0})))",
    "subtract": "({0} - {1})",
    "tanh_slope": "tg_square<{T}>(({T})1 / cosh{s}({0}))",
    "special.erf": "erf{s}({0})",
    "special.erfc": "erfc{s}({0})",
    "special.erfinv": "erfinv{s}({0})",
    "special.expit": "(({T})1 / (({T})1 + exp{s}(-{0})))",
    "special.gammaln": "lgamma{s}({0})",
}  # fmt: skip
# C widens small integers to int: the cast wraps the result, as NumPy does.
_INTEGER: dict[str, str] = {
    "add": "({T})({0} + {1})",
    "bitwise_and": "({T})({0} & {1})",
    "bitwise_invert": "({T})(~{0})",
    "bitwise_left_shift": "tg_shl<{T}>({0}, {1})",
    "bitwise_or": "({T})({0} | {1})",
    "bitwise_right_shift": "tg_shr<{T}>({0}, {1})",
    "bitwise_xor": "({T})({0} ^ {1})",
    "floor_divide": "tg_idiv<{T}>({0}, {1})",
    "multiply": "({T})({0} * {1})",
    "negative": "({T})(0 - {0})",
    "pow": "tg_ipow<{T}>({0}, {1})",
    "remainder": "tg_imod<{T}>({0}, {1})",
    "subtract": "({T})({0} - {1})",
    "ceil": "{0}",
    "floor": "{0}",
    "round": "{0}",
    "trunc": "{0}",
}
# Sums of booleans are "or", products "and".
_BOOL: dict[str, str] = {
    "add": "({0} || {1})",
    "bitwise_and": "({0} && {1})",
    "bitwise_invert": "(!{0})",
    "bitwise_or": "({0} || {1})",
    "bitwise_xor": "({0} != {1})",
    "multiply": "({0} && {1})",
    "ceil": "{0}",
    "floor": "{0}",
    "trunc": "{0}",
    "abs": "{0}",
}
# The same text for floats and integers.
_ANY: dict[str, str] = {
    "conj": "{0}",
    "maximum": "tg_max<{T}>({0}, {1})",
    "minimum": "tg_min<{T}>({0}, {1})",
    "positive": "{0}",
    "real": "{0}",
    "sign": "tg_sign<{T}>({0})",
    "square": "({T})({0} * {0})",
}
# Those whose result is a truth value: computed in the dtype that the operands have together.
_TRUTH: dict[str, str] = {
    "equal": "({0} == {1})",
    "greater": "({0} > {1})",
    "greater_equal": "({0} >= {1})",
    "isfinite": "(fabs({0}) < TG_INF_{k})",
    "isinf": "(fabs({0}) == TG_INF_{k})",
    "isnan": "({0} != {0})",
    "less": "({0} < {1})",
    "less_equal": "({0} <= {1})",
    "logical_and": "(({0} != ({T})0) && ({1} != ({T})0))",
    "logical_not": "({0} == ({T})0)",
    "logical_or": "(({0} != ({T})0) || ({1} != ({T})0))",
    "logical_xor": "(({0} != ({T})0) != ({1} != ({T})0))",
    "not_equal": "({0} != {1})",
    "signbit": "(copysign(({T})1, {0}) < ({T})0)",
}
_EXACT = {"isfinite": "true", "isinf": "false", "isnan": "false"}  # of integers and booleans
_POWERS: dict[float, str] = {
    2: "({0} * {0})",
    0.5: "sqrt{s}({0})",
    -1: "(({T})1 / {0})",
    1: "{0}",
}  # as libraries compute these

Number = bool | int | float
Operand = tuple[str, Any] | Number  # text and dtype of an array's element, or a number of Python's

# Functions of generated code beyond the elementwise ones of the standard.
EXTRA = frozenset(name for name in _FLOAT if name.startswith("special."))


def template(op: str, kind: str) -> str | None:
    """Return the expression of an operation for a kind of C type, None if there is none."""
    if op in _TRUTH:
        if kind not in "fd" and op in ("isfinite", "isinf", "isnan", "signbit"):
            return _EXACT.get(op, "({0} < ({T})0)" if kind == "i" else "false")
        return _TRUTH[op]
    if kind in "fd":
        return _FLOAT.get(op) or _ANY.get(op)
    if kind == "b":
        return _BOOL.get(op) or (_ANY[op] if op in ("maximum", "minimum", "positive", "real", "conj") else None)
    if op == "abs":
        return "{0}" if kind == "u" else "({T})({0} < ({T})0 ? 0 - {0} : {0})"
    return _INTEGER.get(op) or _ANY.get(op)


def computed_in(op: str, dtypes: list[Any], numbers: list[Any], out: Any) -> Any:
    """Return the dtype that an operation computes in; dtypes: of arrays, numbers: Python's operands."""
    if op in _TRUTH:
        return result_type(*dtypes, *numbers)
    return np.dtype(out)


def expression(op: str, operands: Sequence[Operand], out: Any) -> str | None:
    """Return the C expression of one elementwise operation, rounded to its result's dtype, None if there is none.

    operands: (text, dtype) for arrays, Python numbers as they are; out: dtype of the result.
    """
    # 1. Dtypes and operands that C has, among them at least one array.
    target = ctype(out)
    if target is None or any(isinstance(x, tuple) and ctype(x[1]) is None for x in operands):
        return None
    if op == "astype":
        x = operands[0]
        return converted(x[0], x[1], out) if isinstance(x, tuple) else None
    if any(type(x) not in (tuple, bool, int, float) for x in operands):
        return None
    arrays = [x for x in operands if isinstance(x, tuple)]
    numbers = [x for x in operands if not isinstance(x, tuple)]
    if not arrays:
        return None
    try:
        if op == "where":
            cond = operands[0]
            if not isinstance(cond, tuple):
                return None
            a, b = (_operand(x, out) for x in operands[1:])
            return f"({converted(cond[0], cond[1], np.bool)} ? {a} : {b})"
        # 2. The dtype to compute in; operands are converted to it first.
        dtype = computed_in(op, [d for _, d in arrays], numbers, out)
        kind = ctype(dtype)
        if kind is None:
            return None
        form = template(op, kind.kind)
        if op == "pow" and kind.kind in "fd" and not isinstance(operands[1], tuple):
            form = _POWERS.get(operands[1], form)
        if form is None or (op == "nextafter" and np.dtype(dtype).itemsize < 4):
            return None
        texts = [_operand(x, dtype) for x in operands]
    except (OverflowError, TypeError, ValueError):
        return None  # a number that the dtype cannot hold: the library raises the right error
    # 3. Half precision is rounded after each operation, as if it were a call of its own.
    text = form.format(*texts, s="f" if kind.kind == "f" else "", T=kind.value, k=kind.kind)
    return text if op in _TRUTH else target.rounded.format(text)


def _operand(x: Operand, dtype: Any) -> str:
    return converted(x[0], x[1], dtype) if isinstance(x, tuple) else literal(x, dtype)
