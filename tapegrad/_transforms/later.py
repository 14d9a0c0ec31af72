"""Lazily recorded derivatives: one record, whose walk is recorded only if it is differentiated again.

`backward` may differentiate anything computed from leaves, so that the result of a top-level transform is recorded.
This is rarely used, and a recorded walk takes two to three times as long. So the walk runs on raw arrays, and the rule
of its record runs it again on Tensors. If the gradients of a function were differentiated again once, they probably
will be at the next step. Its walks are then recorded at once.
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

_again: WeakSet[CodeType] = WeakSet()  # the code of functions whose derivatives were differentiated again


def derivatives(traced: TransformCall, compute: Compute) -> list[Tensor]:
    """Return the derivatives of a traced call, recorded.

    compute: returns the derivatives of a recorded or unrecorded walk; it may be called several times.
    """
    # They are differentiated again, or were the last time; or somebody watches each operation.
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
    """Return the records outside of a traced call that its result depends on, and the leaves made inside."""
    oldest = max(r.seq for r in traced.leaves)
    roots = [y._record for y in traced.outputs if y._record is not None]
    found = {r for r in roots if r.seq > oldest}
    for r in collect(roots, oldest):
        if r.op is LEAF:
            found.add(r)
        found.update([p for p in r.parents if p is not None and p.seq > oldest])
    return tuple(sorted(found, key=lambda r: r.seq))
