"""Fused programs of eager calls: the operations of one call in few kernels, whose text holds for any shape.

A program of a few operations is partitioned into steps, each as large as one kernel can be. An elementwise step is an
ElementwiseKernel of CuPy, which broadcasts, takes any strides and allocates results. A step with reductions over the
same axes is a row kernel. Views, and functions without generated text, are called. Sizes, strides and numbers are
parameters, so that few texts are compiled for many shapes. The numbers of the first program with a text are literals in
it.

    m = mean(x, axis=-1, keepdims=True)     row step: mean, subtract, multiply, mean; writes v
    c = x - m
    v = mean(c * c, axis=-1)
    w = take(v, i)                          call step
    y = exp(w) + 1                          elementwise step
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import cupy
import numpy as np

from tapegrad._program.ir import Node, Program, Value
from tapegrad.backends._array import Array
from tapegrad.backends._cupy.codegen.flat_kernels import Numbers
from tapegrad.backends._cupy.eager.call_step import CallStep
from tapegrad.backends._cupy.eager.elementwise_step import ElementwiseStep
from tapegrad.backends._cupy.eager.groups import Group
from tapegrad.backends._cupy.eager.kernel_text import Rename
from tapegrad.backends._cupy.eager.row_step import RowStep

Step = ElementwiseStep | RowStep | CallStep


class Compiled:
    """A program that is called with arrays, all on one device, and returns those of its outputs.

    sizes: those of the arrays, by those that the program was traced with. suited: whether it is quick for these, and
    not better called function by function.
    """

    def __init__(self, program: Program[Node], steps: Sequence[Step], sizes: Mapping[int, int] | None = None) -> None:
        self.program, self.steps = program, steps
        self.several = cupy.cuda.runtime.getDeviceCount() > 1  # devices
        # All values in one list: inputs, constants, results. A step reads and writes it by number.
        place: dict[Value, int] = {v: i for i, v in enumerate(program.inputs)}
        read = [v for node in program.nodes for v in node.reads]
        constants = list(dict.fromkeys(v for v in (*read, *program.outputs) if v.constant is not None))
        self.constants = [v.constant for v in constants]
        self.copies: dict[int, list[Array]] = {}  # the constants on each of several devices
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
        self.only = step.alone(place) if isinstance(step, ElementwiseStep) and step.outs == program.outputs else None

    def __call__(self, arrays: Sequence[Array]) -> Sequence[Array]:
        # With one device nothing need be asked.
        if not self.several:
            return self.called(arrays, self.constants)
        if len(arrays) > 1 and len({a.data.device_id for a in arrays}) > 1:
            raise ValueError("arrays on different devices")
        if arrays[0].data.device_id == cupy.cuda.device.get_device_id():
            return self.called(arrays, self.constants_here())
        with arrays[0].device:
            return self.called(arrays, self.constants_here())

    def constants_here(self) -> list[Array]:
        """Return the constants on the current device."""
        device = cupy.cuda.device.get_device_id()
        if device not in self.copies:
            self.copies[device] = [cupy.asarray(a) for a in self.constants]
        return self.copies[device]

    def called(self, arrays: Sequence[Array], constants: list[Array]) -> Sequence[Array]:
        """Run the steps on the current device, with the constants there."""
        if self.only is not None:
            return self.only(arrays)
        values = [*arrays, *constants, *self.rest]
        for run in self.runs:
            run(values)
        return [values[i] for i in self.outs]

    def size_key(self, numbers: Mapping[int, int]) -> Hashable:
        """Return a key that is equal for programs that differ in sizes alone, None if this one has sizes in its text.

        numbers: of each size, the number in its place.
        """
        if self.constants:
            return None
        try:
            return tuple([step.size_key(_renaming(numbers, True), self.place) for step in self.steps]), tuple(self.outs)
        except KeyError:
            return None

    def resized(self, sizes: Mapping[int, int]) -> Compiled:
        """Return the program for arrays of other sizes."""
        return Compiled(self.program, self.steps, sizes)


def _renaming(sizes: Mapping[int, int], strict: bool) -> Rename:
    """Return a function that puts other sizes into a shape; strict: KeyError for those that have none."""
    return lambda shape: tuple([sizes[n] if strict else sizes.get(n, n) for n in shape])


def compiled(program: Program[Node], name: str) -> Compiled | None:
    """Return a program as few steps, None if that saves no launch or there is no such text; name: of the operation."""
    # Empty arrays: there is nothing to launch, and CuPy knows the results of reductions.
    if any(v.size == 0 for node in program.nodes for v in (*node.reads, *node.outs)):
        return None
    steps = _partition(program, name)
    if steps is None:
        return None
    views = sum(isinstance(step, CallStep) and step.node.kind == "view" for step in steps)
    if len(steps) - views >= launches(program):
        return None
    return Compiled(program, steps)


def launches(program: Program[Node]) -> int:
    """Return how many functions a program calls, views apart."""
    return sum(node.kind != "view" for node in program.nodes)


# -- partition ---------------------------------------------------------------------------------------------


def _partition(program: Program[Node], name: str) -> list[Step] | None:
    """Return the steps of a program: each node joins the first group, from its operands' on, that can take it.

    Calls that read nothing computed here, such as views of operands, come before. None if a group has no kernel.
    """
    before: list[Step] = []
    groups: list[Group | CallStep] = []
    home: dict[Value, int] = {}  # a result -> the number of the group that computes it
    number = Numbers()
    for node in program.nodes:
        # Greedy: the earliest group that is not before any operand's group, so that few kernels are launched.
        at = max([home[v] for v in node.reads if v in home], default=0)
        while at < len(groups) and not _takes(groups[at], node, home, at):
            at += 1
        if at == len(groups):
            group = Group(name, number)
            if group.takes(node, home, at):
                groups.append(group)
            elif any(v in home for v in node.reads):
                groups.append(CallStep(node))
            else:
                before.append(CallStep(node))
                continue
        joined = groups[at]
        if isinstance(joined, Group):
            joined.nodes.append(node)
        home.update(dict.fromkeys(node.outs, at))
    # A kernel writes the results that a later group or the caller reads; the others stay in registers.
    steps = before
    for at, made in enumerate(groups):
        later = {v for g in groups[at + 1 :] for n in g.nodes for v in n.reads} | set(program.outputs)
        step = _step(made, [v for n in made.nodes for v in n.outs if v in later])
        if step is None:
            return None
        steps.append(step)
    return steps


def _takes(group: Group | CallStep, node: Node, home: dict[Value, int], at: int) -> bool:
    """Say whether a node may join a group, number `at`."""
    return isinstance(group, Group) and group.takes(node, home, at)


def _step(group: Group | CallStep, outs: list[Value]) -> Step | None:
    """Return the step that computes a group and writes some results, None if a kernel cannot."""
    if isinstance(group, CallStep):
        return group
    if group.axes is None:
        flat = ElementwiseStep(group, outs, group.number)
        return flat if flat.reads and all(tuple(v.shape) == group.full for v in outs) else None
    rows = np.prod(group.kept()[1], dtype=int)
    for v in outs:
        if tuple(v.shape) != group.full and not (group.is_row(tuple(v.shape)) and v.size == rows):
            return None
    return RowStep(group, outs, group.number)
