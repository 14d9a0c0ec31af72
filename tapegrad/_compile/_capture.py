"""Capturing a call as a program, and what it takes to replay it: the state it reads and what it leaves behind.

The first call runs as it is, watched, which finds the Tensors it uses. In the next two these Tensors, and those it is
given, hold traced arrays; they are eager calls too. If both did the same, the program is that of the last.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterable
from operator import is_
from typing import Any, NamedTuple, final
from weakref import WeakValueDictionary, ref

from tapegrad._compile._events import Found, Used
from tapegrad._compile._program import Node, Program, Value
from tapegrad._compile._trace import Graph, Traced, active, stranger
from tapegrad._cuts import inside
from tapegrad._namespace import CaptureError, backend_of, find_backend
from tapegrad._record import LEAF, RELEASED, mode_set
from tapegrad._tensor import Hooks, Tensor
from tapegrad._tree import Rebuild, flatten


@final
class Cell:
    """A Tensor whose value a program reads, or replaces: an argument, or state.

    What it is known by at another call, all that hold: tensor, the same one, in a `State`; arguments, its numbers among
    the leaves; owners, the cells whose `.grad` it was at the start. before, after: its values.
    """

    __slots__ = ("after", "arguments", "before", "owners", "tensor")

    def __init__(self, tensor: Tensor, before: Value) -> None:
        self.tensor: Any = tensor
        self.arguments: tuple[int, ...] = ()
        self.owners: tuple[Cell, ...] = ()
        self.before = self.after = before


@final
class State:
    """A box for a Tensor that programs use as state; they share it, so that together they are one holder."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def count(self) -> int:
        """Return how often the Tensor is held."""
        return sys.getrefcount(self.tensor)


ALONE = State(object.__new__(Tensor)).count()  # a Tensor that nobody else holds


_states: WeakValueDictionary[int, State] = WeakValueDictionary()


def state_of(x: Tensor) -> State:
    """Return the box of a Tensor."""
    box = _states.get(id(x))
    if box is None or box.tensor is not x:
        box = _states[id(x)] = State(x)
    return box


class Fresh(NamedTuple):
    """A new Tensor that a call leaves behind; tracked: whether it was recorded (and its tape released)."""

    value: Value
    tracked: bool


class Capture(NamedTuple):
    """A captured call.

    cells: all Tensors used or updated; raw: the values of the argument leaves that are raw arrays; grads: (cell, what
    its `.grad` becomes: a Cell, Fresh or None), where that changes; outputs: leaves of the result (a Cell, Fresh, a
    Value for a raw array, or a constant), which `rebuild` puts together; guards: what cells must be like at a call.
    """

    graph: Graph
    cells: list[Cell]
    raw: dict[int, Value]
    grads: list[tuple[Cell, Any]]
    outputs: list[Any]
    rebuild: Rebuild
    guards: list[tuple[Cell, Cell | None, Any, Any, Any, type]]


def kind_of(record: Any) -> Any:
    """Return what must be the same of a Tensor's record: None, whether it is a leaf's, or its hooks."""
    if record is None:
        return None
    if type(record.tensor) is Hooks:
        return tuple(record.tensor.functions)
    return record.op is LEAF


class Known(NamedTuple):
    """The Tensors that a first call used, held weakly; lasting: those that are neither given nor left by it."""

    tensors: list[ref[Tensor]]
    lasting: list[ref[Tensor]]

    def stale(self) -> bool:
        """Say whether the user has put another Tensor in the place of one."""
        return any(r() is None for r in self.lasting)


