"""Scans along an axis: running extremes, running logarithms of sums, and scans of functions of users."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

from tapegrad._engine.coercion import as_tensor, as_tensors
from tapegrad._engine.dispatch import native_device
from tapegrad._engine.primitive import primitive
from tapegrad._engine.rules import composed, with_operators
from tapegrad._engine.tensor import Tensor
from tapegrad._engine.tree import flatten
from tapegrad.ops._axes import along, axis_of
from tapegrad.ops._text import FLOATED, SAME, documented
from tapegrad.ops.conversion import as_floats, as_indices
from tapegrad.ops.elementwise import positive
from tapegrad.ops.indexing import take_along_axis
from tapegrad.ops.shaping import concat, flip, reshape, stack
from tapegrad.typing import ArrayLike

_REAL = "Real floating; integers and booleans count as floating."
_documented = partial(
    documented,
    shared={
        "x": "The elements, of a real dtype.",
        "axis": "The axis, which `x` of one axis need not name; a negative one counts from the last.",
    },
)


def _along(name: str, x: Tensor, axis: int | None) -> int:
    """Return an axis as a negative number; raise for complex numbers, which have no order, and for no axis."""
    if "complex" in x.dtype.kind:
        raise TypeError(f"{name}: complex numbers have no order: give real ones, such as abs(x)")
    if axis is None and x.ndim != 1:
        raise ValueError(f"{name}: a Tensor of {x.ndim} axes needs axis=")
    return axis_of(name, x.ndim, -1 if axis is None else axis)


def _part(start: int | None, stop: int | None, axis: int) -> tuple[Any, ...]:
    """Return the index that cuts one axis, counted from the end."""
    return (..., slice(start, stop), *(slice(None),) * (-axis - 1))


# -- running extremes ------------------------------------------------------------------------------------


@with_operators
def _places(xp: Any, x: Any, axis: int, name: str) -> Any:
    """Return the index of the first element that attains the extreme of the elements up to each one."""
    found = getattr(xp, name)(x, axis=axis)
    before, after = found[_part(None, -1, axis)], found[_part(1, None, axis)]
    new = (after != before) & (before == before)  # the first NaN is the extreme for all that follow
    shape = (-1,) + (1,) * (-axis - 1)
    numbers = xp.reshape(xp.arange(1, x.shape[axis], device=native_device(x)), shape)
    later = xp.where(new, numbers, 0)
    zeros = xp.zeros_like(later[_part(0, 1, axis)])
    return xp.cumulative_max(xp.concat([zeros, later], axis=axis), axis=axis)


cumulative_place = primitive("cumulative_place", _places, None)


def _extreme(name: str, x: Any, axis: int | None) -> Tensor:
    x = as_tensor(x)
    place = _along(name, x, axis)
    if x.shape[place] < 2 or not x.size:
        return positive(x)
    return take_along_axis(x, as_indices(cumulative_place(x, place, name)), axis=place)


@composed
@_documented(f"The greatest values, in the shape of `x`. {SAME}", "TypeError: `x` is complex.")
def cumulative_max(x: ArrayLike, /, *, axis: int | None = None) -> Tensor:
    """Greatest of the elements up to each one along an axis; NaN from the first NaN on.

    Derivative: t, added at the element that was taken; in a tie it is the first.

    >>> import tapegrad as tg
    >>> tg.cumulative_max(tg.asarray([1.0, 3.0, 2.0]))
    Tensor([1., 3., 3.])
    """
    return _extreme("cumulative_max", x, axis)


@composed
@_documented(f"The least values, in the shape of `x`. {SAME}", "TypeError: `x` is complex.")
def cumulative_min(x: ArrayLike, /, *, axis: int | None = None) -> Tensor:
    """Least of the elements up to each one along an axis; NaN from the first NaN on.

    Derivative: t, added at the element that was taken; in a tie it is the first.

    >>> import tapegrad as tg
    >>> tg.cumulative_min(tg.asarray([2.0, 3.0, 1.0]))
    Tensor([2., 2., 1.])
    """
    return _extreme("cumulative_min", x, axis)


# -- running logarithms of sums of exponentials ----------------------------------------------------------


def _recurrence(xp: Any, a: Any, b: Any, axis: int) -> Any:
    """Return y of y_i = a_i y_(i-1) + b_i, by doubling in log2(n) steps (Hillis and Steele, 1986)."""
    n, step = b.shape[axis], 1
    while step < n:
        first, rest = _part(None, step, axis), _part(step, None, axis)
        before = _part(None, n - step, axis)
        b = xp.concat([b[first], b[rest] + a[rest] * b[before]], axis=axis)
        if 2 * step < n:
            a = xp.concat([a[first], a[rest] * a[before]], axis=axis)
        step *= 2
    return b


@with_operators
def _logsumexp_forward(xp: Any, x: Any, axis: int) -> Any:
    """Return m + log(s), with the running greatest m and s_i = exp(m_(i-1) - m_i) s_(i-1) + exp(x_i - m_i)."""
    if x.shape[axis] == 0:
        return x
    m = xp.cumulative_max(x, axis=axis)
    m = xp.where(xp.isfinite(m), m, 0)
    grown = xp.exp(xp.minimum(m[_part(None, -1, axis)] - m[_part(1, None, axis)], 0))
    s = _recurrence(xp, xp.concat([xp.ones_like(m[_part(0, 1, axis)]), grown], axis=axis), xp.exp(x - m), axis)
    out = m + xp.log(xp.where(s == 0, 1, s))
    return xp.where(s == 0, -inf, out)


def _logsumexp_vjp(xp: Any, t: Any, x: Any, out: Any, axis: int) -> Any:
    """Return exp(x_j - out_j) g_j, where g_j = t_j + exp(out_j - out_(j+1)) g_(j+1): no exponent is positive."""
    if x.shape[axis] == 0:
        return t
    nothing = out == -inf
    safe = xp.where(nothing, 0, out)
    later, here = safe[_part(1, None, axis)], safe[_part(None, -1, axis)]
    fades = xp.where(nothing[_part(None, -1, axis)], 0, xp.exp(here - later))
    fades = xp.concat([xp.zeros_like(fades[_part(0, 1, axis)]), xp.flip(fades, axis=axis)], axis=axis)
    if x.shape[axis] == 1:
        fades = xp.zeros_like(safe)
    g = xp.flip(_recurrence(xp, fades, xp.flip(t, axis=axis), axis), axis=axis)
    return xp.exp(xp.where(nothing, -inf, x - safe)) * g


_cumulative_logsumexp = primitive("cumulative_logsumexp", _logsumexp_forward, _logsumexp_vjp, rows=along)


@_documented(f"The logarithms, in the shape of `x`. {FLOATED}", "TypeError: `x` is complex.", x=_REAL)
def cumulative_logsumexp(x: ArrayLike, /, *, axis: int | None = None) -> Tensor:
    """Logarithm of the sum of exponentials of the elements up to each one along an axis, without overflow.

    Derivative: exp(x_j) times the sum of t_i exp(-out_i) over i >= j, computed without a positive exponent; 0 where out
    is -inf. Value and derivative cost log2(n) passes over the n elements.

    >>> import tapegrad as tg
    >>> tg.cumulative_logsumexp(tg.asarray([1000.0, 1000.0]))
    Tensor([1000.        , 1000.69314718])
    """
    x = as_floats(x)
    return _cumulative_logsumexp(x, _along("cumulative_logsumexp", x, axis))


# -- functions of users ----------------------------------------------------------------------------------


def _check_function(name: str, f: Any) -> None:
    """Raise TypeError unless a user's function can be called."""
    if not callable(f):
        raise TypeError(f"{name}: f is a function, not {type(f).__name__}")


