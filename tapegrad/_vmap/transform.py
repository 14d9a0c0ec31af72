"""The transform `vmap`, which maps a function of one example over a batch axis, without a loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any

from tapegrad._engine.coercion import lift_to_level, placed
from tapegrad._engine.dispatch import detached_array, find_backend, on_level
from tapegrad._engine.levels import mapping
from tapegrad._engine.mode import mode, mode_set, notify_use
from tapegrad._engine.tensor import Tensor, wrap
from tapegrad._engine.tree import flatten
from tapegrad._inspect.tape import note_line
from tapegrad._transforms.derived import derived
from tapegrad._transforms.reverse import check_function, device_for_host, is_of_host, is_recorded, raw_result
from tapegrad._transforms.typed import P, R, Transformed
from tapegrad._vmap.array import Batched, Level
from tapegrad.ops.creation import on_device
from tapegrad.ops.shaping import broadcast_to, moveaxis


@derived
def vmap(f: Callable[P, R], in_axes: Any = 0, out_axes: Any = 0) -> Transformed[P, R]:
    """Return a function that applies `f`, written for one example, to many at once.

    `f` is called once. A Tensor inside has the shape of one example (printing it shows all). What `f` uses from
    outside is the same for all examples, as are keyword arguments. It nests in any order with `grad`, `jvp` and other
    transforms. Raw arrays in give raw arrays out; where a Tensor is among the arguments, arrays of NumPy beside it are
    constants.

    Parameters
    ----------
    f : callable
        A function of one example.
    in_axes : int, None or tuple, default 0
        The axis of each argument along which the examples lie, None if it is the same for all: one for all
        arguments, or a tuple with one for each. In a dict, list or tuple an argument may have another axis for each
        item.
    out_axes : int, None or tuple, default 0
        The axis of each result along which the examples go, in the same way; None only if it is the same for all.

    Returns
    -------
    callable
        A function of the arguments of `f`, each with an axis more.

    Raises
    ------
    ValueError
        At a call: nothing is mapped, an axis is not there, or there are different numbers of examples.
    TypeError
        `f` is no function. At a call: an axis is for something that is no array, or `f` needs the value of a Tensor
        (`if x > 0`, `x[mask]`).

    Examples
    --------
    >>> import tapegrad as tg
    >>> x = tg.asarray([[1.0, 2.0], [3.0, 4.0]])
    >>> tg.vmap(lambda x: x / tg.sum(x))(x)
    Tensor([[0.33333333, 0.66666667],
            [0.42857143, 0.57142857]])
    >>> loss = lambda w, x: tg.sum(tg.sin(w * x))
    >>> tg.vmap(tg.grad(loss), in_axes=(None, 0))(tg.asarray([0.0, 0.0]), x)  # a gradient for each example
    Tensor([[1., 2.],
            [3., 4.]])
    """
    check_function("vmap", f)
    what = f"vmap of {getattr(f, '__name__', 'the function')}"

    @wraps(f)
    def run(*args: Any, **kwargs: Any) -> Any:
        each = in_axes if isinstance(in_axes, (tuple, list)) else (in_axes,) * len(args)
        if len(each) != len(args):
            raise ValueError(f"{what}: in_axes has {len(each)} axes for {len(args)} arguments")
        leaves, rebuild = flatten(list(args))
        axes = list(_axes(f"{what}: in_axes", list(each), list(args)))
        owners = [i for i, arg in enumerate(args) for _ in flatten(arg)[0]]
        device = device_for_host(leaves)
        moved = [
            x if axis is None else _to_front(f"{what}: argument {i}", x, axis, device)
            for i, x, axis in zip(owners, leaves, axes, strict=True)
        ]
        sizes = [(i, x.shape[0]) for i, x, axis in zip(owners, moved, axes, strict=True) if axis is not None]
        level = Level(_size(what, sizes), mapping.get())
        inputs = [_input(level, x, axis) for x, axis in zip(moved, axes, strict=True)]
        with inside(level):
            y = f(*rebuild(inputs), **kwargs)
        ys, together = flatten(y)
        places = _axes(f"{what}: out_axes", out_axes, y)
        like = next(x for x, axis in zip(moved, axes, strict=True) if axis is not None)
        results = [_result(what, level, y, axis, like) for y, axis in zip(ys, places, strict=True)]
        if not mode().recording:
            results = [wrap(detached_array(y._array)) for y in results]
        if not any(isinstance(x, Tensor) for x in leaves) and not any(is_recorded(y) for y in results):
            to_host = all(is_of_host(x) for x in leaves)
            return together([raw_result(y, to_host) for y in results])
        return together(results)

    return run  # type: ignore[return-value]


def _axes(what: str, axes: Any, tree: Any) -> Iterator[int | None]:
    """Yield the axis of each leaf of a tree; axes: one for all leaves, or a tree of the same structure at the top."""
    if axes is None or (isinstance(axes, int) and not isinstance(axes, bool)):
        yield from [axes] * len(flatten(tree)[0])
    elif isinstance(axes, dict) and isinstance(tree, dict) and axes.keys() == tree.keys():
        for key in tree:
            yield from _axes(what, axes[key], tree[key])
    elif isinstance(axes, (tuple, list)) and isinstance(tree, (tuple, list)) and len(axes) == len(tree):
        for axis, part in zip(axes, tree, strict=True):
            yield from _axes(what, axis, part)
    else:
        raise ValueError(
            f"{what} must hold integers and None in the structure of the values, or be one axis for all: {axes!r} does "
            f"not fit {type(tree).__name__}"
        )


def _to_front(what: str, x: Any, axis: int, device: str | None) -> Tensor:
    """Return an argument as a Tensor with the batch axis in front; device: for an argument of the host."""
    if not isinstance(x, Tensor):
        if find_backend(x) is None:
            raise TypeError(f"{what} has axis {axis} in in_axes, but is no Tensor or array: give it None there")
        x = on_device(x, device)
    notify_use(x)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"{what} has no axis {axis} to map over: its shape is {x.shape}")
    return moveaxis(x, axis, 0) if axis % x.ndim else x


def _input(level: Level, x: Any, axis: int | None) -> Any:
    """Return an argument on the level; a Tensor that is the same for all examples is a separate value there too."""
    if axis is None:
        return wrap(level.lift(x)) if isinstance(x, Tensor) else x
    return wrap(level.array(wrap(x._array, x._record), mapped=True))


def _size(what: str, sizes: list[tuple[int, int]]) -> int:
    """Return the number of examples, given (number of the argument, its number of examples) for each leaf."""
    if not sizes:
        raise ValueError(f"{what}: no argument is mapped: give at least one an axis in in_axes")
    if len({n for _, n in sizes}) > 1:
        listed = ", ".join(dict.fromkeys(f"argument {i} has {n}" for i, n in sizes))
        raise ValueError(f"{what}: the arguments hold different numbers of examples: {listed}")
    return sizes[0][1]


@contextmanager
def inside(level: Level) -> Iterator[None]:
    """A context inside of a level; a watcher sees only operations on Tensors of all examples."""
    watch, was_open = mode().watch, level.open
    level.open = True
    try:
        with on_level(level), nullcontext() if watch is None else mode_set(watch=_of_wholes(watch), unwatched=True):
            yield
    finally:
        level.open = was_open


def _of_wholes(watch: Callable[..., None]) -> Callable[..., None]:
    """Return a watcher that passes on only operations on Tensors of all examples."""

    def seen(operation: Any, operands: Any, static: Any, result: Any) -> None:
        results = result if isinstance(result, tuple) else (result,)
        if not any([isinstance(x, Tensor) and isinstance(x._array, Batched) for x in (*operands, *results)]):
            watch(operation, operands, static, result)
        elif mode().debug:
            note_line(operation, operands, static, result)

    return seen


def _result(what: str, level: Level, y: Any, axis: int | None, like: Tensor) -> Tensor:
    """Return a result with its batch axis at `axis`; like: a Tensor whose device constants of the host go to."""
    if not isinstance(y, Tensor):
        if find_backend(y) is None and not isinstance(y, (int, float, complex)):
            raise TypeError(f"{what}: it must return a Tensor or a container of them, not {type(y).__name__}")
        y = placed(what, y, like._array)
    array = y._array
    inside = isinstance(array, Batched) and array.level is level
    mapped = inside and array.mapped
    whole = array.whole if inside else lift_to_level(y)
    if axis is None:
        if mapped:
            raise ValueError(f"{what}: a result differs between examples: give it an axis in out_axes, not None")
        return whole
    if not mapped:
        whole = broadcast_to(whole, (level.size, *y.shape))
    if not -whole.ndim <= axis < whole.ndim:
        raise ValueError(f"{what}: out_axes has {axis}, but with the examples a result has {whole.ndim} axes")
    return moveaxis(whole, 0, axis) if axis % whole.ndim else whole
