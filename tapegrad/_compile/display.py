"""A view of a captured program: as text, as pictures, or with the time that each of its items takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from statistics import median
from textwrap import shorten
from time import perf_counter
from types import FunctionType
from typing import Any, NamedTuple

from tapegrad._compile.capture.slots import NewTensor, Slot
from tapegrad._compile.costs import bytes_of, dtype_like, dtype_of_value, flops_of, is_view, total
from tapegrad._compile.run.bound_program import BoundProgram
from tapegrad._engine.dispatch import backend_of, computed
from tapegrad._engine.tensor import Tensor, host, wrap
from tapegrad._engine.tree import flatten
from tapegrad._inspect.drawing import LONGEST, PROGRAM_COLOURS, Shape, draw_dot, draw_mermaid
from tapegrad._inspect.tape import show_static
from tapegrad._program.executor import PlanningExecutor
from tapegrad._program.interpreter import results_of
from tapegrad._program.ir import Node, Program, Value


class Entry(NamedTuple):
    """An entry of the table: a call, or several fused ones.

    operands: the values it reads that come from outside it; results: those of its values that others read.
    """

    name: str
    nodes: list[Node]
    operands: list[Value]
    results: list[Value]


def entries_of(program: Program) -> list[Entry]:
    """Return an entry for each item of a program: for single nodes, and for the groups that a planner made."""
    entries = []
    for item in program.items:
        nodes = [item] if isinstance(item, Node) else list(item.nodes)
        name = item.op if isinstance(item, Node) else type(item).__name__.lower()
        made = {v for n in nodes for v in n.outs}
        entries.append(Entry(name, nodes, [v for v in dict.fromkeys(item.values()) if v not in made], list(item.outs)))
    return entries


class View:
    """The program of a compiled function: print it, draw it, profile it.

    Each line is one array: the arguments (x0, x1 ...), the state that is read or updated (w0, w1 ...), and the results
    of the calls, in their order (%0, %1 ...), with the bytes that a call reads and writes (none for a view), its
    floating-point operations and the line that made it. After `profile` also the time.

    >>> import tapegrad as tg
    >>> double = tg.compile(lambda x: tg.exp(x) * 2.0)
    >>> for _ in range(3):
    ...     y = double(tg.asarray([0.0, 1.0]))
    >>> print(double.program.table().splitlines()[3].partition("32 B")[0].rstrip())
    %0  exp(x0)            (2,)   float64
    """

    def __init__(self, program: Program, run: BoundProgram | None = None) -> None:
        captured, self._run = program, run
        self.program = program if run is None else run.executor.program  # as planned
        # Planning has other values, but as many inputs and outputs in the same order.
        self._now = dict(zip(captured.outputs, self.program.outputs, strict=True))
        self._now |= zip(captured.inputs, self.program.inputs, strict=True)
        self.items = entries_of(self.program)
        self.seconds: list[float] | None = None  # for each item, once profiled

    @property
    def nodes(self) -> list[Node]:
        """The calls, in order."""
        return [n for item in self.items for n in item.nodes]

    @property
    def outputs(self) -> list[Value]:
        """The values that stay: new state, gradients and results."""
        return self.program.outputs

    @property
    def how(self) -> str:
        """The way in which the program is run, in words; "" for one without an executor."""
        return "" if self._run is None else self._run.executor.how

    def __len__(self) -> int:
        """Return how many operations there are, grouped or not."""
        return len(self.nodes)

    # -- names ---------------------------------------------------------------------------------------

    def _names(self, given: Mapping[str, Tensor] | None) -> dict[Value, str]:
        tensors = {id(x): " ".join(n.split()) for n, x in (given or {}).items()}
        slots: list[Slot] = [] if self._run is None else self._run.slots
        names: dict[Value, str] = {}
        arguments = state = 0
        for n, v in enumerate(self.program.inputs):
            slot = slots[n] if n < len(slots) else None
            if slot is None or slot.arguments:
                names[v] = f"x{arguments}"
                arguments += 1
            elif not slot.owners:
                names[v] = tensors.get(_tensor_of(slot), f"w{state}")
                state += 1
        for slot in slots:
            if self._now[slot.before] not in names:
                names[self._now[slot.before]] = f"{self._name(slot.owners[0], names, tensors)}.grad"
        for n, node in enumerate(self.nodes):
            for k, v in enumerate(node.outs):
                names[v] = f"%{n}.{k}" if node.many else f"%{n}"
        return names

    def _name(self, slot: Slot, names: dict[Value, str], tensors: Mapping[int, str]) -> str:
        """Return the name of a slot that may be no input."""
        return (
            names.get(self._now.get(slot.before, slot.before))
            or tensors.get(_tensor_of(slot))
            or ("argument" if slot.arguments else "state")
        )

    def _results(self, names: dict[Value, str], given: Mapping[str, Tensor] | None) -> list[tuple[str, Value]]:
        """Return the outputs with the names of their roles: new state, gradients and results of the call."""
        if self._run is None:
            return [(f"result {n}", v) for n, v in enumerate(self.program.outputs)]
        tensors = {id(x): " ".join(n.split()) for n, x in (given or {}).items()}
        capture = self._run.capture
        found = [(self._name(c, names, tensors), c.after) for c in capture.slots if c.after is not c.before]
        for slot, made in capture.grads:
            if isinstance(made, NewTensor):
                found.append((f"{self._name(slot, names, tensors)}.grad", made.value))
        results = [
            y.value if isinstance(y, NewTensor) else y for y in capture.outputs if isinstance(y, (NewTensor, Value))
        ]
        found = [(name, self._now.get(v, v)) for name, v in found]
        results = [self._now.get(v, v) for v in results]
        return found + [(f"result {n}" if len(results) > 1 else "result", v) for n, v in enumerate(results)]

    # -- text ----------------------------------------------------------------------------------------

    def table(self, names: Mapping[str, Tensor] | None = None) -> str:
        """Return the program as a table; names: of state, as {"w": w}.

        >>> import tapegrad as tg
        >>> w = tg.asarray([1.0])
        >>> product = tg.compile(lambda x: w * x)
        >>> for _ in range(3):
        ...     y = product(w)
        >>> "multiply(x0, x0)" in product.program.table({"w": w})
        True
        """
        known = self._names(names)
        timed = self.seconds is not None
        rows = [("", "operation", "shape", "dtype", "bytes", "FLOP", *(_TIMED if timed else ()), "line")]
        blank = ("",) * (2 + 3 * timed)
        rows += [(known[v], "input", str(v.shape), dtype_of_value(v).name, *blank, "") for v in self.program.inputs]
        times: list[Any] = self.seconds or [None] * len(self.items)
        for item, seconds in zip(self.items, times, strict=True):
            moved, flops = _moved(item), _flops(item)
            costs = [_quantity(moved, "B"), "-" if flops is None else str(flops)]
            if seconds is not None:
                costs += [f"{seconds * 1e3:.4g}", _rate(moved, seconds), _rate(flops, seconds)]
            if len(item.nodes) == 1:
                rows.append(_row(item.nodes[0], known, "", costs))
                continue
            operands = ", ".join(known.get(v, "?") for v in item.operands if v.constant is None)
            made = ", ".join(known[v] for v in item.results)
            rows.append((made, f"{item.name}({operands})", "", "", *costs, ""))
            rows += [_row(n, known, "  ", blank) for n in item.nodes]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.insert(1, "-" * max(len(line) for line in lines))
        return "\n".join([*lines, self._totals(known, names)])

    def _totals(self, known: dict[Value, str], names: Mapping[str, Tensor] | None) -> str:
        moved = _quantity(sum(map(_moved, self.items)), "B")
        flops = total(_flops(i) for i in self.items)
        what = f"{len(self.items)} items, {len(self.nodes)} operations, {moved} read and written, {flops} FLOP"
        if self.seconds is not None:
            what += f", {sum(self.seconds) * 1e3:.4g} ms one by one"
        if self._run is not None:
            what += f"; {self.how}"
            if isinstance(self._run.executor, PlanningExecutor):
                what += f" of {_quantity(self._run.executor.nbytes, 'B')} at most"
        results = self._results(known, names)
        left = ", ".join(f"{name} = {known.get(v, 'a constant')}" for name, v in results)
        return f"{what}\n{left or 'nothing is left behind'}"

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"<program of {len(self.nodes)} operations>"

    # -- pictures ------------------------------------------------------------------------------------

    def to_dot(self, names: Mapping[str, Tensor] | None = None) -> str:
        """Return the program in Graphviz's DOT language, as `tapegrad.to_dot` draws a tape.

        Yellow ellipses are state, grey ones arguments, green ones effects of a call; fused operations are in a box.

        >>> import tapegrad as tg
        >>> double = tg.compile(lambda x: x * 2.0)
        >>> for _ in range(3):
        ...     y = double(tg.asarray([0.0, 1.0]))
        >>> "n0 -> n1" in double.program.to_dot()
        True
        """
        return draw_dot("program", self._shapes(names), PROGRAM_COLOURS)

    def to_mermaid(self, names: Mapping[str, Tensor] | None = None) -> str:
        """Return the program as a Mermaid flowchart; see `to_dot`.

        >>> import tapegrad as tg
        >>> double = tg.compile(lambda x: x * 2.0)
        >>> for _ in range(3):
        ...     y = double(tg.asarray([0.0, 1.0]))
        >>> print(double.program.to_mermaid().splitlines()[2].strip())
        n1["%0 = multiply(x0, 2.0)<br/>(2,) float64"]:::operation
        """
        return draw_mermaid(self._shapes(names), PROGRAM_COLOURS)

    def _shapes(self, given: Mapping[str, Tensor] | None) -> list[Shape]:
        names = self._names(given)
        made: dict[Value, str] = {}
        shapes: list[Shape] = []
        slots: list[Slot] = [] if self._run is None else self._run.slots
        for n, v in enumerate(self.program.inputs):
            state = n < len(slots) and not slots[n].arguments
            made[v] = f"n{len(shapes)}"
            shapes.append(Shape(made[v], "state" if state else "argument", [names[v], _type_text(v)], []))
        for number, item in enumerate(self.items):
            group = f"{item.name} ({number})" if len(item.nodes) > 1 else ""
            for node in item.nodes:
                inputs = [made[v] for v in dict.fromkeys(node.values()) if v in made]
                made.update(dict.fromkeys(node.outs, f"n{len(shapes)}"))
                line = ", ".join(names[v] for v in node.outs)
                line = f"{line} = {_call(node, names)}" if line else _call(node, names)
                lines = [shorten(line, LONGEST, placeholder=" ..."), *dict.fromkeys(map(_type_text, node.outs))]
                shapes.append(Shape(f"n{len(shapes)}", "operation", lines, inputs, group))
        for name, v in self._results(names, given):
            shapes.append(Shape(f"n{len(shapes)}", "result", [name], [made[v]] if v in made else []))
        return shapes

    # -- time ----------------------------------------------------------------------------------------

    def profile(self, *args: Any, repeats: int = 5, **kwargs: Any) -> View:
        """Run the program item by item on its state and these arguments, timing each; print the result.

        Nothing is changed: no state, no gradients. The time of an item is the median of the repeats. Items run one by
        one, so that their sum is more than a call takes where the library's compiler fuses further. Raises ValueError
        for arguments that another program is for.

        >>> import tapegrad as tg
        >>> double = tg.compile(lambda x: tg.exp(x) * 2.0)
        >>> for _ in range(3):
        ...     y = double(tg.asarray([0.0, 1.0]))
        >>> "GB/s" in str(double.program.profile(tg.asarray([0.0, 1.0])))
        True
        """
        arrays = self._arrays(flatten((args, kwargs))[0])
        runners = [self._runner(n, arrays) for n in range(len(self.items))]
        times = [list(self._timed(arrays, runners)) for _ in range(max(repeats, 1))]
        self.seconds = [median(column) for column in zip(*times, strict=True)]
        return self

    def _arrays(self, leaves: list[Any]) -> list[Any]:
        run, arrays = self._run, leaves
        if run is not None:
            try:
                xs = run.tensors(leaves)
            except (IndexError, AttributeError):
                xs = None
            arrays = [] if xs is None else run.arrays(leaves, xs)
        inputs = self.program.inputs
        if len(arrays) != len(inputs) or any(
            getattr(a, "shape", None) != v.shape or getattr(a, "dtype", None) != v.dtype
            for a, v in zip(arrays, inputs, strict=True)
        ):
            raise ValueError(
                "profile: pass the arguments of a call that runs this program, which takes "
                + (", ".join(map(_type_text, inputs)) or "none")
            )
        return arrays

    def _runner(self, n: int, arrays: list[Any]) -> Callable[[list[Any]], list[Any]] | None:
        """Return a function that runs a group of nodes as the library's executor does, None for a single node."""
        item, entry = self.items[n], self.program.items[n]
        if type(entry) is Node or not arrays:
            return None
        backend = backend_of[type(arrays[0])]
        inputs = [v for v in item.operands if v.constant is None]
        return backend.executor(Program(inputs, [entry], list(item.results))).run if backend.plans else None

    def _timed(self, arrays: list[Any], runners: list[Callable[[list[Any]], list[Any]] | None]) -> Iterator[float]:
        env: dict[Value, Any] = dict(zip(self.program.inputs, arrays, strict=True))
        last = {v: n for n, item in enumerate(self.items) for node in item.nodes for v in (*node.values(), *node.outs)}
        drop: dict[int, list[Value]] = {}
        for v, n in last.items():
            drop.setdefault(n, []).append(v)
        for n, item in enumerate(self.items):
            run = runners[n]
            given = [] if run is None else [env[v] for v in item.operands if v.constant is None]
            start = perf_counter()
            if run is not None:
                env.update(zip(item.results, run(given), strict=True))
            else:
                for node in item.nodes:
                    _compute(node, env)
            for v in item.results:
                backend_of[type(env[v])].synchronize(env[v])
            yield perf_counter() - start
            for v in drop.get(n, ()):
                env.pop(v, None)


