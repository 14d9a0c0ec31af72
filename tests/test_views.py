"""Updates in place of slices, reshapes and transposes, which NumPy passes on: a word where `x` is still held."""

from __future__ import annotations

import gc
import operator
import warnings
from collections.abc import Callable
from typing import Any
from weakref import ref

import numpy as np
import pytest
from places import Place

import tapegrad as tg

MESSAGE = r"on a slice, reshape or transpose of another Tensor: NumPy would change.*a\[i\] \+= v.*row = \+a\[i\]"


def row(x: Any) -> None:
    y = x[0]
    y += 1.0


def part_of_a_row(x: Any) -> None:
    y = x[0]
    y[1] = 5.0


def item_of_a_temporary(x: Any) -> None:
    x[0][1] = 5.0


def update_of_an_item_of_a_temporary(x: Any) -> None:
    x[0][1] += 5.0


def view_of_a_view(x: Any) -> None:
    y = x[:, 1:][0]
    y *= 2.0


def transposed(x: Any) -> None:
    x.T[0] -= 1.0


def transposed_by_name(x: Any) -> None:
    y = tg.matrix_transpose(x)
    y /= 2.0


def permuted(x: Any) -> None:
    y = tg.permute_dims(x, (1, 0))
    y[0] = 1.0


def moved(x: Any) -> None:
    y = tg.moveaxis(x, 0, 1)
    y -= 1.0


def diagonal_of_a_flat_one(x: Any) -> None:
    flat = tg.reshape(x, (-1,))
    flat[::3] += 1e-6


def expanded(x: Any) -> None:
    y = tg.squeeze(tg.expand_dims(x, 0), 0)
    y += 1.0


def flipped(x: Any) -> None:
    y = tg.flip(x, axis=0)
    y += 1.0


def iterated(x: Any) -> None:
    for y in x:
        y *= 2.0


def unstacked(x: Any) -> None:
    for y in tg.unstack(x):
        y *= 2.0


def items_of_a_list(x: Any) -> None:
    rows = [x[0], x[1]]
    rows[0] += 1.0


def argument(x: Any) -> None:
    row(x[None, 0])


def as_array(x: Any) -> None:
    y = tg.asarray(x)
    y += 1.0


def by_indices(x: Any) -> None:
    y = x[0]
    y[tg.asarray([0, 1], device=x.device)] = 1.0


def by_mask(x: Any) -> None:
    y = x[0]
    y[y > 0.0] = 1.0


def sibling(x: Any) -> None:
    z = x * 2.0
    y, other = z[0], z[:, 0]
    del z
    y += 1.0
    assert other.shape == (2,)


PASSED_ON: list[Callable[[Any], None]] = [
    *(row, part_of_a_row, item_of_a_temporary, update_of_an_item_of_a_temporary, view_of_a_view, transposed),
    *(transposed_by_name, permuted, moved, diagonal_of_a_flat_one, expanded, flipped, iterated, unstacked),
    *(items_of_a_list, argument, as_array, by_indices, by_mask, sibling),
]


def items(x: Any) -> None:
    x[0] += 1.0
    x[0:1] -= 1.0
    x[0, 1] *= 2.0
    x[:] += 1.0
    x[...] = 0.5
    x[0] = operator.iadd(x[0], 1.0)  # type: ignore[no-untyped-call]


def copies(x: Any) -> None:
    y = +x[0]
    y += 1.0
    z = x[0] * 2.0
    z[0] = 1.0
    z -= y


def of_temporaries(x: Any) -> None:
    y = (x * 2.0)[0]
    y += 1.0
    y[0] = 3.0
    z = tg.reshape(tg.exp(x).T[0], (2, 1))
    z[0, ...] = 1.0
    z *= 2.0


def picked(x: Any) -> None:
    y = x[tg.asarray([0, 1], device=x.device)]
    y += 1.0
    z = tg.take(x, tg.asarray([0], device=x.device), axis=0)
    z[0, 0] = 1.0


