"""Donation: the arrays of inputs, given to the outputs that replace them.

A training step replaces a parameter by its updated value. The update is written in its place if nothing can see that::

    inputs: w, g     outputs: %1, which replaces w

    0  %0 = multiply(g, 0.1)
    1  %1 = subtract(w, %0)     %1 is donated the array of w: subtract(w, %0, out=w)

Input x can be donated to output v, made by item i, under these conditions:

- x and v have one shape and dtype, and no other output lies in the array of either;
- no item after i reads x, or a view of it (liveness);
- item i itself reads x, if at all, at the element that it writes, and never again (`_writes_over`);
- no item after i may raise: a call that fails must leave its state as it was.
"""

from __future__ import annotations

from collections import Counter

from tapegrad._program.ir import Item, Node, Program, Run, Value
from tapegrad.backends._numpy.executor.aliasing import Aliases
from tapegrad.backends._numpy.executor.checks import may_raise
from tapegrad.backends._numpy.executor.liveness import Liveness


def donate(program: Program, aliases: Aliases, liveness: Liveness) -> dict[Value, Value]:
    """Return for each donated input the output that is written into its array; note both in the analyses."""
    items, outputs = program.items, program.outputs
    maker = {v: i for i, item in enumerate(items) for v in item.outs}
    times, owners = Counter(outputs), Counter(map(aliases.root_of, outputs))
    # All that may raise must come before the write to a state array, which cannot be undone.
    raising = max([i for i, item in enumerate(items) if may_raise(item)], default=-1)
    donated: dict[Value, Value] = {}
    for v, k in zip(outputs, program.replaces, strict=True):
        # A view cannot be written elsewhere, nor can an output that is given twice.
        if k is None or v not in maker or aliases.shares(v) or times[v] > 1:
            continue
        x, at = program.inputs[k], maker[v]
        if x.shape != v.shape or x.dtype != v.dtype or owners[x] or owners[v] > 1:
            continue
        reads = [i for i, _ in liveness.readers.get(x, ())]
        if any(i > at for i in reads) or at < raising:
            continue
        if at in reads and not _writes_over(items[at], x, v, aliases):
            continue
        # From now on v is an alias of x, which later candidates must see.
        donated[x] = v
        aliases.donate(x, v)
        liveness.keep(x)
    return donated


def _writes_over(item: Item, x: Value, v: Value, aliases: Aliases) -> bool:
    """Say whether an item that reads `x` may write `v` over it: element by element, and nothing reads `x` later."""
    if isinstance(item, Run):
        return _run_writes_over(item, x, v, aliases)
    if not isinstance(item, Node):
        return False  # a stack, fold or scan
    if item.op in ("index_set", "index_add"):
        value = item.args[2]
        return item.args[0] is x and value is not x and not _is_view_of(value, x, aliases)
    if item.kind != "elementwise" or any(_is_view_of(y, x, aliases) for y in item.reads):
        return False
    return not _reads_again(item, x)


def _run_writes_over(run: Run, x: Value, v: Value, aliases: Aliases) -> bool:
    """Say the same of a run, which writes a tile of `v` before it reads the next tile of `x`."""
    made = next(i for i, n in enumerate(run.nodes) if v in n.outs)
    if any(_is_view_of(y, x, aliases) for n in run.nodes for y in n.reads):
        return False
    if any(x in n.reads for n in run.nodes[made + 1 :]):
        return False
    # An operand of fewer axes is read as a whole for each tile.
    if any(x in n.reads and len(n.out.shape) != len(x.shape) for n in run.nodes):
        return False
    return run.nodes[made].kind == "elementwise" and not _reads_again(run.nodes[made], x)


def _is_view_of(y: object, x: Value, aliases: Aliases) -> bool:
    return isinstance(y, Value) and y is not x and aliases.root_of(y) is x


def _reads_again(node: Node, x: Value) -> bool:
    """Say whether an elementwise node reads `x` after it has begun to write its result: the last of "where"."""
    return node.op == "where" and node.args[2] is x
