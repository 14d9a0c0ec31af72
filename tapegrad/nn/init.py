"""Initialisers: first values of parameters, drawn from a generator."""

from __future__ import annotations

from collections.abc import Callable
from math import prod, sqrt
from typing import Any

from tapegrad._engine.tensor import Tensor
from tapegrad.linalg import diagonal, qr
from tapegrad.ops.binary import where
from tapegrad.ops.conversion import astype
from tapegrad.ops.creation import zeros as filled_with_zeros
from tapegrad.ops.products import matrix_transpose
from tapegrad.ops.shaping import expand_dims, reshape
from tapegrad.random import Generator
from tapegrad.typing import DTypeLike

Init = Callable[..., Tensor]


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return how many inputs an output has, and how many outputs an input, for weights (out, in, *kernel)."""
    if len(shape) < 2:
        n = prod(shape)
        return n, n
    size = prod(shape[2:])
    return shape[1] * size, shape[0] * size


def _spread(name: str, rng: Generator, shape: Any, dtype: Any, std: float, uniform: bool) -> Tensor:
    sizes = _shape(shape)
    if not isinstance(rng, Generator):
        raise TypeError(f"{name}: pass a generator, as in {name}(tapegrad.random.Generator(0), shape), not {rng!r}")
    if uniform:
        bound = sqrt(3.0) * std
        return rng.uniform(sizes, -bound, bound, dtype=dtype)
    return rng.normal(sizes, 0.0, std, dtype=dtype)


def _shape(shape: Any) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)


COMMON = """
    rng : Generator
        The generator to draw from, which says the device too.
    shape : int or tuple of int
        The shape, (outputs, inputs, *kernel) for weights.
    dtype : DTypeLike or None, default None
        The dtype; the default one for None.
