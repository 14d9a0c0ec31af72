"""Dropout, whose mask is computed from a key and a counter: these are saved, and no mask."""

from __future__ import annotations

from typing import Any, Protocol

from tapegrad._engine.coercion import as_tensors, lift_to_level
from tapegrad._engine.primitive import primitive
from tapegrad._engine.tensor import Tensor
from tapegrad.ops._text import FLOATED, documented
from tapegrad.ops.conversion import as_floats, unchanged
from tapegrad.ops.draws import blocks_of
from tapegrad.typing import ArrayLike


class Generator(Protocol):
    """A generator of random numbers, see `tapegrad.random.Generator`."""

    def advance(self, blocks: int) -> tuple[Tensor, Tensor]:
        """Return the key and the counter for a draw."""


def _rule(xp: Any, t: Any, key: Any, count: Any, shape: tuple[int, ...], least: int, scale: float, x_shape: Any) -> Any:
    return xp.dropped(t, key, count, shape, least, scale)


# dropped(x, key, count, shape, least, scale): see `Backend.dropped`.
dropped = primitive(
    "dropout",
    lambda xp, x, key, count, shape, least, scale: xp.dropped(x, key, count, shape, least, scale),
    _rule,
    None,
    None,
    broadcasts=True,
)


@documented(
    f"The shape is that of `x`. {FLOATED}",
    "TypeError: `rng` is no generator, or `rate` is no number.",
    "ValueError: `rate` is outside of 0 to 1.",
    x="Real or complex floating; integers and booleans count as floating.",
    rate="The probability of each element to become 0, in steps of 2^-32.",
    rng="The generator, on the device of `x`; a rate of 0 draws nothing.",
)
def dropout(x: ArrayLike, rate: float, rng: Generator, /) -> Tensor:
    """Elements of x divided by 1 - rate, except for some at random, which become 0.

    Srivastava et al., JMLR 15 (2014). Which ones is computed from the key and the counter of the generator, again in
    the backward pass: these 12 words are kept for it, and no mask. Derivative: t by the same rule.

    >>> import tapegrad as tg
    >>> rng = tg.random.Generator(0)
    >>> tg.dropout(tg.ones(6), 0.5, rng)
    Tensor([0., 0., 2., 0., 0., 0.])
    """
    if not callable(getattr(rng, "advance", None)):
        raise TypeError(f"dropout: rng is a generator, as tapegrad.random.Generator(0), not {type(rng).__name__}")
    if isinstance(rate, bool) or not isinstance(rate, (int, float)):
        raise TypeError(f"dropout: rate is a number, not {type(rate).__name__}")
    if not 0 <= rate <= 1:
        raise ValueError(f"dropout: rate is from 0 to 1, not {rate!r}")
    x = lift_to_level(as_floats(x))
    if rate == 0:
        return unchanged(x)
    key, count = rng.advance(blocks_of("at least", x.size, "uint32"))
    x, key, count = as_tensors("dropout", x, key, count)
    return dropped(x, key, count, x.shape, round(rate * 2**32), 1 / (1 - rate) if rate < 1 else 0.0)
