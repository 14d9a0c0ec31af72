"""Normalisation of index keys: one entry an axis, no Ellipsis, no negative integers, arrays of the right library."""

from __future__ import annotations

from functools import partial
from operator import index
from typing import Any

from tapegrad._engine.coercion import from_outside, same_library
from tapegrad._engine.dispatch import as_tracer, backend_of, dtype_of, find_backend, holds, namespace_of
from tapegrad._engine.host_constants import copied_beside, is_host
from tapegrad._engine.levels import capturing
from tapegrad._engine.mode import mode, notify_use
from tapegrad._engine.tensor import Tensor, wrap
from tapegrad.backends import Array
from tapegrad.ops.conversion import as_indices, index_dtype
from tapegrad.ops.creation import of_list

Key = tuple[Any, ...]
ALL = slice(None)


def full_key(x: Tensor, key: Any) -> Key:
    """Return a key as a tuple of ints, slices, None and raw integer or boolean arrays, for every axis of `x`.

    A single boolean array stays as it is. Beside other entries it becomes the integer arrays of its true places. Raise
    IndexError for too many entries, an integer out of range, a mask of another shape, and an invalid index.
    """
    a = x._array
    shape = a.shape
    ndim = len(shape)
    plain = plain_key(key, shape)
    if plain is not None:
        return plain
    entries = _entries(key if isinstance(key, tuple) else (key,), a)
    if len(entries) == 1 and _is_mask(entries[0]):
        return tuple(entries)
    used = sum(i is not None and i is not Ellipsis for i in entries)
    if used > ndim or sum(i is Ellipsis for i in entries) > 1:
        raise IndexError(f"x[...]: {used} indices, or more than one '...', for a Tensor of shape {tuple(shape)}")
    if Ellipsis not in [i for i in entries if not hasattr(i, "shape")]:
        entries.append(Ellipsis)
    out: list[Any] = []
    axis = 0
    for i in entries:
        if i is Ellipsis:
            out += [ALL] * (ndim - used)
            axis += ndim - used
        elif i is None:
            out.append(i)
        else:
            out.append(_checked(i, axis, shape))
            axis += 1
    return tuple(out)


def plain_key(key: Any, shape: tuple[int, ...]) -> Key | None:
    """Return the full key for ints and slices, which is the hot path; None for any other key."""
    if type(key) is int:
        if not shape or not -shape[0] <= key < shape[0]:
            raise _out_of_range(key, 0, shape)
        return (key if key >= 0 else key + shape[0], *(ALL,) * (len(shape) - 1))
    if type(key) is slice:
        key = (key,)
    if type(key) is not tuple or len(key) > len(shape):
        return None
    full: list[Any] = []
    for i, n in zip(key, shape):  # noqa: B905 (the key may be shorter)
        if type(i) is int:
            if not -n <= i < n:
                raise _out_of_range(i, len(full), shape)
            full.append(i if i >= 0 else i + n)
            continue
        if type(i) is not slice:
            return None
        start = i.start
        stop = i.stop
        if i.step is not None:
            full.append(_slice(i, n))
        elif start is stop:
            full.append(ALL if start is None else _slice(i, n))
        elif type(stop) is int and 0 < stop <= n and (start is None or (type(start) is int and 0 <= start < stop)):
            full.append(i)
        else:
            full.append(_slice(i, n))
    if len(full) < len(shape):
        full += [ALL] * (len(shape) - len(full))
    return tuple(full)


def _entries(key: tuple[Any, ...], like: Array) -> list[Any]:
    """Return a key's entries; a mask beside others becomes integer arrays."""
    entries: list[Any] = []
    for i in key:
        if type(i) is int or i is None or i is Ellipsis or isinstance(i, slice):
            entries.append(i)
            continue
        if isinstance(i, bool):
            raise IndexError("x[...]: True and False are no indices; use a boolean array of the shape of x")
        array = _index_array(i, like)
        if array is None:
            try:
                entries.append(index(i))
            except TypeError:
                raise IndexError(
                    f"x[...]: an index is an integer, a slice, '...', None or an array of integers or booleans, "
                    f"not {type(i).__name__}"
                ) from None
        else:
            entries.append(array)
    if len(entries) == 1 and _is_mask(entries[0]):
        mask = entries[0]
        _check_mask(mask, 0, like)
        whole = not mask.shape or tuple(mask.shape) == tuple(like.shape)
        return entries if whole else list(backend_of[type(mask)].xp.nonzero(mask))
    return [e for n, i in enumerate(entries) for e in (_spelt_out(entries, n, like) if _is_mask(i) else (i,))]


