"""Lowering: a captured call becomes a program from all that it reads to all that it leaves.

For a step with the result `loss = sum(w * x)` that then updates w by its gradient, which is x::

    capture                                   program
    slots: w, v (state), x (argument)         inputs: w, x, as v is not read
    a = multiply w x                          a = multiply w x
    loss = sum a                              loss = sum a
    p = multiply v x                          nothing needs p: dead code
    s = multiply 0.1 x                        s = multiply 0.1 x
    u = subtract w s                          u = subtract w s
    effect: w becomes u; result: loss         outputs: u, which replaces the input w, and loss
"""

from __future__ import annotations

from typing import Any

from tapegrad._compile.capture.captured_call import Capture
from tapegrad._compile.capture.slots import NewTensor, Slot
from tapegrad._compile.plan.dead_code import needed
from tapegrad._program.ir import Node, Program, Value


def program_of(capture: Capture) -> tuple[Program[Node], list[Slot], list[int], list[Any], dict[Value, int]]:
    """Return the program of a capture; the slots, raw leaves and held arrays that are its inputs; where outputs are.

    Only slots and arrays that are read or updated are inputs. The last is the number among the outputs of each value
    that stays.
    """
    places: dict[Value, int] = {}
    replaces: list[int | None] = []
    kept = [v for v in capture.outputs if isinstance(v, (NewTensor, Value))]
    kept += [v for _, v in capture.grads if isinstance(v, NewTensor)]
    wanted = [c.after for c in capture.slots if c.after is not c.before]
    wanted += [v.value if isinstance(v, NewTensor) else v for v in kept]
    read, nodes = needed(capture.graph.nodes, wanted)
    slots = [c for c in capture.slots if c.before in read or c.after is not c.before]
    raw = [i for i, v in capture.raw.items() if v in read]
    held = [v for v in capture.graph.held if v in read]
    inputs = [*[c.before for c in slots], *[capture.raw[i] for i in raw], *held]
    for v in wanted:
        if v not in places:
            places[v] = len(places)
            replaces.append(None)
    for n, c in enumerate(slots):
        if c.after is not c.before and replaces[places[c.after]] is None:
            replaces[places[c.after]] = n
    passed = [n for n, c in enumerate(slots) if c.arguments or c.owners]
    passed += range(len(slots), len(slots) + len(raw))
    only = {v.value for _, v in capture.grads if isinstance(v, NewTensor)}
    only -= {v.value if isinstance(v, NewTensor) else v for v in capture.outputs if isinstance(v, (NewTensor, Value))}
    gradients = frozenset(places[v] for v in only if replaces[places[v]] is None)
    program = Program(inputs, nodes, list(places), replaces, frozenset(passed), gradients)
    return program, slots, raw, [capture.graph.held[v] for v in held], places