def _tensor_of(slot: Slot) -> int:
    """Return the identity of the Tensor that a slot of state is known by."""
    return 0 if slot.tensor is None else id(slot.tensor.tensor)


_TIMED = ("ms", "GB/s", "GFLOP/s")


def _compute(node: Node, env: dict[Value, Any]) -> None:
    """Compute one node from the contents of the values before it."""
    results = results_of(node, lambda v: env[v] if v.constant is None else v.constant, computed)
    env.update(zip(node.outs, results, strict=True))


def _row(node: Node, names: dict[Value, str], indent: str, costs: Any) -> tuple[str, ...]:
    shapes = ", ".join(dict.fromkeys(str(v.shape) for v in node.outs))
    dtypes = ", ".join(dict.fromkeys(dtype_of_value(v).name for v in node.outs))
    made = ", ".join(names[v] for v in node.outs)
    return (indent + made, indent + _call(node, names), shapes, dtypes, *costs, node.line)


def _call(node: Node, names: dict[Value, str]) -> str:
    """Return a call as text: values by their names, constants of one element by value."""
    hidden = ("device", "dtype")
    options = [f"{k}={_show(v, names)}" for k, v in node.kwargs.items() if k not in hidden and v is not False]
    args = node.args[:1] if node.effect else node.args
    return f"{node.op}({', '.join([*(_show(x, names) for x in args), *options])})"


