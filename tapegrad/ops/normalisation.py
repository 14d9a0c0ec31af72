"""Normalisation by mean and variance: of layers, of groups of channels, of batches.

All stand on one operation, `standardised`. It keeps its results alone: the values and, for each row, mean and variance.
"""

from __future__ import annotations

from functools import partial
from math import inf
from typing import Any, NamedTuple

from tapegrad._engine.coercion import as_tensors
from tapegrad._engine.dispatch import namespace_of
from tapegrad._engine.dtypes import as_dtype
from tapegrad._engine.fusing import Forwards
from tapegrad._engine.primitive import primitive, several
from tapegrad._engine.rules import composed, with_operators
from tapegrad._engine.tensor import Tensor
from tapegrad.ops._axes import axes_of, count, integer
from tapegrad.ops._text import FLOATED, documented
from tapegrad.ops.conversion import as_floats, astype
from tapegrad.ops.dtypes import finfo
from tapegrad.ops.elementwise import sqrt
from tapegrad.ops.shaping import reshape
from tapegrad.typing import ArrayLike

BIAS = "What to add, in the shape of `w`; nothing for None."
LIKE_X = f"The shape is that of `x`. {FLOATED}"
EPS = "What to add to the variance, so that equal values give zeros."
UNFIT = "ValueError: The shapes do not fit, or `eps` is negative."
COMPLEX = "TypeError: `x` is complex, or `eps` is no number."
IN_CHANNELS = "Real floating, of shape (batch, channels, ...)."
FOR_CHANNELS = "What to multiply with, of shape (channels,); nothing for None."


# -- the operation -----------------------------------------------------------------------------------------


def _is_half(x: Any) -> bool:
    return as_dtype(x.dtype).itemsize == 2


def _has_own(xp: Any, x: Any, axis: tuple[int, ...]) -> bool:
    """Say whether the library has a function of its own for rows of x."""
    if axis != tuple(range(-len(axis), 0)) or not x.size or not axis or not hasattr(xp, "standardise"):
        return False
    return not _is_half(x)


@with_operators
def _standardised_forward(xp: Any, x: Any, axis: tuple[int, ...], eps: float, centred: bool) -> tuple[Any, ...]:
    """Return (x - mean) / sqrt(var + eps), mean and var along axes; or x / sqrt(var + eps), where var is mean(x^2).

    The mean is corrected by that of the differences from it, so that neither a large mean nor its rounding spoils them:
    the corrected two-pass algorithm of Chan, Golub and LeVeque, doi:10.1080/00031305.1983.10483115. Numbers of 16 bits
    are summed in single precision.
    """
    if _has_own(xp, x, axis):
        return xp.standardise(x, len(axis), eps, centred)  # type: ignore[no-any-return]
    z = xp.astype(x, xp.float32) if _is_half(x) else x
    mean = xp.mean if count(x.shape, axis) else xp.sum  # nothing has no mean: 0, without a warning
    means = []
    if centred:
        first = mean(z, axis=axis, keepdims=True)
        z = z - first
        rest = mean(z, axis=axis, keepdims=True)
        z = z - rest
        means = [first + rest]
    var = mean(z * z, axis=axis, keepdims=True)
    out = z * (1 / xp.sqrt(var + eps))
    return (out if out.dtype == x.dtype else xp.astype(out, x.dtype), *means, var)


@with_operators
def _slope(xp: Any, t: Any, out: Any, var: Any, axis: tuple[int, ...], eps: float, centred: bool) -> Any:
    """Return (t - mean(t) - out mean(t out)) / sqrt(var + eps); without mean(t) where x was not centred."""
    if count(out.shape, axis) == 0:
        return t
    if _has_own(xp, out, axis) and t.shape == out.shape and t.dtype == out.dtype:
        return xp.standardise_gradient(t, out, var, len(axis), eps, centred)
    if _is_half(out):
        t, out = xp.astype(t, xp.float32), xp.astype(out, xp.float32)
    share = xp.mean(t * out, axis=axis, keepdims=True)
    if centred:
        t = t - xp.mean(t, axis=axis, keepdims=True)
    return (t - out * share) * (1 / xp.sqrt(var + eps))


_slopes = Forwards("standardised_vjp", _slope, True)  # on raw arrays: one kernel, where calls are launches


