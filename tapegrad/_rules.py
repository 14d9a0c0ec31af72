"""How an operation and its derivatives are declared.

A rule is a function `rule(xp, t, ...)`: the namespace to compute in, the cotangent, and then, by name, what it
reads: an operand (`x`, `x1`), the result (`out`), the shape of either (`x_shape`, `out_shape`) or a static argument.
The names are read once, here; a record keeps just those values, and only for operands that need a gradient. A rule
may be run on raw arrays or on Tensors and cannot tell. It need not care for the operand's exact shape and dtype:
the walk fits the cotangent. It must let extra leading axes of `t` pass through, so that many cotangents go in one walk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from operator import itemgetter
from typing import Any, TypeVar

from tapegrad._namespace import backend_of, namespace_of
from tapegrad._operands import SCALARS, as_tensor, coerce, explain, not_an_operand, same_library
from tapegrad._record import CACHE, DEFAULT, OUT, STATIC, Operation, Record, mode, next_seq, scopes
from tapegrad._tensor import Tensor, wrap

Rule = Callable[..., Any]
F = TypeVar("F", bound=Callable[..., Any])
# Every public function is in exactly one of these three (a test checks it).
OPERATIONS: dict[str, Operation] = {}  # has a rule
COMPOSED: set[str] = set()  # plain code over others
CONSTANT: set[str] = set()  # no derivative, or zero wherever there is one: never recorded

new = object.__new__


def composed(function: F) -> F:
    """Declare a public function to be plain code over operations that have rules."""
    COMPOSED.add(function.__name__)
    return function


def constant(function: F) -> F:
    """Declare a public function to have no derivative, or zero wherever it has one."""
    CONSTANT.add(function.__name__)
    return function


def reads(rule: Rule) -> tuple[str, ...]:
    """Return the names of what a rule reads besides the namespace and the cotangent."""
    code = rule.__code__
    return code.co_varnames[2 : code.co_argcount]


def identity(xp: Any, t: Any) -> Any:
    """Be the rule that hands the cotangent on as it is; the walk knows it, and does not call it."""
    return t


def bind(rule: Rule | None, layout: tuple[str, ...]) -> Any:
    """Return (rule, how many saved values it reads or -1 for the identity, how to pick them), or None."""
    if rule is None:
        return None
    if rule is identity:
        return rule, -1, None
    where = [layout.index(name) for name in reads(rule)]
    if len(where) < 2:
        return rule, len(where), where[0] if where else None
    return rule, len(where), itemgetter(*where)


def _declare(operation: Operation) -> Operation:
    if operation.name in OPERATIONS:
        raise ValueError(f"operation {operation.name!r} is declared twice")
    OPERATIONS[operation.name] = operation
    return operation


def _publish(function: Any, name: str, doc: str, module: str) -> Any:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    function.__module__ = module
    return function


def again(
    name: str,
    forward: Callable[..., Any] | None,
    kernels: dict[type, Callable[..., Any]],
    kind: type,
    arrays: tuple[Any, ...],
    error: Exception,
) -> Any:
    """Compute for an array type that is met for the first time; explain any other error.

    That first time is found by a KeyError: a look-up in a plain dict is all that an operation pays for it.
    """
    if kind in kernels:
        raise explain(name, error, arrays) from error
    xp = namespace_of[kind]
    kernels[kind] = getattr(xp, name) if forward is None else partial(forward, xp)
    try:
        return kernels[kind](*arrays)
    except Exception as first:
        raise explain(name, first, arrays) from first


# -- elementwise ---------------------------------------------------------------------------------------


def unary(
    name: str,
    differential: Rule | None,
    doc: str,
    *,
    forward: Callable[..., Any] | None = None,
    module: str = "tapegrad.ops.elementwise",
) -> Callable[[Any], Tensor]:
    """Declare an elementwise function of one operand by its differential, applied to a tangent.

    differential: `rule(xp, t, ...)` reading `x` or `out`, or None where the derivative is zero or there is none;
    forward: `f(xp, x)` where the standard has no function of this name.
    """
    kernels: dict[type, Callable[..., Any]] = {}  # array type -> the library's function
    layout = tuple(n for n in ("x", "out") if differential is not None and n in reads(differential))
    sources = tuple(OUT if n == "out" else 0 for n in layout)
    operation = Operation(name, (bind(differential, layout),), layout, sources, elementwise=True)
    keep_x, keep_out = "x" in layout, "out" in layout
    same_dtype = name not in ("abs", "real")  # of a complex operand
    if differential is None:
        CONSTANT.add(name)
    else:
        _declare(operation)

    def call(x: Any, /) -> Tensor:
        if type(x) is not Tensor:
            x = as_tensor(x)
        a = x._array
        kind = type(a)
        try:
            out = kernels[kind](a)
        except Exception as error:
            out = again(name, forward, kernels, kind, (a,), error)
        if type(out) is not kind:
            out = backend_of[type(out)].as_array(out)
        y = new(Tensor)
        y._array = out
        p = x._record
        m = mode() if scopes else DEFAULT
        if p is None or differential is None or not m.recording:
            y._record = None
        else:
            r = y._record = new(Record)
            r.seq = next_seq()
            r.op = operation
            r.parents = (p,)
            if keep_x:
                r.saved = (a, out) if keep_out else (a,)
            else:
                r.saved = (out,) if keep_out else ()
            r.shape = p.shape
            r.dtype = p.dtype if same_dtype else out.dtype
            r.tensor = None
        if m.watch is not None:
            m.watch(operation, (x,), (), y)
        return y

    return _publish(call, name, doc, module)  # type: ignore[no-any-return]


def binary(
    name: str,
    differential1: Rule | None,
    differential2: Rule | None,
    doc: str,
    *,
    module: str = "tapegrad.ops.elementwise",
) -> tuple[Callable[[Any, Any], Tensor], Callable[[Any, Any], Tensor]]:
    """Declare an elementwise function of two operands by its differential in each.

    Returns the function and the same function for use as an operator, which answers NotImplemented to
    what is no operand, so that Python asks the other side.
    """
    kernels: dict[type, Callable[..., Any]] = {}
    rules = (differential1, differential2)
    used = {n for rule in rules if rule is not None for n in reads(rule)}
    # Which operands' gradients read a value: bit 1 for the first operand, bit 2 for the second.
    keep1, keep2, keep_out = (
        sum(bit for bit, rule in zip((1, 2), rules, strict=True) if rule is not None and n in reads(rule))
        for n in ("x1", "x2", "out")
    )
    crossed = (keep1, keep2, keep_out) == (2, 1, 0)  # each gradient reads the other operand: multiply
    layout = ("x1", "x2") if crossed else ("x1", "x2", "out") if used else ()
    operation = Operation(
        name,
        tuple(bind(rule, layout) for rule in rules),
        layout,
        (0, 1, OUT)[: len(layout)],
        elementwise=True,
        broadcasts=True,
    )
    if used or differential1 is not None:
        _declare(operation)
    else:
        CONSTANT.add(name)
    differentiable = differential1 is not None

    def make(is_operator: bool) -> Callable[[Any, Any], Tensor]:
        def call(x1: Any, x2: Any, /) -> Any:
            if type(x1) is Tensor:
                a = x1._array
                p1 = x1._record
                if type(x2) is Tensor:
                    b = x2._array
                    p2 = x2._record
                    if type(a) is not type(b):
                        same_library(name, a, b)
                else:
                    p2 = None
                    b = coerce(name, x2, a, p1 is not None and bool(keep2 & 1))
                    if b is NotImplemented:
                        if is_operator:
                            return NotImplemented
                        raise not_an_operand(name, x2)
                kind = type(a)
            else:
                p1 = None
                if type(x2) is not Tensor:
                    x2 = as_tensor(x2)
                b = x2._array
                p2 = x2._record
                a = coerce(name, x1, b, p2 is not None and bool(keep1 & 2))
                if a is NotImplemented:
                    if is_operator:
                        return NotImplemented
                    raise not_an_operand(name, x1)
                kind = type(b)
            try:
                out = kernels[kind](a, b)
            except Exception as error:
                out = again(name, None, kernels, kind, (a, b), error)
            if type(out) is not kind:
                out = backend_of[type(out)].as_array(out)
            y = new(Tensor)
            y._array = out
            m = mode() if scopes else DEFAULT
            if (p1 is None and p2 is None) or not differentiable or not m.recording:
                y._record = None
            else:
                r = y._record = new(Record)
                r.seq = next_seq()
                r.op = operation
                r.parents = (p1, p2)
                if crossed:
                    r.saved = (a if p2 is not None else None, b if p1 is not None else None)
                elif layout:
                    live = (p1 is not None) + (2 if p2 is not None else 0)
                    r.saved = (
                        a if live & keep1 else None,
                        b if live & keep2 else None,
                        out if live & keep_out else None,
                    )
                else:
                    r.saved = ()
                shape = out.shape
                if p1 is not None and p1.shape == shape:
                    shape = p1.shape  # one tuple less for the garbage collector to visit
                r.shape = shape
                r.dtype = out.dtype
                r.tensor = None
            if m.watch is not None:
                m.watch(operation, (x1, x2), (), y)
            return y

        return call

    function = _publish(make(False), name, doc, module)
    return function, _publish(make(True), name, doc, module)


# -- everything else -----------------------------------------------------------------------------------


def primitive(
    name: str,
    forward: Callable[..., Any],
    *vjps: Rule | None,
    saves: tuple[str, ...] | None = None,
    broadcasts: bool = False,
    pull: Callable[..., None] | None = None,
    cached: bool = False,
) -> Callable[..., Tensor]:
    """Declare an operation by a transpose, or a vjp, for each operand.

    forward: `f(xp, x1, ..., static1, ...)` on raw arrays; it has as many operands as there are rules, the rest of its
    parameters are static arguments. saves: what a `pull` function reads, where rules do not say it. cached: forward
    returns (result, what a rule may read as `cache`); on Tensors the rule gets None for it and computes it itself.
    Returns the operation as a function of the operands, Tensors or numbers, and the static arguments.
    """
    operands = len(vjps)
    flows = tuple(rule is not None or pull is not None for rule in vjps)  # whether a gradient may go there
    code = forward.__code__
    names = code.co_varnames[1 : code.co_argcount]
    wanted = dict.fromkeys(n for rule in vjps if rule is not None for n in reads(rule))
    layout = saves if saves is not None else tuple(wanted)
    # Where a saved value is in (operands..., static..., out, shapes of operands and of out...).
    pool = (*names, "out", "cache", *(f"{n}_shape" for n in (*names[:operands], "out")))
    with_shapes = any(n.endswith("_shape") and n not in names for n in layout)
    places = tuple(pool.index(n) for n in layout)
    sources = tuple(i if i < operands else {"out": OUT, "cache": CACHE}.get(pool[i], STATIC) for i in places)
    readers = [[i for i, rule in enumerate(vjps) if rule is None or n in reads(rule)] for n in layout]

    @cache
    def plan(*dead: bool) -> tuple[int, ...]:
        """Return the place of each saved value; the last one, of None, for what only dead operands' rules read."""
        return tuple(-1 if all(dead[k] for k in who) else i for i, who in zip(places, readers, strict=True))

    bound = tuple(bind(rule, layout) for rule in vjps)
    operation = Operation(name, bound, layout, sources, broadcasts=broadcasts, pull=pull)
    differentiable = any(flows)
    if differentiable:
        _declare(operation)
    else:
        CONSTANT.add(name)

    if operands == 1:

        def call(x: Tensor, *static: Any) -> Tensor:
            a = x._array
            try:
                out = forward(namespace_of[type(a)], a, *static)
            except Exception as error:
                raise explain(name, error, (a,)) from error
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
                        same_library(name, a, next(b for b in arrays if type(b) is kind))
                else:
                    a = x
                    parents.append(None)
                arrays.append(a)
            static = args[operands:]
            try:
                out = forward(namespace_of[kind], *arrays, *static)  # type: ignore[index]
            except Exception as error:
                raise explain(name, error, tuple(arrays)) from error
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
                saved = tuple([values[i] for i in plan(*[p is None for p in parents])])
                y._record = record(operation, tuple(parents), saved, out)
            if m.watch is not None:
                m.watch(operation, args[:operands], static, y)
            return y

    return _publish(call, name, f"The primitive {name}.", forward.__module__)  # type: ignore[no-any-return]


