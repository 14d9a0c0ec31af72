"""Rotary position embedding."""

from __future__ import annotations

from tapegrad._engine.coercion import as_tensors
from tapegrad._engine.rules import composed
from tapegrad._engine.tensor import Tensor
from tapegrad.ops._text import documented
from tapegrad.ops.conversion import as_floats, astype
from tapegrad.ops.creation import arange
from tapegrad.ops.elementwise import cos, sin
from tapegrad.ops.shaping import broadcast_shapes, concat, reshape, stack
from tapegrad.typing import ArrayLike


@composed
@documented(
    "Like `x`; for integers and booleans of the default floating dtype.",
    "ValueError: The width is odd, `x` has fewer than two axes, the positions do not fit, or `base` is not positive.",
    "TypeError: `x` is complex.",
    x="Real floating queries or keys, of shape (..., T, width), with an even width.",
    positions="The position of each vector, in a shape that broadcasts to (..., T); 0 to T - 1 for None.",
    base="The base of the wavelengths: pair i turns by positions * base^(-2 i / width).",
    interleaved="Whether pairs are neighbours, 2 i and 2 i + 1; else i and i + width / 2.",
)
def rope(
    x: ArrayLike, /, positions: ArrayLike | None = None, *, base: float = 10000.0, interleaved: bool = False
) -> Tensor:
    """Rotary position embedding: pairs of features, turned by angles that grow with the position.

    Su et al., arXiv:2104.09864, where pairs are neighbours; most programs take the two halves instead. Derivative: t,
    turned back. Angles are computed in single precision at least. Composed of `cos`, `sin` and products.

    >>> import tapegrad as tg
    >>> tg.rope(tg.asarray([[1.0, 0.0], [1.0, 0.0]]))
    Tensor([[1.        , 0.        ],
            [0.54030231, 0.84147098]])
    """
    given = as_tensors("rope", x, *([] if positions is None else [positions]))
    data = as_floats(given[0])
    dtype = data.dtype
    if "complex" in dtype.kind:
        raise TypeError(f"rope: x is real, not {dtype.name}")
    if data.ndim < 2:
        raise ValueError(f"rope: x has shape (..., T, width), not {data.shape}")
    width = data.shape[-1]
    if width % 2:
        raise ValueError(f"rope: the width, the last axis, must be even, not {width}: shape {data.shape}")
    if not base > 0:
        raise ValueError(f"rope: base is a positive number, not {base}")
    if dtype.itemsize == 2:
        data = astype(data, "float32")
    angles = _angles(data, given[1] if positions is not None else None, width, base)
    c, s = cos(angles), sin(angles)
    if interleaved:
        a, b = data[..., 0::2], data[..., 1::2]
        out = reshape(stack([a * c - b * s, b * c + a * s], axis=-1), data.shape)
    else:
        a, b = data[..., : width // 2], data[..., width // 2 :]
        out = concat([a * c - b * s, b * c + a * s], axis=-1)
    return out if out.dtype == dtype else astype(out, dtype)


def _angles(x: Tensor, positions: Tensor | None, width: int, base: float) -> Tensor:
    """Return the angle of each vector and pair; raise ValueError if the positions do not fit."""
    places = x.shape[:-1]
    if positions is None:
        positions = arange(x.shape[-2], dtype=x.dtype, device=x.device)
    else:
        if "complex" in positions.dtype.kind or positions.dtype.kind == "bool":
            raise TypeError(f"rope: positions are integers or real numbers, not {positions.dtype.name}")
        try:
            fits = broadcast_shapes(positions.shape, places) == places
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"rope: positions of shape {positions.shape} must broadcast to {places}, x without its width"
            )
        positions = astype(positions, x.dtype)
    pairs = arange(width // 2, dtype=x.dtype, device=x.device)
    return positions[..., None] * base ** (pairs * (-2.0 / (width or 1)))
