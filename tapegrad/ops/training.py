"""Functions for training beyond the standard: activations, softmax and its kin, cross-entropy.

They are primitives where composing them would keep more memory, take longer or overflow.
"""

from __future__ import annotations

from functools import partial, wraps
from math import nan, prod, sqrt
from typing import Any

from tapegrad._engine.bound import bound
from tapegrad._engine.coercion import as_tensor, as_tensors
from tapegrad._engine.dispatch import backend_of, dtype_of, native_device
from tapegrad._engine.elementwise import unary
from tapegrad._engine.mode import mode
from tapegrad._engine.primitive import primitive
from tapegrad._engine.rules import nondifferentiable, with_operators
from tapegrad._engine.source_line import user_line
from tapegrad._engine.tensor import Tensor
from tapegrad.ops import _slopes
from tapegrad.ops._axes import along, axes_of, axis_of, count, reduced, spread
from tapegrad.ops._text import FLOATED, REAL, documented, of_one
from tapegrad.ops.binary import where
from tapegrad.ops.conversion import as_floats, as_indices
from tapegrad.ops.creation import zeros, zeros_like
from tapegrad.ops.shaping import moveaxis
from tapegrad.typing import ArrayLike, Axis, DTypeLike

ANY_FLOATING = "Real or complex floating; integers and booleans count as floating."
_MODULE = __name__
_GELU_SCALE = 0.7978845608028654  # sqrt(2 / pi)
_GELU_CUBE = 0.044715
_MOST = 65504  # the largest number of half precision


sigmoid = unary(
    "sigmoid",
    lambda xp, t, out: t * out * (1 - out),  # by the result alone, as in tanh
    of_one(
        "Logistic function 1 / (1 + exp(-x)), without overflow.",
        "Derivative: t out (1 - out).",
        "tg.sigmoid(tg.asarray(0.0))",
        "Tensor(0.5)",
    ),
    module=_MODULE,
)
relu = unary(
    "relu",
    lambda xp, t, out: xp.where(out > 0, t, 0),
    of_one(
        "Values of x where they are positive, else 0.",
        "Derivative: t where x > 0, else 0.",
        "tg.relu(tg.asarray([-1.0, 2.0]))",
        "Tensor([0., 2.])",
        REAL,
    ),
    forward=lambda xp, x: xp.maximum(x, 0),
    select=lambda xp, _, out: out > 0,
    module=_MODULE,
)


@with_operators
def _silu_forward(xp: Any, x: Any) -> tuple[Any, Any]:
    s = xp.sigmoid(x)
    return x * s, s


def _silu_vjp(xp: Any, t: Any, x: Any, cache: Any) -> Any:
    return t * (_slopes.silu(xp, x) if cache is None else _slopes.silu_of(xp, x, cache))


_silu = primitive("silu", _silu_forward, _silu_vjp, cached=True, fuses=True, elementwise=True)


@documented(f"The shape is that of `x`. {FLOATED}", x=ANY_FLOATING)
def silu(x: ArrayLike, /) -> Tensor:
    """Product of x and the logistic function of x, also known as swish.

    Derivative: t (s + x s (1 - s)) with s = sigmoid(x).

    >>> import tapegrad as tg
    >>> tg.silu(tg.asarray(0.0))
    Tensor(0.)
    """
    return _silu(as_floats(x))


def _gelu_share(xp: Any, x: Any, approximate: str) -> Any:
    """Return the factor of x: the normal distribution function, or 1 + th."""
    if approximate == "tanh":
        return 1 + xp.tanh(x * (_GELU_SCALE + (_GELU_SCALE * _GELU_CUBE) * (x * x)))
    share = 0.5 * xp.special.erfc(x * -sqrt(0.5))  # which has its digits where it is near 0, as 1 + erf has not
    return share if share.dtype == x.dtype else xp.astype(share, x.dtype)  # SciPy's gives float64 for float16