def _standardised_vjp(
    xp: Any, ts: list[Any], outs: tuple[Any, ...], axis: tuple[int, ...], eps: float, centred: bool
) -> Any:
    t, *of_means, t_var = ts
    out, *_, var = outs
    n = count(out.shape, axis) or 1
    terms = []
    if t is not None:
        args = (t, out, var, axis, eps, centred)
        terms.append(_slope(xp, *args) if type(t) is Tensor else _slopes[type(t)](*args))
    if t_var is not None:  # var is the mean of d^2, where d is out * sqrt(var + eps)
        terms.append(t_var * (2 / n) * xp.sqrt(var + eps) * out)
    for t_mean in of_means:
        if t_mean is not None:
            batch_shape = tuple(t_mean.shape[: len(t_mean.shape) - len(out.shape)])
            terms.append(xp.broadcast_to(t_mean / n, (*batch_shape, *out.shape)))
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


_standardised = several("standardised", _standardised_forward, _standardised_vjp, fuses=True)


# With weights, where the library has a function of its own for all passes: it keeps x, w and two numbers a row.


def _layer_norm_forward(xp: Any, x: Any, w: Any, b: Any, axis: tuple[int, ...], eps: float) -> tuple[Any, Any]:
    return xp.layer_norm_rows(x, w, b, len(axis), eps)  # type: ignore[no-any-return]


def _layer_norm_pull(walk: Any, r: Any, t: Any, saved: tuple[Any, ...]) -> None:
    x, w, axis, eps, kept = saved
    wanted = tuple([walk.wants(p) for p in r.parents])
    own = hasattr(walk.xp, "layer_norm_rows_gradient")
    if own and kept is not None and t.shape == x.shape and t.dtype == x.dtype:
        found = list(walk.xp.layer_norm_rows_gradient(t, x, w, kept, len(axis), wanted))
    else:
        found = _layer_norm_cotangents(walk.xp, t, x, w, axis, eps, wanted)
    for p, want in zip(r.parents, wanted, strict=True):
        if want:
            walk.accumulate(p, walk.fit(found.pop(0), p, r, t))


@with_operators
def _layer_norm_cotangents(
    xp: Any, t: Any, x: Any, w: Any, axis: tuple[int, ...], eps: float, wanted: tuple[bool, ...]
) -> list[Any]:
    """Return the cotangents that are wanted, of x, w and b, on Tensors or for a cotangent with batch axes."""
    found = []
    if wanted[0] or wanted[1]:
        forward = _standardised if type(x) is Tensor else partial(_standardised_forward, xp)
        z, _, var = forward(x, axis, eps, True)
        if wanted[0]:
            found.append(_slope(xp, t * w, z, var, axis, eps, True))
        if wanted[1]:
            found.append(t * z)
    return [*found, t] if wanted[2] else found


_layer_norm = primitive(
    "layer_norm",
    _layer_norm_forward,
    None,
    None,
    None,
    saves=("x", "w", "axis", "eps", "cache"),
    pull=_layer_norm_pull,
    broadcasts=True,
    cached=True,
)


# -- operands ----------------------------------------------------------------------------------------------


def _epsilon(name: str, eps: Any) -> float:
    """Return eps as a float; raise unless it is a number of at least 0."""
    try:
        value = float(eps)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: eps is a number, as 1e-5, not {eps!r}") from None
    if not 0 <= value < inf:
        raise ValueError(f"{name}: eps is a number of at least 0, as 1e-5, not {eps!r}")
    return value


def _operands(name: str, x: Any, *others: Any) -> tuple[Any, ...]:
    """Return x as a real floating Tensor, and the others, which may be None, as Tensors beside it."""
    given = as_tensors(name, x, *[v for v in others if v is not None])
    x = as_floats(given[0])
    if "complex" in x.dtype.kind:
        raise TypeError(f"{name}: x is real, not {x.dtype.name}: normalise tapegrad.real(x) and tapegrad.imag(x)")
    rest = iter(given[1:])
    return (x, *[None if v is None else next(rest) for v in others])


def _scaled(
    name: str, x: Tensor, out: Tensor, w: Any, b: Any, shape: tuple[int, ...], spread: tuple[int, ...]
) -> Tensor:
    """Return out * w + b in the dtype of x. The shape of w and b is given, and is spread to broadcast beside x."""
    for letter, v in (("w", w), ("b", b)):
        if v is not None and v.shape != shape:
            raise ValueError(f"{name}: x of shape {x.shape} needs {letter} of shape {shape}, not {v.shape}")
    if w is not None:
        out = out * (w if shape == spread else reshape(w, spread))
    if b is not None:
        out = out + (b if shape == spread else reshape(b, spread))
    return out if out.dtype == x.dtype else astype(out, x.dtype)


