"""Indexing: parts of arrays, read and written.

The derivative of reading adds into the operand's one accumulator, and that of writing works on the cotangent it owns:
a loop over all rows costs its own elements, not the whole array for each row.
"""

from __future__ import annotations

from typing import Any

from tapegrad._engine.coercion import (
    SCALARS,
    as_tensor,
    as_tensors,
    coerce,
    from_outside,
    lift_beside,
    lift_to_level,
    not_an_operand,
    on_one_level,
    same_kind,
    same_library,
    tensor_of_list,
)
from tapegrad._engine.dispatch import as_array, backend_of, dtype_of, namespace_of, native_device, outer_record
from tapegrad._engine.dtypes import KIND_RANKS, SCALAR_RANKS
from tapegrad._engine.mode import DEFAULT, mode, notify_use, scopes
from tapegrad._engine.primitive import primitive
from tapegrad._engine.record import LEAF, STATIC, Operation, Record
from tapegrad._engine.rules import OPERATIONS, composed, new, record
from tapegrad._engine.tensor import Tensor, host, wrap
from tapegrad._engine.views import updated
from tapegrad.backends import Array
from tapegrad.ops._axes import axis_of
from tapegrad.ops._keys import ALL, Key, axes_at, check_range, full_key, gathered, may_repeat, plain_key, with_axes
from tapegrad.ops._text import OTHERWISE, SAME, documented
from tapegrad.ops.binary import where
from tapegrad.ops.conversion import as_indices, index_dtype
from tapegrad.ops.creation import asarray
from tapegrad.ops.dtypes import plain
from tapegrad.ops.shaping import broadcast_shapes, broadcast_to, expand_dims, permute_dims, reshape, squeeze
from tapegrad.typing import ArrayLike

OUTSIDE = (
    "IndexError: An index is out of range; the type is that of the library. JAX gives NaN there instead, and CuPy "
    "counts on from the other end, except under `tapegrad.debug`."
)


def _batched_key(t: Any, ndim: int, key: Key) -> Key:
    """Return the key of a cotangent with batch axes; ndim: the number of axes without them."""
    batch: Key = (ALL,) * (t.ndim - ndim)
    return batch + key


# -- reading ---------------------------------------------------------------------------------------------


def _pull_read(walk: Any, r: Record, t: Any, saved: tuple[Any, ...]) -> None:
    p = r.parents[0]
    batch_ndim = len(t.shape) - len(r.shape)
    (key,) = saved
    acc = walk.accumulator(p, t, batch_ndim, key)
    if batch_ndim:
        key = (ALL,) * batch_ndim + key
    walk.set_cotangent(p, walk.xp.index_add(acc, key, t))


_getitem = primitive(
    "getitem", lambda xp, x, key: xp.index_get(x, key), None, saves=("key",), pull=_pull_read, view=True, moves="all"
)
GETITEM = OPERATIONS["getitem"]


def getitem(x: Tensor, key: Any) -> Tensor:
    """Return `x[key]`: integers, slices, `...`, None, integer arrays and masks, as in NumPy; never a view.

    Raises IndexError for indices out of range. Those in arrays are checked by the library, and not on JAX, which takes
    the nearest in range, and CuPy, which counts on from the other end: `tapegrad.debug()` checks them there too. An
    integer Tensor without axes is checked everywhere, and in a compiled function read anew at each call.
    Derivative: t, added at the places that were read, as often as they were read.

    >>> import tapegrad as tg
    >>> tg.asarray([1.0, 2.0, 3.0])[1:]
    Tensor([2., 3.])
    """
    a = x._array
    plain = plain_key(key, a.shape)
    if plain is None:
        x = lift_to_level(x)
        key = full_key(x, key)
        apart = gathered(x, key)
        if apart is not None:
            shape, order, key = apart
            x = permute_dims(reshape(x, shape), order)
        key, axis = with_axes(key)
        y = _getitem(x, key) if axis is None else squeeze(_getitem(x, key), axis)
        if any([hasattr(i, "shape") for i in key]):
            y._base = None  # a copy everywhere
        return y
    # An inlined copy of _getitem, and so of `recorded_result` in primitive.py, to save a frame: loops over rows and
    # over gates of a cell spend their time here.
    out = namespace_of[type(a)].index_get(a, plain)
    if type(out) is not type(a):
        out = backend_of[type(out)].as_array(out)
    y = new(Tensor)
    y._array = out
    p = x._record
    m = mode() if scopes else DEFAULT
    if p is None or not m.recording:
        y._record = None
        if p is None or p.op is LEAF:  # else it would hold the tape of x
            y._base = x
    else:
        y._record = record(GETITEM, (p,), (plain,), out)
        y._base = x
    if m.watch is not None:
        m.watch(GETITEM, (x,), (plain,), y)
    return y


