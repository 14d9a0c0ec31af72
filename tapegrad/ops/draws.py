"""Random numbers of a key and a counter, as operations on Tensors.

Keys hold 4 words of uint32 and counters 8, the lowest first, along their last axis. Leading axes hold several, and
stand before the shape of the numbers.
"""

from __future__ import annotations

from tapegrad._engine.primitive import primitive
from tapegrad.backends._philox import FORMS, blocks_of

__all__ = ["FORMS", "blocks_of", "draw", "skip"]

# draw(key, count, form, shape, dtype, least): numbers of a form, see `tapegrad.backends._philox.FORMS`.
draw = primitive(
    "draw",
    lambda xp, key, count, form, shape, dtype, least: xp.draw(key, count, form, shape, dtype, least),
    None,
    None,
)
# skip(count, shape, start, step): counters in a shape, the i-th one advanced by start + step * i.
skip = primitive("skip", lambda xp, count, shape, start, step: xp.skip(count, shape, start, step), None)