def variadic(name: str, forward: Callable[..., Any], vjp: Rule) -> Callable[..., Tensor]:
    """Declare an operation on any number of operands by one rule that gives the cotangents of all.

    forward: `f(xp, arrays, *static)`; vjp: `rule(xp, t, shapes, ...)`, where `shapes` are the operands' shapes and
    the rest static arguments of forward by name; it returns a sequence of cotangents.
    """
    code = forward.__code__
    statics = code.co_varnames[2 : code.co_argcount]
    layout = reads(vjp)
    places = tuple(("shapes", *statics).index(n) for n in layout)
    operation = _declare(Operation(name, (bind(vjp, layout),), layout, (STATIC,) * len(layout), joint=True))

    def call(xs: tuple[Tensor, ...], *static: Any) -> Tensor:
        arrays = tuple([x._array for x in xs])
        kind = library(name, arrays)
        try:
            out = forward(namespace_of[kind], arrays, *static)
        except Exception as error:
            raise explain(name, error, arrays) from error
        m = mode() if scopes else DEFAULT
        y = wrap(out)
        parents = tuple([x._record for x in xs])
        if m.recording and any([p is not None for p in parents]):
            values = (tuple([tuple(a.shape) for a in arrays]), *static)
            y._record = record(operation, parents, tuple([values[i] for i in places]), out)
        if m.watch is not None:
            m.watch(operation, xs, static, y)
        return y

    return _publish(call, name, f"The primitive {name}.", forward.__module__)  # type: ignore[no-any-return]


