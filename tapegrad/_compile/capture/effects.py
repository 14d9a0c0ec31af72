"""Effects of a captured call: its result, gradients, new values of Tensors."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tapegrad._compile.capture.captured_call import Capture
from tapegrad._compile.capture.errors import unknown_tensor
from tapegrad._compile.capture.graph import Tracer
from tapegrad._compile.capture.guards import Guards
from tapegrad._compile.capture.install_tracers import Tracers
from tapegrad._compile.capture.loop import check_loops
from tapegrad._compile.capture.observer import Observer
from tapegrad._compile.capture.remove_tracers import remove_tracer
from tapegrad._compile.capture.slots import NewTensor, Slot, state_of
from tapegrad._engine.backward import collect
from tapegrad._engine.dispatch import CaptureError, backend_of, find_backend
from tapegrad._engine.record import LEAF, RELEASED
from tapegrad._engine.tensor import Tensor
from tapegrad._engine.tree import flatten
from tapegrad._program.ir import Value

# References to a new result that are no one else's: in the result and two lists of its leaves; in a list of new
# results, and as the argument of the function that counts them.
_IN_RESULT = 3
_HERE = 2


def check_output(y: Tensor, known: Iterable[int], what: str = "the function returns a result") -> None:
    """Raise CaptureError for a new Tensor that is recorded, which a replayed one cannot be."""
    r = y._record
    if r is None or r.saved is RELEASED or id(y) in known:
        return
    leaf = next((x for x in collect([r], oldest=0) if x.op is LEAF), r)
    raise CaptureError(
        f"{what} of {r.op.name} that is recorded, as it depends on a leaf of shape {tuple(leaf.shape)} that requires a "
        "gradient: a compiled function records nothing, so differentiate by that leaf inside it, with backward() or as "
        "an argument of tapegrad.grad, or return the result detached, as in y.detach()"
    )


def effects_of(lifted: Tracers, result: list[Any], used: Observer, found: Guards) -> tuple[Any, Capture]:
    """Return the result of a call, and all that the call did and left; new Tensors in it are settled.

    result: in a list, so that no name holds it; found: guards of all that the call found outside.
    """
    graph, slots, raw = lifted.graph, lifted.slots, lifted.raw
    fresh: dict[int, NewTensor] = {}
    made: list[Tensor] = []

    def kept(x: Tensor) -> Any:
        if id(x) in slots:
            return slots[id(x)][1]
        if id(x) not in fresh:
            value = remove_tracer(x)
            if value is None:
                raise unknown_tensor()
            if x.grad is not None:
                raise CaptureError(
                    f"a result{_made(value)}, has a gradient of its own: replay makes none, so return that "
                    "gradient as a result"
                )
            fresh[id(x)] = NewTensor(value, x._record is not None)
            made.append(x)
        return fresh[id(x)]

    def output(y: Any) -> Any:
        if isinstance(y, Tensor):
            return kept(y)
        value = lifted.value_of(y)
        return own(y) if value is None else value

    leaves, rebuild = flatten(result)
    for n in range(len(leaves)):
        if isinstance(leaves[n], Tensor):
            check_output(leaves[n], slots)
    returned = [_apart(y, raw) if isinstance(y, Tracer) else y for y in leaves]
    outputs = [output(y) for y in leaves]
    grads: list[tuple[Slot, Any]] = []
    for x, slot in slots.values():
        after = None if x.grad is None else kept(x.grad)
        if after is not lifted.guards[id(x)].grad:
            grads.append((slot, after))
    _check_kept(made, [f.value for f in fresh.values()], leaves, [x for x, _ in slots.values()])
    read = {v for node in graph.nodes for v in node.values()} | {f.value for f in fresh.values()}
    read.update(y for y in outputs if isinstance(y, Value))
    here = [c for _, c in slots.values() if c.arguments or c.before in used.values or c.before in read]
    here += [c for _, c in slots.values() if c.after is not c.before]
    here += [c for c in outputs if isinstance(c, Slot)] + [x for g in grads for x in g if isinstance(x, Slot)]
    for c in here:  # and the slots that these are found by
        here += c.owners
    if graph.loops:
        check_loops(graph, [*read, *[c.after for c in here]])
    wanted = set(here)
    here = [c for _, c in slots.values() if c in wanted]
    for _, c in slots.values():  # the others are gone through no more, and are not to keep a Tensor
        c.tensor = state_of(c.tensor) if c in wanted else None
    guards = [g for g in lifted.guards.values() if g.slot in wanted]
    return rebuild(returned)[0], Capture(graph, here, raw, grads, outputs, rebuild, guards, found)


def own(x: Any) -> Any:
    """Return a raw array that nobody else holds, so that it may be written to; other things as they are."""
    backend = find_backend(x)
    return x if backend is None or backend.as_scalar(x) is not None else backend.copy(x)


def _apart(y: Tracer, raw: dict[int, Value]) -> Any:
    """Return a raw result: an argument as it is, others as arrays that nobody else holds."""
    return y.raw if y.value in raw.values() else backend_of[type(y.raw)].copy(y.raw)


def _check_kept(made: list[Tensor], values: list[Value], leaves: list[Any], tensors: list[Tensor]) -> None:
    """Raise CaptureError if a new result is held by more than results and gradients: replay makes another one."""
    held = Counter([i for y in leaves for i in (id(y),) * _IN_RESULT]) + Counter([id(x.grad) for x in tensors])
    for collected in (False, True):
        for n in range(len(made)):
            if sys.getrefcount(made[n]) > held[id(made[n])] + _HERE:
                break
        else:
            return
        if not collected:
            gc.collect()
    raise CaptureError(
        f"a result{_made(values[n])}, is also kept by something outside the function, which replay "
        "would not update: keep the function's results, outside"
    )


def _made(value: Value) -> str:
    return ", made" + (f" at {value.node.line}" if value.node is not None else "")
