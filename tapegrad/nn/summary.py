"""Summary of a model: shapes, parameters, operations, and bytes that are kept for the backward pass."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import FrameType
from typing import Any, NamedTuple

from tapegrad._compile.costs import flops_of
from tapegrad._engine.dispatch import backend_of
from tapegrad._engine.mode import mode_set
from tapegrad._engine.record import MARK, OUTS, RELEASED, STATIC, Operation, Record
from tapegrad._engine.tensor import Tensor
from tapegrad._engine.tree import flatten
from tapegrad._inspect.tape import bytes_of_array
from tapegrad._program.ir import Node, Value
from tapegrad.nn._walk import found, objects

# Names of operations on the tape that have another one in programs.
_IN_PROGRAMS = {
    "conv": "convolution",
    "conv_transpose": "convolution_input",
    "dropout": "dropped",
    "getitem": "index_get",
    "setitem": "index_set",
}


class SummaryRow(NamedTuple):
    """A line of a summary: one object of the model that was called.

    Attributes
    ----------
    name : str
        The name in the model; '' for the model itself.
    kind : str
        The name of its class.
    shape : str
        The shapes of results of its latest call.
    parameters : int
        The elements of Tensors that it holds itself, not by an object inside.
    flops : int
        The floating-point operations of its calls, without those of objects inside.
    kept : int
        The bytes that its calls keep for the backward pass, without those of objects inside.

    Examples
    --------
    >>> import tapegrad as tg
    >>> linear = tg.nn.Linear(3, 2, rng=tg.random.Generator(0))
    >>> tg.nn.summary(linear, tg.ones((5, 3))).rows[0]
    SummaryRow(name='', kind='Linear', shape='(5, 2)', parameters=8, flops=70, kept=0)
    """

    name: str
    kind: str
    shape: str
    parameters: int
    flops: int
    kept: int


@dataclass(frozen=True)
class Summary:
    """The table of a model: print it.

    Attributes
    ----------
    rows : list of SummaryRow
        A line for each object that was called, in the order of the model.
    parameters : int
        The elements of Tensors that require a gradient.
    others : int
        Those of other Tensors: frozen ones and buffers.
    flops : int
        The floating-point operations of the call. A product of matrices (n, k) and (k, m) has 2 n k m; operations that
        are not known, such as sorting, count as none.
    kept : int
        The bytes that are kept for the backward pass, besides those of the model and of the inputs.

    Examples
    --------
    >>> import tapegrad as tg
    >>> linear = tg.nn.Linear(3, 2, rng=tg.random.Generator(0))
    >>> tg.nn.summary(linear, tg.ones((5, 3))).parameters
    8
    """

    rows: list[SummaryRow]
    parameters: int
    others: int
    flops: int
    kept: int

    def __repr__(self) -> str:
        head = ("", "", "result", "parameters", "FLOP", "kept for backward")
        lines = [
            (row.name, row.kind, row.shape, f"{row.parameters:,}", f"{row.flops:,}", f"{row.kept:,} B")
            for row in self.rows
        ]
        ends = [
            ("all", "", "", f"{self.parameters + self.others:,}", f"{self.flops:,}", f"{self.kept:,} B"),
        ]
        table = [head, *lines, *ends]
        widths = [max(len(row[i]) for row in table) for i in range(len(head))]

        def text(row: tuple[str, ...]) -> str:
            left = [cell.ljust(w) for cell, w in zip(row[:3], widths[:3], strict=True)]
            right = [cell.rjust(w) for cell, w in zip(row[3:], widths[3:], strict=True)]
            return "  ".join(left + right).rstrip()

        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        body = [text(head), rule, *map(text, lines), rule, text(ends[0])]
        if self.others:
            body.append(f"of the parameters {self.parameters:,} require a gradient")
        return "\n".join(body)


def summary(model: Any, *inputs: Any, **options: Any) -> Summary:
    """Call a model once, and return a table of its parts: shapes, parameters, FLOP and bytes kept for backward.

    Any object inside that is callable has a line; functions count to the object that calls them. The mode is that of
    the call: evaluation, unless it is inside `training`.

    Parameters
    ----------
    model : callable
        The model.
    *inputs : Tensor
        The arguments of the call.
    **options : object
        Further arguments of the call.

    Returns
    -------
    Summary
        The table: print it.

    Raises
    ------
    TypeError
        The model is not callable.

    Examples
    --------
    >>> import tapegrad as tg
    >>> rng = tg.random.Generator(0)
    >>> model = tg.nn.Sequential(tg.nn.Linear(3, 4, rng=rng), tg.tanh, tg.nn.Linear(4, 2, rng=rng))
    >>> print(tg.nn.summary(model, tg.ones((5, 3))))
                     result  parameters  FLOP  kept for backward
    ------------------------------------------------------------
         Sequential  (5, 2)           0    20              160 B
    0    Linear      (5, 4)          16   140                0 B
    2    Linear      (5, 2)          10    90                0 B
    ------------------------------------------------------------
    all                              26   250              160 B
    """
    if not callable(model):
        raise TypeError(f"summary: the model is called with the inputs, but a {type(model).__name__} is not callable")
    watch = _Watch(model, [x for x in flatten([list(inputs), options])[0] if type(x) is Tensor])
    before = sys.getprofile()
    with mode_set(recording=True, watch=watch.operation):
        sys.setprofile(watch.profile)
        try:
            model(*inputs, **options)
        finally:
            sys.setprofile(before)
    return watch.summary()


class _Watch:
    """A note of each operation, on the object of the model that is being called."""

    def __init__(self, model: Any, inputs: list[Tensor]) -> None:
        self.model = model
        self.parts = {id(x): (name, x) for name, x in objects(model)}
        self.calls: list[tuple[FrameType, int]] = []  # of the calls that go on, the frame and the object
        self.flops: dict[int, int] = {}
        self.kept: dict[int, int] = {}
        self.shapes: dict[int, str] = {}
        own = [f.tensor for f in found(model)] + inputs
        self.held = [x._array for x in own]
        self.seen = {_memory(a) for a in self.held}

    def profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_name == "__call__" and frame.f_code.co_argcount:
            this = id(frame.f_locals.get(frame.f_code.co_varnames[0]))
            if this in self.parts:
                self.calls.append((frame, this))
        elif event == "return" and self.calls and self.calls[-1][0] is frame:
            this = self.calls.pop()[1]
            ys = [y for y in flatten(argument)[0] if type(y) is Tensor]
            self.shapes[this] = ", ".join([str(y.shape) for y in ys])

    def operation(self, operation: Operation, operands: Any, static: Any, result: Any) -> None:
        if operation is MARK:
            return
        results = result if isinstance(result, tuple) else (result,)
        this = self.calls[-1][1] if self.calls else id(self.model)
        self.flops[this] = self.flops.get(this, 0) + _flops(operation, operands, static, results)
        record: Record | None = results[0]._record if results else None
        if record is not None and record.op is not operation:
            record = record.parents[0] if record.op.name == "pick" else None
        for a in _saved(record):
            if _memory(a) not in self.seen:
                self.seen.add(_memory(a))
                self.held.append(a)  # so that its number stays its own
                self.kept[this] = self.kept.get(this, 0) + bytes_of_array(a)

    def summary(self) -> Summary:
        every = found(self.model)
        owners: dict[int, int] = {}
        for f in every:
            name = f.name
            while name:  # the innermost object around it
                name = name.rpartition(".")[0]
                owner = next((i for i, (of, _) in self.parts.items() if of == name), None)
                if owner is not None:
                    owners[owner] = owners.get(owner, 0) + f.tensor.size
                    break
        rows = [
            SummaryRow(
                name,
                type(x).__name__,
                self.shapes.get(i, ""),
                owners.get(i, 0),
                self.flops.get(i, 0),
                self.kept.get(i, 0),
            )
            for i, (name, x) in self.parts.items()
            if i in self.shapes or i in owners or i in self.flops
        ]
        trained = sum(f.tensor.size for f in every if f.tensor.requires_grad)
        others = sum(f.tensor.size for f in every) - trained
        return Summary(rows, trained, others, sum(self.flops.values()), sum(self.kept.values()))


def _memory(a: Any) -> Any:
    known = backend_of[type(a)].memory(a)
    return id(a) if known is None else known


def _saved(record: Record | None) -> list[Any]:
    """Return the arrays that a record keeps."""
    if record is None or record.saved is RELEASED:
        return []
    kept: list[Any] = []
    for value, source in zip(record.saved, record.op.sources, strict=True):
        if source == OUTS:
            kept += value
        elif hasattr(value, "shape") and source != STATIC:
            kept.append(value)
    return kept


def _flops(operation: Operation, operands: Any, static: Any, results: Any) -> int:
    def value(x: Any) -> Any:
        return Value(tuple(x._array.shape), x._array.dtype) if type(x) is Tensor else x

    op = _IN_PROGRAMS.get(operation.name, operation.name)
    options = {"axis": next((s for s in static if type(s) is int), -1)}
    node = Node(op, lambda: None, (*map(value, operands), *static), options)
    node.reads = [v for v in node.args if type(v) is Value]
    node.outs = tuple([value(y) for y in results])
    return flops_of(node) or 0