def whole(x: Any) -> None:
    y = x[0]
    x += 1.0
    x[0] = y


def sole_name(x: Any) -> None:
    y = x * 2.0
    y = y[0]
    y += 1.0


KEPT: list[Callable[[Any], None]] = [items, copies, of_temporaries, picked, whole, sole_name]


def tensors(xp: Place) -> list[tg.Tensor]:
    """Return a constant and a recorded Tensor."""
    values = [[1.0, 2.0], [3.0, 4.0]]
    return [xp.tensor(values), xp.tensor(values, requires_grad=True) * 1.0]


@pytest.mark.parametrize("update", PASSED_ON, ids=lambda f: f.__name__)
def test_what_numpy_passes_on_has_a_warning(update: Callable[[Any], None], xp: Place) -> None:
    for x in tensors(xp):
        with pytest.warns(RuntimeWarning, match=MESSAGE) as found:
            update(x)
        code = update.__code__ if update is not argument else row.__code__
        assert all(w.filename == __file__ for w in found)
        assert code.co_firstlineno < found[0].lineno <= max(line for *_, line in code.co_lines() if line)
        if update not in (item_of_a_temporary, update_of_an_item_of_a_temporary):
            with tg.debug(), pytest.raises(RuntimeError, match=MESSAGE):
                update(x)
        xp.check(x, [[1.0, 2.0], [3.0, 4.0]])
        own = np.asarray([[1.0, 2.0], [3.0, 4.0]])
        if update in (row, part_of_a_row, view_of_a_view, iterated):
            update(own)
            assert np.any(own != xp.values(x))


@pytest.mark.parametrize("update", KEPT, ids=lambda f: f.__name__)
def test_what_numpy_keeps_to_itself_has_none(update: Callable[[Any], None], xp: Place) -> None:
    for x in tensors(xp):
        update(x)


def test_the_warning_comes_once_a_line() -> None:
    x = tg.ones((3, 2))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        globals().pop("__warningregistry__", None)
        for _ in range(3):
            row(x)
            y = x[0]
            y -= 1.0
    assert len(found) == 2


def test_inside_transforms(xp: Place) -> None:
    def f(x: Any) -> Any:
        row(x)
        return tg.sum(x * x)

    x = xp.tensor([[1.0, 2.0]])
    for transform in (tg.grad, tg.vmap, tg.compile, tg.checkpoint):
        with pytest.warns(RuntimeWarning, match=MESSAGE):
            transform(f)(x[None, ...])


def test_a_leaf_that_is_trained_by_its_rows(xp: Place) -> None:
    w = xp.tensor([[1.0, 2.0]], requires_grad=True)
    with tg.no_grad(), pytest.warns(RuntimeWarning, match=MESSAGE):
        row(w)
    with tg.no_grad():
        w[0] += 1.0
    xp.check(w, [[2.0, 3.0]])


def test_a_slice_that_is_not_recorded_does_not_hold_a_tape() -> None:
    x = tg.tensor([[1.0, 2.0]], requires_grad=True) * 2.0
    with tg.no_grad():
        y, z, (u,) = x[0], tg.reshape(x, (2,)), tg.unstack(x)
    held = ref(x)
    del x
    gc.collect()
    assert held() is None
    assert [v.tolist() for v in (y, z, u)] == [[2.0, 4.0]] * 3


def test_a_reshape_that_copies_does_not_hold_the_memory_of_what_it_copied() -> None:
    x = tg.ones((2, 3))
    y = tg.reshape(tg.matrix_transpose(x), (-1,))
    held = ref(x)
    del x
    assert held() is None
    y += 1.0
    assert y.tolist() == [2.0] * 6


def test_many_slices_of_slices_are_freed() -> None:
    x = tg.ones(4)
    for _ in range(100_000):
        x = x[::-1]
    x += 1.0
    assert x.tolist() == [2.0] * 4
