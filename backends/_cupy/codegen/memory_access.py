"""Memory access of generated kernels: places of elements, and loads and stores of up to 16 bytes at once.

A thread computes `width` neighbouring elements. Where an operand lies contiguously and is aligned, they are read by
16-byte loads (four floats, eight halves); where it is broadcast along them, by one load; else one by one.
"""

from __future__ import annotations

from typing import NamedTuple

from tapegrad.backends._cupy.codegen.cuda_types import CType

PACK = 16  # bytes of the largest load

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """Layout of an array in memory: strides in elements; alignment: bytes that divide the address of its first one."""

    shape: Shape
    strides: tuple[int, ...]
    alignment: int = 1


class Access(NamedTuple):
    """Access to the neighbouring elements of an operand.

    form: "same" (one element for all), "pack" (loads of up to 16 bytes) or "each" (one by one); at: text of the place
    of the first element or, for "each", of element `w`.
    """

    form: str
    at: str


def alignment_of(address: int) -> int:
    """Return the number of bytes, up to those of a pack, that an address is a multiple of."""
    return min(PACK, address & -address) if address else PACK


def aligned(layout: Layout, shape: Shape) -> tuple[int, ...]:
    """Return the strides by which an array is read as one of a shape that it broadcasts to."""
    pad = len(shape) - len(layout.shape)
    strides = [0 if n == 1 else s for n, s in zip(layout.shape, layout.strides, strict=True)]
    if pad < 0:  # leading axes of length one
        return tuple(strides[-pad:])
    return (0,) * pad + tuple(strides)


def merged(shape: Shape, strides: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return (length, stride) of axes, those merged that are traversed by one stride."""
    # An axis joins the one before it if that one steps over exactly all of its elements.
    axes: list[tuple[int, int]] = []
    for n, s in zip(shape, strides, strict=True):
        if n == 1:
            continue
        if axes and axes[-1][1] == s * n:
            axes[-1] = (axes[-1][0] * n, s)
        else:
            axes.append((n, s))
    return axes


def offset(shape: Shape, strides: tuple[int, ...], index: str) -> str:
    """Return the text of an element's place in memory, from its number in row-major order."""
    # Digits of the number in the mixed radix of the axes, each times its stride; the outermost needs no remainder.
    axes = merged(shape, strides)
    terms = []
    inner = 1
    for i, (n, s) in reversed(list(enumerate(axes))):
        if s:
            at = index if inner == 1 else f"({index} / {inner})"
            at = at if i == 0 else f"({at} % {n})"
            terms.append(at if s == 1 else f"{at} * {s}")
        inner *= n
    return " + ".join(reversed(terms)) or "0"


def access(
    layout: Layout, shape: Shape, strides: tuple[int, ...], index: str, width: int, size: int, outer: Shape = ()
) -> Access:
    """Return the access to `width` elements from number `index` on, a multiple of width, of a shape.

    size: bytes of an element; outer: further strides by which the first element moves.
    """
    axes = merged(shape, strides)
    if not any(s for _, s in axes):
        return Access("same", "0")
    n, s = axes[-1]
    if width == 1:
        return Access("each", offset(shape, strides, index))
    if n % width:
        return Access("each", offset(shape, strides, f"({index} + w)"))
    # Here all elements of a thread are in one row of the innermost axis: one place, and steps of s.
    at = offset(shape, strides, index)
    if s == 0:
        return Access("same", at)
    # Packs need contiguous elements, and an aligned address wherever a thread begins.
    step = min(PACK, width * size)
    moves = (*outer, *[t for _, t in axes[:-1]])
    if s == 1 and packs(layout.alignment, width, size) and all(t * size % step == 0 for t in moves):
        return Access("pack", at)
    return Access("each", f"{at} + w" if s == 1 else f"{at} + w * {s}")


def width_of(count: int, sizes: list[int]) -> int:
    """Return the number of elements, a divisor of `count`, that a thread reads at once, from the bytes of each kind."""
    # As many as the smallest element takes of a pack: larger ones then take several packs.
    width = min(8, PACK // min([s for s in sizes if s > 1], default=2))
    while count % width:
        width //= 2
    return width


def load(name: str, slot: str, kind: CType, array: str, at: Access, row: str, width: int) -> str:
    """Return the statement that reads elements into registers: `name[slot]`, a text with the number `w` of each."""
    place = at.at if row == "0" else row if at.at == "0" else f"{row} + {at.at}"
    if at.form == "each":
        return f"TG_EACH(w, {width}) {name}[{slot}] = {kind.load.format(f'{array}[{place}]')};"
    if at.form == "same":
        value = kind.load.format(f"{array}[{place}]")
        return f"{{ const {kind.value} q = {value}; TG_EACH(w, {width}) {name}[{slot}] = q; }}"
    pack = f"tg_pack<{kind.memory}, {width}>"
    each = f"TG_EACH(w, {width}) {name}[{slot}] = {kind.load.format('q.v[w]')};"
    return f"{{ const {pack} q = *(const {pack}*)&{array}[{place}]; {each} }}"


def packs(alignment: int, width: int, size: int) -> bool:
    """Say whether `width` elements of so many bytes are read and written at once at addresses of an alignment."""
    return alignment % min(PACK, width * size) == 0


def store(name: str, slot: str, kind: CType, array: str, place: str, width: int, packed: bool) -> str:
    """Return the statement that writes registers to a contiguous array; packed: at once."""
    value = kind.store.format(f"{name}[{slot}]")
    if width == 1 or not packed:
        return f"TG_EACH(w, {width}) {array}[{place}{' + w' if width > 1 else ''}] = {value};"
    pack = f"tg_pack<{kind.memory}, {width}>"
    return f"{{ {pack} q; TG_EACH(w, {width}) q.v[w] = {value}; *({pack}*)&{array}[{place}] = q; }}"


def index_type(layouts: list[Layout], n: int) -> str:
    """Return the C type in which all indices fit."""
    reach = [sum((k - 1) * abs(s) for k, s in zip(a.shape, a.strides, strict=True)) for a in layouts]
    return "int" if max([n, *reach], default=0) < 2**31 - 2**23 else "long long"
