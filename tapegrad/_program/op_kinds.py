"""Kinds of operations, as planners and executors distinguish them."""

from __future__ import annotations

from typing import Any

_NAMES = """
abs acos acosh add asin asinh astype atan atan2 atanh bitwise_and bitwise_invert bitwise_left_shift
bitwise_or bitwise_right_shift bitwise_xor ceil conj copysign cos cosh divide equal exp expm1 floor
floor_divide greater greater_equal hypot imag isfinite isinf isnan less less_equal log log10 log1p
log2 logaddexp logical_and logical_not logical_or logical_xor maximum minimum multiply negative
nextafter not_equal positive pow real reciprocal remainder round sigmoid sigmoid_slope sign signbit
sin sinh sqrt square subtract tan tanh tanh_slope trunc where
"""
ELEMENTWISE = frozenset(_NAMES.split())
REDUCTIONS = frozenset(("all", "any", "max", "mean", "min", "prod", "sum"))
# Results that a library may give as views of their first argument.
VIEWS = frozenset(
    ("T", "broadcast_to", "expand_dims", "flip", "matrix_transpose", "moveaxis", "permute_dims", "reshape", "squeeze")
)


def is_plain_key(key: object) -> bool:
    """Say whether an index holds only ints, slices, None and dots: reading by it gives a view."""
    return isinstance(key, tuple) and all(i is None or i is Ellipsis or isinstance(i, (int, slice)) for i in key)


def kind_of(op: str, args: tuple[object, ...]) -> str:
    """Return "elementwise", "reduction", "view", "matmul" or, for any other operation, ""."""
    if op in ELEMENTWISE:
        return "elementwise"
    if op in VIEWS or (op == "index_get" and is_plain_key(args[1])):
        return "view"
    return "matmul" if op == "matmul" else "reduction" if op in REDUCTIONS else ""


def picks(node: Any) -> bool:
    """Say whether a node takes one element of each row of an array, such as the logit of a label."""
    if node.op != "take_along_axis" or node.many:
        return False
    x, index = node.args
    last = node.kwargs.get("axis", -1) in (-1, len(x.shape) - 1)
    return last and len(x.shape) > 1 and tuple(index.shape) == (*x.shape[:-1], 1)