@with_operators
def _gelu_forward(xp: Any, x: Any, approximate: str) -> tuple[Any, Any]:
    share = _gelu_share(xp, x, approximate)
    return (0.5 * x * share if approximate == "tanh" else x * share), share


def _gelu_vjp(xp: Any, t: Any, x: Any, cache: Any, approximate: str) -> Any:
    if approximate == "none":
        return t * (_slopes.gelu(xp, x) if cache is None else _slopes.gelu_of(xp, x, cache))
    # Where x is infinite, or x * x overflows, 1 - th^2 is 0: the slope at the bound will do.
    z = xp.minimum(xp.maximum(x, -32.0), 32.0)
    share = _gelu_share(xp, z, approximate) if cache is None else cache
    slope = _GELU_SCALE + (3 * _GELU_SCALE * _GELU_CUBE) * (z * z)
    half = 0.5 * share
    return t * (half + half * (2 - share) * z * slope)


_gelu = primitive("gelu", _gelu_forward, _gelu_vjp, cached=True, fuses=True, elementwise=True)


@documented(
    f"The shape is that of `x`. {FLOATED}",
    "ValueError: `approximate` is another one.",
    "ImportError: 'none' needs SciPy, as `tapegrad.special` does, and it is not installed.",
    x="Real floating; integers and booleans count as floating.",
    approximate=(
        "'none' for x erfc(-x / sqrt(2)) / 2; 'tanh' for 0.5 x (1 + th) with th = tanh(sqrt(2 / "
        "pi) (x + 0.044715 x^3)), which is faster and differs by up to 0.0005."
    ),
)
def gelu(x: ArrayLike, /, *, approximate: str = "none") -> Tensor:
    """Product of x and the normal distribution function of x.

    Hendrycks and Gimpel, arXiv:1606.08415, with PyTorch's option. It keeps x and its factor. Derivative: t (p + x
    exp(-x^2 / 2) / sqrt(2 pi)) with p the normal distribution function; 0.5 t (1 + th) (1 + x (1 - th) u') with u' the
    derivative of the argument of tanh.

    >>> import tapegrad as tg
    >>> x = tg.asarray([-1.0, 0.0, 1.0])
    >>> tg.gelu(x), tg.gelu(x, approximate="tanh")
    (Tensor([-0.15865525,  0.        ,  0.84134475]), Tensor([-0.15880801,  0.        ,  0.84119199]))
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate is 'none', for the exact function, or 'tanh', not {approximate!r}")
    try:
        return _gelu(as_floats(x), approximate)
    except ImportError as error:
        raise ImportError(f"{error}; or pass approximate='tanh', which needs no other library") from error


# -- softmax and its kin -----------------------------------------------------------------------------------


def _overflows(x: Any, n: int) -> bool:
    """Say whether a sum of n exponentials, of at most 1, may overflow the dtype of x."""
    return n > _MOST and dtype_of(x).itemsize == 2


def _in_single(forward: Any) -> Any:
    """Compute in single precision where a sum of exponentials along the given axes may overflow half precision."""

    @wraps(forward)
    def call(xp: Any, x: Any, axis: Any, *static: Any) -> Any:
        if not _overflows(x, count(x.shape, axis if isinstance(axis, tuple) else (axis,))):
            return forward(xp, x, axis, *static)
        return xp.astype(forward(xp, xp.astype(x, xp.float32), axis, *static), x.dtype)

    return call


def _shifted(xp: Any, x: Any, axis: Any) -> Any:
    """Return x less its maximum, so that no exponential overflows."""
    if x.shape[axis] == 0:
        return x  # nothing has no maximum
    return x - xp.max(x, axis=axis, keepdims=True)


@with_operators
@_in_single
def _softmax_forward(xp: Any, x: Any, axis: int) -> Any:
    e = xp.exp(_shifted(xp, x, axis))
    return e / xp.sum(e, axis=axis, keepdims=True)


@with_operators
@_in_single
def _log_softmax_forward(xp: Any, x: Any, axis: int) -> Any:
    z = _shifted(xp, x, axis)
    if x.shape[axis] == 0:
        return xp.positive(x)  # without a warning about the logarithm of an empty sum
    return z - xp.log(xp.sum(xp.exp(z), axis=axis, keepdims=True))


def _softmax_vjp(xp: Any, t: Any, out: Any, axis: int) -> Any:
    return out * (t - xp.sum(t * out, axis=axis, keepdims=True))


_softmax = primitive("softmax", _softmax_forward, _softmax_vjp, fuses=True, rows=along)
_log_softmax = primitive(
    "log_softmax",
    _log_softmax_forward,
    lambda xp, t, out, axis: t - xp.exp(out) * xp.sum(t, axis=axis, keepdims=True),
    fuses=True,
    rows=along,
)


@documented(f"The shape is that of `x`. {FLOATED}", x=ANY_FLOATING, axis="The axis to sum over.")
def softmax(x: ArrayLike, /, *, axis: int = -1) -> Tensor:
    """Exponentials over their sum along an axis, without overflow.

    Derivative: out (t - sum(t out)).

    >>> import tapegrad as tg
    >>> tg.softmax(tg.asarray([0.0, 0.0]))
    Tensor([0.5, 0.5])
    """
    x = as_floats(x)
    return _softmax(x, axis_of("softmax", x.ndim, axis))


@documented(f"The shape is that of `x`. {FLOATED}", x=ANY_FLOATING, axis="The axis to sum over.")
def log_softmax(x: ArrayLike, /, *, axis: int = -1) -> Tensor:
    """Logarithm of softmax along an axis, precise where that is near 0.

    Derivative: t - softmax(x) sum(t).

    >>> import tapegrad as tg
    >>> tg.log_softmax(tg.asarray([0.0, -1000.0]))
    Tensor([    0., -1000.])
    """
    x = as_floats(x)
    return _log_softmax(x, axis_of("log_softmax", x.ndim, axis))


@with_operators
@_in_single
def _logsumexp_forward(xp: Any, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    if count(x.shape, axis) == 0:
        return xp.sum(x, axis=axis, keepdims=keepdims) - xp.inf
    m = xp.max(x, axis=axis, keepdims=True)
    m = xp.where(xp.isfinite(m), m, 0)
    s = xp.sum(xp.exp(x - m), axis=axis, keepdims=True)
    out = m + xp.log(xp.where(s == 0, 1, s))
    out = xp.where(s == 0, -xp.inf, out)
    return out if keepdims else xp.squeeze(out, axis=axis) if axis else out


def _logsumexp_vjp(xp: Any, t: Any, x: Any, out: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    t, out = (spread(xp, v, x.shape, axis, keepdims) for v in (t, out))
    nothing = out == -xp.inf
    e = xp.exp(x - xp.where(nothing, 0, out))
    # The sum is 1 but for the rounding of out, which may be large: its digits are those of the largest value.
    return t / xp.where(nothing, 1, xp.sum(e, axis=axis, keepdims=True)) * e


_logsumexp = primitive("logsumexp", _logsumexp_forward, _logsumexp_vjp, fuses=True, rows=reduced)


@documented(
    f"The logarithms: a number for each place along the other axes. {FLOATED}",
    x=ANY_FLOATING,
    axis="The axes to sum over; all of them for None.",
)
def logsumexp(x: ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Logarithm of the sum of exponentials over axes, without overflow.

    Derivative: t softmax(x).

    >>> import tapegrad as tg
    >>> tg.logsumexp(tg.asarray([1000.0, -1000.0]))
    Tensor(1000.)
    """
    x = as_floats(x)
    return _logsumexp(x, axes_of("logsumexp", x.ndim, axis), keepdims)


