"""Losses, as plain code over other operations.

Each has `reduction`: "mean", "sum" or "none". Their numbers are PyTorch's. Classes are the last axis.
"""

from __future__ import annotations

from math import inf, nan
from typing import Any

from tapegrad._engine.coercion import as_tensors
from tapegrad._engine.rules import composed
from tapegrad._engine.tensor import Tensor
from tapegrad.ops._reduction import REDUCTION, RETURNS, UNKNOWN, checked_reduction, reduced_loss
from tapegrad.ops._text import documented
from tapegrad.ops.activations import relu
from tapegrad.ops.binary import clip, logaddexp, minimum, where
from tapegrad.ops.classification import cross_entropy, of_log_probabilities
from tapegrad.ops.conversion import as_floats
from tapegrad.ops.creation import arange
from tapegrad.ops.elementwise import abs, exp, log, sqrt, square
from tapegrad.ops.norms import vector_norm
from tapegrad.ops.products import matmul, matrix_transpose
from tapegrad.ops.reductions import sum
from tapegrad.ops.shaping import broadcast_shapes, broadcast_to
from tapegrad.typing import ArrayLike

TARGET = "Real, of the shape of `x`."
PREDICTION = "Real floating."
COMPLEX = "TypeError: An operand is complex."
POSITIVE = "a positive number"
_SMALL = 1e-12  # beside a squared norm, so that one of zeros divides


def _floats(name: str, *operands: Any) -> list[Tensor]:
    """Return operands as real floating Tensors."""
    xs = [as_floats(x) for x in as_tensors(name, *operands)]
    for x in xs:
        if "complex" in x.dtype.kind:
            raise TypeError(f"{name}: operands are real, not {x.dtype.name}: take the loss of real and imaginary parts")
    return xs


def _alike(name: str, *operands: Any) -> list[Tensor]:
    """Return operands as real floating Tensors; raise ValueError unless they have one shape, which is no accident."""
    xs = _floats(name, *operands)
    shapes = [x.shape for x in xs]
    if len(set(shapes)) > 1:
        listed = " and ".join(map(str, shapes))
        raise ValueError(f"{name}: shapes {listed} differ: reshape one, or use tapegrad.broadcast_to where it is meant")
    return xs


