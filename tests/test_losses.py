"""Losses: against PyTorch, the ends of their domains, options of cross_entropy, ctc, bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from against_torch import CONFIGURATIONS, SECOND_ORDER, compare, values
from places import Place

import tapegrad as tg
from tapegrad.testing import gradgradcheck

inf = np.inf
REDUCTIONS = ("mean", "sum", "none")
Made = tuple[Callable[..., Any], Callable[..., Any], list[Any]]


def _shape(rng: Any, least: int = 1, most: int = 4) -> tuple[int, ...]:
    return tuple(map(int, rng.integers(1, 5, int(rng.integers(least, most)))))


def _torch() -> Any:
    import torch

    return torch.nn.functional


def _pair(name: str, theirs: str, **options: Any) -> Callable[[Any], Made]:
    """Return a maker of configurations for a loss of two operands of one shape."""

    def make(rng: Any) -> Made:
        shape, reduction = _shape(rng), str(rng.choice(REDUCTIONS))
        given = {k: float(rng.choice(v)) for k, v in options.items()}
        return (
            lambda x, y: getattr(tg, name)(x, y, reduction=reduction, **given),
            lambda x, y: getattr(_torch(), theirs)(x, y, reduction=reduction, **given),
            [rng.standard_normal(shape), rng.standard_normal(shape)],
        )

    return make


def bce(rng: Any) -> Made:
    shape, reduction = _shape(rng), str(rng.choice(REDUCTIONS))
    factors = rng.uniform(0.5, 2, (2, shape[-1]))
    kind = int(rng.integers(3))
    names = ([], ["pos_weight"], ["pos_weight", "weight"])[kind]

    def ours(x: Any, y: Any, *ws: Any) -> Any:
        constant = {k: tg.stop_gradient(w) for k, w in zip(names, ws, strict=True)}
        return tg.bce_with_logits_loss(x, y, reduction=reduction, **constant)

    def theirs(x: Any, y: Any, *ws: Any) -> Any:
        constant = {k: w.detach() for k, w in zip(names, ws, strict=True)}
        return _torch().binary_cross_entropy_with_logits(x, y, reduction=reduction, **constant)

    arrays = [rng.standard_normal(shape) * 5, rng.uniform(0, 1, shape), *factors[: len(names)]]
    return ours, theirs, arrays


def kl_div(rng: Any) -> Made:
    shape, logs = _shape(rng), bool(rng.integers(2))
    reduction = str(rng.choice([*REDUCTIONS, "batchmean"]))
    p = rng.uniform(0.05, 1, shape)
    return (
        lambda x, y: tg.kl_div_loss(x, y, log_target=logs, reduction=reduction),
        lambda x, y: _torch().kl_div(x, y, log_target=logs, reduction=reduction),
        [np.log(rng.uniform(0.05, 1, shape)), np.log(p) if logs else p],
    )


def triplet(rng: Any) -> Made:
    shape = _shape(rng)
    options: dict[str, Any] = {"margin": 1.5, "p": float(rng.choice([1.0, 2.0, 3.0])), "swap": bool(rng.integers(2))}
    options["reduction"] = str(rng.choice(REDUCTIONS))
    return (
        lambda a, b, c: tg.triplet_margin_loss(a, b, c, **options),
        lambda a, b, c: _torch().triplet_margin_loss(a, b, c, **options),
        [rng.standard_normal(shape) for _ in range(3)],
    )


def cosine(rng: Any) -> Made:
    shape, margin = (int(rng.integers(1, 5)), int(rng.integers(1, 5))), float(rng.choice([0.0, 0.3]))
    reduction = str(rng.choice(REDUCTIONS))
    return (
        lambda a, b, y: tg.cosine_embedding_loss(a, b, y, margin=margin, reduction=reduction),
        lambda a, b, y: _torch().cosine_embedding_loss(a, b, y, margin=margin, reduction=reduction),
        [rng.standard_normal(shape), rng.standard_normal(shape), rng.choice([-1, 1], shape[0])],
    )


def _classes(rng: Any) -> tuple[tuple[int, ...], int, dict[str, Any], Any, list[Any]]:
    """Return a shape, the number of classes, options, labels and perhaps weights."""
    shape, classes = _shape(rng, 1, 3), int(rng.integers(1, 6))
    labels = rng.integers(0, classes, shape)
    options: dict[str, Any] = {"reduction": str(rng.choice(REDUCTIONS))}
    if rng.random() < 0.5:
        options["ignore_index"] = int(rng.choice([-100, 0, 255]))
        if options["ignore_index"]:
            labels = np.where(rng.random(shape) < 0.3, options["ignore_index"], labels)
    weights = [rng.uniform(0.5, 2, classes)] if rng.random() < 0.5 else []
    return shape, classes, options, labels, weights


def _their_classes(f: Any, options: dict[str, Any]) -> Any:
    """Return PyTorch's loss with classes as the last axis and constant weights."""

    def call(x: Any, y: Any, *w: Any) -> Any:
        y = y.reshape(-1) if y.ndim < x.ndim else y.reshape(-1, y.shape[-1])
        out = f(x.reshape(-1, x.shape[-1]), y, weight=w[0].detach() if w else None, **options)
        return out if out.ndim == 0 else out.reshape(x.shape[:-1])

    return call


