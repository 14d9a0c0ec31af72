"""Batching rules: for each function of the standard, a call on whole Tensors that computes all examples.

Most functions need no rule of their own: axes count from the end, and operands of different ranks are lined up behind
the batch axis. The engine passes axes as negative numbers, whole shapes and full keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from operator import attrgetter
from typing import Any

from tapegrad._engine.bound import bound
from tapegrad._engine.coercion import lift_to_level
from tapegrad._engine.dispatch import device_of, find_backend, namespace_of
from tapegrad._engine.levels import mapping
from tapegrad._engine.tensor import Tensor, wrap
from tapegrad._vmap.array import Batched, BatchedBackend, Level, leaked, shape_needed
from tapegrad.backends._array import DTYPE_NAMES
from tapegrad.ops._keys import full_key

ALL = slice(None)
Function = Callable[..., Any]
_CREATION = {"arange", "asarray", "empty", "eye", "full", "linspace", "ones", "zeros"}
_LIKE = {"empty_like", "full_like", "ones_like", "zeros_like"}


class BatchedNamespace:
    """A namespace of functions on batched arrays."""

    elsewhere = None  # batched arrays hold Tensors, whose operations set the current device

    def __init__(self, backend: BatchedBackend, prefix: str = "") -> None:
        self._backend, self._prefix = backend, prefix

    def __getattr__(self, name: str) -> Any:
        full, backend = self._prefix + name, self._backend
        made: Any
        if full in ("fft", "linalg", "special"):
            made = BatchedNamespace(backend, f"{full}.")
        elif full in DTYPE_NAMES:
            made = backend.native_dtype(full)
        elif full in _CREATION:
            made = partial(_create, backend, full)
        elif full in _LIKE:
            made = partial(_create_like, backend, full.removesuffix("_like"))
        else:
            made = attrgetter(full)(bound.tensor_namespace)
            if callable(made):
                made = partial(_apply, backend.depth, full, RULES.get(full, _lined_up), made)
        self.__dict__[name] = made
        return made


def _create(backend: BatchedBackend, name: str, /, *args: Any, **kwargs: Any) -> Any:
    return backend.made(getattr(backend.root.xp, name)(*args, **kwargs))


def _create_like(backend: BatchedBackend, name: str, x: Any, /, *args: Any) -> Any:
    return _create(backend, name, x.shape, *args, dtype=x.dtype, device=x.device)


def _apply(depth: int, name: str, rule: Function, function: Function, /, *args: Any, **kwargs: Any) -> Any:
    """Call a function by its batching rule, as an operation outside of the level."""
    level = _level_of(depth, args)
    if level is None:  # only arrays of the library below: a rule that computes with values saved outside
        several = args[0] if isinstance(args[0], (list, tuple)) else ()
        below = next(a for a in (*several, *args) if hasattr(a, "shape"))
        return attrgetter(name)(namespace_of[type(below)])(*args, **kwargs)
    if not level.open:
        raise leaked()
    lifted = [_lifted(level, a) for a in args]
    token = mapping.set(level.outer)
    try:
        out, mapped = rule(level, function, *lifted, **kwargs)
        if type(out) is Tensor:
            return level.array(out, mapped)
        return [level.array(y, mapped) for y in out] if isinstance(out, (tuple, list)) else out
    finally:
        mapping.reset(token)


def _level_of(depth: int, args: Sequence[Any]) -> Level | None:
    for a in args:
        if isinstance(a, Batched):
            if a.level.depth == depth:
                return a.level
        elif type(a) is tuple or type(a) is list:
            level = _level_of(depth, a)
            if level is not None:
                return level
    return None


def _lifted(level: Level, a: Any) -> Any:
    """Return an argument with arrays of the libraries below lifted to this level."""
    if isinstance(a, Batched) and a.level.depth == level.depth:
        if a.level is not level:
            raise leaked()
        return a
    if type(a) is tuple or type(a) is list:
        return type(a)([_lifted(level, i) for i in a])
    if hasattr(a, "shape"):
        backend = find_backend(a)
        if backend is not None:
            return level.array(wrap(backend.as_array(a)), mapped=False)
    return a


# -- rules: (level, the function on Tensors, its arguments) -> (its result, whether that is mapped) -------------------

Out = tuple[Any, bool]


def _lined_up(level: Level, f: Function, /, *args: Any, **kwargs: Any) -> Out:
    """The rule of elementwise functions and of those on the last axes: the other axes broadcast."""
    arrays = [a for a in args if isinstance(a, Batched)]
    n = max(len(a.shape) for a in arrays)
    wholes = [a.lined_up(n) if isinstance(a, Batched) else a for a in args]
    return f(*wholes, **kwargs), any([a.mapped for a in arrays])


def _negative(axis: Any, ndim: int) -> Any:
    if axis is None:
        return tuple(range(-ndim, 0))
    return tuple([_negative(i, ndim) for i in axis]) if isinstance(axis, tuple) else axis if axis < 0 else axis - ndim


def _along_axis(level: Level, f: Function, x: Batched, /, *args: Any, axis: Any = None, **kwargs: Any) -> Out:
    return f(x.whole, *args, axis=_negative(axis, x.ndim), **kwargs), x.mapped


def _arg_extreme(level: Level, f: Function, x: Batched, /, *, axis: int | None = None, keepdims: bool = False) -> Out:
    if axis is not None or not x.mapped:
        return f(x.whole, axis=axis, keepdims=keepdims), x.mapped
    xp = bound.tensor_namespace
    out = f(xp.reshape(x.whole, (level.size, x.size)), axis=-1)
    return xp.reshape(out, (level.size, *(1,) * (x.ndim * keepdims))), True


def _reshape(level: Level, f: Function, x: Batched, shape: Any, /) -> Out:
    if not x.mapped:
        return f(x.whole, shape), False
    known = -prod(shape)
    sizes = [x.size // (known or 1) if n == -1 else n for n in shape]
    return f(x.whole, (level.size, *sizes)), True


def _broadcast_to(level: Level, f: Function, x: Batched, shape: Any, /) -> Out:
    return f(x.lined_up(len(shape)), (level.size, *shape) if x.mapped else tuple(shape)), x.mapped


def _permute_dims(level: Level, f: Function, x: Batched, axes: Any, /) -> Out:
    return f(x.whole, (0, *[i % x.ndim + 1 for i in axes]) if x.mapped else axes), x.mapped


def _expand_dims(level: Level, f: Function, x: Batched, /, *, axis: Any) -> Out:
    ndim = x.ndim + (1 if isinstance(axis, int) else len(axis))
    return f(x.whole, axis=_negative(axis, ndim)), x.mapped


def _join(level: Level, f: Function, arrays: Sequence[Batched], /, *, axis: int) -> Out:
    """The rule of concat and stack; the engine counts their axis from the end."""
    mapped = any([a.mapped for a in arrays])
    return f([a.spread() if mapped else a.whole for a in arrays], axis=axis), mapped


def _matmul(level: Level, f: Function, x1: Batched, x2: Batched, /) -> Out:
    xp = bound.tensor_namespace
    mapped, n1, n2 = x1.mapped or x2.mapped, x1.ndim, x2.ndim
    a, b = x1.whole, x2.whole
    if not mapped:
        return f(a, b), False
    # With a matrix that all examples share, the examples become rows of one product.
    if not x2.mapped and n2 <= 2 and n1 == 1:
        return f(a, b), True
    if not x1.mapped and n1 <= 2 and n2 == 1:
        return f(b, a.T if n1 == 2 else a), True
    if not x2.mapped and n1 == n2 == 2:
        rows = xp.reshape(a, (level.size * x1.shape[0], x1.shape[1]))
        return xp.reshape(f(rows, b), (level.size, x1.shape[0], x2.shape[1])), True
    if not x1.mapped and n1 == n2 == 2:
        beside = xp.reshape(xp.permute_dims(b, (1, 0, 2)), (x2.shape[0], level.size * x2.shape[1]))
        out = xp.reshape(f(a, beside), (x1.shape[0], level.size, x2.shape[1]))
        return xp.permute_dims(out, (1, 0, 2)), True
    a = x1.lined_up(n2) if n1 > 1 else xp.expand_dims(a, axis=-2)
    b = x2.lined_up(n1) if n2 > 1 else xp.expand_dims(b, axis=-1)
    if n1 == 1 and x1.mapped and n2 > 2:
        a = xp.reshape(a, (level.size, *(1,) * (n2 - 1), *x1.shape))
    if n2 == 1 and x2.mapped and n1 > 2:
        b = xp.reshape(b, (level.size, *(1,) * (n1 - 2), *x2.shape, 1))
    out = f(a, b)
    gone = (-2,) * (n1 == 1) + (-1,) * (n2 == 1)
    return xp.squeeze(out, axis=gone) if gone else out, True


def _solve(level: Level, f: Function, x1: Batched, x2: Batched, /) -> Out:
    if x2.ndim > 1:
        return _lined_up(level, f, x1, x2)
    xp = bound.tensor_namespace
    column = xp.reshape(x2.whole, (*x2.whole.shape[: x2.mapped], *(1,) * (x1.ndim - 2), *x2.shape, 1))
    return xp.squeeze(f(x1.whole, column), axis=-1), x1.mapped or x2.mapped


def _searchsorted(level: Level, f: Function, x1: Batched, x2: Batched, /, *, side: str, sorter: Any) -> Out:
    sorter = _lifted(level, sorter)
    at = sorter if isinstance(sorter, Batched) else x1
    if not x1.mapped and not at.mapped:
        return f(x1.whole, x2.whole, side=side, sorter=None if sorter is None else at.whole), x2.mapped
    xs, ats, vs = x1.spread(), at.spread(), x2.spread()
    found = [
        f(xs[i, ...], vs[i, ...], side=side, sorter=None if sorter is None else ats[i, ...]) for i in range(level.size)
    ]
    xp = bound.tensor_namespace
    return xp.stack(found) if found else xp.zeros(vs.shape, dtype="int64", device=vs.device), True


def _isin(level: Level, f: Function, x1: Batched, x2: Batched, /, *, invert: bool) -> Out:
    if not x2.mapped:
        return f(x1.whole, x2.whole, invert=invert), x1.mapped
    xp = bound.tensor_namespace
    among = xp.reshape(x2.whole, (level.size, *(1,) * x1.ndim, x2.size))
    found = xp.any(x1.whole[..., None] == among, axis=-1)
    return xp.logical_not(found) if invert else found, True


def _nonzero(level: Level, f: Function, x: Batched, /) -> Out:
    if x.mapped:
        raise shape_needed("nonzero, unique or x[mask]", "tapegrad.where(mask, x, y)")
    return f(x.whole), False


# -- reading and writing parts ---------------------------------------------------------------------------------------

Entries = list[Any]


def _entries(key: tuple[Any, ...]) -> Entries:
    """Return the entries of a full key, with a mask as integer arrays."""
    out: Entries = []
    for i in key:
        if isinstance(i, Batched) and i.whole.dtype.kind == "bool":
            found, _ = _nonzero(i.level, bound.tensor_namespace.nonzero, i)
            out += [i.level.array(a, mapped=False) for a in found]
        else:
            out.append(i)
    return out


def _is_mapped(entries: Entries) -> bool:
    return any([isinstance(i, Batched) and i.mapped for i in entries])


def _block(entries: Entries) -> tuple[int, int, int]:
    """Return the first and last place of a key's index arrays and integers, and the number of axes that they make."""
    axes = [len(i.shape) for i in entries if isinstance(i, Batched)]
    if not axes:
        return 0, 0, 0
    where = [n for n, i in enumerate(entries) if isinstance(i, (int, Batched))]
    return where[0], where[-1] + 1, max(axes)