def iterate(x: Tensor) -> Any:
    """Iterate over the first axis; every item is recorded."""
    if x.ndim == 0:
        raise TypeError("a Tensor with no axes is not iterable")
    return (getitem(x, i) for i in range(x.shape[0]))


def _pull_take(walk: Any, r: Record, t: Any, saved: tuple[Any, ...]) -> None:
    p = r.parents[0]
    indices, axis = saved
    batch_ndim = t.ndim - len(r.shape)
    assert p is not None
    key = (ALL,) * (len(p.shape) + axis) + (_raw(indices),) + (ALL,) * (-axis - 1)
    acc = walk.accumulator(p, t, batch_ndim, _if_useful(p, key))
    walk.set_cotangent(p, walk.xp.index_add(acc, _batched_key(t, len(r.shape), key), t))


def _if_useful(p: Any, key: Key) -> Key | None:
    """Return a key of integers, except for the result of an operation on rows: all of these are read as a rule."""
    return key if p.op.rows is None else None


_take = primitive(
    "take",
    lambda xp, x, indices, axis: xp.take(x, indices, axis=axis),
    None,
    saves=("indices", "axis"),
    pull=_pull_take,
    moves="all",
)


@documented(
    f"The elements, in the shape of `x` with the indices along the axis. {SAME}",
    "ValueError: `axis` is None, and `x` has other than one axis.",
    "TypeError: The indices are no integers.",
    OUTSIDE,
    indices="Integers: a vector of them, or one alone, which removes the axis.",
    axis="The axis, which `x` of one axis need not name.",
)
def take(x: ArrayLike, indices: ArrayLike, /, *, axis: int | None = None) -> Tensor:
    """Take elements at integer indices along an axis.

    Derivative: t, added at the indices, so that repeated ones add up.

    >>> import tapegrad as tg
    >>> tg.take(tg.asarray([1.0, 2.0, 3.0]), tg.asarray([2, 0]))
    Tensor([3., 1.])
    """
    x, indices = _with_indices("take", x, indices)
    if axis is None and x.ndim != 1:
        raise ValueError(f"take: a Tensor of {x.ndim} axes needs axis=")
    place = axis_of("take", x.ndim, -1 if axis is None else axis)
    if indices.ndim == 0:
        return squeeze(_take(x, _indices("take", reshape(indices, (1,)), place, x), place), place)
    return _take(x, _indices("take", indices, place, x), place)


def _with_indices(name: str, x: Any, indices: Any) -> tuple[Tensor, ...]:
    """Return an operand and its indices as Tensors; a number or a list is one of integers, whatever x is of."""
    indices = plain(indices)
    if type(indices) in SCALARS or isinstance(indices, (list, tuple)):
        x = as_tensor(x)
        number = type(indices) in SCALARS
        indices = asarray(indices, device=x.device) if number else tensor_of_list(name, indices, x._array)
    return as_tensors(name, x, indices)