def _show(x: Any, names: dict[Value, str]) -> str:
    if isinstance(x, Value):
        if x in names:
            return names[x]
        return _show(host(wrap(x.constant)).item(), names) if x.size == 1 else f"constant{x.shape}"
    if isinstance(x, (tuple, list)):
        inner = ", ".join(_show(i, names) for i in x)
        return f"({inner}{',' if len(x) == 1 else ''})" if isinstance(x, tuple) else f"[{inner}]"
    if x is ...:
        return "..."
    if isinstance(x, FunctionType):
        return x.__name__
    if isinstance(x, float):
        return f"{x:.6g}" if x % 1 else repr(x)
    dtype = dtype_like(x)
    return dtype.name if dtype is not None else " ".join(show_static(x).split())


def _type_text(v: Value) -> str:
    return f"{v.shape} {dtype_of_value(v).name}"


def _moved(item: Entry) -> int:
    if len(item.nodes) == 1 and is_view(item.nodes[0]):
        return 0
    return bytes_of((*item.operands, *item.results))


def _flops(item: Entry) -> int | None:
    counts = [flops_of(n) for n in item.nodes]
    return None if None in counts else total(counts)


def _quantity(n: float, unit: str) -> str:
    prefixes = ["", "k", "M", "G", "T"]
    while n >= 1000 and len(prefixes) > 1:
        n /= 1000
        del prefixes[0]
    return f"{n:.4g} {prefixes[0]}{unit}"


def _rate(n: int | None, seconds: float) -> str:
    return "-" if not n or seconds <= 0 else f"{n / seconds / 1e9:.3g}"
