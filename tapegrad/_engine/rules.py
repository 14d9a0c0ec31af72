"""Registration of rules: their signatures, their names, their records.

A rule is a function `rule(xp, t, ...)`: the namespace to compute in, the cotangent, and then, by name, what it
reads: an operand (`x`, `x1`), the result (`out`), the shape of either (`x_shape`, `out_shape`) or a static argument.
The names are read once, here; a record keeps just those values, and only for operands that need a gradient. A rule
may be run on raw arrays or on Tensors and cannot tell. It need not care for the operand's exact shape and dtype:
the walk fits the cotangent. It must let extra leading axes of `t` pass through, so that many cotangents go in one walk.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any, TypeVar

from tapegrad._engine.record import Operation, Record, next_seq

Rule = Callable[..., Any]
F = TypeVar("F", bound=Callable[..., Any])
# Every public function is in exactly one of these three (a test checks it).
OPERATIONS: dict[str, Operation] = {}  # has a rule
COMPOSED: set[str] = set()  # plain code over others
CONSTANT: set[str] = set()  # no derivative, or zero wherever there is one: never recorded
BROADCASTING: set[str] = set()  # takes operands whose shapes broadcast, and nothing else

new = object.__new__


def composed(function: F) -> F:
    """Declare a public function to be plain code over operations that have rules."""
    COMPOSED.add(function.__name__)
    return function


def with_operators(forward: Any) -> Any:
    """Declare a forward function to compute with operators on arrays, not with functions of the namespace alone.

    Some libraries compute these on the current device, whichever that of the arrays.
    """

    def call(xp: Any, *args: Any) -> Any:
        elsewhere = xp.elsewhere
        return forward(xp, *args) if elsewhere is None else elsewhere(forward, xp, *args)

    call.__wrapped__ = forward  # type: ignore[attr-defined]
    return call


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


def bind_rule(rule: Rule | None, layout: tuple[str, ...]) -> Any:
    """Return (rule, how many saved values it reads or -1 for the identity, how to pick them), or None."""
    if rule is None:
        return None
    if rule is identity:
        return rule, -1, None
    where = [layout.index(name) for name in reads(rule)]
    if len(where) < 2:
        return rule, len(where), where[0] if where else None
    return rule, len(where), itemgetter(*where)


def declare(operation: Operation, variant: str = "") -> Operation:
    """Register an operation that has a rule; ValueError if its name, with the variant, is taken."""
    name = f"{operation.name} {variant}" if variant else operation.name
    if name in OPERATIONS:
        raise ValueError(f"operation {name!r} is declared twice")
    OPERATIONS[name] = operation
    return operation


def publish(function: Any, name: str, doc: str, module: str) -> Any:
    """Give a function that was made here the name, docstring and module it has for users."""
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    function.__module__ = module
    return function


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