def _rank(entries: Entries) -> int:
    """Return the number of axes of `x[key]`."""
    return _block(entries)[2] + sum([i is None or isinstance(i, slice) for i in entries])


def _whole_key(level: Level, x: Batched, entries: Entries, rows: bool) -> tuple[Any, ...]:
    """Return the key into the whole for a key into each example; rows: whether the whole has the batch axis."""
    if not _is_mapped(entries):
        plain = [i.whole if isinstance(i, Batched) else i for i in entries]
        return (ALL, *plain) if rows else tuple(plain)
    # An index array that counts the examples comes first. Slices before the other index arrays become arrays too. Then
    # all index arrays are neighbours, and their axes stay in place.
    xp, device = bound.tensor_namespace, device_of(x.whole._array)
    first, last, wide = _block(entries)
    rank = first + wide
    key: list[Any] = [xp.reshape(xp.arange(level.size, device=device), (-1, *(1,) * rank))] if rows else []
    axis = 0
    for n, i in enumerate(entries[:first]):
        if i is not None:
            r = range(x.shape[axis])[i]
            key.append(xp.reshape(xp.arange(r.start, r.stop, r.step, device=device), (len(r), *(1,) * (rank - n - 1))))
            axis += 1
    key += [i.lined_up(rank) if isinstance(i, Batched) else i for i in entries[first:last]]
    return (*key, *entries[last:])