@composed
@documented(
    f"The elements of `x`, each repeated; a vector if `axis` is None. {SAME}",
    ("ValueError: There are neither one nor as many repeats as elements along the axis, or one is negative."),
    repeats="How often: an integer, or one for each place along the axis.",
    axis="The axis to repeat along; the flat array is repeated for None.",
)
def repeat(x: ArrayLike, repeats: ArrayLike, /, *, axis: int | None = None) -> Tensor:
    """Repeat each element along an axis.

    Derivative: the sum of t over the repeats.

    >>> import tapegrad as tg
    >>> tg.repeat(tg.asarray([1.0, 2.0]), 2)
    Tensor([1., 1., 2., 2.])
    """
    x = as_tensors("repeat", x, repeats)[0] if type(repeats) is Tensor else as_tensor(x)
    if axis is None:
        x, axis = reshape(x, -1), 0
    place = axis_of("repeat", x.ndim, axis) + x.ndim
    if isinstance(repeats, int):
        before, n, after = x.shape[:place], x.shape[place], x.shape[place + 1 :]
        wide = broadcast_to(reshape(x, (*before, n, 1, *after)), (*before, n, repeats, *after))
        return reshape(wide, (*before, n * repeats, *after))
    counts = [int(n) for n in host(as_tensor(repeats)).reshape(-1)]
    if len(counts) == 1:
        counts *= x.shape[place]
    if len(counts) != x.shape[place] or any(n < 0 for n in counts):
        raise ValueError(f"repeat: axis {axis} of {x.shape} needs {x.shape[place]} counts, none negative")
    where = [i for i, n in enumerate(counts) for _ in range(n)]
    return take(x, asarray(where, dtype=index_dtype(x._array), device=x.device), axis=place)


def _pull_take_along_axis(walk: Any, r: Record, t: Any, saved: tuple[Any, ...]) -> None:
    p = r.parents[0]
    indices, axis = saved
    batch_ndim = t.ndim - len(r.shape)
    key = _grid(_raw(indices), axis)
    acc = walk.accumulator(p, t, batch_ndim, _if_useful(p, key))
    walk.set_cotangent(p, walk.xp.index_add(acc, _batched_key(t, len(r.shape), key), t))


def _grid(indices: Array, axis: int) -> Key:
    """Return the key of integer arrays that says for every element of `indices` where it was taken."""
    xp = namespace_of[type(indices)]
    key: list[Any] = []
    for i in range(-len(indices.shape), 0):
        if i == axis:
            key.append(indices)
        else:
            numbers = xp.arange(indices.shape[i], dtype=indices.dtype, device=native_device(indices))
            key.append(xp.reshape(numbers, (-1,) + (1,) * (-i - 1)))
    return tuple(key)


_take_along_axis = primitive(
    "take_along_axis",
    lambda xp, x, indices, axis: xp.take_along_axis(x, indices, axis=axis),
    None,
    saves=("indices", "axis"),
    pull=_pull_take_along_axis,
    moves="all",
)


@documented(
    f"The elements, in the shape of `indices`, broadcast. {SAME}",
    f"ValueError: `x` and `indices` have other numbers of axes, or do not broadcast. {OTHERWISE}",
    "TypeError: The indices are no integers.",
    OUTSIDE,
    indices="Integers; it has as many axes as `x`, and broadcasts against it along all except the named one.",
)
def take_along_axis(x: ArrayLike, indices: ArrayLike, /, *, axis: int = -1) -> Tensor:
    """Take elements at integer indices along an axis, other ones in each place of the other axes.

    Derivative: t, added at the indices, so that repeated ones add up.

    >>> import tapegrad as tg
    >>> tg.take_along_axis(tg.asarray([[1.0, 2.0], [3.0, 4.0]]), tg.asarray([[1], [0]]))
    Tensor([[2.],
            [3.]])
    """
    x, indices = _with_indices("take_along_axis", x, indices)
    if x.ndim != indices.ndim:
        raise ValueError(f"take_along_axis: {indices.ndim} axes of indices for {x.ndim} of x")
    place = axis_of("take_along_axis", x.ndim, axis)

    def without(shape: tuple[int, ...], n: int) -> tuple[int, ...]:
        at = len(shape) + place
        return (*shape[:at], n, *shape[at + 1 :])

    rest = broadcast_shapes(without(x.shape, 1), without(indices.shape, 1))
    x = broadcast_to(x, without(rest, x.shape[place]))
    indices = broadcast_to(indices, without(rest, indices.shape[place]))
    return _take_along_axis(x, _indices("take_along_axis", indices, place, x), place)


