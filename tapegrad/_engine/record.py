"""Records of operations on the tape.

A record is one operation on the tape. It links to the records of its operands, never to Tensors, so a
graph lives as long as somebody holds its last Tensor and is freed by reference counts alone.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, final

next_seq = count(-1, -1).__next__  # falling: the least in a heap is the latest record
RELEASED: Any = type("Released", (), {"__repr__": lambda self: "<released>"})()


@final
class Operation:
    """A primitive operation: its rules, and all that the engine must know to record, walk and push it.

    Attributes
    ----------
    name : str
        The public name.
    vjps : tuple
        For each operand (rule, number of saved values it reads, index or getter that picks them from `saved`), or None
        where no gradient flows.
    saves : tuple of str
        The names of the values that a record saves.
    sources : tuple of int
        The origin of each saved value: the index of an operand, OUT for the result, OUTS for the tuple of several
        results, STATIC for a value that is no array, CACHE for an intermediate value of the forward computation. A rule
        on Tensors gets None for a CACHE value and computes it itself, so that it is recorded.
    elementwise : bool
        Whether a rule's result has the shape of the operation's result.
    unary : bool
        Whether it is elementwise, with one operand, of the operand's dtype and without selection.
    analytic : bool
        Whether the function of complex values has a derivative; abs and conj have none.
    holomorphic : bool
        Whether the rules give, for complex values, the derivative times `t`. The walk conjugates it then.
    reads : bool
        Whether rules read arrays. A library that fuses may then run the rules of a record as one kernel.
    broadcasts : bool
        Whether cotangents may have to be summed to the operand's shape.
    joint : bool
        Whether one rule gives the cotangents of all operands.
    pull : callable or None
        A function of the walk that stands in for the rules, where a cotangent is better written into its accumulator.
    push : callable or None
        A function of the record and the known tangents that gives the result's tangent, where transposing the rule does
        not give it.
    view : bool
        Whether NumPy returns a view.
    selects : tuple or None
        For each operand a function, bound like a rule, that gives the entries of the result that come from the operand,
        or None if all do. For structural zeros, as are the next three (see `structural_zeros`).
    moves : str
        "all" if the rules only move and add entries, with no negative factor; "some" if an operand's entries may also
        get nothing; else "".
    rows : tuple or None
        A function, bound like a rule, that gives the axes of a row of the operands and of the result. A row of the
        result depends on one row of each operand.
    safe : float
        A number at which elementwise rules are finite.
    carries : bool
        Whether a support is of use to the operation.
    plain : bool
        Whether the walk may take its short path for elementwise operations.
    leaves_out : bool
        Whether entries of an operand may get no gradient.
    """

    __slots__ = (
        "analytic",
        "broadcasts",
        "carries",
        "elementwise",
        "holomorphic",
        "joint",
        "leaves_out",
        "moves",
        "name",
        "plain",
        "pull",
        "push",
        "reads",
        "rows",
        "safe",
        "saves",
        "selects",
        "sources",
        "unary",
        "view",
        "vjps",
    )

    def __init__(
        self,
        name: str,
        vjps: tuple[Any, ...] = (),
        saves: tuple[str, ...] = (),
        sources: tuple[int, ...] = (),
        *,
        elementwise: bool = False,
        unary: bool = False,
        analytic: bool = True,
        broadcasts: bool = False,
        joint: bool = False,
        holomorphic: bool = False,
        reads: bool = False,
        pull: Callable[..., None] | None = None,
        push: Callable[..., Any] | None = None,
        view: bool = False,
        selects: tuple[Any, ...] | None = None,
        moves: str = "",
        rows: Any = None,
        safe: float = 0.5,
    ) -> None:
        self.name, self.vjps, self.saves, self.sources = name, vjps, saves, sources
        self.unary = unary and selects is None
        self.analytic, self.holomorphic, self.push = analytic, holomorphic, push
        self.elementwise, self.broadcasts, self.joint, self.pull = elementwise, broadcasts, joint, pull
        self.reads = reads
        self.view = view
        self.selects, self.moves, self.rows, self.safe = selects, moves, rows, safe
        self.carries = elementwise or bool(moves) or selects is not None or rows is not None
        self.plain = elementwise and selects is None
        self.leaves_out = selects is not None or moves == "some"

    def __repr__(self) -> str:
        return f"<operation {self.name}>"


OUT, STATIC, CACHE, OUTS = -1, -2, -3, -4
LEAF = Operation("leaf")
# The event of a Tensor's use outside of operations: as an index, as the start of a walk, or for another Tensor of its
# value.
MARK = Operation("mark")


@final
class Record:
    """One operation on the tape.

    Attributes
    ----------
    seq : int
        The position in time; it falls from record to record.
    op : Operation
        The operation.
    parents : tuple of Record or None
        The records of the operands; None for an operand that is not recorded.
    saved : tuple
        The values that the rules read, raw arrays and static arguments, in the order of `op.saves`; RELEASED after a
        backward pass.
    shape, dtype
        The shape and the native dtype of the result.
    tensor : callable or None
        For a leaf or a retained gradient, a weak reference to the Tensor whose `.grad` this record feeds.
    line : str
        The user's line; set only under an open Tape or `debug()`.
    """

    __slots__ = ("dtype", "line", "op", "parents", "saved", "seq", "shape", "tensor")

    seq: int
    op: Operation
    parents: tuple[Record | None, ...]
    saved: tuple[Any, ...]
    shape: Any
    dtype: Any
    tensor: Callable[[], Any] | None
    line: str

    def __repr__(self) -> str:
        return f"<record {self.seq}: {self.op.name} {self.shape}>"
