"""Runs: all that a training has reached, saved in a folder and resumed to the bit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from tapegrad._training.saving import as_path, content_of, is_array, on_host
from tapegrad._training.tensor_file import Content, flat, nested, read, write
from tapegrad.nn import load, named
from tapegrad.ops._axes import integer

_NAME = re.compile(r"step-(\d+)\.safetensors")
_STEP, _BEST, _WORSE, _HISTORY = "run.step", "run.best", "run.worse", "run.history"


class Run:
    """A folder with all that a training has reached: model, optimiser, random numbers, position in the data.

    A save is one file, written whole or not at all. A run that was killed at any moment resumes at its last save, with
    numbers equal to the bit to those of a run without a break.

    Parameters
    ----------
    folder : str or path
        The folder; it is made if it is not there.
    keep : int, default 3
        Saves that are kept, the latest ones; the best one is kept beside them.
    **state
        Parts to save, by names of your choice: objects with `state` and `restore` (optimisers, generators, batches),
        and models: any tree or object that holds Tensors.

    Attributes
    ----------
    step : int
        The number of steps done at the latest save.
    history : dict of str to list of (int, float)
        All that a `tg.Loop` with this run logged: pairs of step and value by name. It is saved, too.

    Raises
    ------
    TypeError
        Something holds no Tensor and has no `state` and `restore`.
    ValueError
        `keep` is less than 1.

    Examples
    --------
    >>> import tapegrad as tg, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     w = tg.tensor([1.0, 2.0])
    ...     run = tg.Run(folder, model={"w": w})
    ...     first = run.resume()
    ...     w *= 3.0
    ...     run.save(1)
    ...     w *= 3.0
    ...     first, run.resume(), w
    (0, 1, Tensor([3., 6.]))
    """

    def __init__(self, folder: str | PathLike[str], *, keep: int = 3, **state: Any) -> None:
        if integer("Run", "keep", keep) < 1:
            raise ValueError(f"Run: keep must be 1 or more, not {keep}")
        if not state:
            raise TypeError("Run: name the objects to save, as in tg.Run(folder, model=model, optimiser=optimiser)")
        self.folder, self.keep = as_path("Run", folder), keep
        self._parts = {name: _part(name, x) for name, x in state.items()}
        self._best = Best()
        self.step = 0
        self.history: dict[str, list[tuple[int, float]]] = {}
        self.folder.mkdir(parents=True, exist_ok=True)

    def holds(self, x: Any) -> bool:
        """Return whether an object is one of the parts.

        Parameters
        ----------
        x : object
            For example batches.

        Returns
        -------
        bool
            Whether the run was made with that very object.

        Examples
        --------
        >>> import tapegrad as tg, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     rng = tg.random.Generator(0)
        ...     tg.Run(folder, rng=rng).holds(rng)
        True
        """
        return any([x is part or x is getattr(part, "model", None) for part in self._parts.values()])

    def save(self, step: int) -> None:
        """Save everything as of a step, and remove saves beyond those kept.

        Parameters
        ----------
        step : int
            The number of steps done.

        Raises
        ------
        OSError
            The disk is full, or the folder is gone; older saves stay as they are.

        Examples
        --------
        >>> import tapegrad as tg, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = tg.Run(folder, model=[tg.ones(2)])
        ...     run.save(10)
        ...     run.resume()
        10
        """
        self.check(step)
        write(self._path(step), self._content(step))
        self.step = step
        for path in self._saves()[: -self.keep]:
            path.unlink(missing_ok=True)

    def check(self, step: int) -> None:
        """Raise if the folder has saves that are none of this run's.

        Parameters
        ----------
        step : int
            The number of steps done.

        Raises
        ------
        ValueError
            There is a save of a later step, and the run was not resumed from it.

        Examples
        --------
        >>> import tapegrad as tg, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tg.Run(folder, model=[tg.zeros(2)]).save(10)
        ...     try:
        ...         tg.Run(folder, model=[tg.zeros(2)]).check(0)
        ...     except ValueError as error:
        ...         print(str(error).partition(" has ")[2])
        a save of step 10, and this run is at step 0: resume() goes on with it; a new run needs an empty folder
        """
        found = self._steps()
        if found > max(step, self.step):
            raise ValueError(
                f"{self.folder} has a save of step {found}, and this run is at step {step}: resume() goes on with it; "
                "a new run needs an empty folder"
            )

    def resume(self) -> int:
        """Put everything back to the latest save.

        Returns
        -------
        int
            The number of steps done; 0, with nothing changed, if there is no save.

        Raises
        ------
        ValueError
            The file is damaged, or does not fit the objects of the run: it names them; nothing is changed then.

        Examples
        --------
        >>> import tapegrad as tg, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = tg.Run(folder, model=[tg.ones(2)])
        ...     run.save(10)
        ...     run.resume()
        10
        """
        saves = self._saves()
        return self._restore(saves[-1]) if saves else 0

    def best(self, value: Any, *, mode: str = "min", step: int | None = None) -> bool:
        """Save everything as the best, if a value is better than at each call before.

        Parameters
        ----------
        value : float or Tensor
            For example the loss on data that is held out. NaN is never the best.
        mode : str, default 'min'
            Whether less is better, 'min', or more, 'max'.
        step : int or None, default None
            The number of steps done; None for that of the latest save.

        Returns
        -------
        bool
            Whether it is the best so far; the first one is.

        Raises
        ------
        ValueError
            `mode` is another one.
        OSError
            The disk is full; the best one before stays.

        Examples
        --------
        >>> import tapegrad as tg, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = tg.Run(folder, model=[tg.zeros(2)])
        ...     run.best(0.5), run.best(0.6), run.best(0.4)
        (True, False, True)
        """
        before = self._best.value, self._best.worse
        if not self._best.take(value, mode):
            return False
        try:
            write(self.folder / "best.safetensors", self._content(self.step if step is None else step))
        except BaseException:
            self._best.value, self._best.worse = before
            raise
        return True

    def load_best(self) -> float:
        """Put everything back to the best save.

        Returns
        -------
        float
            Its value.

        Raises
        ------
        FileNotFoundError
            No best one was saved.
        ValueError
            As for `resume`.

        Examples
        --------
        >>> import tapegrad as tg, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     w = tg.tensor([1.0])
        ...     run = tg.Run(folder, model=[w])
        ...     _ = run.best(0.5)
        ...     w += 1.0
        ...     run.load_best(), w
        (0.5, Tensor([1.]))
        """
        self._restore(self.folder / "best.safetensors")
        assert self._best.value is not None
        return self._best.value

    def _content(self, step: int) -> Content:
        leaves = {f"{name}/{key}": x for name, part in self._parts.items() for key, x in flat(part.state()).items()}
        own = {_STEP: int(step), _BEST: self._best.value, _WORSE: self._best.worse, _HISTORY: _listed(self.history)}
        return content_of(leaves | own, None)

    def _restore(self, path: Path) -> int:
        content = read(path)
        leaves = content.arrays | content.values
        if _STEP not in leaves:
            raise ValueError(f"{path} was not written by tg.Run: load it with tg.load")
        step, best, worse = leaves.pop(_STEP), leaves.pop(_BEST), leaves.pop(_WORSE, 0)
        history = leaves.pop(_HISTORY, [])
        state = nested(leaves)
        for text, names in (("lacks", self._parts.keys() - state), ("has also", state.keys() - self._parts)):
            if names:
                raise ValueError(
                    f"{path} {text} {', '.join(sorted(names))}: make the run with the names that it was saved with"
                )
        # All or nothing: a part that does not fit puts back those before it.
        before = {name: _copied(part.state()) for name, part in self._parts.items()}
        done: list[str] = []
        try:
            for name, part in self._parts.items():
                done.append(name)
                part.restore(state[name])
        except Exception as error:
            for name in done[:-1]:
                self._parts[name].restore(before[name])
            error.add_note(f"The state of {done[-1]!r} in {path} does not fit; nothing was changed.")
            raise
        self._best.value, self._best.worse = best, worse
        self.step, self.history = int(step), {name: [(n, x) for n, x in pairs] for name, pairs in history}
        return self.step

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.safetensors"

    def _saves(self) -> list[Path]:
        """Return the files of saves, the latest one last."""
        found = [(int(match[1]), path) for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name))]
        return [path for _, path in sorted(found)]

    def _steps(self) -> int:
        saves = self._saves()
        match = _NAME.fullmatch(saves[-1].name) if saves else None
        return int(match[1]) if match else 0

    def __repr__(self) -> str:
        return f"<run of {', '.join(self._parts)} in {self.folder}, {len(self._saves())} saves>"


class Best:
    """The best of the values that it was given; worse: how many came after it."""

    def __init__(self) -> None:
        self.value: float | None = None
        self.worse = 0

    def take(self, value: Any, mode: str) -> bool:
        """Return whether a value is better than all before, and keep it if so."""
        if mode not in ("min", "max"):
            raise ValueError(f"best: mode is 'min', where less is better, or 'max', not {mode!r}")
        found = float(value)
        if found != found or (
            self.value is not None and not (found < self.value if mode == "min" else found > self.value)
        ):
            self.worse += 1
            return False
        self.value, self.worse = found, 0
        return True


class _Model:
    """The state of a model: its Tensors by name."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def state(self) -> dict[str, Any]:
        return dict(named(self.model))

    def restore(self, state: Mapping[str, Any]) -> None:
        load(self.model, state)


def _part(name: str, x: Any) -> Any:
    """Return an object with `state` and `restore`."""
    if callable(getattr(x, "state", None)) and callable(getattr(x, "restore", None)):
        return x
    if not named(x):
        raise TypeError(
            f"Run: {name} is of type {type(x).__name__}, holds no Tensor, and has no methods state and restore: "
            "numbers that change belong in a Tensor"
        )
    return _Model(x)


def _listed(history: Mapping[str, list[tuple[int, float]]]) -> list[Any]:
    """Return a history in lists, as a file has it."""
    return [[name, [list(pair) for pair in pairs]] for name, pairs in history.items()]


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state whose arrays do not change with the objects that they were taken from."""
    return nested({k: on_host(x).copy() if is_array(x) else x for k, x in flat(state).items()})