def watched(call: Callable[[], Any], leaves: list[Any]) -> tuple[Any, Known]:
    """Run a first call; return its result and the Tensors that it used."""
    found = Found()
    with mode_set(watch=found):
        result = call()
    outputs = [y for y in flatten(result)[0] if isinstance(y, Tensor)]
    for y in outputs:
        _check_output(y, {id(x) for x in (*leaves, *found.tensors.values())})
        found.add(y)
    tensors = [ref(x) for x in found.all()]
    passing = {id(x) for x in (*leaves, *outputs)}
    passing |= {id(g) for r in tensors if (x := r()) is not None and (g := x.grad) is not None}
    del found  # what was made inside goes
    return result, Known(tensors, [r for r in tensors if (x := r()) is not None and id(x) not in passing])


def _check_output(y: Tensor, known: Iterable[int], what: str = "the function returns a result") -> None:
    r = y._record
    if r is None or r.saved is RELEASED or id(y) in known:
        return
    raise CaptureError(
        f"{what} of {r.op.name} that is recorded: a compiled function records nothing, so call "
        "backward() or tapegrad.grad inside it, or return the result detached, as in y.detach()"
    )


def traced(
    function: Callable[..., Any], args: Any, kwargs: Any, known: Iterable[Tensor], debug: bool = False
) -> tuple[Any, Capture]:
    """Run a call with traced arrays in the Tensors that it is known to use; return its result and what it did."""
    leaves, rebuild = flatten((args, kwargs))
    graph = Graph(debug)
    cells: dict[int, tuple[Tensor, Cell]] = {}
    guards: dict[int, Any] = {}

    def add(x: Tensor) -> Cell:
        if id(x) in cells:
            return cells[id(x)][1]
        r = x._record
        if r is not None and r.op is not LEAF and r.saved is not RELEASED:
            raise CaptureError(
                f"a Tensor from outside, a result of {r.op.name}, is recorded: a compiled function walks no "
                "tape that began outside; pass it detached, as in x.detach(), or compute it inside"
            )
        a = x._array
        held = graph.input(a)
        cell = Cell(x, held.value)
        cells[id(x)] = x, cell
        x._array = held
        g = None if x.grad is None else add(x.grad)
        if g is not None:
            g.owners += (cell,)
        guards[id(x)] = (cell, g, kind_of(r), a.shape, a.dtype, type(a))
        return cell

    raw: dict[int, Value] = {}
    given = list(leaves)
    token = active.set(graph)
    used = Used()
    failed = False
    try:
        for i, x in enumerate(leaves):
            if isinstance(x, Tensor):
                add(x).arguments += (i,)
                continue
            backend = find_backend(x)
            if backend is not None and backend.as_scalar(x) is None:
                given[i] = graph.input(x)
                raw[i] = given[i].value
                graph.foreign.add(raw[i])
        for x in known:
            add(x)
        tracked = [(x, x._record) for x, _ in cells.values()]
        with mode_set(watch=used):
            if raw:  # without any, containers are passed as they are
                args, kwargs = rebuild(list(given))
            result = [function(*args, **kwargs)]  # in a list, so that no name here holds it
        now = flatten((args, kwargs))[0]
        if len(now) != len(given) or not all(map(is_, now, given)):
            raise CaptureError(
                "the function puts something else into a container that it is given, which replay does not: return it, "
                "or update the Tensors in it in place"
            )
        del given, now, args, kwargs
        for x, r in tracked:
            if x._record is not r:
                raise CaptureError(
                    f"the function leaves a Tensor from outside recorded{used.line_of(x)}, or makes one require a "
                    "gradient: update state under tapegrad.no_grad(), and set requires_grad outside"
                )
        for x, _ in cells.values():
            if x.grad is not None and id(x.grad) not in cells:
                _check_output(x.grad, (), "the function leaves a gradient, the result")
    except BaseException as error:
        _settle_all(graph)
        failed = True
        other = _explained(error)
        if other is error:
            raise
        raise other from error
    finally:
        active.reset(token)
        for x, cell in cells.values():
            cell.after = _settle(x) or cell.before
        if failed:
            cells.clear()  # `add` is in a cycle with it
    try:
        left = _left_behind(graph, cells, raw, result, used, guards)
        del result
        _check_survivors(graph)
    except BaseException:
        _settle_all(graph)
        raise
    finally:
        cells.clear()
    return left


