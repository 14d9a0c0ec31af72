"""Labels of classes as vectors, and cross-entropy."""

from __future__ import annotations

from functools import partial
from math import nan, prod
from typing import Any

from tapegrad._engine.bound import bound
from tapegrad._engine.coercion import as_tensor, as_tensors
from tapegrad._engine.dispatch import backend_of, dtype_of, native_device
from tapegrad._engine.mode import mode
from tapegrad._engine.primitive import primitive
from tapegrad._engine.rules import nondifferentiable, with_operators
from tapegrad._engine.source_line import user_line
from tapegrad._engine.tensor import Tensor
from tapegrad.ops._axes import integer
from tapegrad.ops._reduction import checked_reduction, reduced_loss
from tapegrad.ops._text import documented
from tapegrad.ops.binary import where
from tapegrad.ops.conversion import as_floats, as_indices, astype
from tapegrad.ops.creation import zeros, zeros_like
from tapegrad.ops.indexing import take, take_along_axis
from tapegrad.ops.reductions import sum as sum_
from tapegrad.ops.shaping import moveaxis, reshape
from tapegrad.ops.softmax import log_softmax, log_softmax_forward, overflows, shifted, softmax_forward
from tapegrad.typing import ArrayLike, DTypeLike


def _one_hot(xp: Any, labels: Any, n: int, dtype: Any) -> Any:
    """Return vectors with a one at each label; labels: in a dtype that holds n, see `as_indices`."""
    return xp.astype(labels[..., None] == xp.arange(n, dtype=labels.dtype, device=native_device(labels)), dtype)


@nondifferentiable
@documented(
    "Zeros, with a one at each label: the shape of `labels` with `num_classes` along the new axis.",
    "TypeError: The labels are no integers.",
    labels="Integers; one out of range gives zeros only.",
    num_classes="The length of the new axis.",
    dtype="The dtype of the result; the default floating one for None.",
    axis="The place of the new axis in the shape of the result.",
)
def one_hot(labels: ArrayLike, num_classes: int, /, *, dtype: DTypeLike | None = None, axis: int = -1) -> Tensor:
    """Vectors of zeros with a one at each label.

    Not differentiable.

    >>> import tapegrad as tg
    >>> tg.one_hot(tg.asarray([0, 2]), 3)
    Tensor([[1., 0., 0.],
            [0., 0., 1.]])
    """
    labels = as_tensor(labels)
    if "integer" not in labels.dtype.kind:
        raise TypeError(f"one_hot: labels must be integers, not {labels.dtype.name}")
    dtype = dtype or zeros(0, device=labels.device).dtype
    out = _one_hot(bound.tensor_namespace, as_indices(labels), num_classes, dtype)
    return out if axis == -1 else moveaxis(out, -1, axis)


@with_operators
def _cross_entropy_forward(xp: Any, logits: Any, labels: Any, flag: Any) -> tuple[Any, Any]:
    """Return the loss and softmax; flag: for labels out of range, False where they have been checked."""
    wide = overflows(logits, logits.shape[-1])
    z = shifted(xp, xp.astype(logits, xp.float32) if wide else logits, -1)
    e = xp.exp(z)
    s = xp.sum(e, axis=-1, keepdims=True)
    indices = labels[..., None]
    picked = xp.take_along_axis(z, indices, axis=-1)
    if flag is not False:
        xp.note_outside(indices, logits.shape[-1], flag)
    loss, p = xp.sum(xp.log(s) - picked) / _samples(labels), e / s
    return (xp.astype(loss, logits.dtype), xp.astype(p, logits.dtype)) if wide else (loss, p)


def _samples(labels: Any) -> int:
    return prod(labels.shape)


def _cross_entropy_vjp(xp: Any, t: Any, logits: Any, labels: Any, cache: Any) -> Any:
    p = softmax_forward(xp, logits, -1) if cache is None else cache
    return _each(xp, t, logits, _samples(labels)) * (p - _one_hot(xp, labels, logits.shape[-1], logits.dtype))


def _each(xp: Any, t: Any, logits: Any, samples: int) -> Any:
    """Return the cotangent of each sample's loss, to multiply arrays of the logits' shape."""
    t = t / samples
    return xp.reshape(t, (*t.shape, *(1,) * logits.ndim)) if t.ndim else t  # extra leading axes


