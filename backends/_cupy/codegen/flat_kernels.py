"""The CUDA text of flat kernels: a group of elementwise operations of one size, or many such groups of one form.

The text depends on nodes, shapes and strides alone: CuPy's cache of compiled kernels finds it again. A thread loads all
its operands before it stores a result. So a result may be written over an operand that is read at the same places.

The kernel of `y = exp(x) * 2`, y of 1024 float32, with four elements a thread:

    extern "C" __global__ void k(const float* __restrict__ a0, float* __restrict__ r0) {
      const int i = ((int)blockIdx.x * 256 + threadIdx.x) * 4;
      float x0[4]; float y0[4];
      { const tg_pack<float, 4> q = *(const tg_pack<float, 4>*)&a0[i]; TG_EACH(w, 4) x0[w] = q.v[w]; }     loads
      TG_EACH(w, 4) { const float v1 = expf(x0[w]); const float v2 = (v1 * 2.0f); y0[w] = v2; }            arithmetic
      { tg_pack<float, 4> q; TG_EACH(w, 4) q.v[w] = y0[w]; *(tg_pack<float, 4>*)&r0[i] = q; }              stores
    }
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tapegrad._program.ir import Node, Value
from tapegrad.backends._cupy.codegen import memory_access as memory
from tapegrad.backends._cupy.codegen.cuda_types import c_type, converted, ctype, literal
from tapegrad.backends._cupy.codegen.expressions import Number, Operand, expression
from tapegrad.backends._cupy.codegen.final_reductions import Finish
from tapegrad.backends._cupy.codegen.memory_access import Access, Layout, Shape
from tapegrad.backends._cupy.codegen.reductions import Partial, accumulator, combine, neutral, over_block

THREADS = 256
RESIDENT = 1 << 18  # threads at most of a kernel that ends in partial results: an H100's, the same on every device
TURNS = 4  # turns at least that such a thread takes, where fewer threads can do
REGISTERS = 96  # of a thread, at most, for operands and results of elementwise kernels
CHUNK = 16  # elements of a thread of a kernel for many arrays


class Kernel(NamedTuple):
    """A kernel: text, launch, and the arrays it takes: `reads`, then `writes`, then one for each of `unfinished`.

    unfinished: reductions of which it writes the partial results of its blocks.
    """

    name: str
    source: str
    grid: int
    block: int
    reads: list[Value]
    writes: list[Value]
    unfinished: list[Finish]


class Numbers:
    """The numbers that constants are everywhere, read from the device once."""

    def __init__(self) -> None:
        self.known: dict[Value, Any] = {}

    def __call__(self, v: Value) -> Any:
        """Return the Python number that a value is everywhere, None if it is not known to be one."""
        scalar = v if v.uniform is None else v.uniform
        if scalar.constant is None or scalar.shape != () or ctype(v.dtype) is None:
            return None
        if scalar not in self.known:
            self.known[scalar] = scalar.constant.item()
        return self.known[scalar]


class Places(NamedTuple):
    """Facts about values that the text of a kernel depends on.

    layout: of operands, and of results, which are contiguous; number: that a constant is everywhere, or None; counts:
    whether a constant is 0, 1, 2 and so on.
    """

    layout: Callable[[Value], Layout]
    number: Callable[[Value], Any]
    counts: Callable[[Value], bool] = lambda v: False


class Text:
    """Names of values and pointers in a kernel."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.names: dict[object, str] = {}  # a value that has been computed -> its variable
        self.reads: list[Value] = []
        self.writes: list[Value] = []

    def pointer(self, v: Value) -> str:
        """Return the name of the array that a value from outside is read from."""
        if v not in self.reads:
            self.reads.append(v)
        return f"a{self.reads.index(v)}"

    def write(self, v: Value, name: str, slot: str, place: str, width: int) -> str:
        """Return the statement that writes registers `name[slot]` to a result."""
        array = f"r{len(self.writes)}"
        self.writes.append(v)
        packed = memory.packs(self.places.layout(v).alignment, width, v.dtype.itemsize)
        return memory.store(name, slot, c_type(v.dtype), array, place, width, packed)

    def operand(self, x: Value | Number, name: Callable[[Value], str]) -> Operand:
        """Return an operand as `expression` wants it."""
        if not isinstance(x, Value):
            return x
        number = self.places.number(x)
        if number is not None:
            return (literal(number, x.dtype), x.dtype)
        return (name(x), x.dtype)

    def expression(self, node: Node, name: Callable[[Value], str]) -> str:
        """Return the C text of an elementwise node."""
        args = node.args[:1] if node.op == "astype" else node.args
        text = expression(node.op, [self.operand(x, name) for x in args], node.outs[0].dtype)
        assert text is not None, node.op
        return text

    def signature(self, name: str, partials: list[Any], block: int, early: Collection[Value] = ()) -> str:
        """Return the head of the kernel; early: operands that results may be written over.

        Those and the results are not `__restrict__`: it promises that no other pointer writes an element that is read.
        """
        alone = not any(v in early for v in self.reads)
        args = [
            f"const {c_type(v.dtype).memory}*{'' if v in early else ' __restrict__'} a{i}"
            for i, v in enumerate(self.reads)
        ]
        args += [f"{c_type(v.dtype).memory}*{' __restrict__' if alone else ''} r{i}" for i, v in enumerate(self.writes)]
        args += [f"{accumulator('', d)[1].memory}* __restrict__ p{i}" for i, d in enumerate(partials)]
        # One block a multiprocessor is enough: without that bound ptxas spills a few registers to fit more.
        return f'extern "C" __global__ void __launch_bounds__({block}, 1) {name}({", ".join(args)})'