"""


def _described(f: Any) -> Any:
    f.__doc__ = (f.__doc__ or "").replace("    COMMON\n", COMMON.lstrip("\n"))
    return f


@_described
def glorot(rng: Generator, shape: Any, dtype: DTypeLike | None = None, *, uniform: bool = False) -> Tensor:
    """Draw with variance 2 / (inputs + outputs) (Glorot and Bengio, 2010), for tanh and sigmoid.

    Parameters
    ----------
    COMMON
    uniform : bool, default False
        Whether to draw from a uniform distribution instead of a normal one.

    Returns
    -------
    Tensor
        The values, which require no gradient.

    Raises
    ------
    TypeError
        `rng` is no generator.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.nn.init.glorot(tg.random.Generator(0), (3, 2)).shape
    (3, 2)
    """
    n_in, n_out = fans(_shape(shape))
    return _spread("glorot", rng, shape, dtype, sqrt(2.0 / max(n_in + n_out, 1)), uniform)


@_described
def he(rng: Generator, shape: Any, dtype: DTypeLike | None = None, *, uniform: bool = False) -> Tensor:
    """Draw with variance 2 / inputs (He et al., 2015), for relu.

    Parameters
    ----------
    COMMON
    uniform : bool, default False
        Whether to draw from a uniform distribution instead of a normal one.

    Returns
    -------
    Tensor
        The values, which require no gradient.

    Raises
    ------
    TypeError
        `rng` is no generator.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.nn.init.he(tg.random.Generator(0), (3, 2)).shape
    (3, 2)
    """
    return _spread("he", rng, shape, dtype, sqrt(2.0 / max(fans(_shape(shape))[0], 1)), uniform)


@_described
def lecun(rng: Generator, shape: Any, dtype: DTypeLike | None = None, *, uniform: bool = False) -> Tensor:
    """Draw with variance 1 / inputs (LeCun et al., 1998); layers begin with it.

    Parameters
    ----------
    COMMON
    uniform : bool, default False
        Whether to draw from a uniform distribution instead of a normal one.

    Returns
    -------
    Tensor
        The values, which require no gradient.

    Raises
    ------
    TypeError
        `rng` is no generator.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.nn.init.lecun(tg.random.Generator(0), (3, 2), tg.float32).dtype
    tapegrad.float32
    """
    return _spread("lecun", rng, shape, dtype, sqrt(1.0 / max(fans(_shape(shape))[0], 1)), uniform)


@_described
def orthogonal(rng: Generator, shape: Any, dtype: DTypeLike | None = None, *, gain: float = 1.0) -> Tensor:
    """Draw a matrix of orthonormal rows or columns, whichever are fewer (Saxe et al., 2014).

    Kernels of convolutions are matrices with a row for each output.

    Parameters
    ----------
    COMMON
    gain : float, default 1.0
        The length of the rows or columns.

    Returns
    -------
    Tensor
        The values, which require no gradient.

    Raises
    ------
    TypeError
        `rng` is no generator.
    ValueError
        The shape has fewer than two axes.

    Examples
    --------
    >>> import tapegrad as tg
    >>> w = tg.nn.init.orthogonal(tg.random.Generator(0), (2, 3))
    >>> tg.round(w @ w.mT * 1e6) / 1e6 + 0.0
    Tensor([[1., 0.],
            [0., 1.]])
    """
    sizes = _shape(shape)
    if len(sizes) < 2:
        raise ValueError(f"orthogonal: the shape of a matrix has two axes or more, not {sizes}")
    rows, columns = sizes[0], prod(sizes[1:])
    tall = (max(rows, columns), min(rows, columns))
    x = _spread("orthogonal", rng, tall, "float32" if _is_small(dtype) else dtype, 1.0, False)
    if 0 in tall:
        return reshape(_as(x, dtype), sizes)
    q, r = qr(x)
    # The signs of the diagonal of r make the distribution uniform (Mezzadri, 2007).
    signs = where(diagonal(r) < 0.0, -gain, gain)
    q = q * expand_dims(signs, axis=0)
    return reshape(_as(q if rows >= columns else matrix_transpose(q), dtype), sizes)


def _is_small(dtype: Any) -> bool:
    return dtype is not None and getattr(dtype, "name", str(dtype)) in ("float16", "bfloat16")


def _as(x: Tensor, dtype: Any) -> Tensor:
    return x if dtype is None else astype(x, dtype, copy=False)


@_described
def truncated_normal(rng: Generator, shape: Any, dtype: DTypeLike | None = None, *, std: float = 0.02) -> Tensor:
    """Draw from a normal distribution around 0, cut off at two standard deviations.

    Parameters
    ----------
    COMMON
    std : float, default 0.02
        The standard deviation before the cut.

    Returns
    -------
    Tensor
        The values, which require no gradient.

    Raises
    ------
    TypeError
        `rng` is no generator.

    Examples
    --------
    >>> import tapegrad as tg
    >>> x = tg.nn.init.truncated_normal(tg.random.Generator(0), 1000)
    >>> (tg.max(tg.abs(x)) <= 0.04).item()
    True
    """
    _spread("truncated_normal", rng, 0, dtype, 1.0, False)
    return rng.truncated_normal(_shape(shape), dtype=dtype) * std


@_described
def zeros(rng: Generator, shape: Any, dtype: DTypeLike | None = None) -> Tensor:
    """Make zeros, on the device of the generator.

    Parameters
    ----------
    COMMON

    Returns
    -------
    Tensor
        Zeros, which require no gradient.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.nn.init.zeros(tg.random.Generator(0), 2)
    Tensor([0., 0.])
    """
    return filled_with_zeros(_shape(shape), dtype=dtype, device=rng.device)


def parameter(value: Tensor) -> Tensor:
    """Return a Tensor that requires a gradient, of a value that nobody else holds."""
    value.requires_grad = True
    return value


__all__ = ["glorot", "he", "lecun", "orthogonal", "truncated_normal", "zeros"]
