"""Sets of values: written once, over sorting and indexing, so that they are the same on every library."""

from __future__ import annotations

from typing import Any, NamedTuple

from tapegrad._engine.coercion import as_tensor, as_tensors
from tapegrad._engine.primitive import primitive
from tapegrad._engine.rules import composed
from tapegrad._engine.tensor import Tensor
from tapegrad.ops._text import BOOLEAN, SAME, documented
from tapegrad.ops.conversion import astype
from tapegrad.ops.creation import full
from tapegrad.ops.dtypes import result_type
from tapegrad.ops.elementwise import imag, real
from tapegrad.ops.indexing import take
from tapegrad.ops.reductions import cumulative_sum, diff
from tapegrad.ops.shaping import concat, reshape
from tapegrad.ops.sorting import argsort, nonzero
from tapegrad.typing import ArrayLike


class UniqueAll(NamedTuple):
    """The result of `unique_all`."""

    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCounts(NamedTuple):
    """The result of `unique_counts`."""

    values: Tensor
    counts: Tensor


class UniqueInverse(NamedTuple):
    """The result of `unique_inverse`."""

    values: Tensor
    inverse_indices: Tensor


def _order(x: Tensor) -> Tensor:
    """Return the indices that sort a vector, equal elements in the order they stand."""
    if x.dtype.kind == "complex floating":
        by_imag = argsort(imag(x))
        return take(by_imag, argsort(real(take(x, by_imag))))
    return argsort(astype(x, "uint8") if x.dtype.kind == "bool" else x)


def _groups(x: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return x as a vector, the indices that sort it, which of those start a new value, and their places."""
    flat = reshape(as_tensor(x), -1)
    constant = flat.detach()
    order = _order(constant)
    ordered = take(constant, order)
    first = full(min(flat.size, 1), True, device=flat.device)
    starts = concat([first, ordered[1:] != ordered[:-1]])
    return flat, order, starts, nonzero(starts)[0]


def _counts(starts: Tensor, places: Tensor) -> Tensor:
    return diff(places, append=full(1, starts.size, dtype=places.dtype, device=places.device))


def _inverse(order: Tensor, starts: Tensor, shape: tuple[int, ...]) -> Tensor:
    numbers = cumulative_sum(astype(starts, order.dtype)) - 1
    return reshape(astype(take(numbers, argsort(order)), order.dtype, copy=False), shape)


@composed
@documented(
    "`values`, a vector in the dtype of `x`; `indices` of their first places in the flat `x`;"
    " `inverse_indices` into `values`, in the shape of `x`; `counts` of each. The integers "
    "are int64, or int32 where the device has no int64."
)
def unique_all(x: ArrayLike, /) -> UniqueAll:
    """Values without repetition, where each stands first, which one each element is, and how often.

    The values are in rising order; every NaN is a value of its own, -0 is 0; complex values go by their real parts
    first. Derivative of the values: t at their first places; the integers have none.

    >>> import tapegrad as tg
    >>> tg.unique_all(tg.asarray([3.0, 1.0, 3.0])).counts
    Tensor([1, 2])
    """
    x = as_tensor(x)
    flat, order, starts, places = _groups(x)
    indices = take(order, places)
    return UniqueAll(take(flat, indices), indices, _inverse(order, starts, x.shape), _counts(starts, places))


@composed
@documented("`values`, a vector in the dtype of `x`, and `counts`, as of `unique_all`.")
def unique_counts(x: ArrayLike, /) -> UniqueCounts:
    """Values without repetition, and how often each occurs.

    Derivative of the values: t at their first places.

    >>> import tapegrad as tg
    >>> tg.unique_counts(tg.asarray([3, 1, 3]))
    UniqueCounts(values=Tensor([1, 3]), counts=Tensor([1, 2]))
    """
    flat, order, starts, places = _groups(x)
    return UniqueCounts(take(flat, take(order, places)), _counts(starts, places))


@composed
@documented("`values`, a vector in the dtype of `x`, and `inverse_indices` in the shape of `x`, as of `unique_all`.")
def unique_inverse(x: ArrayLike, /) -> UniqueInverse:
    """Values without repetition, and which one each element is.

    Derivative of the values: t at their first places.

    >>> import tapegrad as tg
    >>> tg.unique_inverse(tg.asarray([3, 1, 3]))
    UniqueInverse(values=Tensor([1, 3]), inverse_indices=Tensor([1, 0, 1]))
    """
    x = as_tensor(x)
    flat, order, starts, places = _groups(x)
    return UniqueInverse(take(flat, take(order, places)), _inverse(order, starts, x.shape))


@composed
@documented(f"The values of `unique_all`, a vector. {SAME}")
def unique_values(x: ArrayLike, /) -> Tensor:
    """Values without repetition, in rising order.

    Derivative: t at their first places.

    >>> import tapegrad as tg
    >>> tg.unique_values(tg.asarray([3, 1, 3]))
    Tensor([1, 3])
    """
    flat, order, _, places = _groups(x)
    return take(flat, take(order, places))


_isin = primitive("isin", lambda xp, x1, x2, invert: xp.isin(x1, x2, invert=invert), None, None)


@documented(
    f"The answers, in the shape of `x1`. {BOOLEAN}",
    x1="The elements to look for, of any shape.",
    x2="The elements to look among, of any shape.",
    invert="Whether to say where it is not.",
)
def isin(x1: ArrayLike, x2: ArrayLike, /, *, invert: bool = False) -> Tensor:
    """Membership of each element of x1 in x2.

    Equality is by value, so that a NaN is nowhere in. Not differentiable.

    >>> import tapegrad as tg
    >>> tg.isin(tg.asarray([1, 2, 3]), tg.asarray([3, 1]))
    Tensor([ True, False,  True])
    """
    x1, x2 = as_tensors("isin", x1, x2)
    dtype = result_type(x1, x2)
    return _isin(astype(x1, dtype, copy=False), astype(x2, dtype, copy=False), invert)
