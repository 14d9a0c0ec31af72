"""Connectionist temporal classification: the loss of a sequence of labels without their places in time."""

from __future__ import annotations

from functools import partial
from math import inf
from typing import Any

from tapegrad._engine.coercion import as_tensors
from tapegrad._engine.dispatch import backend_of, native_device
from tapegrad._engine.mode import mode
from tapegrad._engine.primitive import primitive
from tapegrad._engine.rules import with_operators
from tapegrad._engine.source_line import user_line
from tapegrad._engine.tensor import Tensor
from tapegrad.ops._axes import integer
from tapegrad.ops._reduction import RETURNS, checked_reduction, reduced_loss
from tapegrad.ops._text import documented
from tapegrad.ops.binary import maximum, where
from tapegrad.ops.conversion import as_floats, as_indices, astype
from tapegrad.ops.creation import arange, full
from tapegrad.ops.shaping import concat, expand_dims, reshape, stack
from tapegrad.typing import ArrayLike

_NEVER = -1e30  # the logarithm of no probability: finite, so that differences of two are 0
_IMPOSSIBLE = -1e29  # below this, no path gives the labels


def _steps(xp: Any, x: Any, states: Any) -> Any:
    """Return the logarithm of each state's probability at each time, (time, batch, states)."""
    wide = xp.broadcast_to(states[None, ...], (x.shape[0], *states.shape))
    return xp.take_along_axis(x, wide, axis=-1)


def _shifted(xp: Any, a: Any, n: int) -> Any:
    """Return values of the states n before, or after for a negative n."""
    never = xp.zeros_like(a[..., : abs(n)]) + _NEVER
    if abs(n) >= a.shape[-1]:
        return xp.zeros_like(a) + _NEVER
    return xp.concat([never, a[..., :-n]] if n > 0 else [a[..., -n:], never], axis=-1)


def _moved(xp: Any, a: Any, skips: Any, n: int) -> Any:
    """Return the logarithm of the sum over the states that may come before (n = 1), or after (n = -1).

    That is the state itself, its neighbour, and the state two on, where a blank between may be left out.
    """
    near = xp.logaddexp(a, _shifted(xp, a, n))
    return xp.logaddexp(near, xp.where(skips, _shifted(xp, a, 2 * n), _NEVER))


def _forward_variables(xp: Any, steps: Any, skips: Any, lengths: Any) -> list[Any]:
    """Return the logarithm of the probability of all paths to each state, for each time."""
    numbers = _numbers(xp, steps)
    a = xp.where(numbers < 2, steps[0, ...], _NEVER)
    a = xp.where((lengths > 0)[:, None], a, xp.where(numbers == 0, xp.zeros_like(a), _NEVER))  # no time, no label
    found = [a]
    for i in range(1, steps.shape[0]):
        a = xp.where((lengths > i)[:, None], steps[i, ...] + _moved(xp, a, skips, 1), a)
        found.append(a)
    return found


def _numbers(xp: Any, steps: Any) -> Any:
    """Return the numbers of the states."""
    return xp.arange(steps.shape[-1], device=native_device(steps))


def _ends(xp: Any, steps: Any, counts: Any) -> Any:
    """Return which states a path may end in: the last label and the blank behind it."""
    numbers, last = _numbers(xp, steps), 2 * counts[:, None]
    return (numbers == last) | (numbers == last - 1)


def _total(xp: Any, a: Any, ends: Any) -> Any:
    """Return the logarithm of the probability of the labels."""
    a = xp.where(ends, a, _NEVER)
    top = xp.max(a, axis=-1, keepdims=True)
    return (top + xp.log(xp.sum(xp.exp(a - top), axis=-1, keepdims=True)))[..., 0]