def _number(name: str, what: str, value: Any, least: float, kind: str) -> float:
    """Return a parameter as a float; raise unless it is a finite number above `least`."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: {what} is {kind}, not {value!r}") from None
    if not least < number < inf:
        raise ValueError(f"{name}: {what} is {kind}, not {value!r}")
    return number


@composed
@documented(
    RETURNS,
    UNKNOWN,
    COMPLEX,
    x=PREDICTION,
    y=TARGET,
    reduction=REDUCTION,
)
def mse_loss(x: ArrayLike, y: ArrayLike, /, *, reduction: str = "mean") -> Tensor:
    """Squared error: (x - y)^2.

    Derivative: 2 t (x - y), over the number of elements for the mean.

    >>> import tapegrad as tg
    >>> tg.mse_loss(tg.asarray([1.0, 2.0]), tg.asarray([1.0, 4.0]))
    Tensor(2.)
    """
    checked_reduction("mse_loss", reduction)
    a, b = _alike("mse_loss", x, y)
    return reduced_loss("mse_loss", square(a - b), reduction)


@composed
@documented(
    RETURNS,
    UNKNOWN,
    COMPLEX,
    x=PREDICTION,
    y=TARGET,
    reduction=REDUCTION,
)
def mae_loss(x: ArrayLike, y: ArrayLike, /, *, reduction: str = "mean") -> Tensor:
    """Absolute error: abs(x - y).

    Derivative: t sign(x - y), 0 where they are equal.

    >>> import tapegrad as tg
    >>> tg.mae_loss(tg.asarray([1.0, 2.0]), tg.asarray([1.0, 4.0]))
    Tensor(1.)
    """
    checked_reduction("mae_loss", reduction)
    a, b = _alike("mae_loss", x, y)
    return reduced_loss("mae_loss", abs(a - b), reduction)


@composed
@documented(
    RETURNS,
    UNKNOWN,
    COMPLEX,
    "ValueError: `delta` is not positive.",
    x=PREDICTION,
    y=TARGET,
    delta="The distance from which on the loss is a straight line.",
    reduction=REDUCTION,
)
def huber_loss(x: ArrayLike, y: ArrayLike, /, *, delta: float = 1.0, reduction: str = "mean") -> Tensor:
    """Squared error near 0, absolute error far out.

    With d = x - y it is d^2 / 2 up to delta, then delta (abs(d) - delta / 2). Huber, doi:10.1214/aoms/1177703732.
    Derivative: t d, limited to t delta.

    >>> import tapegrad as tg
    >>> tg.huber_loss(tg.asarray([1.0, 2.0]), tg.asarray([1.0, 4.0]))
    Tensor(0.75)
    """
    checked_reduction("huber_loss", reduction)
    a, b = _alike("huber_loss", x, y)
    delta = _number("huber_loss", "delta", delta, 0, POSITIVE)
    d = a - b
    near = clip(d, -delta, delta)
    return reduced_loss("huber_loss", near * (d - 0.5 * near), reduction)


@composed
@documented(
    RETURNS,
    UNKNOWN,
    COMPLEX,
    "ValueError: `beta` is not positive.",
    x=PREDICTION,
    y=TARGET,
    beta="The distance from which on the loss is a straight line.",
    reduction=REDUCTION,
)
def smooth_l1_loss(x: ArrayLike, y: ArrayLike, /, *, beta: float = 1.0, reduction: str = "mean") -> Tensor:
    """Huber loss over beta: d^2 / (2 beta) up to beta, then abs(d) - beta / 2, with d = x - y.

    Girshick, arXiv:1504.08083. Derivative: t d / beta, limited to t.

    >>> import tapegrad as tg
    >>> tg.smooth_l1_loss(tg.asarray([1.0, 2.0]), tg.asarray([1.0, 4.0]))
    Tensor(0.75)
    """
    checked_reduction("smooth_l1_loss", reduction)
    beta = _number("smooth_l1_loss", "beta", beta, 0, POSITIVE)
    a, b = _alike("smooth_l1_loss", x, y)
    d = a - b
    near = clip(d, -beta, beta)
    return reduced_loss("smooth_l1_loss", near * (d - 0.5 * near) / beta, reduction)


@composed
@documented(
    RETURNS,
    UNKNOWN,
    COMPLEX,
    x="Logits, real floating.",
    y="Probabilities of the positive class, of the shape of `x`.",
    pos_weight="A factor of the part of y, which broadcasts to `x`.",
    weight="A factor of the loss of each, which broadcasts to `x`.",
    reduction=REDUCTION,
)
def bce_with_logits_loss(
    x: ArrayLike,
    y: ArrayLike,
    /,
    *,
    pos_weight: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Binary cross-entropy of logits: -y log sigmoid(x) - (1 - y) log sigmoid(-x), without overflow.

    Derivative: t (sigmoid(x) - y).

    >>> import tapegrad as tg
    >>> tg.bce_with_logits_loss(tg.asarray([0.0, 1000.0]), tg.asarray([1.0, 1.0]))
    Tensor(0.34657359)
    """
    checked_reduction("bce_with_logits_loss", reduction)
    name = "bce_with_logits_loss"
    a, b, *more = _floats(name, x, y, *[v for v in (pos_weight, weight) if v is not None])
    _alike(name, a, b)
    for v in more:
        if _broadcast(v, a) != a.shape:
            raise ValueError(f"{name}: a weight of shape {v.shape} must broadcast to x, of shape {a.shape}")
    positive = b * logaddexp(-a, 0.0)
    if pos_weight is not None:
        positive = positive * more[0]
    losses = positive + (1 - b) * logaddexp(a, 0.0)
    return reduced_loss(name, losses if weight is None else losses * more[-1], reduction)


def _broadcast(v: Tensor, x: Tensor) -> tuple[int, ...] | None:
    """Return the shape that two operands broadcast to, None if they do not."""
    try:
        return broadcast_shapes(v.shape, x.shape)
    except ValueError:
        return None


