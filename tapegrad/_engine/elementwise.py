"""Declaration of elementwise operations: the hot path, one frame a call.

A function made here looks up the library's kernel by array type, computes, and makes a record with the values that the
rules read. It holds an inlined copy of `recorded_result` in primitive.py, to save a frame.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any

from tapegrad._engine.coercion import (
    SCALARS,
    as_tensor,
    coerce,
    explain,
    not_an_operand,
    on_one_level,
    same_library,
    tensor_of_list,
    with_leading_tensor,
)
from tapegrad._engine.dispatch import backend_of, namespace_of
from tapegrad._engine.fusing import bound
from tapegrad._engine.mode import DEFAULT, mode, scopes
from tapegrad._engine.record import OUT, Operation, Record, next_seq
from tapegrad._engine.rules import BROADCASTING, NONDIFFERENTIABLE, Rule, bind_rule, declare, new, publish, reads
from tapegrad._engine.tensor import Tensor
from tapegrad.typing import ArrayLike


def again(
    name: str,
    find: Callable[[type], Callable[..., Any]],
    kernels: dict[type, Callable[..., Any]],
    kind: type,
    arrays: tuple[Any, ...],
    error: Exception,
) -> Any:
    """Find and call the kernel of an array type at its first use; explain any other error.

    The first use shows as a KeyError, so that a call pays only for the look-up in a plain dict. Several threads may
    meet it at once.
    """
    if not (type(error) is KeyError and error.args and error.args[0] is kind):
        raise explain(name, error, arrays) from error
    kernel = kernels.get(kind) or kernels.setdefault(kind, find(kind))
    try:
        return kernel(*arrays)
    except Exception as first:
        raise explain(name, first, arrays) from first


def library_function(name: str, kind: type) -> Callable[..., Any]:
    """Return a function of an array type's library by name."""
    return attrgetter(name)(namespace_of[kind])  # type: ignore[no-any-return]


def unary(
    name: str,
    differential: Rule | None,
    doc: str,
    *,
    forward: Callable[..., Any] | None = None,
    extension: str = "",
    analytic: bool = True,
    select: Rule | None = None,
    safe: float = 0.5,
    module: str = "tapegrad.ops.elementwise",
) -> Callable[[ArrayLike], Tensor]:
    """Declare an elementwise function of one operand by its differential, applied to a tangent.

    Parameters
    ----------
    differential : callable or None
        `rule(xp, t, ...)` that reads `x` or `out`; None if the derivative is zero or does not exist.
    forward : callable or None
        `f(xp, x)`, for a function that libraries lack under this name.
    extension : str
        The extension of the namespace that holds the function.
    analytic : bool
        Whether the function of complex values has a derivative, and a complex result.
    select : callable or None
        `f(xp, _, ...)`, which reads values as a rule does and gives the entries of the result that come from the
        operand; None if all do.
    safe : float
        A number at which the rule is finite.
    """
    kernels: dict[type, Callable[..., Any]] = {}  # array type -> the library's function
    find = partial(library_function, f"{extension}.{name}" if extension else name)
    if forward is not None:
        find = partial(bound, name, forward)
    layout = tuple(n for n in ("x", "out") if differential is not None and n in reads(differential))
    sources = tuple(OUT if n == "out" else 0 for n in layout)
    operation = Operation(
        name,
        (bind_rule(differential, layout),),
        layout,
        sources,
        elementwise=True,
        unary=analytic and extension != "special",
        analytic=analytic,
        holomorphic=bool(layout) and analytic,
        reads=bool(layout),
        selects=None if select is None else (bind_rule(select, layout),),
        safe=safe,
    )
    keep_x, keep_out = "x" in layout, "out" in layout
    same_dtype = analytic and extension != "special"  # of float16 SciPy makes float32
    if differential is None:
        NONDIFFERENTIABLE.add(name)
    else:
        declare(operation)

    def call(x: ArrayLike, /) -> Tensor:
        if type(x) is not Tensor:
            x = as_tensor(x, name)
        a = x._array
        kind = type(a)
        try:
            out = kernels[kind](a)
        except Exception as error:
            out = again(name, find, kernels, kind, (a,), error)
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

    return publish(call, name, doc, module)  # type: ignore[no-any-return]


