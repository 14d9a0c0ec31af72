"""Convolution and transposed convolution over one to three axes.

Both are one of the three derivatives of a trilinear form, see `_trilinear`, so that their derivatives to any order are
the two others. Weights are laid out as in PyTorch.
"""

from __future__ import annotations

from typing import Any

from tapegrad._engine.coercion import as_tensors
from tapegrad._engine.tensor import Tensor
from tapegrad.ops import _trilinear
from tapegrad.ops._text import PROMOTED, documented
from tapegrad.ops._window_sizes import Padding, Sizes, padding_of, sizes_of, space_of, whole
from tapegrad.ops._windows import pad_last
from tapegrad.ops.binary import add
from tapegrad.ops.conversion import astype
from tapegrad.ops.dtypes import result_type
from tapegrad.ops.shaping import expand_dims, reshape, squeeze
from tapegrad.typing import ArrayLike

STRIDE = "The step from one window to the next: an integer, or one for each space axis."
DILATION = "The step from one tap of a window to the next: an integer, or one for each space axis."
GROUPS = "The number of groups that the channels are in; each output sees the channels of its own group alone."
SHAPES = "ValueError: The shapes, or the numbers of channels and groups, do not fit."


@documented(
    f"The sums, (batch, outputs, *places); without the batch axis if `x` has none. {PROMOTED}",
    SHAPES,
    "ValueError: The window is larger than the padded array, a stride, dilation or number of groups is below 1, or a "
    "padding is negative, or 'same' with a stride.",
    "TypeError: An operand is not floating, or a length is no integer.",
    x="Real or complex floating, of shape (batch, channels, *space) or (channels, *space), with one to three space "
    "axes.",
    w="The weights, (outputs, channels / groups, *size), with an axis of `size` for each space axis.",
    b="A number for each output, which is added: (outputs,).",
    stride=STRIDE,
    padding="The zeros before and behind each space axis: an integer, or one or a pair (before, behind) for each axis; "
    "'valid' for none, 'same' for as many places as there are elements, where of an odd number one more is behind.",
    dilation=DILATION,
    groups=GROUPS,
)
def conv(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    /,
    *,
    stride: int | tuple[int, ...] = 1,
    padding: int | str | tuple[Any, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution of channels with weights: sums of products over windows, as in PyTorch without reversal.

    out[n, o, i] = sum_{c, k} x[n, c, i stride + k dilation - padding] w[o, c, k] + b[o]. Half precision is summed in
    single precision. Derivatives: the transposed convolution of t with w; the sum over batch and places of t times the
    windows of x; the sum of t over all but the channels (Dumoulin and Visin, arXiv:1603.07285).

    >>> import tapegrad as tg
    >>> x, w = tg.asarray([[1.0, 2.0, 3.0, 4.0]]), tg.asarray([[[1.0, 1.0]]])
    >>> tg.conv(x, w), tg.conv(x, w, stride=2)
    (Tensor([[3., 5., 7.]]), Tensor([[3., 7.]]))
    """
    x, w, bias, alone = _operands("conv", x, w, b)
    d = w.ndim - 2
    size = w.shape[2:]
    strides, dilations = sizes_of("conv", "stride", stride, d), sizes_of("conv", "dilation", dilation, d)
    groups = whole("conv", "groups", groups)
    if x.shape[1] != w.shape[1] * groups or w.shape[0] % groups:
        raise ValueError(_channels("conv", x, w, groups, x.shape[1] - w.shape[1] * groups))
    pads = padding_of("conv", padding, size, strides, dilations)
    space_of("conv", x.shape, size, strides, pads, dilations)
    y = _trilinear.conv(x, w, strides, pads, dilations, groups)
    return _finished(y, bias, alone)


@documented(
    f"The sums, (batch, outputs, *places); without the batch axis if `x` has none. {PROMOTED}",
    SHAPES,
    "ValueError: A stride, dilation or number of groups is below 1, a padding is negative, or an output padding is not "
    "below the stride or the dilation, or nothing is left between the paddings.",
    "TypeError: An operand is not floating, or a length is no integer.",
    x="Real or complex floating, of shape (batch, channels, *space) or (channels, *space), with one to three space "
    "axes.",
    w="The weights, (channels, outputs / groups, *size), with an axis of `size` for each space axis.",
    b="A number for each output, which is added: (outputs,).",
    stride="The step from the window of one element to that of the next: an integer, or one for each space axis.",
    padding="How much to leave out before and behind each space axis of the result: an integer, or one or a pair "
    "(before, behind) for each axis.",
    output_padding="The number added to the length of each space axis of the result, at its end: the convolution of "
    "which this is the adjoint has the same shape for several lengths.",
    dilation=DILATION,
    groups=GROUPS,
)
def conv_transpose(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    /,
    *,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[Any, ...] = 0,
    output_padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Tensor:
    """Transposed convolution: each element of x times the weights, added up at its window; the adjoint of `conv`.

    out[n, o, i stride + k dilation - padding] = sum_{c} x[n, c, i] w[c, o, k], summed over i and k, + b[o].
    Derivatives: the convolution of t with w; the sum over batch and places of x times the windows of t; the sum of t
    over all but the channels.

    >>> import tapegrad as tg
    >>> x, w = tg.asarray([[1.0, 2.0]]), tg.asarray([[[1.0, 10.0]]])
    >>> tg.conv_transpose(x, w, stride=2)
    Tensor([[ 1., 10.,  2., 20.]])
    """
    x, w, bias, alone = _operands("conv_transpose", x, w, b, at=1)
    name, d, size = "conv_transpose", w.ndim - 2, w.shape[2:]
    strides, dilations = sizes_of(name, "stride", stride, d), sizes_of(name, "dilation", dilation, d)
    groups = whole(name, "groups", groups)
    if x.shape[1] != w.shape[0] or x.shape[1] % groups:
        raise ValueError(_channels(name, x, w, groups, x.shape[1] - w.shape[0]))
    if bias is not None and bias.shape != (w.shape[1] * groups,):
        raise ValueError(_bias(name, bias, w.shape[1] * groups, w))
    if isinstance(padding, str):
        raise ValueError(f"{name}: padding is an integer or one for each axis, not {padding!r}")
    pads = padding_of(name, padding, size, strides, dilations)
    more = sizes_of(name, "output_padding", output_padding, d, least=0)
    for extra, s, g in zip(more, strides, dilations, strict=True):
        if extra >= max(s, g):
            raise ValueError(
                f"{name}: output_padding {output_padding} is to be below the stride {stride} or the dilation {dilation}"
            )
    space = _space(x.shape, size, strides, pads, dilations, more)
    # More than a stride of output padding: of the convolution behind it, x has fewer places than there are. So the last
    # elements are left out, or zeros are put behind the reach of the windows.
    left = [extra // s * s for extra, s in zip(more, strides, strict=True)]
    zeros = tuple([max(n - hi, 0) for n, (_, hi) in zip(left, pads, strict=True)])
    pads = tuple([(lo, max(hi - n, 0)) for n, (lo, hi) in zip(left, pads, strict=True)])
    reached = tuple([n - m for n, m in zip(space, zeros, strict=True)])
    y = _trilinear.conv_transpose(x, w, reached, strides, pads, dilations, groups)
    if any(zeros):
        y = pad_last(y, tuple([(0, n) for n in zeros]), 0)
    return _finished(y, bias, alone)


def _space(shape: Sizes, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes, more: Sizes) -> Sizes:
    """Return the lengths of the space axes of a transposed convolution."""
    space = tuple(
        [
            (n - 1) * s + g * (k - 1) + 1 - lo - hi + extra
            for n, k, s, (lo, hi), g, extra in zip(shape[2:], size, stride, padding, dilation, more, strict=True)
        ]
    )
    if min(space) < 1:
        raise ValueError(
            f"conv_transpose: of a shape {shape} with windows of {size}, padding {padding} leaves axes of lengths "
            f"{space}: pass a smaller padding"
        )
    return space


def _operands(name: str, x: Any, w: Any, b: Any, at: int = 0) -> tuple[Tensor, Tensor, Tensor | None, bool]:
    """Return the operands in one dtype, `x` with a batch axis, and whether that was put in."""
    xs = as_tensors(name, *((x, w) if b is None else (x, w, b)))
    for x in xs:
        if "floating" not in x.dtype.kind:
            raise TypeError(
                f"{name}: an operand of {x.dtype.name} and shape {x.shape} is not floating: convert it, as in "
                "tapegrad.astype(x, tapegrad.float32)"
            )
    dtype = result_type(*xs)
    x, w, *rest = [astype(x, dtype, copy=False) for x in xs]
    if not 3 <= w.ndim <= 5:
        raise ValueError(
            f"{name}: weights of shape {w.shape} have {w.ndim} axes: they are two of channels and one to three of space"
        )
    alone = x.ndim == w.ndim - 1
    if not alone and x.ndim != w.ndim:
        raise ValueError(
            f"{name}: x of shape {x.shape} and weights of shape {w.shape}: with {w.ndim - 2} space axes x has "
            f"{w.ndim} axes, or {w.ndim - 1} without a batch"
        )
    if 0 in w.shape[2:]:
        raise ValueError(f"{name}: weights of shape {w.shape} have a window without taps")
    if at == 0 and rest and rest[0].shape != (w.shape[0],):
        raise ValueError(_bias(name, rest[0], w.shape[0], w))
    return expand_dims(x, 0) if alone else x, w, rest[0] if rest else None, alone


def _bias(name: str, b: Tensor, outputs: int, w: Tensor) -> str:
    return f"{name}: b of shape {b.shape} beside weights of shape {w.shape}: its shape is ({outputs},), by outputs"


def _channels(name: str, x: Tensor, w: Tensor, groups: int, differ: int) -> str:
    """Return the message for numbers of channels that do not fit, with the number that would."""
    if name == "conv":
        wanted = f"{w.shape[1] * groups} channels, {w.shape[1]} for each of {groups} groups"
        split, n = "outputs", w.shape[0]
    else:
        wanted = f"{w.shape[0]} channels"
        split, n = "channels", w.shape[0]
    if differ:
        return f"{name}: x of shape {x.shape} has {x.shape[1]} channels; weights of shape {w.shape} take {wanted}"
    return f"{name}: the {n} {split} of weights of shape {w.shape} do not divide into {groups} groups (x: {x.shape})"


def _finished(y: Tensor, b: Tensor | None, alone: bool) -> Tensor:
    if b is not None:
        y = add(y, reshape(b, (-1, *(1,) * (y.ndim - 2))))
    return squeeze(y, 0) if alone else y