def _leaves(name: str, xs: Any, axis: int) -> tuple[list[Tensor], Callable[[list[Any]], Any], int]:
    """Return the leaves of a tree as Tensors, a function that rebuilds it, and their length along an axis."""
    leaves, rebuild = flatten(xs)
    if not leaves:
        raise ValueError(f"{name}: there is no array to go along")
    tensors = list(as_tensors(name, *leaves))
    lengths = {x.shape[axis_of(name, x.ndim, axis)] for x in tensors}
    if len(lengths) > 1:
        shapes = ", ".join(str(x.shape) for x in tensors)
        raise ValueError(f"{name}: the arrays have different lengths along axis {axis}: {shapes}")
    return tensors, rebuild, lengths.pop()


@composed
@documented(
    "A tree as `xs`, whose element i along the axis is x_0, x_1, ..., x_i combined.",
    "ValueError: There is no array in `xs`, their lengths differ, or the function returns another tree or shape.",
    f=(
        "An associative function of two trees such as `xs`, which combines them element by element along the axis: "
        "f(f(a, b), c) is f(a, f(b, c))."
    ),
    xs="An array, or a tree of arrays: nested dicts, lists, tuples, dataclasses.",
    axis="The axis to go along, in all arrays.",
    reverse="Whether to go from the end.",
)
def associative_scan(f: Callable[[Any, Any], Any], xs: Any, /, *, axis: int = 0, reverse: bool = False) -> Any:
    """Prefixes combined by an associative function, in about 2 log2(n) calls of it on parts of the arrays.

    Algorithm: Ladner and Fischer, "Parallel prefix computation" (1980). Composed of the function and of slices.

    >>> import tapegrad as tg
    >>> tg.associative_scan(tg.multiply, tg.asarray([1.0, 2.0, 3.0, 4.0]))
    Tensor([ 1.,  2.,  6., 24.])
    """
    _check_function("associative_scan", f)
    leaves, rebuild, _ = _leaves("associative_scan", xs, axis)
    places = [axis_of("associative_scan", x.ndim, axis) for x in leaves]
    if reverse:
        leaves = [flip(x, axis=i) for x, i in zip(leaves, places, strict=True)]

    def cut(parts: list[Tensor], *bounds: int | None) -> list[Tensor]:
        return [x[(..., slice(*bounds), *(slice(None),) * (-i - 1))] for x, i in zip(parts, places, strict=True)]

    def combine(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
        found = [as_tensor(y) for y in flatten(f(rebuild(a), rebuild(b)))[0]]
        shapes, wanted = [y.shape for y in found], [x.shape for x in a]
        if shapes != wanted:
            raise ValueError(
                f"associative_scan: the function of arrays of shapes {wanted} returned shapes {shapes}: it combines "
                "elements of one shape to one of that shape"
            )
        return found

    def scanned(parts: list[Tensor], n: int) -> list[Tensor]:
        """Combine pairs, scan these, and combine each with the element behind it."""
        if n < 2:
            return parts
        odd = scanned(combine(cut(parts, 0, n - 1, 2), cut(parts, 1, None, 2)), n // 2)
        even = cut(parts, 0, 1)
        if n > 2:
            rest = combine(cut(odd, 0, (n - 1) // 2), cut(parts, 2, None, 2))
            even = [concat(pair, axis=i) for *pair, i in zip(even, rest, places, strict=True)]
        return [_interleaved(*pair, n) for pair in zip(even, odd, places, strict=True)]

    out = scanned(leaves, leaves[0].shape[places[0]])
    return rebuild([flip(x, axis=i) for x, i in zip(out, places, strict=True)] if reverse else out)


def _interleaved(even: Tensor, odd: Tensor, axis: int, n: int) -> Tensor:
    """Return the elements of two arrays in turn along an axis; `even` has as many as `odd`, or one more."""
    k = n // 2
    pairs = stack([even[_part(0, k, axis)], odd], axis=axis)
    at = pairs.ndim + axis - 1
    joined = reshape(pairs, (*pairs.shape[:at], 2 * k, *pairs.shape[at + 2 :]))
    return joined if n % 2 == 0 else concat([joined, even[_part(k, None, axis)]], axis=axis)


@composed
@documented(
    "The carry after the last step, and the tree of the results of all steps, stacked along a new first axis.",
    "ValueError: There is no array in `xs`, or no step, or their lengths differ.",
    f="A function of the carry and of one element of `xs`, which returns the next carry and a result, a tree or None.",
    carry="The argument of the first step, of any kind.",
    xs="An array, or a tree of arrays, gone through along the first axis.",
    reverse="Whether to go from the end; the results stay in the order of `xs`.",
)
def scan(f: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any, /, *, reverse: bool = False) -> tuple[Any, Any]:
    """A loop that hands a carry from step to step, and stacks the results of the steps.

    Composed of the function: each step is recorded as it runs. In compiled functions steps that are alike run as one
    loop.

    >>> import tapegrad as tg
    >>> tg.scan(lambda total, x: (total + x, total), 0.0, tg.asarray([1.0, 2.0, 3.0]))
    (Tensor(6.), Tensor([0., 1., 3.]))
    """
    _check_function("scan", f)
    leaves, rebuild, n = _leaves("scan", xs, 0)
    if n == 0:
        raise ValueError("scan: there is no step to take the shape of the results from: the arrays have length 0")
    results = []
    for i in reversed(range(n)) if reverse else range(n):
        carry, y = f(carry, rebuild([x[i] for x in leaves]))
        results.append(flatten(y))
    if reverse:
        results.reverse()
    _, rebuild_one = results[0]
    columns = zip(*[[as_tensor(y) for y in found] for found, _ in results], strict=True)
    return carry, rebuild_one([stack(column) for column in columns])
