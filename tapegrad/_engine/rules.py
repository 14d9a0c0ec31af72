"""Registration of derivative rules.

A rule is a function `rule(xp, t, ...)`. Its arguments are the namespace to compute in, the cotangent, and then the
values that it reads, by name: an operand (`x`, `x1`), the result (`out`), a shape (`x_shape`, `out_shape`) or a static
argument. The names are read once, at registration. A record saves only those values, and only for operands that need a
gradient.

A rule may run on raw arrays or on Tensors. It need not produce the operand's exact shape and dtype: the walk fits the
cotangent. It must pass batch axes in front of `t` through, so that one walk can take many cotangents.
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
NONDIFFERENTIABLE: set[str] = set()  # no derivative, or zero wherever there is one: never recorded
BROADCASTING: set[str] = set()  # takes operands whose shapes broadcast, and nothing else

new = object.__new__


def composed(function: F) -> F:
    """Register a public function as a composition of operations that have rules."""
    COMPOSED.add(function.__name__)
    return function


def with_operators(forward: Any) -> Any:
    """Mark a forward function that uses operators on arrays, beside functions of the namespace.

    Some libraries run operators on the current device, even if the arrays are on another one.
    """

    def call(xp: Any, *args: Any) -> Any:
        elsewhere = xp.elsewhere
        return forward(xp, *args) if elsewhere is None else elsewhere(forward, xp, *args)

    call.__wrapped__ = forward  # type: ignore[attr-defined]
    return call


def nondifferentiable(function: F) -> F:
    """Register a public function that has no derivative, or a derivative of zero."""
    NONDIFFERENTIABLE.add(function.__name__)
    return function


def reads(rule: Rule) -> tuple[str, ...]:
    """Return the names of the values that a rule reads, beside the namespace and the cotangent."""
    code = rule.__code__
    return code.co_varnames[2 : code.co_argcount]


def identity(xp: Any, t: Any) -> Any:
    """The identity rule: the cotangent passes through. The walk knows it and does not call it."""
    return t


def bind_rule(rule: Rule | None, layout: tuple[str, ...]) -> Any:
    """Bind a rule to the layout of the saved values.

    Return (rule, number of saved values it reads, index or getter that picks them), or None for no rule. The number is
    -1 for the identity.
    """
    if rule is None:
        return None
    if rule is identity:
        return rule, -1, None
    where = [layout.index(name) for name in reads(rule)]
    if len(where) < 2:
        return rule, len(where), where[0] if where else None
    return rule, len(where), itemgetter(*where)


def declare(operation: Operation, variant: str = "") -> Operation:
    """Register an operation that has a rule; raise ValueError if its name and variant are taken."""
    name = f"{operation.name} {variant}" if variant else operation.name
    if name in OPERATIONS:
        raise ValueError(f"operation {name!r} is declared twice")
    OPERATIONS[name] = operation
    return operation


def publish(function: Any, name: str, doc: str, module: str) -> Any:
    """Set the public name, docstring and module of a generated function."""
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