def _indices(name: str, indices: Tensor, axis: int, x: Tensor) -> Array:
    if "integer" not in indices.dtype.kind:
        raise TypeError(f"{name}: indices must be integers, not {indices.dtype.name}")
    notify_use(indices)
    raw = as_indices(indices)._array
    check_range(name, raw, axis, x.shape)
    return raw


def _raw(x: Any) -> Array:
    return x._array if type(x) is Tensor else x


# -- writing ---------------------------------------------------------------------------------------------


def _pull_write(walk: Any, r: Record, t: Any, saved: tuple[Any, ...]) -> None:
    """Take the cotangent of the value at the written places, and pass the rest on in the same buffer."""
    old, value = r.parents
    (key,) = saved
    xp = walk.xp
    if r.shape == () and not walk.create_graph:
        t = as_array(t)  # NumPy adds arrays of no axes to scalars, which cannot be written to
    key = _batched_key(t, len(r.shape), key)
    if walk.wants(value):
        part = xp.index_get(t, key)
        if may_repeat(key):
            part = xp.where(_last_writes(xp, t, key), part, 0)
        elif not walk.create_graph and walk.wants(old):
            part = backend_of[type(part)].copy(part)  # it may be a view of the elements that are zeroed next
        walk.accumulate(value, walk.fit(part, value, r, t))
    if walk.wants(old):
        rest = t if r in walk.owned else walk.copy(t)
        inside = walk.support_outside(r, saved[0], t) if old is not None and old.op.carries else None
        rest = xp.index_set(rest, key, xp.zeros((), dtype=t.dtype, device=native_device(t)))
        walk.accumulate(old, rest, owned=True, support=inside)


def _last_writes(xp: Any, t: Any, key: Key) -> Any:
    """Return for each written element whether it stays: if indices repeat, the last write wins."""
    t = _raw(t)
    raw = namespace_of[type(t)]
    places = raw.zeros(t.shape, dtype=backend_of[type(t)].native_dtype(index_dtype(t)), device=native_device(t))
    shape = raw.index_get(places, key).shape
    n = 1
    for length in shape:
        n *= length
    numbers = raw.reshape(raw.arange(n, dtype=places.dtype, device=native_device(t)), shape)
    kept = raw.index_get(raw.index_set(places, key, numbers), key) == numbers
    return wrap(kept) if xp is not raw else kept


SETITEM = Operation("setitem", (None, None), ("key",), (STATIC,), broadcasts=True, pull=_pull_write, moves="all")
OPERATIONS["setitem"] = SETITEM


