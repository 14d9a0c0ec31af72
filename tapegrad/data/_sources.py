"""Sources of samples: columns of arrays, and datasets of items, behind one way to fetch a batch by its indices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tapegrad._engine.dispatch import backend_of
from tapegrad._engine.tensor import Tensor
from tapegrad.ops.creation import asarray
from tapegrad.ops.indexing import take

# Contents of a batch before it goes to the device: arrays and other values in tuples and dicts.
Batch = Any
Indices = np.ndarray[Any, np.dtype[np.int64]]


def source_of(given: tuple[Any, ...], collate: Callable[[list[Any]], Any] | None) -> Columns | Dataset:
    """Return the source for the arguments of `Batches`."""
    if not given:
        raise TypeError("Batches: give it one array or more of equal length, or a dataset with a length and items")
    if len(given) == 1 and (collate is not None or not is_column(given[0])):
        return Dataset(given[0], collate)
    if collate is not None:
        raise TypeError("Batches: collate joins the items of one dataset; several columns are cut as they are")
    return Columns(given)


def is_column(x: Any) -> bool:
    """Return whether something is cut by its first axis as a whole: an array, a Tensor, or a list of numbers."""
    if isinstance(x, list | tuple):
        return not x or (not isinstance(x[0], dict | tuple | str) and not hasattr(x[0], "__array__"))
    return hasattr(x, "shape") and hasattr(x, "dtype")


class Columns:
    """Arrays whose first axes have one sample each."""

    def __init__(self, columns: tuple[Any, ...]) -> None:
        for n, x in enumerate(columns):
            if not is_column(x):
                raise TypeError(
                    f"Batches: argument {n} is of type {type(x).__name__}: columns are arrays, Tensors or lists; a "
                    "dataset with items stands alone"
                )
        self.columns = [x if hasattr(x, "shape") else _array(n, x) for n, x in enumerate(columns)]
        for n, x in enumerate(self.columns):
            if not x.shape:
                raise ValueError(f"Batches: column {n} has no axis: the first axis counts the samples")
        lengths = [x.shape[0] for x in self.columns]
        if len(set(lengths)) > 1:
            raise ValueError(f"Batches: the columns have different lengths: {', '.join(map(str, lengths))}")

    def __len__(self) -> int:
        return int(self.columns[0].shape[0])

    def fetch(self, indices: Indices) -> Batch:
        """Return the rows of all columns at some indices: a tuple, or an array where there is one column."""
        rows = tuple([_rows(x, indices) for x in self.columns])
        return rows if len(rows) > 1 else rows[0]


def _array(n: int, rows: Any) -> Tensor:
    try:
        return asarray(rows)  # floats get the default dtype
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Batches: column {n} has rows of different lengths, which make no array; give collate= to join them"
        ) from error


def _rows(x: Any, indices: Indices) -> Any:
    if isinstance(x, np.ndarray):
        return x[indices]  # on the host, so that only the batch goes to the device
    if isinstance(x, Tensor):
        return take(x.detach(), asarray(indices, device=x.device), axis=0)
    if type(x) in backend_of or not hasattr(x, "__array__"):
        column = asarray(x)
        return take(column, asarray(indices, device=column.device), axis=0)
    return np.asarray(x)[indices]  # a column of a data frame, say


class Dataset:
    """An object with a length and items, as those of PyTorch and of Hugging Face are.

    A dataset with `__getitems__` is asked for all items of a batch at once. `collate` makes a batch of the list of
    items; else `collated` does.
    """

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any] | None) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise TypeError(
                f"Batches: {type(dataset).__name__} has no length and items (__len__ and __getitem__): for an "
                "iterator, loop over it yourself, or make a list of its items"
            )
        self.dataset, self.collate = dataset, collate or collated

    def __len__(self) -> int:
        return len(self.dataset)

    def fetch(self, indices: Indices) -> Batch:
        """Return the items at some indices, joined to a batch."""
        numbers = [int(i) for i in indices]
        try:
            if hasattr(self.dataset, "__getitems__"):
                items = list(self.dataset.__getitems__(numbers))
            else:
                items = [self.dataset[i] for i in numbers]
        except IndexError as error:
            raise IndexError(
                f"Batches: the dataset, of length {len(self.dataset)} now, has no item of the batch that begins with "
                f"number {numbers[0]}: did it change its length? ({error})"
            ) from error
        return self.collate(items)


def collated(items: list[Any]) -> Batch:
    """Join items to a batch: numbers and arrays are stacked, tuples and dicts joined by entry, all else is listed.

    >>> from tapegrad.data._sources import collated
    >>> collated([(1, "a"), (2, "b")])
    (array([1, 2]), ['a', 'b'])
    """
    first = items[0]
    if isinstance(first, Mapping):
        for n, item in enumerate(items):
            if set(item) != set(first):
                raise ValueError(f"Batches: item {n} of a batch has the keys {list(item)}, item 0 {list(first)}")
        return {key: collated([item[key] for item in items]) for key in first}
    if isinstance(first, tuple):
        if len({len(item) for item in items}) > 1:
            raise ValueError("Batches: the items of a batch are tuples of different lengths")
        joined = [collated(list(entry)) for entry in zip(*items, strict=True)]
        return type(first)(*joined) if hasattr(first, "_fields") else tuple(joined)
    if isinstance(first, str | bytes) or first is None:
        return items
    arrays = [np.asarray(x.detach() if hasattr(x, "detach") else x) for x in items]
    if len({a.shape for a in arrays}) > 1:
        shapes = " and ".join(sorted({str(a.shape) for a in arrays})[:2])
        raise ValueError(f"Batches: items of the shapes {shapes} cannot be stacked; give collate= to join them")
    return items if arrays[0].dtype == object else np.stack(arrays)
