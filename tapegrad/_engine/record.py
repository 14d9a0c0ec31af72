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
    """What a primitive operation is, for every record of it.

    name: the public name; vjps: for each operand (rule, number of saved values it reads, how to pick them from
    `saved`), or None where no gradient flows; saves: the names of what a record keeps; sources: for each of those
    the operand it is (its index), OUT for the result, OUTS for all of several results, STATIC for what is no array,
    CACHE for what the forward computation left for the rule (None to a rule on Tensors, which must compute it itself
    to have it recorded); elementwise: whether a rule's result has the shape of the operation's; unary: elementwise, of
    one operand and its dtype, without selecting; analytic: whether the function of complex values has a derivative
    (abs and conj have none); holomorphic: whether for complex values the rules give that derivative times `t`, to be
    conjugated by the walk; reads: whether rules read arrays, so that a library that fuses may run those of a record as
    one kernel;
    broadcasts: whether cotangents may need summing down to the operand's shape; joint: whether the one rule gives
    the cotangents of all operands at once; pull: a function of the walk, used instead of rules where a cotangent is
    better written into its accumulator than handed over; push: a function of the record and the tangents known so far
    that gives the result's, where it is not to be found by transposing the rule; view: whether NumPy gives a view.

    Structural zeros (see `structural_zeros`): selects: for each operand a function bound like a rule that gives
    the entries of the result that come from it, or None for all; moves: "all" if the rules move and add entries, with
    no negative factor, and "some" if entries of an operand may get none; rows: a function bound like a rule that gives
    the axes that make up a row of the operands and of the result, where a row of the result depends on one of each
    operand; safe: a number at which elementwise rules are finite.
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
        self.carries = elementwise or bool(moves) or selects is not None or rows is not None  # a support, to some use
        self.plain = elementwise and selects is None  # a quick way of the walk will do
        self.leaves_out = selects is not None or moves == "some"  # entries, of whatever cotangent

    def __repr__(self) -> str:
        return f"<operation {self.name}>"


OUT, STATIC, CACHE, OUTS = -1, -2, -3, -4
LEAF = Operation("leaf")
# What whoever watches is told of that is no operation: Tensors that are used otherwise (as an index, as the start of a
# walk, or for another Tensor of the same value).
MARK = Operation("mark")


@final
class Record:
    """One operation on the tape.

    seq: position in time, falling; parents: a record or None for each operand; saved: what the rules read, laid
    out as `op.saves` says (raw arrays and static arguments), RELEASED after a backward pass; shape and
    dtype: the result's, native; tensor: for a leaf or a retained gradient, the Tensor whose `.grad` this
    record feeds, held weakly; line: the user's line, under an open Tape or debug() only.
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