def can_compute(node: Node, number: Callable[[Value], Any]) -> bool:
    """Say whether there is generated code for an elementwise node."""
    if (node.kwargs and node.op != "astype") or node.many or ctype(node.outs[0].dtype) is None:
        return False
    args = node.args[:1] if node.op == "astype" else node.args
    if node.op == "astype" and not isinstance(args[0], Value):
        return False
    text = expression(node.op, [("x", x.dtype) if isinstance(x, Value) else x for x in args], node.outs[0].dtype)
    return text is not None


class _Elements:
    """The text for `width` elements from number `i` on, of elementwise nodes whose results have as many elements.

    once: loads of operands that are the same everywhere; loads: the others; lines: of element `w` of the registers.
    """

    def __init__(self, nodes: list[Node], outs: list[Value], places: Places, width: int) -> None:
        self.text, self.width = Text(places), width
        self.once: list[str] = []
        self.declared: list[str] = []
        self.loads: list[str] = []
        self.lines: list[str] = []
        self.stores: list[str] = []
        # Arithmetic in the nodes' order; an operand's load is added when the first node reads it.
        for node in nodes:
            if node.kind == "view":  # the same elements in the same order
                self.text.names[node.outs[0]] = self.text.names[node.args[0]]
                continue
            kind = c_type(node.outs[0].dtype)
            value = self.text.expression(node, partial(self.name_of, shape=node.outs[0].shape))
            self.text.names[node.outs[0]] = var = f"v{len(self.text.names)}"
            self.lines.append(f"const {kind.value} {var} = {value};")
        # Results go to registers of their own, which are stored when all operands have been loaded.
        for v in outs:
            name = f"y{len(self.text.writes)}"
            self.declared.append(f"{c_type(v.dtype).value} {name}[{width}];")
            self.lines.append(f"{name}[w] = {self.text.names[v]};")
            self.stores.append(self.text.write(v, name, "w", "i", width))

    def access(self, v: Value, shape: Shape) -> Access:
        """Return how the elements of an operand of a node with a shape are read."""
        layout = self.text.places.layout(v)
        return memory.access(layout, shape, memory.aligned(layout, shape), "i", self.width, v.dtype.itemsize)

    def name_of(self, v: Value, shape: Shape) -> str:
        """Return the text that reads an operand."""
        if v in self.text.names:
            return self.text.names[v]
        at = self.access(v, shape)
        if (v, at) not in self.text.names:
            kind, array = c_type(v.dtype), self.text.pointer(v)
            name = f"x{len(self.text.names)}"
            if at.at == "0":
                self.once.append(f"const {kind.value} {name} = {kind.load.format(f'{array}[0]')};")
                self.text.names[v, at] = name
            else:
                self.declared.append(f"{kind.value} {name}[{self.width}];")
                self.loads.append(memory.load(name, "w", kind, array, at, "0", self.width))
                self.text.names[v, at] = f"{name}[w]"
        return self.text.names[v, at]

    def steps(self) -> list[str]:
        """Return the statements: all loads, then the arithmetic, then all stores."""
        return [*self.declared, *self.loads, f"TG_EACH(w, {self.width}) {{ {' '.join(self.lines)} }}", *self.stores]