def _skips(xp: Any, states: Any, n: int) -> Any:
    """Return which states are two on from one with another label, so that the blank between may be left out."""
    odd = xp.arange(states.shape[-1], device=native_device(states)) % 2 == 1
    before = xp.concat([states[:, :2], states[:, :-2]], axis=-1)
    found = (states != before) & odd
    if n > 0:
        return found
    return xp.concat([found[:, 2:], xp.zeros_like(found[:, :2])], axis=-1) if states.shape[-1] > 2 else found & ~found


@with_operators
def _ctc_forward(xp: Any, x: Any, states: Any, lengths: Any, counts: Any) -> Any:
    steps = _steps(xp, x, states)
    last = _forward_variables(xp, steps, _skips(xp, states, 1), lengths)[-1]
    total = _total(xp, last, _ends(xp, steps, counts))
    return xp.where(total < _IMPOSSIBLE, xp.inf, -total)


def _ctc_vjp(xp: Any, t: Any, x: Any, states: Any, lengths: Any, counts: Any) -> Any:
    """Return -t times the probability of each class at each time, given the labels; 0 where these are impossible.

    The forward and backward variables of Graves et al. 2006, section 4.1, in logarithms.
    """
    steps = _steps(xp, x, states)
    ends = _ends(xp, steps, counts)
    forward = _forward_variables(xp, steps, _skips(xp, states, 1), lengths)
    total = _total(xp, forward[-1], ends)
    possible = total >= _IMPOSSIBLE
    total = xp.where(possible, total, 0)[:, None]
    skips = _skips(xp, states, -1)
    start = xp.where(ends, xp.zeros_like(forward[0]), _NEVER)
    b, shares = start, []
    for i in range(x.shape[0] - 1, -1, -1):
        inside = (lengths > i)[:, None]
        if i + 1 < x.shape[0]:
            b = xp.where((lengths > i + 1)[:, None], _moved(xp, b + steps[i + 1, ...], skips, -1), start)
        shares.append(xp.where(inside & possible[:, None], xp.exp(forward[i] + b - total), 0))
    occupancy = xp.stack(shares[::-1], axis=-3)
    classes = xp.arange(x.shape[-1], dtype=states.dtype, device=native_device(states))
    members = xp.astype(states[..., None] == classes, x.dtype)
    found = xp.permute_dims(xp.matmul(xp.permute_dims(occupancy, (1, 0, 2)), members), (1, 0, 2))
    return -t[..., None, :, None] * found


_ctc = primitive("ctc_loss", _ctc_forward, _ctc_vjp, None, None, None)


def _lengths(name: str, what: str, given: Any, most: int, n: int, like: Tensor) -> Tensor:
    """Return lengths as integers (n,), `most` for None; refuse those out of range."""
    if given is None:
        return full((n,), most, dtype="int64" if like.dtype.itemsize == 8 else "int32", device=like.device)
    _, found = as_tensors(name, like, given)
    if "integer" not in found.dtype.kind:
        raise TypeError(f"{name}: {what} are integers, not {found.dtype.name}")
    if found.shape != (n,):
        raise ValueError(f"{name}: {what} need shape {(n,)}, one for each example, not {found.shape}")
    found = as_indices(found)
    _refuse_outside(found, most + 1, f"{name}: {what} are from 0 to {most}")
    return found


def _refuse_outside(x: Tensor, n: int, message: str) -> None:
    raw = x._array
    if 0 in raw.shape:
        return
    backend = backend_of[type(raw)]
    if backend.is_symbolic(raw):
        return
    backend.refuse_outside(raw, n, partial(_error, message, user_line()))
    if mode().debug:
        backend.synchronize(raw)


def _error(message: str, line: str) -> ValueError:
    error = ValueError(message)
    error.add_note(f"in the call at {line}")
    return error


