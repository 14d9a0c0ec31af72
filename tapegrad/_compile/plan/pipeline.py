"""The pipeline of the planner: passes in order, from a captured program to items for an executor.

before, as captured                     after, for a library whose executor plans
o = ones (1000, 500)                    run along (1000,): a = exp x, b = multiply a 2
a = exp x
b = multiply a 2
c = multiply b o
"""

from __future__ import annotations

from tapegrad._compile.plan.accumulate import scan
from tapegrad._compile.plan.attention import fuse_attention
from tapegrad._compile.plan.dead_code import without_dead_code
from tapegrad._compile.plan.fusion import fuse, note_boundaries
from tapegrad._compile.plan.merge_matmuls import merged
from tapegrad._compile.plan.reassociate import reassociate
from tapegrad._compile.plan.schedule import Schedule
from tapegrad._compile.plan.simplify import simplified
from tapegrad._compile.plan.stacking import stack
from tapegrad._program.ir import Item, Node, Program, Run
from tapegrad._program.op_kinds import picks
from tapegrad.backends import Backend


def planned(program: Program[Node], backend: Backend, reassociated: bool = False) -> Program[Item]:
    """Return a program that gives the same outputs, in fewer operations, grouped for the executor of a library.

    reassociated: whether results may differ by rounding, for fewer operations still.
    """
    # 1. Rewriting: fewer nodes that give the same values. Merging leaves dead code behind.
    simple = without_dead_code(merged(simplified(program, backend), backend.xp))
    # 2. Kinds that only this library's executor knows.
    for node in simple.nodes:
        if node.op in backend.elementwise:
            node.kind = "elementwise"
        elif backend.kernels and picks(node):
            node.kind = "pick"
    # 3. Patterns for which the library has a kernel.
    if backend.attention is not None:
        simple = fuse_attention(simple, backend.attention)
    # 4. Grouping: vertical fusion of large arrays first, then horizontal fusion of small ones that are left.
    schedule = Schedule(simple.nodes)
    fuse(schedule, backend.smallest_run // 4 if reassociated else backend.smallest_run, backend.kernels)
    if backend.stacks:
        stack(schedule, simple.outputs)
        scan(schedule)
    # 5. Scheduling: groups and single nodes in an order that works.
    items = schedule.ordered()
    note_boundaries(items, simple.outputs)
    # 6. Algebra inside runs, once it is known which of their values others read.
    if reassociated:
        for item in items:
            if isinstance(item, Run):
                reassociate(item)
    plan = simple.with_nodes(items)
    plan.reassociated = reassociated
    return plan
