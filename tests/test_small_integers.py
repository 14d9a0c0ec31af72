"""Labels and indices of small integer dtypes, along axes that are longer than their dtype counts."""

from __future__ import annotations

import numpy as np
import pytest
from places import Place

import tapegrad as tg

LONG = 300
LABELS = np.arange(512) % 10
SMALL = ("int8", "uint8", "uint16")


@pytest.fixture(params=SMALL)
def small(request: pytest.FixtureRequest) -> str:
    """Give each small dtype in turn."""
    return str(request.param)


def test_take_along_axis_adds_into_its_own_rows(xp: Place, small: str) -> None:
    """Each row gets its own cotangent, also beyond row 255."""
    rows = 20 if xp.device.startswith("strict:") and small != "uint8" else len(LABELS)  # strict takes its time
    labels = xp.tensor(LABELS[:rows].astype(small)[:, None])
    g = tg.grad(lambda x: tg.sum(tg.take_along_axis(x, labels, axis=1)))(xp.tensor(np.zeros((rows, 10))))
    xp.check(g, np.eye(10)[LABELS[:rows]])


def test_one_hot_has_one_one(xp: Place, small: str) -> None:
    """A label is met once among more classes than its dtype counts."""
    labels = xp.tensor(np.asarray([0, 44, 127], dtype=small))
    xp.check(tg.one_hot(labels, LONG), np.eye(LONG)[[0, 44, 127]])


def test_cross_entropy_of_many_classes(xp: Place, small: str) -> None:
    """Labels are in range, and one class gets the gradient of each."""
    labels = np.asarray([0, 44, 127])
    logits = np.zeros((3, LONG))
    g = tg.grad(tg.cross_entropy)(xp.tensor(logits), xp.tensor(labels.astype(small)))
    xp.check(g, (1 / LONG - np.eye(LONG)[labels]) / 3, rtol=1e-7)
    with pytest.raises(ValueError, match="a label is out of range: with 100 classes"):
        tg.cross_entropy(xp.tensor(logits[:, :100]), xp.tensor(labels.astype(small))).item()  # see Backend.refuse


def test_indexing_is_by_numbers(xp: Place, small: str) -> None:
    """Small integers are indices to read and to write by, never masks."""
    index = xp.tensor(np.asarray([1, 0, 1], dtype=small))
    x = xp.tensor(np.arange(3.0))
    xp.check(x[index], [1.0, 0.0, 1.0])
    xp.check(tg.take(x, index), [1.0, 0.0, 1.0])
    xp.check(tg.grad(lambda x: tg.sum(x[index]) + tg.sum(tg.take(x, index)))(x), [2.0, 4.0, 0.0])

    def written(x: tg.Tensor) -> tg.Tensor:
        y = x * 1
        y[index] = 5.0
        return tg.sum(y)

    xp.check(tg.grad(written)(x), [0.0, 0.0, 1.0])


def test_labels_in_compiled_and_mapped_functions(small: str) -> None:
    """What vmap maps and compile records is the same."""
    labels = tg.asarray(LABELS.astype(small))
    x = tg.zeros((len(LABELS), LONG))
    expected = (1 / LONG - np.eye(LONG)[LABELS]) / len(LABELS)
    gradient = tg.compile(tg.grad(tg.cross_entropy))
    for _ in range(3):
        np.testing.assert_allclose(np.asarray(gradient(x, labels)), expected)
    each = tg.vmap(tg.grad(tg.cross_entropy))(x, labels)
    np.testing.assert_allclose(np.asarray(each), expected * len(LABELS))