def cross_entropy(rng: Any) -> Made:
    shape, classes, options, labels, weights = _classes(rng)
    options["label_smoothing"] = float(rng.choice([0.0, 0.2, 1.0]))
    if rng.random() < 0.3:
        options.pop("ignore_index", None)
        labels = rng.dirichlet(np.ones(classes), shape)
    return (
        lambda x, y, *w: tg.cross_entropy(x, y, weight=tg.stop_gradient(w[0]) if w else None, **options),
        _their_classes(_torch().cross_entropy, options),
        [rng.standard_normal((*shape, classes)) * 3, labels, *weights],
    )


def nll(rng: Any) -> Made:
    shape, classes, options, labels, weights = _classes(rng)
    return (
        lambda x, y, *w: tg.nll_loss(x, y, weight=tg.stop_gradient(w[0]) if w else None, **options),
        _their_classes(_torch().nll_loss, options),
        [rng.standard_normal((*shape, classes)), labels, *weights],
    )


def ctc(rng: Any) -> Made:
    times, batch, classes, most = (int(rng.integers(*ends)) for ends in ((1, 9), (1, 4), (2, 5), (0, 5)))
    blank = int(rng.integers(classes))
    labels = rng.integers(0, classes - 1, (batch, most))
    labels += labels >= blank
    inputs, counts = rng.integers(1, times + 1, batch), rng.integers(0, most + 1, batch)
    options: dict[str, Any] = {"blank": blank, "zero_infinity": True, "reduction": str(rng.choice(REDUCTIONS))}

    def theirs(x: Any, labels: Any) -> Any:
        import torch

        lengths = torch.tensor(inputs), torch.tensor(counts)
        return _torch().ctc_loss(x.log_softmax(-1), labels, *lengths, **options)

    return (
        lambda x, labels: tg.ctc_loss(tg.log_softmax(x), labels, inputs, counts, **options),
        theirs,
        [rng.standard_normal((times, batch, classes)), labels],
    )


