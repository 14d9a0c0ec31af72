"""vmap: a function of one example, mapped over many, against a loop over them."""

from __future__ import annotations

import numpy as np

import tapegrad as tg


def test_gradients_of_each_example() -> None:
    w, x = tg.asarray([1.0, 2.0]), tg.asarray([[0.5, 1.5], [2.5, 3.5], [4.5, 5.5]])
    gradient = tg.grad(lambda w, x: tg.sum(tg.sin(w * x)))
    mapped = tg.vmap(gradient, in_axes=(None, 0))(w, x)
    np.testing.assert_allclose(mapped, tg.stack([gradient(w, row) for row in x]))
