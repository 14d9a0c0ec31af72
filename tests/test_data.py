"""Batches: their contents, order and position."""

from __future__ import annotations

import gc
import threading
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
from forking import in_child
from places import Place

import tapegrad as tg
from tapegrad.data import Batches


def numbers(batches: Any) -> list[list[float]]:
    return [np.asarray(x.to_device("cpu")).tolist() for x in batches]


class Pictures:
    """A dataset as those of PyTorch are: a length and items."""

    def __init__(self, n: int = 5) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[np.ndarray[Any, Any], int]:
        if i >= self.n:
            raise IndexError(i)
        return np.full((2, 2), i, dtype=np.float32), i % 2


def test_batches_are_on_the_device(xp: Place) -> None:
    rows = np.arange(10.0, dtype=np.float32).reshape(5, 2)
    for column in (rows, rows.tolist(), xp.tensor(rows)):
        found = list(Batches(column, np.arange(5, dtype=np.int32), size=2, device=xp.device))
        assert [x.shape for x, _ in found] == [(2, 2), (2, 2), (1, 2)]
        np.testing.assert_array_equal(np.concatenate([xp.values(x) for x, _ in found]), rows)
        assert all(type(x) is tg.Tensor and not x.requires_grad for batch in found for x in batch)


def test_arrays_of_a_library_stay_there_by_default(xp: Place) -> None:
    x = xp.tensor([1.0, 2.0, 3.0])
    assert {b.device for b in Batches(x, size=2)} == {x.device}
    with tg.default_device(xp.device):
        assert {b.device for b in Batches([1.0, 2.0, 3.0], size=2)} == {x.device}


def test_a_last_batch_may_be_left_out() -> None:
    assert numbers(Batches([0.0, 1.0, 2.0], size=2)) == [[0, 1], [2]]
    assert numbers(Batches([0.0, 1.0, 2.0], size=2, drop_last=True)) == [[0, 1]]
    for n in range(8):
        for size in (1, 2, 3, 9):
            for drop in (False, True):
                batches = Batches(np.arange(n), size=size, drop_last=drop)
                assert len(batches) == len(list(batches))


def test_shuffled_epochs_differ_and_hold_every_sample(xp: Place) -> None:
    column = np.arange(40, dtype=np.float32)
    batches = Batches(column, size=7, shuffle=tg.random.Generator(3, device=xp.device))
    epochs = [[x for batch in numbers(batches) for x in batch] for _ in range(3)]
    assert all(sorted(e) == list(range(40)) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 3
    again = Batches(column, size=7, shuffle=tg.random.Generator(3, device="cpu"))  # the same numbers
    assert [[x for batch in numbers(again) for x in batch] for _ in range(3)] == epochs


def test_two_batches_of_one_generator_have_their_own_orders() -> None:
    rng = tg.random.Generator(3)
    a, b = (Batches(np.arange(40.0), size=40, shuffle=rng) for _ in range(2))
    assert numbers(a) != numbers(b)


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_a_dataset_of_items(ahead: int) -> None:
    found = list(Batches(Pictures(), size=2, ahead=ahead))
    assert [(x.shape, y.shape) for x, y in found] == [((2, 2, 2), (2,)), ((2, 2, 2), (2,)), ((1, 2, 2), (1,))]
    assert found[1][0].dtype == tg.float32
    np.testing.assert_array_equal(np.asarray(found[1][0])[:, 0, 0], [2, 3])


def test_items_may_be_dicts_named_tuples_text_and_objects() -> None:
    item = namedtuple("item", "text size")
    kinds: list[list[Any]] = [
        [{"text": t, "size": n} for n, t in enumerate("abc")],
        [item(t, n) for n, t in enumerate("abc")],
    ]
    for items in kinds:
        (batch,) = Batches(items, size=3)
        text, size = batch.values() if isinstance(batch, dict) else (batch.text, batch.size)
        assert text == ["a", "b", "c"]
        assert np.asarray(size).tolist() == [0, 1, 2]


def test_all_items_of_a_batch_at_once() -> None:
    asked = []

    class Table(Pictures):
        def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
            asked.append(indices)
            return [{"x": float(i)} for i in indices]

    assert [np.asarray(b["x"]).tolist() for b in Batches(Table(), size=3)] == [[0, 1, 2], [3, 4]]
    assert asked == [[0, 1, 2], [3, 4]]


def test_a_dataset_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.arange(6.0).reshape(3, 2), torch.arange(3))
    found = list(Batches(data, size=2))
    assert [(x.shape, y.dtype.name) for x, y in found] == [((2, 2), "int64"), ((1, 2), "int64")]
    column = list(Batches(torch.arange(3.0), size=2))
    assert [x.device for x in column] == [tg.asarray(torch.zeros(1)).device] * 2


def test_collate_makes_the_batch() -> None:
    found = list(Batches([[1.0], [2.0, 3.0]], size=2, collate=lambda items: np.asarray([len(x) for x in items])))
    assert np.asarray(found[0]).tolist() == [1, 2]


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("n", [6, 7, 13])
def test_ranks_share_each_batch_evenly(ranks: int, n: int) -> None:
    shares = [
        numbers(Batches(np.arange(float(n)), size=2, shuffle=tg.random.Generator(0), rank=(r, ranks)))
        for r in range(ranks)
    ]
    sizes = [[len(b) for b in share] for share in shares]
    assert all(s == sizes[0] for s in sizes)  # so that a mean over ranks is a mean over samples
    seen = [x for share in shares for b in share for x in b]
    assert len(set(seen)) == len(seen) == n // ranks * ranks
    assert len(Batches(np.arange(n), size=2, rank=(0, ranks))) == len(sizes[0])