# -- classification ----------------------------------------------------------------------------------------


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
    wide = _overflows(logits, logits.shape[-1])
    z = _shifted(xp, xp.astype(logits, xp.float32) if wide else logits, -1)
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
    p = _softmax_forward(xp, logits, -1) if cache is None else cache
    return _each(xp, t, logits, _samples(labels)) * (p - _one_hot(xp, labels, logits.shape[-1], logits.dtype))


def _each(xp: Any, t: Any, logits: Any, samples: int) -> Any:
    """Return the cotangent of each sample's loss, to multiply arrays of the logits' shape."""
    t = t / samples
    return xp.reshape(t, (*t.shape, *(1,) * logits.ndim)) if t.ndim else t  # extra leading axes


_cross_entropy = primitive("cross_entropy", _cross_entropy_forward, _cross_entropy_vjp, None, cached=True, fuses=True)


@with_operators
def _of_probabilities_forward(xp: Any, logits: Any, labels: Any) -> tuple[Any, Any]:
    z = _log_softmax_forward(xp, logits, -1)
    losses = xp.sum(labels * z, axis=-1)
    return -(xp.mean(losses) if len(logits.shape) > 1 else losses), z


def _of_probabilities_vjp(xp: Any, t: Any, logits: Any, labels: Any, cache: Any) -> Any:
    z = _log_softmax_forward(xp, logits, -1) if cache is None else cache
    t = _each(xp, t, logits, prod(logits.shape[:-1]))
    return t * (xp.exp(z) * xp.sum(labels, axis=-1, keepdims=True) - labels)


