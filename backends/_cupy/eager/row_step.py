"""A row kernel for any shape: elementwise operations and reductions over the same axes, of arrays with any strides.

The axes that are kept number the rows. Some lanes of a block share a row, and combine their partial
results through shared memory, always in the same order. Each level of reductions is a loop over the row. It computes
the values it needs again from the operands, so that nothing but sums stays in registers.

A reduction over the rows' results, as the mean of the losses of cross_entropy, is a kernel of its own. Blocks could add
up in a fixed order only by a counter in memory that is zero before each launch. Launches that overlap, on two streams
or in graphs that captured them, would need one each, and no launch knows which others overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import count
from math import prod
from threading import Lock
from typing import Any, NamedTuple

import cupy
import numpy as np

from tapegrad._program.ir import Node, Value
from tapegrad.backends._array import Array
from tapegrad.backends._cupy.codegen import reductions
from tapegrad.backends._cupy.codegen.cuda_types import HELPERS, OPTIONS, c_type, converted
from tapegrad.backends._cupy.codegen.memory_access import Layout, Shape, aligned
from tapegrad.backends._cupy.eager.groups import Group
from tapegrad.backends._cupy.eager.kernel_text import KernelText, Rename, Run, kernel_name

THREADS = 256
NEIGHBOURS = 8  # rows at least, of a block in which neighbouring threads take neighbouring rows
MANY = 1 << 17  # threads, from which more lanes for a row gain nothing there
LONG = 1 << 17  # elements of a row, from which one block is too slow for it
FEW = 64  # rows, for which that matters
LAST = (1 << 31) - (1 << 28)  # place up to which, and a grid beyond, 32 bits number elements


class Launch(NamedTuple):
    """A launch of a row kernel; arguments: sizes, strides and numbers, which follow the arrays."""

    kernel: Any
    grid: tuple[int]
    arguments: tuple[Any, ...]


_writing = Lock()  # a text is written by one thread at a time


class RowStep(KernelText):
    """A step with reductions: the text of its kernel for arrays that lie as some do, and launches of it."""

    def __init__(self, group: Group, outs: list[Value], number: Callable[[Value], Any]) -> None:
        super().__init__(group, outs, number)
        assert group.axes is not None
        self.full: Shape = group.shape
        self.axes = sorted(group.axes)
        self.lead = [i for i in range(len(self.full)) if i not in self.axes]
        self.reads: list[tuple[Value, Shape]] = []  # an array, and the shape that it is read as one of
        self.notes = [node for node in self.group.nodes if node.op == "note_outside"]
        self.flags = [node.args[2] for node in self.notes]
        for node in self.group.nodes:
            for v in node.args[:1] if node.effect else node.reads:
                if v not in self.made and self.number(v) is None:
                    use = (v, self.seen(v, node))
                    if use not in self.reads:
                        self.reads.append(use)

    def seen(self, v: Value, node: Node) -> Shape:
        """Return the shape that a node reads an array as one of."""
        if node.effect and tuple(v.shape) in ((), self.group.kept()[0]):
            return self.full  # as elementwise nodes read it
        return tuple(node.outs[0].shape if node.kind == "elementwise" else v.shape)

    def size_key(self, rename: Rename, place: dict[Value, int]) -> Hashable:
        """Return a key that is equal for programs that differ in sizes alone; KeyError for sizes of its own."""
        with _writing:
            code, numbers = self.code(1, 1, 32, True, "int"), repr(self.numbers)
        reads = tuple([(place[v], rename(tuple(v.shape)), rename(seen)) for v, seen in self.reads])
        outs = tuple([(place[v], rename(tuple(v.shape))) for v in self.outs])
        flags = tuple([place[v] for v in self.flags])
        return code, numbers, rename(self.full), tuple(self.axes), reads, outs, flags

    def suits(self, rename: Rename) -> bool:
        """Say whether there are rows enough to be reduced by a block each."""
        full = rename(self.full)
        rows = prod(full[i] for i in self.lead)
        return rows >= FEW or prod(full) // rows <= LONG

    def run(self, place: dict[Value, int], rename: Rename) -> Run:
        """Return the function that runs the step, for arrays of other sizes; place: of values in the list of all."""
        reads, writes = [place[v] for v, _ in self.reads], [place[v] for v in self.outs]
        flags = [place[v] for v in self.flags]
        made = [(rename(tuple(v.shape)), v.dtype) for v in self.outs]
        full = rename(self.full)
        launches: dict[tuple[Shape, ...], Launch] = {}  # strides -> kernel, grid, arguments after the arrays

        def run(values: list[Array]) -> None:
            arrays = [values[i] for i in reads]
            # Shapes are those of the program: strides alone decide on the kernel.
            key = tuple([a.strides for a in arrays])
            found = launches.get(key)
            if found is None:
                with _writing:
                    found = launches[key] = self.prepared(arrays, full)
            kernel, grid, arguments = found
            outs = [cupy.empty(shape, dtype) for shape, dtype in made]
            kernel(grid, (THREADS,), (*arrays, *outs, *[values[i] for i in flags], *arguments))
            for i, out in zip(writes, outs, strict=True):
                values[i] = out

        return run

    # -- where elements lie --------------------------------------------------------------------------------

    def strides(self, shape: Shape, strides: Sequence[int], seen: Shape) -> list[int]:
        """Return an array's strides along the axes of the kernel, where it is read as one of a shape."""
        found = list(aligned(Layout(shape, tuple(strides)), seen))
        if len(seen) < len(self.full) and seen == self.group.kept()[1]:  # without the reduced axes
            whole = [0] * len(self.full)
            for i, s in zip(self.lead, found, strict=True):
                whole[i] = s
            return whole
        return [0] * (len(self.full) - len(found)) + found

    def prepared(self, arrays: list[Array], full: Shape) -> Launch:
        """Return the kernel, the grid and the arguments after the arrays, for arrays that lie like these."""
        whole = []
        for a, (v, seen) in zip(arrays, self.reads, strict=True):
            steps = [0 if n == 1 else s // a.itemsize for n, s in zip(v.shape, a.strides, strict=True)]
            whole.append(self.strides(tuple(v.shape), steps, seen))
        whole += [_contiguous(full) for v in self.outs if tuple(v.shape) == self.full]
        # Axes of the rows, and of a row's elements, as few as the strides of all arrays allow.
        lead, leads = _merged([full[i] for i in self.lead], [[s[i] for i in self.lead] for s in whole])
        inner, inners = _merged([full[i] for i in self.axes], [[s[i] for i in self.axes] for s in whole])
        rows, length = prod(lead), prod(inner)
        # Neighbouring threads read neighbouring elements: along a row, or from row to row, whichever strides are small.
        near = max(range(len(whole)), key=lambda i: sum(map(bool, whole[i])))  # an array that is read as a whole
        along = not lead or (bool(inner) and abs(inners[near][-1]) <= abs(leads[near][-1]))
        # As many threads as a row has elements, a power of two for the tree that combines them.
        lanes = 1
        while lanes < (min(length, THREADS) if along else min(length, THREADS // NEIGHBOURS, MANY // rows)):
            lanes *= 2
        reach = [sum((n - 1) * abs(s) for n, s in zip(full, steps, strict=True)) for steps in whole]
        index, number = ("int", np.int32) if max(prod(full), *reach) < LAST else ("long long", np.int64)
        code = self.code(len(lead), len(inner), lanes, along, index)
        heads = [f"const {c_type(v.dtype).memory}* __restrict__ a{i}" for i, (v, _) in enumerate(self.reads)]
        heads += [f"{c_type(v.dtype).memory}* __restrict__ r{i}" for i, v in enumerate(self.outs)]
        heads += [f"unsigned char* f{i}" for i in range(len(self.flags))]
        sizes = [rows, length, *lead, *inner]
        names = ["rows", "length", *_names("n", lead), *_names("m", inner)]
        for i, (a, b) in enumerate(zip(leads, inners, strict=True)):
            sizes += [*a, *b]
            names += [*_names(f"s{i}_", lead), *_names(f"t{i}_", inner)]
        heads += [f"{index} {name}" for name in names]

        def make(declared: str, parameters: list[str]) -> Any:
            scalars = [f"{c_type(dtype).value} c{i}" for i, (_, dtype) in enumerate(self.numbers)]
            name = kernel_name(self.group.name)
            head = ", ".join(heads + scalars if parameters else heads)
            # One block of a multiprocessor at least: else the compiler may spill registers for the sake of more.
            start = f'extern "C" __global__ void __launch_bounds__({THREADS}, 1) {name}({head})'
            return cupy.RawKernel(f"{HELPERS}{start} {{\n  {declared}\n{code}}}\n", name, options=OPTIONS)

        kernel, numbers = self.kernel((self.group.name, *heads, code), make)
        grid = (min(-(-rows * lanes // THREADS), 1 << 20),)
        return Launch(kernel, grid, (*map(number, sizes), *numbers))

    # -- text ----------------------------------------------------------------------------------------------

    def code(self, leading: int, inner: int, lanes: int, along: bool, index: str) -> str:
        """Return the body of the kernel.

        leading, inner: how many axes number the rows, and the elements of a row; lanes: threads that share a row;
        along: whether neighbouring threads take elements of one row, else of neighbouring rows; index: type of indices.
        """
        self.leading, self.inner, self.index = leading, inner, index
        self.numbers = []
        self.top: list[str] = []  # lines that are run once a row
        self.names: dict[object, str] = {}  # of values with one element a row
        self.count = count()
        members = THREADS // lanes
        shared: list[str] = []
        # One loop for each level of reductions, then one for the results that have the full shape.
        for nodes in self.levels():
            loop = Loop(index)
            ends: list[str] = []
            for node in nodes:
                self.reduction(node, loop, shared, ends, lanes, 1 if along else members)
            self.top += [loop.text(lanes), *ends]
        loop = Loop(index)
        arrays = len(self.reads)
        for i, v in enumerate(self.outs):
            if tuple(v.shape) == self.full:
                value = c_type(v.dtype).store.format(self.element(v, self.full, loop))
                loop.lines.append(f"r{i}[{self.offset(arrays)}] = {value};")
                arrays += 1
        if loop.lines:
            self.top.append(loop.text(lanes))
        for i, v in enumerate(self.outs):
            if tuple(v.shape) != self.full:
                self.top.append(f"if (in_range && lane == 0) r{i}[row] = {c_type(v.dtype).store.format(self.row(v))};")
        for i, node in enumerate(self.notes):
            indices, n = node.args[:2]
            wrong = (
                f"(unsigned long long){self.row(indices, self.seen(indices, node))} >= {self.constant(n, np.uint64)}"
            )
            self.top.append(f"if (in_range && lane == 0 && {wrong}) f{i}[0] = 1;")
        self.top.append("__syncthreads();")
        lane, member = (f"% {lanes}", f"/ {lanes}") if along else (f"/ {members}", f"% {members}")
        axes = [f"const {index} i{k} = {_digit('at', 'n', k, leading)};" for k in range(leading)]
        lines = "\n    ".join([*axes, *self.top])
        return (
            f"  const int lane = threadIdx.x {lane}, member = threadIdx.x {member};\n  " + "\n  ".join(shared) + "\n"
            f"  for ({index} first = ({index})blockIdx.x * {members}; first < rows; "
            f"first += ({index})gridDim.x * {members}) {{\n"
            f"    const {index} row = first + member; const bool in_range = row < rows;\n"
            f"    const {index} at = in_range ? row : 0, end = in_range ? length : 0;\n"
            f"    {lines}\n  }}\n"
        )

    def levels(self) -> list[list[Node]]:
        """Return the reductions, those that do not depend on each other together."""
        levels: list[list[Node]] = []
        level: dict[Value, int] = {}
        for node in self.group.nodes:
            at = max([level.get(v, 0) for v in node.reads], default=0)
            if node.kind == "reduction":
                levels += [[]] if at == len(levels) else []
                levels[at].append(node)
                at += 1
            level.update(dict.fromkeys(node.outs, at))
        return levels

    def reduction(self, node: Node, loop: Loop, shared: list[str], ends: list[str], lanes: int, step: int) -> None:
        """Add a reduction to a loop, and its end behind the loop; step: the distance of the lanes of a row."""
        x, v, i = node.args[0], node.outs[0], next(self.count)
        dtype, kind = reductions.accumulator(node.op, v.dtype)
        value = converted(self.element(x, tuple(x.shape), loop), x.dtype, dtype)
        self.top.append(f"{kind.value} c_{i} = {reductions.neutral(node.op, dtype)};")
        loop.lines.append(f"c_{i} = {reductions.combine(node.op, dtype, f'c_{i}', value)};")
        shared.append(f"__shared__ {kind.value} s_{i}[{THREADS}];")
        both = reductions.combine(node.op, dtype, f"s_{i}[threadIdx.x]", f"s_{i}[threadIdx.x + o * {step}]")
        result = reductions.finished(node.op, v.dtype, f"s_{i}[threadIdx.x - lane * {step}]", "length")
        ends.append(
            f"s_{i}[threadIdx.x] = c_{i}; __syncthreads();\n    for (int o = {lanes // 2}; o > 0; o >>= 1) "
            f"{{ if (lane < o) s_{i}[threadIdx.x] = {both}; __syncthreads(); }}\n    "
            f"const {c_type(v.dtype).value} w_{i} = {result};"
        )
        self.names[v] = f"w_{i}"

    def offset(self, i: int, within: bool = True) -> str:
        """Return where the element, or else the row, of an array is."""
        terms = [f"i{k} * s{i}_{k}" for k in range(self.leading)]
        if within:
            terms += [f"{_digit('j', 'm', k, self.inner)} * t{i}_{k}" for k in range(self.inner)]
        return " + ".join(terms) or "0"

    def element(self, v: Value, seen: Shape, loop: Loop) -> str:
        """Return the name of a value's element in a loop over a row; seen: the shape that its reader sees."""
        node = self.made.get(v)
        if node is None:
            within = self.strides(tuple(v.shape), [int(n > 1) for n in v.shape], seen)
            if not any(within[i] for i in self.axes):
                return self.row(v, seen)
            at = self.reads.index((v, seen))
            return loop.name((v, seen), v.dtype, lambda: f"a{at}[{self.offset(at)}]", load=True)
        if v in self.names or self.group.is_row(tuple(v.shape)):
            return self.row(v)
        shape = tuple(v.shape)
        if node.kind == "view":
            return self.element(node.args[0], tuple(node.args[0].shape), loop)
        return loop.name(v, v.dtype, lambda: self.computed(node, lambda x: self.element(x, shape, loop)))

    def row(self, v: Value, seen: Shape = ()) -> str:
        """Return the name of a value that there is one of a row."""
        node = self.made.get(v)
        key = v if node is not None else (v, seen)
        if key in self.names:
            return self.names[key]
        kind = c_type(v.dtype)
        shape = tuple(v.shape)
        if node is None:
            at = self.reads.index((v, seen))
            value = kind.load.format(f"a{at}[{self.offset(at, within=False)}]")
        elif node.kind == "view":
            return self.row(node.args[0], tuple(node.args[0].shape))
        else:
            value = self.computed(node, lambda x: self.row(x, shape))
        self.names[key] = name = f"w_{next(self.count)}"
        self.top.append(f"const {kind.value} {name} = {value};")
        return name


class Loop:
    """Lines of a loop over the elements of a row."""

    def __init__(self, index: str) -> None:
        self.index = index
        self.lines: list[str] = []
        self.names: dict[object, str] = {}

    def name(self, key: object, dtype: Any, value: Callable[[], str], load: bool = False) -> str:
        """Return the name of a value that is computed, or loaded, once in a turn of the loop."""
        if key not in self.names:
            kind, text = c_type(dtype), value()
            self.names[key] = name = f"v{len(self.names)}"
            self.lines.append(f"const {kind.value} {name} = {kind.load.format(text) if load else text};")
        return self.names[key]

    def text(self, lanes: int) -> str:
        """Return the loop."""
        lines = "\n      ".join(self.lines)
        return f"for ({self.index} j = lane; j < end; j += {lanes}) {{\n      {lines}\n    }}"


def _names(name: str, sizes: Sequence[int]) -> list[str]:
    return [f"{name}{k}" for k in range(len(sizes))]


def _digit(index: str, sizes: str, k: int, axes: int) -> str:
    """Return the number along one axis of an element's number in row-major order."""
    inner = " * ".join(f"{sizes}{i}" for i in range(k + 1, axes))
    text = f"({index} / ({inner}))" if inner else index
    return f"({text} % {sizes}{k})" if k else text


def _contiguous(shape: Shape) -> list[int]:
    return [0 if n == 1 else prod(shape[i + 1 :]) for i, n in enumerate(shape)]


def _merged(sizes: list[int], strides: list[list[int]]) -> tuple[list[int], list[list[int]]]:
    """Return axes without those of length one, and neighbours as one axis where they are one for all arrays."""
    out: list[int] = []
    found: list[list[int]] = [[] for _ in strides]
    for i, n in enumerate(sizes):
        if n == 1:
            continue
        joined = bool(out) and all(mine[-1] == s[i] * n for mine, s in zip(found, strides, strict=True))
        out = [*out[:-1], out[-1] * n] if joined else [*out, n]
        for mine, s in zip(found, strides, strict=True):
            mine[len(mine) - joined :] = [s[i]]
    return out, found
