"""Averages of the weights over the steps of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tapegrad._engine.dtypes import DTYPES
from tapegrad._engine.mode import no_grad
from tapegrad._engine.tensor import Tensor
from tapegrad.nn._state import restored, write
from tapegrad.ops.conversion import astype
from tapegrad.optim._optimiser import _SMALL, _trained, counter, number


class Average:
    """A running average of the parameters of a model, to evaluate with.

    With decay d it becomes d average + (1 - d) parameter at each update, and starts as the first update finds the
    parameters. Without it, it is the mean of all updates (Izmailov et al., 2018).

    Parameters
    ----------
    model : object
        The holder of the parameters.
    decay : float or None, default 0.999
        The share that is kept; None for the mean.

    Attributes
    ----------
    count : Tensor
        The number of updates.

    Raises
    ------
    ValueError
        The model holds no parameters, or the decay is not from 0 to 1.

    Examples
    --------
    >>> import tapegrad as tg
    >>> w = tg.tensor([0.0], requires_grad=True)
    >>> average = tg.optim.Average([w], decay=None)
    >>> for _ in range(3):
    ...     with tg.no_grad():
    ...         w += 1.0
    ...     average.update()
    >>> with average.applied():
    ...     print(w)
    Tensor([2.], requires_grad=True)
    >>> w
    Tensor([3.], requires_grad=True)
    """

    _unguarded = ("_parameters", "_averages", "count")

    def __init__(self, model: Any, decay: float | None = 0.999) -> None:
        self.decay = None if decay is None else number("Average", "decay", decay, high=1.0)
        self._parameters = _trained("Average", model)
        self.count = counter(next(iter(self._parameters.values())))
        with no_grad():
            self._averages = {
                name: astype(x, DTYPES["float32"] if x.dtype.name in _SMALL else x.dtype)
                for name, x in self._parameters.items()
            }

    def update(self) -> None:
        """Bring the parameters of now into the average; call it after each step.

        Examples
        --------
        >>> import tapegrad as tg
        >>> average = tg.optim.Average([tg.ones(2)])
        >>> average.update()
        >>> average.count
        Tensor(1.)
        """
        with no_grad():
            share: Any = 1.0 / (self.count + 1.0)
            if self.decay is not None:
                first = astype(self.count == 0.0, self.count.dtype)
                share = first + (1.0 - first) * (1.0 - self.decay)
            for name, x in self._parameters.items():
                a = self._averages[name]
                a += (astype(x, a.dtype, copy=False) - a) * astype(share, a.dtype, copy=False)
            self.count += 1.0

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Have the parameters be the average inside a `with` block.

        Training steps inside are lost: the parameters are set back at the end.

        Returns
        -------
        context manager
            A `with` block.

        Examples
        --------
        >>> import tapegrad as tg
        >>> average = tg.optim.Average([tg.ones(2)])
        >>> with average.applied():
        ...     pass  # evaluate here
        """
        held = {name: x.detach() for name, x in self._parameters.items()}
        write([(x, astype(self._averages[name], x.dtype)) for name, x in self._parameters.items()])
        try:
            yield
        finally:
            write([(x, held[name]) for name, x in self._parameters.items()])

    def _own(self) -> dict[str, Tensor]:
        return {"count": self.count} | {f"average.{name}": a for name, a in self._averages.items()}

    def state(self) -> dict[str, Any]:
        """Return the state for `restore`.

        Returns
        -------
        dict
            Tensors by name.

        Examples
        --------
        >>> import tapegrad as tg
        >>> tg.optim.Average([tg.ones(2)]).state()
        {'count': Tensor(0.), 'average.0': Tensor([1., 1.])}
        """
        return {name: x.detach() for name, x in self._own().items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, in place.

        Parameters
        ----------
        state : mapping
            The result of `state`.

        Raises
        ------
        ValueError
            It does not fit. Nothing is changed.

        Examples
        --------
        >>> import tapegrad as tg
        >>> average = tg.optim.Average([tg.ones(2)])
        >>> average.restore(average.state())
        """
        write(restored("Average.restore", self._own(), state))