@pytest.mark.parametrize("taken", range(8))
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_restored_position_goes_on_with_the_next_batch(taken: int, shuffled: bool) -> None:
    def made() -> Batches:
        return Batches(np.arange(5.0), size=2, shuffle=tg.random.Generator(1) if shuffled else None)

    def endless(batches: Batches) -> Any:
        while True:
            yield from batches

    unbroken = endless(made())
    expected = [np.asarray(next(unbroken)).tolist() for _ in range(12)]
    first = made()
    steps = endless(first)
    for _ in range(taken):
        next(steps)
    state = first.state()
    second = made()
    second.restore(state)
    steps = endless(second)
    assert [np.asarray(next(steps)).tolist() for _ in range(12 - taken)] == expected[taken:]
    assert state == {**state, **{k: v for k, v in first.state().items() if k != "order"}}


def test_a_new_iteration_is_a_new_epoch() -> None:
    batches = Batches([1.0, 2.0], size=1)
    next(iter(batches))
    assert numbers(batches) == [[1], [2]]
    assert batches.epoch == 2


def test_an_iteration_does_not_go_on_after_another_began() -> None:
    batches = Batches([1.0, 2.0, 3.0], size=1)
    first = iter(batches)
    next(first)
    next(iter(batches))
    with pytest.raises(RuntimeError, match="another epoch was begun"):
        next(first)


def test_threads_end_with_the_iteration() -> None:
    def count() -> int:
        return sum(t.name == "tapegrad prefetch" for t in threading.enumerate())

    before = count()
    batches = Batches(np.arange(100.0), size=1)
    iterator = iter(batches)
    next(iterator)
    assert count() == before + 1
    del iterator
    gc.collect()
    assert count() == before
    list(batches)
    assert count() == before


def test_an_error_of_the_data_is_raised_at_its_batch() -> None:
    class Broken(Pictures):
        def __getitem__(self, i: int) -> Any:
            if i == 3:
                raise OSError("no such picture")
            return super().__getitem__(i)

    for ahead in (0, 2):
        iterator = iter(Batches(Broken(), size=1, ahead=ahead))
        for _ in range(3):
            next(iterator)
        with pytest.raises(OSError, match="no such picture"):
            next(iterator)


def test_a_fork_in_the_middle_is_told_apart_from_a_slow_thread() -> None:
    iterator = iter(Batches(np.arange(100.0), size=1, ahead=1))
    next(iterator)

    def raises() -> bool:
        try:
            for _ in iterator:
                pass
        except RuntimeError as error:
            return "fork" in str(error)
        return False

    assert in_child(raises) == 0


def test_data_that_changes_its_length() -> None:
    data = Pictures(4)
    batches = Batches(data, size=2)
    list(batches)
    data.n = 6
    with pytest.raises(ValueError, match="had 4 samples when these batches were made, and has 6 now"):
        iter(batches)
    data.n = 4
    iterator = iter(Batches(data, size=2, ahead=0))
    next(iterator)
    data.n = 3
    with pytest.raises(IndexError, match="of length 3 now.*did it change its length"):
        next(iterator)


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda: Batches(size=2), TypeError, "one array or more"),
        (lambda: Batches([1.0], [1.0, 2.0], size=2), ValueError, "different lengths: 1, 2"),
        (lambda: Batches(np.float64(1.0), size=2), ValueError, "has no axis"),
        (lambda: Batches(iter([1.0]), size=2), TypeError, "no length and items.*list of its items"),
        (lambda: Batches([1.0], Pictures(), size=2), TypeError, "argument 1 is of type Pictures"),
        (lambda: Batches([1.0], size=0), ValueError, "size must be 1 or more, not 0"),
        (lambda: Batches([1.0], size=2.0), TypeError, "size is a whole number, not 2.0"),  # type: ignore[arg-type]
        (lambda: Batches([1.0], size=1, ahead=-1), ValueError, "ahead must be 0 or more"),
        (lambda: Batches([1.0], size=1, shuffle=any([1])), TypeError, "is a tg.random.Generator or None, not bool"),  # type: ignore[arg-type]
        (lambda: Batches([1.0], size=1, rank=(2, 2)), ValueError, r"as in \(0, 2\), not \(2, 2\)"),
        (lambda: Batches([1.0], size=1, device="nowhere"), ValueError, "nowhere"),
        (lambda: Batches([1.0], [2.0], size=1, collate=list), TypeError, "collate joins the items of one dataset"),
        (lambda: Batches([[1.0], [2.0, 3.0]], size=1), ValueError, "column 0 has rows of different lengths.*collate="),
        (lambda: list(Batches([(1, 2), (3,)], size=2)), ValueError, "tuples of different lengths"),
        (lambda: list(Batches([{"a": 1}, {"b": 1}], size=2)), ValueError, r"has the keys \['b'\], item 0 \['a'\]"),
        (lambda: list(Batches([(np.ones(2),), (np.ones(3),)], size=2)), ValueError, r"\(2,\) and \(3,\).*collate="),
    ],
)
def test_bad_input(make: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        make()


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    batches = Batches(np.arange(6.0), size=2)
    next(iter(batches))
    state = batches.state()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"size": 3}, "size 3, and these batches have size 2"),
        ({"length": 7}, "length 7, and these batches have length 6"),
        ({"shuffled": True}, "shuffled True"),
        ({"ranks": 2}, "ranks 2"),
    ]
    for others, text in cases:
        with pytest.raises(ValueError, match=text):
            batches.restore(state | others)
    with pytest.raises(ValueError, match="lacks position"):
        batches.restore({k: v for k, v in state.items() if k != "position"})
    assert batches.state() == state
