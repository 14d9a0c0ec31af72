"""Dropout, as a layer."""

from __future__ import annotations

from typing import Any

from tapegrad._engine.coercion import as_tensor
from tapegrad._engine.settings import training_mode
from tapegrad._engine.tensor import Tensor
from tapegrad.nn.layer import layer
from tapegrad.ops.dropout import Generator, dropout


@layer
class Dropout:
    """Zeros in place of a share of elements, at random, while training (Srivastava et al., 2014).

    The others are divided by 1 - rate. Outside of `training` it gives its input.

    Parameters
    ----------
    rate : float
        The share that is dropped, from 0 to 1.

    Attributes
    ----------
    rate : float
        The share that is dropped.

    Raises
    ------
    ValueError
        The rate is not from 0 to 1.
    RuntimeError
        At a call inside `training` without a generator.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.nn.Dropout(0.1)
    Dropout(rate=0.1)
    """

    rate: float

    def __init__(self, rate: float) -> None:
        self.rate = checked_rate("Dropout", rate)

    def __call__(self, x: Any) -> Tensor:
        given = as_tensor(x)
        rng = generator_of("Dropout", self.rate)
        return given if rng is None else dropout(given, self.rate, rng)


def checked_rate(layer: str, rate: Any) -> float:
    """Return a rate of dropout as a float; raise ValueError unless it is from 0 to 1."""
    found = float(rate)
    if not 0.0 <= found <= 1.0:
        raise ValueError(f"{layer}: the rate is the share that is dropped, from 0 to 1, not {rate}")
    return found


def generator_of(layer: str, rate: float) -> Generator | None:
    """Return the generator that a layer draws from; None where it drops nothing."""
    mode = training_mode.get()
    if mode is None or rate == 0.0:
        return None
    if mode.rng is None:
        raise RuntimeError(
            f"{layer}: inside training() there is no generator to draw from: write "
            "with tapegrad.nn.training(rng), with rng = tapegrad.random.Generator(0)"
        )
    rng: Generator = mode.rng
    return rng
