"""Functions of the standard that move elements and change none."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tapegrad._engine.coercion import as_tensor, as_tensors
from tapegrad._engine.primitive import primitive, several, variadic
from tapegrad._engine.rules import composed, identity
from tapegrad._engine.tensor import Tensor
from tapegrad.ops._axes import axes_of, axis_of, integers
from tapegrad.ops._text import BROADCAST, OTHERWISE, PROMOTED, SAME, documented
from tapegrad.typing import ArrayLike, Axis, Shape

# -- the primitives --------------------------------------------------------------------------------------


def _batch_shape(t: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the extra leading axes of the cotangent of a result of this shape."""
    return tuple(t.shape[: t.ndim - len(shape)])


_reshape = primitive(
    "reshape",
    lambda xp, x, shape: xp.reshape(x, shape),
    lambda xp, t, x_shape, shape: xp.reshape(t, _batch_shape(t, shape) + tuple(x_shape)),
    view=True,
    moves="all",
)
_broadcast_to = primitive(
    "broadcast_to", lambda xp, x, shape: xp.broadcast_to(x, shape), identity, broadcasts=True, moves="all"
)


def _permute_vjp(xp: Any, t: Any, axes: tuple[int, ...]) -> Any:
    batch_ndim = t.ndim - len(axes)
    back = sorted(range(len(axes)), key=axes.__getitem__)
    return xp.permute_dims(t, (*range(batch_ndim), *(batch_ndim + i for i in back)))


_permute_dims = primitive(
    "permute_dims", lambda xp, x, axes: xp.permute_dims(x, axes), _permute_vjp, view=True, moves="all"
)
_flip = primitive(
    "flip", lambda xp, x, axis: xp.flip(x, axis=axis), lambda xp, t, axis: xp.flip(t, axis=axis), view=True, moves="all"
)
_roll = primitive(
    "roll",
    lambda xp, x, shift, axis: xp.roll(x, shift, axis=axis),
    lambda xp, t, shift, axis: xp.roll(t, tuple(-n for n in shift), axis=axis),
    moves="all",
)


def _along(axis: int, what: Any) -> tuple[Any, ...]:
    """Return the index with `what` at an axis counted from the end."""
    return (..., what, *(slice(None),) * (-axis - 1))


def _concat_vjp(xp: Any, t: Any, shapes: tuple[tuple[int, ...], ...], axis: int) -> list[Any]:
    parts, start = [], 0
    for shape in shapes:
        stop = start + shape[axis]
        parts.append(t[_along(axis, slice(start, stop))])
        start = stop
    return parts


_concat = variadic("concat", lambda xp, arrays, axis: xp.concat(arrays, axis=axis), _concat_vjp)
_stack = variadic(
    "stack",
    lambda xp, arrays, axis: xp.stack(arrays, axis=axis),
    lambda xp, t, shapes, axis: [t[_along(axis, i)] for i in range(len(shapes))],
)


def _unstack_vjp(xp: Any, ts: list[Any], axis: int) -> Any:
    like = next(t for t in ts if t is not None)
    return xp.stack([xp.zeros_like(like) if t is None else t for t in ts], axis=axis)


_unstack = several("unstack", lambda xp, x, axis: xp.unstack(x, axis=axis), _unstack_vjp, moves="some")


# -- one array -------------------------------------------------------------------------------------------


def _sizes(name: str, shape: Any) -> tuple[int, ...]:
    """Return a shape, or one length, as a tuple of ints."""
    sizes = integers(name, "a shape", shape)
    if sizes and min(sizes) < -1:
        raise ValueError(f"{name}: a shape has no negative lengths, but {shape} has")
    return sizes