def binary(
    name: str,
    differential1: Rule | None,
    differential2: Rule | None,
    doc: str,
    *,
    extension: str = "",
    module: str = "tapegrad.ops.elementwise",
    elementwise: bool = True,
    selects: tuple[Rule, Rule] | None = None,
) -> tuple[Callable[[ArrayLike, ArrayLike], Tensor], Callable[[ArrayLike, ArrayLike], Tensor]]:
    """Declare an elementwise function of two operands by its differential in each.

    extension: as for `unary`; selects: a `select` of `unary` for each operand; elementwise: False for the product of
    matrices, which needs the same speed.

    Return the function, and the same function for use as an operator. The operator returns NotImplemented for an
    invalid operand, so that Python tries the reflected method.
    """
    kernels: dict[type, Callable[..., Any]] = {}
    find = partial(library_function, f"{extension}.{name}" if extension else name)
    rules = (differential1, differential2)
    used = {n for rule in rules if rule is not None for n in reads(rule)}
    # The gradients that read x1, x2 and out, as bit masks: 1 for the first operand's gradient, 2 for the second's.
    keep1, keep2, keep_out = (
        sum(bit for bit, rule in zip((1, 2), rules, strict=True) if rule is not None and n in reads(rule))
        for n in ("x1", "x2", "out")
    )
    crossed = (keep1, keep2, keep_out) == (2, 1, 0)  # each gradient reads the other operand, as in multiply
    layout = ("x1", "x2") if crossed else ("x1", "x2", "out") if used else ()
    operation = Operation(
        name,
        tuple(bind_rule(rule, layout) for rule in rules),
        layout,
        (0, 1, OUT)[: len(layout)],
        elementwise=elementwise,
        broadcasts=True,
        holomorphic=bool(layout),
        reads=bool(layout),
        selects=None if selects is None else tuple([bind_rule(select, layout) for select in selects]),
    )
    if elementwise:
        BROADCASTING.add(name)
    if differential1 is None:
        NONDIFFERENTIABLE.add(name)
    elif elementwise:
        declare(operation)
    differentiable = differential1 is not None

    def make(is_operator: bool) -> Callable[[ArrayLike, ArrayLike], Tensor]:
        def call(x1: ArrayLike, x2: ArrayLike, /) -> Tensor:
            if type(x1) is Tensor:
                a = x1._array
                p1 = x1._record
                if type(x2) is Tensor:
                    b = x2._array
                    p2 = x2._record
                    if type(a) is not type(b):
                        a = same_library(name, a, b)
                        if a is None:
                            return call(*on_one_level((x1, x2)))
                else:
                    p2 = None
                    b = x2 if type(x2) in SCALARS else coerce(name, x2, a, p1 is not None and bool(keep2 & 1))
                    if b is NotImplemented:
                        other = tensor_of_list(name, x2, a)
                        if other is not None:
                            return call(x1, other)
                        if is_operator:
                            return b  # type: ignore[no-any-return] # Python tries the reflected method
                        raise not_an_operand(name, x2)
                kind = type(a)
            else:
                p1 = None
                if type(x2) is not Tensor:
                    if type(x1) not in SCALARS:
                        return call(*with_leading_tensor((x1, x2), name))
                    x2 = as_tensor(x2, name)
                b = x2._array
                p2 = x2._record
                a = x1 if type(x1) in SCALARS else coerce(name, x1, b, p2 is not None and bool(keep1 & 2))
                if a is NotImplemented:
                    other = tensor_of_list(name, x1, b)
                    if other is not None:
                        return call(other, x2)
                    if is_operator:
                        return a  # type: ignore[no-any-return]
                    raise not_an_operand(name, x1)
                kind = type(b)
            try:
                out = kernels[kind](a, b)
            except Exception as error:
                out = again(name, find, kernels, kind, (a, b), error)
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
                    bits = (p1 is not None) + (2 if p2 is not None else 0)
                    r.saved = (
                        a if bits & keep1 else None,
                        b if bits & keep2 else None,
                        out if bits & keep_out else None,
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

    function = publish(make(False), name, doc, module)
    return function, publish(make(True), name, doc, module)
