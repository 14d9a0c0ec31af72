"""Eager calls of several operations as one kernel: a traced function in CUDA text that holds for any shape.

A program of a few operations is partitioned into steps, each as large as one kernel can be. An elementwise step is an
ElementwiseKernel of CuPy, which broadcasts, takes any strides and allocates results. A step with reductions over the
same axes is a row kernel. Views, and functions without generated text, are called. Sizes, strides and numbers are
parameters, so that few texts are compiled however many shapes there are; the numbers of the first program with a text
are literals in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cupy
import numpy as np

from tapegrad._program.ir import Value, put_in
from tapegrad._program.queries import axes_of
from tapegrad.backends._cupy.codegen.cuda_types import HELPERS, c_type
from tapegrad.backends._cupy.codegen.flat_kernels import Numbers, can_compute
from tapegrad.backends._cupy.codegen.reductions import can_reduce
from tapegrad.backends._cupy.eager.kernel_text import Rename, Run, Shape, Text, kernel_name, wide
from tapegrad.backends._cupy.eager.row_kernels import InRows
from tapegrad.backends._cupy.executor.plan import OPTIONS

WIDEST = 24  # arrays that a step reads
LONGEST = 100  # nodes of a step


class Compiled:
    """A program that is called with arrays, all on one device, and returns those of its outputs.

    sizes: those of the arrays, by those that the program was traced with. suited: whether it is quick for these, and
    not better called function by function.
    """

    def __init__(self, program: Any, steps: list[Any], sizes: Mapping[int, int] | None = None) -> None:
        self.program, self.steps = program, steps
        self.several = cupy.cuda.runtime.getDeviceCount() > 1  # devices
        place: dict[Any, int] = {v: i for i, v in enumerate(program.inputs)}
        read = [v for node in program.nodes for v in node.reads]
        constants = list(dict.fromkeys(v for v in (*read, *program.outputs) if v.constant is not None))
        self.constants = [v.constant for v in constants]
        self.copies: dict[int, list[Any]] = {}  # the constants on each of several devices
        for v in (*constants, *[v for step in steps for v in step.outs]):
            place.setdefault(v, len(place))
        rename = _renaming(sizes or {}, False)
        self.suited = all(step.suits(rename) for step in steps)
        self.runs = [step.run(place, rename) for step in steps]
        self.rest = [None] * (len(place) - len(program.inputs) - len(constants))
        self.outs = [place[v] for v in program.outputs]
        self.place = place
        # The one step of most programs, with nothing around it.
        step = steps[0] if len(steps) == 1 and not constants else None
        self.only = step.alone(place) if isinstance(step, Flat) and step.outs == program.outputs else None

    def __call__(self, arrays: Sequence[Any]) -> Sequence[Any]:
        if not self.several:
            return self.called(arrays, self.constants)
        if len(arrays) > 1 and len({a.data.device_id for a in arrays}) > 1:
            raise ValueError("arrays on different devices")
        if arrays[0].data.device_id == cupy.cuda.device.get_device_id():
            return self.called(arrays, self.constants_here())
        with arrays[0].device:
            return self.called(arrays, self.constants_here())

    def constants_here(self) -> list[Any]:
        """Return the constants on the current device."""
        device = cupy.cuda.device.get_device_id()
        if device not in self.copies:
            self.copies[device] = [cupy.asarray(a) for a in self.constants]
        return self.copies[device]

    def called(self, arrays: Sequence[Any], constants: list[Any]) -> Sequence[Any]:
        """Run the steps on the current device, with the constants there."""
        if self.only is not None:
            return self.only(arrays)
        values = [*arrays, *constants, *self.rest]
        for run in self.runs:
            run(values)
        return [values[i] for i in self.outs]

    def identity(self, numbers: Mapping[int, int]) -> Any:
        """Return what is equal for programs that differ in sizes alone, None if sizes are written down in this one.

        numbers: what stands for each size.
        """
        if self.constants:
            return None
        try:
            return tuple([step.identity(_renaming(numbers, True), self.place) for step in self.steps]), self.outs
        except KeyError:
            return None

    def resized(self, sizes: Mapping[int, int]) -> Compiled:
        """Return the program for arrays of other sizes."""
        return Compiled(self.program, self.steps, sizes)


def _renaming(sizes: Mapping[int, int], strict: bool) -> Rename:
    """Return a function that puts other sizes into a shape; strict: KeyError for those that have none."""
    return lambda shape: tuple([sizes[n] if strict else sizes.get(n, n) for n in shape])


def compiled(program: Any, name: str) -> Compiled | None:
    """Return a program as few steps, None if that saves no launch or there is no such text; name: of the operation."""
    if any(v.size == 0 for node in program.nodes for v in (*node.reads, *node.outs)):
        return None
    steps = _partition(program, name)
    if steps is None or sum(not (isinstance(s, Call) and s.node.kind == "view") for s in steps) >= launches(program):
        return None
    return Compiled(program, steps)


def launches(program: Any) -> int:
    """Return how many functions a program calls, views apart."""
    return sum(node.kind != "view" for node in program.nodes)


# -- partition ---------------------------------------------------------------------------------------------


def _partition(program: Any, name: str) -> list[Any] | None:
    """Return the steps of a program: each node goes into the first one that can take it after what it reads.

    Calls that read nothing computed here, such as views of operands, come before.
    """
    before: list[Any] = []
    groups: list[Any] = []
    home: dict[Any, int] = {}
    number = Numbers()
    for node in program.nodes:
        at = max([home[v] for v in node.reads if v in home], default=0)
        while at < len(groups) and not groups[at].takes(node, home, at):
            at += 1
        if at == len(groups):
            group = Group(name, number)
            taken = group.takes(node, home, at)
            if not taken and not any(v in home for v in node.reads):
                before.append(Call(node))
                continue
            groups.append(group if taken else Call(node))
        groups[at].nodes.append(node)
        home.update(dict.fromkeys(node.outs, at))
    steps = before
    for at, group in enumerate(groups):
        later = {v for g in groups[at + 1 :] for n in g.nodes for v in n.reads} | set(program.outputs)
        step = group.step([v for n in group.nodes for v in n.outs if v in later])
        if step is None:
            return None
        steps.append(step)
    return steps


class Call:
    """A step that calls a function of the library: of a view, which launches nothing, or of what has no text."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self.nodes: list[Any] = []
        self.outs = list(node.outs)

    def takes(self, node: Any, home: dict[Any, int], at: int) -> bool:
        """Say that it takes no other node."""
        return False

    def step(self, outs: list[Any]) -> Call:
        """Return the step."""
        return self

    def suits(self, rename: Rename) -> bool:
        """Say that it takes any size."""
        return True

    def arguments(self, rename: Rename) -> tuple[Any, ...]:
        """Return the arguments, with other sizes."""
        node = self.node
        shapes = node.op in ("reshape", "broadcast_to") and type(node.args[1]) is tuple
        return (node.args[0], rename(node.args[1]), *node.args[2:]) if shapes else node.args

    def identity(self, rename: Rename, place: dict[Any, int]) -> Any:
        """Return what there is to compare with a program of other sizes; KeyError for what is no view."""
        if self.node.kind != "view":
            raise KeyError
        put: Callable[[Any], Any] = lambda v: ("value", place[v])  # noqa: E731
        return self.node.op, repr((put_in(self.arguments(rename), put), self.node.kwargs))

    def run(self, place: dict[Any, int], rename: Rename) -> Run:
        """Return what calls the function."""
        node, arguments = self.node, self.arguments(rename)

        def run(values: list[Any]) -> None:
            put: Callable[[Any], Any] = lambda v: values[place[v]]  # noqa: E731
            result = node.function(*put_in(arguments, put), **{k: put_in(x, put) for k, x in node.kwargs.items()})
            for v, out in zip(node.outs, result if node.many else (result,), strict=not node.effect):
                values[place[v]] = out

        return run


