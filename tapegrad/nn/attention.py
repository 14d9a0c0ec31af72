"""Attention of several heads, as a layer."""

from __future__ import annotations

from typing import Any

from tapegrad._engine.tensor import Tensor
from tapegrad.nn.dropout import checked_rate, generator_of
from tapegrad.nn.init import glorot, parameter, zeros
from tapegrad.nn.layer import layer
from tapegrad.nn.linear import Linear, checked_size, linear_map
from tapegrad.nn.modes import check_axis, in_precision
from tapegrad.ops.attention import attention
from tapegrad.ops.shaping import moveaxis, reshape, unstack
from tapegrad.random import Generator
from tapegrad.typing import DTypeLike


@layer
class Attention:
    """Attention of several heads (Vaswani et al., 2017), for inputs (batch, time, width): see `tapegrad.attention`.

    Parameters
    ----------
    width : int
        The length of the last axis of inputs and results.
    heads : int
        The number of heads, which divides the width.
    bias : bool, default True
        Whether the projections add vectors, which begin as zeros.
    dropout : float, default 0.0
        The share of attention that is dropped while training, from 0 to 1. The scores are stored then.
    rng : Generator
        The generator of the weights, which says the device too.
    dtype : DTypeLike or None, default None
        The dtype of parameters; the default one for None.

    Attributes
    ----------
    in_proj_weight : Tensor
        The projections to queries, keys and values, of shape (3 width, width).
    in_proj_bias : Tensor or None
        Of shape (3 width,).
    out_proj : Linear
        The projection of results.
    heads : int
        The number of heads.
    dropout : float
        The share of attention that is dropped while training.

    Raises
    ------
    ValueError
        The heads do not divide the width, or `dropout` is not from 0 to 1; at a call, shapes do not fit.
    RuntimeError
        At a call with dropout inside `training` without a generator.

    Examples
    --------
    >>> import tapegrad as tg
    >>> model = tg.nn.Attention(8, 2, rng=tg.random.Generator(0))
    >>> model(tg.ones((3, 5, 8)), causal=True).shape
    (3, 5, 8)
    """

    in_proj_weight: Tensor
    in_proj_bias: Tensor | None
    out_proj: Linear
    heads: int
    dropout: float = 0.0

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        bias: bool = True,
        dropout: float = 0.0,
        rng: Generator,
        dtype: DTypeLike | None = None,
    ) -> None:
        width, self.heads = checked_size("Attention", "width", width), checked_size("Attention", "heads", heads)
        if width % self.heads:
            raise ValueError(f"Attention: heads={heads} must divide width={width}")
        self.dropout = checked_rate("Attention", dropout)
        self.in_proj_weight = parameter(glorot(rng, (3 * width, width), dtype))
        self.in_proj_bias = parameter(zeros(rng, 3 * width, dtype)) if bias else None
        self.out_proj = Linear(width, width, bias=bias, rng=rng, dtype=dtype)

    def __call__(
        self, x: Any, keys: Any = None, values: Any = None, *, mask: Any = None, causal: bool = False
    ) -> Tensor:
        """Return the values that queries x attend to, by keys; keys and values are x where they are not given.

        mask: an array that broadcasts to (batch, heads, time of x, time of keys), see `tapegrad.attention`.
        """
        width = self.in_proj_weight.shape[1]
        for given in (x, keys, values):
            if given is not None:
                check_axis("Attention", given, -1, width)
                if len(given.shape) < 2:
                    raise ValueError(
                        f"Attention: the input has shape (batch, time, {width}) or (time, {width}), not "
                        f"{tuple(given.shape)}"
                    )
        w, b = in_precision(self.in_proj_weight, self.in_proj_bias)
        if keys is None and values is None:
            (x,) = in_precision(x)
            y = linear_map(x, w, b)
            parts = reshape(y, (*y.shape[:-1], 3, self.heads, width // self.heads))
            q, k, v = (moveaxis(part, -2, -3) for part in unstack(parts, axis=-3))
        else:
            keys = x if keys is None else keys
            parts = in_precision(x, keys, keys if values is None else values)
            q, k, v = (
                self._heads(
                    linear_map(
                        part, w[i * width : (i + 1) * width], None if b is None else b[i * width : (i + 1) * width]
                    )
                )
                for i, part in enumerate(parts)
            )
        rng = generator_of("Attention", self.dropout)
        rate = 0.0 if rng is None else self.dropout
        y = moveaxis(attention(q, k, v, mask=mask, causal=causal, dropout=rate, rng=rng), -3, -2)
        return self.out_proj(reshape(y, (*y.shape[:-2], width)))

    def _heads(self, x: Tensor) -> Tensor:
        """Return x with an axis of heads before that of time."""
        return moveaxis(reshape(x, (*x.shape[:-1], self.heads, x.shape[-1] // self.heads)), -2, -3)
