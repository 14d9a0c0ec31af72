"""Metrics: running sums against scikit-learn's on all samples at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from places import Place

import tapegrad as tg
from tapegrad import metrics

CLASSES = 4


@pytest.fixture
def batches(xp: Place) -> list[tuple[tg.Tensor, tg.Tensor]]:
    rng = np.random.default_rng(0)
    return [(xp.tensor(rng.normal(size=(n, CLASSES))), xp.tensor(rng.integers(0, CLASSES, n))) for n in (5, 1, 8)]


def joined(batches: list[tuple[tg.Tensor, tg.Tensor]]) -> tuple[Any, Any]:
    scores, labels = (np.concatenate([np.asarray(b[k].to_device("cpu")) for b in batches]) for k in (0, 1))
    return scores, labels


def test_classes(xp: Place, batches: list[tuple[tg.Tensor, tg.Tensor]]) -> None:
    sk = pytest.importorskip("sklearn.metrics")
    scores, truth = joined(batches)
    found = scores.argmax(-1)
    expected = {
        metrics.Accuracy: sk.accuracy_score(truth, found),
        metrics.Confusion: sk.confusion_matrix(truth, found, labels=range(CLASSES)),
        metrics.F1: sk.f1_score(truth, found, average="macro", labels=range(CLASSES), zero_division=0),
    }
    for kind, value in expected.items():
        arguments: Any = {metrics.Confusion: {"classes": CLASSES}, metrics.F1: {"classes": CLASSES, "average": "macro"}}
        metric = kind(**arguments.get(kind, {}))
        for _ in range(2):  # anew after reset
            for x, y in batches:
                metric.add(x, y)
            np.testing.assert_allclose(metric.value(), value)
            metric.reset()
        for x, y in batches:
            metric.add(tg.argmax(x, axis=-1), y)  # classes for scores
        np.testing.assert_allclose(metric.value(), value)


def test_area_under_the_curve(xp: Place) -> None:
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    scores, labels = rng.integers(0, 9, 50) / 8, rng.integers(0, 2, 50)  # with ties
    auc = metrics.AUC()
    for part in np.split(np.arange(50), [7, 30]):
        auc.add(xp.tensor(scores[part]), xp.tensor(labels[part]))
    assert auc.value() == pytest.approx(sk.roc_auc_score(labels, scores))


def test_means_are_weighted_by_count(xp: Place) -> None:
    mean = metrics.Mean()
    mean.add(xp.tensor(1.0), count=3)
    mean.add(xp.tensor([2.0, 4.0]))
    mean.add(3.0)
    assert mean.value() == pytest.approx(2.0)


def test_metrics_record_nothing() -> None:
    w = tg.tensor([1.0, 2.0], requires_grad=True)
    mean = metrics.Mean()
    mean.add(tg.sum(w * w))
    assert mean.value() == 5.0


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: metrics.Accuracy().value(), "Accuracy.value: nothing was added"),
        (lambda: metrics.Mean().value(), "Mean.value: nothing was added"),
        (lambda: metrics.F1().value(), "F1.value: nothing was added"),
        (lambda: metrics.AUC().value(), "AUC.value: nothing was added"),
        (lambda: metrics.Accuracy().add([[1.0, 2.0]], [1, 0]), r"scores of shape \(2, classes\)"),
        (lambda: metrics.Confusion(3).add([[1.0, 2.0]], [1]), r"scores of shape \(1, 3\)"),
        (lambda: metrics.Accuracy().add([0.1, 0.9], [0, 1]), r"integers of shape \(2,\)"),
        (lambda: metrics.F1(3), "average='macro'"),
        (lambda: metrics.F1(average="micro"), "not 'micro'"),
        (lambda: metrics.Confusion(0), "1 class or more"),
        (lambda: metrics.AUC().add([0.1], [0, 1]), "one score each"),
    ],
)
def test_bad_input(call: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()


def test_an_area_needs_both_kinds() -> None:
    auc = metrics.AUC()
    auc.add([0.1, 0.2], [1, 1])
    with pytest.raises(ValueError, match="positive samples and others"):
        auc.value()
