"""The CUDA text of fused operations: one kernel for a group of elementwise ones, one for a run over rows.

Pure text from values, nodes and strides: deterministic, so that CuPy's cache of compiled kernels finds it again, and
made without CuPy. A sum has one order, whatever the device: blocks write partial results that a second kernel adds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tapegrad.backends._cupy_ops import expression
from tapegrad.backends._cupy_types import CType, converted, ctype, literal
from tapegrad.backends._items import is_value

THREADS = 256
UNROLL = 4  # elements a thread of an elementwise kernel computes, where there are many
MANY = 1 << 20  # elements
BLOCKS = 512  # at most, of a kernel that ends in partial results: the same on every device

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """How an array lies in memory: strides in elements."""

    shape: Shape
    strides: tuple[int, ...]


class Kernel(NamedTuple):
    """A kernel: text, launch, and the arrays it takes: `reads`, then `writes`, then one for each of `partials`.

    partials: (dtype, shape) of scratch arrays; then: kernels to launch after it, each with the number of its partial.
    """

    name: str
    source: str
    grid: int
    block: int
    reads: list[Any]
    writes: list[Any]
    partials: list[tuple[Any, Shape]]
    then: list[tuple[int, Kernel]]


class Places(NamedTuple):
    """What kernels are told of values: layouts of those in memory, the number that a constant is everywhere or None."""

    layout: Callable[[Any], Layout]
    number: Callable[[Any], Any]


# -- indices ---------------------------------------------------------------------------------------------


def aligned(layout: Layout, shape: Shape) -> tuple[int, ...]:
    """Return the strides by which an array is read as one of a shape that it broadcasts to."""
    pad = len(shape) - len(layout.shape)
    strides = [0 if n == 1 else s for n, s in zip(layout.shape, layout.strides, strict=True)]
    if pad < 0:  # leading axes of length one
        return tuple(strides[-pad:])
    return (0,) * pad + tuple(strides)


def offset(shape: Shape, strides: tuple[int, ...], index: str) -> str:
    """Return the place of an element in memory, from its number in row-major order."""
    axes: list[tuple[int, int]] = []
    for n, s in zip(shape, strides, strict=True):
        if n == 1:
            continue
        if axes and axes[-1][1] == s * n:
            axes[-1] = (axes[-1][0] * n, s)
        else:
            axes.append((n, s))
    terms = []
    inner = 1
    for i, (n, s) in reversed(list(enumerate(axes))):
        if s:
            at = index if inner == 1 else f"({index} / {inner})"
            at = at if i == 0 else f"({at} % {n})"
            terms.append(at if s == 1 else f"{at} * {s}")
        inner *= n
    return " + ".join(reversed(terms)) or "0"


def index_type(layouts: list[Layout], n: int) -> str:
    """Return the C type in which all indices fit."""
    reach = [sum((k - 1) * abs(s) for k, s in zip(a.shape, a.strides, strict=True)) for a in layouts]
    return "int" if max([n, *reach], default=0) < 2**31 - THREADS * BLOCKS * UNROLL else "long long"


# -- reductions ------------------------------------------------------------------------------------------

_REDUCTIONS = {
    "sum": ("({T})0", "({0} + {1})"),
    "mean": ("({T})0", "({0} + {1})"),
    "prod": ("({T})1", "({0} * {1})"),
    "max": ("", "tg_max<{T}>({0}, {1})"),
    "min": ("", "tg_min<{T}>({0}, {1})"),
    "any": ("false", "({0} || {1})"),
    "all": ("true", "({0} && {1})"),
}
_LIMITS = {"signed char": 7, "short": 15, "int": 31, "long long": 63}


def accumulator(op: str, out: Any) -> tuple[Any, CType]:
    """Return the dtype, and C type, that a reduction to a dtype is summed up in."""
    dtype = np.dtype(np.float32) if np.dtype(out).name in ("float16", "bfloat16") else np.dtype(out)
    kind = ctype(dtype)
    assert kind is not None
    return dtype, kind


def identity(op: str, out: Any) -> str:
    """Return what a reduction starts from."""
    kind = accumulator(op, out)[1]
    if op not in ("max", "min"):
        return _REDUCTIONS[op][0].format(T=kind.value)
    low = op == "max"
    if kind.kind in "fd":
        return f"(-TG_INF_{kind.kind})" if low else f"TG_INF_{kind.kind}"
    if kind.kind == "b":
        return "false" if low else "true"
    if kind.kind == "u":
        return "0" if low else f"(({kind.value})-1)"
    edge = f"(({kind.value})(1ull << {_LIMITS[kind.value]}))"
    return edge if low else f"(({kind.value})~(1ull << {_LIMITS[kind.value]}))"


def combine(op: str, out: Any, a: str, b: str) -> str:
    """Return the C text of two partial results as one."""
    return _REDUCTIONS[op][1].format(a, b, T=accumulator(op, out)[1].value)


def finished(op: str, out: Any, text: str, count: int | str) -> str:
    """Return the result of a reduction of so many elements, a number or a name, from what they added up to."""
    kind = accumulator(op, out)[1]
    if op == "mean":
        text = f"({text} / ({kind.value}){count})"
    final = ctype(out)
    assert final is not None
    return final.rounded.format(text)


def can_reduce(op: str, source: Any, out: Any) -> bool:
    """Say whether generated code reduces one dtype to another."""
    a, b = ctype(source), ctype(out)
    if op not in _REDUCTIONS or a is None or b is None or (op == "mean" and b.kind not in "fd"):
        return False
    return b.kind != "b" or op in ("any", "all", "max", "min")


# -- one kernel for elementwise operations ---------------------------------------------------------------


class Text:
    """Lines of a kernel, and names for values and pointers in it."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.names: dict[Any, str] = {}  # a value that has been computed -> its variable
        self.reads: list[Any] = []
        self.writes: list[Any] = []

    def pointer(self, v: Any) -> str:
        """Return the name of the array that a value from outside is read from."""
        if v not in self.reads:
            self.reads.append(v)
        return f"a{self.reads.index(v)}"

    def operand(self, x: Any, name: Callable[[Any], str]) -> Any:
        """Return an operand as `expression` wants it."""
        if not is_value(x):
            return x
        number = self.places.number(x)
        if number is not None:
            return (literal(number, x.dtype), x.dtype)
        return (name(x), x.dtype)

    def expression(self, node: Any, name: Callable[[Any], str]) -> str:
        """Return the C text of an elementwise node."""
        args = node.args[:1] if node.op == "astype" else node.args
        text = expression(node.op, [self.operand(x, name) for x in args], node.outs[0].dtype)
        assert text is not None, node.op
        return text

    def signature(self, name: str, partials: list[Any], block: int) -> str:
        """Return the head of the kernel."""
        args = [f"const {_memory(v)}* a{i}" for i, v in enumerate(self.reads)]
        args += [f"{_memory(v)}* r{i}" for i, v in enumerate(self.writes)]
        args += [f"{accumulator('', d)[1].memory}* p{i}" for i, d in enumerate(partials)]
        return f'extern "C" __global__ void __launch_bounds__({block}) {name}({", ".join(args)})'


