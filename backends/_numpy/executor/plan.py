"""The plan of a program, made by one pass after the other.

1. Aliasing: the root of each value, whose array it lies in.
2. Liveness: the last item that reads each array.
3. Donation: outputs that are written into the inputs that they replace.
4. Checks: whether all errors are raised before an output is written.
5. Emission, item by item: placement gives each result an array; the calls are appended to the code; then the buffers of
   arrays that are dead are given back.

For a training step, `loss = sum(square(x))` and `w -= 0.1 * g`, that is::

    inputs x, g, w                 code
    0  %0 = square(x)              square(x, A)
    1  %1 = sum(%0)                add.reduce(A, (0, 1), float32, out 0, False)     A is free
    2  %2 = multiply(g, 0.1)       multiply(g, 0.1, A)
    3  %3 = subtract(w, %2)        subtract(w, A, w)                                donated
    outputs %1, %3
"""

from __future__ import annotations

from typing import NamedTuple

from tapegrad._program.ir import Program, Value
from tapegrad.backends._numpy.executor.aliasing import Aliases
from tapegrad.backends._numpy.executor.checks import Checks
from tapegrad.backends._numpy.executor.code import Writer
from tapegrad.backends._numpy.executor.donation import donate
from tapegrad.backends._numpy.executor.emit import Emission
from tapegrad.backends._numpy.executor.liveness import Liveness
from tapegrad.backends._numpy.executor.placement import Placement
from tapegrad.backends._numpy.executor.sharing import sharing_of


class Plan(NamedTuple):
    """The code of a program, with the facts that a call needs.

    donated: the output that is written into each donated input; fresh: the roots of outputs that get an array of their
    own at each call; holds_blas: whether BLAS is held to one thread during a call.
    """

    writer: Writer
    placement: Placement
    donated: dict[Value, Value]
    fresh: list[Value]
    checks: Checks
    holds_blas: bool


def plan_of(program: Program, threads: int) -> Plan:
    """Return the plan of a program that may use so many threads."""
    # Analyses: each reads those before it.
    aliases = Aliases(program)
    liveness = Liveness(program, aliases)
    donated = donate(program, aliases, liveness)
    # Inputs and outputs are placed before any item, so that their producers write there.
    placement = Placement(aliases, liveness)
    fresh = _place_roots(program, placement, donated)
    checks = Checks(program, frozenset(fresh), aliases)
    sharing = sharing_of(program, threads)
    emission = Emission(program, placement, sharing, donated)
    writer = emission.writer
    for i, (item, dead) in enumerate(zip(program.items, liveness.dead_after(program.items), strict=True)):
        # Emission before release: an item's last reads may not be overwritten by the same item, except in place.
        placement.now = i
        emission.emit_item(item)
        placement.release(dead)
        if i == checks.last:
            writer.emit(writer.code, checks.pass_all, ())
    placement.forget_shown()
    return Plan(writer, placement, donated, fresh, checks, writer.threaded and sharing.splits)


def _place_roots(program: Program, placement: Placement, donated: dict[Value, Value]) -> list[Value]:
    """Place inputs and outputs, whose arrays change from call to call; return the roots that only outputs have."""
    fresh = []
    for x in program.inputs:
        placement.add_reference(x)
    # A donated input and its output are one reference: the result is written to the state array.
    for x, v in donated.items():
        placement.put(v, placement.array(x))
    for v in program.outputs:
        # An output that is a view is handed out as one of its root, which gets the new array.
        root = placement.aliases.root_of(v)
        if root not in placement.refs and root.constant is None:
            placement.add_reference(root)
            fresh.append(root)
    return fresh
