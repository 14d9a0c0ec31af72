"""Forward mode: the push of tangents through records, from the oldest to the latest.

An elementwise rule is a differential, so that it applies to tangents as to cotangents. Any other rule is transposed: it
is linear in its cotangent, so that it is recorded on a stand-in cotangent and walked in reverse with the tangents. So
every operation with a rule has a forward mode too, to any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial, reduce
from typing import Any

from tapegrad._engine.backward import (
    Walk,
    as_tensors_of,
    call,
    fused_rules,
    has_nan,
    refuse_nan,
    second_backward,
    seeds_of,
    walked,
)
from tapegrad._engine.bound import bound
from tapegrad._engine.dispatch import backend_of, detached_array, namespace_of, native_device
from tapegrad._engine.dtypes import is_complex
from tapegrad._engine.linear_tangents import direct
from tapegrad._engine.mode import mode, mode_set
from tapegrad._engine.once import once
from tapegrad._engine.primitive import PICK
from tapegrad._engine.record import LEAF, OUTS, RELEASED, STATIC, Operation, Record
from tapegrad._engine.rules import new, record
from tapegrad._engine.structural_zeros import Support, intersection, masked, row_support, safe_values, union
from tapegrad._engine.tensor import Tensor, wrap
from tapegrad._transforms.custom_rules import SavedCall
from tapegrad._transforms.linear_map import LinearMap
from tapegrad._transforms.reverse import TransformCall, between, check_function, is_recorded, like, linked


def push(path: Sequence[Record], tangents: dict[Record, Any], create_graph: bool) -> None:
    """Add the tangents of all records on a path, latest first, to those of its leaves.

    All tangents may have the same batch axes in front. create_graph: whether the tangents are Tensors. An operation
    with several results has a list of tangents. The records that pick one result read it there.
    """
    supports: dict[Record, Support] = {}
    picks: dict[Any, list[Record]] | None = None
    debug = mode().debug
    for r in reversed(path):
        if r in tangents:  # a leaf
            continue
        if r.saved is RELEASED:
            raise second_backward(r)
        op = r.op
        t = op.push(r, tangents, create_graph) if op.push is not None else None
        if t is not None:
            pass
        elif type(r.shape) is int:
            if picks is None:
                picks = _picks(path)
            t = _transposed(r, tangents, create_graph, picks.get(r, ()))
        elif op is PICK:
            ts = tangents.get(r.parents[0])  # type: ignore[arg-type]
            t = None if ts is None else ts[r.saved[0]]
        elif op.elementwise and (op.analytic or not _any_complex(r)):
            t = _elementwise(r, tangents, create_graph, supports)
        else:
            t = (direct(op) or _transposed)(r, tangents, create_graph)
        if t is None:
            continue
        if type(t) is list:
            if op.moves and r.parents[0] in supports and picks is not None:
                _support_of_several(r, picks.get(r, ()), supports, tangents)
        elif op.carries and (supports or op.selects is not None or op.moves == "some" or len(r.parents) > 1):
            inside = _support(r, tangents, supports, t._array if create_graph else t)
            if inside is not None:
                supports[r] = inside
                entries = inside.array() if op.rows is not None else None
                if entries is not None:
                    t = masked(bound.tensor_namespace if create_graph else namespace_of[type(t)], entries, t, 0)
        tangents[r] = t
        if debug:
            _check(r, tangents)


def _check(r: Record, tangents: dict[Record, Any]) -> None:
    """Raise FloatingPointError if the tangent of a result holds a NaN and those of the operands do not."""
    given = [tangents[p] for p in r.parents if p is not None and p in tangents]
    if not any([has_nan(t) for t in given]):
        for t in given or [None]:
            refuse_nan(r, t, tangents[r], "tangent")


def _support(r: Record, tangents: dict[Record, Any], supports: dict[Record, Support], like: Any) -> Support | None:
    """Return the support of a result's tangent (see `structural_zeros`); like: the raw tangent."""
    op, xp, saved = r.op, namespace_of[type(like)], r.saved
    reached = [(i, p) for i, p in enumerate(r.parents) if p is not None and p in tangents]
    known = any([p in supports for _, p in reached])
    if op.elementwise or op.selects is not None:
        if not known and (op.selects is None or len(reached) > 1):
            return None
        parts = []
        for i, p in reached:
            inside = supports.get(p)
            select = None if op.selects is None else op.selects[i]
            if select is not None:
                inside = intersection(xp, inside, Support(partial(call, select, xp, None, saved)))
            parts.append(inside)
        return reduce(partial(union, xp), parts)
    if op.moves and (known or len(reached) < len(r.parents) or (op.moves == "some" and not op.reads)):
        return _moved(xp, native_device(like), r, [p for _, p in reached], supports)
    if op.rows is not None and known:
        (_, p) = reached[0]
        operands, result = call(op.rows, None, None, saved)
        return row_support(xp, supports[p], operands, p.shape, result, r.shape)
    return None