def _settle_all(graph: Graph) -> None:
    """Give all Tensors that still hold traced arrays their contents, as an eager call would."""
    for x in gc.get_referrers(*_alive(graph)) if _alive(graph) else ():
        if isinstance(x, Tensor):
            _settle(x)


def _explained(error: BaseException) -> BaseException:
    """Return the error to raise for one that came of NumPy's attempt at a traced array; others as they are."""
    if not isinstance(error, TypeError) or "Traced_" not in str(error):
        return error
    tb, line = error.__traceback__, ""
    while tb is not None:
        if not inside(tb.tb_frame) and "site-packages" not in tb.tb_frame.f_code.co_filename:
            line = f"{os.path.basename(tb.tb_frame.f_code.co_filename)}:{tb.tb_lineno}"
        tb = tb.tb_next
    return CaptureError(
        f"at {line} the values of a raw array are needed, which a compiled function does not know: use the function of "
        "the same name in tapegrad, on tapegrad.asarray(x), or compute it outside"
    )


def _settle(x: Tensor) -> Value | None:
    """Give a Tensor the contents of the traced array it holds, as an eager call would; return that one's value."""
    if not isinstance(x._array, Traced):
        return None
    value: Value = x._array.value
    x._array = x._array.raw
    return value


def _left_behind(
    graph: Graph,
    cells: dict[int, tuple[Tensor, Cell]],
    raw: dict[int, Value],
    result: Any,
    used: Used,
    guards: dict[int, Any],
) -> tuple[Any, Capture]:
    """Return the result of a call and all that the call left, settled."""
    fresh: dict[int, Fresh] = {}
    made: list[Tensor] = []

    def kept(x: Tensor) -> Any:
        if id(x) in cells:
            return cells[id(x)][1]
        if id(x) not in fresh:
            value = _settle(x)
            if value is None:
                raise stranger()
            if x.grad is not None:
                raise CaptureError(
                    f"a result, made{used.line_of(x)}, has a gradient of its own: replay makes none, so return that "
                    "gradient as a result"
                )
            fresh[id(x)] = Fresh(value, x._record is not None)
            made.append(x)
        return fresh[id(x)]

    leaves, rebuild = flatten(result)
    for n in range(len(leaves)):
        if isinstance(leaves[n], Tensor):
            _check_output(leaves[n], cells)
    returned = [_raw(y, raw) if isinstance(y, Traced) else y for y in leaves]
    outputs = [kept(y) if isinstance(y, Tensor) else y.value if isinstance(y, Traced) else own(y) for y in leaves]
    grads: list[tuple[Cell, Any]] = []
    for x, cell in cells.values():
        after = None if x.grad is None else kept(x.grad)
        if after is not guards[id(x)][1]:
            grads.append((cell, after))
    _check_kept(made, leaves, [x for x, _ in cells.values()], used)
    read = {v for node in graph.nodes for v in node.values()} | {f.value for f in fresh.values()}
    read.update(y for y in outputs if isinstance(y, Value))
    here = [c for _, c in cells.values() if c.arguments or c.before in used.values or c.before in read]
    here += [c for _, c in cells.values() if c.after is not c.before]
    here += [c for c in outputs if isinstance(c, Cell)] + [x for g in grads for x in g if isinstance(x, Cell)]
    for c in here:  # and what these are found by
        here += c.owners
    wanted = set(here)
    here = [c for _, c in cells.values() if c in wanted]
    for _, c in cells.values():  # the others are gone through no more, and are not to keep a Tensor
        c.tensor = state_of(c.tensor) if c in wanted else None
    capture = Capture(graph, here, raw, grads, outputs, rebuild, [g for g in guards.values() if g[0] in wanted])
    return rebuild(returned)[0], capture


