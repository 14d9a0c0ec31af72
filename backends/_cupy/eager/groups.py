"""Groups of an eager program: nodes that one kernel can compute, whatever the sizes of its arrays."""

from __future__ import annotations

import numpy as np

from tapegrad._program.ir import Node, Value
from tapegrad._program.queries import reduction_axes
from tapegrad.backends._cupy.codegen.flat_kernels import Numbers, can_compute
from tapegrad.backends._cupy.codegen.memory_access import Shape
from tapegrad.backends._cupy.codegen.reductions import can_reduce

WIDEST = 24  # arrays that a kernel reads
LONGEST = 100  # nodes of a kernel


class Group:
    """Nodes that one kernel computes: elementwise ones, and reductions over one set of axes."""

    def __init__(self, name: str, number: Numbers) -> None:
        self.name, self.number = name, number
        self.nodes: list[Node] = []
        self.full: Shape | None = None  # the shape that the kernel goes over, once a node is here
        self.axes: frozenset[int] | None = None  # those of it that reductions reduce

    def takes(self, node: Node, home: dict[Value, int], at: int) -> bool:
        """Say whether a node may join; if so, note the shape and axes that this fixes."""
        if node.op == "note_outside":
            return self.axes is not None and self.is_row(tuple(node.args[0].shape))
        made = {v for n in self.nodes for v in n.outs}
        read = {v for n in (*self.nodes, node) for v in n.reads if v not in made and self.number(v) is None}
        if node.many or node.effect or len(read) > WIDEST or len(self.nodes) >= LONGEST:
            return False
        shape = tuple(node.outs[0].shape)
        # A view of a value in registers is another name for it; a view of an operand is no work of the kernel.
        if node.kind == "view":
            inside = any(home.get(v) == at for v in node.reads)
            return inside and _is_alias(node) and self.fits(shape) and self.aligned(node.args[0], shape)
        if node.kind == "reduction":
            return self.reduces(node)
        if node.kind != "elementwise" or not can_compute(node, self.number):
            return False
        # Until a reduction fixes it, the shape grows to that of all nodes together.
        if self.axes is None:
            both = shape if self.full is None else _together(self.full, shape)
            self.full = self.full if both is None else both
        return self.fits(shape) and all(self.aligned(v, shape) for v in node.reads)

    def reduces(self, node: Node) -> bool:
        """Say whether a reduction may join."""
        x = node.args[0]
        if not isinstance(x, Value) or not set(node.kwargs) <= {"axis", "keepdims"} or not reduction_axes(node):
            return False
        if not can_reduce(node.op, x.dtype, node.outs[0].dtype):
            return False
        shape, axes = tuple(x.shape), frozenset(reduction_axes(node))
        if self.full not in (None, shape) or self.axes not in (None, axes):
            return False
        # Try: with these axes, each result so far must have the full shape, or one element a row.
        before = self.full, self.axes
        self.full, self.axes = shape, axes
        if all(self.fits(tuple(v.shape)) for n in self.nodes for v in n.outs):
            return True
        self.full, self.axes = before
        return False

    @property
    def shape(self) -> Shape:
        """The shape that the kernel goes over."""
        assert self.full is not None
        return self.full

    def kept(self) -> tuple[Shape, Shape]:
        """Return the shapes of a reduction's result, with the reduced axes and without."""
        axes = self.axes or frozenset()
        return (
            tuple(1 if i in axes else n for i, n in enumerate(self.shape)),
            tuple(n for i, n in enumerate(self.shape) if i not in axes),
        )

    def is_row(self, shape: Shape) -> bool:
        """Say whether values of a shape have one element a row."""
        return self.axes is not None and shape != self.full and (shape in self.kept() or set(shape) <= {1})

    def fits(self, shape: Shape) -> bool:
        """Say whether values of a shape can be computed here."""
        return _broadcasts(shape, self.shape) or self.is_row(shape)

    def aligned(self, v: Value, shape: Shape) -> bool:
        """Say whether an operand's axes are those of the kernel where it broadcasts to a result's shape."""
        mine = tuple(v.shape)
        if self.axes is None or mine == shape or v.size == 1 or not self.is_row(mine):
            return True
        return mine != self.kept()[1] or shape == self.kept()[1]


def _is_alias(node: Node) -> bool:
    """Say whether a view has the same elements in the same order, or repeats them."""
    if node.op == "broadcast_to":
        return True
    shapes = [[n for n in v.shape if n != 1] for v in (node.args[0], node.outs[0])]
    return node.op in ("reshape", "squeeze", "expand_dims", "index_get") and shapes[0] == shapes[1]


def _together(a: Shape, b: Shape) -> Shape | None:
    """Return the shape that two shapes broadcast to, None if they do not."""
    try:
        return np.broadcast_shapes(a, b)
    except ValueError:
        return None


def _broadcasts(shape: Shape, to: Shape) -> bool:
    pad = len(to) - len(shape)
    return pad >= 0 and all(n in (1, m) for n, m in zip(shape, to[pad:], strict=True))
