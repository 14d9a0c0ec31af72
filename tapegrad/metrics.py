"""Metrics: running sums over batches, kept on the device until their value is asked for.

For all others there is scikit-learn's `sklearn.metrics`, on `np.asarray` of predictions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from tapegrad._engine.coercion import as_tensor
from tapegrad._engine.mode import no_grad
from tapegrad._engine.tensor import Tensor, host
from tapegrad.ops.binary import equal
from tapegrad.ops.classification import one_hot
from tapegrad.ops.conversion import astype
from tapegrad.ops.reductions import sum as sum_
from tapegrad.ops.shaping import reshape
from tapegrad.ops.sorting import argmax
from tapegrad.typing import ArrayLike

__all__ = ["AUC", "Accuracy", "Confusion", "F1", "Mean"]


class _Metric(ABC):
    """A number of many batches."""

    def __init__(self) -> None:
        self.reset()

    @abstractmethod
    def reset(self) -> None:
        """Begin anew."""

    @abstractmethod
    def value(self) -> Any:
        """Return the number for all that was added."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


def _nothing(metric: _Metric) -> ValueError:
    return ValueError(f"{type(metric).__name__}.value: nothing was added")


class Mean(_Metric):
    """The mean of numbers, of a loss for example, weighted by their counts.

    Examples
    --------
    >>> import tapegrad as tg
    >>> loss = tg.metrics.Mean()
    >>> loss.add(tg.asarray(1.0), count=3)
    >>> loss.add(tg.asarray(2.0))
    >>> loss.value()
    1.25
    """

    def reset(self) -> None:
        """Begin anew.

        Examples
        --------
        >>> import tapegrad as tg
        >>> mean = tg.metrics.Mean()
        >>> mean.add(1.0, count=3)
        >>> mean.reset()
        """
        self._sum: Any = 0.0
        self._count = 0

    def add(self, x: ArrayLike, *, count: int = 1) -> None:
        """Add a number that is the mean over so many samples, or an array of numbers that count as one each.

        Parameters
        ----------
        x : ArrayLike
            A number, or an array.
        count : int, default 1
            Samples that each number stands for.

        Examples
        --------
        >>> import tapegrad as tg
        >>> mean = tg.metrics.Mean()
        >>> mean.add(1.0, count=3)
        >>> mean.value()
        1.0
        """
        with no_grad():
            x = as_tensor(x)
            self._sum = sum_(x) * float(count) + self._sum
            self._count += count * x.size

    def value(self) -> float:
        """Return the mean.

        Returns
        -------
        float
            Their sum by their count.

        Raises
        ------
        ValueError
            Nothing was added.

        Examples
        --------
        >>> import tapegrad as tg
        >>> mean = tg.metrics.Mean()
        >>> mean.add(1.0, count=3)
        >>> mean.value()
        1.0
        """
        if not self._count:
            raise _nothing(self)
        return float(self._sum) / self._count


