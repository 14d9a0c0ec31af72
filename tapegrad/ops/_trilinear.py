"""Convolution as a trilinear form of three arrays, and its two adjoints, which take batch axes.

For arrays x (batch, channels, *space), w (outputs, channels / groups, *size) and t (batch, outputs, *places) the form
is the sum of `t` times the convolution of `x` by `w`. Each function here is its derivative by one of the three, so that
the derivatives of each are the two others. Operands may have extra axes in front. These become part of an axis that the
operands with them share, by the array that lacks them:

    lacking    the extra axes become part of
    w          the batch
    x          the output channels of each group
    t          the input channels of each group
    none       the groups
"""

from __future__ import annotations

from math import prod
from typing import Any

from tapegrad._engine.bound import bound
from tapegrad._engine.primitive import primitive
from tapegrad._engine.tensor import Tensor

Sizes = tuple[int, ...]
Padding = tuple[tuple[int, int], ...]

# The labels of the first two axes of each array: batch, groups, channels of a group, outputs of a group.
_LABELS = {"x": ("b", "gc"), "w": ("go", "c"), "t": ("b", "go")}
_OF = {"x": "convolution_input", "w": "convolution_weight", "t": "convolution"}
_SHARED = {"x": "o", "w": "b", "t": "c", "": "g"}


def derivative(xp: Any, by: str, a: Any, b: Any, *static: Any) -> Any:
    """Return the derivative of the form by one array, for the two others, in the order x, w, t; t comes first by x.

    static: the lengths of the operand to derive by, except for t, and then stride, padding, dilation and groups.
    """
    function = getattr(xp, _OF[by])
    roles = ("t", "w") if by == "x" else ("x", "t") if by == "w" else ("x", "w")
    *lengths, stride, padding, dilation, groups = static
    ndim = len(stride) + 2
    arrays = dict(zip(roles, (a, b), strict=True))
    with_extra = [role for role in roles if arrays[role].ndim > ndim]
    if not with_extra:
        return function(a, b, *static)
    # 1. The extra axes as one, and the label that it becomes part of.
    extra = tuple(arrays[with_extra[0]].shape[: arrays[with_extra[0]].ndim - ndim])
    n = prod(extra)
    lacking = next((role for role in roles if role not in with_extra), "")
    label = _SHARED[lacking]
    sizes: dict[str, int] = {"g": groups}
    for role in roles:
        for labels, length in zip(_LABELS[role], arrays[role].shape[-ndim : -ndim + 2], strict=True):
            rest = labels.replace("g", "") or "g"
            sizes[rest] = length // groups if len(labels) > 1 else length
    # 2. The operands with it folded in; 3. the result with it taken out again.
    folded = [
        _fold(xp, arrays[role], role, label, sizes, n, ndim) if role in with_extra else arrays[role] for role in roles
    ]
    out = function(*folded, *lengths, stride, padding, dilation, groups * n if label == "g" else groups)
    return _unfold(xp, out, by, label, sizes, n, extra, ndim)


def _fold(xp: Any, x: Any, role: str, label: str, sizes: dict[str, int], n: int, ndim: int) -> Any:
    """Return an array with its extra axes as part of the axis of a label."""
    labels, space = "".join(_LABELS[role]), tuple(x.shape[x.ndim - ndim + 2 :])
    at = labels.index(label)
    x = xp.reshape(x, (n, *[sizes[i] for i in labels], *space))
    x = xp.permute_dims(x, (*range(1, at + 1), 0, *range(at + 1, x.ndim)))
    return xp.reshape(x, (*_merged(role, {**sizes, label: sizes[label] * n}), *space))


def _unfold(xp: Any, x: Any, role: str, label: str, sizes: dict[str, int], n: int, extra: Sizes, ndim: int) -> Any:
    """Return a result with the extra axes in front again."""
    labels, space = "".join(_LABELS[role]), tuple(x.shape[2:])
    at = labels.index(label)
    split = [sizes[i] for i in labels]
    x = xp.reshape(x, (*split[:at], n, *split[at:], *space))
    x = xp.permute_dims(x, (at, *range(at), *range(at + 1, x.ndim)))
    return xp.reshape(x, (*extra, *_merged(role, sizes), *space))


def _merged(role: str, sizes: dict[str, int]) -> Sizes:
    return tuple([prod([sizes[i] for i in labels]) for labels in _LABELS[role]])


def _lengths(shape: Sizes) -> Sizes:
    return tuple(shape[2:])


conv = primitive(
    "conv",
    lambda xp, x, w, stride, padding, dilation, groups: xp.convolution(x, w, stride, padding, dilation, groups),
    lambda xp, t, w, x_shape, stride, padding, dilation, groups: derivative(
        xp, "x", t, w, _lengths(x_shape), stride, padding, dilation, groups
    ),
    lambda xp, t, x, w_shape, stride, padding, dilation, groups: derivative(
        xp, "w", x, t, _lengths(w_shape), stride, padding, dilation, groups
    ),
)
conv_transpose = primitive(
    "conv_transpose",
    lambda xp, x, w, space, stride, padding, dilation, groups: xp.convolution_input(
        x, w, space, stride, padding, dilation, groups
    ),
    lambda xp, t, w, stride, padding, dilation, groups: derivative(xp, "t", t, w, stride, padding, dilation, groups),
    lambda xp, t, x, w_shape, stride, padding, dilation, groups: derivative(
        xp, "w", t, x, _lengths(w_shape), stride, padding, dilation, groups
    ),
)
_conv_weight = primitive(
    "conv_weight",
    lambda xp, x1, x2, size, stride, padding, dilation, groups: xp.convolution_weight(
        x1, x2, size, stride, padding, dilation, groups
    ),
    lambda xp, t, x2, x1_shape, stride, padding, dilation, groups: derivative(
        xp, "x", x2, t, _lengths(x1_shape), stride, padding, dilation, groups
    ),
    lambda xp, t, x1, stride, padding, dilation, groups: derivative(xp, "t", x1, t, stride, padding, dilation, groups),
)


def _on_tensors(by: str, operation: Any) -> Any:
    """Return one of the functions as rules on Tensors call it: with batch axes, by an operation without."""

    def call(a: Tensor, b: Tensor, *static: Any) -> Any:
        ndim = len(static[-4]) + 2
        if a.ndim == ndim == b.ndim:
            return operation(a, b, *static)
        return derivative(bound.tensor_namespace, by, a, b, *static)

    return call


convolution = _on_tensors("t", conv)
convolution_input = _on_tensors("x", conv_transpose)
convolution_weight = _on_tensors("w", _conv_weight)