_cross_entropy = primitive("cross_entropy", _cross_entropy_forward, _cross_entropy_vjp, None, cached=True, fuses=True)


@with_operators
def _of_probabilities_forward(xp: Any, logits: Any, labels: Any) -> tuple[Any, Any]:
    z = log_softmax_forward(xp, logits, -1)
    losses = xp.sum(labels * z, axis=-1)
    return -(xp.mean(losses) if len(logits.shape) > 1 else losses), z


def _of_probabilities_vjp(xp: Any, t: Any, logits: Any, labels: Any, cache: Any) -> Any:
    z = log_softmax_forward(xp, logits, -1) if cache is None else cache
    t = _each(xp, t, logits, prod(logits.shape[:-1]))
    return t * (xp.exp(z) * xp.sum(labels, axis=-1, keepdims=True) - labels)


def _of_probabilities_by_labels(xp: Any, t: Any, logits: Any, cache: Any) -> Any:
    z = log_softmax_forward(xp, logits, -1) if cache is None else cache
    return -_each(xp, t, logits, prod(logits.shape[:-1])) * z


_of_probabilities = primitive(
    "cross_entropy",
    _of_probabilities_forward,
    _of_probabilities_vjp,
    _of_probabilities_by_labels,
    cached=True,
    fuses=True,
    variant="probabilities",
)