def setitem(x: Tensor, key: Any, value: Any) -> None:
    """Give `x` the value it has with `x[key] = value`; no other Tensor changes.

    value: broadcast to the shape of `x[key]` and cast to the dtype of x. Derivatives: t, zero where written; t at
    the places written. Raises RuntimeError for a leaf that requires a gradient while recording and for a recorded
    result while not, TypeError for a value whose dtype does not fit in x's, ValueError for one that does not broadcast.

    >>> import tapegrad as tg
    >>> x = tg.asarray([1.0, 2.0])
    >>> x[0] = 5.0
    >>> x
    Tensor([5., 2.])
    """
    check_writable(x, "x[...] = v")
    if isinstance(value, (list, tuple)):
        value = tensor_of_list("x[...] = v", value, x._array)  # recorded, if it holds Tensors that are
    key = full_key(x, key)
    apart = gathered(x, key)
    if apart is not None:
        updated(x, "x[...] = v")
        shape, order, key = apart
        y = permute_dims(reshape(x, shape), order)
        y._base = None
        setitem(y, key, value)
        back = tuple(sorted(range(len(order)), key=order.__getitem__))
        x._array, x._record = parts(reshape(permute_dims(y, back), x.shape), x)
        return
    if type(value) is Tensor and type(value._array) is not type(x._array):
        value = _beside_target(x, value)
    v = _written(value, x._array)
    if v.shape and v.shape[0] == 1:  # leading axes of length 1 that the place does not have are dropped, as by NumPy
        extra = max(len(v.shape) - axes_at(key), 0)
        if extra and v.shape[:extra] == (1,) * extra:
            if type(value) is Tensor:
                value = reshape(value, value.shape[extra:])
            v = namespace_of[type(v)].reshape(v, v.shape[extra:])
    key, axis = with_axes(key)
    if axis is not None and len(v.shape) >= -axis:
        if type(value) is Tensor:
            value = expand_dims(value, axis=axis)
        v = namespace_of[type(v)].expand_dims(v, axis=axis)
    if len(key) == 1 and type(key[0]) not in (int, slice) and _fits_everywhere(key[0], v):
        updated(x, "x[...] = v")
        value = wrap(v, value._record if type(value) is Tensor else None)
        x._array, x._record = parts(where(wrap(key[0]), value, x), x)
        return
    backend = backend_of[type(x._array)]  # no local name for the buffer: it would count as a second owner
    parents = (x._record, value._record if type(value) is Tensor else None)
    private = backend.is_private(x)
    if not private:
        updated(x, "x[...] = v")
    try:
        if type(value) is Tensor and v is value._array and _is_whole(key, v, x) and backend.can_share(v, x._array):
            out = v
        elif private:
            out = backend.xp.index_set(x._array, key, v)
        else:
            out = backend.xp.index_set(backend.copy(x._array), key, v)
    except Exception as error:
        shapes = f"a value of shape {tuple(v.shape)}" if hasattr(v, "shape") else repr(v)
        message = f"x[...] = v of {shapes} for a Tensor of shape {x.shape}: {error}"
        kept = isinstance(error, (IndexError, ArithmeticError, MemoryError, Warning))  # else the shapes do not fit
        raise (same_kind(error, message) if kept else ValueError(message)) from error
    rebind(x, out, SETITEM, parents, (key,))
    m = mode()
    if m.watch is not None:
        m.watch(SETITEM, (x, value), (key,), x)


def _is_whole(key: Key, v: Array, x: Tensor) -> bool:
    """Return whether a write replaces the whole Tensor by the value itself."""
    return v.shape == x._array.shape and v.dtype == x._array.dtype and all(type(i) is slice and i == ALL for i in key)


def _fits_everywhere(mask: Any, v: Array) -> bool:
    """Return whether one number is written by a mask that differs between the examples of a vmap."""
    return hasattr(mask, "shape") and backend_of[type(mask)].depth > 0 and dtype_of(mask).kind == "bool" and not v.shape


def _beside_target(x: Tensor, value: Tensor) -> Tensor:
    """Return a written value lifted to the vmap level of `x`; raise RuntimeError if its own level is deeper."""
    name = "x[...] = v"
    alike = same_library(name, value._array, x._array)
    if alike is not None:
        return wrap(alike, value._record)
    value = lift_beside(x._array, value)
    if type(value._array) is not type(x._array):
        raise from_outside(name)
    return value


def _written(value: Any, a: Array) -> Array:
    """Return a written value as a raw array of the library and dtype of `a`."""
    name = "x[...] = v"
    if type(value) is Tensor:
        v = value._array
    else:
        v = coerce(name, value, a, keep=False)
        if v is NotImplemented:
            raise not_an_operand(name, value)
    return _cast_value(v, a)


