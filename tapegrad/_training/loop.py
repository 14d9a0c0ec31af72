"""The loop over epochs and batches: an iterator that counts, logs, saves and ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from importlib.util import find_spec
from types import FrameType
from typing import Any

from tapegrad import loggers
from tapegrad._engine.mode import no_grad
from tapegrad._engine.tensor import Tensor
from tapegrad._training.run import Best, Run
from tapegrad.ops._axes import integer
from tapegrad.ops.reductions import mean
from tapegrad.ops.shaping import reshape, stack


class Loop:
    """An iterator over the batches of all epochs, with a bar, logs and saves; the body of the `for` is yours.

    Ctrl-C, or SIGTERM, ends the loop after the step that is under way, and the run is saved. A second one ends the
    program at once. A `break` ends it without a save.

    Parameters
    ----------
    batches : Batches, or an iterable that begins anew for each epoch
        The batches to hand out.
    epochs : int, default 1
        The number of epochs in all: a resumed loop does the rest.
    run : Run or None, default None
        Saved at the end of each epoch, when the loop ends, and at each `save_every` steps. Its state must hold the
        batches. Call `run.resume()` before the loop to go on with it.
    every : int, default 100
        Steps between two logs of the numbers given to `log`: numbers are averaged over these steps, so that a GPU is
        waited for only then.
    save_every : int or None, default None
        Steps between saves; None for none but at the ends of epochs.
    log : logger, sequence of loggers, or None, default None
        Where numbers go, see `tg.loggers`. None for a bar, or lines where tqdm is not installed; () for nothing.
    patience : int or None, default None
        Calls of `best` without a better value after which the loop ends.

    Attributes
    ----------
    step : int
        Steps done.
    epoch : int
        The epoch under way, from 1.
    history : dict of str to list of (int, float)
        All that was logged: pairs of step and value by name. With a run it is the run's, which saves it.
    interrupted : int
        The number of the signal that ended the loop, else 0.

    Raises
    ------
    TypeError
        The batches are not in the run, or cannot begin anew.
    ValueError
        A number is less than 1.

    Examples
    --------
    >>> import tapegrad as tg
    >>> w = tg.tensor(0.0, requires_grad=True)
    >>> batches = tg.data.Batches([1.0, 2.0, 3.0], size=1)
    >>> loop = tg.Loop(batches, epochs=2, every=3, log=tg.loggers.Lines())
    >>> for x in loop:
    ...     loop.log(x=x[0])
    step 3: x 2
    step 6: x 2
    >>> loop.step, loop.epoch
    (6, 2)
    """

    def __init__(
        self,
        batches: Iterable[Any],
        *,
        epochs: int = 1,
        run: Run | None = None,
        every: int = 100,
        save_every: int | None = None,
        log: Any = None,
        patience: int | None = None,
    ) -> None:
        for name, number in (("epochs", epochs), ("every", every), ("save_every", save_every), ("patience", patience)):
            if number is not None and integer("Loop", name, number) < 1:
                raise ValueError(f"Loop: {name} must be 1 or more, not {number}")
        if not isinstance(batches, Iterable):
            raise TypeError(f"Loop: batches are tg.data.Batches or another iterable, not {type(batches).__name__}")
        if run is not None and not isinstance(run, Run):
            raise TypeError(f"Loop: run is a tg.Run or None, not {type(run).__name__}")
        if isinstance(batches, Iterator):
            raise TypeError(
                "Loop: an iterator is used up after one epoch; give it tg.data.Batches, or another iterable that "
                "begins anew"
            )
        if run is not None and not run.holds(batches):
            raise TypeError(
                "Loop: the run does not save these batches; make it with them: tg.Run(folder, ..., data=batches)"
            )
        self.batches, self.epochs, self.run = batches, epochs, run
        self.every, self.save_every, self.patience = every, save_every, patience
        self.step = 0 if run is None else run.step
        if run is not None:
            run.check(self.step)
        self.epoch = 0
        self._history: dict[str, list[tuple[int, float]]] = {}  # of a loop without a run
        self.interrupted = 0
        self._loggers = _loggers(log)
        self._collected: dict[str, list[Any]] = {}
        self._stopped = False
        self._best = Best() if run is None else run._best

    @property
    def history(self) -> dict[str, list[tuple[int, float]]]:
        """All that was logged; see the class."""
        return self._history if self.run is None else self.run.history

    def __iter__(self) -> Iterator[Any]:
        """Go through the batches; see the class."""
        self._stopped, self.interrupted = False, 0
        _each(self._loggers, "begin", self.step, self._total())
        with _Signals(self):
            try:
                yield from self._epochs()
                flushed = self._flush()
                if self.run is not None and (flushed or self.run.step != self.step):
                    self.run.save(self.step)
            finally:
                self._flush()
                _each(self._loggers, "end")

    def _epochs(self) -> Iterator[Any]:
        total = self._total()
        while not self._ends() and (self.epoch < self.epochs if total is None else self.step < total):
            self.epoch = self.epoch + 1 if total is None else self.step * self.epochs // total + 1
            begun = self.step
            for batch in self.batches:
                yield batch
                self.step += 1
                if self.step % self.every == 0:
                    self._flush()
                _each(self._loggers, "advance", self.step)
                if self._ends():
                    return
                if self.run is not None and self.save_every is not None and self.step % self.save_every == 0:
                    self.run.save(self.step)
            if self.step == begun:
                return  # an epoch of nothing, and so would be the next one
            if self.run is not None:
                self.run.save(self.step)

    def _total(self) -> int | None:
        """Return the number of steps of all epochs, None for batches without a length."""
        return self.epochs * len(self.batches) if isinstance(self.batches, Sized) else None

    def _ends(self) -> bool:
        return self._stopped or self.interrupted != 0

    def log(self, **numbers: Any) -> None:
        """Note numbers of a step; their means over `every` steps are logged.

        Parameters
        ----------
        **numbers : float or Tensor
            One number each, by name. A Tensor is not waited for before it is logged.

        Raises
        ------
        ValueError
            A Tensor holds more than one number.

        Examples
        --------
        >>> import tapegrad as tg
        >>> loop = tg.Loop([1.0, 2.0, 3.0], every=3, log=())
        >>> for x in loop:
        ...     loop.log(x=x)
        >>> loop.history
        {'x': [(3, 2.0)]}
        """
        for name, x in numbers.items():
            if getattr(x, "shape", ()) not in ((), (1,)):
                raise ValueError(
                    f"Loop.log: {name} has the shape {x.shape}: log one number, as in tapegrad.mean({name})"
                )
            self._collected.setdefault(name, []).append(x.detach() if isinstance(x, Tensor) else x)

    def _flush(self) -> bool:
        """Log the means of the numbers noted since the last time; return whether there were any."""
        noted, self._collected = self._collected, {}
        if noted:
            self._log({name: _mean(xs) for name, xs in noted.items()})
        return bool(noted)

    def _log(self, numbers: Mapping[str, float]) -> None:
        for name, x in numbers.items():
            self.history.setdefault(name, []).append((self.step, x))
        for logger in self._loggers:
            logger.log(numbers, step=self.step)

    def evaluate(self, f: Callable[..., Any], batches: Iterable[Any]) -> dict[str, float]:
        """Return, and log, the means of a function over other batches, without recording.

        Parameters
        ----------
        f : callable
            Takes a batch: its entries as arguments where it is a tuple, else the batch. It returns a dict of numbers,
            each the mean over the samples of the batch.
        batches : iterable
            Batches, for example of data that is held out. A batch counts as often as it has samples.

        Returns
        -------
        dict of str to float
            The means.

        Raises
        ------
        ValueError
            There is no batch.
        TypeError
            `f` returns no dict.

        Examples
        --------
        >>> import tapegrad as tg
        >>> held_out = tg.data.Batches([1.0, 2.0, 6.0], size=2)
        >>> loop = tg.Loop(held_out, log=())
        >>> loop.evaluate(lambda x: {"mean": tg.mean(x)}, held_out)
        {'mean': 3.0}
        """
        sums: dict[str, float] = {}
        samples = 0
        with no_grad():
            for batch in batches:
                found = f(*batch) if isinstance(batch, tuple) else f(batch)
                if not isinstance(found, Mapping):
                    raise TypeError(
                        f"Loop.evaluate: the function returns a dict of numbers by name, not {type(found).__name__}"
                    )
                size = _size(batch)
                samples += size
                for name, x in found.items():
                    sums[name] = sums.get(name, 0.0) + size * float(x)
        if not samples:
            raise ValueError("Loop.evaluate: there is no batch")
        means = {name: x / samples for name, x in sums.items()}
        self._log(means)
        return means

    def best(self, value: Any, *, mode: str = "min") -> bool:
        """Save the run as the best if a value is better than before; end the loop where `patience` is used up.

        Parameters
        ----------
        value : float or Tensor
            For example a loss that `evaluate` found.
        mode : str, default 'min'
            Whether less is better, 'min', or more, 'max'.

        Returns
        -------
        bool
            Whether it is the best so far.

        Raises
        ------
        ValueError
            `mode` is another one.

        Examples
        --------
        >>> import tapegrad as tg
        >>> loop = tg.Loop(tg.data.Batches([1.0, 2.0, 3.0], size=1), patience=1, log=())
        >>> for x in loop:
        ...     better = loop.best(x[0])
        >>> loop.step
        2
        """
        better = (
            self._best.take(value, mode) if self.run is None else self.run.best(value, mode=mode, step=self.step + 1)
        )
        if self.patience is not None and self._best.worse >= self.patience:
            self.stop()
        return better

    def stop(self) -> None:
        """End the loop after the step that is under way.

        Examples
        --------
        >>> import tapegrad as tg
        >>> loop = tg.Loop(tg.data.Batches([1.0, 2.0, 3.0], size=1), log=())
        >>> for x in loop:
        ...     loop.stop()
        >>> loop.step
        1
        """
        self._stopped = True

    def __repr__(self) -> str:
        return f"<loop at step {self.step} of {self._total()}>"


class _Signals:
    """A block in which the first Ctrl-C or SIGTERM only tells the loop to end; only a main thread gets signals."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *error: object) -> None:
        before, self._before = self._before, {}
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._loop.interrupted = number
        self.__exit__()


def _loggers(log: Any) -> Sequence[Any]:
    if log is None:
        return [loggers.Bar() if find_spec("tqdm") else loggers.Lines()]
    found = list(log) if isinstance(log, list | tuple) else [log]
    for x in found:
        if not callable(getattr(x, "log", None)):
            raise TypeError(f"Loop: {type(x).__name__} has no method log(numbers, step=): wrap it in tg.loggers.to")
    return found


def _each(loggers_: Sequence[Any], method: str, *args: Any) -> None:
    for logger in loggers_:
        if hasattr(logger, method):
            getattr(logger, method)(*args)


def _mean(xs: Sequence[Any]) -> float:
    """Return the mean of numbers; Tensors are read all at once."""
    if all([isinstance(x, Tensor) for x in xs]):
        with no_grad():
            return float(mean(stack([reshape(x, ()) for x in xs])))
    return sum(float(x) for x in xs) / len(xs)


def _size(batch: Any) -> int:
    """Return the number of samples in a batch: the length of its first array."""
    while isinstance(batch, tuple | Mapping):
        batch = next(iter(batch.values() if isinstance(batch, Mapping) else batch))
    return int(batch.shape[0]) if hasattr(batch, "shape") else len(batch)
