"""Activation functions.

They are primitives where composing them would keep more memory, take longer or overflow. The others are composed of
elementwise functions, which a compiled program fuses. Each has its limits at infinity, and the slope at a kink that the
guide to subgradients names.
"""

from __future__ import annotations

from math import inf, sqrt
from typing import Any

from tapegrad._engine.coercion import as_tensors
from tapegrad._engine.elementwise import unary
from tapegrad._engine.primitive import primitive
from tapegrad._engine.rules import composed, with_operators
from tapegrad._engine.tensor import Tensor
from tapegrad.ops import _slopes
from tapegrad.ops._axes import axis_of
from tapegrad.ops._text import FLOATED, REAL, documented, of_one
from tapegrad.ops.binary import logaddexp, where
from tapegrad.ops.conversion import as_floats, astype
from tapegrad.ops.elementwise import abs, expm1, sign, tanh
from tapegrad.ops.shaping import reshape
from tapegrad.typing import ArrayLike

ANY_FLOATING = "Real or complex floating; integers and booleans count as floating."
REAL_FLOATING = "Real floating; integers and booleans count as floating."
_MODULE = __name__
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
_GELU_SCALE = 0.7978845608028654  # sqrt(2 / pi)
_GELU_CUBE = 0.044715


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


def _real(name: str, x: ArrayLike) -> Tensor:
    """Return an operand as a real floating Tensor."""
    found = as_floats(x)
    if "complex" in found.dtype.kind:
        raise TypeError(f"{name}: x is real, not {found.dtype.name}")
    return found