def _support_of_several(
    r: Record, picks: Sequence[Record], supports: dict[Record, Support], tangents: dict[Record, Any]
) -> None:
    """Add the supports of the picked results of an operation that moves entries to several results."""
    p: Record = r.parents[0]  # type: ignore[assignment]
    inside, t = supports[p], tangents[p]
    raw = t._array if type(t) is Tensor else t
    xp, device = namespace_of[type(raw)], native_device(raw)

    every = cache(lambda: _transposed(r, {p: _ones(xp, device, p, inside)}, False, picks))
    for pick in picks:

        def make(i: int = pick.saved[0]) -> Any:
            out = every()[i]
            return xp.not_equal(out, xp.zeros_like(out))

        supports[pick] = Support(make, inside)


def _ones(xp: Any, device: Any, p: Record, inside: Support | None) -> Any:
    """Return a tangent of ones on a support, and zeros elsewhere."""
    entries = None if inside is None else inside.array()
    full = xp.ones(tuple(p.shape), dtype=p.dtype, device=device)
    return full if entries is None else masked(xp, entries, full, 0)


def _moved(xp: Any, device: Any, r: Record, reached: Sequence[Record], supports: dict[Record, Support]) -> Support:
    """Return the support through an operation that moves entries: ones are pushed through it."""
    given = {p: supports.get(p) for p in reached}

    def make() -> Any:
        ones = {p: _ones(xp, device, p, inside) for p, inside in given.items()}
        out = (direct(r.op) or _transposed)(r, ones, False)
        return None if out is None else xp.not_equal(out, xp.zeros_like(out))

    return Support(make, *[inside for inside in given.values() if inside is not None])


def pushed(path: Sequence[Record], tangents: dict[Record, Any], create_graph: bool) -> dict[Record, Any]:
    """Return the tangents of all records on a path, each computed on its own device."""
    elsewhere = None if create_graph or not tangents else namespace_of[type(next(iter(tangents.values())))].elsewhere
    if elsewhere is None:
        push(path, tangents, create_graph)
        return tangents
    entered = namespace_of[type(next(iter(tangents.values())))].by_record(tangents)
    elsewhere(push, path, entered, create_graph)
    return dict(entered)


def _any_complex(r: Record) -> bool:
    return any(is_complex(p.dtype) for p in r.parents if p is not None)


def _elementwise(r: Record, tangents: dict[Record, Any], create_graph: bool, supports: dict[Record, Support]) -> Any:
    """Return the tangent of an elementwise result: the sum of the operands' differentials."""
    ndim, total = len(r.shape), None
    saved = as_tensors_of(r) if create_graph else r.saved
    batch_shape: tuple[int, ...] = ()
    xp: Any = None
    for i, (p, vjp) in enumerate(zip(r.parents, r.op.vjps, strict=True)):
        t = None if p is None else tangents.get(p)
        if t is None or vjp is None:
            continue
        assert p is not None
        xp = bound.tensor_namespace if create_graph else namespace_of[type(t)]
        batch_shape = tuple(t.shape[: len(t.shape) - len(p.shape)])
        if batch_shape and len(p.shape) < ndim:  # keep the operand's axes apart from the batch axes
            t = xp.reshape(t, (*batch_shape, *(1,) * (ndim - len(p.shape)), *p.shape))
        if p.dtype != r.dtype:
            t = xp.astype(t, r.dtype)
        read: Sequence[Any] = saved
        if p in supports and r.op.reads and r.op.selects is None:
            read = safe_values(xp, supports[p], saved, r.op.safe)
        if r.op.reads and not create_graph and backend_of[type(t)].fuses:
            s = fused_rules(r.op, tuple([i == n for n in range(len(r.parents))]))(xp, t, *read)[i]
        else:
            s = call(vjp, xp, t, read)
        total = s if total is None else total + s
    shape = (*batch_shape, *r.shape)
    return total if total is None or tuple(total.shape) == shape else xp.broadcast_to(total, shape)