def _memory(v: Any) -> str:
    kind = ctype(v.dtype)
    assert kind is not None
    return kind.memory


def can_compute(node: Any, number: Callable[[Any], Any]) -> bool:
    """Say whether there is generated code for an elementwise node."""
    if (node.kwargs and node.op != "astype") or node.many or ctype(node.outs[0].dtype) is None:
        return False
    args = node.args[:1] if node.op == "astype" else node.args
    if node.op == "astype" and not is_value(args[0]):
        return False
    text = expression(node.op, [("x", x.dtype) if is_value(x) else x for x in args], node.outs[0].dtype)
    return text is not None


def flat(name: str, shape: Shape, nodes: list[Any], outs: list[Any], places: Places, totals: list[Any]) -> Kernel:
    """Return the kernel of elementwise nodes whose results all have as many elements as a shape.

    outs: the results that are written; totals: reductions over everything, of values of that size.
    """
    n = prod(shape)
    text = Text(places)
    loads: list[str] = []
    body: list[str] = []
    made = {v for node in nodes for v in node.outs}
    u = UNROLL if n >= MANY and not totals else 1

    def name_of(v: Any, shape: Shape) -> str:
        if v in text.names:
            return text.names[v]
        at = offset(shape, aligned(places.layout(v), shape), "i")
        if (v, at) not in text.names:
            kind = ctype(v.dtype)
            assert kind is not None
            text.names[v, at] = var = f"x{len(text.names)}"
            loads.append(f"{var}[u] = {kind.load.format(f'{text.pointer(v)}[{at}]')};")
            declared.append(f"{kind.value} {var}[{u}];")
        return text.names[v, at] + "[u]"

    declared: list[str] = []
    for node in nodes:
        if node.kind == "view":  # the same elements in the same order
            text.names[node.outs[0]] = text.names[node.args[0]]
            continue
        kind = ctype(node.outs[0].dtype)
        assert kind is not None
        value = text.expression(node, partial(name_of, shape=node.outs[0].shape))
        text.names[node.outs[0]] = var = f"v{len(text.names)}"
        body.append(f"{kind.value} {var} = {value};")
    for v in outs:
        assert v in made
        kind = ctype(v.dtype)
        assert kind is not None
        body.append(f"r{len(text.writes)}[i] = {kind.store.format(text.names[v])};")
        text.writes.append(v)
    accs: list[tuple[Any, Any, CType]] = []
    for t in totals:
        x = name_of(t.args[0], t.args[0].shape)
        dtype, kind = accumulator(t.op, t.outs[0].dtype)
        value = converted(x, t.args[0].dtype, dtype)
        body.append(f"c{len(accs)} = {combine(t.op, dtype, f'c{len(accs)}', value)};")
        accs.append((t, dtype, kind))
    index = index_type([places.layout(v) for v in text.reads], n)
    if not totals:
        grid = max(1, -(-n // (THREADS * u)))
        each = f"for (int u = 0; u < {u}; ++u) {{ const {index} i = start + u * {THREADS}; if (i < {n}) {{"
        loop = f"#pragma unroll\n  {each} "
        head = f"  const {index} start = ({index})blockIdx.x * {THREADS * u} + threadIdx.x;\n"
        steps = "  " + " ".join(declared) + "\n" + head
        if loads:
            steps += "  " + loop + "\n    " + "\n    ".join(loads) + "\n  } }\n"
        steps += "  " + loop + "\n    " + "\n    ".join(body) + "\n  } }\n"
    else:
        grid = max(1, min(BLOCKS, -(-n // (THREADS * UNROLL))))
        steps = "".join(f"  {k.value} c{i} = {identity(t.op, d)};\n" for i, (t, d, k) in enumerate(accs))
        steps += (
            f"  for ({index} i = ({index})blockIdx.x * {THREADS} + threadIdx.x; i < {n}; i += {grid * THREADS}) {{\n"
            "    const int u = 0; " + " ".join(declared) + "\n    " + "\n    ".join((*loads, *body)) + "\n  }\n"
        )
        for i, (t, d, k) in enumerate(accs):
            steps += block_reduced(f"c{i}", f"s{i}", t.op, d, k, THREADS)
            steps += f"  if (threadIdx.x == 0) p{i}[blockIdx.x] = {k.store.format(f's{i}[0]')};\n"
    head = text.signature(name, [d for _, d, _ in accs], THREADS)
    then = [(i, finish(f"{name}_{i}", t, grid, 1, n)) for i, (t, _, _) in enumerate(accs)]
    partials: list[tuple[Any, Shape]] = [(d, (grid,)) for _, d, _ in accs]
    return Kernel(name, f"{head} {{\n{steps}}}\n", grid, THREADS, text.reads, text.writes, partials, then)


def block_reduced(var: str, shared: str, op: str, dtype: Any, kind: CType, threads: int) -> str:
    """Return the text that combines a variable of all threads of a block, in a tree, into `shared[0]`."""
    both = combine(op, dtype, f"{shared}[threadIdx.x]", f"{shared}[threadIdx.x + o]")
    return (
        f"  __shared__ {kind.value} {shared}[{threads}];\n"
        f"  {shared}[threadIdx.x] = {var}; __syncthreads();\n"
        f"  for (int o = {threads // 2}; o > 0; o >>= 1) {{\n"
        f"    if (threadIdx.x < o) {shared}[threadIdx.x] = {both};\n"
        "    __syncthreads();\n  }\n"
    )


def finish(name: str, node: Any, rows: int, columns: int, count: int) -> Kernel:
    """Return the kernel that combines the partial results of blocks, an array (rows, columns), into a reduction's."""
    v = node.outs[0]
    dtype, kind = accumulator(node.op, v.dtype)
    out = ctype(v.dtype)
    assert out is not None
    wide = 1
    while wide < min(32, columns):
        wide *= 2
    high = THREADS // wide
    both = combine(node.op, dtype, "c", kind.load.format(f"p0[(long long)r * {columns} + column]"))
    tree = combine(node.op, dtype, "s[threadIdx.x]", f"s[threadIdx.x + o * {wide}]")
    result = out.store.format(finished(node.op, v.dtype, "s[threadIdx.x]", count))
    head = f'extern "C" __global__ void __launch_bounds__({THREADS}) {name}({out.memory}* r0, const {kind.memory}* p0)'
    source = f"""{head} {{
  const int y = threadIdx.x / {wide}, column = blockIdx.x * {wide} + threadIdx.x % {wide};
  {kind.value} c = {identity(node.op, dtype)};
  if (column < {columns}) for (int r = y; r < {rows}; r += {high}) c = {both};
  __shared__ {kind.value} s[{THREADS}];
  s[threadIdx.x] = c; __syncthreads();
  for (int o = {high // 2}; o > 0; o >>= 1) {{
    if (y < o) s[threadIdx.x] = {tree};
    __syncthreads();
  }}
  if (y == 0 && column < {columns}) r0[column] = {result};
}}
"""
    return Kernel(name, source, -(-columns // wide), THREADS, [], [v], [(dtype, (rows, columns))], [])
