"""Loggers: where the numbers of a training go, a bar on the terminal, lines, a CSV file, TensorBoard, or other tools.

A logger is any object with a method `log(numbers, step=)`. `tg.Loop` also calls `begin(step, total)`, `advance(step)`
and `end()` of those that have them.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TextIO

from tapegrad._training.tensor_file import replace

__all__ = ["Bar", "CSV", "Lines", "TensorBoard", "to"]

Numbers = Mapping[str, float]


class Bar:
    """A progress bar on the terminal, with the latest numbers beside it; it needs tqdm.

    Parameters
    ----------
    file : text file or None, default None
        Where the bar is drawn; None for standard error.

    Raises
    ------
    ImportError
        The package tqdm is not installed.

    Examples
    --------
    >>> import tapegrad as tg, io
    >>> batches = tg.data.Batches([1.0, 2.0], size=1)
    >>> loop = tg.Loop(batches, log=tg.loggers.Bar(file=io.StringIO()))
    >>> for x in loop:
    ...     loop.log(loss=x[0])
    """

    def __init__(self, file: TextIO | None = None) -> None:
        try:
            from tqdm import tqdm
        except ImportError as error:
            raise ImportError("loggers.Bar needs tqdm: pip install 'tapegrad[training]', or log to Lines()") from error
        self._tqdm, self._file = tqdm, file
        self._bar: Any = None

    def begin(self, step: int, total: int | None) -> None:
        """Draw the bar with the steps done before.

        Parameters
        ----------
        step : int
            Steps done.
        total : int or None
            Steps in all, None where that is not known.

        Examples
        --------
        >>> import tapegrad as tg
        >>> import io
        >>> bar = tg.loggers.Bar(io.StringIO())
        >>> bar.begin(0, 10)
        >>> bar.advance(1)
        >>> bar.log({"loss": 0.5}, step=1)
        >>> bar.end()
        """
        self._bar = self._tqdm(total=total, initial=step, unit="step", file=self._file, dynamic_ncols=True)

    def advance(self, step: int) -> None:
        """Move the bar on to a step.

        Parameters
        ----------
        step : int
            Steps done.

        Examples
        --------
        >>> import tapegrad as tg
        >>> import io
        >>> bar = tg.loggers.Bar(io.StringIO())
        >>> bar.begin(0, 10)
        >>> bar.advance(1)
        >>> bar.log({"loss": 0.5}, step=1)
        >>> bar.end()
        """
        self._bar.update(step - self._bar.n)

    def log(self, numbers: Numbers, *, step: int) -> None:
        """Show numbers beside the bar.

        Parameters
        ----------
        numbers : dict of str to float
            Numbers by name.
        step : int
            Steps done.

        Examples
        --------
        >>> import tapegrad as tg
        >>> import io
        >>> bar = tg.loggers.Bar(io.StringIO())
        >>> bar.begin(0, 10)
        >>> bar.advance(1)
        >>> bar.log({"loss": 0.5}, step=1)
        >>> bar.end()
        """
        self._bar.set_postfix_str(_text(numbers), refresh=False)

    def end(self) -> None:
        """Leave the bar as it is.

        Examples
        --------
        >>> import tapegrad as tg
        >>> import io
        >>> bar = tg.loggers.Bar(io.StringIO())
        >>> bar.begin(0, 10)
        >>> bar.advance(1)
        >>> bar.log({"loss": 0.5}, step=1)
        >>> bar.end()
        """
        self._bar.close()


class Lines:
    """A line of text for each set of numbers.

    Parameters
    ----------
    file : text file or None, default None
        Where lines are written; None for standard output.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.loggers.Lines().log({"loss": 0.25}, step=10)
    step 10: loss 0.25
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file

    def log(self, numbers: Numbers, *, step: int) -> None:
        """Write a line.

        Parameters
        ----------
        numbers : dict of str to float
            Numbers by name.
        step : int
            Steps done.

        Examples
        --------
        >>> import tapegrad as tg
        >>> tg.loggers.Lines().log({"loss": 0.25}, step=10)
        step 10: loss 0.25
        """
        print(f"step {step}: {_text(numbers)}", file=self._file or sys.stdout, flush=True)


def _text(numbers: Numbers) -> str:
    return ", ".join(f"{name} {x:.4g}" for name, x in numbers.items())