def _of_probabilities_by_labels(xp: Any, t: Any, logits: Any, cache: Any) -> Any:
    z = _log_softmax_forward(xp, logits, -1) if cache is None else cache
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
    "The loss, a Tensor without axes. The dtype is that of `logits`, if that is floating.",
    "ValueError: The shapes do not fit, or a label is out of range. On a GPU, the latter is raised when a result is "
    "read; inside of a user's own `jax.jit`, the loss is NaN instead.",
    "TypeError: The labels are neither integers nor probabilities.",
    logits="Real floating, of shape (..., classes).",
    labels="Integers from 0 to classes - 1, of shape (...), or probabilities of the shape of `logits`.",
)
def cross_entropy(logits: ArrayLike, labels: ArrayLike, /) -> Tensor:
    """Mean over samples of -log softmax(logits)[label], without overflow.

    Derivative in logits: t (softmax(logits) - one_hot(labels)) / samples; in probabilities: -t log_softmax(logits) /
    samples.

    >>> import tapegrad as tg
    >>> tg.cross_entropy(tg.asarray([[0.0, 1000.0]]), tg.asarray([0]))
    Tensor(1000.)
    """
    logits, labels = as_tensors("cross_entropy", logits, labels)
    logits = as_floats(logits)
    raw, shape = labels._array, logits._array.shape
    if "integer" in dtype_of(raw).kind and shape and raw.shape == shape[:-1]:
        labels = as_indices(labels)
        if backend_of[type(raw)].is_symbolic(raw):
            logits = _spoiled(logits, labels)
        return _cross_entropy(logits, labels, _refusal(logits._array, labels._array))
    if labels.shape == logits.shape and "floating" in labels.dtype.kind:
        return _of_probabilities(logits, labels)
    if "integer" not in labels.dtype.kind:
        raise TypeError(
            f"cross_entropy: labels must be integers, or probabilities of shape {logits.shape}, not "
            f"{labels.dtype.name} of shape {labels.shape}"
        )
    raise ValueError(
        f"cross_entropy: logits of shape {logits.shape} need labels of shape {logits.shape[:-1]}, not {labels.shape}"
    )


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


def _out_of_range(classes: int, line: str) -> ValueError:
    error = ValueError(f"cross_entropy: a label is out of range: with {classes} classes they are 0 to {classes - 1}")
    error.add_note(f"labels of the call at {line}")
    return error