def _lines(lines: list[str], depth: int = 1) -> str:
    return "".join("  " * depth + line + "\n" for line in lines)


def _width(count: int, n: int, nodes: list[Node], outs: list[Value]) -> int:
    """Return how many elements, a divisor of `count`, a thread computes at once where values have `n`."""
    made = {v for node in nodes for v in node.outs}
    read = dict.fromkeys(x for node in nodes for x in node.values() if x not in made)
    sizes = [v.dtype.itemsize for v in (*outs, *read) if v.size == n]
    # The widest loads, halved until operands and results fit into a thread's registers.
    width = memory.width_of(count, sizes)
    while width > 1 and width * sum(-(-size // 4) for size in sizes) > REGISTERS:
        width //= 2
    return width


def flat(
    name: str,
    shape: Shape,
    nodes: list[Node],
    outs: list[Value],
    places: Places,
    totals: list[Node],
    early: Collection[Value] = (),
) -> Kernel:
    """Return the kernel of elementwise nodes whose results all have as many elements as a shape.

    outs: the results that are written; totals: reductions over everything, of values of that size; early: operands that
    results may be written over.
    """
    n = prod(shape)
    width = _width(n, n, [*nodes, *totals], outs)
    body = _Elements(nodes, outs, places, width)
    # Reductions of everything: a thread combines its elements in order, then the block; see `final_reductions`.
    partials: list[Partial] = []
    for i, t in enumerate(totals):
        x = t.args[0]
        dtype = accumulator(t.op, t.outs[0].dtype)[0]
        value = converted(body.name_of(x, x.shape), x.dtype, dtype)
        body.lines.append(f"c{i} = {combine(t.op, dtype, f'c{i}', value)};")
        partials.append(Partial(f"c{i}", t.op, dtype))
    # 32-bit indices where they reach every element, as they take half the registers.
    index = memory.index_type([places.layout(v) for v in body.text.reads], n)
    first = f"(({index})blockIdx.x * {THREADS} + threadIdx.x) * {width}"
    steps = _lines(body.once)
    # Without reductions a thread computes once. With them there are few threads, of several turns each, so that there
    # are few partial results.
    if not totals:
        grid = max(1, -(-n // (THREADS * width)))
        steps += f"  const {index} i = {first};\n"
        if n % (THREADS * width):
            steps += f"  if (i >= {n}) return;\n"
        steps += _lines(body.steps())
    else:
        grid = max(1, min(RESIDENT // THREADS, -(-n // (THREADS * width * TURNS))))
        steps += _lines([f"{p.kind.value} {p.name} = {neutral(p.op, p.dtype)};" for p in partials])
        steps += f"  for ({index} i = {first}; i < {n}; i += {grid * THREADS * width}) {{\n"
        steps += _lines(body.steps(), 2) + "  }\n"
        steps += _lines(over_block(partials, THREADS))
        puts = [f"p{i}[blockIdx.x] = {p.kind.store.format(p.name)};" for i, p in enumerate(partials)]
        steps += f"  if (threadIdx.x == 0) {{ {' '.join(puts)} }}\n"
    head = body.text.signature(name, [p.dtype for p in partials], THREADS, early)
    reads, writes = body.text.reads, body.text.writes
    unfinished = [Finish(t, grid, 1) for t in totals]
    return Kernel(name, f"{head} {{\n{steps}}}\n", grid, THREADS, reads, writes, unfinished)


# -- one kernel for many arrays ----------------------------------------------------------------------------


class Group(NamedTuple):
    """Elementwise nodes whose results have as many elements as a shape, and the results that are written."""

    shape: Shape
    nodes: list[Node]
    outs: list[Value]


class Multi(NamedTuple):
    """A kernel that computes groups of one form; it takes one array, the table.

    members: for each group its number of elements, then the values whose addresses are in the table: those read, those
    written.
    """

    kernel: Kernel
    members: list[tuple[int, list[Value]]]

    def table(self, address: Callable[[Value], int]) -> np.ndarray[Any, Any]:
        """Return the table: where members begin, (member, first element) of each block, (size, addresses) of each."""
        chunk = self.kernel.block * CHUNK
        blocks = [(m, at) for m, (n, _) in enumerate(self.members) for at in range(0, n, chunk)]
        rows = [x for n, values in self.members for x in (n, *map(address, values))]
        table = [1 + 2 * len(blocks), *[x for block in blocks for x in block], *rows]
        return np.asarray(table, dtype=np.uint64).view(np.int64)


def form(group: Group, places: Places) -> str | None:
    """Return a text that groups which one kernel of `multi` can compute have in common, None where there is none.

    Operands are as large as the results and contiguous, or have one element; arrays are aligned to packs.
    """
    # One element a thread: the text is the same whatever the number of elements.
    body = _Elements(group.nodes, group.outs, places, 1)
    shapes = {x: node.outs[0].shape for node in group.nodes for x in node.values()}
    for v in body.text.reads:
        if body.access(v, shapes[v]).at not in ("i", "0"):
            return None
    wide = [v for v in (*body.text.reads, *body.text.writes) if v.size > 1]
    if any(places.layout(v).alignment % memory.PACK for v in wide):
        return None
    types = [f"{c_type(v.dtype)}" for v in (*body.text.reads, *body.text.writes)]
    return "\n".join([*types, *body.once, *body.steps()])


def multi(name: str, groups: list[Group], places: Places) -> Multi:
    """Return the kernel that computes groups of one `form`: for an optimiser's update of many parameters.

    A block computes a chunk of one group. Results may be written over operands.
    """
    chunk = THREADS * CHUNK
    first = groups[0]
    width = _width(chunk, prod(first.shape), first.nodes, first.outs)
    # Two bodies: packs of elements, and the rest of a chunk one by one.
    body, tail = (_Elements(first.nodes, first.outs, places, w) for w in (width, 1))
    members = []
    for g in groups:
        text = _Elements(g.nodes, g.outs, places, 1).text
        members.append((prod(g.shape), [*text.reads, *text.writes]))
    # The table: for each block its group and first element; for each group its size and the addresses of its arrays.
    arrays = [(f"a{i}", f"const {c_type(v.dtype).memory}*") for i, v in enumerate(body.text.reads)]
    arrays += [(f"r{i}", f"{c_type(v.dtype).memory}*") for i, v in enumerate(body.text.writes)]
    pointers = [f"{kind} {array} = ({kind})member[{i}];" for i, (array, kind) in enumerate(arrays, 1)]
    columns = 1 + len(pointers)
    steps = [
        "const long long* block = table + 1 + 2 * blockIdx.x;",
        f"const long long* member = table + table[0] + block[0] * {columns};",
        *pointers,
        *body.once,
        f"const long long stop = block[1] + {chunk} < member[0] ? block[1] + {chunk} : member[0];",
        f"const long long whole = stop - (stop - block[1]) % {width};",
        f"for (long long i = block[1] + threadIdx.x * {width}; i < whole; i += {THREADS * width}) {{",
        *body.steps(),
        "}",
    ]
    # The rest of a chunk, where its length is no multiple of the width.
    if width > 1:
        steps += [f"for (long long i = whole + threadIdx.x; i < stop; i += {THREADS}) {{", *tail.steps(), "}"]
    head = f'extern "C" __global__ void __launch_bounds__({THREADS}, 1) {name}(const long long* __restrict__ table)'
    grid = sum(-(-n // chunk) for n, _ in members)
    return Multi(Kernel(name, f"{head} {{\n{_lines(steps)}}}\n", grid, THREADS, [], [], []), members)
