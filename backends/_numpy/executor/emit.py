"""Code generation: the calls of each item of a program, in order.

An item goes to the emitter of its class; a single node to that of its kind, or of its operation (`BY_KIND`, `BY_OP`)::

    %0 = multiply(g, 0.1)        by its kind: emit_elementwise        multiply(g, 0.1, A)
    %1 = concat([%0, %0])        by its operation: emit_concat        concatenate([A, A], 0, B)
    %2 = cumulative_sum(%1)      by neither: emit_stored              store(C, cumulative_sum, (B,), {})
    run, stack, fold, scan       by its class                         see `tiles` and `stacked`
    %3 = subtract(w, %0)         an update of state: emit_update      axpy(n, -1, A, 1, w, 1)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tapegrad._program.ir import Fold, Item, Node, Program, Run, Scan, Stack, Value
from tapegrad.backends._numpy.executor import nodes
from tapegrad.backends._numpy.executor.axpy import emit_update
from tapegrad.backends._numpy.executor.code import Writer
from tapegrad.backends._numpy.executor.emitter import Emitter
from tapegrad.backends._numpy.executor.placement import Placement
from tapegrad.backends._numpy.executor.scatter import RowNumbers
from tapegrad.backends._numpy.executor.sharing import Sharing
from tapegrad.backends._numpy.executor.stacked import emit_fold, emit_scan, emit_stack
from tapegrad.backends._numpy.executor.threads import Code
from tapegrad.backends._numpy.executor.tiles import TiledRun

EmitNode = Callable[[Emitter, Node, Code], bool]  # False where a node is left to the generic emitter

BY_KIND: dict[str, EmitNode] = {
    "elementwise": nodes.emit_elementwise,
    "matmul": nodes.emit_product,
    "reduction": nodes.emit_reduction,
    "rows": nodes.emit_rows,
    "view": nodes.emit_view,
}
BY_OP: dict[str, EmitNode] = {
    "concat": nodes.emit_concat,
    "convolution": nodes.emit_convolution,
    "convolution_input": nodes.emit_convolution,
    "convolution_weight": nodes.emit_convolution,
    "index_add": nodes.emit_index_write,
    "index_set": nodes.emit_index_write,
    "stack": nodes.emit_stack,
    "unstack": nodes.emit_unstack,
}


class Emission:
    """Code generation for one program; its attributes are those of the protocol `Emitter`."""

    def __init__(
        self, program: Program, placement: Placement, sharing: Sharing, donated: Mapping[Value, Value]
    ) -> None:
        self.program, self.placement, self.sharing, self.donated = program, placement, sharing, donated
        # The code so far, and the places in it that are patched where an array changes between calls.
        self.writer = Writer()
        self.row_numbers = RowNumbers(program)

    def emit_item(self, item: Item) -> None:
        """Append the calls of an item to the code of the program."""
        # An update of state may be a single node or a run: it is asked first.
        if emit_update(self, item):
            return
        if isinstance(item, Node):
            self.emit_node(item, self.writer.code)
        # Groups have one emitter each; the class tells.
        elif isinstance(item, Run):
            TiledRun(self, item).emit()
        elif isinstance(item, Stack):
            emit_stack(self, item)
        elif isinstance(item, Fold):
            emit_fold(self, item)
        else:
            assert isinstance(item, Scan)
            emit_scan(self, item)

    def emit_node(self, node: Node, code: Code) -> None:
        """Append the calls of a node to some code."""
        # The kind comes before the operation: an index that is a view is no matter of its operation.
        emit = None if node.effect else BY_KIND.get(node.kind) or BY_OP.get(node.op)
        if emit is None or not emit(self, node, code):
            nodes.emit_stored(self, node, code)
