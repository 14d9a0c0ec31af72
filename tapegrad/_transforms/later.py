"""Derivatives that are one record: the walk is recorded only if somebody differentiates them again.

What is computed from leaves may be differentiated by `backward` at any time, so that the result of a transform on the
top level is recorded. But that hardly ever happens, and a walk that records itself takes two to three times as long.
So the walk runs on raw arrays, and the rule of its record runs it once more on Tensors. A function whose gradients
were differentiated again will have that done at the next step too: then its walks are recorded at once.
"""

from __future__ import annotations

from types import CodeType
from typing import Any
from weakref import WeakSet

from tapegrad._engine.backward import collect, pulled
from tapegrad._engine.graph_breaks import cuts
from tapegrad._engine.levels import capturing, mapping
from tapegrad._engine.mode import mode, mode_set, scopes
from tapegrad._engine.record import LEAF, Record
from tapegrad._engine.tensor import Hooks, Tensor
from tapegrad._transforms.custom_rules import SavedCall, as_tensors, recorded
from tapegrad._transforms.reverse import Compute, TransformCall

_again: WeakSet[CodeType] = WeakSet()  # of functions whose derivatives were differentiated again


def derivatives(traced: TransformCall, compute: Compute) -> list[Tensor]:
    """Return derivatives of a traced call, recorded.

    compute: gives them, from a walk that is recorded or one that is not, as often as it is called.
    """
    # It is differentiated again, or was the last time; or somebody watches each operation.
    used = cuts.get() is not None or mapping.get() is not None or traced.code in _again
    watched = scopes or capturing.get() is not None or any([type(r.tensor) is Hooks for r in traced.path])
    if used or watched:
        return compute(True)
    parents = _outside(traced)

    def rule(_: list[Tensor], outs: list[Tensor], ts: list[Tensor], supports: Any) -> list[Tensor | None]:
        create_graph = mode().recording
        if traced.code is not None:
            _again.add(traced.code)
        with mode_set(recording=True):
            again = compute(True)
        found = pulled(again, ts, create_graph, retain=True, stops=set(parents), supports=supports)
        return as_tensors([found.get(p) for p in parents], create_graph)

    return recorded("gradient", SavedCall([], [g._array for g in compute(False)], parents, rule))


def _outside(traced: TransformCall) -> tuple[Record, ...]:
    """Return the records outside of a traced call that its result was computed from, and leaves made inside."""
    oldest = max(r.seq for r in traced.leaves)
    roots = [y._record for y in traced.outputs if y._record is not None]
    found = {r for r in roots if r.seq > oldest}
    for r in collect(roots, oldest):
        if r.op is LEAF:
            found.add(r)
        found.update([p for p in r.parents if p is not None and p.seq > oldest])
    return tuple(sorted(found, key=lambda r: r.seq))