def own(x: Any) -> Any:
    """Return a raw array that nobody else holds, so that it may be written to; what is none as it is."""
    backend = find_backend(x)
    return x if backend is None or backend.as_scalar(x) is not None else backend.copy(x)


def _raw(y: Traced, raw: dict[int, Value]) -> Any:
    """Return a raw result: an argument as it is, others as arrays that nobody else holds."""
    return y.raw if y.value in raw.values() else backend_of[type(y.raw)].copy(y.raw)


def _check_kept(made: list[Tensor], leaves: list[Any], tensors: list[Tensor], used: Used) -> None:
    """Raise CaptureError if a new result is held by more than results and gradients: replay makes another one."""
    for collected in (False, True):
        for n in range(len(made)):
            times = sum([made[n] is y for y in leaves])
            # In the result, and in two lists of its leaves; in a gradient's place; in `made`, and as an argument here.
            if sys.getrefcount(made[n]) > 3 * times + sum([made[n] is x.grad for x in tensors]) + 2:
                break
        else:
            return
        if not collected:
            gc.collect()
    raise CaptureError(
        f"a result, made{used.line_of(made[n])}, is also kept by something outside the function, which replay "
        "would not update: keep what the function returns, outside"
    )


def _check_survivors(graph: Graph) -> None:
    """Raise CaptureError if somebody keeps a Tensor that was made inside, other than by returning it."""
    if not _alive(graph):
        return
    gc.collect()  # only what is in a cycle nobody holds?
    for pause in (0.0, 0.001, 0.01):  # or another thread that just looked?
        time.sleep(pause)
        alive = _alive(graph)
        if not alive:
            return
    node = alive[0].value.node
    made = "" if node is None else f", made at {node.line},"
    raise CaptureError(
        f"a Tensor of shape {tuple(alive[0].shape)}{made} is kept by something outside the function when the call "
        "ends, which replay cannot do: return it, or update state in place (x *= ..., x[...] = ...) so that it "
        "stays the same Tensor"
    )


def _alive(graph: Graph) -> list[Traced]:
    return [x for r in graph.handed if (x := r()) is not None]


def program_of(capture: Capture) -> tuple[Program, list[Cell], list[int], list[Any], dict[Value, int]]:
    """Return the program of a capture; the cells, raw leaves and held arrays that are its inputs; where outputs are.

    Only what is read or updated is an input. Outputs are, for every value that stays, its number among the outputs.
    """
    places: dict[Value, int] = {}
    replaces: list[int | None] = []
    kept = [v for v in capture.outputs if isinstance(v, (Fresh, Value))]
    kept += [v for _, v in capture.grads if isinstance(v, Fresh)]
    wanted = [c.after for c in capture.cells if c.after is not c.before]
    wanted += [v.value if isinstance(v, Fresh) else v for v in kept]
    read, nodes = _needed(capture.graph.nodes, wanted)
    cells = [c for c in capture.cells if c.before in read or c.after is not c.before]
    raw = [i for i, v in capture.raw.items() if v in read]
    held = [v for v in capture.graph.held if v in read]
    inputs = [*[c.before for c in cells], *[capture.raw[i] for i in raw], *held]
    for v in wanted:
        if v not in places:
            places[v] = len(places)
            replaces.append(None)
    for n, c in enumerate(cells):
        if c.after is not c.before and replaces[places[c.after]] is None:
            replaces[places[c.after]] = n
    program = Program(inputs, nodes, list(places), replaces)
    return program, cells, raw, [capture.graph.held[v][0] for v in held], places


def _needed(nodes: list[Node], wanted: list[Value]) -> tuple[set[Value], list[Node]]:
    """Return the values that outputs and effects are computed from, and the nodes that do so."""
    needed = set(wanted)
    kept = []
    for node in reversed(nodes):
        if node.effect or any(v in needed for v in node.outs):
            needed.update(node.values())
            kept.append(node)
    return needed, kept[::-1]
