"""The class of a sample of an operation, and generators of values for its arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Arrays = tuple[np.ndarray[Any, Any], ...]


@dataclass(frozen=True)
class Sample:
    """An operation with arguments to check it on.

    Parameters
    ----------
    name : str
        The operation's name, with a note behind a space.
    f : callable
        The call, on Tensors.
    reference : callable
        The same on NumPy arrays.
    args : tuple of numpy.ndarray
        Arguments: float64 or complex128 arrays, and integer or boolean ones that are not differentiated by.
    order : int
        How many derivatives exist.
    loose : bool
        Whether float32 is too coarse for finite differences here.
    written : callable or None
        The call for any namespace of the standard, which comes first.

    Examples
    --------
    >>> import numpy as np, tapegrad as tg
    >>> from tapegrad.testing import Sample
    >>> sample = Sample("sin of one", tg.sin, np.sin, (np.asarray([0.5]),))
    >>> sample.operation
    'sin'
    """

    name: str
    f: Callable[..., Any]
    reference: Callable[..., Any]
    args: Arrays
    order: int = 2
    loose: bool = False
    written: Callable[..., Any] | None = None

    @property
    def operation(self) -> str:
        """The operation's name alone."""
        return self.name.partition(" ")[0]


_rng = np.random.default_rng(20)


def reseed(seed: int) -> None:
    """Restart the generator for a family, so that its values do not depend on other families."""
    global _rng
    _rng = np.random.default_rng(seed)


def normal(*shape: int) -> np.ndarray[Any, Any]:
    """Return standard normal values."""
    return np.asarray(_rng.standard_normal(shape))


def between(low: float, high: float, *shape: int) -> np.ndarray[Any, Any]:
    """Return uniform values in a range."""
    return np.asarray(_rng.uniform(low, high, shape))


def complexes(*shape: int) -> np.ndarray[Any, Any]:
    """Return complex values with standard normal parts."""
    return np.asarray(_rng.standard_normal(shape) + 1j * _rng.standard_normal(shape))


def apart(*shape: int) -> np.ndarray[Any, Any]:
    """Return values at least 0.2 apart from each other and from zero, of both signs, shuffled."""
    n = int(np.prod(shape))
    values = (np.arange(n) - n / 2 + 0.25) * 0.4
    return np.asarray(_rng.permutation(values).reshape(shape))


def integers(high: int, *shape: int) -> np.ndarray[Any, Any]:
    """Return integers from 0 up to and without `high`."""
    return np.asarray(_rng.integers(0, high, shape))
