"""Random numbers of a key and a counter: Philox4x64-10, in operations of the array API standard.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Four numbers of 64 bits, a block,
are a function of a counter of 256 bits and a key of 128 bits. As in NumPy's bit generator, the first block of a draw is
that of the counter plus one.

Keys and counters are arrays of 32-bit words, the lowest first, along the last axis: 4 and 8. Leading axes hold several.
A number of 64 bits is a pair (high, low) of arrays here, each of 32 bits, as not every library has integers of 64 bits
without a sign. The arrays' own dtype, the working dtype, may be wider.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi, prod
from typing import Any

Array = Any
Pair = tuple[Array, Array]

BLOCK = 8  # words in a block
ROUNDS = 10
MULTIPLIERS = ((0xD2E7470E, 0xE14C6C93), (0xCA5A8263, 0x95121157))
WEYL = ((0x9E3779B9, 0x7F4A7C15), (0xBB67AE85, 0x84CAA73B))
MASK = 0xFFFFFFFF
# Bits of a uniform number of a dtype: those of its significand.
DIGITS = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}
# The forms of a draw. "bits": words of 32 bits. "uniform": multiples of 2^-digits in [0, 1). "open": numbers in (0, 1],
# as fine near 0 as the bits allow. "normal": the standard normal distribution. "at least": 1 where a word is at least
# a number, else 0.
FORMS = ("bits", "uniform", "open", "normal", "at least")


def words_of(form: str, n: int, dtype: str) -> int:
    """Return how many words a draw of n numbers takes."""
    each = 2 if dtype == "float64" and form in ("uniform", "open", "normal") else 1
    return each * (n + n % 2 if form == "normal" else n)


def blocks_of(form: str, n: int, dtype: str) -> int:
    """Return by how much a draw of n numbers advances the counter."""
    return -(-words_of(form, n, dtype) // BLOCK)


class Words:
    """Arithmetic of 32-bit words in the working dtype of a library.

    Parameters
    ----------
    xp : namespace
        The functions of the library.
    native : callable
        The library's dtype of a name.
    name : str
        The working dtype: "uint32", "uint64" or "int64".
    """

    def __init__(self, xp: Any, native: Callable[[str], Any], name: str) -> None:
        self.xp, self.native, self.dtype, self.wide = xp, native, native(name), name != "uint32"

    def of(self, words: Array) -> Array:
        """Return words of uint32 in the working dtype."""
        return words if words.dtype == self.dtype else self.xp.astype(words, self.dtype)

    def cast(self, x: Array, name: str) -> Array:
        """Return an array in the dtype of a name."""
        dtype = self.native(name)
        return x if x.dtype == dtype else self.xp.astype(x, dtype)

    def constant(self, value: int, like: Array) -> Array:
        """Return a word beside an array."""
        return self.xp.asarray(value, dtype=self.dtype, device=getattr(like, "device", None))

    def range(self, n: int, like: Array) -> Array:
        """Return the numbers from 0 to n - 1 beside an array."""
        return self.xp.arange(n, dtype=self.dtype, device=getattr(like, "device", None))

    def add(self, *words: Array) -> Pair:
        """Return (carry, sum) of words."""
        if self.wide:
            total = words[0]
            for x in words[1:]:
                total = total + x
            return (total >> 32) & MASK, total & MASK
        total, carry = words[0], None
        for x in words[1:]:
            total = total + x  # modulo 2^32
            over = self.xp.astype(total < x, self.dtype)
            carry = over if carry is None else carry + over
        return carry, total

    def multiply(self, x: Array, y: Array) -> Pair:
        """Return the product of two words as (high, low)."""
        if self.wide:
            product = x * y  # its 64 bits are right, with or without a sign
            return (product >> 32) & MASK, product & MASK
        # By halves of 16 bits; no sum here exceeds 32 bits.
        a, b, c, d = x >> 16, x & 0xFFFF, y >> 16, y & 0xFFFF
        low = b * d
        middle = a * d + (low >> 16)
        other = b * c + (middle & 0xFFFF)
        return a * c + (middle >> 16) + (other >> 16), x * y

    def multiply_long(self, x: Pair, y: Pair) -> tuple[Pair, Pair]:
        """Return the product of two numbers of 64 bits as (high, low)."""
        (h0, l0), (h1, l1) = self.multiply(x[1], y[1]), self.multiply(x[0], y[1])
        (h2, l2), (h3, l3) = self.multiply(x[1], y[0]), self.multiply(x[0], y[0])
        carry, middle = self.add(h0, l1, l2)
        carry, low = self.add(h1, h2, l3, carry)
        return (self.cut(h3 + carry), low), (middle, l0)

    def add_long(self, x: Pair, y: Pair) -> Pair:
        """Return the sum of two numbers of 64 bits, modulo 2^64."""
        carry, low = self.add(x[1], y[1])
        return self.cut(x[0] + y[0] + carry), low

    def repeat(self, n: int, step: Callable[[list[Array]], list[Array]], state: list[Array]) -> list[Array]:
        """Return arrays after n steps, which keep shapes and dtypes."""
        for _ in range(n):
            state = step(state)
        return state

    def cut(self, x: Array) -> Array:
        """Return words modulo 2^32."""
        return x & MASK if self.wide else x

    def table(self, numbers: tuple[tuple[int, int], ...], shape: tuple[int, ...], like: Array) -> Array:
        """Return numbers, as pairs (high, low), as words in a shape beside an array, the lowest of each first."""
        device = getattr(like, "device", None)
        found = self.xp.asarray([list(pair[::-1]) for pair in numbers], dtype=self.dtype, device=device)
        return self.xp.reshape(found, shape)

    def long(self, value: tuple[int, int], like: Array) -> Pair:
        """Return a number of 64 bits, given as two words, beside an array."""
        return self.constant(value[0], like), self.constant(value[1], like)


def _arithmetic(backend: Any, like: Array) -> Words:
    made: Words = backend.words(backend.xp, backend.native_dtype, backend.philox_dtype(getattr(like, "device", None)))
    return made


def _sum_of(a: Words, words: list[Array], high: Array, low: Array) -> list[Array]:
    """Return a counter of 8 words plus a number of 64 bits, modulo 2^256."""
    carry, first = a.add(words[0], low)
    carry, second = a.add(words[1], high, carry)
    out = [first, second]
    for word in words[2:]:
        carry, total = a.add(word, carry)
        out.append(total)
    return out


def blocks(a: Words, key: Array, count: Array, n: int) -> Array:
    """Return the words of n blocks: axes of the 4 numbers and of their 2 words, leading axes, and one of the blocks.

    Each round multiplies the first and the third number by constants. The high halves of the products are combined with
    the other two numbers and with the key, which goes on by a Weyl sequence. What is done to several words is done at
    once, as calls cost more than elements, and a compiler takes long for many.
    """
    xp, key, count = a.xp, a.of(key), a.of(count)
    index = a.range(n, count) + a.constant(1, count)
    found = _sum_of(a, [count[..., i][..., None] for i in range(BLOCK)], a.constant(0, count), index)
    keys = [key[..., i][..., None] for i in range(4)]
    shape = _broadcast([*found, *keys])
    axes = len(shape)
    numbers = xp.reshape(xp.stack([xp.broadcast_to(word, shape) for word in found]), (4, 2, *shape))
    known = _broadcast(keys)
    keys = xp.reshape(
        xp.stack([xp.broadcast_to(word, known) for word in keys]), (2, 2, *(1,) * (axes - len(known)), *known)
    )
    factors = a.table(MULTIPLIERS, (2, 1, 2, *(1,) * axes), count)
    steps = a.table(WEYL, (2, 2, *(1,) * axes), count)

    def once(state: list[Array]) -> list[Array]:
        c, k = state
        high, low = a.multiply(c[0::2, ...][:, :, None, ...], factors)  # by word of the number, word of the factor
        carry, second = a.add(high[:, 0, 0, ...], low[:, 1, 0, ...], low[:, 0, 1, ...])
        carry, third = a.add(high[:, 1, 0, ...], high[:, 0, 1, ...], low[:, 1, 1, ...], carry)
        fourth = a.cut(high[:, 1, 1, ...] + carry)
        highs = xp.flip(xp.stack([third, fourth], axis=1), axis=0)
        lows = xp.flip(xp.stack([low[:, 0, 0, ...], second], axis=1), axis=0)
        c = xp.reshape(xp.stack([highs ^ c[1::2, ...] ^ k, lows], axis=1), (4, 2, *shape))
        carry, first = a.add(k[:, 0, ...], steps[:, 0, ...])
        return [c, xp.stack([first, a.cut(k[:, 1, ...] + steps[:, 1, ...] + carry)], axis=1)]

    return a.repeat(ROUNDS, once, [numbers, keys])[0]


def words(a: Words, key: Array, count: Array, n: int) -> Array:
    """Return n words of the working dtype along a last axis, the low one of each number first."""
    found = blocks(a, key, count, -(-n // BLOCK))
    lead, axes = found.shape[2:-1], len(found.shape)
    joined = a.xp.permute_dims(found, (*range(2, axes), 0, 1))
    return a.xp.reshape(joined, (*lead, found.shape[-1] * BLOCK))[..., :n]


def _broadcast(arrays: list[Array]) -> tuple[int, ...]:
    ndim = max(len(x.shape) for x in arrays)
    shapes = [(1,) * (ndim - len(x.shape)) + tuple(x.shape) for x in arrays]
    return tuple(next((n for n in column if n != 1), 1) for column in zip(*shapes, strict=True))


def draw(
    backend: Any, key: Array, count: Array, form: str, shape: tuple[int, ...], dtype: str, least: int = 0
) -> Array:
    """Return random numbers of a form, see FORMS, in a shape, behind the leading axes of key and counter."""
    a, n = _arithmetic(backend, count), prod(shape)
    found = words(a, key, count, words_of(form, n, dtype))
    out = numbers_of(a, found, form, n, dtype, least)
    return backend.xp.reshape(out, (*out.shape[:-1], *shape))


def numbers_of(a: Words, found: Array, form: str, n: int, dtype: str, least: int) -> Array:
    """Return words as n numbers of a form, along the last axis."""
    if form == "bits":
        return a.cast(found, "uint32")
    if form == "at least":
        return a.cast(found >= a.constant(least, found), dtype)
    if form == "uniform":
        return _uniform(a, found, dtype)
    if form == "open":
        return a.cast(_open(a, found, dtype), dtype)
    return a.cast(_normal(a, found, n, dtype), dtype)


def _uniform(a: Words, found: Array, dtype: str) -> Array:
    """Return the highest bits of words, or of pairs of words, as multiples of a power of two below 1."""
    if dtype == "float64":
        return _joined(a, found[..., 1::2], found[..., 0::2]) * 2.0**-53
    return a.cast(found >> (32 - DIGITS[dtype]), dtype) * 2.0 ** -DIGITS[dtype]


def _joined(a: Words, high: Array, low: Array) -> Array:
    """Return the highest 53 of 64 bits as an integer in float64."""
    return a.cast(high, "float64") * 2.0**21 + a.cast(low >> 11, "float64")


def _open(a: Words, found: Array, dtype: str) -> Array:
    """Return (w + 1/2) / 2^32 of words w, rounded to float32, or the like of the 53 highest bits of pairs, in float64.

    Small numbers keep all their digits, so that their logarithms do.
    """
    if dtype == "float64":
        return (_joined(a, found[..., 1::2], found[..., 0::2]) + 0.5) * 2.0**-53
    return (a.cast(found, "float32") + 0.5) * 2.0**-32


def _normal(a: Words, found: Array, n: int, dtype: str) -> Array:
    half = words_of("normal", n, dtype) // 2
    return a.xp.concat(pair_of_normals(a, found[..., :half], found[..., half:], dtype), axis=-1)[..., :n]


def pair_of_normals(a: Words, radius: Array, octant: Array, dtype: str) -> list[Array]:
    """Return two arrays of standard normal numbers by the method of Box and Muller (1958), of two arrays of words.

    A radius sqrt(-2 log(u)) and an angle give two numbers. The three lowest bits of the angle choose one of eight
    octants. The others give an angle within an octant, where both sine and cosine keep their digits.
    """
    xp = a.xp
    radius = xp.sqrt(-2.0 * xp.log(_open(a, radius, dtype)))
    if dtype == "float64":
        high, octant = octant[..., 1::2], octant[..., 0::2]
        angle = (_joined(a, high, octant) + 0.5) * (pi / 4 * 2.0**-53)
    else:
        angle = (a.cast(octant >> 3, "float32") + 0.5) * (pi / 4 * 2.0**-29)
    cos, sin = radius * xp.cos(angle), radius * xp.sin(angle)
    swap = (octant & 1) == 0
    first, second = xp.where(swap, cos, sin), xp.where(swap, sin, cos)
    first = xp.where((octant & 2) == 0, first, -first)
    return [first, xp.where((octant & 4) == 0, second, -second)]


def skip(backend: Any, count: Array, shape: tuple[int, ...], start: int, step: int) -> Array:
    """Return counters in a shape behind the leading axes of the given one: count + start + step * i for the i-th."""
    numbers = [part for number in (start, step) for part in (number & MASK, number >> 32)]
    xp, device = backend.xp, getattr(count, "device", None)
    return skip_by(backend, count, shape, xp.asarray(numbers, dtype=backend.native_dtype("uint32"), device=device))


def skip_by(backend: Any, count: Array, shape: tuple[int, ...], numbers: Array) -> Array:
    """Return counters as `skip` does; numbers: the words of start and step."""
    a, n, xp = _arithmetic(backend, count), prod(shape), backend.xp
    known, given = a.of(count), a.of(numbers)
    index = a.range(n, count)
    high, low = a.multiply(index, given[2])
    high, low = a.add_long((a.cut(high + a.multiply(index, given[3])[1]), low), (given[1], given[0]))
    parts = _sum_of(a, [known[..., i][..., None] for i in range(BLOCK)], high, low)
    wide = _broadcast(parts)
    joined = xp.stack([xp.broadcast_to(p, wide) for p in parts], axis=-1)
    return a.cast(xp.reshape(joined, (*wide[:-1], *shape, BLOCK)), "uint32")