def _positive(name: str, what: str, value: Any) -> float:
    """Return a parameter as a float; raise unless it is a positive number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: {what} is a number, not {value!r}") from None
    if not 0 < number < inf:
        raise ValueError(f"{name}: {what} is a positive number, not {value!r}")
    return number


def _halves(name: str, x: ArrayLike, axis: Any) -> tuple[Tensor, Tensor]:
    """Return the two halves of an operand along an axis."""
    found = _real(name, x)
    place = axis_of(name, found.ndim, axis)
    n = found.shape[place]
    if n % 2:
        raise ValueError(f"{name}: the length along axis {axis} must be even, not {n}: shape {found.shape}")
    rest = (slice(None),) * (-place - 1)
    return found[(..., slice(None, n // 2), *rest)], found[(..., slice(n // 2, None), *rest)]


@composed
@documented(
    f"The shape is that of `x`. {FLOATED}",
    "TypeError: `x` is complex.",
    "ValueError: `alpha` is not positive.",
    x=REAL_FLOATING,
    alpha="The limit at -infinity is -alpha; positive.",
)
def elu(x: ArrayLike, /, *, alpha: float = 1.0) -> Tensor:
    """Exponential linear unit: x where it is positive, else alpha (exp(x) - 1).

    Clevert et al., arXiv:1511.07289. Derivative: t where x > 0, else t alpha exp(x).

    >>> import tapegrad as tg
    >>> tg.elu(tg.asarray([-1.0, 2.0]))
    Tensor([-0.63212056,  2.        ])
    """
    alpha = _positive("elu", "alpha", alpha)
    x = _real("elu", x)
    up = x > 0
    return where(up, x, alpha * expm1(where(up, 0.0, x)))


@composed
@documented(
    f"The shape is that of `x`. {FLOATED}",
    "TypeError: `x` is complex.",
    "ValueError: `alpha` is not positive.",
    x=REAL_FLOATING,
    alpha="The limit at -infinity is -alpha; positive.",
)
def celu(x: ArrayLike, /, *, alpha: float = 1.0) -> Tensor:
    """Continuously differentiable exponential linear unit: x where it is positive, else alpha (exp(x / alpha) - 1).

    Barron, arXiv:1704.07483. Derivative: t where x > 0, else t exp(x / alpha).

    >>> import tapegrad as tg
    >>> tg.celu(tg.asarray([-1.0, 2.0]), alpha=2.0)
    Tensor([-0.78693868,  2.        ])
    """
    alpha = _positive("celu", "alpha", alpha)
    x = _real("celu", x)
    up = x > 0
    return where(up, x, alpha * expm1(where(up, 0.0, x) / alpha))


@composed
@documented(
    f"The shape is that of `x`. {FLOATED}",
    "TypeError: `x` is complex.",
    x=REAL_FLOATING,
)
def selu(x: ArrayLike, /) -> Tensor:
    """Self-normalising exponential linear unit: 1.0507 times `elu` with alpha = 1.6733.

    Klambauer et al., arXiv:1706.02515. Derivative: that of `elu`, times 1.0507.

    >>> import tapegrad as tg
    >>> tg.selu(tg.asarray([-1.0, 2.0]))
    Tensor([-1.11133074,  2.10140197])
    """
    return _SELU_SCALE * elu(_real("selu", x), alpha=_SELU_ALPHA)


@composed
@documented(
    f"The shape is that of `x`. {FLOATED}",
    "TypeError: `x` is complex.",
    "ValueError: `beta` is not positive.",
    x=REAL_FLOATING,
    beta="How sharp the bend at 0 is; positive.",
)
def softplus(x: ArrayLike, /, *, beta: float = 1.0) -> Tensor:
    """Smooth relu: log(1 + exp(beta x)) / beta, without overflow.

    Derivative: t sigmoid(beta x).

    >>> import tapegrad as tg
    >>> tg.softplus(tg.asarray([-1000.0, 0.0, 1000.0]))
    Tensor([0.00000000e+00, 6.93147181e-01, 1.00000000e+03])
    """
    beta = _positive("softplus", "beta", beta)
    x = _real("softplus", x)
    return logaddexp(x, 0.0) if beta == 1 else logaddexp(x * beta, 0.0) / beta


@composed
@documented(
    f"The shape is that of `x`. {FLOATED}",
    "TypeError: `x` is complex.",
    x=REAL_FLOATING,
)
def log_sigmoid(x: ArrayLike, /) -> Tensor:
    """Logarithm of the logistic function, -log(1 + exp(-x)), without overflow.

    Derivative: t sigmoid(-x).

    >>> import tapegrad as tg
    >>> tg.log_sigmoid(tg.asarray([-1000.0, 0.0]))
    Tensor([-1.00000000e+03, -6.93147181e-01])
    """
    return -logaddexp(-_real("log_sigmoid", x), 0.0)


@composed
@documented(
    f"The shape is that of `x`. {FLOATED}",
    "TypeError: `x` is complex.",
    x=REAL_FLOATING,
)
def softsign(x: ArrayLike, /) -> Tensor:
    """Quotient x / (1 + abs(x)).

    Derivative: t / (1 + abs(x))^2.

    >>> import tapegrad as tg
    >>> tg.softsign(tg.asarray([-1.0, 3.0]))
    Tensor([-0.5 ,  0.75])
    """
    x = _real("softsign", x)
    size = abs(x)
    near = size <= 1
    close = where(near, x, 0.0)
    # Far out 1 - 1 / (1 + abs(x)) has the digits, in the slope too, and a limit.
    return where(near, close / (1 + abs(close)), sign(x) * (1 - 1 / (1 + size)))


@composed
@documented(
    f"The shape is that of `x`. {FLOATED}",
    "TypeError: `x` is complex.",
    x=REAL_FLOATING,
)
def mish(x: ArrayLike, /) -> Tensor:
    """Product of x and tanh(softplus(x)).

    Misra, arXiv:1908.08681. Derivative: t (th + x (1 - th^2) sigmoid(x)) with th = tanh(softplus(x)).

    >>> import tapegrad as tg
    >>> tg.mish(tg.asarray([-1.0, 0.0, 1.0]))
    Tensor([-0.30340146,  0.        ,  0.86509839])
    """
    x = _real("mish", x)
    # Far right the factor is 1, far left the product is 0, to the last digit of any dtype: no inf times 0.
    high, low = x > 30, x < -800
    z = where(high | low, 0.0, x)
    return where(high, x, z * tanh(logaddexp(z, 0.0)))


@composed
@documented(
    f"The shape is that of `x`. {FLOATED}",
    "TypeError: `x` is complex.",
    x=REAL_FLOATING,
)
def relu6(x: ArrayLike, /) -> Tensor:
    """Values of x between 0 and 6, else the nearer of these.

    Derivative: t between 0 and 6, else 0.

    >>> import tapegrad as tg
    >>> tg.relu6(tg.asarray([-1.0, 2.0, 7.0]))
    Tensor([0., 2., 6.])
    """
    x = relu(_real("relu6", x))
    return where(x >= 6, 6.0, x)


@composed
@documented(
    f"The shape is that of `x`. {FLOATED}",
    "TypeError: `x` is complex.",
    x=REAL_FLOATING,
)
def hard_tanh(x: ArrayLike, /) -> Tensor:
    """Values of x between -1 and 1, else the nearer of these.

    Derivative: t between -1 and 1, else 0.

    >>> import tapegrad as tg
    >>> tg.hard_tanh(tg.asarray([-2.0, 0.5, 2.0]))
    Tensor([-1. ,  0.5,  1. ])
    """
    x = _real("hard_tanh", x)
    return where(x >= 1, 1.0, where(x <= -1, -1.0, x))


@composed
@documented(
    f"The shape is that of `x`. {FLOATED}",
    "TypeError: `x` is complex.",
    x=REAL_FLOATING,
)
def hard_sigmoid(x: ArrayLike, /) -> Tensor:
    """Straight line x / 6 + 1 / 2 between -3 and 3, 0 left and 1 right of it.

    Derivative: t / 6 between -3 and 3, else 0.

    >>> import tapegrad as tg
    >>> tg.hard_sigmoid(tg.asarray([-4.0, 0.0, 4.0]))
    Tensor([0. , 0.5, 1. ])
    """
    x = _real("hard_sigmoid", x)
    return where(x >= 3, 1.0, where(x <= -3, 0.0, x / 6 + 0.5))


@composed
@documented(
    f"The shape is that of `x`. {FLOATED}",
    "TypeError: `x` is complex.",
    x=REAL_FLOATING,
)
def hard_swish(x: ArrayLike, /) -> Tensor:
    """Product of x and `hard_sigmoid`: 0 left of -3, x right of 3.

    Howard et al., arXiv:1905.02244. Derivative: t (x / 3 + 1 / 2) between -3 and 3; 0 left, t right of it.

    >>> import tapegrad as tg
    >>> tg.hard_swish(tg.asarray([-4.0, 1.5, 4.0]))
    Tensor([0.   , 1.125, 4.   ])
    """
    x = _real("hard_swish", x)
    high, low = x >= 3, x <= -3
    z = where(high | low, 0.0, x)
    return where(high, x, where(low, 0.0, z * (z / 6 + 0.5)))


@composed
@documented(
    f"The shape is that of `x`. {FLOATED}",
    "TypeError: `x` is complex.",
    x=REAL_FLOATING,
    slope="The slope left of 0.",
)
def leaky_relu(x: ArrayLike, /, *, slope: float = 0.01) -> Tensor:
    """Values of x where they are positive, else slope x.

    Derivative: t where x > 0, else t slope.

    >>> import tapegrad as tg
    >>> tg.leaky_relu(tg.asarray([-1.0, 2.0]))
    Tensor([-0.01,  2.  ])
    """
    x = _real("leaky_relu", x)
    return where(x > 0, x, float(slope) * x)


@composed
@documented(
    "Like `x`; for integers and booleans of the default floating dtype.",
    "TypeError: `x` is complex.",
    "ValueError: `w` is neither one number nor one for each channel.",
    x="Real floating, of shape (batch, channels, ...), or any shape for one slope.",
    w="The slopes left of 0: one number, or one for each channel, of shape (channels,).",
)
def prelu(x: ArrayLike, w: ArrayLike, /) -> Tensor:
    """Values of x where they are positive, else w x, with slopes w that are learnt.

    He et al., arXiv:1502.01852. Derivatives: t where x > 0, else t w; in w: t x where x <= 0.

    >>> import tapegrad as tg
    >>> tg.prelu(tg.asarray([-1.0, 2.0]), tg.asarray(0.25))
    Tensor([-0.25,  2.  ])
    """
    x, w = as_tensors("prelu", x, w)
    x = _real("prelu", x)
    if w.size == 1:
        w = reshape(w, ())
    elif w.ndim != 1 or x.ndim < 2 or x.shape[1] != w.shape[0]:
        raise ValueError(f"prelu: x of shape {x.shape} needs w of one number, or of shape (channels,), not {w.shape}")
    else:
        w = reshape(w, (-1, *(1,) * (x.ndim - 2)))
    out = where(x > 0, x, w * x)
    return out if out.dtype == x.dtype else astype(out, x.dtype)


@composed
@documented(
    "The products: half as long as `x` along the axis. The dtype is that of `x`; for integers and booleans the default "
    "floating one.",
    "TypeError: `x` is complex.",
    "ValueError: The length along the axis is odd.",
    x=REAL_FLOATING,
    axis="The axis to halve.",
)
def glu(x: ArrayLike, /, *, axis: int = -1) -> Tensor:
    """Gated linear unit: a sigmoid(b), with a and b the halves along an axis.

    Dauphin et al., arXiv:1612.08083. Composed of `sigmoid` and `multiply`.

    >>> import tapegrad as tg
    >>> tg.glu(tg.asarray([2.0, 0.0]))
    Tensor([1.])
    """
    a, b = _halves("glu", x, axis)
    return a * sigmoid(b)


@composed
@documented(
    "The products: half as long as `x` along the axis. The dtype is that of `x`; for integers and booleans the default "
    "floating one.",
    "TypeError: `x` is complex.",
    "ValueError: The length along the axis is odd.",
    x=REAL_FLOATING,
    axis="The axis to halve.",
)
def swiglu(x: ArrayLike, /, *, axis: int = -1) -> Tensor:
    """Gated unit: silu(a) b, with a and b the halves along an axis.

    Shazeer, arXiv:2002.05202. Composed of `silu` and `multiply`.

    >>> import tapegrad as tg
    >>> tg.swiglu(tg.asarray([0.0, 3.0]))
    Tensor([0.])
    """
    a, b = _halves("swiglu", x, axis)
    return silu(a) * b


@composed
@documented(
    "The products: half as long as `x` along the axis. The dtype is that of `x`; for integers and booleans the default "
    "floating one.",
    "TypeError: `x` is complex.",
    "ValueError: The length along the axis is odd, or `approximate` is another one.",
    "ImportError: 'none' needs SciPy, as `tapegrad.special` does, and it is not installed.",
    x=REAL_FLOATING,
    axis="The axis to halve.",
    approximate="That of `gelu`.",
)
def geglu(x: ArrayLike, /, *, axis: int = -1, approximate: str = "none") -> Tensor:
    """Gated unit: gelu(a) b, with a and b the halves along an axis.

    Shazeer, arXiv:2002.05202. Composed of `gelu` and `multiply`.

    >>> import tapegrad as tg
    >>> tg.geglu(tg.asarray([0.0, 3.0]))
    Tensor([0.])
    """
    a, b = _halves("geglu", x, axis)
    return gelu(a, approximate=approximate) * b