def _is_mask(i: Any) -> bool:
    return hasattr(i, "shape") and dtype_of(i).kind == "bool"


def _spelt_out(entries: list[Any], n: int, like: Array) -> list[Any]:
    """Return the mask at place `n` of several entries as integer arrays."""

    def axes(some: list[Any]) -> int:
        return sum(len(i.shape) if _is_mask(i) else i is not None for i in some)

    mask, before = entries[n], entries[:n]
    if not mask.shape:
        raise IndexError("x[...]: a boolean of no axes is an index alone, not beside others")
    after_dots = any(i is Ellipsis for i in before)
    axis = len(like.shape) - axes(entries[n:]) if after_dots else axes(before)
    _check_mask(mask, axis, like)
    return list(backend_of[type(mask)].xp.nonzero(mask))


def _index_array(i: Any, like: Array) -> Array | None:
    """Return an index as a raw array of integers or booleans that nobody will change; None if it is one number."""
    given = False
    if isinstance(i, Tensor):
        notify_use(i)
        array = _counting(i)
    elif isinstance(i, (list, tuple, range)):
        array = _counting(of_list(list(i), like, dtype=None if i else index_dtype(like)))
    else:
        backend = find_backend(i)
        if backend is None or backend.as_scalar(i) is not None:
            return None
        array = as_tracer(i)
        given = not is_host(array, like)
        array = _counting(wrap(array if given else copied_beside(array, like)))
    alike = same_library("x[...]", array, like)
    if alike is not None:
        array = alike
    elif backend_of[type(array)].depth > backend_of[type(like)].depth:
        raise from_outside("x[i] = v")  # a Tensor that is read has been lifted
    kind = dtype_of(array).kind
    if kind not in ("bool", "signed integer", "unsigned integer"):
        raise IndexError(f"x[...]: an array of {dtype_of(array).name} is no index: use integers or booleans")
    if len(array.shape) == 0 and kind != "bool" and not _differs(array):
        return None  # a number; one that may differ, inside vmap or in a program, stays an array
    return backend_of[type(array)].copy(array) if given else array


def _differs(array: Array) -> bool:
    """Return whether an array may differ between examples of a vmap or calls of a program, JAX's too."""
    while backend_of[type(array)].depth:
        if array.mapped:
            return True
        array = array.whole._array
    return capturing.get() is not None or backend_of[type(array)].is_symbolic(array)


def _counting(x: Tensor) -> Array:
    """Return an index as a raw array; integers get a dtype wide enough for any axis."""
    return (as_indices(x) if "integer" in dtype_of(x._array).kind else x)._array


def _check_mask(mask: Array, axis: int, like: Array) -> None:
    """Raise IndexError unless a mask fits the axes from `axis` on, or is empty there."""
    shape = tuple(mask.shape)
    lengths = tuple(like.shape[axis : axis + len(shape)]) if axis >= 0 else ()
    if len(lengths) != len(shape) or any(m not in (0, n) for m, n in zip(shape, lengths, strict=True)):
        raise IndexError(f"x[mask]: a mask of shape {shape} for a Tensor of shape {tuple(like.shape)}")


def _checked(i: Any, axis: int, shape: tuple[int, ...]) -> Any:
    if isinstance(i, int):
        if not -shape[axis] <= i < shape[axis]:
            raise _out_of_range(i, axis, shape)
        return i if i >= 0 else i + shape[axis]
    if isinstance(i, slice):
        return ALL if i == ALL else _slice(i, shape[axis])
    if hasattr(i, "shape"):
        check_range("x[...]", i, axis, shape)
        if not i.shape and capturing.get() is not None:  # an eager call reads such an index as a number
            xp, n = namespace_of[type(i)], shape[axis]
            outside = xp.logical_or(xp.less(i, -n), xp.greater_equal(i, n))
            backend_of[type(outside)].refuse(outside, partial(_range_error, "x[...]", axis, tuple(shape)))
    return i