@documented(
    RETURNS,
    "ValueError: The shapes do not fit, a label or length is out of range, `blank` is no class, or the reduction is "
    "another one. On a GPU, values out of range are found when a result is read.",
    "TypeError: Labels or lengths are no integers, or `x` is complex.",
    x="Logarithms of probabilities, (time, batch, classes), or (time, classes) of one example.",
    labels="The labels of each example, (batch, most labels) or (labels,); those behind its own are not read.",
    input_lengths="How many times of each example count, (batch,); all for None.",
    label_lengths="How many labels each example has, (batch,); all for None.",
    blank="The class that stands for no label.",
    zero_infinity="Whether labels that no path gives, as they are too many, cost 0; else the loss is infinite. Either "
    "way its gradient is 0.",
    reduction="'mean' of each loss over its number of labels; 'sum'; or 'none', for the loss of each example.",
)
def ctc_loss(
    x: ArrayLike,
    labels: ArrayLike,
    /,
    input_lengths: ArrayLike | None = None,
    label_lengths: ArrayLike | None = None,
    *,
    blank: int = 0,
    zero_infinity: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Connectionist temporal classification: -log of the probability of all paths that give the labels.

    A path names a class at each time; it gives the labels that are left when repetitions and then blanks are dropped.
    Graves et al., doi:10.1145/1143844.1143891, in logarithms. Derivative in x: -t times the probability of a class at a
    time, given the labels.

    >>> import tapegrad as tg
    >>> x = tg.log(tg.asarray([[0.5, 0.5], [0.5, 0.5]]))
    >>> tg.exp(-tg.ctc_loss(x, tg.asarray([1])))  # paths 1 1, 1 blank and blank 1
    Tensor(0.75)
    """
    name = "ctc_loss"
    checked_reduction(name, reduction)
    given, marks = as_tensors(name, x, labels)
    z = as_floats(given)
    if "complex" in z.dtype.kind:
        raise TypeError(f"{name}: x is real, not {z.dtype.name}")
    if "integer" not in marks.dtype.kind:
        raise TypeError(f"{name}: labels are integers, not {marks.dtype.name}")
    single = z.ndim == 2
    if single:
        z = expand_dims(z, axis=1)
        marks = expand_dims(marks, axis=0)
        input_lengths, label_lengths = (
            v if v is None else reshape(as_tensors(name, z, v)[1], (-1,)) for v in (input_lengths, label_lengths)
        )
    if z.ndim != 3 or marks.ndim != 2 or marks.shape[0] != z.shape[1]:
        raise ValueError(
            f"{name}: x of shape (time, batch, classes) needs labels of shape (batch, labels), not {given.shape} and "
            f"{as_tensors(name, x, labels)[1].shape}"
        )
    times, batch, classes = z.shape
    blank = integer(name, "blank", blank)
    if not 0 <= blank < classes:
        raise ValueError(f"{name}: blank is a class, from 0 to {classes - 1}, not {blank}")
    if times == 0:
        raise ValueError(f"{name}: x has no times: shape {given.shape}")
    dtype = z.dtype
    z = astype(z, "float32") if dtype.itemsize == 2 else z
    ends = _lengths(name, "input_lengths", input_lengths, times, batch, z)
    counts = _lengths(name, "label_lengths", label_lengths, marks.shape[1], batch, z)
    marks = as_indices(marks)
    own = arange(marks.shape[1], device=z.device) < counts[:, None]
    marks = where(own, marks, blank)
    _refuse_outside(
        marks, classes, f"{name}: a label is out of range: with {classes} classes they are 0 to {classes - 1}"
    )
    # States: a blank, the first label, a blank, the second label, ..., a blank.
    blanks = where(own, blank, blank)
    states = reshape(stack([blanks, marks], axis=-1), (batch, 2 * marks.shape[1]))
    states = concat([states, full((batch, 1), blank, dtype=states.dtype, device=z.device)], axis=-1)
    losses = _ctc(maximum(z, _NEVER / 1e10), states, ends, counts)
    if zero_infinity:
        losses = where(losses == inf, 0.0, losses)
    losses = losses if losses.dtype == dtype else astype(losses, dtype)
    if reduction == "mean":
        losses = losses / astype(maximum(counts, 1), dtype)
    return losses[0] if single and reduction == "none" else reduced_loss(name, losses, reduction)