class CSV:
    """A CSV file with a row for each step with numbers, and a column for each name.

    A new training begins the file anew. A resumed one goes on with it, without the rows of later steps.

    Parameters
    ----------
    path : str or path
        The file; its folder is there.

    Examples
    --------
    >>> import tapegrad as tg, tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "log.csv")
    ...     log = tg.loggers.CSV(path)
    ...     log.log({"loss": 0.5}, step=1)
    ...     print(path.read_text())
    step,loss
    1,0.5
    <BLANKLINE>
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self._columns = ["step"]
        self._rows: list[dict[str, Any]] = []
        self._begun = False

    def begin(self, step: int, total: int | None) -> None:
        """Begin the file, or take over the rows up to a step.

        Parameters
        ----------
        step : int
            Steps done.
        total : int or None
            Steps in all, None where that is not known.

        Examples
        --------
        >>> import tapegrad as tg
        >>> import tempfile, os
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = tg.loggers.CSV(os.path.join(folder, "log.csv"))
        ...     log.begin(0, 10)
        ...     log.log({"loss": 0.5}, step=1)
        """
        self._begun = True
        if step and self.path.exists():
            with self.path.open(newline="") as file:
                reader = csv.DictReader(file)
                self._rows = [row for row in reader if row.get("step", "").isdigit() and int(row["step"]) <= step]
                self._columns = list(reader.fieldnames or ["step"])
        self._write_all()

    def log(self, numbers: Numbers, *, step: int) -> None:
        """Add a row; a new name is a further column.

        Parameters
        ----------
        numbers : dict of str to float
            Numbers by name.
        step : int
            Steps done.

        Examples
        --------
        >>> import tapegrad as tg
        >>> import tempfile, os
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = tg.loggers.CSV(os.path.join(folder, "log.csv"))
        ...     log.begin(0, 10)
        ...     log.log({"loss": 0.5}, step=1)
        """
        if not self._begun:
            self.begin(0, None)
        row = {"step": step, **numbers}
        new = [name for name in row if name not in self._columns]
        if self._rows and int(self._rows[-1]["step"]) == step:  # of an evaluation after the step's own numbers, say
            self._rows[-1] |= row
        else:
            self._rows.append(row)
            if not new:
                with self.path.open("a", newline="") as file:
                    csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)
                return
        self._columns += new
        self._write_all()

    def _write_all(self) -> None:
        def fill(temporary: str) -> None:
            with open(temporary, "w", newline="") as file:
                writer = csv.DictWriter(file, self._columns, lineterminator="\n")
                writer.writeheader()
                writer.writerows(self._rows)

        replace(self.path, fill)


class TensorBoard:
    """Event files that TensorBoard shows; it needs tensorboardX, or PyTorch with tensorboard.

    Parameters
    ----------
    folder : str or path
        The folder of the event files.

    Raises
    ------
    ImportError
        Neither is installed.

    Examples
    --------
    >>> import tapegrad as tg
    >>> log = tg.loggers.TensorBoard("events")  # doctest: +SKIP
    >>> log.log({"loss": 0.5}, step=1)  # doctest: +SKIP
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError("loggers.TensorBoard needs tensorboardX: pip install tensorboardX") from error
        self._new: Callable[..., Any] = SummaryWriter
        self._folder, self._writer = str(folder), None

    def begin(self, step: int, total: int | None) -> None:
        """Begin a file of events; those of later steps, of a run that was resumed, are hidden.

        Parameters
        ----------
        step : int
            Steps done.
        total : int or None
            Steps in all, None where that is not known.

        Examples
        --------
        >>> import tapegrad as tg
        >>> log = tg.loggers.TensorBoard("events")  # doctest: +SKIP
        >>> log.begin(0, 10)  # doctest: +SKIP
        >>> log.log({"loss": 0.5}, step=1)  # doctest: +SKIP
        >>> log.end()  # doctest: +SKIP
        """
        self._writer = self._new(self._folder, purge_step=step + 1)

    def log(self, numbers: Numbers, *, step: int) -> None:
        """Add a point to the curve of each name.

        Parameters
        ----------
        numbers : dict of str to float
            Numbers by name.
        step : int
            Steps done.

        Examples
        --------
        >>> import tapegrad as tg
        >>> log = tg.loggers.TensorBoard("events")  # doctest: +SKIP
        >>> log.begin(0, 10)  # doctest: +SKIP
        >>> log.log({"loss": 0.5}, step=1)  # doctest: +SKIP
        >>> log.end()  # doctest: +SKIP
        """
        if self._writer is None:
            self.begin(0, None)
        for name, x in numbers.items():
            self._writer.add_scalar(name, x, step)  # type: ignore[attr-defined]

    def end(self) -> None:
        """Write down all events.

        Examples
        --------
        >>> import tapegrad as tg
        >>> log = tg.loggers.TensorBoard("events")  # doctest: +SKIP
        >>> log.begin(0, 10)  # doctest: +SKIP
        >>> log.log({"loss": 0.5}, step=1)  # doctest: +SKIP
        >>> log.end()  # doctest: +SKIP
        """
        if self._writer is not None:
            self._writer.flush()


class to:
    """Log to a tool of others: an object with `log` (Weights & Biases, trackio), `log_metrics` (MLflow), or a function.

    Parameters
    ----------
    target : object or callable
        It is called with a dict of numbers and `step=`.

    Raises
    ------
    TypeError
        The target has neither method, and cannot be called.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.loggers.to(lambda numbers, step: print(step, numbers)).log({"loss": 0.5}, step=3)
    3 {'loss': 0.5}
    """

    def __init__(self, target: Any) -> None:
        call = next((getattr(target, n) for n in ("log", "log_metrics") if hasattr(target, n)), target)
        if not callable(call):
            raise TypeError(
                f"loggers.to: {type(target).__name__} has no method log(numbers, step=) or log_metrics, and cannot be "
                "called"
            )
        self._call: Callable[..., Any] = call

    def log(self, numbers: Numbers, *, step: int) -> None:
        """Hand numbers on.

        Parameters
        ----------
        numbers : dict of str to float
            Numbers by name.
        step : int
            Steps done.

        Examples
        --------
        >>> import tapegrad as tg
        >>> tg.loggers.to(lambda numbers, step: print(step, numbers)).log({"loss": 0.5}, step=3)
        3 {'loss': 0.5}
        """
        self._call(dict(numbers), step=step)