@composed
@documented(
    RETURNS,
    UNKNOWN,
    COMPLEX,
    "TypeError: The labels are no integers.",
    x="Logarithms of probabilities, of shape (..., classes), as `log_softmax` gives them.",
    labels="Integers from 0 to classes - 1, of shape (...).",
    weight="A factor for each class, of shape (classes,); the mean is over the weights of the labels.",
    ignore_index="A label, in range or not, of samples that do not count.",
    reduction=REDUCTION,
)
def nll_loss(
    x: ArrayLike,
    labels: ArrayLike,
    /,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Negative logarithm of the label's probability: -x[label].

    Derivative: -t at the label, 0 beside it.

    >>> import tapegrad as tg
    >>> tg.nll_loss(tg.asarray([[-0.5, -1.0]]), tg.asarray([1]))
    Tensor(1.)
    """
    checked_reduction("nll_loss", reduction)
    a, b, *more = as_tensors("nll_loss", x, labels, *([] if weight is None else [weight]))
    (a,) = _floats("nll_loss", a)
    if "integer" not in b.dtype.kind:
        raise TypeError(f"nll_loss: labels must be integers, not {b.dtype.name}")
    if a.ndim < 1 or b.shape != a.shape[:-1]:
        raise ValueError(f"nll_loss: x of shape {a.shape} needs labels of shape {a.shape[:-1]}, not {b.shape}")
    return of_log_probabilities("nll_loss", a, b, more, 0.0, ignore_index, reduction)


@composed
@documented(
    RETURNS,
    UNKNOWN,
    COMPLEX,
    x="Logarithms of probabilities.",
    y="Probabilities, of the shape of `x`; their logarithms with `log_target`.",
    log_target="Whether `y` holds logarithms.",
    reduction="'mean' over all elements, 'sum', 'none', or 'batchmean': the sum over the length of the first axis, "
    "which is the divergence itself for one distribution a row.",
)
def kl_div_loss(x: ArrayLike, y: ArrayLike, /, *, log_target: bool = False, reduction: str = "mean") -> Tensor:
    """Kullback-Leibler divergence: y (log(y) - x), with x the logarithm of the other distribution.

    Where y is 0, so is the term. Derivative in x: -t y; in y: t (log(y) + 1 - x), 0 where y is 0.

    >>> import tapegrad as tg
    >>> tg.kl_div_loss(tg.log(tg.asarray([[0.5, 0.5]])), tg.asarray([[1.0, 0.0]]), reduction="batchmean")
    Tensor(0.69314718)
    """
    name = "kl_div_loss"
    if reduction not in ("mean", "sum", "none", "batchmean"):
        raise ValueError(f"{name}: reduction is 'mean', 'sum', 'none' or 'batchmean', not {reduction!r}")
    a, b = _alike(name, x, y)
    if log_target:
        p, terms = exp(b), b - a
        terms = where(p == 0, 0.0, p * where(p == 0, 0.0, terms))
    else:
        inside = b > 0
        terms = where(inside, b * (log(where(inside, b, 1.0)) - where(inside, a, 0.0)), 0.0)
    if reduction != "batchmean":
        return reduced_loss(name, terms, reduction)
    if not a.ndim:
        raise ValueError(f"{name}: reduction='batchmean' needs an axis of examples; use 'sum'")
    return reduced_loss(name, terms, "sum") / (a.shape[0] or nan)


@composed
@documented(
    RETURNS,
    UNKNOWN,
    COMPLEX,
    x="Scores, real floating.",
    y="Labels -1 and 1, of the shape of `x`.",
    margin="The least x y without a loss.",
    reduction=REDUCTION,
)
def hinge_loss(x: ArrayLike, y: ArrayLike, /, *, margin: float = 1.0, reduction: str = "mean") -> Tensor:
    """Hinge loss: max(0, margin - x y).

    Derivative in x: -t y where x y < margin, else 0.

    >>> import tapegrad as tg
    >>> tg.hinge_loss(tg.asarray([0.5, 2.0]), tg.asarray([1.0, 1.0]))
    Tensor(0.25)
    """
    checked_reduction("hinge_loss", reduction)
    a, b = _alike("hinge_loss", x, y)
    return reduced_loss("hinge_loss", relu(float(margin) - a * b), reduction)


@composed
@documented(
    RETURNS,
    UNKNOWN,
    COMPLEX,
    anchor="Vectors along the last axis, real floating.",
    positive="Vectors that are to be near, of the same shape.",
    negative="Vectors that are to be far, of the same shape.",
    margin="By how much the negative is to be farther.",
    p="The order of the norm.",
    eps="The number to add to each difference, so that equal vectors have a slope.",
    swap="Whether the negative's distance is the lesser one of those from anchor and positive.",
    reduction=REDUCTION,
)
def triplet_margin_loss(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    /,
    *,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Triplet loss: max(0, margin + norm(anchor - positive) - norm(anchor - negative)).

    Balntas et al., BMVC 2016. Composed of `vector_norm` and `relu`.

    >>> import tapegrad as tg
    >>> tg.triplet_margin_loss(tg.zeros(2), tg.zeros(2), tg.asarray([0.0, 0.5]))
    Tensor(0.50000241)
    """
    checked_reduction("triplet_margin_loss", reduction)
    name = "triplet_margin_loss"
    a, b, c = _alike(name, anchor, positive, negative)
    if not a.ndim:
        raise ValueError(f"{name}: vectors along the last axis are needed, not numbers")

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return vector_norm(x - y + float(eps), axis=-1, ord=float(p))

    far = distance(a, c)
    if swap:
        far = minimum(far, distance(b, c))
    return reduced_loss(name, relu(float(margin) + distance(a, b) - far), reduction)


@composed
@documented(
    RETURNS,
    UNKNOWN,
    COMPLEX,
    x1="Vectors along the last axis, real floating.",
    x2="Vectors of the same shape.",
    y="Labels of the shape without the last axis: 1 for pairs that are to be alike, -1 for others.",
    margin="The cosine below which a pair that is to be unlike costs nothing.",
    reduction=REDUCTION,
)
def cosine_embedding_loss(
    x1: ArrayLike, x2: ArrayLike, y: ArrayLike, /, *, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """Loss of the angle: 1 - cos for pairs that are to be alike, max(0, cos - margin) for others.

    A vector of zeros has cosine 0. Composed of products, `sqrt` and `relu`.

    >>> import tapegrad as tg
    >>> tg.cosine_embedding_loss(tg.asarray([1.0, 0.0]), tg.asarray([0.0, 1.0]), tg.asarray(1))
    Tensor(1.)
    """
    checked_reduction("cosine_embedding_loss", reduction)
    name = "cosine_embedding_loss"
    a, b, labels = as_tensors(name, x1, x2, y)
    a, b = _alike(name, a, b)
    if not a.ndim or labels.shape != a.shape[:-1]:
        raise ValueError(f"{name}: vectors of shape {a.shape} need labels of shape {a.shape[:-1]}, not {labels.shape}")
    norms = (sum(square(a), axis=-1) + _SMALL) * (sum(square(b), axis=-1) + _SMALL)
    cos = sum(a * b, axis=-1) / sqrt(norms)
    losses = where(labels == 1, 1 - cos, where(labels == -1, relu(cos - float(margin)), 0.0))
    return reduced_loss(name, losses, reduction)


@composed
@documented(
    RETURNS,
    UNKNOWN,
    COMPLEX,
    "ValueError: `temperature` is not positive.",
    x1="Vectors of shape (..., n, width), real floating.",
    x2="Their partners, in the same order; all others are negatives.",
    temperature="The divisor of cosines: a number, or a Tensor that is learnt.",
    normalise="Whether vectors are divided by their norms; else their products are taken as they are.",
    reduction=REDUCTION,
)
def info_nce_loss(
    x1: ArrayLike,
    x2: ArrayLike,
    /,
    *,
    temperature: float | Tensor = 0.1,
    normalise: bool = True,
    reduction: str = "mean",
) -> Tensor:
    """Contrastive loss: cross-entropy of each vector's cosines with all x2, its own partner being the label.

    van den Oord et al., arXiv:1807.03748. Composed of `matmul` and `cross_entropy`.

    >>> import tapegrad as tg
    >>> tg.info_nce_loss(tg.eye(2), tg.eye(2), temperature=1.0)
    Tensor(0.31326169)
    """
    checked_reduction("info_nce_loss", reduction)
    name = "info_nce_loss"
    a, b = _alike(name, x1, x2)
    if a.ndim < 2:
        raise ValueError(f"{name}: vectors of shape (..., n, width) are needed, not {a.shape}")
    if not isinstance(temperature, Tensor):
        temperature = _number(name, "temperature", temperature, 0, POSITIVE)
    if normalise:
        a, b = (x / sqrt(sum(square(x), axis=-1, keepdims=True) + _SMALL) for x in (a, b))
    scores = matmul(a, matrix_transpose(b)) / temperature
    labels = broadcast_to(arange(a.shape[-2], device=a.device), a.shape[:-1])
    return cross_entropy(scores, labels, reduction=reduction)
