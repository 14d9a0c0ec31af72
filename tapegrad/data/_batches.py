"""Mini-batches: the samples of a source in order or shuffled, on a device, with a position that can be saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tapegrad._engine.settings import chosen_device
from tapegrad._engine.tensor import host
from tapegrad.backends import of_device
from tapegrad.data._prefetch import prefetched
from tapegrad.data._sources import Batch, Columns, Dataset, Indices, source_of
from tapegrad.ops.creation import asarray
from tapegrad.random import Generator


class Batches:
    """Mini-batches of arrays, or of a dataset with a length and items; one iteration is one epoch.

    A batch of columns is a tuple of Tensors, or a Tensor where there is one column. A batch of a dataset has the
    structure of its items: numbers and arrays are stacked to Tensors, tuples and dicts are joined by entry, and
    strings are listed. The last batch of an epoch is smaller where the size does not divide the length.

    A thread makes the next batches and moves them to the device while the present one is used.

    Parameters
    ----------
    columns : array, Tensor, list, or one dataset
        Columns of equal length: the first axis has one sample each. Or one object with `__len__` and `__getitem__`, as
        the datasets of PyTorch and Hugging Face are; `__getitems__` is used where it is there.
    size : int
        Samples in a batch, 1 or more; on each rank.
    shuffle : Generator or None, default None
        Draws a new order for each epoch, from a stream of its own that is split off; None keeps the order.
    drop_last : bool, default False
        Whether a smaller last batch is left out.
    device : str or None, default None
        Where the Tensors are; None for the default device if one was set, else where the columns are.
    ahead : int, default 2
        Batches that are made before they are asked for; 0 makes each when it is asked for, without a thread.
    rank : tuple of int, default (0, 1)
        The number of this process and how many there are. Each batch of `size` times their number is shared out
        evenly. An epoch leaves out the samples (fewer than processes) that cannot be shared out.
    collate : callable or None, default None
        Makes a batch of a list of items, for a dataset.

    Raises
    ------
    TypeError
        There is no column; or something has no length or no items; or an argument has another type.
    ValueError
        The columns have different lengths; or `size`, `ahead` or `rank` is out of range.

    Examples
    --------
    >>> import tapegrad as tg
    >>> batches = tg.data.Batches([1.0, 2.0, 3.0], [0, 1, 1], size=2)
    >>> for x, y in batches:
    ...     print(x, y)
    Tensor([1., 2.]) Tensor([0, 1])
    Tensor([3.]) Tensor([1])
    >>> len(batches)
    2
    """

    def __init__(
        self,
        *columns: Any,
        size: int,
        shuffle: Generator | None = None,
        drop_last: bool = False,
        device: str | None = None,
        ahead: int = 2,
        rank: tuple[int, int] = (0, 1),
        collate: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        self._source: Columns | Dataset = source_of(columns, collate)
        self.size = _whole("size", size, 1)
        self.ahead = _whole("ahead", ahead, 0)
        self.drop_last = drop_last
        self.rank = _rank(rank)
        self.device = device
        if device is not None:
            of_device(device)  # raises for an unknown one
        if shuffle is not None and not isinstance(shuffle, Generator):
            raise TypeError(f"Batches: shuffle is a tg.random.Generator or None, not {type(shuffle).__name__}")
        self._rng = None if shuffle is None else shuffle.split(1)[0]
        self._length = len(self._source)
        self._start = self._drawn()  # the state of the generator before it drew the order of this epoch
        self.epoch = 0
        self.position = 0  # batches of this epoch that were handed out
        self._goes_on = False  # whether the next iteration goes on in an epoch, as after restore()

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        whole, rest = divmod(self._length // self.rank[1], self.size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        """Begin the next epoch, or go on where a restored state was."""
        if len(self._source) != self._length:
            raise ValueError(
                f"Batches: the data had {self._length} samples when these batches were made, and has "
                f"{len(self._source)} now: make new Batches of it"
            )
        if self._goes_on:
            self._goes_on = False
        else:
            self.epoch += 1
            self.position = 0
            self._start = self._drawn()
        return self._batches(self._order())

    def _batches(self, order: Indices) -> Iterator[Any]:
        number, ranks = self.rank
        epoch = self.epoch
        step = self.size * ranks
        parts = [order[at : at + step] for at in range(self.position * step, len(self) * step, step)]
        mine = [part[number : len(part) // ranks * ranks : ranks] for part in parts]
        device = self.device or chosen_device()  # of this thread
        for batch in prefetched(lambda indices: _on_device(self._source.fetch(indices), device), mine, self.ahead):
            if self.epoch != epoch:
                raise RuntimeError("Batches: another epoch was begun; an iteration of the one before cannot go on")
            self.position += 1
            yield batch

    def _order(self) -> Indices:
        if self._rng is None:
            return np.arange(self._length)
        return host(self._rng.permutation(self._length))

    def _drawn(self) -> dict[str, Any]:
        return {} if self._rng is None else self._rng.state()

    def state(self) -> dict[str, Any]:
        """Return the position: the epoch, the batches handed out in it, and the generator's state at its start.

        Returns
        -------
        dict
            Numbers, and the arrays of the generator's state, for `restore`.

        Examples
        --------
        >>> import tapegrad as tg
        >>> batches = tg.data.Batches([1.0, 2.0, 3.0], size=1)
        >>> first = next(iter(batches))
        >>> batches.state()["position"]
        1
        """
        samples = {"length": self._length, "size": self.size, "ranks": self.rank[1], "shuffled": self._rng is not None}
        return {"epoch": self.epoch, "position": self.position, "order": dict(self._start), **samples}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a position: the next iteration hands out the batches after it.

        Parameters
        ----------
        state : dict
            The result of `state`, perhaps of another process.

        Raises
        ------
        ValueError
            The state is of other data, or of batches of another size; nothing is changed then.

        Examples
        --------
        >>> import tapegrad as tg
        >>> batches = tg.data.Batches([1.0, 2.0, 3.0], size=1)
        >>> first = next(iter(batches))
        >>> batches.restore(batches.state())
        >>> print(*batches)
        Tensor([2.]) Tensor([3.])
        """
        own = self.state()
        missing = [key for key in own if key not in state]
        if missing:
            raise ValueError(f"Batches: the state lacks {', '.join(missing)}: it was not made by Batches.state()")
        for key in ("length", "size", "ranks", "shuffled"):
            if state[key] != own[key]:
                raise ValueError(
                    f"Batches: the state was saved with {key} {state[key]}, and these batches have {key} {own[key]}: "
                    "make Batches as they were"
                )
        if self._rng is not None:
            self._rng.restore(state["order"])
        self._start = dict(state["order"])
        self.epoch, self.position = int(state["epoch"]), int(state["position"])
        self._goes_on = self.epoch > 0 and self.position < len(self)
        if self.epoch and not self._goes_on:
            self._order()  # the epoch is over: its order is drawn, and the next one comes

    def __repr__(self) -> str:
        shuffled = ", shuffled" if self._rng is not None else ""
        return f"<{len(self)} batches of {self.size} of {self._length} samples{shuffled}>"


def _on_device(batch: Batch, device: str | None) -> Any:
    """Return a batch with its arrays as Tensors."""
    if isinstance(batch, Mapping):
        return {key: _on_device(x, device) for key, x in batch.items()}
    if isinstance(batch, tuple):
        parts = [_on_device(x, device) for x in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    if not hasattr(batch, "shape") or (isinstance(batch, np.ndarray) and batch.dtype.kind in "OSU"):
        return batch
    return asarray(batch, device=device)


def _whole(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"Batches: {name} is a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"Batches: {name} must be {least} or more, not {value}")
    return int(value)


def _rank(rank: tuple[int, int]) -> tuple[int, int]:
    number, ranks = rank
    if not 0 <= number < ranks:
        raise ValueError(f"Batches: rank is the number of this process and their count, as in (0, 2), not {rank}")
    return int(number), int(ranks)
