"""Discrete distributions: booleans, orders, choices and categories."""

from __future__ import annotations

from operator import index
from typing import Any

from tapegrad._engine.coercion import as_tensor
from tapegrad._engine.dispatch import backend_of, native_device
from tapegrad._engine.tensor import Tensor
from tapegrad.ops.conversion import as_floats
from tapegrad.ops.elementwise import log, negative
from tapegrad.ops.indexing import take
from tapegrad.ops.reductions import count_nonzero, cumulative_sum
from tapegrad.ops.reductions import sum as sum_of
from tapegrad.ops.sorting import argmax, argsort, searchsorted
from tapegrad.random.bounded import integers
from tapegrad.random.continuous import standard_gumbel
from tapegrad.random.parameters import Source, cast, check, given, shape_of

PROBABILITY = "probabilities are from 0 to 1"


def bernoulli(rng: Source, p: Any, shape: Any) -> Tensor:
    """Return whether open numbers are at most p: they are of float32 on all devices."""
    (p,) = given("bernoulli", rng, p)
    check("bernoulli", PROBABILITY, lambda p: (p >= 0) & (p <= 1), p)
    (p,) = cast("float32", p)
    sizes = shape_of("bernoulli", getattr(p, "shape", ()) if shape is None else shape, p)
    return rng.numbers("open", sizes, "float32") <= p  # type: ignore[no-any-return]


def permutation(rng: Source, x: Any) -> Tensor:
    """Return an order of n, or the parts of x along its first axis in one."""
    if isinstance(x, Tensor) or hasattr(x, "shape") or isinstance(x, list):
        x = as_tensor(x, "permutation")
        if x.ndim == 0 and "integer" in x.dtype.kind:
            return _order(rng, index(x))
        if x.ndim == 0:
            raise TypeError("permutation: a number of items, or a Tensor with an axis to permute")
        return take(x, _order(rng, x.shape[0]), axis=0)
    return _order(rng, counted("permutation", x))


def _order(rng: Source, n: int) -> Tensor:
    """Return the order of n numbers of 53 bits; where there is no float64, sorted by their parts, the low one first."""
    array = rng.key._array
    if backend_of[type(array)].has_dtype("float64", native_device(array)):
        return argsort(rng.numbers("uniform", (n,), "float64"), stable=True)
    words = rng.numbers("bits", (n, 2), "uint32")
    order = argsort(words[:, 0] >> 11, stable=True)
    return take(order, argsort(take(words[:, 1], order, axis=0), stable=True), axis=0)


def choice(rng: Source, x: Any, n: Any, replace: bool, p: Any) -> Tensor:
    """Return n of some items."""
    several = isinstance(x, Tensor) or hasattr(x, "shape") or isinstance(x, list)
    if several:
        x = as_tensor(x, "choice")
        if x.ndim == 0:
            raise TypeError("choice: a number of items, or a Tensor with an axis to choose along")
    length = x.shape[0] if several else counted("choice", x)
    n = counted("choice", n)
    if n > length and not replace:
        raise ValueError(f"choice: {n} of {length} items without replacement: pass replace=True")
    if n and not length:
        raise ValueError("choice: there are no items to choose from")
    places = _places(rng, length, n, replace, p)
    return take(x, places, axis=0) if several else places


def _places(rng: Source, length: int, n: int, replace: bool, p: Any) -> Tensor:
    if p is None:
        return integers(rng, n, 0, length or 1, None) if replace else _order(rng, length)[:n]
    (p,) = given("choice", rng, p)
    p = as_floats(p).detach()
    if p.shape != (length,):
        raise ValueError(f"choice: p has shape {p.shape}, and there are {length} items")
    check("choice", PROBABILITY, lambda p: (p >= 0) & (p <= 1), p)
    if replace:
        check("choice", "probabilities add up to 1", lambda p: abs(sum_of(p) - 1) < 1e-3, p)
        steps = cumulative_sum(p)
        u = rng.numbers("uniform", (n,), "float64" if p.dtype.name == "float64" else "float32")
        return searchsorted(steps, u * steps[-1], side="right")
    check("choice", f"at least {n} probabilities are positive", lambda p: count_nonzero(p) >= n, p)
    # The n largest of log(p) + a Gumbel number each: Efraimidis and Spirakis (2006), in logarithms.
    scores = log(p) + standard_gumbel(rng, (length,), "float64" if p.dtype.name == "float64" else "float32")
    return argsort(negative(scores), stable=True)[:n]


def categorical(rng: Source, logits: Any, axis: int) -> Tensor:
    """Return the places of the largest of logits + a Gumbel number each, along an axis."""
    (logits,) = given("categorical", rng, logits)
    logits = as_floats(logits).detach()
    if logits.ndim == 0 or 0 in logits.shape[axis : axis + 1 or None]:
        raise ValueError(f"categorical: logits of shape {logits.shape} have no categories along axis {axis}")
    return argmax(logits + standard_gumbel(rng, logits.shape, logits.dtype.name), axis=axis)


def counted(name: str, n: Any) -> int:
    """Return a number of items as an int; raise TypeError for another type, ValueError if it is negative."""
    try:
        found = index(n)
    except TypeError:
        raise TypeError(f"{name}: a number of items is an integer, not {type(n).__name__}") from None
    if found < 0:
        raise ValueError(f"{name}: a number of items is not negative, as {found} is")
    return found