@documented(
    f"The elements of `x`, in C order, in the shape. {SAME}",
    "ValueError: The number of elements differs.",
    shape="The new shape, or its one length; one length may be -1, for the length that the elements fill.",
    copy="Accepted for the standard's sake: a Tensor is a value, so it makes no difference.",
)
def reshape(x: ArrayLike, /, shape: Shape, *, copy: bool | None = None) -> Tensor:
    """Give the elements, in order, another shape.

    Derivative: t in the old shape.

    >>> import tapegrad as tg
    >>> tg.reshape(tg.asarray([1.0, 2.0]), (2, 1)).shape
    (2, 1)
    """
    x = as_tensor(x)
    sizes = _sizes("reshape", shape)
    size, known = prod(x._array.shape), prod(sizes)
    if known == size and size > 0:
        pass
    elif -1 in sizes:
        known = -known
        if sizes.count(-1) > 1 or known == 0 or size % known:
            raise ValueError(f"reshape: {x.shape} has {size} elements, which do not fill the shape {sizes}")
        sizes = tuple([size // known if n == -1 else n for n in sizes])
    elif known != size:
        raise ValueError(f"reshape: {x.shape} has {size} elements, the shape {sizes} has {known}")
    y = _reshape(x, sizes)
    base = getattr(y._array, "base", None)
    if base is not None and base is not x._array and base is not x._array.base:
        y._base = None  # a copy, which need not keep the memory of x
    return y


@documented(
    f"The elements of `x`, repeated. {SAME}",
    f"ValueError: `x` does not broadcast to the shape. {OTHERWISE}",
    shape="The shape of the result.",
)
def broadcast_to(x: ArrayLike, /, shape: Shape) -> Tensor:
    """Repeat along new axes and axes of length 1, to a shape.

    Derivative: t, summed over the repetitions.

    >>> import tapegrad as tg
    >>> tg.broadcast_to(tg.asarray(1.0), (2,))
    Tensor([1., 1.])
    """
    return _broadcast_to(as_tensor(x), _sizes("broadcast_to", shape))


@documented(
    f"The elements of `x`, whose axis `axes[i]` is axis i here. {SAME}",
    "ValueError: They are no permutation of the axes.",
    axes="All axes of `x`, in their new order.",
)
def permute_dims(x: ArrayLike, /, axes: tuple[int, ...]) -> Tensor:
    """Put the axes in another order.

    Derivative: t in the old order.

    >>> import tapegrad as tg
    >>> tg.permute_dims(tg.zeros((2, 3)), (1, 0)).shape
    (3, 2)
    """
    x = as_tensor(x)
    order = tuple(axis_of("permute_dims", x.ndim, i) + x.ndim for i in axes)
    if sorted(order) != list(range(x.ndim)):
        raise ValueError(f"permute_dims: {tuple(axes)} is no permutation of the axes of a shape {x.shape}")
    return _permute_dims(x, order)


@documented(f"The elements of `x` in its shape. {SAME}", axis="The axes to reverse; all of them for None.")
def flip(x: ArrayLike, /, *, axis: Axis = None) -> Tensor:
    """Reverse the order of elements along axes.

    Derivative: t, flipped.

    >>> import tapegrad as tg
    >>> tg.flip(tg.asarray([1.0, 2.0]))
    Tensor([2., 1.])
    """
    x = as_tensor(x)
    return _flip(x, axes_of("flip", x.ndim, axis))


@documented(
    f"The elements of `x` in its shape. {SAME}",
    "ValueError: An axis is not there, or there are not as many shifts as axes.",
    "TypeError: An axis is no integer, or a shift is none.",
    shift="By how many places to shift, towards the end; one for all axes or one for each.",
    axis="The axes to shift along; the flat array is rolled for None.",
)
def roll(x: ArrayLike, /, shift: int | tuple[int, ...], *, axis: Axis = None) -> Tensor:
    """Shift elements along axes, those that fall off coming back at the start.

    Derivative: t, rolled back.

    >>> import tapegrad as tg
    >>> tg.roll(tg.asarray([1.0, 2.0, 3.0]), 1)
    Tensor([3., 1., 2.])
    """
    x = as_tensor(x)
    if axis is None:
        return reshape(roll(reshape(x, -1), shift, axis=0), x.shape) if x.size else broadcast_to(x, x.shape)
    axes, shifts = integers("roll", "an axis", axis), integers("roll", "a shift", shift)
    if not isinstance(shift, (tuple, list)):
        shifts *= len(axes)
    if len(shifts) != len(axes):
        raise ValueError(f"roll: {len(shifts)} shifts for {len(axes)} axes")
    return _roll(x, shifts, tuple(axis_of("roll", x.ndim, i) for i in axes))


@composed
@documented(
    f"The elements of `x`, with axes of length 1 put in. {SAME}",
    axis="The places of the new axes in the shape of the result; negative ones count from its end.",
)
def expand_dims(x: ArrayLike, /, axis: int | tuple[int, ...]) -> Tensor:
    """Insert axes of length 1.

    Derivative: t in the old shape.

    >>> import tapegrad as tg
    >>> tg.expand_dims(tg.zeros(3), -1).shape, tg.expand_dims(tg.zeros(3), (0, 2)).shape
    ((3, 1), (1, 3, 1))
    """
    x = as_tensor(x)
    positions = integers("expand_dims", "an axis", axis)
    ndim = x.ndim + len(positions)
    axes = axes_of("expand_dims", ndim, positions)
    lengths = iter(x.shape)
    return _reshape(x, tuple([1 if i in axes else next(lengths) for i in range(-ndim, 0)]))


@composed
@documented(
    f"The elements of `x`, without these axes. {SAME}",
    "ValueError: An axis has another length than 1.",
    axis="The axes to remove.",
)
def squeeze(x: ArrayLike, /, axis: int | tuple[int, ...]) -> Tensor:
    """Remove axes of length 1.

    Derivative: t in the old shape.

    >>> import tapegrad as tg
    >>> tg.squeeze(tg.zeros((1, 3)), axis=0).shape
    (3,)
    """
    x = as_tensor(x)
    axes = axes_of("squeeze", x.ndim, axis)
    for i in axes:
        if x.shape[i] != 1:
            raise ValueError(f"squeeze: axis {i} of {x.shape} has length {x.shape[i]}, not 1")
    return _reshape(x, tuple(n for i, n in enumerate(x.shape, -x.ndim) if i not in axes))


@composed
@documented(
    f"The elements of `x`, with its axes in another order. {SAME}",
    "ValueError: An axis is not there or is named twice, or there are not as many places as axes.",
    "TypeError: An axis is no integer.",
    source="The axes to move.",
    destination="Where each of them goes.",
)
def moveaxis(x: ArrayLike, source: int | tuple[int, ...], destination: int | tuple[int, ...], /) -> Tensor:
    """Move axes to other places; the others keep their order.

    Derivative: t, its axes moved back.

    >>> import tapegrad as tg
    >>> tg.moveaxis(tg.zeros((2, 3, 4)), 0, -1).shape
    (3, 4, 2)
    """
    x = as_tensor(x)
    n = x.ndim
    sources = [axis_of("moveaxis", n, i) + n for i in integers("moveaxis", "an axis", source)]
    places = [axis_of("moveaxis", n, i) + n for i in integers("moveaxis", "an axis", destination)]
    if len(set(sources)) != len(sources) or len(set(places)) != len(places) or len(sources) != len(places):
        raise ValueError(f"moveaxis: from {source} to {destination}: as many axes, none twice")
    order = [i for i in range(n) if i not in sources]
    for place, i in sorted(zip(places, sources, strict=True)):
        order.insert(place, i)
    return _permute_dims(x, tuple(order))


@composed
@documented(
    f"The copies of `x`, whose length along each axis is that of `x` times the repetitions. {SAME}",
    f"ValueError: A number of repetitions is negative. {OTHERWISE}",
    "TypeError: A number of repetitions is no integer.",
    repetitions="How many copies along each axis; missing ones, at the front, are 1.",
)
def tile(x: ArrayLike, repetitions: tuple[int, ...], /) -> Tensor:
    """Put copies of the whole array side by side.

    Derivative: the sum of t over the copies.

    >>> import tapegrad as tg
    >>> tg.tile(tg.asarray([1.0, 2.0]), (2,))
    Tensor([1., 2., 1., 2.])
    """
    x = as_tensor(x)
    times = integers("tile", "a number of repetitions", repetitions)
    ndim = max(x.ndim, len(times))
    times = (1,) * (ndim - len(times)) + times
    shape = (1,) * (ndim - x.ndim) + x.shape
    thin = tuple(m for n in shape for m in (1, n))
    wide = tuple(m for k, n in zip(times, shape, strict=True) for m in (k, n))
    full = tuple(k * n for k, n in zip(times, shape, strict=True))
    return _reshape(_broadcast_to(_reshape(x, thin), wide), full)


# -- several arrays --------------------------------------------------------------------------------------


@documented(
    f"The elements of the arrays. {PROMOTED}",
    f"ValueError: There is no array, or the shapes differ elsewhere than along the axis. {OTHERWISE}",
    arrays="At least one array, of the same shape except along the axis.",
    axis="The axis to join along; the flat arrays are joined for None.",
)
def concat(arrays: Sequence[ArrayLike], /, *, axis: int | None = 0) -> Tensor:
    """Join arrays along an axis.

    Derivative: the pieces of t.

    >>> import tapegrad as tg
    >>> tg.concat([tg.asarray([1.0]), tg.asarray([2.0, 3.0])])
    Tensor([1., 2., 3.])
    """
    xs = _list("concat", arrays)
    if axis is None:
        xs, axis = tuple(reshape(x, -1) for x in xs), 0
    return _concat(xs, axis_of("concat", xs[0].ndim, axis))


@documented(
    f"The elements of the arrays, one of them at each place along the new axis. {PROMOTED}",
    f"ValueError: There is no array, or the shapes differ. {OTHERWISE}",
    arrays="At least one array, all of one shape.",
    axis="The place of the new axis in the shape of the result.",
)
def stack(arrays: Sequence[ArrayLike], /, *, axis: int = 0) -> Tensor:
    """Join arrays of one shape along a new axis.

    Derivative: the pieces of t.

    >>> import tapegrad as tg
    >>> tg.stack([tg.asarray([1.0]), tg.asarray([2.0])]).shape
    (2, 1)
    """
    xs = _list("stack", arrays)
    return _stack(xs, axis_of("stack", xs[0].ndim + 1, axis))


@documented(f"One Tensor for each place along the axis, without that axis. {SAME}", axis="The axis to split along.")
def unstack(x: ArrayLike, /, *, axis: int = 0) -> tuple[Tensor, ...]:
    """Split an array along an axis.

    Derivative: the cotangents of the results, stacked.

    >>> import tapegrad as tg
    >>> tg.unstack(tg.asarray([1.0, 2.0]))
    (Tensor(1.), Tensor(2.))
    """
    x = as_tensor(x)
    ys = _unstack(x, axis_of("unstack", x.ndim, axis))
    if x.is_leaf or (ys and ys[0]._record is not None):
        for y in ys:
            y._base = x
    return ys


def _list(name: str, arrays: Sequence[Any]) -> tuple[Tensor, ...]:
    if not isinstance(arrays, (list, tuple)) or not arrays:
        raise ValueError(f"{name}: a list or tuple of at least one array is needed")
    return as_tensors(name, *arrays)


@documented("The shape that they broadcast to.", "ValueError: They do not broadcast.", shapes="The shapes.")
def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Shape that shapes broadcast to.

    >>> import tapegrad as tg
    >>> tg.broadcast_shapes((3, 1), (4,))
    (3, 4)
    """
    ndim = max((len(s) for s in shapes), default=0)
    out = [1] * ndim
    for shape in shapes:
        for i, n in enumerate(shape, ndim - len(shape)):
            if out[i] not in (1, n) and n != 1:
                raise ValueError(f"shapes {', '.join(map(str, shapes))} could not be broadcast together")
            out[i] = n if n != 1 else out[i]
    return tuple(out)


@composed
@documented(
    "The arrays, each repeated to the shape they broadcast to, in its own dtype.", BROADCAST, arrays="The arrays."
)
def broadcast_arrays(*arrays: ArrayLike) -> tuple[Tensor, ...]:
    """Broadcast arrays against each other.

    Derivatives: t of each, summed over the repetitions.

    >>> import tapegrad as tg
    >>> [x.shape for x in tg.broadcast_arrays(tg.zeros((2, 1)), tg.zeros(3))]
    [(2, 3), (2, 3)]
    """
    xs = as_tensors("broadcast_arrays", *arrays)
    shape = broadcast_shapes(*[x.shape for x in xs])
    return tuple([_broadcast_to(x, shape) for x in xs])


@composed
@documented(
    "A Tensor for each vector, in the shape of the grid and the dtype of the vector.",
    "ValueError: `indexing` is another one.",
    arrays="Vectors, each with the coordinates along one axis of the grid.",
    indexing=(
        "'xy' puts the first vector along the second axis and the second along the first, 'ij' each along its own."
    ),
)
def meshgrid(*arrays: ArrayLike, indexing: str = "xy") -> tuple[Tensor, ...]:
    """Spread vectors over a grid.

    Derivatives: t of each, summed over the other axes.

    >>> import tapegrad as tg
    >>> [x.shape for x in tg.meshgrid(tg.zeros(2), tg.zeros(3), indexing="ij")]
    [(2, 3), (2, 3)]
    """
    if indexing not in ("xy", "ij"):
        raise ValueError(f"meshgrid: indexing is 'xy' or 'ij', not {indexing!r}")
    xs = as_tensors("meshgrid", *arrays)
    places = list(range(len(xs)))
    if indexing == "xy" and len(xs) > 1:
        places[:2] = [1, 0]
    spread = [
        reshape(x, tuple(x.size if i == place else 1 for i in range(len(xs))))
        for x, place in zip(xs, places, strict=True)
    ]
    return broadcast_arrays(*spread)