class Group:
    """Nodes that one kernel computes: elementwise ones, and reductions over one set of axes."""

    def __init__(self, name: str, number: Numbers) -> None:
        self.name, self.number = name, number
        self.nodes: list[Any] = []
        self.full: Shape | None = None  # the shape that the kernel goes over
        self.axes: frozenset[int] | None = None  # those of it that reductions reduce

    def takes(self, node: Any, home: dict[Any, int], at: int) -> bool:
        """Say whether a node may join, and note what follows from that."""
        if node.op == "note_outside":
            return self.axes is not None and self.is_row(tuple(node.args[0].shape))
        made = {v for n in self.nodes for v in n.outs}
        read = {v for n in (*self.nodes, node) for v in n.reads if v not in made and self.number(v) is None}
        if node.many or node.effect or len(read) > WIDEST or len(self.nodes) >= LONGEST:
            return False
        shape = tuple(node.outs[0].shape)
        if node.kind == "view":
            inside = any(home.get(v) == at for v in node.reads)
            return inside and _is_alias(node) and self.fits(shape) and self.aligned(node.args[0], shape)
        if node.kind == "reduction":
            return self.reduces(node)
        if node.kind != "elementwise" or not can_compute(node, self.number):
            return False
        if self.axes is None:
            both = shape if self.full is None else _together(self.full, shape)
            self.full = self.full if both is None else both
        return self.fits(shape) and all(self.aligned(v, shape) for v in node.reads)

    def reduces(self, node: Any) -> bool:
        """Say whether a reduction may join."""
        x = node.args[0]
        if not isinstance(x, Value) or not set(node.kwargs) <= {"axis", "keepdims"} or not axes_of(node):
            return False
        if not can_reduce(node.op, x.dtype, node.outs[0].dtype):
            return False
        shape, axes = tuple(x.shape), frozenset(axes_of(node))
        if self.full not in (None, shape) or self.axes not in (None, axes):
            return False
        before = self.full, self.axes
        self.full, self.axes = shape, axes
        if all(self.fits(tuple(v.shape)) for n in self.nodes for v in n.outs):
            return True
        self.full, self.axes = before
        return False

    def kept(self) -> tuple[Shape, Shape]:
        """Return the shapes of a reduction's result, with the reduced axes and without."""
        assert self.full is not None
        axes = self.axes or frozenset()
        return (
            tuple(1 if i in axes else n for i, n in enumerate(self.full)),
            tuple(n for i, n in enumerate(self.full) if i not in axes),
        )

    def is_row(self, shape: Shape) -> bool:
        """Say whether values of a shape have one element a row."""
        return self.axes is not None and shape != self.full and (shape in self.kept() or set(shape) <= {1})

    def fits(self, shape: Shape) -> bool:
        """Say whether values of a shape can be computed here."""
        assert self.full is not None
        return _broadcasts(shape, self.full) or self.is_row(shape)

    def aligned(self, v: Any, shape: Shape) -> bool:
        """Say whether an operand's axes are those of the kernel where it broadcasts to a result's shape."""
        mine = tuple(v.shape)
        if self.axes is None or mine == shape or v.size == 1 or not self.is_row(mine):
            return True
        return mine != self.kept()[1] or shape == self.kept()[1]

    def step(self, outs: list[Any]) -> Text | None:
        """Return the step that writes some results, None if a kernel cannot."""
        if self.axes is None:
            flat = Flat(self, outs, self.number)
            return flat if flat.reads and all(tuple(v.shape) == self.full for v in outs) else None
        rows = np.prod(self.kept()[1], dtype=int)
        for v in outs:
            if tuple(v.shape) != self.full and not (self.is_row(tuple(v.shape)) and v.size == rows):
                return None
        return InRows(self, outs, self.number)


