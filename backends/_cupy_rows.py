"""The CUDA text of a run over rows: softmax, layer norm and what stands around them, in one kernel.

A group of threads (up to a block) computes a row and keeps its elements in registers; a reduction within the row goes
through shuffles and shared memory, always in the same order. Sums over the rows are added up by each thread for its
columns, and the blocks' partial results by a second kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

from tapegrad.backends import _cupy_access as mem
from tapegrad.backends import _cupy_kernels as k
from tapegrad.backends import _cupy_reductions as red
from tapegrad.backends._cupy_types import converted, ctype
from tapegrad.backends._items import is_total

LONGEST = 32768  # elements of a row: 32 registers for each value that stays


class Rows:
    """What a run computes, in terms of rows: made of nodes that `fits` accepted."""

    def __init__(self, lead: mem.Shape, nodes: list[Any], outs: list[Any]) -> None:
        self.lead, self.nodes, self.outs = lead, nodes, outs
        self.rows = prod(lead)
        self.made = {v for node in nodes for v in node.outs}
        self.totals = [n for n in nodes if is_total(n)]
        self.ends = {n.outs[0] for n in self.totals}
        inside = [v for v in self.made if v not in self.ends]
        inside += [n.args[0] for n in nodes if n.kind == "reduction"]
        self.length = max([self.size(v) for v in inside], default=1)
        self.level: dict[Any, int] = {}
        for n in nodes:
            below = max([self.level.get(v, 0) for v in n.values()], default=0)
            self.level[n.outs[0]] = below + self.crosses(n)

    def size(self, v: Any) -> int:
        """Return how many elements of a value are in a row."""
        return prod(v.shape[len(self.lead) :])

    def crosses(self, node: Any) -> bool:
        """Say whether a node combines the elements of a row."""
        return node.kind == "reduction" and not is_total(node) and self.size(node.args[0]) > 1

    def inner(self, v: Any) -> mem.Shape:
        """Return the shape of a row of a value."""
        return tuple(v.shape[len(self.lead) :])

    def fits(self, number: Callable[[Any], Any]) -> bool:
        """Say whether there is a kernel for these nodes."""
        if self.length > LONGEST or self.rows == 0 or self.length == 0:
            return False
        sizes = {1, self.length}
        for n in self.nodes:
            v = n.outs[0]
            if v in self.ends:
                x = n.args[0]
                kept = prod(v.shape)
                if self.size(x) not in sizes or kept not in (1, self.size(x)) or not self.reads(x):
                    return False
            elif self.size(v) not in sizes:
                return False
            if n.kind == "reduction":
                x = n.args[0]
                whole = n in self.totals or self.size(v) == 1
                if self.size(x) not in sizes or not whole or not red.can_reduce(n.op, x.dtype, v.dtype):
                    return False
            elif n.kind == "view":
                if n.args[0] not in self.made:
                    return False
            elif not k.can_compute(n, number) or not all(self.reads(x, self.size(v)) for x in n.values()):
                return False
            if any(x in self.ends for x in n.values()):
                return False
        return True

    def reads(self, x: Any, size: int = 0) -> bool:
        """Say whether an operand made here has one element a row, or as many as its reader."""
        return x not in self.made or self.size(x) == 1 or not size or self.size(x) == size

    def single(self) -> bool:
        """Say whether the run is elementwise, all of one size, but for reductions of everything at its end."""
        inner = [n for n in self.nodes if n not in self.totals]
        whole = all(prod(n.outs[0].shape) == 1 and self.size(n.args[0]) == self.length for n in self.totals)
        return whole and all(n.kind != "reduction" and self.size(n.outs[0]) == self.length for n in inner)


def group(length: int) -> int:
    """Return how many threads compute a row: up to 8 elements each, if possible."""
    power = 1
    while power < length:
        power *= 2
    return min(1024, power if power <= 32 else max(32, power // 8))


def kernel(name: str, run: Rows, places: k.Places, early: set[Any]) -> k.Kernel:
    """Return the kernel of a run; early: values that it may write over, to be read before anything is written."""
    return _Writer(name, run, places).kernel(early)


class _Writer:
    """Writes one kernel: per level of reductions, what is done once a row, then a loop over the row's elements."""

    def __init__(self, name: str, run: Rows, places: k.Places) -> None:
        self.name, self.run, self.places = name, run, places
        self.text = k.Text(places)
        self.lanes = group(run.length)
        self.block = 128 if self.lanes <= 32 else self.lanes
        self.each = -(-run.length // self.lanes)
        self.declared: list[str] = []  # arrays of registers, by element
        levels = max(run.level.values()) + 1
        self.once: list[list[str]] = [[] for _ in range(levels)]
        self.loop: list[list[str]] = [[] for _ in range(levels)]
        self.after: list[list[str]] = [[] for _ in range(levels)]
        self.shared: list[str] = []
        self.start: list[str] = []
        self.end: list[str] = []
        self.partials: list[tuple[Any, mem.Shape]] = []
        self.then: list[tuple[int, k.Kernel]] = []
        self.after_loop: set[Any] = set()  # reductions over a row
        blocks = -(-run.rows * self.lanes // self.block)
        self.grid = min(blocks, 512) if run.totals else blocks

    def kernel(self, early: set[Any]) -> k.Kernel:
        run = self.run
        for n in run.nodes:
            for v in n.values():
                if v in early and v not in run.made:
                    self.name_of(v, run.inner(v), 0)
        for n in sorted(run.nodes, key=lambda n: run.level[n.outs[0]] - run.crosses(n) / 2):
            level = run.level[n.outs[0]]
            if n.kind == "view":
                self.text.names[n.outs[0]] = self.text.names[n.args[0]]
            elif n in run.totals:
                self._total(n, level)
            elif n.kind == "reduction":
                self._reduction(n, level)
            else:
                self._elementwise(n, level)
            v = n.outs[0]
            if v in run.outs and v not in run.ends:
                self._store(v, level)
        return self._assembled()

    def name_of(self, v: Any, inner: mem.Shape, level: int) -> str:
        """Return the text that reads an operand, loaded where it is first needed."""
        if v in self.text.names:
            return self.text.names[v]
        run = self.run
        layout = self.places.layout(v)
        depth = len(run.lead)
        strides = mem.aligned(layout, (*run.lead, *inner))
        rowwise, within = strides[:depth], strides[depth:]
        at = mem.offset(inner, within, "j")
        row = mem.offset(run.lead, rowwise, "row")
        key = v, row, at
        if key in self.text.names:
            return self.text.names[key]
        kind = ctype(v.dtype)
        assert kind is not None
        place = f"{self.text.pointer(v)}[{' + '.join(x for x in (row, at) if x != '0') or '0'}]"
        name = f"x{len(self.text.names)}"
        if at == "0":
            self.once[0].append(f"const {kind.value} {name} = live ? {kind.load.format(place)} : ({kind.value})0;")
            self.text.names[key] = name
        else:
            self.declared.append(f"{kind.value} {name}[{self.each}];")
            self.loop[level].append(f"{name}[e] = {kind.load.format(place)};")
            self.text.names[key] = f"{name}[e]"
        return self.text.names[key]

    def _elementwise(self, n: Any, level: int) -> None:
        v = n.outs[0]
        kind = ctype(v.dtype)
        assert kind is not None
        inner = self.run.inner(v)
        value = self.text.expression(n, partial(self.name_of, inner=inner, level=level))
        name = f"v{len(self.text.names)}"
        if self.run.size(v) == 1 and self.run.length > 1:
            self.once[level].append(f"const {kind.value} {name} = {value};")
            self.text.names[v] = name
        else:
            self.declared.append(f"{kind.value} {name}[{self.each}];")
            self.loop[level].append(f"{name}[e] = {value};")
            self.text.names[v] = f"{name}[e]"

    def _source(self, n: Any, level: int) -> tuple[str, bool]:
        """Return the text of what is reduced, in the accumulator's dtype, and whether it goes over the row."""
        x, v = n.args[0], n.outs[0]
        number = self.places.number(x)
        wide = self.run.size(x) == self.run.length and self.run.length > 1
        dtype = red.accumulator(n.op, v.dtype)[0]
        if number is not None:
            return self.text.operand(n.args[0], lambda _: "")[0], wide
        name = self.name_of(x, self.run.inner(x), level)
        return converted(name, x.dtype, dtype), wide or name.endswith("[e]")

    def _reduction(self, n: Any, level: int) -> None:
        v = n.outs[0]
        dtype, kind = red.accumulator(n.op, v.dtype)
        below = level - self.run.crosses(n)
        source = self._source(n, below)[0]
        name = f"v{len(self.text.names)}"
        self.text.names[v] = name
        count = self.run.size(n.args[0])
        final = red.finished(n.op, v.dtype, f"c_{name}" if self.run.crosses(n) else f"({kind.value})({source})", count)
        out = ctype(v.dtype)
        assert out is not None
        if not self.run.crosses(n):
            if source.find("[e]") < 0:
                self.once[level].append(f"const {out.value} {name} = {final};")
            else:  # rows of one element
                self.declared.append(f"{out.value} {name}[1];")
                self.loop[level].append(f"{name}[e] = {final};")
                self.text.names[v] = f"{name}[e]"
            return
        self.after_loop.add(v)
        both = red.combine(n.op, dtype, f"c_{name}", source)
        self.once[below].append(f"{kind.value} c_{name} = {red.identity(n.op, dtype)};")
        self.loop[below].append(f"c_{name} = {both};")
        width = min(self.lanes, 32)
        if width > 1:
            self.after[below].append(
                f"for (int o = {width // 2}; o > 0; o >>= 1) {{ const {kind.value} t = tg_shfl(c_{name}, o, {width}); "
                f"c_{name} = {red.combine(n.op, dtype, f'c_{name}', 't')}; }}"
            )
        if self.lanes > 32:
            warps = self.lanes // 32
            self.shared.append(f"__shared__ {kind.value} s_{name}[{warps}];")
            self.after[below].append(
                f"if (lane % 32 == 0) s_{name}[lane / 32] = c_{name};\n    __syncthreads();\n    "
                f"c_{name} = s_{name}[0];\n    "
                f"for (int w = 1; w < {warps}; ++w) c_{name} = {red.combine(n.op, dtype, f'c_{name}', f's_{name}[w]')};"
            )
        self.after[below].append(f"const {out.value} {name} = {final};")

    def _total(self, n: Any, level: int) -> None:
        v = n.outs[0]
        dtype, kind = red.accumulator(n.op, v.dtype)
        source, wide = self._source(n, level)
        columns = self.run.length if wide and prod(v.shape) > 1 else 1
        name = f"t{len(self.partials)}"
        number = len(self.partials)
        if columns > 1:
            self.start.append(f"{kind.value} {name}[{self.each}];\n  #pragma unroll")
            self.start.append(f"for (int e = 0; e < {self.each}; ++e) {name}[e] = {red.identity(n.op, dtype)};")
            self.loop[level].append(f"{name}[e] = {red.combine(n.op, dtype, f'{name}[e]', source)};")
            self._columns(name, number, n.op, dtype, kind)
        else:
            self.start.append(f"{kind.value} {name} = {red.identity(n.op, dtype)};")
            step = f"{name} = {red.combine(n.op, dtype, name, source)};"
            if wide:
                self.loop[level].append(step)
            else:
                self.once[level].append(f"if (live && lane == 0) {step}")
            self.end.append("{ " + "\n ".join(red.over_block([red.Partial(name, n.op, dtype)], self.block)) + "\n }")
            self.end.append(f"if (threadIdx.x == 0) p{number}[blockIdx.x] = {kind.store.format(name)};")
        self.partials.append((dtype, (self.grid, columns)))
        self.then.append((number, k.finish(f"{self.name}_{number}", n, self.grid, columns, n.args[0].size // v.size)))

    def _columns(self, name: str, number: int, op: str, dtype: Any, kind: Any) -> None:
        """Write a block's sums of columns, those of its groups added in order."""
        length, groups = self.run.length, self.block // self.lanes
        each = f"#pragma unroll\n  for (int e = 0; e < {self.each}; ++e) {{ const int j = lane + e * {self.lanes}; "
        if groups == 1:
            result = kind.store.format(f"{name}[e]")
            self.end.append(f"{each}if (j < {length}) p{number}[blockIdx.x * {length} + j] = {result}; }}")
            return
        self.shared.append(f"__shared__ {kind.value} s_{name}[{groups * length}];")
        self.end.append(
            f"{each}if (j < {length}) s_{name}[member * {length} + j] = {name}[e]; }}\n  __syncthreads();\n  "
            f"for (int j = threadIdx.x; j < {length}; j += {self.block}) {{\n    {kind.value} c = s_{name}[j];\n    "
            f"for (int g = 1; g < {groups}; ++g) "
            f"c = {red.combine(op, dtype, 'c', f's_{name}[g * {length} + j]')};\n    "
            f"p{number}[blockIdx.x * {length} + j] = {kind.store.format('c')};\n  }}"
        )

    def _store(self, v: Any, level: int) -> None:
        kind = ctype(v.dtype)
        assert kind is not None
        name = self.text.names[v]
        to = f"r{len(self.text.writes)}"
        self.text.writes.append(v)
        size = self.run.size(v)
        row = f"row * {size}" if size > 1 else "row"
        if name.endswith("[e]"):
            self.loop[level].append(f"{to}[{row} + j] = {kind.store.format(name)};")
        else:
            lines = self.after[level - 1] if v in self.after_loop else self.once[level]
            lines.append(f"if (live && lane == 0) {to}[row] = {kind.store.format(name)};")

    def _assembled(self) -> k.Kernel:
        run = self.run
        layouts = [self.places.layout(v) for v in self.text.reads]
        index = mem.index_type(layouts, run.rows * max(run.length, 1))
        groups = self.block // self.lanes
        body = [f"const int lane = threadIdx.x % {self.lanes}, member = threadIdx.x / {self.lanes};"]
        body += [*self.shared, *self.start]
        inside = [f"const {index} row = first + member; const bool live = row < {run.rows};", *self.declared]
        each = f"#pragma unroll\n    for (int e = 0; e < {self.each}; ++e) {{ const int j = lane + e * {self.lanes};"
        for once, loop, after in zip(self.once, self.loop, self.after, strict=True):
            inside += once
            if loop:
                inside.append(f"{each} if (live && j < {run.length}) {{\n      " + "\n      ".join(loop) + "\n    } }")
            inside += after
        if self.lanes > 32:
            inside.append("__syncthreads();")
        start = f"{index} first = ({index})blockIdx.x * {groups}"
        turns = f"for ({start}; first < {run.rows}; first += {self.grid * groups}) {{"
        text = "\n  ".join(body) + f"\n  {turns}\n    " + "\n    ".join(inside) + "\n  }\n"
        text += "".join(f"  {line}\n" for line in self.end)
        head = self.text.signature(self.name, [d for d, _ in self.partials], self.block, set(self.text.reads))
        return k.Kernel(self.name, f"{head} {{\n  {text}}}\n", self.grid, self.block, self.text.reads,
                        self.text.writes, self.partials, self.then)  # fmt: skip