@documented(
    "The loss: a Tensor without axes, or of shape (...) for the reduction 'none'. The dtype is that of `logits`, if "
    "that is floating.",
    "ValueError: The shapes do not fit, the reduction is another one, `label_smoothing` is not from 0 to 1, or a label "
    "is out of range. On a GPU, the latter is raised when a result is read; inside of a user's own `jax.jit`, the loss "
    "is NaN instead.",
    "TypeError: The labels are neither integers nor probabilities.",
    logits="Real floating, of shape (..., classes).",
    labels="Integers from 0 to classes - 1, of shape (...), or probabilities of the shape of `logits`.",
    weight="A factor for each class, of shape (classes,); ones for None.",
    label_smoothing="The share e of the uniform distribution: probabilities of labels become (1 - e) p + e / classes.",
    ignore_index="A label, in range or not, of samples that do not count; beside integers only.",
    reduction=(
        "'mean', over the weights of the labels that count (over samples, beside probabilities); 'sum'; or 'none', for "
        "the loss of each sample."
    ),
)
def cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    /,
    *,
    weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Mean over samples of -log softmax(logits)[label], without overflow.

    The options have PyTorch's meaning. Derivative in logits: t (softmax(logits) - one_hot(labels)) / samples; in
    probabilities: -t log_softmax(logits) / samples. With no label that counts, the mean is NaN.

    >>> import tapegrad as tg
    >>> tg.cross_entropy(tg.asarray([[0.0, 1000.0]]), tg.asarray([0]))
    Tensor(1000.)
    """
    logits, labels, *more = as_tensors("cross_entropy", logits, labels, *([] if weight is None else [weight]))
    logits = as_floats(logits)
    share = smoothing(label_smoothing)
    checked_reduction("cross_entropy", reduction)
    raw, shape = labels._array, logits._array.shape
    by_index = "integer" in dtype_of(raw).kind and shape and raw.shape == shape[:-1]
    if not by_index and not (labels.shape == logits.shape and "floating" in labels.dtype.kind):
        if "integer" not in labels.dtype.kind:
            raise TypeError(
                f"cross_entropy: labels must be integers, or probabilities of shape {logits.shape}, not "
                f"{labels.dtype.name} of shape {labels.shape}"
            )
        raise ValueError(
            f"cross_entropy: logits of shape {logits.shape} need labels of shape {logits.shape[:-1]}, not "
            f"{labels.shape}"
        )
    plain = not more and share == 0 and reduction == "mean"
    if not by_index:
        if ignore_index is not None:
            raise ValueError("cross_entropy: ignore_index goes with integer labels, not with probabilities")
        if plain:
            return _of_probabilities(logits, labels)
        return _of_smoothed(logits, labels, more, share, reduction)
    if plain and ignore_index is None:
        labels = as_indices(labels)
        if backend_of[type(raw)].is_symbolic(raw):
            logits = _spoiled(logits, labels)
        return _cross_entropy(logits, labels, _refusal(logits._array, labels._array))
    return of_log_probabilities("cross_entropy", log_softmax(logits), labels, more, share, ignore_index, reduction)


def smoothing(share: Any) -> float:
    """Return the share of the uniform distribution in labels."""
    try:
        value = float(share)
    except (TypeError, ValueError):
        raise TypeError(f"cross_entropy: label_smoothing is a number from 0 to 1, not {share!r}") from None
    if not 0 <= value <= 1:
        raise ValueError(f"cross_entropy: label_smoothing is a number from 0 to 1, not {share!r}")
    return value


def _of_smoothed(logits: Tensor, labels: Tensor, weight: list[Tensor], share: float, reduction: str) -> Tensor:
    """Return the cross-entropy of probabilities that are smoothed."""
    classes = logits.shape[-1]
    target = labels if share == 0 else labels * (1 - share) + share / (classes or 1)
    if weight:
        target = target * class_weights("cross_entropy", weight[0], classes)
    return reduced_loss("cross_entropy", -sum_(target * log_softmax(logits), axis=-1), reduction)


def class_weights(name: str, weight: Tensor, classes: int) -> Tensor:
    """Return weights of classes; raise ValueError unless there is one for each."""
    if weight.shape != (classes,):
        raise ValueError(f"{name}: weight needs shape {(classes,)}, one for each class, not {weight.shape}")
    return weight


def of_log_probabilities(
    name: str, z: Tensor, labels: Tensor, weight: list[Tensor], share: float, ignore_index: int | None, reduction: str
) -> Tensor:
    """Return the loss of logarithms of probabilities z for integer labels, which are checked."""
    classes = z.shape[-1]
    labels = as_indices(labels)
    valid = None
    if ignore_index is not None:
        valid = labels != integer(name, "ignore_index", ignore_index)
        labels = where(valid, labels, 0)
    if classes and 0 not in labels.shape:
        z = in_range(name, z, labels)
    factors = class_weights(name, weight[0], classes) if weight else None
    picked = take_along_axis(z, labels[..., None], axis=-1)[..., 0]
    counts = None
    if factors is not None:
        counts = reshape(take(factors, reshape(labels, (-1,)), axis=0), labels.shape)
    if valid is not None:
        counts = astype(valid, z.dtype) if counts is None else where(valid, counts, 0.0)
        picked = where(valid, picked, 0.0)
    losses = -picked if counts is None else -picked * counts
    if share:
        even = -sum_(z if factors is None else z * factors, axis=-1)
        even = even if valid is None else where(valid, even, 0.0)
        losses = losses * (1 - share) + even * (share / (classes or 1))
    if reduction != "mean" or counts is None:
        return reduced_loss(name, losses, reduction)
    total = sum_(counts)
    return sum_(losses) / where(total == 0, nan, total)


def in_range(name: str, z: Tensor, labels: Tensor) -> Tensor:
    """Refuse labels out of range; return z, which is NaN there in a function where nothing can raise."""
    raw = labels._array
    backend = backend_of[type(raw)]
    if backend.is_symbolic(raw):
        return _spoiled(z, labels)
    backend.refuse_outside(raw, z.shape[-1], partial(_out_of_range, z.shape[-1], user_line(), name))
    if mode().debug:
        backend.synchronize(raw)
    return z


def _spoiled(logits: Tensor, labels: Tensor) -> Tensor:
    """Return logits that are NaN where labels are out of range, in a function where nothing can raise for these."""
    outside = (labels < 0) | (labels >= logits.shape[-1])
    return logits + where(outside[..., None], nan, zeros_like(logits))


def _refusal(logits: Any, labels: Any) -> Any:
    """Check labels; return a flag where the kernel that reads them is to do so, else False."""
    if 0 in labels.shape:
        return False
    backend, m = backend_of[type(labels)], mode()
    error = partial(_out_of_range, logits.shape[-1], user_line())
    if m.watch is None and type(labels) is type(logits):  # an open Tape would list the flag
        return backend.refusal_outside(labels, logits.shape[-1], error)
    backend.refuse_outside(labels, logits.shape[-1], error)
    if m.debug:
        backend.synchronize(labels)
    return False


def _out_of_range(classes: int, line: str, name: str = "cross_entropy") -> ValueError:
    error = ValueError(f"{name}: a label is out of range: with {classes} classes they are 0 to {classes - 1}")
    error.add_note(f"labels of the call at {line}")
    return error