def parts(y: Tensor, x: Tensor) -> tuple[Array, Record | None]:
    """Return the value and record that an in-place update ending in `y` gives `x`."""
    keeps = x._record is not None and x._record.op is LEAF  # under no_grad: the leaf stays the same leaf
    return y._array, x._record if keeps else y._record


def _cast_value(v: Any, a: Array) -> Array:
    """Return a written value in the dtype of `a`; raise TypeError if the cast loses its kind."""
    to = dtype_of(a)
    xp = namespace_of[type(a)]
    if type(v) in SCALARS:
        kind, rank = type(v).__name__, SCALAR_RANKS[type(v)]
    else:
        kind, rank = dtype_of(v).kind, KIND_RANKS[dtype_of(v).kind]
    if rank > KIND_RANKS[to.kind]:
        raise TypeError(
            f"x[...] = v: a {kind} value does not fit in a Tensor of {to.name}: convert one of them "
            "with tapegrad.astype"
        )
    if type(v) in SCALARS:
        return xp.asarray(v, dtype=a.dtype, device=native_device(a))
    return v if v.dtype == a.dtype else xp.astype(v, a.dtype)


def check_writable(x: Tensor, what: str) -> None:
    """Raise RuntimeError for an in-place update that would silently lose a gradient.

    These are updates of a leaf that requires a gradient while recording, and of a recorded result while not recording.
    """
    r = x._record
    if mode().recording:
        if r is not None and r.op is LEAF:
            raise RuntimeError(
                f"{what} on a leaf that requires a gradient would lose its gradient: update it under "
                "tapegrad.no_grad(), or work on a copy such as y = x * 1"
            )
    elif r.op is not LEAF if r is not None else outer_record(x._array) is not None:
        raise RuntimeError(
            f"{what} under tapegrad.no_grad() on the result of an operation would cut it from the tape: write while "
            "recording, or on x = x.detach() if no gradient is meant to flow back"
        )


def rebind(x: Tensor, out: Array, op: Operation, parents: tuple[Record | None, ...], saved: tuple[Any, ...]) -> None:
    """Set the new value of a Tensor after an in-place operation, and record the operation if a parent is recorded."""
    x._array = out
    if mode().recording and any(p is not None for p in parents):
        x._record = record(op, parents, saved, out)


# -- the index functions of the walk -----------------------------------------------------------------------


def index_get(x: Any, key: Key) -> Tensor:
    """Return `x[key]` for a full key."""
    return _getitem(x, key)


def index_set(x: Tensor, key: Key, value: Tensor) -> Tensor:
    """Write into a Tensor that nobody else uses, and return it."""
    if type(x._array) is not type(value._array):
        x, value = on_one_level((x, value))
    x._base = None
    setitem(x, key, value)
    return x


def _pull_add(walk: Any, r: Record, t: Any, saved: tuple[Any, ...]) -> None:
    old, value = r.parents
    if walk.wants(value):
        part = walk.xp.index_get(t, _batched_key(t, len(r.shape), saved[0]))
        inside = walk.support_at(r, saved[0], t) if value is not None and value.op.carries else None
        walk.accumulate(value, part if walk.create_graph else backend_of[type(part)].copy(part), support=inside)
    if walk.wants(old):
        walk.accumulate(old, t, support=walk.support)


INDEX_ADD = Operation("index_add", (None, None), ("key",), (STATIC,), pull=_pull_add, moves="all")
OPERATIONS["index_add"] = INDEX_ADD


def index_add(x: Tensor, key: Key, value: Tensor) -> Tensor:
    """Add values into a Tensor that nobody else uses, repeated indices adding up, and return it."""
    if type(x._array) is not type(value._array):
        x, value = on_one_level((x, value))
    backend = backend_of[type(x._array)]
    parents = (x._record, value._record)
    if backend.is_private(x):
        out = backend.xp.index_add(x._array, key, value._array)
    else:
        out = backend.xp.index_add(backend.copy(x._array), key, value._array)
    rebind(x, out, INDEX_ADD, parents, (key,))
    return x
