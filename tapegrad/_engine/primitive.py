"""Declaration of primitive operations with any operands, static arguments and results.

The call functions of `primitive` hold inlined copies of `recorded_result`, to save a frame on the hot path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from inspect import unwrap
from typing import Any

from tapegrad._engine.coercion import SCALARS, explain, on_one_level, recovered, same_library
from tapegrad._engine.dispatch import backend_of, namespace_of
from tapegrad._engine.fusing import Forwards
from tapegrad._engine.mode import DEFAULT, mode, scopes
from tapegrad._engine.record import CACHE, LEAF, OUT, OUTS, STATIC, Operation, Record, next_seq
from tapegrad._engine.rules import NONDIFFERENTIABLE, Rule, bind_rule, declare, new, publish, reads, record
from tapegrad._engine.tensor import Tensor, wrap


def primitive(
    name: str,
    forward: Callable[..., Any],
    *vjps: Rule | None,
    saves: tuple[str, ...] | None = None,
    broadcasts: bool = False,
    pull: Callable[..., None] | None = None,
    cached: bool = False,
    fuses: bool = False,
    adjoint: bool = False,
    push: Callable[..., Any] | None = None,
    view: bool = False,
    selects: tuple[Rule | None, ...] | None = None,
    moves: str = "",
    rows: Rule | None = None,
    elementwise: bool = False,
    variant: str = "",
) -> Callable[..., Tensor]:
    """Declare an operation by a transpose, or a vjp, for each operand.

    Parameters
    ----------
    forward : callable
        `f(xp, x1, ..., static1, ...)` on raw arrays, with one operand for each rule; the other parameters are static.
    *vjps : callable or None
        The rule for each operand.
    saves : tuple of str or None
        The values that a `pull` function reads; None if the rules tell.
    broadcasts, pull, view, push, elementwise
        See `Operation`.
    cached : bool
        Whether forward returns (result, cache). A rule may read `cache`; on Tensors it gets None and computes it.
    fuses : bool
        Whether forward calls several functions, which a library may run as one kernel.
    adjoint : bool
        Whether a rule that reads values conjugates them itself. Else the walk does, as for a holomorphic function.
    selects, moves, rows
        The treatment of structural zeros, see `Operation`. Their functions may read the values that the rules read.
    variant : str
        A suffix for the table of operations, for a second operation of one name.

    Returns
    -------
    callable
        The operation, a function of the operands (Tensors or numbers) and the static arguments.
    """
    operands = len(vjps)
    forwards = Forwards(name, forward, fuses)
    flows = tuple(rule is not None or pull is not None for rule in vjps)  # whether the operand may get a gradient
    code = unwrap(forward).__code__
    names = code.co_varnames[1 : code.co_argcount]
    wanted = dict.fromkeys(n for rule in vjps if rule is not None for n in reads(rule))
    layout = saves if saves is not None else tuple(wanted)
    # The place of each saved value in (operands..., static..., out, cache, shapes of operands and of out...).
    pool = (*names, "out", "cache", *(f"{n}_shape" for n in (*names[:operands], "out")))
    with_shapes = any(n.endswith("_shape") and n not in names for n in layout)
    places = tuple(pool.index(n) for n in layout)
    sources = tuple(i if i < operands else {"out": OUT, "cache": CACHE}.get(pool[i], STATIC) for i in places)
    readers = [[i for i, rule in enumerate(vjps) if rule is None or n in reads(rule)] for n in layout]

    @cache
    def kept_places(*dead: bool) -> tuple[int, ...]:
        """Return the place of each saved value; -1, the place of None, if only rules of dead operands read it."""
        return tuple(-1 if all(dead[k] for k in who) else i for i, who in zip(places, readers, strict=True))

    bound = tuple(bind_rule(rule, layout) for rule in vjps)
    values = pull is None and any(source != STATIC for source in sources)
    operation = Operation(
        name,
        bound,
        layout,
        sources,
        broadcasts=broadcasts,
        holomorphic=values and not adjoint,
        reads=values,
        pull=pull,
        push=push,
        view=view,
        selects=None if selects is None else tuple([bind_rule(select, layout) for select in selects]),
        moves=moves,
        rows=bind_rule(rows, layout),
        elementwise=elementwise,
    )
    differentiable = any(flows)
    if differentiable:
        declare(operation, variant)
    else:
        NONDIFFERENTIABLE.add(name)

    if operands == 1:

        def call(x: Tensor, *static: Any) -> Tensor:
            a = x._array
            try:
                out = forwards[type(a)](a, *static)
            except Exception as error:
                out = recovered(name, error, forward, (a,), (a, *static))
            left = None
            if cached:
                out, left = out
            if type(out) is not type(a):
                out = backend_of[type(out)].as_array(out)
            y = new(Tensor)
            y._array = out
            p = x._record
            m = mode() if scopes else DEFAULT
            if p is None or not differentiable or not m.recording:
                y._record = None
            else:
                r = y._record = new(Record)
                r.seq = next_seq()
                r.op = operation
                r.parents = (p,)
                values = (a, *static, out, left)
                if with_shapes:
                    values += (a.shape, out.shape)
                r.saved = tuple([values[i] for i in places])
                r.shape = out.shape
                r.dtype = out.dtype
                r.tensor = None
            if view and (p is None or y._record is not None or p.op is LEAF):  # else y would keep the tape of x alive
                y._base = x
            if m.watch is not None:
                m.watch(operation, (x,), static, y)
            return y

    else:

        def call(*args: Any) -> Tensor:  # type: ignore[misc]
            arrays = []
            parents: list[Record | None] = []
            kind = None
            for x, flow in zip(args, flows):  # noqa: B905 (the rest are static arguments)
                if type(x) is Tensor:
                    a = x._array
                    parents.append(x._record if flow else None)
                    if kind is None:
                        kind = type(a)
                    elif kind is not type(a):
                        a = same_library(name, a, next(b for b in arrays if type(b) is kind))
                        if a is None:
                            return call(*on_one_level(args))
                else:
                    a = x
                    parents.append(None)
                arrays.append(a)
            static = args[operands:]
            try:
                out = forwards[kind](*arrays, *static)  # type: ignore[index]
            except Exception as error:
                out = recovered(name, error, forward, tuple(arrays), (*arrays, *static))
            left = None
            if cached:
                out, left = out
            if type(out) is not kind:
                out = backend_of[type(out)].as_array(out)
            m = mode() if scopes else DEFAULT
            y = new(Tensor)
            y._array = out
            y._record = None
            if m.recording and parents.count(None) < operands:
                values = (*arrays, *static, out, left)
                if with_shapes:
                    values += (*[getattr(a, "shape", ()) for a in arrays], out.shape)
                values += (None,)
                saved = tuple([values[i] for i in kept_places(*[p is None for p in parents])])
                y._record = record(operation, tuple(parents), saved, out)
            if m.watch is not None:
                m.watch(operation, args[:operands], static, y)
            return y

    return publish(call, name, f"The primitive {name}.", forward.__module__)  # type: ignore[no-any-return]


def variadic(name: str, forward: Callable[..., Any], vjp: Rule) -> Callable[..., Tensor]:
    """Declare an operation that joins any number of operands, with one rule for all cotangents.

    forward: `f(xp, arrays, *static)`; vjp: `rule(xp, t, shapes, ...)`, which returns a sequence of cotangents. It reads
    the operands' shapes as `shapes`, and static arguments of forward by name.
    """
    code = forward.__code__
    statics = code.co_varnames[2 : code.co_argcount]
    layout = reads(vjp)
    places = tuple(("shapes", *statics).index(n) for n in layout)
    operation = declare(
        Operation(name, (bind_rule(vjp, layout),), layout, (STATIC,) * len(layout), joint=True, moves="all")
    )

    def call(xs: tuple[Tensor, ...], *static: Any) -> Tensor:
        arrays = tuple([x._array for x in xs])
        kind, arrays = library(name, arrays)
        try:
            out = forward(namespace_of[kind], arrays, *static)
        except Exception as error:
            raise explain(name, error, arrays) from error
        values = (tuple([tuple(a.shape) for a in arrays]), *static)
        return recorded_result(operation, xs, static, tuple([values[i] for i in places]), out)

    return publish(call, name, f"The primitive {name}.", forward.__module__)  # type: ignore[no-any-return]


def several(
    name: str, forward: Callable[..., Any], vjp: Rule, moves: str = "", fuses: bool = False
) -> Callable[..., tuple[Tensor, ...]]:
    """Declare an operation of one operand with several results.

    forward: `f(xp, x, *static)`, which returns a sequence of arrays; vjp: `rule(xp, ts, ...)`, with a list `ts` of the
    results' cotangents, None for a result without one. It may read `x`, `x_shape`, the tuple of results `outs` and
    static arguments. moves: see `Operation`; fuses: see `primitive`, whose forward functions of several results return
    a tuple.

    A call makes one record for the operation, and for each result a record that picks it.
    """
    forwards = Forwards(name, forward, fuses)
    code = unwrap(forward).__code__
    names = ("x", "outs", "x_shape", *code.co_varnames[2 : code.co_argcount])
    layout = reads(vjp)
    places = tuple(names.index(n) for n in layout)
    sources = tuple({"x": 0, "outs": OUTS}.get(n, STATIC) for n in layout)
    operation = declare(Operation(name, (bind_rule(vjp, layout),), layout, sources, moves=moves))

    def call(x: Tensor, *static: Any) -> tuple[Tensor, ...]:
        a = x._array
        try:
            outs = [backend_of[type(o)].as_array(o) for o in forwards[type(a)](a, *static)]
        except Exception as error:
            raise explain(name, error, (a,)) from error
        ys = tuple([wrap(out) for out in outs])
        m = mode() if scopes else DEFAULT
        if x._record is not None and m.recording:
            values = (a, tuple(outs), tuple(a.shape), *static)
            record_several(operation, (x._record,), tuple([values[i] for i in places]), a, ys)
        if m.watch is not None:
            m.watch(operation, (x,), static, ys)
        return ys

    return publish(call, name, f"The primitive {name}.", forward.__module__)  # type: ignore[no-any-return]


def recorded_result(
    op: Operation, xs: tuple[Tensor, ...], static: tuple[Any, ...], saved: tuple[Any, ...], out: Any
) -> Tensor:
    """Return a raw result as a Tensor: recorded if any operand is, and reported to the watcher.

    The hot call functions hold inlined copies: `unary` and `binary` in elementwise.py, both of `primitive`, `getitem`.
    """
    y = wrap(out)
    m = mode() if scopes else DEFAULT
    parents = tuple([x._record for x in xs])
    if m.recording and any([p is not None for p in parents]):
        y._record = record(op, parents, saved, out)
    if m.watch is not None:
        m.watch(op, xs, static, y)
    return y


def record_several(
    op: Operation, parents: tuple[Record | None, ...], saved: tuple[Any, ...], like: Any, ys: Sequence[Tensor]
) -> None:
    """Record an operation with several results: one record for it, and one that picks it for each result.

    like: a raw array of the dtype of the operation's record.
    """
    whole = record(op, parents, saved, like)
    whole.shape = len(ys)  # the number of cotangents, not the shape of an array
    for i, y in enumerate(ys):
        y._record = pick(whole, i, y._array)


def _pull_pick(walk: Any, r: Record, t: Any, saved: tuple[Any, ...]) -> None:
    whole = r.parents[0]
    assert whole is not None
    parts = walk.cotangents.get(whole)
    if parts is None:
        parts = [None] * whole.shape
        walk.set_cotangent(whole, parts)
    (i,) = saved
    first = parts[i] is None
    parts[i] = t if first else parts[i] + t
    if first and walk.support is not None:
        walk.parts.setdefault(whole, {})[i] = walk.support
    elif not first and whole in walk.parts:
        walk.parts[whole].pop(i, None)


PICK = Operation("pick", (None,), ("i",), (STATIC,), pull=_pull_pick, view=True, moves="all")


def pick(whole: Record, i: int, out: Any) -> Record:
    """Return the record that picks one of several results."""
    return record(PICK, (whole,), (i,), out)


def library(name: str, arrays: tuple[Any, ...]) -> tuple[type, tuple[Any, ...]]:
    """Return the array type of the first operand, and the raw operands; raise TypeError if libraries mix."""
    first = next((a for a in arrays if type(a) not in SCALARS), None)
    kind = type(first)
    if any([type(a) is not kind for a in arrays]):
        arrays = tuple([a if type(a) in SCALARS else same_library(name, a, first) for a in arrays])
    return kind, arrays
