"""Capturing a call as a program, and what it takes to replay it: the state it reads and what it leaves behind.

The first call runs as it is, watched, which finds the Tensors it uses. In the next one these Tensors, and those it is
given, hold traced arrays; it is an eager call too. If both did the same, the program is that of the second.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, final

from tapegrad._compile._events import Events, is_recorded, recorded_outside
from tapegrad._compile._program import Program, Value
from tapegrad._compile._trace import Graph, Traced, active, stranger
from tapegrad._namespace import CaptureError
from tapegrad._record import RELEASED, mode_set
from tapegrad._tensor import Tensor
from tapegrad._tree import Rebuild, flatten


@final
class Cell:
    """A Tensor whose value a program reads, or replaces: an argument, or state.

    tensor: None for an argument, which is another at each call; argument: its number among the leaves, or None; owner:
    the cell whose `.grad` it was at the start, or None; before, after: its values.
    """

    __slots__ = ("after", "argument", "before", "owner", "tensor")

    def __init__(self, tensor: Tensor | None, before: Value, argument: int | None, owner: Cell | None) -> None:
        self.tensor, self.before, self.argument, self.owner = tensor, before, argument, owner
        self.after = before


class Fresh(NamedTuple):
    """A new Tensor that a call leaves behind; tracked: whether it was recorded (and its tape released)."""

    value: Value
    tracked: bool


class Capture(NamedTuple):
    """A captured call.

    program: inputs are the values of `cells`, then of `raw`; cells: all Tensors read or updated; raw: the numbers of
    the argument leaves that are raw arrays; grads: (cell, what its `.grad` becomes: a Cell, Fresh or None); outputs:
    leaves of the result (a Cell, Fresh, a Value for a raw array, or a constant), which `rebuild` puts together.
    """

    graph: Graph
    cells: list[Cell]
    raw: dict[int, Value]
    grads: list[tuple[Cell, Any]]
    outputs: list[Any]
    rebuild: Rebuild


def watched(call: Callable[[], Any], leaves: list[Any]) -> tuple[Any, Events]:
    """Run a first call; return its result and what it did."""
    events = Events()
    for x in leaves:
        if isinstance(x, Tensor):
            events.know(x)
    with mode_set(watch=events):
        result = call()
    for y in flatten(result)[0]:
        if isinstance(y, Tensor):
            _check_output(y, {id(x) for x in (*leaves, *events.outside.values())})
    return result, events


def _check_output(y: Tensor, known: Iterable[int]) -> None:
    r = y._record
    if r is None or r.saved is RELEASED or id(y) in known:
        return
    raise CaptureError(
        f"the function returns a result of {r.op.name} that is recorded: a compiled function records nothing, so call "
        "backward() or tapegrad.grad inside it, or return the result detached, as in y.detach()"
    )


def traced(
    function: Callable[..., Any], leaves: list[Any], rebuild: Rebuild, before: Events
) -> tuple[Any, Capture, Events]:
    """Run a call with traced arrays in the Tensors that the call before used; return its result and what it did."""
    graph = Graph()
    cells: dict[int, tuple[Tensor, Cell]] = {}

    def add(x: Tensor, argument: int | None = None, owner: Cell | None = None) -> None:
        if id(x) in cells:
            if owner is not None:
                cells[id(x)][1].owner = owner
            return
        if is_recorded(x):
            raise recorded_outside(x)
        held = graph.input(x._array)
        cell = Cell(x if argument is None else None, held.value, argument, owner)
        cells[id(x)] = x, cell
        x._array = held
        inputs[held.value] = x
        if x.grad is not None:
            add(x.grad, None, cell)

    raw: dict[int, Value] = {}
    given = list(leaves)
    token = active.set(graph)
    inputs: dict[Value, Tensor] = {}
    events = Events(inputs)
    try:
        for i, x in enumerate(leaves):
            if isinstance(x, Tensor):
                add(x, i)
            else:
                given[i] = graph.lift(x)
                if given[i] is not x:
                    raw[i] = given[i].value
                    raw[i].constant = None  # an input
        for x in (*before.outside.values(), *before.survivors()):
            add(x)
        tracked = [(x, x._record) for x, _ in cells.values()]
        with mode_set(watch=events):
            args, kwargs = rebuild(given)
            result = function(*args, **kwargs)
        del given, args, kwargs
        for x, r in tracked:
            if x._record is not r:
                raise CaptureError(
                    "the function leaves a Tensor from outside recorded, or makes one require a gradient: update "
                    "state under tapegrad.no_grad(), and set requires_grad outside"
                )
    except BaseException:
        for x, _ in cells.values():
            if x.grad is not None:
                _settle(x.grad)
        raise
    finally:
        active.reset(token)
        for x, cell in cells.values():
            cell.after = _settle(x) or cell.before
    left = _left_behind(graph, cells, raw, result)
    del result
    _check_survivors(graph)
    return *left, events


def _settle(x: Tensor) -> Value | None:
    """Give a Tensor the contents of the traced array it holds, as an eager call would; return that one's value."""
    if not isinstance(x._array, Traced):
        return None
    value: Value = x._array.value
    x._array = x._array.raw
    return value


