"""Functions of functions: `grad` and `value_and_grad`, freely nested.

Any nesting is right by four rules, with no levels or tags. Each input of a transform gets a fresh record whose
parent is the input's own; only records from which these are reached are walked; rules run on Tensors if and
only if recording was on at entry and something tracked outside can be reached; a transform records inside itself,
and if recording was off at entry, its result is cut from the tape.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any
from weakref import ref

from tapegrad._backward import Walk, collect
from tapegrad._dtypes import is_complex, isdtype
from tapegrad._namespace import backend_of, find_backend, namespace_of
from tapegrad._record import LEAF, Operation, Record, mode, mode_set
from tapegrad._rules import bind, identity, record
from tapegrad._tensor import Tensor, wrap
from tapegrad._tree import flatten

LINK = Operation("link", (bind(identity, ()),))


def value_and_grad(f: Callable[..., Any], argnums: int | tuple[int, ...] = 0) -> Callable[..., tuple[Any, Any]]:
    """Return a function that gives the value of `f` and its gradient.

    f returns a Tensor (or array) of one element. argnums: the argument, or tuple of arguments, to differentiate
    by: arrays of any library, Tensors or Python floats, or dicts, lists, tuples and dataclasses of
    them. The gradient has the argument's structure, shapes, dtypes and devices (a tuple of those for a
    tuple of arguments). Tensors in give Tensors out, raw arrays and floats give raw arrays. What `f` does not
    depend on has gradient zero.

    Raises TypeError for an argument leaf that is not floating and for a result that is no Tensor, ValueError for
    a result of more than one element.

    >>> import tapegrad as tg
    >>> tg.value_and_grad(lambda x: tg.sum(x * x))(tg.asarray([1.0, 2.0]))
    (Tensor(5.), Tensor([2., 4.]))
    """
    name = getattr(f, "__name__", "the function")

    @wraps(f)
    def run(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        was_recording = mode().recording
        chosen = (argnums,) if isinstance(argnums, int) else tuple(argnums)
        raw: list[bool] = []
        fresh: list[Tensor] = []
        inputs = list(args)
        rebuilds = []
        for i in chosen:
            if not -len(args) <= i < len(args):
                raise TypeError(f"grad of {name}: argnums={argnums} but {len(args)} positional arguments were given")
            leaves, rebuild = flatten(args[i])
            new = [_fresh(x, name, was_recording) for x in leaves]
            raw += [type(x) is not Tensor for x in leaves]
            fresh += new
            inputs[i] = rebuild(new)
            rebuilds.append((len(leaves), rebuild))
        with mode_set(recording=True):
            y = f(*inputs, **kwargs)
            if not isinstance(y, Tensor):
                if find_backend(y) is None and not isinstance(y, (int, float)):
                    raise TypeError(f"grad of {name}: it must return a Tensor, not {type(y).__name__}")
                y = _constant(y)
            if y.size != 1:
                raise ValueError(
                    f"grad of {name}: it must return one number, not a Tensor of shape {y.shape}: "
                    "reduce it first, as in tapegrad.sum(y)"
                )
            if is_complex(y._array.dtype):
                raise TypeError(f"grad of {name}: it must return a real number, as tapegrad.real(y), not a complex one")
            path, outer = between(y._record, {x._record for x in fresh if x._record is not None})
        taped = was_recording and outer
        with mode_set(recording=taped):
            grads = _pull_back(y, fresh, path, taped)
        value = wrap(y._array, y._record if taped else None)
        # Raw arrays in give raw arrays out, unless somebody outside may differentiate the result again.
        results = [_raw(g) if is_raw and not taped else g for g, is_raw in zip(grads, raw, strict=True)]
        trees = []
        for n, rebuild in rebuilds:
            trees.append(rebuild(results[:n]))
            results = results[n:]
        gradient = trees[0] if isinstance(argnums, int) else tuple(trees)
        return _raw(value) if all(raw) and not taped else value, gradient

    return run


def grad(f: Callable[..., Any], argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """Return a function that gives the gradient of `f`, which returns one number; see `value_and_grad`.

    >>> import tapegrad as tg
    >>> cube = lambda x: x * x * x
    >>> float(tg.grad(cube)(2.0)), float(tg.grad(tg.grad(cube))(2.0))
    (12.0, 12.0)
    """
    both = value_and_grad(f, argnums)

    @wraps(f)
    def run(*args: Any, **kwargs: Any) -> Any:
        return both(*args, **kwargs)[1]

    return run


def between(root: Record | None, leaves: set[Record]) -> tuple[list[Record], bool]:
    """Return the records from which `leaves` are reached, latest first, and whether others are.

    The second is True if something tracked outside the transform can be reached from the root or through
    the leaves, so that somebody may differentiate the result again.
    """
    if root is None or not leaves:
        return [], False
    # What is older than the leaves cannot depend on them: it is outside, and need not be looked at.
    oldest = max(r.seq for r in leaves)
    order = collect(root, oldest)
    on: set[Record] = set()
    out: set[Record] = set()  # what reaches a record outside
    for r in reversed(order):
        if any([p in on for p in r.parents]) or r in leaves:
            on.add(r)
        if r.op is LEAF or any([p is not None and (p.seq > oldest or p in out) for p in r.parents]):
            out.add(r)
    return [r for r in order if r in on], root in out


def _pull_back(y: Tensor, fresh: list[Tensor], path: list[Record], taped: bool) -> list[Tensor]:
    """Return the cotangents of the fresh inputs for a cotangent of one of `y`."""
    found: dict[Record, Any] = {}
    if path:
        assert y._record is not None
        one = namespace_of[type(y._array)].ones_like(y._array)
        walk = Walk(y._record, wrap(one) if taped else one, set(path), taped)
        found = dict(walk.run(retain=taped))
    grads = []
    for x in fresh:
        assert x._record is not None
        g = found.get(x._record)
        if g is None:
            g = wrap(namespace_of[type(x._array)].zeros_like(x._array))
        elif not taped:
            g = wrap(backend_of[type(g)].as_array(g))
        grads.append(g)
    return grads


def _raw(x: Tensor) -> Any:
    """Return the value as a raw array that nobody else holds."""
    backend = backend_of[type(x._array)]
    return x._array if backend.is_private(x) else backend.copy(x._array)


def _constant(x: Any) -> Tensor:
    from tapegrad.ops.creation import asarray

    return asarray(x)


def _fresh(x: Any, name: str, was_recording: bool) -> Tensor:
    """Return an input as a Tensor with a record of its own, whose parent is the input's record."""
    if not isinstance(x, Tensor):
        if find_backend(x) is None and not isinstance(x, (float, complex)):
            raise TypeError(
                f"grad of {name}: an argument to differentiate by must hold arrays, Tensors or floats, "
                f"not {type(x).__name__}"
            )
        x = _constant(x)
    if not isdtype(x.dtype, ("real floating", "complex floating")):
        raise TypeError(
            f"grad of {name}: an argument to differentiate by has dtype {x.dtype.name}, which is not "
            "floating: convert it with tapegrad.astype(x, tapegrad.float32)"
        )
    y = wrap(x._array)
    y._record = record(LINK, (x._record if was_recording else None,), (), x._array)
    y._record.tensor = ref(y)
    return y
