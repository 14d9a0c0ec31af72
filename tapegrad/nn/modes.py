"""Modes of layers: training beside evaluation, and the precision of products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tapegrad._engine.dtypes import as_dtype, isdtype
from tapegrad._engine.settings import Training, precision_mode, training_mode
from tapegrad.ops.conversion import astype
from tapegrad.random import Generator
from tapegrad.typing import DTypeLike


@contextmanager
def training(rng: Generator | None = None) -> Iterator[None]:
    """Have layers train inside a `with` block: dropout drops, and batch norm takes the statistics of the batch.

    Outside of it, layers evaluate: nothing is random, and no layer changes. The block holds for its thread and context.
    A compiled step has a program for either; it may have the block inside, or run in one.

    Parameters
    ----------
    rng : Generator or None, default None
        The generator of dropout; None if no layer draws.

    Returns
    -------
    context manager
        A `with` block, or a decorator.

    Raises
    ------
    TypeError
        `rng` is no generator.

    Examples
    --------
    >>> import tapegrad as tg
    >>> drop, rng = tg.nn.Dropout(0.5), tg.random.Generator(0)
    >>> drop(tg.ones(4))
    Tensor([1., 1., 1., 1.])
    >>> with tg.nn.training(rng):
    ...     y = drop(tg.ones(1000))
    >>> set(y.tolist()) == {0.0, 2.0}
    True
    """
    if rng is not None and not isinstance(rng, Generator):
        raise TypeError(
            f"training: pass a generator, as in training(tapegrad.random.Generator(0)), not {type(rng).__name__}"
        )
    token = training_mode.set(Training(rng))
    try:
        yield
    finally:
        training_mode.reset(token)


@contextmanager
def evaluation() -> Iterator[None]:
    """Have layers evaluate inside a `with` block, where a block of `training` is around it.

    Returns
    -------
    context manager
        A `with` block, or a decorator.

    Examples
    --------
    >>> import tapegrad as tg
    >>> with tg.nn.training(tg.random.Generator(0)), tg.nn.evaluation():
    ...     tg.nn.Dropout(0.5)(tg.ones(2))
    Tensor([1., 1.])
    """
    token = training_mode.set(None)
    try:
        yield
    finally:
        training_mode.reset(token)


@contextmanager
def precision(dtype: DTypeLike | None) -> Iterator[None]:
    """Have layers compute their products in another dtype inside a `with` block, with parameters as they are.

    Linear layers, convolutions, attention and recurrent layers cast their input and their parameters, and give results
    of that dtype. Norms keep the dtype of their input, and sum in float32 at least; gradients of parameters have their
    dtype. With float16, use `tapegrad.optim.Scale`.

    Parameters
    ----------
    dtype : DTypeLike or None
        The dtype, bfloat16 for instance; None for that of the operands.

    Returns
    -------
    context manager
        A `with` block, or a decorator.

    Raises
    ------
    TypeError
        The dtype is not a real floating one.

    Examples
    --------
    >>> import tapegrad as tg
    >>> linear = tg.nn.Linear(3, 2, rng=tg.random.Generator(0))
    >>> with tg.nn.precision(tg.float16):
    ...     linear(tg.ones(3)).dtype
    tapegrad.float16
    """
    wanted = None if dtype is None else as_dtype(dtype)
    if wanted is not None and not isdtype(wanted, "real floating"):
        raise TypeError(f"precision: the dtype must be a real floating one, not {wanted.name}")
    token = precision_mode.set(wanted)
    try:
        yield
    finally:
        precision_mode.reset(token)


def in_precision(*xs: Any) -> Any:
    """Return operands of a product in the dtype of `precision`; None stays None."""
    dtype = precision_mode.get()
    if dtype is None:
        return xs
    return tuple([x if x is None else astype(x, dtype, copy=False) for x in xs])


def check_axis(what: str, x: Any, axis: int, length: int) -> None:
    """Raise unless an input is a Tensor or array whose axis has a length."""
    shape = getattr(x, "shape", None)
    if shape is None:
        raise TypeError(f"{what}: the input is a Tensor or an array, not {type(x).__name__}")
    if len(shape) < (-axis if axis < 0 else axis + 1) or shape[axis] != length:
        at = "the last axis" if axis == -1 else f"axis {axis}"
        raise ValueError(f"{what}: the input has shape {tuple(shape)}, but {at} must have length {length}")