def _in_rows(name: str, x: Tensor, axis: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return axes, the lengths of x along these, and a shape of such weights that broadcasts beside x."""
    axes = axes_of(name, x.ndim, axis)
    shape = tuple([x.shape[i] for i in axes])
    first = axes[0] if axes else 0
    spread = tuple([x.shape[i] if i in axes else 1 for i in range(first, 0)])
    return axes, shape, spread


def _channels(name: str, x: Tensor) -> int:
    if x.ndim < 2:
        raise ValueError(f"{name}: x has shape (batch, channels, ...), not {x.shape}")
    return x.shape[1]


def _beside_channels(x: Tensor) -> tuple[int, ...]:
    return (x.shape[1], *(1,) * (x.ndim - 2))


# -- public functions --------------------------------------------------------------------------------------


@documented(
    LIKE_X,
    UNFIT,
    COMPLEX,
    x="Real floating; integers and booleans count as floating.",
    w="What to multiply with, of the lengths of `x` along the axes; nothing for None.",
    b=BIAS,
    axis="The axis or axes of a layer, over which mean and variance are taken.",
    eps=EPS,
)
def layer_norm(
    x: ArrayLike,
    /,
    w: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-5,
) -> Tensor:
    """Layer normalisation: (x - mean) / sqrt(var + eps) * w + b, with mean and variance over axes.

    Ba, Kiros and Hinton, arXiv:1607.06450. With z the values before w, the derivative of z is (t - mean(t) - z mean(t
    z)) / sqrt(var + eps). Numbers of 16 bits are summed in single precision.

    >>> import tapegrad as tg
    >>> tg.layer_norm(tg.asarray([1.0, 3.0]), eps=0.0)
    Tensor([-1.,  1.])
    """
    data, weight, bias = _operands("layer_norm", x, w, b)
    axes, shape, spread = _in_rows("layer_norm", data, axis)
    least = _epsilon("layer_norm", eps)
    if weight is not None and bias is not None and weight.shape == bias.shape == shape == spread:
        array = data._array
        alike = array.dtype == weight._array.dtype == bias._array.dtype
        if alike and _has_own(namespace_of[type(array)], array, axes):
            return _layer_norm(data, weight, bias, axes, least)
    out = _standardised(data, axes, least, True)[0]
    return _scaled("layer_norm", data, out, weight, bias, shape, spread)


@composed
@documented(
    LIKE_X,
    UNFIT,
    COMPLEX,
    x="Real floating; integers and booleans count as floating.",
    w="What to multiply with, of the lengths of `x` along the axes; nothing for None.",
    axis="The axis or axes of a layer, over which the mean square is taken.",
    eps="What to add to the mean square; the distance from 1 to the next number of the dtype for None.",
)
def rms_norm(
    x: ArrayLike, /, w: ArrayLike | None = None, *, axis: int | tuple[int, ...] = -1, eps: float | None = None
) -> Tensor:
    """Normalisation by the root of the mean square: x / sqrt(mean(x^2) + eps) * w.

    Zhang and Sennrich, arXiv:1910.07467. With z the values before w and r the root, the derivative of z is (t - z
    mean(t z)) / r. Numbers of 16 bits are summed in single precision.

    >>> import tapegrad as tg
    >>> tg.rms_norm(tg.asarray([3.0, 4.0, 0.0, 0.0]), eps=0.0)
    Tensor([1.2, 1.6, 0. , 0. ])
    """
    data, weight = _operands("rms_norm", x, w)
    axes, shape, spread = _in_rows("rms_norm", data, axis)
    least = finfo(data.dtype).eps if eps is None else _epsilon("rms_norm", eps)
    return _scaled("rms_norm", data, _standardised(data, axes, least, False)[0], weight, None, shape, spread)


@composed
@documented(
    LIKE_X,
    UNFIT,
    COMPLEX,
    "TypeError: `groups` is no integer.",
    x=IN_CHANNELS,
    groups="The number of groups, which divides the number of channels: 1 for all in one, as many for each alone.",
    w=FOR_CHANNELS,
    b=BIAS,
    eps=EPS,
)
def group_norm(
    x: ArrayLike, /, groups: int, w: ArrayLike | None = None, b: ArrayLike | None = None, *, eps: float = 1e-5
) -> Tensor:
    """Group normalisation: (x - mean) / sqrt(var + eps) * w + b, with mean and variance over groups of channels.

    Wu and He, arXiv:1803.08494. Derivative: that of `layer_norm`, over a group of channels and all places.

    >>> import tapegrad as tg
    >>> tg.group_norm(tg.asarray([[1.0, 3.0, 10.0, 30.0]]), 2, eps=0.0)
    Tensor([[-1.,  1., -1.,  1.]])
    """
    data, weight, bias = _operands("group_norm", x, w, b)
    channels = _channels("group_norm", data)
    n = integer("group_norm", "groups", groups)
    if n < 1 or channels % n:
        raise ValueError(f"group_norm: groups={n} must divide the {channels} channels of x, of shape {data.shape}")
    size = channels // n * count(data.shape, tuple(range(2, data.ndim)))
    rows = reshape(data, (data.shape[0], n, size))
    out = reshape(_standardised(rows, (-1,), _epsilon("group_norm", eps), True)[0], data.shape)
    return _scaled("group_norm", data, out, weight, bias, (channels,), _beside_channels(data))


@composed
@documented(
    "Like `x`; for integers and booleans of the default floating dtype.",
    UNFIT,
    COMPLEX,
    x=IN_CHANNELS,
    mean="The means of the channels, of shape (channels,).",
    var="Their variances, of shape (channels,).",
    w=FOR_CHANNELS,
    b=BIAS,
    eps="What to add to the variances.",
)
def batch_norm(
    x: ArrayLike,
    /,
    mean: ArrayLike,
    var: ArrayLike,
    w: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
) -> Tensor:
    """Batch normalisation by given statistics: (x - mean) / sqrt(var + eps) * w + b.

    Ioffe and Szegedy, arXiv:1502.03167, as it stands after training. `batch_norm_training` takes the statistics of the
    batch. Composed of elementwise functions. Numbers of 16 bits are computed with in single
    precision.

    >>> import tapegrad as tg
    >>> x = tg.asarray([[1.0, 10.0], [3.0, 30.0]])
    >>> tg.batch_norm(x, [2.0, 20.0], [1.0, 100.0], eps=0.0)
    Tensor([[-1., -1.],
            [ 1.,  1.]])
    """
    data, means, variances, weight, bias = _operands("batch_norm", x, mean, var, w, b)
    channels, spread = _channels("batch_norm", data), _beside_channels(data) if data.ndim > 1 else ()
    for name, v in (("mean", means), ("var", variances)):
        if v.shape != (channels,):
            raise ValueError(f"batch_norm: x of shape {data.shape} needs {name} of shape {(channels,)}, not {v.shape}")
    if _is_half(data):
        means, variances = astype(means, "float32"), astype(variances, "float32")
    scale = 1 / sqrt(variances + _epsilon("batch_norm", eps))
    out = (data - reshape(means, spread)) * reshape(scale, spread)
    return _scaled("batch_norm", data, out, weight, bias, (channels,), spread)


class BatchNormResult(NamedTuple):
    """The normalised batch with the mean and variance of each channel."""

    out: Tensor
    mean: Tensor
    var: Tensor


@composed
@documented(
    "`out`, like `x`, with `mean` and `var`, of shape (channels,), to update running statistics by. They are of the "
    "dtype of `x`, float32 for one of 16 bits. The variance is that of the population: with n the number of values of "
    "a channel, n / (n - 1) times it is that of a sample, which PyTorch keeps.",
    UNFIT,
    COMPLEX,
    x=IN_CHANNELS,
    w=FOR_CHANNELS,
    b=BIAS,
    eps=EPS,
)
def batch_norm_training(
    x: ArrayLike, /, w: ArrayLike | None = None, b: ArrayLike | None = None, *, eps: float = 1e-5
) -> BatchNormResult:
    """Batch normalisation by the batch itself: (x - mean) / sqrt(var + eps) * w + b, with each channel's mean and var.

    Ioffe and Szegedy, arXiv:1502.03167. Derivative: that of `layer_norm`, over all axes but that of channels; mean and
    variance have theirs, too.

    >>> import tapegrad as tg
    >>> out, mean, var = tg.batch_norm_training(tg.asarray([[1.0], [3.0]]), eps=0.0)
    >>> out, mean, var
    (Tensor([[-1.],
            [ 1.]]), Tensor([2.]), Tensor([1.]))
    """
    data, weight, bias = _operands("batch_norm_training", x, w, b)
    channels = _channels("batch_norm_training", data)
    axes = (-data.ndim, *range(2 - data.ndim, 0))
    out, mean, var = _standardised(data, axes, _epsilon("batch_norm_training", eps), True)
    out = _scaled("batch_norm_training", data, out, weight, bias, (channels,), _beside_channels(data))
    return BatchNormResult(out, reshape(mean, (channels,)), reshape(var, (channels,)))