def _range_error(name: str, axis: int, shape: tuple[int, ...]) -> IndexError:
    return IndexError(f"{name}: an index is out of range for axis {axis} of shape {shape}")


def check_range(name: str, indices: Array, axis: int, shape: tuple[int, ...]) -> None:
    """Raise IndexError for integers out of range under `debug()`; not every library checks them."""
    if not mode().debug or 0 in indices.shape:
        return
    xp, n = namespace_of[type(indices)], shape[axis]
    if holds(xp.any(xp.logical_or(xp.less(indices, -n), xp.greater_equal(indices, n)))):
        raise _range_error(name, axis % len(shape), tuple(shape))


def _slice(s: slice, n: int) -> slice:
    """Return a slice within the bounds of its axis, in a form that every library accepts."""
    start, stop, step = s.indices(n)
    if step > 0:
        return slice(start, stop, step) if start < stop else slice(0, 0, 1)
    return slice(start, stop if stop >= 0 else None, step) if start > stop else slice(0, 0, 1)


def _out_of_range(i: int, axis: int, shape: tuple[int, ...]) -> IndexError:
    return IndexError(f"x[...]: index {i} is out of range for axis {axis} of a Tensor of shape {tuple(shape)}")


def may_repeat(key: Key) -> bool:
    """Return whether a full key may index a place more than once."""
    return any(hasattr(i, "shape") and dtype_of(i).kind != "bool" and i.shape != (1,) for i in key)


def with_axes(key: Key) -> tuple[Key, int | None]:
    """Return a key with an axis of length 1 for index arrays without axes, and the axis that this adds to the result.

    The key's index arrays stand together. In a captured program, arrays without axes stand for integers, which some
    libraries would read. The added axis counts from the end; None if there is none.
    """
    if capturing.get() is None or not any(hasattr(i, "shape") and not i.shape and not _is_mask(i) for i in key):
        return key, None
    arrays = [len(i.shape) for i in key if hasattr(i, "shape")]
    where = [n for n, i in enumerate(key) if isinstance(i, int) or hasattr(i, "shape")]
    made = tuple([namespace_of[type(i)].reshape(i, (1,)) if hasattr(i, "shape") and not i.shape else i for i in key])
    return made, None if max(arrays) else where[-1] - len(key)


def axes_at(key: Key) -> int:
    """Return the number of axes of `x[key]`, for a full key whose index arrays stand together."""
    arrays = [i for i in key if hasattr(i, "shape")]
    new = (
        1 if len(arrays) == 1 and dtype_of(arrays[0]).kind == "bool" else max([len(i.shape) for i in arrays], default=0)
    )
    return new + sum(i is None or isinstance(i, slice) for i in key)


def gathered(x: Tensor, key: Key) -> tuple[tuple[int, ...], tuple[int, ...], Key] | None:
    """Return (shape, order, key) to index by a key whose index arrays stand apart; None if they stand together.

    NumPy puts the axes of such arrays first. The same result comes from a reshape to `shape`, a permutation of axes by
    `order` and the new key, whose indexed axes come first. Batch axes pass through it as well.
    """
    for i in key:
        if type(i) is not slice and type(i) is not int and i is not None:
            break
    else:
        return None
    if len(key) == 1 and not key[0].shape and _is_mask(key[0]):  # one boolean selects the whole or nothing
        xp = backend_of[type(key[0])].xp
        shape = (1, *x.shape)
        return shape, tuple(range(len(shape))), (xp.nonzero(xp.reshape(key[0], (1,)))[0], *(ALL,) * len(x.shape))
    where = [n for n, i in enumerate(key) if isinstance(i, int) or hasattr(i, "shape")]
    if where[-1] - where[0] < len(where):
        return None
    lengths = iter(x.shape)
    shape = tuple(1 if i is None else next(lengths) for i in key)
    order = (*where, *(n for n in range(len(key)) if n not in where))
    return shape, order, tuple(ALL if key[n] is None else key[n] for n in order)