def _picks(path: Sequence[Record]) -> dict[Any, list[Record]]:
    """Return the records on a path that pick one of several results, by the operation's record."""
    found: dict[Any, list[Record]] = {}
    for r in path:
        if r.op is PICK:
            found.setdefault(r.parents[0], []).append(r)
    return found


def _transposed(
    r: Record, tangents: dict[Record, Any], create_graph: bool, picks: Sequence[Record] | None = None
) -> Any:
    """Return the tangent of a result by transposition of the operation's rule.

    1. Record the rule on a stand-in cotangent `u`: a walk of a stand-in record gives cotangents of the parents.
    2. Walk these in reverse, with the tangents of the parents as seeds: the cotangent of `u` is the tangent.

    picks: for an operation with several results, the records that pick them. The result is then a list of tangents,
    None for a result that is not picked.
    """
    given = {p: tangents[p] for p in r.parents if p is not None and p in tangents}
    if not given:
        return None
    a = next(iter(given.values()))
    a = a._array if create_graph else a
    with mode_set(recording=True, unwatched=True):
        ones = namespace_of[type(a)].ones
        us = {
            None if picks is None else q.saved[0]: linked(ones(q.shape, dtype=q.dtype, device=native_device(a)), None)
            for q in ((r,) if picks is None else picks)
        }
        saved = as_tensors_of(r) if create_graph else [_wrapped(v, r.op) for v in r.saved]
        alone = stand_in(r, [p if p in given else None for p in r.parents])
        alone.op, alone.saved = _constants(r.op), tuple([v.of(r) if isinstance(v, SavedCall) else v for v in saved])
        seed: Any = us[None] if picks is None else [us.get(i) for i in range(r.shape)]
        back: dict[Any, Any] = dict(zip(alone.parents, r.parents, strict=True))
        cotangents = walked(Walk({alone: seed}, None, True), True)
    seeds = seeds_of([s for _, s in cotangents], [given[back[leaf]] for leaf, _ in cotangents])
    path, _ = between(list(seeds), {u._record for u in us.values() if u._record is not None})
    on_path = set(path)
    seeds = {s: t for s, t in seeds.items() if s in on_path}
    if not seeds:
        return None
    found: dict[Any, Any] = dict(walked(Walk(seeds, on_path, create_graph), create_graph))
    return found.get(us[None]._record) if picks is None else [found.get(getattr(u, "_record", None)) for u in seed]


def stand_in(r: Record, parents: Sequence[Record | None]) -> Record:
    """Return a copy of a record with leaves for its parents, where a walk ends and reports cotangents."""
    alone: Record = new(Record)
    alone.seq, alone.op, alone.saved = r.seq, r.op, r.saved
    alone.parents = tuple([None if p is None else leaf_like(p) for p in parents])
    alone.shape, alone.dtype, alone.tensor = r.shape, r.dtype, None
    return alone


def leaf_like(p: Record) -> Record:
    """Return a leaf of a record's shape and dtype, which the walk reports."""
    leaf: Record = record(LEAF, (), (), p)
    leaf.tensor = _SOMEBODY
    return leaf


_SOMEBODY: Any = object()  # stands for a Tensor, so that the walk reports the leaf


@once
def _constants(op: Operation) -> Operation:
    """Return a copy of an operation whose saved values are constants."""
    return Operation(
        op.name,
        op.vjps,
        op.saves,
        (STATIC,) * len(op.sources),
        elementwise=op.elementwise,
        broadcasts=op.broadcasts,
        joint=op.joint,
        unary=op.unary,
        analytic=op.analytic,
        holomorphic=op.holomorphic,
        reads=op.reads,
        pull=op.pull,
        selects=op.selects,
        moves=op.moves,
        rows=op.rows,
        safe=op.safe,
    )


def _wrapped(v: Any, op: Operation) -> Any:
    """Return a saved array as a constant Tensor."""
    if type(v) is tuple and OUTS in op.sources and any(hasattr(out, "shape") for out in v):
        return tuple([wrap(out) for out in v])
    return wrap(v) if hasattr(v, "shape") else v