def _index_get(level: Level, f: Function, x: Batched, key: tuple[Any, ...], /) -> Out:
    entries = _entries(key)
    mapped = x.mapped or _is_mapped(entries)
    return x.whole[_whole_key(level, x, entries, rows=x.mapped)], mapped


def _take(level: Level, f: Function, x: Batched, indices: Batched, /, *, axis: int) -> Out:
    if not indices.mapped:
        return f(x.whole, indices.whole, axis=axis), x.mapped
    return _index_get(level, f, x, (*(ALL,) * (x.ndim + axis), indices, *(ALL,) * (-axis - 1)))


def _take_along_axis(level: Level, f: Function, x: Batched, indices: Batched, /, *, axis: int) -> Out:
    mapped = x.mapped or indices.mapped
    return f(*[a.spread() if mapped else a.whole for a in (x, indices)], axis=axis), mapped


def _segment(level: Level, f: Function, x: Batched, ids: Batched, n: int, /) -> Out:
    xp = bound.tensor_namespace
    if not ids.mapped:  # the examples lie beside each other in each row
        if not x.mapped:
            return f(x.whole, ids.whole, n), False
        return xp.moveaxis(f(xp.moveaxis(x.whole, 0, 1), ids.whole, n), 0, 1), True
    rows, numbers = x.spread(), ids.spread()
    first = xp.arange(level.size, dtype=numbers.dtype, device=numbers.device) * n
    flat = xp.reshape(numbers + first[:, None], (-1,))
    out = f(xp.reshape(rows, (flat.shape[0], *x.shape[1:])), flat, level.size * n)
    return xp.reshape(out, (level.size, n, *x.shape[1:])), True


