"""Protocol of code generation, as the emitters of nodes and groups see it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tapegrad._program.ir import Node, Program, Value
from tapegrad.backends._numpy.executor.code import Writer
from tapegrad.backends._numpy.executor.placement import Placement
from tapegrad.backends._numpy.executor.scatter import RowNumbers
from tapegrad.backends._numpy.executor.sharing import Sharing
from tapegrad.backends._numpy.executor.threads import Code


class Emitter(Protocol):
    """The state of code generation.

    placement: where values lie; writer: the code so far; sharing: the threads; donated: the output that is written into
    each donated input; row_numbers: looked-up indices.
    """

    program: Program
    placement: Placement
    writer: Writer
    sharing: Sharing
    donated: Mapping[Value, Value]
    row_numbers: RowNumbers

    def emit_node(self, node: Node, code: Code) -> None:
        """Append the calls of a node to some code."""