def _is_alias(node: Any) -> bool:
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


# -- elementwise -------------------------------------------------------------------------------------------


class Flat(Text):
    """A step of elementwise nodes, as an ElementwiseKernel."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.reads: list[Any] = []
        self.names: dict[Any, str] = {}
        body = []
        for node in self.group.nodes:
            v = node.outs[0]
            if node.kind == "view":
                self.names[v] = self.name(node.args[0])
                continue
            value = self.computed(node, self.name)
            self.names[v] = f"v{len(self.names)}"
            body.append(f"const {c_type(v.dtype).value} {self.names[v]} = {value};")
        for i, v in enumerate(self.outs):
            value = self.names[v]
            body.append(f"r{i} = {value if wide(v.dtype) is v.dtype else f'{v.dtype.name}({value})'};")
        ins = [f"{v.dtype.name} a{i}" for i, v in enumerate(self.reads)]
        results = ", ".join(f"{v.dtype.name} r{i}" for i, v in enumerate(self.outs))
        code = "\n".join(body)

        def make(declared: str, parameters: list[str]) -> Any:
            return cupy.ElementwiseKernel(
                ", ".join([*ins, *parameters]),
                results,
                f"{declared}\n{code}",
                kernel_name(self.group.name),
                preamble=HELPERS,
                options=OPTIONS,
            )

        self.key = (self.group.name, *ins, results, code)
        self.function, self.arguments = self.kernel(self.key, make)
        # Whether what is read broadcasts to the shape of the results, so that CuPy finds it.
        self.covered = np.broadcast_shapes(*[tuple(v.shape) for v in self.reads]) == self.group.full

    def name(self, v: Any) -> str:
        """Return the text that reads a value."""
        if v not in self.names:
            self.reads.append(v)
            text = f"a{len(self.reads) - 1}"
            self.names[v] = f"(float){text}" if wide(v.dtype) is not v.dtype else text
        return self.names[v]

    def alone(self, place: dict[Any, int]) -> Callable[[Sequence[Any]], Sequence[Any]] | None:
        """Return what launches the kernel with what it reads of some arrays, and returns its results."""
        kernel, scalars, reads = self.function, self.arguments, [place[v] for v in self.reads]
        if not self.covered or len(self.outs) > 1:
            return None
        if not scalars and reads == list(range(len(reads))):
            return lambda arrays: (kernel(*arrays[: len(reads)]),)
        return lambda arrays: (kernel(*[arrays[i] for i in reads], *scalars),)

    def identity(self, rename: Rename, place: dict[Any, int]) -> Any:
        """Return what there is to compare with a program of other sizes."""
        places = [place[v] for v in (*self.reads, *self.outs)]
        return self.key, repr(self.numbers), places, rename(self.group.full)

    def suits(self, rename: Rename) -> bool:
        """Say that it takes any size."""
        return True

    def run(self, place: dict[Any, int], rename: Rename) -> Run:
        """Return what launches the kernel, for arrays of other sizes; place: of values in the list of all."""
        kernel, scalars, covered = self.function, self.arguments, self.covered
        reads, writes = [place[v] for v in self.reads], [place[v] for v in self.outs]
        full, dtypes = rename(self.group.full), [v.dtype for v in self.outs]

        def run(values: list[Any]) -> None:
            outs = () if covered else [cupy.empty(full, d) for d in dtypes]
            results = kernel(*[values[i] for i in reads], *scalars, *outs)
            if len(writes) == 1:
                values[writes[0]] = results
            else:
                for i, out in zip(writes, results, strict=True):
                    values[i] = out

        return run