class Confusion(_Metric):
    """Counts of pairs of a true class and a predicted class, that of the largest score.

    Parameters
    ----------
    classes : int
        The number of classes.

    Examples
    --------
    >>> import tapegrad as tg
    >>> confusion = tg.metrics.Confusion(2)
    >>> confusion.add(tg.asarray([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]]), tg.asarray([0, 1, 1]))
    >>> confusion.value()
    array([[1, 0],
           [1, 1]])
    """

    def __init__(self, classes: int) -> None:
        if classes < 1:
            raise ValueError(f"{type(self).__name__}: there must be 1 class or more, not {classes}")
        self.classes = classes
        super().__init__()

    def reset(self) -> None:
        """Begin anew.

        Examples
        --------
        >>> import tapegrad as tg
        >>> confusion = tg.metrics.Confusion(2)
        >>> confusion.add([1, 0], [1, 1])
        >>> confusion.reset()
        """
        self._counts: Any = None

    def add(self, predicted: ArrayLike, labels: ArrayLike) -> None:
        """Add samples.

        Parameters
        ----------
        predicted : ArrayLike
            Scores of shape labels.shape + (classes,), or predicted classes, integers of the shape of the labels.
        labels : ArrayLike
            True classes, integers.

        Raises
        ------
        ValueError
            The shapes do not fit.

        Examples
        --------
        >>> import tapegrad as tg
        >>> confusion = tg.metrics.Confusion(2)
        >>> confusion.add([1, 0], [1, 1])
        >>> confusion.value()
        array([[0, 0],
               [1, 1]])
        """
        with no_grad():
            truth = as_tensor(labels)
            found = _classes(as_tensor(predicted), truth, self.classes)
            pairs = truth * self.classes + found
            counts = one_hot(reshape(pairs, (-1,)), self.classes**2)
            total = sum_(astype(counts, "int32"), axis=0)
            self._counts = total if self._counts is None else self._counts + total

    def value(self) -> np.ndarray[Any, Any]:
        """Return the counts: a row for each true class, a column for each predicted one.

        Returns
        -------
        ndarray of int
            The counts, of shape (classes, classes).

        Raises
        ------
        ValueError
            Nothing was added.

        Examples
        --------
        >>> import tapegrad as tg
        >>> confusion = tg.metrics.Confusion(2)
        >>> confusion.add([1, 0], [1, 1])
        >>> confusion.value()
        array([[0, 0],
               [1, 1]])
        """
        if self._counts is None:
            raise _nothing(self)
        return host(self._counts).astype(np.int64).reshape(self.classes, self.classes)


class Accuracy(_Metric):
    """The share of samples whose class is predicted.

    Examples
    --------
    >>> import tapegrad as tg
    >>> accuracy = tg.metrics.Accuracy()
    >>> accuracy.add(tg.asarray([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]]), tg.asarray([0, 1, 1]))
    >>> accuracy.value()
    0.6666666666666666
    """

    def reset(self) -> None:
        """Begin anew.

        Examples
        --------
        >>> import tapegrad as tg
        >>> accuracy = tg.metrics.Accuracy()
        >>> accuracy.add([1, 0], [1, 1])
        >>> accuracy.reset()
        """
        self._right: Any = 0
        self._count = 0

    def add(self, predicted: ArrayLike, labels: ArrayLike) -> None:
        """Add samples.

        Parameters
        ----------
        predicted : ArrayLike
            Scores of shape labels.shape + (classes,), or predicted classes, integers of the shape of the labels.
        labels : ArrayLike
            True classes, integers.

        Raises
        ------
        ValueError
            The shapes do not fit.

        Examples
        --------
        >>> import tapegrad as tg
        >>> accuracy = tg.metrics.Accuracy()
        >>> accuracy.add([1, 0], [1, 1])
        >>> accuracy.value()
        0.5
        """
        with no_grad():
            truth = as_tensor(labels)
            found = _classes(as_tensor(predicted), truth, None)
            self._right = sum_(astype(equal(found, truth), "int32")) + self._right
            self._count += truth.size

    def value(self) -> float:
        """Return the share, from 0 to 1.

        Returns
        -------
        float
            The number.

        Raises
        ------
        ValueError
            Nothing was added.

        Examples
        --------
        >>> import tapegrad as tg
        >>> accuracy = tg.metrics.Accuracy()
        >>> accuracy.add([1, 0], [1, 1])
        >>> accuracy.value()
        0.5
        """
        if not self._count:
            raise _nothing(self)
        return int(self._right) / self._count


class F1(Confusion):
    """The harmonic mean of precision and recall, 2 tp / (2 tp + fp + fn).

    Parameters
    ----------
    classes : int, default 2
        The number of classes.
    average : str, default 'binary'
        'binary' for class 1 of two, 'macro' for the mean over all classes. A class that neither occurs nor is
        predicted counts as 0.

    Raises
    ------
    ValueError
        `average` is another one, or 'binary' with more than two classes.

    Examples
    --------
    >>> import tapegrad as tg
    >>> f1 = tg.metrics.F1()
    >>> f1.add(tg.asarray([1, 1, 0, 1]), tg.asarray([1, 0, 0, 1]))
    >>> f1.value()
    0.8
    """

    def __init__(self, classes: int = 2, *, average: str = "binary") -> None:
        if average not in ("binary", "macro"):
            raise ValueError(f"F1: average is 'binary' or 'macro', not {average!r}")
        if average == "binary" and classes != 2:
            raise ValueError(f"F1: average='binary' is for two classes, not {classes}: pass average='macro'")
        self.average = average
        super().__init__(classes)

    def value(self) -> Any:
        """Return the number, from 0 to 1.

        Returns
        -------
        float
            The number.

        Raises
        ------
        ValueError
            Nothing was added.

        Examples
        --------
        >>> import tapegrad as tg
        >>> f1 = tg.metrics.F1()
        >>> f1.add([1, 0], [1, 1])
        >>> f1.value()
        0.6666666666666666
        """
        counts = super().value()
        right = np.diag(counts)
        either = counts.sum(0) + counts.sum(1)
        scores = np.where(either > 0, 2 * right / np.maximum(either, 1), 0.0)
        return float(scores[1] if self.average == "binary" else scores.mean())