def _own(level: Level, x: Batched, mapped: bool) -> Tensor:
    """Return the whole of an array as a Tensor that may be updated in place and is not a leaf."""
    y = lift_to_level(x.spread() if mapped else x.whole)
    return wrap(y._array) if y._record is None else bound.tensor_namespace.positive(y)


def _write(level: Level, f: Function, x: Batched, key: tuple[Any, ...], value: Batched, /) -> Out:
    """The rule of index_set and index_add, which write into a Tensor of their own."""
    entries = _entries(key)
    mapped = x.mapped or value.mapped or _is_mapped(entries)
    y = _own(level, x, mapped)
    adds = f is bound.tensor_namespace.index_add  # which does not broadcast
    values = lift_to_level(value.spread() if adds and mapped else value.lined_up(_rank(entries)))
    return f(y, full_key(y, _whole_key(level, x, entries, rows=mapped)), values), mapped


def _draw(level: Level, f: Function, key: Batched, count: Batched, /, *static: Any) -> Out:
    """The rule of random numbers: the axes of several keys and counters stand before the shape of the numbers."""
    n = max(key.ndim, count.ndim)
    return f(key.lined_up(n), count.lined_up(n), *static), key.mapped or count.mapped


def _dropped(
    level: Level, f: Function, x: Batched, key: Batched, count: Batched, shape: tuple[int, ...], /, *static: Any
) -> Out:
    """The rule of dropout: further axes of x stand between those of the examples and those of one mask."""
    xp = bound.tensor_namespace
    more = x.ndim - len(shape) - max(key.ndim, count.ndim) + 1
    words = [xp.reshape(w.whole, (level.size, *(1,) * more, *w.shape)) if w.mapped else w.whole for w in (key, count)]
    return f(x.whole, *words, shape, *static), x.mapped or key.mapped or count.mapped


def _skip(level: Level, f: Function, count: Batched, /, *static: Any) -> Out:
    return f(count.whole, *static), count.mapped


def _as_one(level: Level, f: Function, function: Function, /, *arrays: Batched) -> Out:
    """The rule of opaque functions, which take batch axes."""
    return f(function, *[x.spread() for x in arrays]), True


RULES: dict[str, Function] = {
    **dict.fromkeys(("all", "any", "count_nonzero", "max", "mean", "min", "prod", "std", "sum", "var"), _along_axis),
    **dict.fromkeys(
        (
            "cumulative_max",
            "cumulative_min",
            "cumulative_prod",
            "cumulative_sum",
            "argsort",
            "flip",
            "roll",
            "squeeze",
            "unstack",
        ),
        _along_axis,
    ),
    **dict.fromkeys(("argmax", "argmin"), _arg_extreme),
    **dict.fromkeys(("concat", "stack"), _join),
    **dict.fromkeys(("index_add", "index_set"), _write),
    "as_one": _as_one,
    "broadcast_to": _broadcast_to,
    "draw": _draw,
    "dropped": _dropped,
    "expand_dims": _expand_dims,
    "index_get": _index_get,
    "isin": _isin,
    "linalg.solve": _solve,
    "linalg.vector_norm": _along_axis,
    "matmul": _matmul,
    "nonzero": _nonzero,
    "permute_dims": _permute_dims,
    "reshape": _reshape,
    **dict.fromkeys(("segment_max", "segment_min"), _segment),
    "searchsorted": _searchsorted,
    "skip": _skip,
    "take": _take,
    "take_along_axis": _take_along_axis,
}