def several(name: str, forward: Callable[..., Any], vjp: Rule) -> Callable[..., tuple[Tensor, ...]]:
    """Declare an operation of one operand with several results.

    forward: `f(xp, x, *static)` gives a sequence of arrays; vjp: `rule(xp, ts, ...)`, where `ts` are the cotangents
    of the results, None for those that have none; what it reads may be the shape of `x` and static arguments.
    It makes one record, and for each result a record that picks it from there.
    """
    code = forward.__code__
    names = ("x_shape", *code.co_varnames[2 : code.co_argcount])
    layout = reads(vjp)
    places = tuple(names.index(n) for n in layout)
    operation = _declare(Operation(name, (bind(vjp, layout),), layout, (STATIC,) * len(layout)))

    def call(x: Tensor, *static: Any) -> tuple[Tensor, ...]:
        a = x._array
        try:
            outs = [backend_of[type(o)].as_array(o) for o in forward(namespace_of[type(a)], a, *static)]
        except Exception as error:
            raise explain(name, error, (a,)) from error
        ys = tuple([wrap(out) for out in outs])
        m = mode() if scopes else DEFAULT
        if x._record is not None and m.recording:
            values = (tuple(a.shape), *static)
            whole = record(operation, (x._record,), tuple([values[i] for i in places]), a)
            whole.shape = len(outs)  # of a tuple of cotangents, not of an array
            for i, y in enumerate(ys):
                y._record = record(PICK, (whole,), (i,), y._array)
        if m.watch is not None:
            m.watch(operation, (x,), static, ys)
        return ys

    return _publish(call, name, f"The primitive {name}.", forward.__module__)  # type: ignore[no-any-return]


def _pull_pick(walk: Any, r: Record, t: Any, saved: tuple[Any, ...]) -> None:
    whole = r.parents[0]
    assert whole is not None
    parts = walk.cotangents.get(whole)
    if parts is None:
        parts = [None] * whole.shape
        walk.put(whole, parts)
    (i,) = saved
    parts[i] = t if parts[i] is None else parts[i] + t


PICK = Operation("pick", (None,), ("i",), (STATIC,), pull=_pull_pick)


def record(op: Operation, parents: tuple[Record | None, ...], saved: tuple[Any, ...], out: Any) -> Record:
    """Return a new record of an operation whose result is the raw array `out`."""
    r: Record = new(Record)
    r.seq = next_seq()
    r.op = op
    r.parents = parents
    r.saved = saved
    r.shape = out.shape
    r.dtype = out.dtype
    r.tensor = None
    return r


def library(name: str, arrays: Sequence[Any]) -> type:
    """Return the array type that stands for the library of all these operands; TypeError if they mix."""
    first = None
    for a in arrays:
        if type(a) in SCALARS:
            continue
        if first is None:
            first = a
        elif type(a) is not type(first):
            same_library(name, a, first)
    return type(first)
