"""Convolutions, as layers."""

from __future__ import annotations

from typing import Any

from tapegrad._engine.tensor import Tensor
from tapegrad.nn.init import Init, lecun, parameter, zeros
from tapegrad.nn.layer import layer
from tapegrad.nn.linear import checked_size
from tapegrad.nn.modes import check_axis, in_precision
from tapegrad.ops.convolution import conv, conv_transpose
from tapegrad.random import Generator
from tapegrad.typing import DTypeLike


def _kernel(what: str, size: Any) -> tuple[int, ...]:
    """Return the lengths of a kernel: an integer is for two axes."""
    sizes = (size, size) if not isinstance(size, tuple | list) else tuple(size)
    if not 1 <= len(sizes) <= 3:
        raise ValueError(f"{what}: size has a length for each of one to three axes, not {size!r}")
    return tuple([checked_size(what, "size", n) for n in sizes])


def _grouped(what: str, groups: Any, n_in: int, n_out: int) -> int:
    n = checked_size(what, "groups", groups)
    if n_in % n or n_out % n:
        raise ValueError(f"{what}: groups={n} must divide n_in={n_in} and n_out={n_out}")
    return n


@layer
class Conv:
    """Convolution of channels with a kernel over one to three axes: see `tapegrad.conv`.

    Parameters
    ----------
    n_in : int
        The number of channels of inputs, which have shape (batch, n_in, *space).
    n_out : int
        That of results.
    size : int or tuple of int
        The lengths of the kernel, one for each axis of space; an integer for two axes.
    stride : int or tuple of int, default 1
        The step of the kernel.
    padding : int, tuple or str, default 0
        Zeros around the input; 'same' for results of its size, 'valid' for none.
    dilation : int or tuple of int, default 1
        The distance of elements that the kernel meets.
    groups : int, default 1
        The number of groups of channels that are convolved apart.
    bias : bool, default True
        Whether to add a number for each channel, which begins as zero.
    rng : Generator
        The generator of the weight, which says the device too.
    init : callable, default lecun
        A function (rng, shape, dtype) that draws it.
    dtype : DTypeLike or None, default None
        The dtype of parameters; the default one for None.

    Attributes
    ----------
    weight : Tensor
        The kernel, of shape (n_out, n_in / groups, *size).
    bias : Tensor or None
        Of shape (n_out,).

    Raises
    ------
    ValueError
        Numbers do not fit; at a call, the input has other channels.

    Examples
    --------
    >>> import tapegrad as tg
    >>> model = tg.nn.Conv(3, 8, 5, stride=2, padding=2, rng=tg.random.Generator(0))
    >>> model
    Conv(stride=2, padding=2, weight=float64[8, 3, 5, 5], bias=float64[8])
    >>> model(tg.ones((1, 3, 28, 28))).shape
    (1, 8, 14, 14)
    """

    weight: Tensor
    bias: Tensor | None
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1

    def __init__(
        self,
        n_in: int,
        n_out: int,
        size: int | tuple[int, ...],
        *,
        stride: int | tuple[int, ...] = 1,
        padding: int | str | tuple[Any, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        rng: Generator,
        init: Init = lecun,
        dtype: DTypeLike | None = None,
    ) -> None:
        n_in, n_out = checked_size("Conv", "n_in", n_in), checked_size("Conv", "n_out", n_out)
        kernel, self.groups = _kernel("Conv", size), _grouped("Conv", groups, n_in, n_out)
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.weight = parameter(init(rng, (n_out, n_in // self.groups, *kernel), dtype))
        self.bias = parameter(zeros(rng, n_out, dtype)) if bias else None

    def __call__(self, x: Any) -> Tensor:
        check_axis("Conv", x, 1 - self.weight.ndim, self.weight.shape[1] * self.groups)
        options = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}
        return conv(*in_precision(x, self.weight, self.bias), **options)


@layer
class ConvTranspose:
    """Transposed convolution of channels, which spreads each element by a kernel: see `tapegrad.conv_transpose`.

    Parameters
    ----------
    n_in : int
        The number of channels of inputs, which have shape (batch, n_in, *space).
    n_out : int
        That of results.
    size : int or tuple of int
        The lengths of the kernel, one for each axis of space; an integer for two axes.
    stride : int or tuple of int, default 1
        The distance of the elements of the input in the result.
    padding : int or tuple, default 0
        How much of the ends of the result is cut off.
    output_padding : int or tuple of int, default 0
        How much is added to the far ends.
    dilation : int or tuple of int, default 1
        The distance of elements that the kernel meets.
    groups : int, default 1
        The number of groups of channels that are convolved apart.
    bias : bool, default True
        Whether to add a number for each channel, which begins as zero.
    rng : Generator
        The generator of the weight, which says the device too.
    init : callable, default lecun
        A function (rng, shape, dtype) that draws it.
    dtype : DTypeLike or None, default None
        The dtype of parameters; the default one for None.

    Attributes
    ----------
    weight : Tensor
        The kernel, of shape (n_in, n_out / groups, *size).
    bias : Tensor or None
        Of shape (n_out,).

    Raises
    ------
    ValueError
        Numbers do not fit; at a call, the input has other channels.

    Examples
    --------
    >>> import tapegrad as tg
    >>> model = tg.nn.ConvTranspose(8, 3, 4, stride=2, padding=1, rng=tg.random.Generator(0))
    >>> model(tg.ones((1, 8, 14, 14))).shape
    (1, 3, 28, 28)
    """

    weight: Tensor
    bias: Tensor | None
    stride: Any = 1
    padding: Any = 0
    output_padding: Any = 0
    dilation: Any = 1
    groups: int = 1

    def __init__(
        self,
        n_in: int,
        n_out: int,
        size: int | tuple[int, ...],
        *,
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[Any, ...] = 0,
        output_padding: int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        rng: Generator,
        init: Init = lecun,
        dtype: DTypeLike | None = None,
    ) -> None:
        what = "ConvTranspose"
        n_in, n_out = checked_size(what, "n_in", n_in), checked_size(what, "n_out", n_out)
        kernel, self.groups = _kernel(what, size), _grouped(what, groups, n_in, n_out)
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.output_padding = output_padding
        self.weight = parameter(init(rng, (n_in, n_out // self.groups, *kernel), dtype))
        self.bias = parameter(zeros(rng, n_out, dtype)) if bias else None

    def __call__(self, x: Any) -> Tensor:
        check_axis("ConvTranspose", x, 1 - self.weight.ndim, self.weight.shape[0])
        options = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}
        return conv_transpose(*in_precision(x, self.weight, self.bias), output_padding=self.output_padding, **options)
