"""Normalisation, as layers."""

from __future__ import annotations

from math import prod
from typing import Any

from tapegrad._engine.dispatch import backend_of
from tapegrad._engine.dtypes import DTYPES
from tapegrad._engine.mode import no_grad
from tapegrad._engine.settings import training_mode
from tapegrad._engine.tensor import Tensor
from tapegrad.nn.init import parameter
from tapegrad.nn.layer import layer, static
from tapegrad.nn.linear import checked_size
from tapegrad.nn.modes import check_axis
from tapegrad.ops.conversion import astype
from tapegrad.ops.creation import ones, zeros
from tapegrad.ops.normalisation import batch_norm, batch_norm_training, group_norm, layer_norm, rms_norm
from tapegrad.typing import DTypeLike


def _lengths(what: str, shape: Any) -> tuple[int, ...]:
    sizes = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    if not sizes:
        raise ValueError(f"{what}: the shape is that of one last axis or more, not ()")
    return tuple([checked_size(what, "a length of the shape", n) for n in sizes])


def _check_last(what: str, x: Any, lengths: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes of a layer, the last ones; raise unless they have its lengths."""
    shape = getattr(x, "shape", None)
    if shape is None:
        raise TypeError(f"{what}: the input is a Tensor or an array, not {type(x).__name__}")
    if tuple(shape[max(len(shape) - len(lengths), 0) :]) != lengths:
        raise ValueError(f"{what}: the input has shape {tuple(shape)}, but the last axes must be {lengths}")
    return tuple(range(-len(lengths), 0))


@layer
class LayerNorm:
    """Normalisation over the last axes: see `tapegrad.layer_norm`.

    Parameters
    ----------
    shape : int or tuple of int
        The lengths of the last axes, over which mean and variance are taken.
    eps : float, default 1e-5
        The number added to the variance.
    bias : bool, default True
        Whether to add a number for each element, which begins as zero.
    device : str or None, default None
        The device of parameters; the default one for None.
    dtype : DTypeLike or None, default None
        Their dtype; the default one for None.

    Attributes
    ----------
    weight : Tensor
        The factors, which begin as ones, of that shape.
    bias : Tensor or None
        The addend.

    Raises
    ------
    ValueError
        A length is not positive; at a call, the last axes of the input are others.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.nn.LayerNorm(2)(tg.asarray([1.0, 3.0]))
    Tensor([-0.999995,  0.999995], op=layer_norm)
    """

    weight: Tensor
    bias: Tensor | None
    eps: float = 1e-5

    def __init__(
        self,
        shape: int | tuple[int, ...],
        *,
        eps: float = 1e-5,
        bias: bool = True,
        device: str | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        lengths = _lengths("LayerNorm", shape)
        self.weight = parameter(ones(lengths, dtype=dtype, device=device))
        self.bias = parameter(zeros(lengths, dtype=dtype, device=device)) if bias else None
        self.eps = eps

    def __call__(self, x: Any) -> Tensor:
        axes = _check_last("LayerNorm", x, self.weight.shape)
        return layer_norm(x, self.weight, self.bias, axis=axes, eps=self.eps)


@layer
class RMSNorm:
    """Division by the root mean square over the last axes: see `tapegrad.rms_norm`.

    Parameters
    ----------
    shape : int or tuple of int
        The lengths of the last axes.
    eps : float or None, default None
        The number added to the mean square; the spacing of 1.0 in the dtype of the input for None.
    device : str or None, default None
        The device of parameters; the default one for None.
    dtype : DTypeLike or None, default None
        Their dtype; the default one for None.

    Attributes
    ----------
    weight : Tensor
        The factors, which begin as ones, of that shape.

    Raises
    ------
    ValueError
        A length is not positive; at a call, the last axes of the input are others.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.nn.RMSNorm(2, eps=0.0)(tg.asarray([3.0, 3.0]))
    Tensor([1., 1.], op=multiply)
    """

    weight: Tensor
    eps: float | None = None

    def __init__(
        self,
        shape: int | tuple[int, ...],
        *,
        eps: float | None = None,
        device: str | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        self.weight = parameter(ones(_lengths("RMSNorm", shape), dtype=dtype, device=device))
        self.eps = eps

    def __call__(self, x: Any) -> Tensor:
        axes = _check_last("RMSNorm", x, self.weight.shape)
        return rms_norm(x, self.weight, axis=axes, eps=self.eps)


@layer
class GroupNorm:
    """Normalisation over groups of channels, of each example: see `tapegrad.group_norm`.

    Parameters
    ----------
    groups : int
        The number of groups.
    n : int
        The number of channels, axis 1 of inputs.
    eps : float, default 1e-5
        The number added to the variance.
    device : str or None, default None
        The device of parameters; the default one for None.
    dtype : DTypeLike or None, default None
        Their dtype; the default one for None.

    Attributes
    ----------
    weight : Tensor
        The factors, which begin as ones, of shape (n,).
    bias : Tensor
        The addend, zeros at first, of shape (n,).

    Raises
    ------
    ValueError
        The groups do not divide the channels; at a call, the input has other channels.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.nn.GroupNorm(2, 4)
    GroupNorm(groups=2, weight=float64[4], bias=float64[4])
    """

    weight: Tensor
    bias: Tensor
    groups: int
    eps: float = 1e-5

    def __init__(
        self, groups: int, n: int, *, eps: float = 1e-5, device: str | None = None, dtype: DTypeLike | None = None
    ) -> None:
        self.groups, n = checked_size("GroupNorm", "groups", groups), checked_size("GroupNorm", "n", n)
        if n % self.groups:
            raise ValueError(f"GroupNorm: groups={groups} must divide n={n}")
        self.weight = parameter(ones(n, dtype=dtype, device=device))
        self.bias = parameter(zeros(n, dtype=dtype, device=device))
        self.eps = eps

    def __call__(self, x: Any) -> Tensor:
        check_axis("GroupNorm", x, 1, self.weight.shape[0])
        return group_norm(x, self.groups, self.weight, self.bias, eps=self.eps)


@layer
class BatchNorm:
    """Normalisation of each channel: by the batch inside `training`, by running statistics outside of it.

    Inside `training` the running statistics are updated in place: mean becomes (1 - momentum) mean + momentum (mean of
    the batch), and so does the variance, that of a sample. They are no parameters: no gradient arrives there, and
    `tapegrad.grad` keeps them as they are.

    Parameters
    ----------
    n : int
        The number of channels, axis 1 of inputs.
    momentum : float, default 0.1
        The share of the batch in the running statistics.
    eps : float, default 1e-5
        The number added to the variance.
    device : str or None, default None
        The device of parameters; the default one for None.
    dtype : DTypeLike or None, default None
        Their dtype; the default one for None.

    Attributes
    ----------
    weight : Tensor
        The factors, which begin as ones, of shape (n,).
    bias : Tensor
        The addend, zeros at first, of shape (n,).
    running_mean : Tensor
        The running mean, zeros at first, of shape (n,).
    running_var : Tensor
        The running variance, ones at first, of shape (n,).
    num_batches_tracked : Tensor
        The number of batches, an integer.

    Raises
    ------
    ValueError
        A number does not fit; at a call, the input has other channels, or one value a channel while training.
    RuntimeError
        At a call inside `vmap`, while training.

    Examples
    --------
    >>> import tapegrad as tg
    >>> norm, x = tg.nn.BatchNorm(1), tg.asarray([[1.0], [3.0]])
    >>> with tg.nn.training():
    ...     y = norm(x)
    >>> norm.running_mean, norm.running_var
    (Tensor([0.2]), Tensor([1.1]))
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor = static()
    running_var: Tensor = static()
    num_batches_tracked: Tensor = static()
    momentum: float = 0.1
    eps: float = 1e-5

    def __init__(
        self,
        n: int,
        *,
        momentum: float = 0.1,
        eps: float = 1e-5,
        device: str | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        n = checked_size("BatchNorm", "n", n)
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"BatchNorm: momentum is the share of the batch, from 0 to 1, not {momentum}")
        self.weight = parameter(ones(n, dtype=dtype, device=device))
        self.bias = parameter(zeros(n, dtype=dtype, device=device))
        self.running_mean = zeros(n, dtype=dtype, device=device)
        self.running_var = ones(n, dtype=dtype, device=device)
        self.num_batches_tracked = zeros((), dtype=DTYPES["int64"], device=device)
        self.momentum, self.eps = momentum, eps

    def __call__(self, x: Any) -> Tensor:
        check_axis("BatchNorm", x, 1, self.weight.shape[0])
        mode = training_mode.get()
        if mode is None:
            return batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        count = prod(x.shape) // max(x.shape[1], 1)
        if count < 2:
            raise ValueError(
                f"BatchNorm: an input of shape {tuple(x.shape)} has {count} values a channel, which have no variance: "
                "train with larger batches, or evaluate, outside of training()"
            )
        out, mean, var = batch_norm_training(x, self.weight, self.bias, eps=self.eps)
        if backend_of[type(mean._array)].depth > backend_of[type(self.running_mean._array)].depth:
            raise RuntimeError(
                "BatchNorm: inside vmap each example would have running statistics of its own: call it outside with "
                "the whole batch, evaluate, outside of training(), or use GroupNorm or LayerNorm"
            )
        if not mode.again:
            with no_grad():
                self._follow(self.running_mean, mean)
                self._follow(self.running_var, var * (count / (count - 1)))
                self.num_batches_tracked += 1
        return out

    def _follow(self, running: Tensor, value: Tensor) -> None:
        running *= 1.0 - self.momentum
        running += astype(self.momentum * value.detach(), running.dtype, copy=False)