def jvp(
    f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], *, has_aux: bool = False
) -> tuple[Any, ...]:
    """Return the value of `f` at the primals, and its derivative along the tangents.

    The derivative is J v for tangents v, where J is the Jacobian of `f` at the primals. Memory is that of reverse
    mode: the records of the call are kept until the tangents have been pushed through.

    Parameters
    ----------
    f : callable
        A function that returns a Tensor, or a container of Tensors.
    primals : tuple or list
        The arguments, as for `vjp`.
    tangents : tuple or list
        A direction for each primal, of its structure, shapes and dtypes.
    has_aux : bool, default False
        Whether `f` returns (result, anything); the latter is then a third item of the result here.

    Returns
    -------
    tuple
        The value, and the derivative, which has its structure.

    Raises
    ------
    TypeError
        `f` is no function, or a tangent has another structure or dtype.
    ValueError
        A tangent has another shape.

    Examples
    --------
    >>> import tapegrad as tg
    >>> tg.jvp(lambda x: x * x, (tg.asarray([1.0, 2.0]),), (tg.asarray([1.0, 10.0]),))
    (Tensor([1., 4.]), Tensor([ 2., 40.]))
    """
    return jvp_as("jvp", f, primals, tangents, has_aux)


def jvp_as(
    transform: str, f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool = False
) -> tuple[Any, ...]:
    """Return the result of `jvp`; messages name `transform`."""
    check_function(transform, f, form="(f, (x,), (t,))")
    for arguments in (primals, tangents):
        if not isinstance(arguments, (tuple, list)):
            kind = type(arguments).__name__
            raise TypeError(f"{transform}: primals and tangents are tuples or lists of arguments, not {kind}")
    traced = TransformCall(transform, f, primals, {}, has_aux=has_aux)
    out = _pushed(traced, *tangents)
    value = traced.result(traced.outputs, traced.create_graph)
    return (value, out, traced.auxiliary()) if has_aux else (value, out)


def linearize(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """Return the value of `f` at the primals, and its derivative as a function of tangents.

    The function pushes tangents through the records of one call of `f`.

    Parameters
    ----------
    f : callable
        A function that returns a Tensor, or a container of Tensors.
    *primals : ArrayLike or tree
        The arguments, as for `vjp`.

    Returns
    -------
    tuple
        The value, and a function from one tangent for each primal to the derivative along them. It may be called any
        number of times.

    Raises
    ------
    TypeError
        `f` is no function. At a call of the linear map: a tangent has another structure or dtype.
    ValueError
        At a call of the linear map: a tangent has another shape.

    Examples
    --------
    >>> import tapegrad as tg
    >>> y, slope = tg.linearize(lambda x: x * x, 3.0)
    >>> float(slope(1.0)), float(slope(2.0))
    (6.0, 12.0)
    """
    value, slope = linearize_as("linearize", f, *primals)
    return value, LinearMap(linearize, f, slope)


def linearize_as(transform: str, f: Callable[..., Any], *primals: Any) -> tuple[Any, partial[Any]]:
    """Return the result of `linearize`; messages name `transform`."""
    check_function(transform, f, form="(f, x)")
    traced = TransformCall(transform, f, primals, {})
    return traced.result(traced.outputs, traced.create_graph), partial(_pushed, traced)


def _pushed(traced: TransformCall, *tangents: Any) -> Any:
    """Return the tangents of the outputs, as a tree, for those of the inputs."""
    given = like(f"{traced.what}: the tangent", list(tangents), traced.inputs)
    create_graph = mode().recording and (traced.create_graph or any(is_recorded(t) for t in given))
    if any([is_recorded(t) for t in given]):
        return traced.result(tangents_of(traced, given, create_graph), create_graph)
    found = traced.derivatives(lambda record: tangents_of(traced, given, record), create_graph)
    return traced.result(found, create_graph)


def tangents_of(traced: TransformCall, given: Sequence[Tensor], create_graph: bool) -> list[Tensor]:
    """Return the tangents of the outputs for those of the inputs, which may have extra leading axes."""
    known: dict[Record, Any] = {}
    for x, t in zip(traced.inputs, given, strict=True):
        assert x._record is not None
        known[x._record] = t if create_graph else t._array
    with mode_set(recording=create_graph):
        known = pushed(traced.path, known, create_graph)
        batch_shape = tuple(given[0].shape[: given[0].ndim - traced.inputs[0].ndim]) if given else ()
        return [_tangent(y, known, create_graph, batch_shape) for y in traced.outputs]


def _tangent(y: Tensor, known: dict[Record, Any], create_graph: bool, batch_shape: tuple[int, ...]) -> Tensor:
    t = None if y._record is None else known.get(y._record)
    if t is None:
        a = y._array
        return wrap(namespace_of[type(a)].zeros((*batch_shape, *a.shape), dtype=a.dtype, device=native_device(a)))
    return t if create_graph else wrap(detached_array(backend_of[type(t)].as_array(t)))
