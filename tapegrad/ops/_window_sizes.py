"""Arguments that describe windows, checked and spelled out."""

from __future__ import annotations

from typing import Any

from tapegrad.ops._axes import integer

Sizes = tuple[int, ...]
Padding = tuple[tuple[int, int], ...]


def whole(name: str, what: str, value: Any, least: int = 1) -> int:
    """Return an argument as an integer of at least so much."""
    n = integer(name, what, value)
    if n < least:
        raise ValueError(f"{name}: {what} is at least {least}, not {n}")
    return n


def sizes_of(name: str, what: str, value: Any, d: int, least: int = 1) -> Sizes:
    """Return an integer, or one for each of d axes, as a tuple."""
    if not isinstance(value, (tuple, list)):
        return (whole(name, what, value, least),) * d
    if len(value) != d:
        raise ValueError(f"{name}: {what} {tuple(value)} has {len(value)} entries for {d} space axes")
    return tuple([whole(name, what, n, least) for n in value])


def padding_of(name: str, padding: Any, size: Sizes, stride: Sizes, dilation: Sizes) -> Padding:
    """Return the zeros before and behind each axis."""
    d = len(size)
    if padding == "valid":
        return ((0, 0),) * d
    if isinstance(padding, str):
        if padding != "same":
            raise ValueError(f"{name}: padding is an integer, one for each axis, 'same' or 'valid', not {padding!r}")
        if max(stride) > 1:
            raise ValueError(
                f"{name}: padding 'same' is for stride 1, not {stride}, with windows of {size}: pass the padding as "
                f"numbers, such as {tuple([g * (k - 1) // 2 for k, g in zip(size, dilation, strict=True)])}"
            )
        totals = [g * (k - 1) for k, g in zip(size, dilation, strict=True)]
        return tuple([(n // 2, n - n // 2) for n in totals])
    if isinstance(padding, (tuple, list)) and any(isinstance(n, (tuple, list)) for n in padding):
        if len(padding) != d or any(not isinstance(n, (tuple, list)) or len(n) != 2 for n in padding):
            raise ValueError(f"{name}: padding {padding} is not a pair (before, behind) for each of {d} space axes")
        return tuple([(whole(name, "padding", lo, 0), whole(name, "padding", hi, 0)) for lo, hi in padding])
    return tuple([(n, n) for n in sizes_of(name, "padding", padding, d, least=0)])


def space_of(name: str, shape: Sizes, size: Sizes, stride: Sizes, padding: Padding, dilation: Sizes) -> Sizes:
    """Return the number of windows along each of the last axes of a shape; raise ValueError if there is none."""
    space = shape[len(shape) - len(size) :]
    out = []
    for n, k, s, (lo, hi), g in zip(space, size, stride, padding, dilation, strict=True):
        reach = g * (k - 1) + 1
        if n + lo + hi < reach:
            raise ValueError(
                f"{name}: windows of {size}, with dilation {dilation}, are larger than the space axes {space} of a "
                f"shape {shape} with padding {padding}: pass smaller windows or more padding"
            )
        out.append((n + lo + hi - reach) // s + 1)
    return tuple(out)