MAKERS: dict[str, Callable[[Any], Made]] = {
    "mse": _pair("mse_loss", "mse_loss"),
    "mae": _pair("mae_loss", "l1_loss"),
    "huber": _pair("huber_loss", "huber_loss", delta=[0.5, 1.0, 2.0]),
    "smooth_l1": _pair("smooth_l1_loss", "smooth_l1_loss", beta=[0.5, 1.0, 2.0]),
    **{f.__name__: f for f in (bce, kl_div, triplet, cosine, cross_entropy, nll, ctc)},
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.filterwarnings("ignore:reduction:UserWarning")
def test_against_torch(name: str) -> None:
    pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    with np.errstate(invalid="ignore"):  # a mean of nothing
        for n in range(CONFIGURATIONS):
            compare(*MAKERS[name](rng), rng, n % SECOND_ORDER == 0 and name != "ctc")


# -- ctc ------------------------------------------------------------------------------------------------------


def test_ctc_of_impossible_labels(xp: Place) -> None:
    """Three labels cannot come of two times: infinite, or 0; no gradient either way."""
    x = xp.tensor(np.log(np.full((2, 2, 3), 1 / 3)), requires_grad=True)
    labels, counts = tg.asarray([[1, 2, 1], [1, 2, 1]]), tg.asarray([3, 1])
    losses = tg.ctc_loss(x, labels, label_lengths=counts, reduction="none")
    xp.check(losses, [inf, -np.log(3 / 9)], rtol=1e-6)
    tg.ctc_loss(x, labels, label_lengths=counts, reduction="sum", zero_infinity=True).backward()
    g = xp.values(x.grad)
    assert not g[:, 0].any()
    np.testing.assert_allclose(g[:, 1].sum(-1), -1.0, rtol=1e-5)  # some class at each time


def test_ctc_without_labels_or_times() -> None:
    x = tg.log(tg.full((3, 1, 2), 0.5))
    none = tg.zeros((1, 0), dtype="int64")
    np.testing.assert_allclose(float(tg.ctc_loss(x, none, reduction="sum")), 3 * np.log(2))
    one = tg.ctc_loss(x, tg.asarray([[1]]), tg.asarray([0]), tg.asarray([0]), reduction="sum")
    assert float(one) == 0.0


def test_ctc_of_one_example_and_of_labels_behind_its_own() -> None:
    rng = np.random.default_rng(2)
    x = tg.log_softmax(tg.tensor(rng.standard_normal((5, 2, 4))))
    labels = tg.asarray([[1, 3, -7], [2, 2, 1]])
    both = values(tg.ctc_loss(x, labels, [5, 4], [2, 3], reduction="none"))
    first = tg.ctc_loss(x[:, 0], labels[0, :2], reduction="none")
    second = tg.ctc_loss(x[:4, 1], labels[1], reduction="none")
    np.testing.assert_allclose(both, [float(first), float(second)], rtol=1e-12)


def test_ctc_second_derivative() -> None:
    x = tg.tensor(np.random.default_rng(3).standard_normal((4, 1, 3)))
    gradgradcheck(lambda x: tg.ctc_loss(tg.log_softmax(x), tg.asarray([[1, 1]])), [x])


def test_ctc_compiled(xp: Place) -> None:
    x = xp.tensor(np.random.default_rng(4).standard_normal((4, 2, 3)))
    labels = tg.asarray([[1, 2], [2, 2]])

    def step(x: Any) -> Any:
        return tg.value_and_grad(lambda x: tg.ctc_loss(tg.log_softmax(x), labels))(x)

    value, slope = step(x)
    compiled = tg.compile(step)
    for _ in range(3):
        again, found = compiled(x)
        xp.check(again, xp.values(value), rtol=1e-9)
        xp.check(found, xp.values(slope), rtol=1e-9)


# -- the ends of domains ----------------------------------------------------------------------------------------


def test_large_logits_do_not_overflow() -> None:
    x = tg.tensor([-1e4, 1e4, -1e4, 1e4], requires_grad=True)
    losses = tg.bce_with_logits_loss(x, [0.0, 1.0, 1.0, 0.0], reduction="none")
    np.testing.assert_array_equal(values(losses), [0, 0, 1e4, 1e4])
    tg.sum(losses).backward()
    np.testing.assert_array_equal(values(x.grad), [0, 0, -1, 1])


def test_kl_div_of_impossible_classes() -> None:
    x = tg.tensor([-inf, 0.0], requires_grad=True)
    loss = tg.kl_div_loss(x, [0.0, 1.0], reduction="sum")
    loss.backward()
    assert float(loss) == 0.0
    np.testing.assert_array_equal(values(x.grad), [0.0, -1.0])


def test_info_nce_of_partners(xp: Place) -> None:
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((2, 4, 3)), rng.standard_normal((2, 4, 3))
    u, v = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
    scores = u @ np.swapaxes(v, 1, 2) / 0.5
    expected = np.log(np.exp(scores).sum(-1)) - np.einsum("bii->bi", scores)
    xp.check(tg.info_nce_loss(xp.tensor(a), xp.tensor(b), temperature=0.5, reduction="none"), expected, rtol=1e-9)
    learnt = tg.grad(lambda t: tg.info_nce_loss(xp.tensor(a), xp.tensor(b), temperature=t))(xp.tensor(0.5))
    assert np.isfinite(xp.values(learnt))


def test_means_of_nothing_are_not_numbers(xp: Place) -> None:
    empty = xp.tensor(np.zeros((0, 3)))
    assert np.isnan(xp.values(tg.mse_loss(empty, empty)))
    assert xp.values(tg.mse_loss(empty, empty, reduction="sum")) == 0
    x = xp.tensor(np.zeros((2, 3)), requires_grad=True)
    labels = tg.asarray([7, 7])
    loss = tg.cross_entropy(x, labels, ignore_index=7)
    assert np.isnan(xp.values(loss))
    tg.cross_entropy(x, labels, ignore_index=7, reduction="sum").backward()
    assert not xp.values(x.grad).any()


X, ONES = tg.ones((2, 3)), tg.ones(2)
LABELS = tg.asarray([0, 1])
Z = tg.log(tg.full((4, 2, 3), 1 / 3))
BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "shapes": (
        lambda: tg.mse_loss(X, tg.ones((2, 1))),
        ValueError,
        r"mse_loss: shapes \(2, 3\) and \(2, 1\) differ: reshape",
    ),
    "complex": (lambda: tg.mae_loss(X * 1j, X), TypeError, "mae_loss: operands are real, not complex128"),
    "delta": (lambda: tg.huber_loss(X, X, delta=0.0), ValueError, "huber_loss: delta is a positive number, not 0.0"),
    "beta": (lambda: tg.smooth_l1_loss(X, X, beta=cast("Any", "x")), TypeError, "beta is a positive number, not 'x'"),
    "pos_weight": (
        lambda: tg.bce_with_logits_loss(X, X, pos_weight=ONES),
        ValueError,
        r"a weight of shape \(2,\) must broadcast to x, of shape \(2, 3\)",
    ),
    "nll labels": (lambda: tg.nll_loss(X, ONES), TypeError, "nll_loss: labels must be integers, not float64"),
    "nll shape": (
        lambda: tg.nll_loss(X, LABELS[:1]),
        ValueError,
        r"nll_loss: x of shape \(2, 3\) needs labels of shape",
    ),
    "nll range": (lambda: tg.nll_loss(X, LABELS + 2), ValueError, "nll_loss: a label is out of range: with 3 classes"),
    "weight": (
        lambda: tg.cross_entropy(X, LABELS, weight=ONES),
        ValueError,
        r"weight needs shape \(3,\), one for each",
    ),
    "range": (lambda: tg.cross_entropy(X, LABELS - 1, reduction="sum"), ValueError, "cross_entropy: a label is out of"),
    "smoothing": (
        lambda: tg.cross_entropy(X, LABELS, label_smoothing=2.0),
        ValueError,
        "label_smoothing is a number from 0",
    ),
    "ignored": (lambda: tg.cross_entropy(X, X, ignore_index=0), ValueError, "ignore_index goes with integer labels"),
    "no index": (
        lambda: tg.cross_entropy(X, LABELS, ignore_index=cast("Any", 0.5)),
        TypeError,
        "ignore_index is an integer, not 0.5",
    ),
    "batchmean": (
        lambda: tg.kl_div_loss(X[0, 0], X[0, 0], reduction="batchmean"),
        ValueError,
        "needs an axis of examples",
    ),
    "triplet": (lambda: tg.triplet_margin_loss(1.0, 1.0, tg.asarray(1.0)), ValueError, "vectors along the last axis"),
    "cosine": (
        lambda: tg.cosine_embedding_loss(X, X, tg.ones(3)),
        ValueError,
        r"need labels of shape \(2,\), not \(3,\)",
    ),
    "info_nce": (lambda: tg.info_nce_loss(ONES, ONES), ValueError, r"vectors of shape \(\.\.\., n, width\) are needed"),
    "temperature": (lambda: tg.info_nce_loss(X, X, temperature=0.0), ValueError, "temperature is a positive number"),
    "ctc shapes": (
        lambda: tg.ctc_loss(Z, LABELS),
        ValueError,
        r"x of shape \(time, batch, classes\) needs labels of shape",
    ),
    "ctc labels": (lambda: tg.ctc_loss(Z, X), TypeError, "ctc_loss: labels are integers, not float64"),
    "ctc range": (
        lambda: tg.ctc_loss(Z, [[1], [3]]),
        ValueError,
        "a label is out of range: with 3 classes they are 0 to 2",
    ),
    "ctc blank": (lambda: tg.ctc_loss(Z, [[1], [2]], blank=3), ValueError, "blank is a class, from 0 to 2, not 3"),
    "ctc lengths": (lambda: tg.ctc_loss(Z, [[1], [2]], [4, 5]), ValueError, "input_lengths are from 0 to 4"),
    "ctc count": (
        lambda: tg.ctc_loss(Z, [[1], [2]], [4]),
        ValueError,
        r"input_lengths need shape \(2,\), one for each",
    ),
    "ctc float": (lambda: tg.ctc_loss(Z, [[1], [2]], None, [1.0, 1.0]), TypeError, "label_lengths are integers"),
    "ctc times": (lambda: tg.ctc_loss(Z[:0], [[1], [2]]), ValueError, "x has no times"),
}
LOSSES = [name for name in tg.__all__ if name.endswith("_loss")] + ["cross_entropy"]


@pytest.mark.parametrize("which", BAD)
def test_bad_input(which: str) -> None:
    call, error, message = BAD[which]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("name", LOSSES)
def test_unknown_reductions(name: str) -> None:
    operands: dict[str, tuple[Any, ...]] = {
        "ctc_loss": (Z, [[1], [2]]),
        "triplet_margin_loss": (X, X, X),
        "cosine_embedding_loss": (X, X, ONES),
        "nll_loss": (X, LABELS),
    }
    with pytest.raises(ValueError, match=rf"{name}: reduction is 'mean', 'sum'.* or '\w+'.*, not 'average'"):
        getattr(tg, name)(*operands.get(name, (X, X)), reduction="average")