class AUC(_Metric):
    """The area under the receiver operating characteristic: how often a positive sample has the higher score.

    It is exact: all scores are kept, on the host.

    Examples
    --------
    >>> import tapegrad as tg
    >>> auc = tg.metrics.AUC()
    >>> auc.add(tg.asarray([0.1, 0.4, 0.35, 0.8]), tg.asarray([0, 0, 1, 1]))
    >>> auc.value()
    0.75
    """

    def reset(self) -> None:
        """Begin anew.

        Examples
        --------
        >>> import tapegrad as tg
        >>> auc = tg.metrics.AUC()
        >>> auc.add([0.5, 0.5], [1, 0])
        >>> auc.reset()
        """
        self._kept: list[tuple[Any, Any]] = []

    def add(self, scores: ArrayLike, labels: ArrayLike) -> None:
        """Add samples.

        Parameters
        ----------
        scores : ArrayLike
            A score for each sample, higher for positive ones.
        labels : ArrayLike
            1 or True for positive samples, 0 or False for others, of the same shape.

        Raises
        ------
        ValueError
            The shapes differ.

        Examples
        --------
        >>> import tapegrad as tg
        >>> auc = tg.metrics.AUC()
        >>> auc.add([0.5, 0.5], [1, 0])
        >>> auc.value()
        0.5
        """
        with no_grad():
            s, y = as_tensor(scores), as_tensor(labels)
            if s.shape != y.shape:
                raise ValueError(
                    f"AUC.add: scores of shape {s.shape} and labels of shape {y.shape}: give one score each"
                )
            self._kept.append((s.detach(), y.detach()))

    def value(self) -> float:
        """Return the area, from 0 to 1, by ranks: Mann and Whitney, 1947; ties count one half.

        Returns
        -------
        float
            The number.

        Raises
        ------
        ValueError
            Nothing was added, or all samples are of one kind.

        Examples
        --------
        >>> import tapegrad as tg
        >>> auc = tg.metrics.AUC()
        >>> auc.add([0.5, 0.5], [1, 0])
        >>> auc.value()
        0.5
        """
        if not self._kept:
            raise _nothing(self)
        scores, labels = (np.concatenate([host(pair[k]).ravel() for pair in self._kept]) for k in (0, 1))
        positive = labels.astype(bool)
        n, m = int(positive.sum()), int((~positive).sum())
        if not n or not m:
            raise ValueError("AUC.value: it needs positive samples and others, and all are of one kind")
        # The rank of a score is the mean of the places that it and its equals take.
        _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
        ranks = (np.cumsum(counts) - (counts - 1) / 2)[group]
        return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def _classes(predicted: Tensor, labels: Tensor, classes: int | None) -> Tensor:
    """Return predicted classes: as they are, or those of the largest scores."""
    if predicted.shape == labels.shape and not predicted.dtype.name.startswith(("float", "bfloat")):
        return predicted
    if predicted.shape[:-1] != labels.shape or (classes is not None and predicted.shape[-1] != classes):
        shape = ", ".join(map(str, (*labels.shape, "classes" if classes is None else classes)))
        raise ValueError(
            f"predictions of shape {predicted.shape} and labels of shape {labels.shape}: give scores of shape "
            f"({shape}), or classes, integers of shape {labels.shape}"
        )
    return argmax(predicted, axis=-1)