def _left_behind(
    graph: Graph, cells: dict[int, tuple[Tensor, Cell]], raw: dict[int, Value], result: Any
) -> tuple[Any, Capture]:
    """Return the result of a call and all that the call left, settled."""
    fresh: dict[int, Fresh] = {}

    def kept(x: Tensor) -> Any:
        if id(x) in cells:
            return cells[id(x)][1]
        if id(x) not in fresh:
            value = _settle(x)
            if value is None:
                raise stranger()
            fresh[id(x)] = Fresh(value, x._record is not None)
        return fresh[id(x)]

    leaves, rebuild = flatten(result)
    outputs: list[Any] = []
    returned = []
    for y in leaves:
        returned.append(y.raw if isinstance(y, Traced) else y)
        if isinstance(y, Tensor):
            _check_output(y, cells)
            outputs.append(kept(y))
        else:
            outputs.append(y.value if isinstance(y, Traced) else y)
    grads: list[tuple[Cell, Any]] = []
    with_grad = {c.owner for _, c in cells.values()}
    for x, cell in cells.values():
        after = None if x.grad is None else kept(x.grad)
        if (cell in with_grad) if after is None else not (isinstance(after, Cell) and after.owner is cell):
            grads.append((cell, after))
    return rebuild(returned), Capture(graph, [c for _, c in cells.values()], raw, grads, outputs, rebuild)


def _check_survivors(graph: Graph) -> None:
    """Raise CaptureError if somebody keeps a Tensor that was made inside, other than by returning it."""
    if not _alive(graph):
        return
    gc.collect()  # only what is in a cycle nobody holds?
    alive = _alive(graph)
    if not alive:
        return
    holders = [x for x in gc.get_referrers(*alive) if isinstance(x, Tensor)]
    for x in holders:
        x._array = x._array.raw  # as an eager call would have left it
    node = alive[0].value.node
    made = "" if node is None else f", made at {node.line},"
    raise CaptureError(
        f"a Tensor of shape {tuple(alive[0].shape)}{made} is kept by something outside the function when the call "
        "ends, which replay cannot do: return it, or update state in place (x *= ..., x[...] = ...) so that it "
        "stays the same Tensor"
    )


def _alive(graph: Graph) -> list[Traced]:
    return [x for r in graph.handed if (x := r()) is not None]


def program_of(capture: Capture) -> tuple[Program, list[Cell], list[int], dict[Value, int]]:
    """Return the program of a capture, the cells and raw leaves that are its inputs, and where outputs are.

    Only what is read or updated is an input. Outputs are, for every value that stays, its number among the outputs.
    """
    places: dict[Value, int] = {}
    outputs: list[Value] = []
    replaces: list[int | None] = []
    updated = [c for c in capture.cells if c.after is not c.before]
    kept = [v for v in capture.outputs if isinstance(v, (Fresh, Value))]
    kept += [v for _, v in capture.grads if isinstance(v, Fresh)]
    wanted = [c.after for c in updated] + [v.value if isinstance(v, Fresh) else v for v in kept]
    read = _needed(capture.graph.nodes, wanted)
    cells = [c for c in capture.cells if c.before in read or c.after is not c.before]
    raw = [i for i, v in capture.raw.items() if v in read]
    inputs = [c.before for c in cells] + [capture.raw[i] for i in raw]
    for v in wanted:
        if v not in places:
            places[v] = len(outputs)
            outputs.append(v)
            replaces.append(None)
    for n, c in enumerate(cells):
        if c.after is not c.before and replaces[places[c.after]] is None:
            replaces[places[c.after]] = n
    nodes = [n for n in capture.graph.nodes if n.effect or any(v in read for v in n.outs)]
    return Program(inputs, nodes, outputs, replaces), cells, raw, places


def _needed(nodes: list[Any], wanted: list[Value]) -> set[Value]:
    """Return the values that outputs and effects are computed from."""
    needed = set(wanted)
    for node in reversed(nodes):
        if node.effect or any(v in needed for v in node.outs):
            needed.update(node.values())
    return needed
