"""From what was captured to what is run."""

from __future__ import annotations

from typing import Any

from tapegrad._compile.plan.accumulate import scan
from tapegrad._compile.plan.attention import fuse_attention
from tapegrad._compile.plan.fusion import finish, fuse
from tapegrad._compile.plan.merge_matmuls import merged
from tapegrad._compile.plan.reassociate import reassociate
from tapegrad._compile.plan.schedule import Groups
from tapegrad._compile.plan.simplify import alive, simplified
from tapegrad._compile.plan.stacking import stack
from tapegrad._program.ir import Program, Run
from tapegrad._program.op_kinds import picks


def planned(program: Program, backend: Any, reassociated: bool = False) -> Program:
    """Return a program that gives the same outputs, in fewer operations, grouped for the executor of a library.

    reassociated: whether results may differ by rounding, for fewer operations still.
    """
    simple = alive(merged(simplified(program, backend.as_array, backend.xp), backend.xp))
    for node in simple.nodes:
        if node.op in backend.elementwise:
            node.kind = "elementwise"
        elif backend.kernels and picks(node):
            node.kind = "pick"
    if backend.attention is not None:
        simple = fuse_attention(simple, backend.attention)
    groups = Groups(simple.nodes)
    fuse(groups, backend.smallest_run // 4 if reassociated else backend.smallest_run, backend.kernels)
    if backend.stacks:
        stack(groups, simple.outputs)
        scan(groups)
    items = groups.ordered()
    finish(items, simple.outputs)
    if reassociated:
        for item in items:
            if isinstance(item, Run):
                reassociate(item)
    program = simple.with_nodes(items)
    program.reassociated = reassociated
    return program
